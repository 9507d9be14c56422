//! What can be told apart: recipes on the same seeds, the trend over budgets, and what the loss right after the operator
//! says of the final one.

use maud::{Markup, html};

use crate::group::{Group, Seeds};
use crate::number::{MISSING, fixed};
use crate::page::markup::{self, Table, text, with_remark};
use crate::plot::palette::Palette;
use crate::results::Cell;
use crate::statistics::{
    SMALLEST_GAP, Summary, paired, ratio_of_means, slope, spearman, summarize,
};

/// Values of two groups of cells, of the same seeds.
pub(crate) fn on_same_seeds<'a, Q: 'a>(
    a: &'a Seeds,
    b: &'a Seeds,
    quantity: impl Fn(&Cell) -> Option<Q> + Copy + 'a,
) -> impl Iterator<Item = (Option<Q>, Option<Q>)> + 'a {
    a.cells.iter().filter_map(move |cell| {
        let other = b.cells.iter().find(|other| other.seed == cell.seed)?;
        Some((quantity(cell), quantity(other)))
    })
}

/// `eta` of recipe `a` less that of recipe `b` at one place, on the same seeds: the mean difference of their losses over the
/// mean gap, with Fieller's interval.
pub(crate) fn lead<'a>(group: &Group<'a>, a: &'a str, b: &'a str, place: f64) -> Summary {
    let (a, b) = (group.seeds(a, place), group.seeds(b, place));
    let losses = |cell: &Cell| Some((cell.loss_upcycled, cell.gap()));
    let pairs = on_same_seeds(&a, &b, losses);
    let pairs = pairs.filter_map(|(a, b)| {
        let ((own, gap), (other, _)) = (a?, b?);
        Some((other - own, gap))
    });
    ratio_of_means(pairs, SMALLEST_GAP)
}

/// Final validation loss of an upcycled model, in nats a token.
pub(crate) fn validation(cell: &Cell) -> Option<f64> {
    Some(cell.loss_upcycled)
}

/// A loss of recipe `a` less that of recipe `b` at one place, in nats a token, on the same seeds; it needs no gap.
pub(crate) fn loss_difference<'a>(
    group: &Group<'a>,
    a: &'a str,
    b: &'a str,
    place: f64,
    loss: fn(&Cell) -> Option<f64>,
) -> Summary {
    let (a, b) = (group.seeds(a, place), group.seeds(b, place));
    let pairs = on_same_seeds(&a, &b, loss);
    paired(pairs)
}

/// The recipe of a place that is ahead of every other by more than chance: the 95 % intervals of all paired differences of
/// losses lie below zero. None where there is no such recipe, and so for one seed.
pub(crate) fn winner<'a>(
    group: &Group<'a>,
    place: f64,
    loss: fn(&Cell) -> Option<f64>,
) -> Option<&'a str> {
    let mean = |recipe: &'a str| {
        let seeds = group.seeds(recipe, place);
        summarize(seeds.cells.iter().filter_map(|cell| loss(cell))).mean
    };
    let recipes = group.recipes().into_iter();
    let means: Vec<(&'a str, f64)> = recipes
        .map(|recipe| (recipe, mean(recipe)))
        .filter(|(_, mean)| mean.is_finite())
        .collect();
    let (lowest, _) = *means.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let is_ahead_of = |other: &'a str| {
        let difference = loss_difference(group, lowest, other, place, loss);
        difference.interval.is_some_and(|(_, high)| high < 0.0)
    };
    let names = means.iter().map(|(recipe, _)| *recipe);
    let mut others = names.filter(|recipe| *recipe != lowest);
    (means.len() > 1 && others.all(is_ahead_of)).then_some(lowest)
}

/// What differences are taken against.
pub(crate) const NOTE: &str = "Differences are taken against one recipe: the one that --baseline names, else the first of the \
    paper’s in this sweep, else the first. Those of losses need no gap and are there whether it is resolved or not. A difference \
    whose interval has zero in it may be chance.";

