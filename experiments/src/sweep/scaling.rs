//! What each of several devices holds, sends and takes, and how many are needed, as text.

use anyhow::Result;
use upcycle_lab::{Devices, Estimate, Price, Speed, StageEstimate, SweepPlan};
use upcycle_report::{number, paper_gpu_hours};

use super::cost::models;
use crate::{limits::pass_note, output};

/// Prints what several devices hold and send, the fewest that hold each scale, and the paper's GPU hours beside ours.
/// `memory` is what each device was said to have, in bytes.
pub fn print(plan: &SweepPlan, estimate: &Estimate, memory: Option<u64>) -> Result<()> {
    if estimate.devices.count.get() > 1 {
        print_held(plan, estimate, memory)?;
        print_steps(plan, estimate)?;
    }
    print_speed(estimate)?;
    print_fewest(estimate, memory)?;
    print_gpu_hours(plan, estimate)
}

/// What a device holds of each model, and at most of each growth.
fn print_held(plan: &SweepPlan, estimate: &Estimate, memory: Option<u64>) -> Result<()> {
    let devices = estimate.devices;
    let of = memory.map_or(String::new(), |memory| {
        format!(", which has {}", number::bytes(memory))
    });
    output::line(format!(
        "\nmemory of each of {} devices{of}; {} of experts",
        devices.count,
        number::plural(devices.expert_parallel.get(), "block")
    ))?;
    output::line(format!(
        "{:<44} {:>10} {:>10} {:>10} {:>11} {:>10} {:>10}",
        "model", "weights", "gradients", "moments", "activations", "exchanges", "in all"
    ))?;
    for model in models(plan, estimate) {
        let held = &model.stage.memory;
        output::line(format!(
            "{:<44} {:>10} {:>10} {:>10} {:>11} {:>10} {:>10}  {}",
            model.name,
            number::bytes(held.weights),
            number::bytes(held.gradients),
            number::bytes(held.moments),
            number::bytes(held.activations + held.blocks),
            number::bytes(held.transients),
            number::bytes(model.stage.process_memory()),
            verdict(model.stage, memory),
        ))?;
    }
    for (name, growth) in growths(estimate) {
        output::line(format!(
            "{name:<44} {:>66}  {}",
            number::bytes(growth.process_memory()),
            verdict(growth, memory),
        ))?;
    }
    Ok(())
}

/// Whether a stage fits, and how.
fn verdict(stage: &StageEstimate, memory: Option<u64>) -> String {
    let passes = pass_note(stage.passes);
    let Some(memory) = memory else {
        return passes.unwrap_or_default();
    };
    let recomputed = stage.process_memory() - stage.peak_memory + stage.peak_recomputed;
    match (stage.process_memory() <= memory, passes) {
        (true, None) => "fits".to_owned(),
        (true, Some(passes)) => format!("fits, {passes}"),
        (false, _) if recomputed <= memory => format!(
            "does not fit; with --activation-checkpointing {}, which does",
            number::bytes(recomputed)
        ),
        (false, _) => "does not fit".to_owned(),
    }
}

/// One growth of each name, seeds and recipes aside.
fn growths(estimate: &Estimate) -> Vec<(String, &StageEstimate)> {
    let mut growths: Vec<(String, &StageEstimate)> = Vec::new();
    for stage in estimate.stages.iter().filter(|stage| stage.steps == 0) {
        let (model, rest) = stage.label.split_once(" seed ").unwrap_or_default();
        let growth = rest.split_once(' ').map_or(rest, |(_, growth)| growth);
        let name = format!("{model} {}", growth.split(" by ").next().unwrap_or(growth));
        if !growths.iter().any(|(other, _)| *other == name) {
            growths.push((name, stage));
        }
    }
    growths
}

/// What a device sends in a step of each model, and what the step takes.
fn print_steps(plan: &SweepPlan, estimate: &Estimate) -> Result<()> {
    output::line(format!(
        "\n{:<44} {:>12} {:>22} {:>22} {:>12}",
        "a step of each device", "computes", "sends rows", "gradients, parameters", "in all"
    ))?;
    for model in models(plan, estimate) {
        let (sent, step) = (&model.stage.exchange, model.stage.step);
        let exchange = |bytes: u64, seconds: Option<f64>| {
            let known = seconds.filter(|_| estimate.link.is_some());
            format!("{} in {}", number::bytes(bytes), time(known))
        };
        output::line(format!(
            "{:<44} {:>12} {:>22} {:>22} {:>12}",
            model.name,
            time(step.map(|step| step.computing)),
            exchange(sent.rows, step.map(|step| step.rows)),
            exchange(sent.gradients, step.map(|step| step.gradients)),
            time(step.map(|step| step.total())),
        ))?;
    }
    Ok(())
}

