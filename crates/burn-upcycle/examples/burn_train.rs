//! A language model trained by Burn's own trainer, with routing measures among its metrics; grown; trained on.
//!
//! `cargo run --release --example burn_train`

use std::{error::Error, path::Path, sync::Arc};

use burn_upcycle::{
    burn::{
        data::{
            dataloader::{DataLoader, DataLoaderBuilder},
            dataset::InMemDataset,
        },
        module::{AutodiffModule, Module},
        optim::AdamWConfig,
        record::{BinBytesRecorder, FullPrecisionSettings, Recorder},
        train::{
            InferenceStep, ItemLazy, Learner, SupervisedTraining, logger::InMemoryMetricLogger,
            metric::LossMetric,
        },
    },
    lm::burn_train::{LmBatch, NextTokens, NoRenderer},
    moe::metric::RoutingMetric,
    prelude::*,
};

type B = Autodiff<Flex>;
const CONTEXT: usize = 64;

fn sequences(data: &Dataset, split: Split, count: usize) -> Result<Vec<Vec<u32>>, TrainError> {
    let tokens = data.batch(split, 0, 0, count, CONTEXT + 1)?.inputs;
    Ok(tokens.chunks(CONTEXT + 1).map(<[u32]>::to_vec).collect())
}

/// Trains for two epochs with Burn's AdamW, as any Burn model is trained.
fn train(model: Lm<B>, data: &Dataset, split: Split) -> Result<Lm<Flex>, TrainError> {
    let held_out = sequences(data, Split::Cpt, 64)?;
    let train: Arc<dyn DataLoader<B, LmBatch<B>>> = DataLoaderBuilder::new(NextTokens)
        .batch_size(16)
        .shuffle(1)
        .build(InMemDataset::new(sequences(data, split, 2400)?));
    let valid: Arc<dyn DataLoader<Flex, LmBatch<Flex>>> = DataLoaderBuilder::new(NextTokens)
        .batch_size(16)
        .build(InMemDataset::new(held_out));
    // Nothing is written to this folder: neither checkpoints nor logs are asked for. Leave `renderer` out to see how it goes.
    let training = SupervisedTraining::new("unused", train, valid)
        .metrics((
            LossMetric::<Flex>::new(),
            RoutingMetric::load_imbalance(),
            RoutingMetric::dead_experts(),
            RoutingMetric::twins_together(),
        ))
        .with_metric_logger(InMemoryMetricLogger::new())
        .with_application_logger(None)
        .renderer(NoRenderer)
        .num_epochs(2);
    let optimizer = AdamWConfig::new().init::<B, Lm<B>>();
    Ok(training.launch(Learner::new(model, optimizer, 3e-3)).model)
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = FlexDevice;
    let data = Dataset::open(&DataConfig::default(), Path::new("unused"))?;
    let config = LmConfig {
        vocab: data.vocab_size(),
        context: CONTEXT,
        ..LmConfig::default()
    };
    let trained = train(config.init(0, &device)?, &data, Split::Pretrain)?;

    // burn-train gives back a model without gradients; its record makes one with gradients.
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    let record = recorder.record(trained.into_record(), ())?;
    let mut model: Lm<B> = config.init(0, &device)?;
    model = model.load_record(recorder.load(record, &device)?);

    let test = LmBatch::next_tokens(&sequences(&data, Split::Validation, 64)?, &device);
    let tell = |model: &Lm<Flex>, when: &str| {
        let report = InferenceStep::step(model, test.clone()).sync();
        println!("{when:<20} loss {:.4}", report.loss);
    };
    tell(&model.valid(), "before growing");
    let operator = Upcycle::new(Recipe::named("exact-random")?, 2 * config.experts);
    // burn-train keeps the optimizer's state to itself, so it starts anew.
    operator.grow(&mut model, &mut AdamWRecord::new(), &Evidence::default())?;
    tell(&model.valid(), "right after growing");
    tell(&train(model, &data, Split::Cpt)?, "two epochs on");
    Ok(())
}
