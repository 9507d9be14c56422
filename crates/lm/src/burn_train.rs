//! The model trained by Burn's own trainer, burn-train: its steps, and what its metrics are made of.
//!
//! burn-train has no place for loss-free balancing beside the optimizer, so the steps of the selection biases travel with
//! the gradients, under the biases' own ids, and are taken out before the optimizer sees them. Two-level selection that is
//! released needs the number of the step, which burn-train does not give: train such models with `upcycle-train`. With
//! gradient accumulation burn-train adds up what the passes register, so biases move by the sum of the passes' steps.

use std::error::Error;

use burn::{
    data::dataloader::batcher::Batcher,
    module::{AutodiffModule, Param},
    optim::{GradientsParams, Optimizer},
    tensor::{Int, Tensor, TensorData, Transaction, backend::AutodiffBackend, backend::Backend},
    train::{
        InferenceStep, ItemLazy, LearnerSummary, TrainOutput, TrainStep,
        metric::{Adaptor, LossInput, MetricDefinition},
        renderer::{
            EvaluationName, EvaluationProgress, MetricState, MetricsRenderer,
            MetricsRendererEvaluation, MetricsRendererTraining, ProgressType, TrainingProgress,
        },
    },
};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, Precision, SoftTargets};
use upcycle_moe::{
    BalancingConfig, ExpertSources, MoeModel, Router, Routing,
    metric::{RoutedBatch, RoutedLayer},
};

use crate::model::Lm;

/// A batch, with how its step is computed.
#[derive(Debug, Clone)]
pub struct LmBatch<B: Backend> {
    /// Tokens, `[B, S]`.
    pub tokens_bs: Tensor<B, 2, Int>,
    /// Targets of the `B * S` positions.
    pub targets: SoftTargets<B>,
    /// Load balancing.
    pub balancing: BalancingConfig,
    /// Precision of matrix products.
    pub precision: Precision,
}

impl<B: Backend> LmBatch<B> {
    /// A batch whose targets are the next tokens: of sequences of `S + 1` tokens each, the first `S` are the inputs.
    ///
    /// # Panics
    /// If sequences are not equally long, or shorter than two tokens.
    pub fn next_tokens(sequences: &[Vec<u32>], device: &B::Device) -> Self {
        let rows = sequences.len();
        let context = sequences.first().map_or(0, Vec::len).saturating_sub(1);
        assert!(
            context > 0 && sequences.iter().all(|it| it.len() == context + 1),
            "sequences of one length, of at least two tokens"
        );
        let ids = |from: usize, shape: [usize; 2]| {
            let tokens = sequences.iter().flat_map(|it| &it[from..from + context]);
            let tokens: Vec<i32> = tokens.map(|&token| token as i32).collect();
            Tensor::from_data(TensorData::new(tokens, shape), device)
        };
        Self {
            tokens_bs: ids(0, [rows, context]),
            targets: SoftTargets {
                ids_tj: ids(1, [rows * context, 1]),
                weights_tj: Tensor::ones([rows * context, 1], device),
            },
            balancing: BalancingConfig::default(),
            precision: Precision::default(),
        }
    }
}

/// Makes batches of sequences of tokens: [`LmBatch::next_tokens`] as burn-train's data loaders want it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NextTokens;

impl<B: Backend> Batcher<B, Vec<u32>, LmBatch<B>> for NextTokens {
    fn batch(&self, sequences: Vec<Vec<u32>>, device: &B::Device) -> LmBatch<B> {
        LmBatch::next_tokens(&sequences, device)
    }
}

/// What a step gave, still on the device.
pub struct LmStepOutput<B: Backend> {
    /// Mean loss, nats a token, `[1]`.
    loss: Tensor<B, 1>,
    /// Experts `[T, K]` of every MoE layer, and their sources.
    routed: Vec<(Tensor<B, 2, Int>, ExpertSources)>,
}

/// What a step gave, on the host.
#[derive(Debug, Clone)]
pub struct LmStepReport {
    /// Mean loss, nats a token.
    pub loss: f64,
    /// Where tokens went.
    pub routed: RoutedBatch,
}

impl<B: Backend> ItemLazy for LmStepOutput<B> {
    type ItemSync = LmStepReport;

    fn sync(self) -> LmStepReport {
        let experts = self.routed.iter().map(|(experts_tk, _)| experts_tk.clone());
        // One transfer for all.
        let reading = Transaction::default().register(self.loss);
        let reading = experts.fold(reading, |reading, experts_tk| reading.register(experts_tk));
        let mut data = reading.execute().into_iter();
        let loss = data.next().and_then(|loss| loss.iter::<f64>().next());
        let layers = data.zip(self.routed).map(|(data, (experts_tk, sources))| {
            let experts = data.iter::<i64>().map(|expert| expert as usize);
            RoutedLayer {
                experts: experts.collect(),
                top_k: experts_tk.dims()[1],
                sources,
            }
        });
        LmStepReport {
            loss: loss.unwrap_or(f64::NAN),
            routed: RoutedBatch(layers.collect()),
        }
    }
}

