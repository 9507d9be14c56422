//! Trains a small language model on the built-in corpus, doubles its experts in the middle, and trains on.
//!
//! `cargo run --release --example grow_mid_training`

use std::{error::Error, path::Path};

use burn_upcycle::prelude::*;

const BEFORE: u64 = 300;
const AFTER: u64 = 300;
const ROWS: usize = 16;
const LEARNING_RATE: f64 = 5e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let device = FlexDevice;
    // The built-in corpus is generated as it is read, so no folder is needed for it.
    let data = Dataset::open(&DataConfig::default(), Path::new("unused"))?;
    let config = LmConfig {
        vocab: data.vocab_size(),
        ..LmConfig::default()
    };
    let model: Lm<Autodiff<Flex>> = config.init(0, &device)?;
    let mut learner = Learner::new(model, LearnerConfig::default(), &device);
    let tell = |learner: &Learner<_>, when: &str| -> Result<(), TrainError> {
        let loss = learner
            .evaluate(&data, Split::Validation, config.context, 64)?
            .loss;
        let experts = learner.model().config().experts;
        println!("{when:<22} {experts:>2} experts, validation loss {loss:.4}");
        Ok(())
    };

    for step in 0..BEFORE + AFTER {
        if step == BEFORE {
            tell(&learner, "before growing")?;
            let recipe = Recipe::named("exact")?;
            let measure = MeasureConfig {
                batches: 10,
                data_seed: 0,
                rows: ROWS,
                context: config.context,
            };
            let evidence = learner.measure(&recipe, &data, &measure)?;
            learner.grow(&Upcycle::new(recipe, 2 * config.experts), &evidence)?;
            tell(&learner, "right after growing")?;
        }
        let batch = data.batch(Split::Pretrain, 0, step, ROWS, config.context)?;
        learner.accumulate(&batch);
        learner.update(LEARNING_RATE)?;
    }
    tell(&learner, "some hundred steps on")?;
    Ok(())
}
