//! Tables of gap closure, of final losses, of the loss around the operator, and the rows of single seeds.

use crate::group::{Group, Seeds};
use maud::Markup;

use crate::model::Model;
use crate::number::{MISSING, count, fixed, mean_sd, percent};
use crate::page::comparisons::{validation, winner};
use crate::page::markup::{self, Table, marked, text, with_remark};
use crate::plot::palette::Palette;
use crate::results::Cell;
use crate::statistics::{Summary, summarize};

/// Gap closure on validation: recipes down, places across.
pub(crate) fn gap_closures(group: &Group, palette: &Palette) -> Table {
    etas(group, palette, "on validation", validation, |seeds| {
        Some((seeds.eta(), summarize(seeds.ratios())))
    })
}

/// The same on the test split; none where nothing was tested.
pub(crate) fn test_gap_closures(group: &Group, palette: &Palette) -> Option<Table> {
    let comparisons = group.comparisons();
    let tested = comparisons.iter().any(|seeds| seeds.test_eta().is_some());
    tested.then(|| {
        etas(
            group,
            palette,
            "on the test split, which no choice has seen",
            |cell| cell.test_loss_upcycled,
            |seeds| Some((seeds.test_eta()?, summarize(seeds.test_ratios()))),
        )
    })
}

/// Gap closure of all seeds together, and that of single seeds, for every recipe and place; bold where the recipe is the best
/// there by its loss.
fn etas(
    group: &Group,
    palette: &Palette,
    on: &str,
    loss: fn(&Cell) -> Option<f64>,
    of: impl Fn(&Seeds) -> Option<(Summary, Summary)>,
) -> Table {
    let places = group.places();
    let budgets = places.iter().map(|&place| {
        let budget = group.setting.place_name(place);
        match group.gap(place).is_resolved() {
            true => text(budget),
            false => with_remark(budget, "gap not resolved"),
        }
    });
    let head = [text("recipe")].into_iter().chain(budgets);
    let caption = format!(
        "Gap closure η in % {on}: mean difference over mean gap of n seeds, its 95 % interval (Fieller), and mean ± standard \
         deviation of the seeds’ own ratios, where they have one; {BEST}: {}",
        group.label
    );
    let mut table = Table::new(caption, 1, head);
    let winners: Vec<Option<&str>> = places
        .iter()
        .map(|&place| winner(group, place, loss))
        .collect();
    for recipe in group.recipes() {
        let name = markup::recipe(recipe, palette);
        let cells = places.iter().zip(&winners).map(|(&place, winner)| {
            let is_best = *winner == Some(recipe);
            let found = of(&group.seeds(recipe, place));
            found.map_or(text(MISSING), |etas| eta(etas, is_best))
        });
        table.row([name].into_iter().chain(cells));
    }
    table
}

/// What bold figures of a column are.
const BEST: &str = "bold where the paired differences of losses to all other recipes have 95 % intervals without zero";

/// Gap closure of all seeds together, and of those that have one of their own.
fn eta((eta, own): (Summary, Summary), is_best: bool) -> Markup {
    if eta.n == 0 {
        return text(MISSING);
    }
    let mut remark = format!("n = {}", eta.n);
    if let Some((low, high)) = eta.interval {
        remark += &format!(", {} to {}", fixed(100.0 * low, 1), fixed(100.0 * high, 1));
    }
    if own.n > 1 {
        remark += &format!("; {}", mean_sd(&own, 100.0, 1));
    }
    if own.n < eta.n {
        remark += &format!(", {} without", eta.n - own.n);
    }
    let number = marked(fixed(100.0 * eta.mean, 1), is_best);
    with_remark(number, &remark)
}

/// Final losses of the three models.
pub(crate) fn losses(group: &Group, palette: &Palette) -> Table {
    let caption = format!(
        "Final loss in nats a token on validation and, where it was evaluated, on the test split: mean ± standard deviation over \
         the seeds that gap closure is over, of which all three models have a loss; {BEST}: {}",
        group.label
    );
    let head = [
        "at".to_owned(),
        "recipe".to_owned(),
        Model::FixedE.label(group.setting),
        "Upcycled".to_owned(),
        Model::FixedMe.label(group.setting),
        "seeds".to_owned(),
    ];
    let mut table = Table::new(caption, 2, head);
    for all in group.comparisons() {
        let seeds = all.complete();
        let is_best = winner(group, seeds.place, validation) == Some(seeds.recipe);
        let loss = |quantity: fn(&Cell) -> f64, tested: fn(&Cell) -> Option<f64>, is_best| {
            let loss = marked(mean_sd(&seeds.summary(quantity), 1.0, 4), is_best);
            let tested = summarize(seeds.cells.iter().filter_map(|c| tested(c)));
            let mut remark = format!("test {}", mean_sd(&tested, 1.0, 4));
            if tested.n < seeds.cells.len() {
                remark += &format!(", n = {}", tested.n);
            }
            match tested.n {
                0 => text(loss),
                _ => with_remark(loss, &remark),
            }
        };
        table.row([
            text(group.setting.place_name(seeds.place)),
            markup::recipe(seeds.recipe, palette),
            loss(|c| c.loss_fixed_e, |c| c.test_loss_fixed_e, false),
            loss(|c| c.loss_upcycled, |c| c.test_loss_upcycled, is_best),
            loss(|c| c.loss_fixed_me, |c| c.test_loss_fixed_me, false),
            text(number_of(&seeds, &all)),
        ]);
    }
    table
}

/// How many seeds a mean is over, and of how many where it is not over all.
fn number_of(seeds: &Seeds, all: &Seeds) -> String {
    match (seeds.cells.len(), all.cells.len()) {
        (own, all) if own == all => all.to_string(),
        (own, all) => format!("{own} of {all}"),
    }
}