impl Adaptor<RoutedBatch> for LmStepReport {
    fn adapt(&self) -> RoutedBatch {
        self.routed.clone()
    }
}

impl<B: Backend> Adaptor<LossInput<B>> for LmStepReport {
    fn adapt(&self) -> LossInput<B> {
        let loss = Tensor::from_floats([self.loss as f32], &B::Device::default());
        LossInput::new(loss)
    }
}

impl<B: MoeBackend> Lm<B> {
    /// Mean loss of a batch and the routing of every MoE layer.
    fn run(&self, batch: LmBatch<B>) -> (Tensor<B, 1>, Vec<Routing<B>>) {
        let scored = batch.targets.weights_tj.clone().sum();
        let output = self.forward(batch.tokens_bs, batch.targets, batch.precision);
        (output.loss_t.sum() / scored, output.routing)
    }

    /// The experts of a forward pass with their sources.
    fn routed(&self, routing: &[Routing<B>]) -> Vec<(Tensor<B, 2, Int>, ExpertSources)> {
        let layers = self.moe_layers().zip(routing);
        let routed =
            layers.map(|(layer, routing)| (routing.experts_tk.clone(), layer.lineage().origins()));
        routed.collect()
    }
}

impl<B: MoeBackend> InferenceStep for Lm<B> {
    type Input = LmBatch<B>;
    type Output = LmStepOutput<B>;

    fn step(&self, batch: LmBatch<B>) -> LmStepOutput<B> {
        let (loss, routing) = self.run(batch);
        LmStepOutput {
            loss,
            routed: self.routed(&routing),
        }
    }
}

impl<B: MoeAutodiffBackend> TrainStep for Lm<B> {
    type Input = LmBatch<B>;
    type Output = LmStepOutput<B::InnerBackend>;

    fn step(&self, batch: LmBatch<B>) -> TrainOutput<Self::Output> {
        let balancing = batch.balancing.clone();
        let (loss, routing) = self.run(batch);
        let objective = match self.routing_loss(&routing, &balancing) {
            Some(routing_loss) => loss.clone() + routing_loss,
            None => loss.clone(),
        };
        let mut grads = GradientsParams::from_grads(objective.backward(), self);
        let loads: Vec<_> = routing.iter().map(Routing::load_e).collect();
        let mut balanced = self.clone();
        balanced.balance(&loads, &balancing);
        for (layer, balanced) in self.moe_layers().zip(balanced.moe_layers_mut()) {
            let before = biases(&layer.router);
            for (before, after) in before.into_iter().zip(biases(&balanced.router)) {
                let step = after.val().inner() - before.val().inner();
                grads.register::<B::InnerBackend, 1>(before.id, step);
            }
        }
        let routed = self.routed(&routing).into_iter();
        TrainOutput {
            grads,
            item: LmStepOutput {
                loss: loss.inner(),
                routed: routed
                    .map(|(experts_tk, sources)| (experts_tk.inner(), sources))
                    .collect(),
            },
        }
    }

    fn optimize<A, O>(mut self, optim: &mut O, lr: f64, mut grads: GradientsParams) -> Self
    where
        A: AutodiffBackend,
        O: Optimizer<Self, A>,
        Self: AutodiffModule<A>,
    {
        for layer in self.moe_layers_mut() {
            for bias in biases_mut(&mut layer.router) {
                if let Some(step) = grads.remove::<B::InnerBackend, 1>(bias.id) {
                    *bias = bias.clone().map(|bias| bias + Tensor::from_inner(step));
                }
            }
        }
        optim.step(lr, self, grads)
    }
}

/// What balancing changes of a router.
fn biases<B: Backend>(router: &Router<B>) -> Vec<&Param<Tensor<B, 1>>> {
    let replicas = router.tie_breaks.iter().map(|it| &it.replica_bias_e);
    std::iter::once(&router.selection_bias_e)
        .chain(replicas)
        .collect()
}

/// The same, to be changed.
fn biases_mut<B: Backend>(router: &mut Router<B>) -> Vec<&mut Param<Tensor<B, 1>>> {
    let replicas = router.tie_breaks.iter_mut();
    let replicas = replicas.map(|it| &mut it.replica_bias_e);
    std::iter::once(&mut router.selection_bias_e)
        .chain(replicas)
        .collect()
}

/// A renderer that shows nothing, for programs that have an output of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRenderer;

impl MetricsRendererTraining for NoRenderer {
    fn update_train(&mut self, _: MetricState) {}
    fn update_valid(&mut self, _: MetricState) {}
    fn render_train(&mut self, _: TrainingProgress, _: Vec<ProgressType>) {}
    fn render_valid(&mut self, _: TrainingProgress, _: Vec<ProgressType>) {}
    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl MetricsRendererEvaluation for NoRenderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
    fn render_test(&mut self, _: EvaluationProgress, _: Vec<ProgressType>) {}
    fn on_test_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl MetricsRenderer for NoRenderer {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}
