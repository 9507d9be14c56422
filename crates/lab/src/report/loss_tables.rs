//! Tables of gap closure, of final losses, of the loss around the operator, and the rows of single seeds.

use crate::group::{Group, Model, Seeds};
use crate::number::{MISSING, count, fixed, mean_sd, percent};
use crate::plot::palette::Palette;
use crate::report::markup::{Html, Table};
use crate::results::Cell;
use crate::statistics::summarize;

/// Gap closure: recipes down, CPT fractions across.
pub(crate) fn gap_closures(group: &Group, palette: &Palette) -> Table {
    let fractions = group.cpt_fractions();
    let budgets = fractions.iter().map(|f| format!("CPT {}", percent(*f)));
    let head = [String::from("recipe")].into_iter().chain(budgets);
    let caption = format!(
        "Gap closure η in %, mean ± standard deviation over seeds: {}",
        group.label
    );
    let mut table = Table::new(caption, 1, head);
    for recipe in group.recipes() {
        let name = Html::model(recipe, palette.look(Model::Upcycled(recipe)));
        let etas = fractions
            .iter()
            .map(|f| gap_closure(&group.seeds(recipe, *f)));
        table.row([name].into_iter().chain(etas));
    }
    table
}

fn gap_closure(seeds: &Seeds) -> Html {
    let etas = seeds.gap_closures();
    let summary = summarize(&etas);
    let undefined = seeds.cells.len() - etas.len();
    let mut remark = format!("n = {}", summary.n);
    if summary.n > 1 {
        let least = etas.iter().copied().fold(f64::INFINITY, f64::min);
        let most = etas.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        remark += &format!(
            ", {} to {}",
            fixed(100.0 * least, 1),
            fixed(100.0 * most, 1)
        );
    }
    if undefined > 0 {
        remark += &format!(", {undefined} undefined");
    }
    match seeds.cells.len() {
        0 => MISSING.into(),
        _ => Html::with_remark(&mean_sd(&summary, 100.0, 1), &remark),
    }
}

/// Final losses of the three models.
pub(crate) fn losses(group: &Group, palette: &Palette) -> Table {
    let caption = format!(
        "Final validation loss in nats a token, mean ± standard deviation over seeds: {}",
        group.label
    );
    let head = [
        "CPT".to_owned(),
        "recipe".to_owned(),
        Model::FixedE.label(group.setting),
        "Upcycled".to_owned(),
        Model::FixedMe.label(group.setting),
        "seeds".to_owned(),
    ];
    let mut table = Table::new(caption, 2, head);
    for seeds in group.comparisons() {
        let loss = |quantity: fn(&Cell) -> f64| mean_sd(&seeds.summary(quantity), 1.0, 4).into();
        table.row([
            percent(seeds.cpt_fraction).into(),
            Html::model(seeds.recipe, palette.look(Model::Upcycled(seeds.recipe))),
            loss(|c| c.loss_fixed_e),
            loss(|c| c.loss_upcycled),
            loss(|c| c.loss_fixed_me),
            seeds.cells.len().to_string().into(),
        ]);
    }
    table
}

/// The loss right before and after the operator. The CPT budgets of a seed share the operator, so a seed counts once.
pub(crate) fn jumps(group: &Group, palette: &Palette) -> Table {
    let caption = format!(
        "Validation loss right before and after the operator, nats a token: {}",
        group.label
    );
    let head = ["recipe", "before", "after", "jump", "seeds"];
    let mut table = Table::new(caption, 1, head);
    for recipe in group.recipes() {
        let mut cells: Vec<&Cell> = Vec::new();
        for cell in group.cells.iter().filter(|c| c.recipe == recipe) {
            if !cells.iter().any(|c| c.seed == cell.seed) {
                cells.push(cell);
            }
        }
        let loss = |quantity: fn(&Cell) -> f64| {
            let values: Vec<f64> = cells.iter().map(|c| quantity(c)).collect();
            mean_sd(&summarize(&values), 1.0, 4).into()
        };
        table.row([
            Html::model(recipe, palette.look(Model::Upcycled(recipe))),
            loss(|c| c.loss_before),
            loss(|c| c.loss_after),
            loss(|c| c.loss_after - c.loss_before),
            cells.len().to_string().into(),
        ]);
    }
    table
}

/// Each cell on its own.
pub(crate) fn cells(group: &Group, palette: &Palette) -> Table {
    let head = [
        "CPT".to_owned(),
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
        let loss = |value: f64| fixed(value, 4).into();
        let eta = cell.gap_closure.unwrap_or(f64::NAN);
        table.row([
            percent(cell.setting.cpt_fraction).into(),
            Html::model(&cell.recipe, palette.look(Model::Upcycled(&cell.recipe))),
            cell.seed.to_string().into(),
            tokens.join(" + ").into(),
            loss(cell.loss_fixed_e),
            loss(cell.loss_upcycled),
            loss(cell.loss_fixed_me),
            loss(cell.loss_before),
            loss(cell.loss_after),
            fixed(100.0 * eta, 1).into(),
            cell.backend.as_str().into(),
        ]);
    }
    table
}
