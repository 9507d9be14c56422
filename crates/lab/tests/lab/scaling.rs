//! Plans of many devices: for the paper's largest model beside numbers that were worked out by hand, for a small one beside what its
//! devices send.

use std::{num::NonZeroUsize, path::Path, sync::atomic::AtomicBool, thread, time::Duration};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset};
use upcycle_lab::{
    Calibration, Devices, Estimate, Exchange, Link, MemoryLimit, StageEstimate, SweepPlan, presets,
};
use upcycle_lm::LmConfig;
use upcycle_team::Team;
use upcycle_train::{
    BatchConfig, BurnEngine, DataSchedule, Engine, EvaluationConfig, OptimizerConfig, PassConfig,
    Schedule, Start, TrainJob, TrainSpec,
};

const GIGABYTES: u64 = 1_000_000_000;

fn devices(count: usize, expert_parallel: usize) -> Devices {
    let number = |it| NonZeroUsize::new(it).unwrap();
    Devices::new(number(count), number(expert_parallel)).unwrap()
}

fn table_1() -> SweepPlan {
    let config = presets::sweep("table1").unwrap();
    let data = Dataset::open(&config.data, Path::new("unused")).unwrap();
    SweepPlan::new(&config, &data, "cuda").unwrap()
}

/// On GPUs of 80 GB that compute 400 TFLOP/s, in machines of eight: each sends 450 GB/s within one and 50 GB/s between them.
fn estimate(plan: &SweepPlan, devices: Devices, recompute: bool) -> Estimate {
    let limit = MemoryLimit {
        bytes: Some(80 * GIGABYTES),
        devices,
        recompute,
    };
    let link = Link {
        within: 450e9,
        between: 50e9,
        machine: NonZeroUsize::new(8).unwrap(),
    };
    let speed = Calibration::stated(400e12).with_link(Some(link));
    Estimate::new(plan, None, "cuda", Some(&speed), 1, &limit)
}

fn stage<'a>(estimate: &'a Estimate, label: &str) -> &'a StageEstimate {
    let mut stages = estimate.stages.iter();
    let found = stages.find(|stage| stage.label.contains(label));
    found.unwrap_or_else(|| panic!("no stage {label}"))
}

/// Fixed-64 has 12,079,595,520 parameters of experts and 1,599,424,512 others. A device of eight holds an eighth of the experts,
/// all others, and the moments of an eighth of all. Of a step's 512 sequences of 8,192 tokens it computes 64, one at a time.
#[test]
fn fixed_64_on_eight_gpus_is_as_worked_out_by_hand() {
    let plan = table_1();
    let again = estimate(&plan, devices(8, 8), true);
    let big = stage(&again, "fixed-64");
    let held = 12_079_595_520 / 8 + 1_599_424_512;
    let memory = &big.memory;
    assert_eq!(memory.weights, 4 * held);
    assert_eq!(memory.gradients, 4 * held);
    assert_eq!(memory.moments, 8 * (13_679_020_032 / 8));
    // Inputs of 20 layers; of a dense layer, the larger ones, 8 d + 5 f, and the gradients of its input and output.
    let floats = 20 * 2048 + (8 * 2048 + 5 * 7168) + 2 * 2048;
    assert_eq!(memory.activations, 4 * 8192 * floats);
    // An embedding as it is sent and as it arrives, which is more than four times the rows of a layer.
    assert_eq!(memory.transients, 2 * 4 * 200_704 * 2048);
    assert_eq!(big.peak_memory, 45_298_452_480);

    // Rows of d f32 to K experts in 10 layers, there and back, in two forward passes and a backward pass, but for one device in eight.
    let rows = 6 * (64 * 8192) * 10 * 2 * 4 * 2048 / 8 * 7;
    assert_eq!(big.exchange.rows, rows);
    assert_eq!(big.exchange.rows, 450_971_566_080);
    // No block of experts is held twice.
    assert_eq!(big.exchange.gradients, 2 * 4 * (1_599_424_512 / 8) * 7);
    let step = big.step.unwrap();
    // 11,418,972,160 FLOPs a token, a third more as layers are computed again.
    let computing = 4.0 / 3.0 * 11_418_972_160.0 * 64.0 * 8192.0 / 400e12;
    assert!((step.computing / computing - 1.0).abs() < 1e-9, "{step:?}");
    let total = computing + 450_971_566_080.0 / 450e9 + 11_195_971_584.0 / 450e9;
    assert!((step.total() / total - 1.0).abs() < 1e-9, "{step:?}");
}

#[test]
fn table_1_fits_on_eight_gpus_where_activations_are_computed_again() {
    let plan = table_1();
    let (kept, again) = (
        estimate(&plan, devices(8, 8), false),
        estimate(&plan, devices(8, 8), true),
    );
    let fits = |stage: &StageEstimate| stage.process_memory() <= 80 * GIGABYTES;
    assert!(again.stages.iter().all(fits));
    assert!(fits(stage(&kept, "fixed-32")) && !fits(stage(&kept, "fixed-64")));
    // Growing measures gradients of 32 experts with activations kept.
    assert_eq!(stage(&again, "upcycle to 64").peak_memory, 66_050_762_752);
    let fewest = &again.fewest[0];
    assert_eq!(fewest.scale, "7B-interleaved");
    assert_eq!(fewest.recomputed, Some(devices(8, 8)));
    assert_eq!(fewest.kept, Some(devices(16, 8)));
}

