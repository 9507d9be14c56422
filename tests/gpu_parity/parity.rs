// A GPU backend trains like the CPU backend, and its kernels compute what the reference bodies compute there.
// The including module says which backend: `Inner` and `KIND`.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use burn::{
    backend::Autodiff,
    tensor::{
        DType, Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use burn_flex::Flex;
use upcycle_data::{DataConfig, Dataset};
use upcycle_experiments::{BackendKind, engine};
use upcycle_kernels::{
    ExpertWeights, MoeBackend, Precision, RotaryAngles, SoftTargets, adamw::Update, reference,
};
use upcycle_lm::LmConfig;
use upcycle_train::{
    BatchConfig, DataSchedule, Engine, EvaluationConfig, MetricsLine, PassConfig, Schedule,
    StageCheckpoints, Start, TrainJob, TrainSpec, UpcycleJob, UpcycleSpec, read_metrics,
};

/// Losses of some steps of a small model, and of more steps after it has grown: with two-level selection, while that is
/// released, and after; each with the validation loss at the end.
fn losses(engine: &dyn Engine) -> Vec<f64> {
    let model = serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "d_ffn": 48, "pattern": { "list": [1] }, "experts": 8, "top_k": 2, "d_expert": 16,
    });
    let model: LmConfig = serde_json::from_value(model).unwrap();
    let mut spec = TrainSpec {
        schedule: Schedule {
            peak_lr: 3e-3,
            warmup_from: 0,
            warmup_steps: 3,
            decay_from: None,
            end: 8,
        },
        optimizer: Default::default(),
        batch: BatchConfig {
            rows: 2,
            context: 64,
            accumulation: 1,
        },
        data: DataSchedule {
            cpt_from: None,
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        evaluation: EvaluationConfig {
            every: 100,
            rows: 4,
            test_rows: 0,
        },
    };
    let dir = tempfile::tempdir().unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let train = |spec: &TrainSpec, start: Start, dir: &Path| -> Vec<f64> {
        let job = TrainJob {
            spec,
            start: &start,
            dir,
            data: &data,
            other_data: false,
            event_file: false,
            passes: PassConfig::default(),
            checkpoint_interval: Duration::from_secs(3600),
            cancelled: &AtomicBool::new(false),
            stop: &AtomicBool::new(false),
        };
        engine.train(&job, &mut |_| ()).unwrap();
        read_metrics(&dir.join("metrics.jsonl"))
            .unwrap()
            .iter()
            .map(|line| match line {
                MetricsLine::Step { loss, .. } | MetricsLine::Evaluation { loss, .. } => *loss,
            })
            .collect()
    };
    let start = Start::Initial {
        model: Box::new(model),
        seed: 0,
    };
    let (small, grown) = (dir.path().join("small"), dir.path().join("grown"));
    let mut losses = train(&spec, start, &small);

    let recipe = serde_json::json!({
        "name": "test",
        "selection": { "kind": "greedy", "score": "gradient-squared" },
        "router": {
            "kind": "two-level", "tie_break": "centroids", "strength": 0.3, "separation": 0.1,
            "release": { "shape": "linear", "over": 0.5 },
        },
        "optimizer": { "kind": "copy" },
    });
    let outcome = engine
        .upcycle(&UpcycleJob {
            spec: &UpcycleSpec {
                recipe: serde_json::from_value(recipe).unwrap(),
                target_experts: 12,
                seed: 0,
                evidence_batches: 2,
                data_seed: 0,
                batch: spec.batch.clone(),
                precision: Default::default(),
                evaluation_rows: 4,
            },
            from: &StageCheckpoints::new(&small).latest().unwrap(),
            to: Some(&grown),
            data: &data,
            stop: &AtomicBool::new(false),
        })
        .unwrap();
    assert!(outcome.verification.largest_logit_difference < 1e-3);
    spec.schedule.end = 16;
    losses.push(outcome.after.loss);
    losses.extend(train(&spec, Start::Checkpoint(grown), &dir.path().join("on")));
    losses
}

#[test]
fn losses_match_the_cpu() {
    assert_losses(engine(KIND).unwrap().as_ref());
}

fn assert_losses(gpu: &dyn Engine) {
    let (cpu, gpu) = (losses(engine(BackendKind::Cpu).unwrap().as_ref()), losses(gpu));
    assert_eq!(cpu.len(), 19);
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert!((cpu - gpu).abs() < 1e-3, "cpu {cpu}, gpu {gpu}");
    }
}

type Cpu = Autodiff<Flex>;
type Gpu = Autodiff<Inner>;

