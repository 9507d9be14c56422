//! The comparisons as a table for the terminal.

use crate::group::{ANNEALED, Group, Seeds, groups};
use crate::number::{fixed, mean_interval, mean_sd, percent};
use crate::page::comparisons::{loss_difference, validation};
use crate::results::{Cell, Results};

/// No line is longer than this.
const WIDTH: usize = 100;
const GAP: &str = "  ";
const HEAD: Row<&str> = [
    "scale", "experts", "K", "CPT", "recipe", "L(E)", "L(up)", "L(mE)", "operator", "eta %",
    "test %", "n",
];
/// Columns of names stand at the left.
const SCALE: usize = 0;
const PLACE: usize = 3;
const RECIPE: usize = 4;
const ETA: usize = 9;
const SEEDS: usize = 11;
const LONGEST_SCALE: usize = 8;
/// Stands behind a gap closure that is noise.
const UNRESOLVED: &str = " ?";
const FOOT: &str = "L: validation loss of Fixed-E, Upcycled and Fixed-mE in nats a token, means over n seeds;\n\
                    operator: loss right before and after it; eta: gap closure, mean difference over mean gap\n\
                    ± standard deviation of seeds; test: the same on the test split.\n";
/// Added where a line has no gap closure.
const FOOT_WITHOUT_ETA: &str = "eta -: no gap closure, as Fixed-mE is not ahead of Fixed-E by 0.001 nats, or a run diverged.\n";
/// Added where a gap closure is noise.
const FOOT_UNRESOLVED: &str =
    "eta ?: the gap of Fixed-mE to Fixed-E is not resolved; a share of it, test too, is noise.\n";
/// Added where a run diverged.
const FOOT_INCOMPLETE: &str =
    "n 1/2: one of two seeds has all three losses, and all means are over it.\n";

type Row<T> = [T; 12];

/// One line for each scale, E → mE, K, recipe and CPT fraction or transition: validation losses of the three models and the loss
/// before → after the operator (nats a token), gap closure on validation and on the test split, with `?` where the gap is not
/// resolved, and the number of seeds that all of these means are over (`1/2`: one of two seeds has all three losses). Below it
/// the differences of losses between recipes, whatever the gap.
///
/// At most 100 columns wide; long names are shortened. Sweeps over several data sources or protocols, and
/// those of the annealed protocol, get a heading for each.
pub fn table(results: &Results) -> String {
    let groups = groups(results);
    let rows: Vec<(String, Row<String>)> = groups.iter().flat_map(rows).collect();
    let Some((first, _)) = rows.first() else {
        return "No cell has finished yet.\n".to_owned();
    };
    let annealed = groups.iter().any(|g| g.setting.protocol == ANNEALED);
    let headings = annealed || rows.iter().any(|(heading, _)| heading != first);
    let widths = widths(&rows);
    let mut head = HEAD.map(str::to_owned);
    if groups.iter().all(|g| g.setting.transition.is_some()) {
        head[PLACE] = "τ/T".to_owned();
    }
    let mut table = line(&head, &widths);
    let mut last = None;
    for (heading, row) in &rows {
        if headings && last != Some(heading) {
            table += &format!("{}:\n", shortened(heading, WIDTH - 1));
        }
        last = Some(heading);
        table += &line(row, &widths);
    }
    table += FOOT;
    if rows.iter().any(|(_, row)| row[ETA] == "-") {
        table += FOOT_WITHOUT_ETA;
    }
    if rows.iter().any(|(_, row)| row[ETA].ends_with(UNRESOLVED)) {
        table += FOOT_UNRESOLVED;
    }
    if rows.iter().any(|(_, row)| row[SEEDS].contains('/')) {
        table += FOOT_INCOMPLETE;
    }
    table + &differences(&groups)
}

/// The lines of a group, each with the heading that it stands under.
fn rows(group: &Group) -> Vec<(String, Row<String>)> {
    let setting = group.setting;
    let mut heading = format!("{}, {}", setting.data, setting.protocol);
    let growth = setting.grows.map(|_| setting.growth_name());
    let names = [growth, setting.cpt_lr_name(), setting.length_name()];
    heading.extend(names.into_iter().flatten().map(|name| format!(", {name}")));
    let comparisons = group.comparisons();
    comparisons
        .iter()
        .map(|seeds| (heading.clone(), row(group, seeds)))
        .collect()
}

