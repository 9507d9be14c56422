//! The paper's claims, and whether they held in a sweep.

mod claim;
mod of_the_paper;
mod ours;

use crate::group::Group;
use crate::page::markup::{Table, text, wide};

/// What is open for lack of seeds, and what the paper's figures are.
pub(crate) const NOTE: &str = "A claim held, or did not, if all of the 95 % interval over seeds (Student t: few seeds, \
    unknown spread) says so; one seed can tell nothing. The paper reports no seeds. Sweeps test the claims that they have \
    the recipes for.";

/// A table of the claims that a group has the runs for; none if there is none.
pub(crate) fn claims(group: &Group) -> Option<Table> {
    let last = *group.places().last()?;
    let mut claims = of_the_paper::claims(group, last);
    // Without a gap to close a share of it has no meaning.
    if group.gap(last).is_resolved() {
        claims.extend(ours::twice(group));
    }
    let caption = format!("Claims: {}", group.label);
    let mut table = Table::new(caption, 1, [text("claim"), wide("here"), text("verdict")]);
    for claim in claims {
        table.row([
            wide(claim.text),
            wide(&claim.here),
            text(claim.verdict.name()),
        ]);
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use maud::Render;

    use super::ours::FAVOURED;
    use super::*;
    use crate::{group::groups, results::Results, sample};

    fn verdict(results: &Results, text: &str) -> String {
        let table = claims(&groups(results)[0]).unwrap().render().into_string();
        let row = table.split("<tr>").find(|row| row.contains(text));
        let row = row.unwrap_or_else(|| panic!("no claim on {text}: {table}"));
        let verdicts = ["did not hold", "cannot be told", "held"];
        let verdict = verdicts
            .into_iter()
            .find(|v| row.contains(&format!(">{v}<")));
        verdict.unwrap().to_owned()
    }

    #[test]
    fn intervals_decide() {
        // Gap closures of the recipe `paper` fall short of 90 % and rise; its loss jumps by 0.5 nats.
        let results = sample::seeds(5);
        assert_eq!(verdict(&results, "More experts"), "held");
        assert_eq!(verdict(&results, "rises with the CPT budget"), "held");
        assert_eq!(verdict(&results, "as long as pre-training"), "did not hold");
        assert_eq!(verdict(&results, "less than 0.01 nats"), "did not hold");
    }

    #[test]
    fn unresolved_gaps_have_no_say() {
        let mut results = sample::seeds(5);
        for cell in &mut results.cells {
            cell.setting.transition = Some(cell.setting.cpt_fraction);
            cell.gap_closure = Some(0.95 + 0.001 * cell.seed as f64);
            if cell.setting.cpt_fraction == 0.1 {
                cell.loss_fixed_me = cell.loss_fixed_e;
                cell.gap_closure = Some(-3.0 + 0.001 * cell.seed as f64);
            }
        }
        assert_eq!(verdict(&results, "hardly matters"), "held");
    }

    #[test]
    fn one_seed_can_tell_nothing() {
        let results = sample::seeds(1);
        assert_eq!(verdict(&results, "More experts"), "cannot be told");
        assert_eq!(
            verdict(&results, "rises with the CPT budget"),
            "cannot be told"
        );
    }

    #[test]
    fn twice_a_negative_figure_is_no_merit() {
        let mut results = sample::seeds(5);
        let set = |results: &mut Results, own: f64, paper: f64| {
            for cell in &mut results.cells {
                if cell.recipe == "distinct" {
                    cell.recipe = FAVOURED.into();
                }
                let eta = if cell.recipe == FAVOURED { own } else { paper };
                cell.gap_closure = Some(eta + 0.01 * cell.seed as f64);
            }
        };
        for (own, paper, expected) in [
            (0.5, 0.2, "held"),
            (0.3, 0.2, "did not hold"),
            (-0.6, -0.5, "did not hold"),
            (0.1, -0.5, "held"),
        ] {
            set(&mut results, own, paper);
            assert_eq!(verdict(&results, "Ours:"), expected, "{own} and {paper}");
        }
    }
}