/// The loss right before and after the operator. The CPT budgets of a seed share the operator, so a seed counts once; every
/// transition has its own.
pub(crate) fn jumps(group: &Group, palette: &Palette) -> Table {
    let caption = format!(
        "Right before and after the operator, validation loss in nats a token: {}",
        group.label
    );
    let head = [
        "recipe",
        "at",
        "before",
        "after",
        "jump",
        "change of logits",
        "tokens with other sources",
        "tokens with twins",
        "seeds",
    ];
    let mut table = Table::new(caption, 2, head);
    let operators = group.recipes().into_iter().flat_map(|recipe| {
        let places = match group.setting.transition {
            Some(_) => group.places().into_iter().map(Some).collect(),
            None => vec![None],
        };
        places.into_iter().map(move |place| (recipe, place))
    });
    for (recipe, place) in operators {
        let mut cells: Vec<&Cell> = Vec::new();
        for cell in group.cells.iter().filter(|c| c.recipe == recipe) {
            let here = place.is_none_or(|place| place == cell.setting.place());
            if here && !cells.iter().any(|c| c.seed == cell.seed) {
                cells.push(cell);
            }
        }
        if cells.is_empty() {
            continue;
        }
        let at = place.map_or("τ".to_owned(), |place| group.setting.place_name(place));
        let loss = |quantity: fn(&Cell) -> f64| {
            let values = cells.iter().map(|c| quantity(c));
            text(mean_sd(&summarize(values), 1.0, 4))
        };
        let mean = |quantity: fn(&Cell) -> f64| {
            cells.iter().map(|c| quantity(c)).sum::<f64>() / cells.len() as f64
        };
        table.row([
            markup::recipe(recipe, palette),
            text(at),
            loss(|c| c.loss_before),
            loss(|c| c.loss_after),
            loss(|c| c.loss_after - c.loss_before),
            text(percent(mean(|c| c.logit_difference))),
            text(percent(mean(|c| c.changed_sources))),
            text(percent(mean(|c| c.twin_coselection))),
            text(cells.len()),
        ]);
    }
    table
}

/// Each cell on its own.
pub(crate) fn cells(group: &Group, palette: &Palette) -> Table {
    let head = [
        "at".to_owned(),
        "recipe".to_owned(),
        "seed".to_owned(),
        "tokens before + after τ".to_owned(),
        Model::FixedE.label(group.setting),
        "Upcycled".to_owned(),
        Model::FixedMe.label(group.setting),
        "before".to_owned(),
        "after".to_owned(),
        "η in %".to_owned(),
        "backend".to_owned(),
    ];
    let mut table = Table::new(format!("Single seeds: {}", group.label), 3, head);
    for cell in &group.cells {
        let tokens = [cell.pretrain_tokens, cell.cpt_tokens].map(|t| count(t as f64));
        let loss = |value: f64| text(fixed(value, 4));
        let eta = cell.gap_closure.unwrap_or(f64::NAN);
        table.row([
            text(group.setting.place_name(cell.setting.place())),
            markup::recipe(&cell.recipe, palette),
            text(cell.seed),
            text(tokens.join(" + ")),
            loss(cell.loss_fixed_e),
            loss(cell.loss_upcycled),
            loss(cell.loss_fixed_me),
            loss(cell.loss_before),
            loss(cell.loss_after),
            text(fixed(100.0 * eta, 1)),
            text(&cell.backend),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use maud::Render;

    use super::*;
    use crate::group::groups;
    use crate::results::Results;
    use crate::sample;

    fn table(results: &Results) -> String {
        gap_closures(&groups(results)[0], &Palette::new(results))
            .render()
            .into_string()
    }

    #[test]
    fn two_seeds_have_an_interval() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            sample::set_eta(cell, 0.4 + 0.2 * cell.seed as f64);
        }
        let table = table(&results);
        assert!(table.contains("; 50.0 ± 14.1</small>"), "{table}");
        assert!(!table.contains("not resolved"));
    }

    #[test]
    fn only_what_is_ahead_of_all_by_more_than_chance_is_marked() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            let own = if cell.recipe == "distinct" { 0.6 } else { 0.2 };
            let own = if cell.setting.cpt_fraction == 1.0 {
                0.4
            } else {
                own
            };
            sample::set_eta(cell, own);
        }
        let table = table(&results);
        assert_eq!(table.matches("<strong>60.0</strong>").count(), 3, "{table}");
        assert_eq!(table.matches("<strong>").count(), 3, "{table}");
        let groups = groups(&results);
        let losses = losses(&groups[0], &Palette::new(&results));
        let losses = losses.render().into_string();
        assert_eq!(losses.matches("<td><strong>").count(), 3, "{losses}");
    }

    #[test]
    fn losses_are_over_the_seeds_of_gap_closure() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            (cell.loss_fixed_e, cell.loss_fixed_me) = (1.5 + cell.seed as f64, 1.25);
            if cell.seed == 1 && cell.recipe == "paper" {
                cell.loss_upcycled = f64::NAN;
            }
        }
        let groups = groups(&results);
        let table = losses(&groups[0], &Palette::new(&results));
        let table = table.render().into_string();
        assert!(table.contains("<td>1 of 2</td>"), "{table}");
        assert_eq!(table.matches("<td>1.5000<br>").count(), 4, "{table}");
    }

    #[test]
    fn one_seed_has_none_and_noise_is_marked() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e - 0.004;
        }
        let table = table(&results);
        assert!(table.contains("<small>n = 1</small>"), "{table}");
        assert!(table.contains("<small>gap not resolved</small>"), "{table}");
    }
}