/// Reproducible values.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn floats<const D: usize>(&mut self, shape: [usize; D]) -> TensorData {
        let len = shape.iter().product();
        let values: Vec<f32> = (0..len)
            .map(|_| self.next() as f32 / (1u64 << 30) as f32 - 1.0)
            .collect();
        TensorData::new(values, shape)
    }

    fn ids<const D: usize>(&mut self, shape: [usize; D], below: usize) -> TensorData {
        let len = shape.iter().product();
        let values: Vec<i32> = (0..len)
            .map(|_| (self.next() % below as u64) as i32)
            .collect();
        TensorData::new(values, shape)
    }
}

/// A tensor whose gradient is wanted.
fn leaf<B: AutodiffBackend, const D: usize>(data: &TensorData) -> Tensor<B, D> {
    Tensor::from_data(data.clone(), &Default::default()).require_grad()
}

fn float<B: Backend, const D: usize>(data: &TensorData) -> Tensor<B, D> {
    Tensor::from_data(data.clone(), &Default::default())
}

fn int<B: Backend, const D: usize>(data: &TensorData) -> Tensor<B, D, Int> {
    Tensor::from_data(data.clone(), &Default::default())
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

fn assert_close(what: &str, expected: &[Vec<f32>], found: &[Vec<f32>]) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len(), "{what}, tensor {i}");
        let size = expected.iter().fold(1e-3f32, |max, x| max.max(x.abs()));
        for (at, (a, b)) in expected.iter().zip(found).enumerate() {
            let error = (a - b).abs() / size;
            assert!(error <= 1e-4, "{what}, tensor {i} at {at}: {a} against {b}");
        }
    }
}

/// Sizes and routes of one comparison of the expert operation.
struct Experts {
    tokens: usize,
    model: usize,
    hidden: usize,
    experts: usize,
    /// Experts of every token.
    routes: Vec<Vec<i32>>,
}

impl Experts {
    /// Token `t` goes to the experts `route(t)`.
    fn new<I: IntoIterator<Item = usize>>(
        [tokens, model, hidden, experts]: [usize; 4],
        route: impl FnMut(usize) -> I,
    ) -> Self {
        let of_token = |experts: I| experts.into_iter().map(|e| e as i32).collect();
        let routes = (0..tokens).map(route).map(of_token).collect();
        Self {
            tokens,
            model,
            hidden,
            experts,
            routes,
        }
    }

    /// Output and all gradients.
    fn run<B, F>(&self, precision: Precision, expert_ffn: F) -> Vec<Vec<f32>>
    where
        B: AutodiffBackend,
        F: Fn(
            Tensor<B, 2>,
            ExpertWeights<B>,
            Tensor<B, 2, Int>,
            Tensor<B, 2>,
            Precision,
        ) -> Tensor<B, 2>,
    {
        let Self {
            tokens: t,
            model: d,
            hidden: f,
            experts: e,
            ..
        } = *self;
        let k = self.routes[0].len();
        let mut random = Values(17);
        let x = leaf::<B, 2>(&random.floats([t, d]));
        let weights = ExpertWeights {
            gate_edf: leaf::<B, 3>(&random.floats([e, d, f])),
            up_edf: leaf(&random.floats([e, d, f])),
            down_efd: leaf(&random.floats([e, f, d])),
        };
        let gates = leaf(&random.floats([t, k]));
        let experts = int(&TensorData::new(self.routes.concat(), [t, k]));
        let dy = float(&random.floats([t, d]));
        let y = expert_ffn(
            x.clone(),
            weights.clone(),
            experts,
            gates.clone(),
            precision,
        );
        let gradients = (y.clone() * dy).sum().backward();
        vec![
            values(y.inner()),
            values(x.grad(&gradients).unwrap()),
            values(weights.gate_edf.grad(&gradients).unwrap()),
            values(weights.up_edf.grad(&gradients).unwrap()),
            values(weights.down_efd.grad(&gradients).unwrap()),
            values(gates.grad(&gradients).unwrap()),
        ]
    }

    fn compare(&self, what: &str) {
        let expected = self.run::<Cpu, _>(Precision::F32, reference::expert_ffn);
        let found = self.run::<Gpu, _>(Precision::F32, Gpu::expert_ffn);
        assert_close(what, &expected, &found);
    }
}

#[test]
fn experts_match_the_reference() {
    let mut random = Values(5);
    let mut two = |experts: usize| {
        let first = random.next() as usize % experts;
        [
            first,
            (first + 1 + random.next() as usize % (experts - 1)) % experts,
        ]
    };
    Experts::new([37, 20, 33, 5], |_| two(5)).compare("two of five");
    Experts::new([300, 24, 70, 4], |_| two(4)).compare("two of four, long");
    Experts::new([19, 16, 16, 8], |t| [t % 2 * 5]).compare("experts without tokens");
    Experts::new([90, 66, 17, 6], |_| [3]).compare("all to one expert");
    Experts::new([1, 7, 5, 3], |_| [2]).compare("one token");
    Experts::new([21, 18, 12, 4], |t| (0..4).map(move |k| (k + t) % 4)).compare("K = E");
    Experts::new([70, 8, 9, 1], |_| [0]).compare("one expert");
}

