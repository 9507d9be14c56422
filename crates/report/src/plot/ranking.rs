//! The figure of gap closure where there is one place and many recipes: a row for each, the best first.

use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

use crate::group::Group;
use crate::model::Model;
use crate::plot::axis::{extent, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, WIDTH, draw};
use crate::statistics::summarize;

/// Height of a row.
const ROW: i32 = 34;
/// Room for the names.
const NAMES: i32 = 520;
/// Fewer seeds speak for themselves.
const SEEDS_FOR_A_BAR: usize = 3;

/// Recipes by gap closure; none if no cell has one.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let Some(place) = group.places().last().copied() else {
        return Ok(None);
    };
    let mut rows: Vec<(&str, Look, Vec<f64>)> = group
        .recipes()
        .into_iter()
        .map(|recipe| {
            let etas = group.seeds(recipe, place).gap_closures();
            let etas = etas.into_iter().map(|eta| 100.0 * eta).collect();
            (recipe, palette.look(Model::Upcycled(recipe)), etas)
        })
        .filter(|(_, _, etas): &(_, _, Vec<f64>)| !etas.is_empty())
        .collect();
    rows.sort_by(|a, b| summarize(&b.2).mean.total_cmp(&summarize(&a.2).mean));
    let Some(all) = extent(rows.iter().flat_map(|row| row.2.iter().copied())) else {
        return Ok(None);
    };
    let title = format!(
        "Gap closure at {}: {}",
        group.setting.place_name(place),
        group.label
    );
    let x = widened(&(all.start.min(0.0)..all.end.max(0.0)), 0.04, 0.04);
    let count = rows.len() as f64;
    let svg = draw(&title, &[], ROW * rows.len() as i32, |sheet| {
        let panel = Panel::new(sheet, NAMES..WIDTH - 60, x, 0.0..count);
        panel.round_x_axis(6, "gap closure η in %")?;
        panel.vertical(0.0, Stroke::dashed(MUTED, 3, (14, 8)))?;
        for (i, (recipe, look, etas)) in rows.iter().enumerate() {
            let y = count - i as f64 - 0.5;
            let (_, row) = panel.place((0.0, y));
            sheet.text(recipe, (NAMES - 20, row), HPos::Right, BLACK)?;
            let summary = summarize(etas);
            if let Some((low, high)) = summary.interval.filter(|_| summary.n >= SEEDS_FOR_A_BAR) {
                panel.line(&[(low, y), (high, y)], Stroke::line(look.color, 3))?;
            }
            for eta in etas.iter().filter(|_| etas.len() > 1) {
                panel.seed((*eta, y), 0, look.color)?;
            }
            panel.mean((summary.mean, y), *look)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        kind: FigureKind::GapClosure,
        name: format!("gap_closure_{}", group.stem),
        title,
        caption: format!(
            "Share of the loss gap between {} (0 %) and {} from scratch (100 %) that each recipe closes at equal tokens, the \
             best first. Large marks are means over seeds, small discs single seeds, bars 95 % intervals of the mean \
             (Student t) where there are three seeds or more.",
            Model::FixedE.label(group.setting),
            Model::FixedMe.label(group.setting)
        ),
        svg,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn the_best_comes_first() {
        let mut results = sample::seeds(3);
        results
            .cells
            .retain(|cell| cell.setting.cpt_fraction == 1.0);
        for cell in &mut results.cells {
            let best = if cell.recipe == "distinct" { 0.5 } else { -2.0 };
            cell.gap_closure = Some(best + 0.01 * cell.seed as f64);
        }
        let figure = figure(&groups(&results)[0], &Palette::new(&results));
        let svg = figure.unwrap().unwrap().svg;
        let place = |name: &str| svg.find(&format!("\n{name}\n")).unwrap();
        assert!(place("distinct") < place("paper"));
    }
}
