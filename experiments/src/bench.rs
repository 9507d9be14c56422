//! `bench`: speed of whole training steps, against the machine's matrix product rate and against PyTorch.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use upcycle_data::{DataConfig, Dataset, SyntheticConfig};
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::{
    BatchConfig, DataSchedule, Engine, EvaluationConfig, Schedule, Start, TrainEvent, TrainJob,
    TrainSpec,
};

use crate::{
    backend::{BackendKind, engine},
    output,
};

/// Measure the speed of whole training steps.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct BenchArgs {
    /// Models to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "t,s,w")]
    models: Vec<Model>,
    /// Steps of a measurement; the first two are left out.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(3..))]
    steps: u64,
    /// Measurements of each model, alternating with PyTorch's.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A Python with PyTorch, to compare with; needs --torch-script.
    #[arg(long, value_name = "PYTHON", requires = "torch_script")]
    compare_torch: Option<PathBuf>,
    /// A script that takes the model's sizes as flags and prints a JSON line with `tokens_per_s`.
    #[arg(long, value_name = "FILE")]
    torch_script: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// A model of the benchmark; all layers are MoE.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Model {
    /// 4 layers, d 128, 16 experts of width 128, K 2, vocabulary 256, 16 x 128 tokens.
    T,
    /// 6 layers, d 256, 32 experts of width 256, K 4, vocabulary 4096, 8 x 256 tokens.
    S,
    /// 4 layers, d 256, 256 experts of width 384, K 8, vocabulary 8192, 2 x 512 tokens.
    W,
}

/// Sizes of a model and a batch.
struct Sizes {
    vocab: usize,
    d_model: usize,
    layers: usize,
    heads: usize,
    experts: usize,
    top_k: usize,
    d_expert: usize,
    rows: usize,
    context: usize,
}

impl Model {
    fn sizes(self) -> Sizes {
        let [
            vocab,
            d_model,
            layers,
            heads,
            experts,
            top_k,
            d_expert,
            rows,
            context,
        ] = match self {
            Self::T => [256, 128, 4, 4, 16, 2, 128, 16, 128],
            Self::S => [4096, 256, 6, 8, 32, 4, 256, 8, 256],
            Self::W => [8192, 256, 4, 2, 256, 8, 384, 2, 512],
        };
        Sizes {
            vocab,
            d_model,
            layers,
            heads,
            experts,
            top_k,
            d_expert,
            rows,
            context,
        }
    }
}

impl Sizes {
    fn config(&self) -> LmConfig {
        LmConfig {
            vocab: self.vocab,
            context: self.context,
            d_model: self.d_model,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.heads,
            d_ffn: 0,
            pattern: Default::default(),
            experts: self.experts,
            top_k: self.top_k,
            d_expert: self.d_expert,
            score: Default::default(),
            renormalize: true,
            gate_scale: 1.0,
            qk_norm: false,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            embedding_std: 0.5,
            two_level: None,
        }
    }

    /// Training FLOPs of a token: 6 an active parameter, head included, and `6 * layers * context * d_model`.
    fn flops_per_token(&self) -> f64 {
        let config = self.config();
        let cost = CostModel::new(&config);
        let attention = 6 * self.layers * self.context * self.d_model;
        6.0 * cost.parameters().active_non_embedding() as f64
            + cost.head_flops_per_token()
            + attention as f64
    }

    fn torch_flags(&self) -> Vec<String> {
        [
            ("--vocab", self.vocab),
            ("--d-model", self.d_model),
            ("--layers", self.layers),
            ("--heads", self.heads),
            ("--experts", self.experts),
            ("--top-k", self.top_k),
            ("--d-expert", self.d_expert),
            ("--batch", self.rows),
            ("--seq", self.context),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()])
        .collect()
    }
}

/// Figures of one model.
#[derive(Debug, Serialize)]
struct Row {
    model: Model,
    /// Median over rounds, tokens a second.
    tokens_per_second: f64,
    /// FLOP/s of training over the matrix product rate of the same round, median.
    share_of_matmul_rate: f64,
    /// Matrix product rate, FLOP/s, median.
    matmul_rate: f64,
    /// Tokens a second of PyTorch's better path, median; and our ratio to it, pair by pair.
    torch: Option<Torch>,
}

#[derive(Debug, Serialize)]
struct Torch {
    tokens_per_second: f64,
    ratios: Vec<f64>,
    median_ratio: f64,
}

