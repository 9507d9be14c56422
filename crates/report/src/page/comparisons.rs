//! What can be told apart: recipes on the same seeds, the trend over budgets, and what the loss right after the operator
//! says of the final one.

use maud::{Markup, html};

use crate::group::{Group, Seeds};
use crate::number::{MISSING, fixed};
use crate::page::markup::{self, Table, text, with_remark};
use crate::plot::palette::Palette;
use crate::results::Cell;
use crate::statistics::{SMALLEST_GAP, Summary, ratio_of_means, slope, spearman, summarize};

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

/// The recipe that others are compared with at a place: the best of the paper's that is there, else the first.
pub(crate) fn reference<'a>(group: &Group<'a>, place: f64) -> Option<&'a str> {
    let recipes = group.recipes();
    let eta = |recipe: &'a str| group.seeds(recipe, place).eta().mean;
    let own = recipes
        .iter()
        .copied()
        .filter(|recipe| group.is_of_paper(recipe));
    own.filter(|recipe| eta(recipe).is_finite())
        .max_by(|a, b| eta(a).total_cmp(&eta(b)))
        .or(recipes.first().copied())
}

/// Lead of every recipe over the reference, paired by seed; none where there is nothing to compare.
pub(crate) fn leads(group: &Group, palette: &Palette) -> Option<Table> {
    let places = group.places();
    let resolved = |place: &f64| group.gap(*place).is_resolved();
    let places: Vec<f64> = places.into_iter().filter(resolved).collect();
    let several_seeds = seeds_of(group).len() > 1;
    if group.recipes().len() < 2 || places.is_empty() || !several_seeds {
        return None;
    }
    let heads = places.iter().map(|&place| {
        let reference = reference(group, place).unwrap_or(MISSING);
        with_remark(
            group.setting.place_name(place),
            &format!("less {reference}"),
        )
    });
    let caption = format!(
        "Lead in η over the paper’s best recipe there (without one, over the first recipe), in points, paired by seed: mean \
         difference of losses over the mean gap, and 95 % interval (Fieller); \
         bold where the interval excludes zero: {}",
        group.label
    );
    let mut table = Table::new(caption, 1, [text("recipe")].into_iter().chain(heads));
    for recipe in group.recipes() {
        let cells = places.iter().map(|&place| match reference(group, place) {
            Some(reference) if reference != recipe => {
                difference(&lead(group, recipe, reference, place), 100.0, 1)
            }
            _ => text(MISSING),
        });
        let name = markup::recipe(recipe, palette);
        table.row([name].into_iter().chain(cells));
    }
    Some(table)
}

/// A mean with its interval, bold where that excludes zero.
fn difference(summary: &Summary, unit: f64, decimals: usize) -> Markup {
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
            table.row([name, difference(&trend, 100.0, 1)]);
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
        assert_eq!(reference(group, 0.5), Some("paper"));
        let table = leads(group, &Palette::new(&results))
            .unwrap()
            .render()
            .into_string();
        assert!(table.contains("<strong>25.0</strong>"), "{table}");
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
