//! Whole training steps: ours, ours with reference bodies, PyTorch's.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use upcycle_report::number;

use super::{
    BenchArgs, median,
    model::Model,
    process::{self, Measured},
};

/// Training steps of one model.
#[derive(Debug, Serialize)]
pub struct Row {
    model: String,
    /// Tokens a second, median over rounds.
    tokens_per_second: f64,
    /// Seconds of forward and backward pass, median.
    gradient_seconds: f64,
    /// Seconds of gradient norm, optimizer and balancing, median.
    update_seconds: f64,
    /// Training FLOP/s, median.
    flops_per_second: f64,
    /// Training FLOP/s over the peak given by `--peak-tflops`.
    model_flops_utilisation: Option<f64>,
    /// Training FLOP/s over the matrix product rate of the same round, median.
    share_of_matmul_rate: f64,
    /// Matrix product rate, FLOP/s, median.
    matmul_rate: f64,
    /// Peak resident bytes of the process, the largest.
    peak_memory: Option<u64>,
    /// Tokens a second with reference bodies, in one round.
    reference_tokens_per_second: Option<f64>,
    torch: Option<Torch>,
}

/// The same steps in PyTorch.
#[derive(Debug, Serialize)]
struct Torch {
    /// Tokens a second of the best path, median over rounds.
    tokens_per_second: f64,
    /// That path, in the last round.
    path: String,
    /// Peak resident bytes of the process of the best path, the least over rounds.
    peak_memory: Option<u64>,
    /// Our speed over PyTorch's, pair by pair.
    ratios: Vec<f64>,
    median_ratio: f64,
}

/// Steps that are enough for the reference bodies.
const REFERENCE_STEPS: usize = 2;

/// Measures whole steps of a model.
pub fn measure(model: &Model, args: &BenchArgs) -> Result<Row> {
    let job = args.job(model);
    let tokens = job.workload.batch.tokens() as f64;
    let (mut speeds, mut gradients, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut shares, mut peak_memory) = (Vec::new(), Vec::new(), None);
    let mut theirs: Vec<TorchRun> = Vec::new();
    for _ in 0..args.rounds {
        let (measured, peak) = job.elsewhere()?;
        let (gradient, update) = seconds(&measured);
        let speed = tokens / (gradient + update);
        speeds.push(speed);
        gradients.push(gradient);
        updates.push(update);
        rates.push(measured.matmul_rate);
        shares.push(speed * model.flops_per_token() / measured.matmul_rate);
        peak_memory = peak_memory.max(peak);
        if let Some(run) = torch(model, args)? {
            theirs.push(run);
        }
    }
    let reference_tokens_per_second = if args.no_reference {
        None
    } else {
        let mut job = job;
        job.reference = true;
        job.workload.steps = REFERENCE_STEPS;
        let (gradient, update) = seconds(&job.elsewhere()?.0);
        Some(tokens / (gradient + update))
    };
    let ratios: Vec<f64> = speeds
        .iter()
        .zip(&theirs)
        .map(|(ours, run)| ours / run.speed)
        .collect();
    let tokens_per_second = median(speeds);
    let flops_per_second = tokens_per_second * model.flops_per_token();
    Ok(Row {
        model: model.name.clone(),
        tokens_per_second,
        flops_per_second,
        model_flops_utilisation: args
            .peak_tflops
            .map(|peak| flops_per_second / (1e12 * peak)),
        gradient_seconds: median(gradients),
        update_seconds: median(updates),
        share_of_matmul_rate: median(shares),
        matmul_rate: median(rates),
        peak_memory,
        reference_tokens_per_second,
        torch: theirs.last().map(|last| Torch {
            tokens_per_second: median(theirs.iter().map(|run| run.speed)),
            path: last.path.clone(),
            peak_memory: theirs.iter().filter_map(|run| run.peak_memory).min(),
            median_ratio: median(ratios.iter().copied()),
            ratios,
        }),
    })
}

/// Median seconds of gradients and update.
pub fn seconds(measured: &Measured) -> (f64, f64) {
    let times = &measured.times;
    (
        median(times.gradients.iter().copied()),
        median(times.update.iter().copied()),
    )
}

struct TorchRun {
    speed: f64,
    path: String,
    peak_memory: Option<u64>,
}

/// The best path of the PyTorch script, if there is one to run.
fn torch(model: &Model, args: &BenchArgs) -> Result<Option<TorchRun>> {
    let (Some(python), Some(script)) = (&args.compare_torch, &args.torch_script) else {
        return Ok(None);
    };
    let mut best: Option<TorchRun> = None;
    for path in &args.torch_impls {
        let mut command = Command::new(python);
        command
            .arg(script)
            .args(model.torch_flags()?)
            // The script leaves out a third of its steps.
            .args([
                "--steps",
                &(args.steps + args.steps.div_ceil(2)).to_string(),
            ])
            .args(["--experts-impl", path])
            .args(
                args.torch_flags
                    .iter()
                    .flat_map(|flags| flags.split_whitespace()),
            );
        let output = process::run(command)
            .with_context(|| format!("the PyTorch script {}", script.display()))?;
        let json: Option<serde_json::Value> = serde_json::from_str(&output.last_line).ok();
        let Some(speed) = json.and_then(|json| json["tokens_per_s"].as_f64()) else {
            bail!(
                "the PyTorch script {} printed no JSON line with `tokens_per_s`, but: {}",
                script.display(),
                output.last_line
            );
        };
        if best.as_ref().is_none_or(|best| speed > best.speed) {
            best = Some(TorchRun {
                speed,
                path: path.clone(),
                peak_memory: output.peak_memory,
            });
        }
    }
    Ok(best)
}

impl Row {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let memory = |bytes: Option<u64>| bytes.map_or("-".into(), number::bytes);
        let mut lines = vec![format!(
            "{}  step: {:.0} tokens/s, {:.1} % of {:.0} GFLOP/s; forward and backward {:.1} ms, update {:.1} ms; peak memory {}",
            self.model,
            self.tokens_per_second,
            100.0 * self.share_of_matmul_rate,
            self.matmul_rate / 1e9,
            1e3 * self.gradient_seconds,
            1e3 * self.update_seconds,
            memory(self.peak_memory),
        )];
        if let Some(utilisation) = self.model_flops_utilisation {
            let percent = 100.0 * utilisation;
            lines.push(format!("   model FLOPs utilisation: {percent:.1} %"));
        }
        if let Some(reference) = self.reference_tokens_per_second {
            lines.push(format!(
                "   reference bodies: {reference:.0} tokens/s, ratio {:.2}",
                self.tokens_per_second / reference
            ));
        }
        if let Some(torch) = &self.torch {
            lines.push(format!(
                "   PyTorch ({}): {:.0} tokens/s, peak memory {}; ratio {:.2}, pairs {:.2?}",
                torch.path,
                torch.tokens_per_second,
                memory(torch.peak_memory),
                torch.median_ratio,
                torch.ratios
            ));
        }
        lines
    }
}