impl BenchArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let engine = engine(self.backend)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let mut rows = Vec::new();
        for &model in &self.models {
            rows.push(self.measure(model, engine.as_ref())?);
        }
        if self.json {
            return Ok(output::line(serde_json::to_string_pretty(&rows)?)?);
        }
        for row in rows {
            let mut line = format!(
                "{:?}  {:>9.0} tokens/s  {:>5.1} % of {:.0} GFLOP/s",
                row.model,
                row.tokens_per_second,
                100.0 * row.share_of_matmul_rate,
                row.matmul_rate / 1e9
            );
            if let Some(torch) = row.torch {
                line += &format!(
                    "  PyTorch {:.0} tokens/s, ratio {:.2} (pairs {:.2?})",
                    torch.tokens_per_second, torch.median_ratio, torch.ratios
                );
            }
            output::line(line)?;
        }
        Ok(())
    }

    fn measure(&self, model: Model, engine: &dyn Engine) -> Result<Row> {
        let sizes = model.sizes();
        let (mut ours, mut rates, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        let (mut theirs, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let speed = self.train(&sizes, engine)?;
            let rate = engine.matmul_rate();
            ours.push(speed);
            rates.push(rate);
            shares.push(speed * sizes.flops_per_token() / rate);
            if let (Some(python), Some(script)) = (&self.compare_torch, &self.torch_script) {
                let mut best = 0.0_f64;
                for path in ["loop", "grouped"] {
                    best = best.max(torch(python, script, &sizes, path, self.steps)?);
                }
                theirs.push(best);
                ratios.push(speed / best);
            }
        }
        Ok(Row {
            model,
            tokens_per_second: median(&ours),
            share_of_matmul_rate: median(&shares),
            matmul_rate: median(&rates),
            torch: (!ratios.is_empty()).then(|| Torch {
                tokens_per_second: median(&theirs),
                median_ratio: median(&ratios),
                ratios,
            }),
        })
    }

    /// Tokens a second of a training run.
    fn train(&self, sizes: &Sizes, engine: &dyn Engine) -> Result<f64> {
        let domains = 16;
        let data = DataConfig::Synthetic(SyntheticConfig {
            domains,
            tokens: sizes.vocab - domains,
            ..SyntheticConfig::default()
        });
        let dir = std::env::temp_dir().join(format!("upcycle-bench-{}", std::process::id()));
        let data = Dataset::open(&data, &dir)?;
        let batch = BatchConfig {
            rows: sizes.rows,
            context: sizes.context,
            accumulation: 1,
        };
        let spec = TrainSpec {
            schedule: Schedule {
                peak_lr: 1e-3,
                warmup_from: 0,
                warmup_steps: 2,
                decay_from: None,
                end: self.steps,
            },
            optimizer: Default::default(),
            batch,
            data: DataSchedule {
                cpt_from: None,
                seed: 0,
            },
            balancing: Default::default(),
            precision: Default::default(),
            evaluation: EvaluationConfig {
                every: self.steps,
                rows: 1,
            },
        };
        let mut seconds = Vec::new();
        let job = TrainJob {
            spec: &spec,
            start: &Start::Initial {
                model: Box::new(sizes.config()),
                seed: 0,
            },
            dir: &dir,
            data: &data,
            checkpoint_interval: Duration::MAX,
        };
        let outcome = engine.train(&job, &mut |event| {
            if let TrainEvent::Step {
                step, seconds: s, ..
            } = event
                && step > 2
            {
                seconds.push(s);
            }
        });
        let removed = std::fs::remove_dir_all(&dir);
        outcome?;
        removed.with_context(|| format!("cannot remove {}", dir.display()))?;
        Ok(spec.batch.tokens() as f64 / median(&seconds))
    }
}

/// Tokens a second that the PyTorch script reports.
fn torch(python: &PathBuf, script: &PathBuf, sizes: &Sizes, path: &str, steps: u64) -> Result<f64> {
    let output = Command::new(python)
        .arg(script)
        .args(sizes.torch_flags())
        .args(["--experts-impl", path, "--steps", &steps.to_string()])
        .output()
        .with_context(|| format!("cannot run {}", python.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Option<serde_json::Value> = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    match json.and_then(|json| json["tokens_per_s"].as_f64()) {
        Some(speed) if output.status.success() => Ok(speed),
        _ => bail!(
            "{} {} printed no JSON line with `tokens_per_s`: {}",
            python.display(),
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        ),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
