//! What a sweep would cost, as text.

use std::path::Path;

use anyhow::Result;
use upcycle_lab::{Estimate, Price, Speed, StageEstimate, SweepPlan};
use upcycle_report::number;

use crate::{limits::pass_note, output};

/// More settings than this are told by their ends.
const PRICES: usize = 12;

/// Prints models, all stages if asked for, prices and the sum.
pub fn print(plan: &SweepPlan, estimate: &Estimate, all: bool) -> Result<()> {
    output::line(format!(
        "{:<34} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}",
        "model", "non-emb.", "total", "active", "tokens", "FLOPs", "memory"
    ))?;
    for model in models(plan, estimate) {
        output::line(format!(
            "{:<34} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}{}",
            model.name,
            number::parameters(model.stage.parameters.non_embedding()),
            number::parameters(model.stage.parameters.total()),
            number::parameters(model.stage.parameters.active()),
            number::count(model.tokens as f64),
            format!("{:.2e}", model.flops),
            number::bytes(model.stage.peak_memory),
            pass_note(model.stage.passes).map_or(String::new(), |note| format!("  {note}")),
        ))?;
    }
    if all {
        output::line("")?;
        for stage in &estimate.stages {
            output::line(format!(
                "{}  {:<60} {:>7} steps  {:>9} FLOPs  {:>10}  {:>12}{}",
                stage.key,
                stage.label,
                stage.steps,
                format!("{:.2e}", stage.flops),
                number::bytes(stage.peak_memory),
                time(stage),
                pass_note(stage.passes).map_or(String::new(), |note| format!("  ({note})")),
            ))?;
        }
    }
    print_prices(&estimate.prices)?;
    let time = match estimate.seconds {
        Some(seconds) => format!("about {}", number::duration(seconds)),
        None => "an unknown time".to_owned(),
    };
    if estimate.remaining().next().is_none() {
        output::line(format!(
            "\nall {} stages are finished: nothing is left to do",
            estimate.stages.len()
        ))?;
        return Ok(());
    }
    output::line(format!(
        "\n{} stages ({} cached), {} steps, {:.2e} FLOPs, up to {} of memory{}, {time} with {} at a time",
        estimate.stages.len(),
        estimate.stages.len() - estimate.remaining().count(),
        number::count(estimate.steps() as f64),
        estimate.flops(),
        number::bytes(estimate.memory),
        match estimate.devices.count.get() {
            1 => String::new(),
            count => format!(" of each of {count} devices"),
        },
        estimate.jobs,
    ))?;
    let timed = estimate.remaining().filter(|stage| stage.steps > 0);
    let rough = timed.filter(|stage| !stage.measured).count();
    if estimate.speed == Some(Speed::Measured) && rough > 0 {
        output::line(format!(
            "(the time of {} is a guess from this machine's rate of matrix products; that of others comes from measured steps)",
            number::plural(rough, "stage")
        ))?;
    }
    Ok(())
}

/// Prints how much disk the stages that are left would take, and how much there is.
pub fn print_disk(out: &Path, estimate: &Estimate, data_bytes: u64) -> Result<()> {
    let text = match data_bytes {
        0 => String::new(),
        bytes => format!(", {} of packed text", number::bytes(bytes)),
    };
    let out = std::path::absolute(out)?;
    let existing = out.ancestors().find(|folder| folder.exists());
    let free = match existing.map(upcycle_files::available_space) {
        Some(Ok(bytes)) => format!("{} are free", number::bytes(bytes)),
        _ => "what is free is not known".to_owned(),
    };
    output::line(format!(
        "disk: {} of checkpoints and metrics{text}; {free} where {} is",
        number::bytes(estimate.disk),
        out.display()
    ))?;
    Ok(())
}

fn time(stage: &StageEstimate) -> String {
    match stage.seconds {
        _ if stage.cached => "cached".into(),
        Some(seconds) => number::duration(seconds),
        None => String::new(),
    }
}

/// Upcycled beside Fixed-mE: the saving that the paper is about, predicted.
fn print_prices(prices: &[Price]) -> Result<()> {
    // Most recipes cost the same.
    let mut kinds: Vec<&Price> = Vec::new();
    for price in prices {
        let same = |other: &&Price| {
            other.setting == price.setting && other.flops_upcycled == price.flops_upcycled
        };
        if !kinds.iter().any(same) {
            kinds.push(price);
        }
    }
    if kinds.is_empty() {
        return Ok(());
    }
    output::line(format!(
        "\n{:<40} {:>10} {:>12} {:>12} {:>11} {:>12} {:>19}",
        "one seed of Upcycled",
        "at",
        "Fixed-mE",
        "Upcycled",
        "time saved",
        "FLOPs saved",
        "after pre-training"
    ))?;
    for price in kinds.iter().take(PRICES) {
        let setting = &price.setting;
        let share = |cost: Option<f64>, of: Option<f64>| match (cost, of) {
            (Some(cost), Some(of)) if of > 0.0 => format!("{:.0} %", 100.0 * (1.0 - cost / of)),
            _ => "-".to_owned(),
        };
        let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), number::duration);
        let protocol = match setting.protocol.as_str() {
            "trunk" => String::new(),
            other => format!(" {other}"),
        };
        output::line(format!(
            "{:<40} {:>10} {:>12} {:>12} {:>11} {:>12} {:>19}",
            format!(
                "{} {}->{} k{} {}{protocol}",
                setting.scale, setting.experts, setting.target_experts, setting.top_k, price.recipe
            ),
            setting.place_name(setting.place()),
            time(price.seconds_fixed_me),
            time(price.seconds_upcycled),
            share(price.seconds_upcycled, price.seconds_fixed_me),
            share(Some(price.flops_upcycled), Some(price.flops_fixed_me)),
            share(price.seconds_after_pretraining, price.seconds_fixed_me),
        ))?;
    }
    output::line(
        "(recipes of the same cost once; FLOPs count the vocabulary head, which the report leaves out as the paper does)",
    )?;
    if kinds.len() > PRICES {
        output::line(format!("({} more; --json has all)", kinds.len() - PRICES))?;
    }
    Ok(())
}

/// Sum of the stages of one kind of model.
pub(super) struct ModelRow<'a> {
    pub name: String,
    pub stage: &'a StageEstimate,
    tokens: u64,
    flops: f64,
}

/// Stages added up by model, seeds together.
pub(super) fn models<'a>(plan: &SweepPlan, estimate: &'a Estimate) -> Vec<ModelRow<'a>> {
    let mut rows: Vec<ModelRow> = Vec::new();
    let stages = plan.graph.stages();
    for (stage, estimate) in stages.iter().zip(&estimate.stages) {
        let name = stage.label.split(" seed ").next().unwrap_or_default();
        if stage.steps() == 0 {
            continue;
        }
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => {
                row.tokens += estimate.tokens;
                row.flops += estimate.flops;
            }
            None => rows.push(ModelRow {
                name: name.to_owned(),
                stage: estimate,
                tokens: estimate.tokens,
                flops: estimate.flops,
            }),
        }
    }
    rows
}