fn row(group: &Group, seeds: &Seeds) -> Row<String> {
    let setting = group.setting;
    let complete = seeds.complete();
    let loss = |quantity: fn(&Cell) -> f64| plain(&fixed(complete.summary(quantity).mean, 3));
    let etas = seeds.eta();
    let (defined, all) = (etas.n, seeds.cells.len());
    let mut eta = plain(&mean_sd(&etas, 100.0, 1));
    if etas.mean.is_finite() && !group.gap(seeds.place).is_resolved() {
        eta += UNRESOLVED;
    }
    [
        setting.scale.clone(),
        format!("{}→{}", setting.experts, setting.target_experts),
        setting.top_k.to_string(),
        percent(seeds.place).replace('\u{a0}', ""),
        seeds.recipe.to_owned(),
        loss(|c| c.loss_fixed_e),
        loss(|c| c.loss_upcycled),
        loss(|c| c.loss_fixed_me),
        format!("{}→{}", loss(|c| c.loss_before), loss(|c| c.loss_after)),
        eta,
        seeds
            .test_eta()
            .filter(|test| test.n == defined)
            .map_or("-".to_owned(), |eta| plain(&fixed(100.0 * eta.mean, 1))),
        if defined == all {
            all.to_string()
        } else {
            format!("{defined}/{all}")
        },
    ]
}

const DIFFERENCES: &str = "Final loss less that of one recipe in 0.001 nats, paired by seed (95 % interval, * if without zero):\n";
/// Names of recipes are shortened to this.
const LONGEST_NAME: usize = 36;

/// Final losses of all recipes less that of the baseline, paired by seed; nothing where no group has two recipes.
fn differences(groups: &[Group]) -> String {
    let lines: Vec<String> = groups.iter().flat_map(differences_of).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("\n{DIFFERENCES}{}", lines.concat()),
    }
}

