//! The paper's claims.

use super::claim::Claim;
use crate::group::Group;
use crate::model::Model;
use crate::number::{fixed, mean_interval, tenth_percent};
use crate::page::claims::ours::favoured;
use crate::page::comparisons::{foresight, lead, on_same_seeds, trend};
use crate::results::Cell;
use crate::statistics::{Summary, Test, paired, saving, summarize};

/// The claims that a group has the runs for.
pub(super) fn claims(group: &Group, last: f64) -> Vec<Claim> {
    let mut claims = vec![more_experts(group, last)];
    // Without a gap to close the others have no meaning.
    if group.gap(last).is_resolved() {
        let all: [fn(&Group, f64) -> Vec<Claim>; 8] = [
            rises, closes, preserves, utility, copies, transition, dense, foresees,
        ];
        claims.extend(all.iter().flat_map(|claim| claim(group, last)));
        claims.extend(saves(group));
    }
    claims
}

fn more_experts(group: &Group, last: f64) -> Claim {
    let ahead = group.gap(last).lead;
    Claim {
        text: "More experts at the same compute a token lower the loss (section 1).",
        here: format!(
            "{} is ahead of {} by {} nats at {}.",
            Model::FixedMe.label(group.setting),
            Model::FixedE.label(group.setting),
            mean_interval(&ahead, 1.0, 4),
            group.setting.place_name(last)
        ),
        test: Test::of(&ahead, 0.0),
    }
}

/// The paper's recipe that comes first in a sweep.
fn first_of_paper<'a>(group: &Group<'a>) -> Option<&'a str> {
    let mut recipes = group.recipes().into_iter();
    recipes.find(|recipe| group.is_of_paper(recipe))
}

/// The recipes that claims on the method are tested with: the paper's first, and the one that is favoured here; without both,
/// the sweep's first. None is chosen by what it does on the seeds that it is tested on.
fn tested<'a>(group: &Group<'a>) -> Vec<&'a str> {
    let own = first_of_paper(group);
    match own.into_iter().chain(favoured(group)).collect::<Vec<_>>() {
        none if none.is_empty() => group.recipes().into_iter().take(1).collect(),
        tested => tested,
    }
}

/// Whether a recipe closes more than `share` of the gap: a paired test of `closed - share * gap`, which needs no ratio.
fn closes_more_than(group: &Group, recipe: &str, share: f64, place: f64) -> Test {
    let seeds = group.seeds(recipe, place);
    let rest = seeds.summary(|c| c.closed() - share * c.gap());
    Test::of(&rest, 0.0)
}

/// Whether a recipe ends with a lower loss than another, on the same seeds.
fn ends_ahead<'a>(group: &Group<'a>, better: &'a str, worse: &'a str, place: f64) -> Test {
    let (better, worse) = (group.seeds(better, place), group.seeds(worse, place));
    let losses = on_same_seeds(&better, &worse, |cell| Some(cell.loss_upcycled));
    Test::of(&paired(losses.map(|(own, other)| (other, own))), 0.0)
}

fn rises(group: &Group, _: f64) -> Vec<Claim> {
    if group.setting.transition.is_some() || group.places().len() < 2 {
        return Vec::new();
    }
    let claim = |recipe: &str| {
        let trend = trend(group, recipe);
        Claim {
            text: "η rises with the CPT budget (Table 2b).",
            here: format!(
                "{recipe}: {} points with every doubling.",
                mean_interval(&trend, 100.0, 1)
            ),
            test: Test::of(&trend, 0.0),
        }
    };
    tested(group).into_iter().map(claim).collect()
}

/// As good as Fixed-mE means to close this much of the gap.
const NEARLY_ALL: f64 = 0.9;
/// CPT budgets from here on are the paper's longest.
const LONG: f64 = 0.9;

fn closes(group: &Group, last: f64) -> Vec<Claim> {
    if group.setting.transition.is_some() || last < LONG {
        return Vec::new();
    }
    let claim = |recipe: &str| {
        let eta = group.seeds(recipe, last).eta();
        Claim {
            text: "With CPT as long as pre-training the upcycled model is about as good as the big one: η of 98 % \
                    (Table 2b), 93 to 95 % (Table 7). Tested: above 90 %.",
            here: format!("{recipe}: η of {} %.", mean_interval(&eta, 100.0, 1)),
            test: closes_more_than(group, recipe, NEARLY_ALL, last),
        }
    };
    tested(group).into_iter().map(claim).collect()
}

/// The jump that section 3.2 of the paper bounds, in nats.
const SMALL_JUMP: f64 = 1e-2;

fn preserves(group: &Group, last: f64) -> Vec<Claim> {
    let claim = |recipe| {
        let jump = group
            .seeds(recipe, last)
            .summary(|c| c.loss_after - c.loss_before);
        Claim {
            text: "The operator changes the loss by less than 0.01 nats (section 3.2; its figure has 1.32 to 1.38).",
            here: format!("{recipe}: {} nats.", mean_interval(&jump, 1.0, 4)),
            test: Test::of(&jump, SMALL_JUMP).reversed(),
        }
    };
    tested(group).into_iter().map(claim).collect()
}