/// Final loss of every recipe less that of the baseline, paired by seed, whatever the gap; none for a single recipe.
pub(crate) fn loss_differences(group: &Group, palette: &Palette) -> Option<Table> {
    let baseline = group.baseline()?;
    if group.recipes().len() < 2 {
        return None;
    }
    let places = group.places();
    let heads = places
        .iter()
        .map(|&place| text(group.setting.place_name(place)));
    let caption = format!(
        "Final validation loss less that of {baseline}, in thousandths of a nat a token, paired by seed whatever the gap: mean \
         and 95 % interval (Student t); bold where the interval excludes zero; below zero a recipe is ahead of {baseline}: {}",
        group.label
    );
    let mut table = Table::new(caption, 1, [text("recipe")].into_iter().chain(heads));
    let others = group.recipes().into_iter();
    for recipe in others.filter(|recipe| *recipe != baseline) {
        let cells = places.iter().map(|&place| {
            let difference = loss_difference(group, recipe, baseline, place, validation);
            interval(&difference, 1e3, 2)
        });
        let name = markup::recipe(recipe, palette);
        table.row([name].into_iter().chain(cells));
    }
    Some(table)
}

/// Lead of every recipe over the baseline where the gap is resolved, paired by seed; none where there is nothing to compare.
pub(crate) fn leads(group: &Group, palette: &Palette) -> Option<Table> {
    let baseline = group.baseline()?;
    let places = group.places();
    let resolved = |place: &f64| group.gap(*place).is_resolved();
    let places: Vec<f64> = places.into_iter().filter(resolved).collect();
    let several_seeds = seeds_of(group).len() > 1;
    if group.recipes().len() < 2 || places.is_empty() || !several_seeds {
        return None;
    }
    let heads = places
        .iter()
        .map(|&place| text(group.setting.place_name(place)));
    let caption = format!(
        "Lead in η over {baseline} where the gap is resolved, in points, paired by seed: mean difference of losses over the mean \
         gap, and 95 % interval (Fieller); bold where the interval excludes zero: {}",
        group.label
    );
    let mut table = Table::new(caption, 1, [text("recipe")].into_iter().chain(heads));
    let others = group.recipes().into_iter();
    for recipe in others.filter(|recipe| *recipe != baseline) {
        let cells = places
            .iter()
            .map(|&place| interval(&lead(group, recipe, baseline, place), 100.0, 1));
        let name = markup::recipe(recipe, palette);
        table.row([name].into_iter().chain(cells));
    }
    Some(table)
}

/// A mean with its interval, bold where that excludes zero.
fn interval(summary: &Summary, unit: f64, decimals: usize) -> Markup {
    if summary.n == 0 {
        return text(MISSING);
    }
    let mean = fixed(unit * summary.mean, decimals);
    match summary.interval {
        Some((low, high)) => {
            let [low_text, high_text] = [low, high].map(|end| fixed(unit * end, decimals));
            let remark = format!("{low_text} to {high_text}, n = {}", summary.n);
            match low > 0.0 || high < 0.0 {
                true => with_remark(html! { strong { (mean) } }, &remark),
                false => with_remark(mean, &remark),
            }
        }
        None => with_remark(mean, &format!("n = {}", summary.n)),
    }
}

/// Rise of `eta` with every doubling of the budget, by least squares for each seed.
pub(crate) fn trend(group: &Group, recipe: &str) -> Summary {
    let resolved: Vec<f64> = group
        .places()
        .into_iter()
        .filter(|&place| place > 0.0 && group.gap(place).is_resolved())
        .collect();
    let of_seed = |seed: u64| {
        let own = group
            .cells
            .iter()
            .filter(|cell| cell.recipe == recipe && cell.seed == seed);
        let points: Vec<(f64, f64)> = own
            .filter(|cell| resolved.contains(&cell.setting.place()))
            .filter_map(|cell| Some((cell.setting.place().log2(), cell.gap_closure?)))
            .collect();
        slope(&points)
    };
    summarize(seeds_of(group).into_iter().filter_map(of_seed))
}

