//! What the numbers of a group say, in sentences.

use crate::group::{ANNEALED, Group, Seeds};
use crate::model::Model;
use crate::number::{fixed, tenth_percent, whole_percent};
use crate::page::comparisons::{lead, validation, winner};
use crate::statistics::{Summary, saving};

/// A short paragraph on one group; none if no cell has finished.
pub(crate) fn findings(group: &Group) -> Option<String> {
    let last = *group.places().last()?;
    let sentences = [
        protocol(group),
        Some(gap(group, last)),
        unresolved(group, last),
        best(group),
        contest(group, last),
        cost(group, last),
    ];
    Some(
        sentences
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "),
    )
}

/// The protocol, where it is not the usual one.
fn protocol(group: &Group) -> Option<String> {
    let text = "Annealed protocol: pre-training ends with a learning-rate decay of its own, and continued pre-training \
                warms up again.";
    (group.setting.protocol == ANNEALED).then(|| text.to_owned())
}

/// How far Fixed-mE is ahead of Fixed-E, measured by the spread of the seeds.
fn gap(group: &Group, place: f64) -> String {
    let small = Model::FixedE.label(group.setting);
    let big = Model::FixedMe.label(group.setting);
    let gap = group.gap(place);
    let at = group.setting.place_name(place);
    if !gap.size().is_finite() {
        return format!("At {at} no pair of {small} and {big} has a loss.");
    }
    if gap.size() <= 0.0 {
        return format!(
            "At {at} {big} from scratch is not better than {small} ({} against {} nats a \
             token), so there is no gap to close.",
            fixed(gap.fixed_me.mean, 4),
            fixed(gap.fixed_e.mean, 4)
        );
    }
    let times = gap.size() / gap.spread();
    let measured = if times.is_finite() {
        let decimals = usize::from(times < 9.95);
        format!(
            ", {} times the seed spread (pooled standard deviation of {} seeds)",
            fixed(times, decimals),
            gap.fixed_e.n.min(gap.fixed_me.n)
        )
    } else {
        String::new()
    };
    let caution = match gap.is_resolved() {
        true => "",
        false => ": this gap is not resolved, and a share of it would be noise",
    };
    let decimals = if gap.size() < 0.01 { 4 } else { 3 };
    format!(
        "At {at} {big} from scratch beats {small} by {} nats a token{measured}{caution}.",
        fixed(gap.size(), decimals)
    )
}

/// Where else than at the last place no gap closure can be told.
fn unresolved(group: &Group, last: f64) -> Option<String> {
    let places = group.places().into_iter();
    let unresolved: Vec<String> = places
        .filter(|&place| place != last && !group.gap(place).is_resolved())
        .map(|place| group.setting.place_name(place))
        .collect();
    if unresolved.is_empty() {
        return None;
    }
    let unresolved = listed(&unresolved);
    let last = group.gap(last);
    Some(if last.size() > 0.0 && !last.is_resolved() {
        format!("The same holds at {unresolved}.")
    } else {
        format!("At {unresolved} the gap is not resolved, and a share of it would be noise.")
    })
}

/// The highest mean gap closure at each place; the best is only what is ahead of every other recipe by more than chance.
fn best(group: &Group) -> Option<String> {
    let highest: Vec<(Seeds, f64)> = group
        .places()
        .into_iter()
        .filter_map(|place| ranked(group, place).into_iter().next())
        .map(|(seeds, etas)| (seeds, etas.mean))
        .collect();
    let first = highest.first()?.0.recipe;
    let always = highest.iter().all(|(seeds, _)| seeds.recipe == first);
    let several = group.recipes().len() > 1;
    let unclear: Vec<String> = highest
        .iter()
        .filter(|(seeds, _)| winner(group, seeds.place, validation) != Some(seeds.recipe))
        .map(|(seeds, _)| group.setting.place_name(seeds.place))
        .collect();
    let word = if unclear.is_empty() {
        "best"
    } else {
        "highest"
    };
    let at = |(seeds, eta): &(Seeds, f64)| {
        let at = format!(
            "{} at {}",
            whole_percent(*eta),
            group.setting.place_name(seeds.place)
        );
        if always {
            at
        } else {
            format!("{at} ({})", seeds.recipe)
        }
    };
    let list = listed(&highest.iter().map(at).collect::<Vec<_>>());
    let mut sentence = match (always, several) {
        (true, true) => format!("The recipe with the {word} gap closure is {first}: {list}."),
        (true, false) => format!("Recipe {first} has a gap closure of {list}."),
        (false, _) => format!("The {word} gap closure is {list}."),
    };
    if several && !unclear.is_empty() {
        sentence += &format!(
            " At {} its lead over some other recipe may be chance.",
            listed(&unclear)
        );
    }
    if highest.iter().any(|(_, eta)| *eta < 0.0) {
        let small = Model::FixedE.label(group.setting);
        sentence += &format!(" Below zero the upcycled model ended worse than {small}.");
    }
    Some(sentence)
}

