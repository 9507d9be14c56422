//! Grows the experts of a Hugging Face checkpoint, from folder to folder in little memory.
//!
//! `cargo run --release --example grow_checkpoint -- FROM TO`, or without folders on a tiny one that it makes.

use std::{env, error::Error, path::PathBuf};

use burn_upcycle::{
    hf::{Growth, GrowthRequest, HfCheckpoint, Synthetic, Weights, WriteOptions},
    operator::{Recipe, Upcycle},
};

fn main() -> Result<(), Box<dyn Error>> {
    let folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let scratch = tempfile::tempdir()?;
    let (from, to) = match folders.as_slice() {
        [from, to] => (from.clone(), to.clone()),
        _ => {
            let from = scratch.path().join("tiny");
            tiny().write(&from, 0)?;
            (from, scratch.path().join("grown"))
        }
    };

    let checkpoint = HfCheckpoint::open(&from, None)?;
    let moe = checkpoint.moe()?;
    let (layers, target) = (moe.layers.len(), 2 * moe.experts);
    println!(
        "{layers} MoE layers of {} experts, top-{}",
        moe.experts, moe.top_k
    );
    let request = GrowthRequest {
        operator: Upcycle::new(Recipe::named("hyperplane")?, target),
        top_k: None,
        scores: None,
    };
    // All is decided and checked before anything is written.
    let growth = Growth::new(&checkpoint, request)?;
    let forecast = growth.forecast()?;
    println!(
        "{}",
        forecast.map_or("nothing can be foretold", |it| it.in_words())
    );
    let options = WriteOptions {
        shard_bytes: 5_000_000_000,
        resume: false,
        force: false,
    };
    let written = growth.write(&to, options, &mut |_| ())?;
    println!(
        "{target} experts: {} parameters in {}",
        written.parameters,
        to.display()
    );
    Ok(())
}

/// A Mixtral of random weights.
fn tiny() -> Synthetic {
    Synthetic {
        model_type: "mixtral".into(),
        layers: 2,
        experts: 8,
        top_k: 2,
        groups: 1,
        d: 32,
        f: 64,
        storage: 0,
        weights: Weights::Bf16,
        shard_bytes: 1_000_000,
    }
}
