//! The figure of gap closure where there is one place and many recipes: a row for each, the highest first.

use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

use crate::group::Group;
use crate::model::Model;
use crate::plot::axis::{extent, widened};
use crate::plot::error::PlotError;
use crate::plot::eta::{Point, of_all, of_seed};
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, WIDTH, draw};

/// Height of a row.
const ROW: i32 = 34;
/// Room for the names.
const NAMES: i32 = 520;

/// Recipes by gap closure; none if no cell has one.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let Some(place) = group.places().last().copied() else {
        return Ok(None);
    };
    let mut rows: Vec<(&str, Look, Point)> = group
        .recipes()
        .into_iter()
        .filter_map(|recipe| {
            let point = Point::new(0.0, &group.seeds(recipe, place))?;
            Some((recipe, palette.look(Model::Upcycled(recipe)), point))
        })
        .collect();
    rows.sort_by(|a, b| b.2.eta.mean.total_cmp(&a.2.eta.mean));
    let Some(all) = extent(rows.iter().flat_map(|row| row.2.values())) else {
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
        for (i, (recipe, look, point)) in rows.iter().enumerate() {
            let y = count - i as f64 - 0.5;
            let (_, row) = panel.place((0.0, y));
            sheet.text(recipe, (NAMES - 20, row), HPos::Right, BLACK)?;
            if let Some((low, high)) = point.bar() {
                panel.line(&[(low, y), (high, y)], Stroke::line(look.color, 3))?;
            }
            for eta in point.seeds.iter().filter(|_| point.eta.n > 1) {
                panel.seed((*eta, y), 0, look.color)?;
                panel.value_of_seed((*eta, y), 0, of_seed(recipe, *eta));
            }
            panel.mean((point.eta.mean, y), *look)?;
            panel.value((point.eta.mean, y), of_all(recipe, point));
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        kind: FigureKind::GapClosure,
        name: format!("gap_closure_{}", group.stem),
        title,
        caption: format!(
            "Share of the loss gap between {} (0 %) and {} from scratch (100 %) that each recipe closes at equal tokens, the \
             highest mean first, which may be chance. Large marks are all seeds together (mean difference over mean gap), small discs single seeds, bars \
             95 % intervals (Fieller) where there are three seeds or more.",
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
    fn the_highest_comes_first() {
        let mut results = sample::seeds(3);
        results
            .cells
            .retain(|cell| cell.setting.cpt_fraction == 1.0);
        for cell in &mut results.cells {
            let best = if cell.recipe == "distinct" { 0.5 } else { -2.0 };
            sample::set_eta(cell, best + 0.01 * cell.seed as f64);
        }
        let figure = figure(&groups(&results)[0], &Palette::new(&results));
        let svg = figure.unwrap().unwrap().svg;
        let place = |name: &str| svg.find(&format!("\n{name}\n")).unwrap();
        assert!(place("distinct") < place("paper"));
    }
}