#[test]
fn large_tiles_match_the_reference() {
    Experts::new([1100, 512, 520, 2], |t| [t % 3 % 2]).compare("rows of 128");
}

/// Where the device has bf16, with the precision that bf16 has.
#[test]
fn bf16_experts_are_near_the_reference() {
    if !Inner::supports_dtype(&Default::default(), DType::BF16) {
        return;
    }
    let experts = Experts::new([300, 64, 96, 4], |t| [t % 4, (t + 1 + t % 3) % 4]);
    let expected = experts.run::<Cpu, _>(Precision::F32, reference::expert_ffn);
    let found = experts.run::<Gpu, _>(Precision::Bf16, Gpu::expert_ffn);
    for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
        let difference = norm(&mut expected.iter().zip(found).map(|(a, b)| a - b));
        let error = difference / norm(&mut expected.iter().copied());
        assert!(error < 2e-2, "tensor {i}: relative error {error}");
    }
}

/// The gradient of an embedding table.
fn embedding<B: AutodiffBackend>(
    [vocabulary, positions, width]: [usize; 3],
    lookup: impl Fn(Tensor<B, 2>, Tensor<B, 1, Int>) -> Tensor<B, 2>,
) -> Vec<Vec<f32>> {
    let mut random = Values(11);
    let table = leaf::<B, 2>(&random.floats([vocabulary, width]));
    // Some rows of the table are met often, others never.
    let ids = int(&random.ids([positions], vocabulary)).remainder_scalar(vocabulary as i64 / 2 + 1);
    let dy = float(&random.floats([positions, width]));
    let y = lookup(table.clone(), ids);
    let gradients = (y.clone() * dy).sum().backward();
    vec![values(y.inner()), values(table.grad(&gradients).unwrap())]
}

#[test]
fn embeddings_match_the_reference() {
    for shape in [[7, 5, 3], [144, 600, 20], [70_000, 300, 4]] {
        let expected = embedding::<Cpu>(shape, |table, ids| table.select(0, ids));
        let found = embedding::<Gpu>(shape, Gpu::embed);
        assert_close("embedding", &expected, &found);
    }
}

#[test]
fn adamw_matches_the_reference() {
    let update = Update {
        lr: 1e-2,
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        correction_1: 1.0 - 0.9,
        correction_2: 1.0 - 0.95,
        gradient_scale: 0.7,
    };
    let mut random = Values(3);
    let shape = [13, 65];
    let data: Vec<_> = (0..4).map(|_| random.floats(shape)).collect();
    let [p, g, m, v] = [0, 1, 2, 3].map(|i| float::<Flex, 2>(&data[i]));
    let (p, m, v) = reference::adamw(p, g, (m, v.abs()), update);
    let expected = [p, m, v].map(values);

    // In place, and where somebody else still holds the parameter and one moment.
    for shared in [false, true] {
        let [p, g, m, v] = [0, 1, 2, 3].map(|i| float::<Inner, 2>(&data[i]));
        let held = shared.then(|| (p.clone(), m.clone()));
        let (p, m, v) = Inner::adamw(p, g, (m, v.abs()), update);
        assert_close("adamw", &expected, &[p, m, v].map(values));
        if let Some((p, m)) = held {
            let before = [&data[0], &data[2]].map(|x| x.to_vec().unwrap());
            assert_close("held", &before, &[values(p), values(m)]);
        }
    }
}

/// Output and gradients of the normalisation.
fn rms_norm<B: AutodiffBackend>(
    [rows, width]: [usize; 2],
    norm: impl Fn(Tensor<B, 2>, Tensor<B, 1>, f32) -> Tensor<B, 2>,
) -> Vec<Vec<f32>> {
    let mut random = Values(7);
    let x = leaf::<B, 2>(&random.floats([rows, width]));
    let scale = leaf::<B, 1>(&random.floats([width]));
    let dy = float(&random.floats([rows, width]));
    let y = norm(x.clone(), scale.clone(), 1e-5);
    let gradients = (y.clone() * dy).sum().backward();
    vec![
        values(y.inner()),
        values(x.grad(&gradients).unwrap()),
        values(scale.grad(&gradients).unwrap()),
    ]
}

#[test]
fn rms_norm_matches_the_reference() {
    for shape in [[1, 3], [150, 129]] {
        let expected = rms_norm::<Cpu>(shape, reference::rms_norm);
        let found = rms_norm::<Gpu>(shape, Gpu::rms_norm);
        assert_close("rms_norm", &expected, &found);
    }
}

