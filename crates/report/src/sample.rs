//! Made-up results for tests.

use crate::results::{
    Arm, Cell, Curve, Environment, Overrides, RecipeRow, Results, RoutingRow, Setting, TwinPoint,
};
use crate::statistics::gap_closure;

const FRACTIONS: [f64; 4] = [0.1, 0.25, 0.5, 1.0];
const TAU: u64 = 1_024_000;
/// Name, loss right after the operator, gap closure at each CPT fraction.
const RECIPES: [(&str, f64, [f64; 4]); 2] = [
    ("paper", 2.371, [-1.65, -0.51, 0.02, 0.44]),
    ("distinct", 1.884, [0.05, 0.20, 0.35, 0.46]),
];

/// Nothing has finished yet.
pub(crate) fn empty() -> Results {
    Results {
        name: "quick".into(),
        command: "cargo run --release --bin sweep -- --config quick".into(),
        config: "[sweep]\nscales = [\"tiny\"] # <&>\n".into(),
        overrides: Overrides::default(),
        environment: Environment {
            version: "0.1.0".into(),
            backend: "flex (CPU)".into(),
            kernels: Some("specialised".into()),
            processor: "Some Processor @ 3 GHz".into(),
            threads: 2,
            system: "linux x86_64".into(),
            date: "2026-05-20T12:00:00Z".into(),
            commit: Some("0123456789ab".into()),
            program: Some("sweep (cpu, hub)".into()),
        },
        floor: Some(1.242),
        notes: Vec::new(),
        baseline: None,
        recipes: vec![recipe_row("paper", true), recipe_row("distinct", false)],
        cells: Vec::new(),
        curves: Vec::new(),
        routing: Vec::new(),
        tasks: Vec::new(),
    }
}

/// Two recipes, four CPT fractions, two seeds.
pub(crate) fn results() -> Results {
    seeds(2)
}

/// Two recipes, four CPT fractions, some seeds.
pub(crate) fn seeds(seeds: u64) -> Results {
    let mut results = empty();
    extend(&mut results, 2, seeds);
    results
}

/// Two groups, which differ in K.
pub(crate) fn two_top_k() -> Results {
    let mut results = empty();
    extend(&mut results, 1, 2);
    extend(&mut results, 2, 2);
    results
}

/// Two lengths of pre-training.
pub(crate) fn lengths() -> Results {
    let mut results = empty();
    for length in [TAU, 16 * TAU] {
        let mut own = empty();
        extend(&mut own, 2, 3);
        let cells = own.cells.iter_mut().map(|cell| &mut cell.setting);
        let curves = own.curves.iter_mut().map(|curve| &mut curve.setting);
        let routing = own.routing.iter_mut().map(|row| &mut row.setting);
        for setting in cells.chain(curves).chain(routing) {
            setting.length = Some(length);
        }
        results.cells.extend(own.cells);
        results.curves.extend(own.curves);
        results.routing.extend(own.routing);
    }
    results
}

/// Gives a cell another gap closure.
pub(crate) fn set_eta(cell: &mut Cell, eta: f64) {
    let (small, big) = (cell.loss_fixed_e, cell.loss_fixed_me);
    cell.loss_upcycled = small - eta * (small - big);
    cell.gap_closure = gap_closure(small, cell.loss_upcycled, big);
}

/// Results with everything that can go wrong: no gap, diverged runs, unfinished runs, names that want escaping.
pub(crate) fn odd() -> Results {
    let mut results = results();
    results.name = "<script>alert(1)</script> & \"co\", inc".into();
    for cell in &mut results.cells {
        if cell.recipe == "paper" {
            cell.recipe =
                "<b>\"paper\", 'quoted' & a name that is much too long for a legend</b>".into();
        }
        cell.wall_seconds_fixed_me = 0.0;
    }
    results.cells[0].gap_closure = None;
    results.cells[1].loss_upcycled = f64::NAN;
    results.cells[1].gap_closure = None;
    results.cells[2].loss_after = f64::INFINITY;
    results.cells[3].gap_closure = Some(f64::NAN);
    results.cells.pop();
    results.curves[1].points[5].1 = f64::NAN;
    results.curves.pop();
    results.routing[0].load.clear();
    results.routing[1].load[0] = f64::NAN;
    results
}

