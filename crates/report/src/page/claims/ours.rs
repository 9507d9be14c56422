//! Our own claim.

use super::claim::Claim;
use crate::group::Group;
use crate::number::mean_interval;
use crate::page::comparisons::on_same_seeds;
use crate::results::Cell;
use crate::statistics::{SMALLEST_GAP, Test, ratio_of_means, summarize};

/// The recipes that are favoured here: of a sweep, the first that it has.
const FAVOURED: [&str; 3] = ["auto", "short-release", "exact"];

/// The favoured recipe of a sweep.
pub(super) fn favoured<'a>(group: &Group<'a>) -> Option<&'a str> {
    let recipes = group.recipes();
    let of_sweep = |name: &&str| recipes.iter().copied().find(|recipe| recipe == name);
    FAVOURED.iter().find_map(of_sweep)
}

const SHORT: f64 = 0.25;

/// The paper's recipe with the highest gap closure at a place.
fn highest_of_paper<'a>(group: &Group<'a>, place: f64) -> Option<&'a str> {
    let recipes = group.recipes().into_iter();
    recipes
        .filter(|recipe| group.is_of_paper(recipe))
        .map(|recipe| (recipe, group.seeds(recipe, place).eta().mean))
        .filter(|(_, eta)| eta.is_finite())
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(recipe, _)| recipe)
}

/// With a short CPT, twice the highest gap closure of the paper's recipes on these seeds, which is to our disadvantage.
pub(super) fn twice(group: &Group) -> Option<Claim> {
    let place = group.places().into_iter().find(|place| *place == SHORT)?;
    let paper = highest_of_paper(group, place)?;
    let own = favoured(group).filter(|_| group.setting.transition.is_none())?;
    if !group.gap(place).is_resolved() {
        return None;
    }
    let (ours, theirs) = (group.seeds(own, place), group.seeds(paper, place));
    let closed = |cell: &Cell| Some((cell.closed(), cell.gap()));
    // Share of the gap that is closed less `times` as much as the other recipe closes.
    let less = |times: f64| {
        let pairs: Vec<(f64, f64)> = on_same_seeds(&ours, &theirs, closed)
            .filter_map(|(own, paper)| Some((own?.0 - times * paper?.0, own?.1)))
            .collect();
        let differences = pairs.iter().map(|(difference, _)| difference);
        let test = Test::of(&summarize(differences), 0.0);
        (ratio_of_means(pairs.iter().copied(), SMALLEST_GAP), test)
    };
    let ((ahead, is_ahead), (twice, is_twice)) = (less(1.0), less(2.0));
    Some(Claim {
        text: "Ours: at CPT of 25 % of pre-training, η of the recipe favoured here is at least twice the highest of the \
               paper’s recipes on these seeds.",
        here: format!(
            "{own} less {paper}: {} points; less twice {paper}: {} points.",
            mean_interval(&ahead, 100.0, 1),
            mean_interval(&twice, 100.0, 1)
        ),
        test: Test::all_or_not(&[is_ahead, is_twice]),
    })
}