/// Seconds of a step, or a part of them.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", 1e3 * seconds),
        Some(seconds) => format!("{seconds:.2} s"),
        None => "-".to_owned(),
    }
}

/// What times are made of, where they do not come from this machine alone.
fn print_speed(estimate: &Estimate) -> Result<()> {
    let several = estimate.devices.count.get() > 1;
    let rate = number::flops(estimate.rate.unwrap_or(f64::NAN));
    let computing = match estimate.speed {
        Some(Speed::Measured) if several => "as measured here".to_owned(),
        Some(Speed::Measured) => return Ok(()),
        Some(Speed::Stated) => format!("{rate}/s on each device, as stated"),
        Some(Speed::Paper) => format!(
            "{rate}/s on each device, which is what the paper's GPU hours come to; --device-speed says another"
        ),
        None => "unknown; --device-speed 400TFLOP/s says what a device reaches".to_owned(),
    };
    output::line(format!("(computing: {computing})"))?;
    if several {
        let link = match estimate.link {
            Some(link) if link.between == link.within => {
                let further = match estimate.devices.count.get() > link.machine.get() {
                    true => ", also between machines, which --link-between says",
                    false => "",
                };
                format!("{} GB/s from each device{further}", link.within / 1e9)
            }
            Some(link) => format!(
                "{} GB/s from each device, {} GB/s between machines of {}",
                link.within / 1e9,
                link.between / 1e9,
                link.machine
            ),
            None => "not in the times; --link 450GB/s says how fast a device sends".to_owned(),
        };
        output::line(format!(
            "(sending: {link}; exchanges and computing come one after the other, experts are taken to be used alike)"
        ))?;
    }
    Ok(())
}

fn print_fewest(estimate: &Estimate, memory: Option<u64>) -> Result<()> {
    let Some(memory) = memory.filter(|_| !estimate.fewest.is_empty()) else {
        return Ok(());
    };
    // Stages at a time on a device share its memory.
    let jobs = estimate.jobs.max(1);
    let of = match jobs {
        1 => number::bytes(memory),
        _ => format!(
            "{}, {} a stage",
            number::bytes(memory),
            number::bytes(memory / jobs as u64)
        ),
    };
    output::line(format!(
        "\n{:<44} {:>34} {:>34}",
        format!("fewest devices of {of}"),
        "activations kept",
        "--activation-checkpointing"
    ))?;
    for fewest in &estimate.fewest {
        output::line(format!(
            "{:<44} {:>34} {:>34}",
            fewest.scale,
            needed(fewest.kept),
            needed(fewest.recomputed)
        ))?;
    }
    output::line(format!(
        "(all stages with growth, {jobs} at a time; powers of two up to 4096 that share the sequences of a step evenly)"
    ))?;
    Ok(())
}

fn needed(devices: Option<Devices>) -> String {
    match devices {
        Some(devices) => format!(
            "{}, --expert-parallel {}",
            devices.count, devices.expert_parallel
        ),
        None => "no number will do".to_owned(),
    }
}

/// The paper's GPU hours beside ours, where one of its recipes is planned at its setting.
fn print_gpu_hours(plan: &SweepPlan, estimate: &Estimate) -> Result<()> {
    let mut of_paper = plan.cells.iter().filter(|cell| cell.of_paper);
    let found = of_paper.find_map(|cell| {
        let hours = paper_gpu_hours(&cell.setting, cell.pretrain_tokens)?;
        let same = |price: &&Price| price.setting == cell.setting && price.recipe == cell.recipe;
        let price = estimate.prices.iter().find(same)?;
        Some((
            hours,
            price,
            price.seconds_upcycled?,
            price.seconds_fixed_me?,
        ))
    });
    let Some((paper, price, upcycled, fixed)) = found else {
        return Ok(());
    };
    let hours = |seconds: f64| seconds * estimate.devices.count.get() as f64 / 3600.0;
    let setting = &price.setting;
    output::line(format!(
        "\n{:<44} {:>12} {:>12} {:>10}",
        format!(
            "GPU hours of {} {}->{}, {}",
            setting.scale,
            setting.experts,
            setting.target_experts,
            setting.place_name(setting.place())
        ),
        "Fixed-mE",
        "Upcycled",
        "saved"
    ))?;
    let ours = [hours(upcycled), hours(fixed)];
    for (name, [upcycled, fixed]) in [("the paper", paper), ("here, one seed", ours)] {
        output::line(format!(
            "{name:<44} {fixed:>12.0} {upcycled:>12.0} {:>8.1} %",
            100.0 * (1.0 - upcycled / fixed)
        ))?;
    }
    output::line(
        "(the batch is ours, the paper's is not published. A step computes as much with twice the experts, and sends little more; the \
         paper measured 2.2 s with 32 experts and 4.2 s with 64, and what it saves is that)",
    )?;
    Ok(())
}