fn extend(results: &mut Results, top_k: usize, seeds: u64) {
    for fraction in FRACTIONS {
        for seed in 0..seeds {
            let setting = setting(top_k, fraction);
            results
                .curves
                .push(curve(&setting, Arm::FixedE, None, seed));
            results
                .curves
                .push(curve(&setting, Arm::FixedMe, None, seed));
            for layer in 0..2 {
                let fixed = [(Arm::FixedE, 8), (Arm::FixedMe, 16)];
                for (arm, experts) in fixed {
                    let row = routing(&setting, arm, None, (seed, layer), experts);
                    results.routing.push(row);
                }
            }
            for (name, _, _) in RECIPES {
                results.cells.push(cell(&setting, name, seed));
                let arm = Arm::Upcycled;
                results.curves.push(curve(&setting, arm, Some(name), seed));
                for layer in 0..2 {
                    let row = routing(&setting, arm, Some(name), (seed, layer), 16);
                    results.routing.push(row);
                }
            }
        }
    }
}

fn recipe_row(name: &str, of_paper: bool) -> RecipeRow {
    RecipeRow {
        name: name.into(),
        of_paper,
    }
}

fn setting(top_k: usize, cpt_fraction: f64) -> Setting {
    Setting {
        scale: "tiny".into(),
        data: "chains".into(),
        protocol: "trunk".into(),
        experts: 8,
        multiplier: 2.0,
        target_experts: 16,
        top_k,
        cpt_fraction,
        transition: None,
        length: None,
        cpt_lr: None,
        grows: None,
    }
}

fn recipe(name: &str) -> (f64, [f64; 4]) {
    let found = RECIPES.iter().find(|r| r.0 == name);
    found.map_or((1.9, [0.0; 4]), |r| (r.1, r.2))
}

fn noise(seed: u64, salt: u64) -> f64 {
    let mixed = (seed + 1)
        .wrapping_mul(0x9E37_79B9)
        .wrapping_add(salt.wrapping_mul(0x85EB_CA6B));
    ((mixed >> 7) % 1000) as f64 / 500.0 - 1.0
}

/// Final losses of Fixed-E and Fixed-mE.
fn fixed(fraction: f64, seed: u64) -> (f64, f64) {
    let t = (1.0 + fraction).log2();
    let noise = 0.004 * noise(seed, 3);
    (1.63 - 0.155 * t + noise, 1.533 - 0.12 * t + 0.7 * noise)
}

fn cell(setting: &Setting, name: &str, seed: u64) -> Cell {
    let (after, etas) = recipe(name);
    let index = FRACTIONS.iter().position(|f| *f == setting.cpt_fraction);
    let (small, big) = fixed(setting.cpt_fraction, seed);
    let eta = etas[index.unwrap_or(0)] + 0.06 * noise(seed, name.len() as u64);
    let upcycled = small - eta * (small - big);
    let (small_steps, big_steps) = (1.0, 1.0 + setting.cpt_fraction);
    Cell {
        setting: setting.clone(),
        recipe: name.into(),
        seed,
        backend: "flex".into(),
        kernels: Some("specialised".into()),
        pretrain_tokens: TAU,
        cpt_tokens: (TAU as f64 * setting.cpt_fraction) as u64,
        loss_fixed_e: small,
        loss_upcycled: upcycled,
        loss_fixed_me: big,
        test_loss_fixed_e: Some(small + 0.004),
        test_loss_upcycled: Some(upcycled + 0.004),
        test_loss_fixed_me: Some(big + 0.004),
        loss_before: 1.884 + 0.005 * noise(seed, 1),
        loss_after: after + 0.01 * noise(seed, 2),
        logit_difference: if after > 1.9 { 0.4 } else { 1e-7 },
        largest_logit_difference: if after > 1.9 { 6.0 } else { 1e-5 },
        changed_sources: if after > 1.9 { 0.9 } else { 0.0 },
        twin_coselection: if after > 1.9 { 0.95 } else { 0.0 },
        gap_closure: gap_closure(small, upcycled, big),
        wall_seconds_fixed_e: 40.0 * (1.0 + setting.cpt_fraction) + noise(seed, 7),
        wall_seconds: 40.0 * small_steps + 55.0 * setting.cpt_fraction + noise(seed, 5),
        wall_seconds_fixed_me: 55.0 * big_steps + noise(seed, 6),
        train_flops_fixed_e: 5.2e11 * (1.0 + setting.cpt_fraction),
        train_flops: 5.2e11 * small_steps + 5.6e11 * setting.cpt_fraction,
        train_flops_fixed_me: 5.6e11 * big_steps,
    }
}