/// Output and gradient of the rotation of queries that lie heads first in memory.
fn rotary<B: AutodiffBackend>(
    rotate: impl Fn(Tensor<B, 4>, RotaryAngles<B>) -> Tensor<B, 4>,
) -> Vec<Vec<f32>> {
    let mut random = Values(9);
    let [b, s, h, c] = [2, 9, 3, 10];
    let x = leaf::<B, 4>(&random.floats([b, h, s, c]));
    let angles = RotaryAngles {
        cos_sc: float(&random.floats([s, c / 2])),
        sin_sc: float(&random.floats([s, c / 2])),
    };
    let dy = float(&random.floats([b, h, s, c]));
    let y = rotate(x.clone().swap_dims(1, 2), angles).swap_dims(1, 2);
    let gradients = (y.clone() * dy).sum().backward();
    vec![values(y.inner()), values(x.grad(&gradients).unwrap())]
}

#[test]
fn rotary_matches_the_reference() {
    let expected = rotary::<Cpu>(reference::rotary);
    assert_close("rotary", &expected, &rotary::<Gpu>(Gpu::rotary));
}

/// Losses of a head and gradients, with some targets a token, of which a third counts nothing.
fn head<B: AutodiffBackend>(
    [tokens, width, vocabulary, targets]: [usize; 4],
    loss: impl Fn(Tensor<B, 2>, Tensor<B, 2>, SoftTargets<B>, Precision) -> Tensor<B, 1>,
) -> Vec<Vec<f32>> {
    let mut random = Values(13);
    let x = leaf::<B, 2>(&random.floats([tokens, width]));
    let head = leaf::<B, 2>(&random.floats([vocabulary, width]));
    let weights: Vec<f32> = (0..tokens * targets).map(|i| (i % 3) as f32).collect();
    let found = loss(
        x.clone(),
        head.clone(),
        SoftTargets {
            ids_tj: int(&random.ids([tokens, targets], vocabulary)),
            weights_tj: float(&TensorData::new(weights, [tokens, targets])),
        },
        Precision::F32,
    );
    let dloss = float(&random.floats([tokens]));
    let gradients = (found.clone() * dloss).sum().backward();
    vec![
        values(found.inner()),
        values(x.grad(&gradients).unwrap()),
        values(head.grad(&gradients).unwrap()),
    ]
}

#[test]
fn heads_match_the_reference() {
    for shape in [[37, 20, 144, 1], [5, 8, 9001, 3], [300, 4, 4096, 1]] {
        let expected = head::<Cpu>(shape, reference::linear_cross_entropy);
        let found = head::<Gpu>(shape, Gpu::linear_cross_entropy);
        assert_close("head", &expected, &found);
    }
}

/// Output and gradients of attention.
fn attention<B: AutodiffBackend>(
    [b, s, h, g, c]: [usize; 5],
    attend: impl Fn(Tensor<B, 4>, Tensor<B, 4>, Tensor<B, 4>, Precision) -> Tensor<B, 4>,
) -> Vec<Vec<f32>> {
    let mut random = Values(15);
    let [q, k, v] = [h, g, g].map(|heads| leaf::<B, 4>(&random.floats([b, s, heads, c])));
    let y = attend(q.clone(), k.clone(), v.clone(), Precision::F32);
    let dy = float(&random.floats([b, s, h, c]));
    let gradients = (y.clone() * dy).sum().backward();
    vec![
        values(y.inner()),
        values(q.grad(&gradients).unwrap()),
        values(k.grad(&gradients).unwrap()),
        values(v.grad(&gradients).unwrap()),
    ]
}

/// The last one has more scores than a block.
#[test]
fn attention_matches_the_reference() {
    for shape in [[2, 13, 4, 2, 6], [1, 1, 2, 2, 4], [3, 150, 2, 1, 8], [1, 4200, 1, 1, 4]] {
        let expected = attention::<Cpu>(shape, reference::causal_attention);
        let found = attention::<Gpu>(shape, Gpu::causal_attention);
        assert_close("attention", &expected, &found);
    }
}

#[test]
fn top_k_of_all_sorts() {
    let scores = TensorData::new(vec![0.5f32, 2.0, -1.0, 3.0, 3.0, 0.0, 3.0, 1.0], [2, 4]);
    let found = Inner::top_k(float(&scores), 4).into_data();
    found.assert_eq(&TensorData::from([[3i32, 1, 0, 2], [0, 2, 3, 1]]), true);

    // With NaN, which a diverged model has, every expert is still named once: others index by these numbers.
    let broken = TensorData::new(vec![f32::NAN, 1.0, f32::NAN, 2.0], [1, 4]);
    let mut found = values_of(Inner::top_k(float(&broken), 4));
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3]);
}

fn values_of(indices: Tensor<Inner, 2, Int>) -> Vec<i32> {
    indices.into_data().to_vec().unwrap()
}