/// The lines of a group: a heading that names the baseline, and a line for every other recipe at every place.
fn differences_of(group: &Group) -> Vec<String> {
    let recipes = group.recipes();
    let Some(baseline) = group.baseline().filter(|_| recipes.len() > 1) else {
        return Vec::new();
    };
    let named = shortened(baseline, LONGEST_NAME);
    let room = WIDTH - named.chars().count() - ", less :".len();
    let mut lines = vec![format!(
        "{}, less {named}:\n",
        shortened(&group.label, room)
    )];
    let others = recipes.iter().copied().filter(|recipe| *recipe != baseline);
    let others: Vec<(&str, String)> = others
        .map(|recipe| (recipe, shortened(recipe, LONGEST_NAME)))
        .collect();
    let width = others.iter().map(|(_, name)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    for place in group.places() {
        for (recipe, name) in &others {
            let difference = loss_difference(group, recipe, baseline, place, validation);
            if difference.n == 0 {
                continue;
            }
            let place = percent(place).replace('\u{a0}', "");
            let told = plain(&mean_interval(&difference, 1e3, 2));
            let without_zero = |&(low, high): &(f64, f64)| low > 0.0 || high < 0.0;
            let star = match difference.interval.filter(without_zero) {
                Some(_) => "*",
                None => "",
            };
            lines.push(format!(
                "  {place:>6}  {name:<width$}  {told}{star}, n = {}\n",
                difference.n
            ));
        }
    }
    lines
}

/// Hyphens for minus signs and dashes, so that scripts can read the numbers.
fn plain(text: &str) -> String {
    text.replace(['−', '–'], "-")
}

fn widths(rows: &[(String, Row<String>)]) -> Row<usize> {
    let mut widths = HEAD.map(|head| head.chars().count());
    for (_, row) in rows {
        for (width, field) in widths.iter_mut().zip(row) {
            *width = field.chars().count().max(*width);
        }
    }
    widths[SCALE] = widths[SCALE].min(LONGEST_SCALE);
    let others: usize = widths.iter().sum::<usize>() - widths[RECIPE];
    let left = WIDTH.saturating_sub(others + GAP.len() * (HEAD.len() - 1));
    widths[RECIPE] = widths[RECIPE].min(left);
    widths
}

fn line(row: &Row<String>, widths: &Row<usize>) -> String {
    let fields = row.iter().zip(widths).enumerate();
    let padded = fields.map(|(column, (field, &width))| match column {
        SCALE | RECIPE => format!("{:<width$}", shortened(field, width)),
        _ => format!("{field:>width$}"),
    });
    padded.collect::<Vec<_>>().join(GAP) + "\n"
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn fits_a_terminal() {
        for results in [sample::results(), sample::two_top_k(), sample::odd()] {
            let table = table(&results);
            for line in table.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn one_line_a_comparison() {
        let table = table(&sample::results());
        // Head, comparisons and foot; a blank line, two headings and differences.
        assert_eq!(table.lines().count(), 1 + 8 + 3 + 1 + 2 + 4);
        let line = table.lines().nth(2).unwrap();
        assert!(line.contains("distinct") && line.contains("8→16"), "{line}");
    }

    #[test]
    fn lengths_have_headings() {
        let table = table(&sample::lengths());
        for length in ["1.02M", "16.4M"] {
            let heading = format!("chains, trunk, {length} tokens of pre-training:\n");
            assert!(table.contains(&heading), "{table}");
        }
    }

    #[test]
    fn headings_where_data_differ() {
        let mut results = sample::results();
        for cell in &mut results.cells[8..] {
            cell.setting.protocol = "annealed".into();
        }
        let table = table(&results);
        assert!(table.contains("chains, trunk:\n") && table.contains("chains, annealed:\n"));
    }

    #[test]
    fn a_missing_gap_closure_is_explained() {
        assert!(!table(&sample::results()).contains("eta -"));
        let mut results = sample::seeds(1);
        results.cells[0].loss_fixed_me = results.cells[0].loss_fixed_e;
        assert!(table(&results).contains("eta -: no gap closure"));
    }

    #[test]
    fn noise_is_called_so() {
        assert!(!table(&sample::results()).contains('?'));
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e - 0.004;
            sample::set_eta(cell, 0.5);
        }
        let table = table(&results);
        assert!(table.contains("  50.0 ?  "), "{table}");
        assert!(table.contains("eta ?: the gap of Fixed-mE"), "{table}");
    }

    #[test]
    fn recipes_are_compared_whatever_the_gap() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e;
            let own = if cell.recipe == "distinct" { 0.25 } else { 0.5 };
            cell.loss_upcycled = own + cell.seed as f64;
        }
        let told = table(&results);
        assert!(told.contains("tiny, 8 to 16 experts, top-2, less paper:\n"));
        let line = "\n     25%  distinct  -250.00 (-250.00 to -250.00)*, n = 3\n";
        assert!(told.contains(line), "{told}");
        results.baseline = Some("distinct".into());
        let told = table(&results);
        assert!(told.contains("  paper  250.00 (250.00 to 250.00)*, n = 3\n"));
        results.cells.retain(|cell| cell.recipe == "paper");
        assert!(!table(&results).contains("less"));
    }

    #[test]
    fn all_means_are_over_the_same_seeds() {
        let mut results = sample::results();
        results.cells.truncate(4);
        for (cell, loss) in results.cells.iter_mut().zip([1.5, 1.5, 1.9, 1.9]) {
            (cell.loss_fixed_e, cell.loss_fixed_me) = (loss, loss - 0.1);
            sample::set_eta(cell, 0.5);
        }
        results.cells[2].loss_upcycled = f64::NAN;
        let table = table(&results);
        let of = |recipe: &str| {
            let line = table.lines().find(|line| line.contains(recipe)).unwrap();
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("paper")[5..8], ["1.500", "1.450", "1.400"]);
        assert_eq!(of("distinct")[5..8], ["1.700", "1.650", "1.600"]);
        assert!(table.contains("n 1/2: one of two seeds"), "{table}");
    }

    #[test]
    fn the_annealed_protocol_has_a_heading() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.setting.protocol = ANNEALED.into();
        }
        assert!(table(&results).contains("chains, annealed:\n"));
    }

    #[test]
    fn nothing_finished() {
        assert_eq!(table(&sample::empty()), "No cell has finished yet.\n");
    }
}