/// Falls along the trunk, then decays in the last tenth; an upcycled run jumps at tau and recovers.
fn curve(setting: &Setting, arm: Arm, name: Option<&str>, seed: u64) -> Curve {
    let end = 1.0 + setting.cpt_fraction;
    let (small, big) = fixed(setting.cpt_fraction, seed);
    let target = match (arm, name) {
        (Arm::FixedMe, _) => big,
        (Arm::Upcycled, Some(name)) => cell(setting, name, seed).loss_upcycled,
        _ => small,
    };
    let trunk = |t: f64, last: f64| {
        let decay = 0.23 * (1.0 - ((end - t) / (0.1 * end)).clamp(0.0, 1.0));
        last + 0.23 + 2.6 * ((-t / 0.16).exp() - (-end / 0.16).exp()) + 0.26 * (end - t) / (1.0 + t)
            - decay
    };
    let mut points = Vec::new();
    for i in 0..=40 {
        let t = 0.05 * f64::from(i);
        if t > end + 1e-9 {
            break;
        }
        let tokens = (t * TAU as f64) as u64;
        let wobble = 0.01 * noise(seed, i as u64);
        let upcycled = arm == Arm::Upcycled && t >= 1.0;
        if arm == Arm::Upcycled && (t - 1.0).abs() < 1e-9 {
            points.push((tokens, trunk(t, small) + wobble));
        }
        let jump = if upcycled {
            let after = name.map_or(0.0, |n| recipe(n).0 - 1.884);
            after * (-(t - 1.0) / 0.06).exp()
        } else {
            0.0
        };
        let last = if upcycled {
            target
        } else if arm == Arm::Upcycled {
            small
        } else {
            target
        };
        points.push((tokens, trunk(t, last) + wobble + jump));
    }
    Curve {
        setting: setting.clone(),
        arm,
        recipe: name.map(str::to_owned),
        seed,
        tau_tokens: TAU,
        twins: twins(arm, name, seed, end),
        points,
    }
}

/// Replicas part over CPT, those of the recipe `paper` less.
fn twins(arm: Arm, name: Option<&str>, seed: u64, end: f64) -> Vec<TwinPoint> {
    if arm != Arm::Upcycled {
        return Vec::new();
    }
    let alike = if name == Some("paper") { 0.8 } else { 0.5 };
    let point = |i: u32| {
        let t = f64::from(i) * (end - 1.0) / 10.0;
        TwinPoint {
            tokens: ((1.0 + t) * TAU as f64) as u64,
            cosine: alike + (1.0 - alike) * (-3.0 * t).exp() + 0.01 * noise(seed, i.into()),
            coselection: if alike > 0.6 { 0.8 } else { 0.0 },
        }
    };
    (0..=10).map(point).collect()
}

fn routing(
    setting: &Setting,
    arm: Arm,
    name: Option<&str>,
    (seed, layer): (u64, usize),
    experts: usize,
) -> RoutingRow {
    let skew = match name {
        Some("paper") => 0.9,
        Some(_) => 0.4,
        None => 0.15,
    };
    let weight = |e: usize| (skew * noise(seed + layer as u64, e as u64 * 7 + 1)).exp();
    let total: f64 = (0..experts).map(weight).sum();
    let load: Vec<f64> = (0..experts).map(|e| weight(e) / total).collect();
    let uniform = 1.0 / experts as f64;
    let entropy: f64 = load.iter().map(|p| -p * p.ln()).sum();
    let largest = load.iter().copied().fold(0.0, f64::max);
    RoutingRow {
        setting: setting.clone(),
        arm,
        recipe: name.map(str::to_owned),
        seed,
        layer,
        max_violation: largest / uniform - 1.0,
        normalized_entropy: entropy / (experts as f64).ln(),
        dead_experts: usize::from(name == Some("paper")),
        distinct_sources: if name == Some("paper") { 1.2 } else { 2.0 },
        twin_coselection: if name == Some("paper") { 0.8 } else { 0.0 },
        load,
    }
}
