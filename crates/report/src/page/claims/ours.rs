//! Our own claim.

use super::claim::{Claim, Verdict, told};
use crate::group::Group;
use crate::page::comparisons::{on_same_seeds, reference};
use crate::statistics::paired;

/// The recipe that the default sweep and `upcycle` favour, with a short CPT.
pub(super) const FAVOURED: &str = "exact";
const SHORT: f64 = 0.25;

/// With a short CPT, twice the gap closure of the best of the paper's recipes.
pub(super) fn twice(group: &Group) -> Option<Claim> {
    let place = group.places().into_iter().find(|place| *place == SHORT)?;
    let paper = reference(group, place).filter(|recipe| group.is_of_paper(recipe))?;
    let own = group.recipes().contains(&FAVOURED) && group.setting.transition.is_none();
    if !own || !group.gap(place).is_resolved() {
        return None;
    }
    let (ours, theirs) = (group.seeds(FAVOURED, place), group.seeds(paper, place));
    let etas = on_same_seeds(&ours, &theirs, |cell| cell.gap_closure);
    let (ahead, twice): (Vec<_>, Vec<_>) = etas
        .map(|(own, paper)| ((own, paper), (own, paper.map(|eta| 2.0 * eta))))
        .unzip();
    let (ahead, twice) = (paired(ahead), paired(twice));
    let verdicts = [&ahead, &twice].map(|difference| Verdict::above(difference, 0.0));
    Some(Claim {
        text: "Ours: at CPT of 25 % of pre-training, η of the recipe `exact` is at least twice that of the best of the \
               paper’s recipes.",
        here: format!(
            "{FAVOURED} less {paper}: {} points; less twice {paper}: {} points.",
            told(&ahead, 100.0, 1),
            told(&twice, 100.0, 1)
        ),
        verdict: match verdicts {
            [Verdict::Held, Verdict::Held] => Verdict::Held,
            verdicts if verdicts.contains(&Verdict::DidNotHold) => Verdict::DidNotHold,
            _ => Verdict::Open,
        },
    })
}