/// With two holders of each block, gradients of experts are sent as well; with 512 GPUs each has one sequence.
#[test]
fn more_gpus_share_batches_and_moments() {
    let plan = table_1();
    let step = |count| {
        let estimate = estimate(&plan, devices(count, 8), false);
        let big = stage(&estimate, "fixed-64");
        (big.memory, big.exchange, big.step.unwrap())
    };
    let (memory, exchange, seconds) = step(16);
    assert_eq!(memory.moments, 8 * (13_679_020_032 / 16));
    let (others, experts) = (1_599_424_512 / 16 * 15, 12_079_595_520 / 8 / 2);
    assert_eq!(exchange.gradients, 2 * 4 * (others + experts));
    // Blocks of experts are within a machine, those who hold the same are not.
    assert_eq!(seconds.rows, exchange.rows as f64 / 450e9);
    assert_eq!(seconds.gradients, exchange.gradients as f64 / 50e9);
    let (one, ..) = step(512);
    assert_eq!(memory.gradients, 2 * memory.weights);
    assert_eq!(one.gradients, one.weights);
    assert!(devices(1024, 8).check_all(&plan.graph).is_err());
    assert!(devices(64, 64).check_all(&plan.graph).is_err());
}

#[test]
fn processors_of_several_machines_share_a_step() {
    let plan = table_1();
    let limit = MemoryLimit {
        devices: devices(4, 1),
        ..MemoryLimit::NONE
    };
    let computing = |machines| {
        let speed = Calibration::stated(1e12).with_machines(NonZeroUsize::new(machines).unwrap());
        let estimate = Estimate::new(&plan, None, "cpu", Some(&speed), 1, &limit);
        stage(&estimate, "fixed-64").step.unwrap().computing
    };
    assert!((computing(1) / computing(2) - 2.0).abs() < 1e-9);
}

/// Bytes that all devices together send in so many steps: those of a longer training less those of one with a single step, which begins
/// and ends with as much besides.
fn sent(
    model: &LmConfig,
    batch: &BatchConfig,
    passes: PassConfig,
    devices: Devices,
    steps: u64,
) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let start = Start::Initial {
        model: Box::new(model.clone()),
        seed: 0,
    };
    let spec = |end| TrainSpec {
        schedule: Schedule {
            peak_lr: 1e-3,
            warmup_from: 0,
            warmup_steps: 1,
            decay_from: None,
            end,
        },
        optimizer: OptimizerConfig::default(),
        batch: batch.clone(),
        data: DataSchedule {
            cpt_from: None,
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        evaluation: EvaluationConfig {
            every: 1000,
            rows: 4,
            test_rows: 0,
        },
    };
    let train = |team: Team| {
        let engine = BurnEngine::<Autodiff<Flex>>::new("cpu", "test".into(), FlexDevice)
            .in_team(team.clone(), devices.expert_parallel.get());
        let [short, long] = [1, 1 + steps].map(|end| {
            let before = team.sent_bytes();
            let job = TrainJob {
                spec: &spec(end),
                start: &start,
                dir: &dir.path().join(end.to_string()),
                data: &data,
                checkpoint_interval: Duration::MAX,
                other_data: false,
                passes,
                event_file: false,
                cancelled: &AtomicBool::new(false),
                stop: &AtomicBool::new(false),
            };
            engine.train(&job, &mut |_| ()).unwrap();
            team.sent_bytes() - before
        });
        team.leave();
        long - short
    };
    thread::scope(|scope| {
        let train = &train;
        let members: Vec<_> = Team::threads(devices.count.get())
            .into_iter()
            .map(|team| scope.spawn(move || train(team)))
            .collect();
        let sent = members.into_iter().map(|member| member.join().unwrap());
        sent.sum()
    })
}

/// Gradients and parameters are sent to the byte; beside them go sums of losses and loads, less than a hundredth. Rows depend on the
/// routing: of one device they are as many as its experts are liked, but of all together the share that stays is 1 / M whatever the
/// routing, as far as the devices have alike tokens. With 1,024 tokens a step it is met to a few hundredths.
#[test]
fn devices_send_what_is_planned() {
    const STEPS: u64 = 4;
    let model: LmConfig = serde_json::from_value(serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 64, "layers": 2, "heads": 4, "kv_heads": 2,
        "experts": 8, "top_k": 2, "d_expert": 32,
    }))
    .unwrap();
    let batch = BatchConfig {
        rows: 16,
        context: 64,
        accumulation: 1,
    };
    let kept = PassConfig::default();
    let again = PassConfig {
        recompute: true,
        ..kept
    };
    for (count, blocks, passes) in [
        (2, 1, kept),
        (2, 2, kept),
        (2, 2, again),
        (4, 1, kept),
        (4, 2, kept),
        (4, 4, kept),
    ] {
        let devices = devices(count, blocks);
        let of_device = Exchange::of(&model, &devices.share(&batch), passes, &devices);
        let of_all = |bytes: u64| (STEPS * count as u64 * bytes) as f64;
        let (rows, gradients) = (of_all(of_device.rows), of_all(of_device.gradients));
        let sent = sent(&model, &batch, passes, devices, STEPS) as f64;
        let off = (sent - gradients - rows).abs();
        assert!(
            off < 0.1 * rows + 0.01 * gradients,
            "{count} devices, {blocks} blocks, {passes:?}: {sent} bytes, {gradients} of gradients and {rows} of rows planned"
        );
    }
}