/// Whether the two recipes with the highest gap closure can be told apart with the longest CPT.
fn contest(group: &Group, place: f64) -> Option<String> {
    let ranked = ranked(group, place);
    let (first, first_etas) = ranked.first()?;
    if first_etas.n < 2 {
        return Some(format!(
            "At {} {} has one seed only, so no spread is known.",
            group.setting.place_name(place),
            first.recipe
        ));
    }
    let (second, _) = ranked.get(1)?;
    let lead = lead(group, first.recipe, second.recipe, place);
    let (low, high) = lead.interval?;
    let verdict = match winner(group, place, validation) == Some(first.recipe) {
        true => {
            "The best of several looks better than it is on the seeds that show it: confirm it on others (--first-seed)."
        }
        false => "That is no clear winner.",
    };
    Some(format!(
        "At {} {} leads {} by {} points on the same seeds (95 % interval {} to {}). {verdict}",
        group.setting.place_name(place),
        first.recipe,
        second.recipe,
        fixed(100.0 * lead.mean, 1),
        fixed(100.0 * low, 1),
        fixed(100.0 * high, 1),
    ))
}

/// What the upcycled run cost beside Fixed-mE.
fn cost(group: &Group, place: f64) -> Option<String> {
    let (highest, _) = ranked(group, place).into_iter().next()?;
    let flops = saving(
        highest.summary(|c| c.train_flops).mean,
        highest.summary(|c| c.train_flops_fixed_me).mean,
    )?;
    let share = tenth_percent(flops.abs());
    let than = if flops < 0.0 { "more" } else { "fewer" };
    Some(format!(
        "Counting pre-training, {} took {share} {than} training FLOPs than {}.",
        highest.recipe,
        Model::FixedMe.label(group.setting)
    ))
}

/// Recipes that have a gap closure, the highest mean first; none where the gap is not resolved.
fn ranked<'a>(group: &Group<'a>, place: f64) -> Vec<(Seeds<'a>, Summary)> {
    if !group.gap(place).is_resolved() {
        return Vec::new();
    }
    let all = group.recipes().into_iter().map(|r| group.seeds(r, place));
    let mut ranked: Vec<_> = all
        .map(|seeds| {
            let etas = seeds.eta();
            (seeds, etas)
        })
        .filter(|(_, etas)| etas.mean.is_finite())
        .collect();
    ranked.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    ranked
}

fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::results::Results;
    use crate::sample;

    fn text(results: &Results) -> String {
        findings(&groups(results)[0]).unwrap()
    }

    #[test]
    fn tells_gap_best_recipe_and_cost() {
        let text = text(&sample::results());
        assert!(
            text.contains("Fixed-16 from scratch beats Fixed-8 by 0.06"),
            "{text}"
        );
        assert!(
            text.contains("times the seed spread (pooled standard deviation of 2 seeds)"),
            "{text}"
        );
        assert!(
            text.contains("highest gap closure is distinct: 6"),
            "{text}"
        );
        assert!(text.contains("may be chance"), "{text}");
        assert!(
            text.contains("fewer training FLOPs than Fixed-16."),
            "{text}"
        );
        assert!(!text.contains("nnealed"), "{text}");
    }

    #[test]
    fn the_best_is_ahead_by_more_than_chance() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            let own = if cell.recipe == "distinct" { 0.6 } else { 0.2 };
            sample::set_eta(cell, own + 0.01 * cell.seed as f64);
        }
        let clear = text(&results);
        assert!(
            clear.contains("The recipe with the best gap closure is distinct: 61"),
            "{clear}"
        );
        assert!(
            clear.contains("looks better than it is") && !clear.contains("chance"),
            "{clear}"
        );
        for cell in &mut results.cells {
            if cell.recipe == "distinct" && cell.seed == 0 {
                sample::set_eta(cell, 0.0);
            }
        }
        let unclear = text(&results);
        assert!(
            unclear.contains("highest gap closure is distinct") && !unclear.contains("best"),
            "{unclear}"
        );
        assert!(unclear.contains("That is no clear winner."), "{unclear}");
    }

    #[test]
    fn one_seed_has_no_spread() {
        let text = text(&sample::seeds(1));
        assert!(
            text.contains("one seed only") && !text.contains("times the seed"),
            "{text}"
        );
    }

    #[test]
    fn no_gap_is_said() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            cell.loss_fixed_me = 2.0;
            cell.gap_closure = None;
        }
        let text = text(&results);
        assert!(
            text.contains("no gap to close") && !text.contains("closure"),
            "{text}"
        );
    }

    #[test]
    fn a_gap_of_noise_is_not_divided_by() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e - 0.004;
            sample::set_eta(cell, 5.03);
        }
        let text = text(&results);
        assert!(
            text.contains("by 0.0040 nats a token: this gap is not resolved"),
            "{text}"
        );
        assert!(
            text.contains("The same holds at CPT 10\u{a0}%, CPT 25\u{a0}% and CPT 50\u{a0}%."),
            "{text}"
        );
        assert!(!text.contains("best") && !text.contains("503"), "{text}");
    }

    #[test]
    fn the_annealed_protocol_is_told() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            cell.setting.protocol = ANNEALED.into();
        }
        assert!(text(&results).starts_with("Annealed protocol: "));
    }

    #[test]
    fn lists_read_like_language() {
        let items = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(listed(&items), "a, b and c");
    }
}