/// Leads of one recipe over another at every place where the gap is resolved, and whether they say the same.
fn leads_of<'a>(
    group: &Group<'a>,
    paper: &'static str,
    better: &'a str,
    worse: &'a str,
) -> Vec<Claim> {
    let recipes = group.recipes();
    if !(recipes.contains(&better) && recipes.contains(&worse)) {
        return Vec::new();
    }
    let resolved = |place: &f64| group.gap(*place).is_resolved();
    let leads: Vec<(f64, Summary)> = group
        .places()
        .into_iter()
        .filter(resolved)
        .map(|place| (place, lead(group, better, worse, place)))
        .collect();
    let tests = leads
        .iter()
        .map(|(place, _)| ends_ahead(group, better, worse, *place));
    let tell = |(place, lead): &(f64, Summary)| {
        format!(
            "{} at {}",
            mean_interval(lead, 100.0, 1),
            group.setting.place_name(*place)
        )
    };
    vec![Claim {
        text: paper,
        here: format!(
            "{better} less {worse}, points of η on the same seeds: {}.",
            leads.iter().map(tell).collect::<Vec<_>>().join("; ")
        ),
        test: Test::all(tests),
    }]
}

fn utility(group: &Group, _: f64) -> Vec<Claim> {
    let paper = "Copying the experts with the largest gradients is better than copying all alike (Table 3).";
    leads_of(group, paper, "paper", "uniform")
}

fn copies(group: &Group, _: f64) -> Vec<Claim> {
    let paper = "Copies are better than new random experts (Table 3).";
    leads_of(group, paper, "uniform", "random-experts")
}

/// The paper's smallest gap closure over transitions.
const AT_ANY_TAU: f64 = 0.8;

fn transition(group: &Group, _: f64) -> Vec<Claim> {
    if group.setting.transition.is_none() {
        return Vec::new();
    }
    let claim = |recipe: &str| {
        let etas: Vec<(f64, Summary)> = group
            .places()
            .into_iter()
            .filter(|&place| group.gap(place).is_resolved())
            .map(|place| (place, group.seeds(recipe, place).eta()))
            .collect();
        let tell = |(place, eta): &(f64, Summary)| {
            format!(
                "{} % at {}",
                mean_interval(eta, 100.0, 0),
                group.setting.place_name(*place)
            )
        };
        let tests: Vec<Test> = etas
            .iter()
            .map(|(place, _)| closes_more_than(group, recipe, AT_ANY_TAU, *place))
            .collect();
        Claim {
            text: "At the same number of steps in all, it hardly matters when the operator is applied: η of 81 to 100 % \
                    (Table 2a). Tested: above 80 % everywhere.",
            here: format!(
                "{recipe}: {}.",
                etas.iter().map(tell).collect::<Vec<_>>().join("; ")
            ),
            test: Test::all_or_not(&tests),
        }
    };
    tested(group).into_iter().map(claim).collect()
}

fn dense(group: &Group, last: f64) -> Vec<Claim> {
    const DENSE: &str = "sparse-upcycling";
    let recipes = group.recipes();
    if !recipes.contains(&DENSE) {
        return Vec::new();
    }
    let claim = |recipe| {
        let (dense, own) = (group.seeds(DENSE, last), group.seeds(recipe, last));
        let ahead = paired(on_same_seeds(&dense, &own, |cell| Some(cell.loss_upcycled)));
        Claim {
            text: "Experts grown from experts are better than experts grown from a dense network (Table 4).",
            here: format!(
                "{recipe} is ahead of {DENSE} by {} nats at {}.",
                mean_interval(&ahead, 1.0, 4),
                group.setting.place_name(last)
            ),
            test: Test::of(&ahead, 0.0),
        }
    };
    let others = tested(group).into_iter().filter(|recipe| *recipe != DENSE);
    others.map(claim).collect()
}

/// Half of a perfect rank correlation; the paper's is 0.80.
const FORESIGHT: f64 = 0.5;

fn foresees(group: &Group, last: f64) -> Vec<Claim> {
    let correlation = foresight(group, last);
    if correlation.n == 0 {
        return Vec::new();
    }
    vec![Claim {
        text: "The loss right after the operator foretells the final loss: rank correlation (Spearman) of 0.80 over 65 \
               runs (section on heuristics). Tested: above 0.5.",
        here: format!(
            "{} over {} recipes at {}.",
            mean_interval(&correlation, 1.0, 2),
            group.recipes().len(),
            group.setting.place_name(last)
        ),
        test: Test::of(&correlation, FORESIGHT),
    }]
}

/// What the paper saves at CPT of half of pre-training.
const SAVED: f64 = 0.32;

fn saves(group: &Group) -> Option<Claim> {
    let place = group.places().into_iter().find(|place| *place == 0.5)?;
    if group.setting.transition.is_some() {
        return None;
    }
    let recipe = first_of_paper(group)?;
    let seeds = group.seeds(recipe, place);
    let saving = |cell: &&Cell| saving(cell.wall_seconds, cell.wall_seconds_fixed_me);
    let saved = summarize(seeds.cells.iter().filter_map(saving));
    let ratio = seeds.summary(|cell| cell.wall_seconds_fixed_me / cell.wall_seconds_fixed_e);
    Some(Claim {
        text: "At CPT of 50 % of pre-training, 32 % of the time to train the big model are saved, as its steps take 1.9 \
                times as long as the small one’s (section 2 of the method).",
        here: format!(
            "Steps take {} times as long, and the run takes {} {} time.",
            fixed(ratio.mean, 2),
            tenth_percent(saved.mean.abs()),
            if saved.mean < 0.0 { "more" } else { "less" },
        ),
        test: Test::of(&saved, SAVED),
    })
}