/// Trends of all recipes; none without a second place.
pub(crate) fn trends(group: &Group, palette: &Palette) -> Option<Table> {
    if group.places().len() < 2 {
        return None;
    }
    let what = match group.setting.transition {
        Some(_) => "tau at the same number of steps",
        None => "the CPT budget",
    };
    let caption = format!(
        "Rise of η with every doubling of {what}, in points: least squares for each seed, then mean and 95 % \
         interval over seeds (Student t): {}",
        group.label
    );
    let mut table = Table::new(caption, 1, ["recipe", "points a doubling"]);
    for recipe in group.recipes() {
        let name = markup::recipe(recipe, palette);
        let trend = trend(group, recipe);
        if trend.n > 0 {
            table.row([name, interval(&trend, 100.0, 1)]);
        }
    }
    Some(table)
}

/// Rank correlation over recipes of the loss right after the operator with the final loss, seed by seed; of no seed with
/// fewer than four recipes.
pub(crate) fn foresight(group: &Group, place: f64) -> Summary {
    let of_seed = |seed: u64| {
        let own = group.cells.iter().filter(|cell| cell.seed == seed);
        let pairs: Vec<(f64, f64)> = own
            .filter(|cell| cell.setting.place() == place)
            .map(|cell| (cell.loss_after, cell.loss_upcycled))
            .collect();
        spearman(&pairs)
    };
    summarize(seeds_of(group).into_iter().filter_map(of_seed))
}

/// Seeds of a group, ascending.
pub(crate) fn seeds_of(group: &Group) -> Vec<u64> {
    let mut seeds: Vec<u64> = group.cells.iter().map(|cell| cell.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

#[cfg(test)]
mod tests {
    use maud::Render;

    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn pairs_are_of_the_same_seed() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            let lead = if cell.recipe == "distinct" { 0.25 } else { 0.0 };
            sample::set_eta(cell, cell.seed as f64 + lead);
        }
        let group = &groups(&results)[0];
        let lead = lead(group, "distinct", "paper", 0.5);
        assert_eq!(lead.n, 3);
        assert!((lead.mean - 0.25).abs() < 1e-12 && lead.sd < 1e-12);
        let table = leads(group, &Palette::new(&results))
            .unwrap()
            .render()
            .into_string();
        assert!(table.contains("<strong>25.0</strong>"), "{table}");
    }

    #[test]
    fn differences_of_losses_need_no_gap() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e;
            let own = if cell.recipe == "distinct" { 0.01 } else { 0.0 };
            cell.loss_upcycled = 1.5 + 0.1 * cell.seed as f64 - own;
        }
        let group = &groups(&results)[0];
        let palette = Palette::new(&results);
        assert!(leads(group, &palette).is_none());
        let table = loss_differences(group, &palette).unwrap();
        let table = table.render().into_string();
        assert_eq!(table.matches("<strong>−10.00</strong>").count(), 4);
        assert!(table.contains("less that of paper, in thousandths"));
        assert_eq!(winner(group, 0.5, validation), Some("distinct"));
    }

    #[test]
    fn nothing_wins_by_chance() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            let noise = if cell.recipe == "distinct" && cell.seed == 1 {
                0.2
            } else {
                0.0
            };
            cell.loss_upcycled = 1.5 - noise;
        }
        assert_eq!(winner(&groups(&results)[0], 0.5, validation), None);
        let one_seed = sample::seeds(1);
        assert_eq!(winner(&groups(&one_seed)[0], 0.5, validation), None);
        results.cells.retain(|cell| cell.recipe == "paper");
        assert_eq!(winner(&groups(&results)[0], 0.5, validation), None);
    }

    #[test]
    fn trends_are_points_a_doubling() {
        let mut results = sample::seeds(2);
        for cell in &mut results.cells {
            let doublings = cell.setting.cpt_fraction.log2();
            sample::set_eta(cell, cell.seed as f64 + 0.1 * doublings);
        }
        let group = &groups(&results)[0];
        let trend = trend(group, "paper");
        assert!((trend.mean - 0.1).abs() < 1e-12 && trend.n == 2);
        assert!(trends(group, &Palette::new(&results)).is_some());
    }

    #[test]
    fn one_seed_and_few_recipes_say_nothing() {
        let results = sample::seeds(1);
        let group = &groups(&results)[0];
        assert!(leads(group, &Palette::new(&results)).is_none());
        assert_eq!(foresight(group, 0.5).n, 0);
    }
}
