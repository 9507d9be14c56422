//! The figure of gap closure over the CPT fraction, or over the transition.

use std::ops::Range;

use crate::group::Group;
use crate::model::Model;
use crate::number::percent;
use crate::plot::axis::extent;
use crate::plot::error::PlotError;
use crate::plot::eta::{self, Line, Point};
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::Palette;
use crate::plot::panel::Panel;
use crate::plot::sheet::{WIDTH, draw, legend};

/// Room for a number below the panel.
const LABEL: i32 = 110;

/// Gap closure of each recipe; none if no cell has one.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    // A logarithmic axis has no place for others.
    let places: Vec<f64> = group.places().into_iter().filter(|&p| p > 0.0).collect();
    let lines = lines(group, palette, &places);
    let Some(all) = extent(lines.iter().flat_map(|line| line.values())) else {
        return Ok(None);
    };
    let title = format!("Gap closure: {}", group.label);
    let models = lines.iter().map(|line| Model::Upcycled(line.recipe));
    let legend = legend(models, group.setting, palette);
    let y = eta::range(&all);
    let svg = draw(&title, &legend, 620, |sheet| {
        let panel = Panel::new(sheet, 120..WIDTH - 170, across(&places), y.clone());
        axes(&panel, group, &places)?;
        lines.iter().try_for_each(|line| line.draw(&panel))?;
        eta::draw_beyond(&panel, &lines)
    })?;
    Ok(Some(Figure {
        kind: FigureKind::GapClosure,
        name: format!("gap_closure_{}", group.stem),
        title,
        caption: caption(group, &lines, &all, &y),
        svg,
    }))
}

fn lines<'a>(group: &Group<'a>, palette: &Palette, places: &[f64]) -> Vec<Line<'a>> {
    let recipes = group.recipes();
    let lines = recipes.iter().enumerate().map(|(i, recipe)| {
        let point = |place: &f64| Point::new(place.ln(), &group.seeds(recipe, *place));
        Line {
            recipe,
            look: palette.look(Model::Upcycled(recipe)),
            beside: eta::beside(i),
            points: places.iter().filter_map(point).collect(),
        }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

/// The logarithms of the places, with room at both ends.
pub(super) fn across(places: &[f64]) -> Range<f64> {
    let all = extent(places.iter().map(|f| f.ln())).unwrap_or(0.0..0.0);
    let room = 0.08 * (all.end - all.start).max(1.0);
    all.start - room..all.end + room
}

/// A logarithmic axis with the names of places, of which those are left out that would run into the one before.
pub(super) fn x_axis(
    panel: &Panel,
    places: &[f64],
    name: impl Fn(f64) -> String,
    heading: &str,
) -> Result<(), PlotError> {
    let mut labels: Vec<(f64, String)> = Vec::new();
    let mut free = i32::MIN;
    for &place in places {
        let (x, _) = panel.place((place.ln(), 0.0));
        if x >= free {
            labels.push((place.ln(), name(place)));
            free = x + LABEL;
        }
    }
    panel.x_axis(&labels, heading)
}

fn axes(panel: &Panel, group: &Group, places: &[f64]) -> Result<(), PlotError> {
    let heading = match group.setting.transition {
        Some(_) => "transition: share of all steps before the operator (logarithmic)",
        None => "continued pre-training, relative to pre-training steps (logarithmic)",
    };
    x_axis(panel, places, percent, heading)?;
    eta::y_axis(panel, group.setting)
}

fn caption(group: &Group, lines: &[Line], all: &Range<f64>, y: &Range<f64>) -> String {
    let setting = group.setting;
    let small = Model::FixedE.label(setting);
    let big = Model::FixedMe.label(setting);
    let mut caption = format!(
        "Share of the loss gap between {small} (0 %) and {big} from scratch (100 %) that the upcycled model closes at \
         equal tokens."
    );
    caption += &eta::marks(lines);
    let unresolved: Vec<String> = group
        .places()
        .into_iter()
        .filter(|&place| !group.gap(place).is_resolved())
        .map(|place| group.setting.place_name(place))
        .collect();
    if !unresolved.is_empty() {
        caption += &format!(
            " At {} the gap is not resolved: values there are noise.",
            unresolved.join(", ")
        );
    }
    caption + &eta::outside(all, y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::results::Results;
    use crate::sample;

    fn drawn(results: &Results) -> Option<Figure> {
        figure(&groups(results)[0], &Palette::new(results)).unwrap()
    }

    #[test]
    fn caption_tells_of_seeds_and_clipping() {
        let figure = drawn(&sample::results()).unwrap();
        assert!(figure.caption.contains("no interval is drawn"));
        assert!(!figure.caption.contains("outside"));
        let figure = drawn(&sample::seeds(3)).unwrap();
        assert!(figure.caption.contains("Bars are 95 % intervals"));
        let figure = drawn(&sample::seeds(1)).unwrap();
        assert!(figure.caption.contains("One seed"));
    }

    #[test]
    fn values_beyond_the_frame_are_told() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells[..2] {
            sample::set_eta(cell, -4.66);
        }
        let figure = drawn(&results).unwrap();
        assert!(figure.caption.contains("outside (from −466"));
        assert_eq!(figure.svg.matches("\n−466\u{a0}%").count(), 2);
    }

    #[test]
    fn places_stand_at_their_logarithms() {
        let range = across(&[0.1, 1.0]);
        assert!(range.start < 0.1_f64.ln() && range.end > 0.0);
        let single = across(&[0.5]);
        assert!(single.start < single.end);
    }

    #[test]
    fn noise_is_called_so() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e - 0.004;
        }
        assert!(
            drawn(&results)
                .unwrap()
                .caption
                .contains("values there are noise")
        );
    }

    #[test]
    fn nothing_to_draw_without_a_gap() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            cell.loss_fixed_me = cell.loss_fixed_e;
        }
        assert!(drawn(&results).is_none());
    }
}
