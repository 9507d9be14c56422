//! The paper's largest model on many GPUs, beside numbers that were worked out by hand.

use std::{num::NonZeroUsize, path::Path};

use upcycle_data::Dataset;
use upcycle_lab::{
    Calibration, Devices, Estimate, Link, MemoryLimit, StageEstimate, SweepPlan, presets,
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
    // Inputs of 20 layers; of a MoE layer 8 d + K (4 d + 5 f) + 3 E, and the gradients of its input and output.
    let floats = 20 * 2048 + (8 * 2048 + 2 * (4 * 2048 + 5 * 3072) + 3 * 64) + 2 * 2048;
    assert_eq!(memory.activations, 4 * 8192 * floats);
    // An embedding as it is sent and as it arrives, which is more than four times the rows of a layer.
    assert_eq!(memory.transients, 2 * 4 * 200_704 * 2048);
    assert_eq!(big.peak_memory, 45_673_842_688);

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
    assert_eq!(stage(&again, "upcycle to 64").peak_memory, 74_099_894_272);
    let fewest = &again.fewest[0];
    assert_eq!(fewest.scale, "7B-interleaved");
    assert_eq!(fewest.recomputed, Some(devices(8, 8)));
    assert_eq!(fewest.kept, Some(devices(16, 16)));
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
