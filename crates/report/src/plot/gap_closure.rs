//! The figure of gap closure over the CPT fraction, or over the transition.

use std::ops::Range;

use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

use crate::group::{Group, Seeds};
use crate::model::Model;
use crate::number::{percent, whole_percent};
use crate::plot::axis::{extent, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, WIDTH, draw, legend};
use crate::statistics::summarize;

/// What is farther away from the gap than this, in per cent, is marked at the border.
const WINDOW: Range<f64> = -200.0..200.0;
/// Room for a number below the panel.
const LABEL: i32 = 110;
/// Fewer seeds speak for themselves.
const SEEDS_FOR_A_BAR: usize = 3;

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
    let y = range(&all);
    let svg = draw(&title, &legend, 620, |sheet| {
        let panel = Panel::new(sheet, 120..WIDTH - 170, across(&places), y.clone());
        axes(&panel, group, &places)?;
        lines.iter().try_for_each(|line| line.draw(&panel))?;
        draw_beyond(&panel, &lines)
    })?;
    Ok(Some(Figure {
        kind: FigureKind::GapClosure,
        name: format!("gap_closure_{}", group.stem),
        title,
        caption: caption(group, &lines, &all, &y),
        svg,
    }))
}

/// One recipe: its seeds' gap closures in per cent at the logarithm of each CPT fraction.
struct Line<'a> {
    recipe: &'a str,
    look: Look,
    /// How far to the right of their place seeds stand, so that those of other recipes do not hide them.
    beside: i32,
    places: Vec<(f64, Vec<f64>)>,
}

fn lines<'a>(group: &Group<'a>, palette: &Palette, places: &[f64]) -> Vec<Line<'a>> {
    let recipes = group.recipes();
    let lines = recipes.iter().enumerate().map(|(i, recipe)| {
        let point = |place: &f64| {
            let etas = percents(&group.seeds(recipe, *place));
            (!etas.is_empty()).then_some((place.ln(), etas))
        };
        Line {
            recipe,
            look: palette.look(Model::Upcycled(recipe)),
            beside: beside(i),
            places: places.iter().filter_map(point).collect(),
        }
    });
    lines.filter(|line| !line.places.is_empty()).collect()
}

/// Right and left of the means in turn, then farther away.
fn beside(recipe: usize) -> i32 {
    let distance = 20 + 14 * (recipe / 2) as i32;
    if recipe.is_multiple_of(2) {
        distance
    } else {
        -distance
    }
}

/// The logarithms of the places, with room at both ends.
fn across(places: &[f64]) -> Range<f64> {
    let all = extent(places.iter().map(|f| f.ln())).unwrap_or(0.0..0.0);
    let room = 0.08 * (all.end - all.start).max(1.0);
    all.start - room..all.end + room
}

fn percents(seeds: &Seeds) -> Vec<f64> {
    let etas = seeds.gap_closures().into_iter();
    etas.map(|eta| 100.0 * eta).collect()
}

/// Both references and the values inside the window, with room below and above for marks and triangles.
fn range(all: &Range<f64>) -> Range<f64> {
    let low = all.start.clamp(WINDOW.start, 0.0);
    let high = all.end.clamp(100.0, WINDOW.end);
    widened(&(low..high), 0.07, 0.07)
}

fn axes(panel: &Panel, group: &Group, places: &[f64]) -> Result<(), PlotError> {
    panel.y_axis("gap closure η in %")?;
    let mut labels: Vec<(f64, String)> = Vec::new();
    let mut free = i32::MIN;
    for place in places {
        let (x, _) = panel.place((place.ln(), 0.0));
        // A label that would run into the one before is left out.
        if x >= free {
            labels.push((place.ln(), percent(*place)));
            free = x + LABEL;
        }
    }
    let heading = match group.setting.transition {
        Some(_) => "transition: share of all steps before the operator (logarithmic)",
        None => "continued pre-training, relative to pre-training steps (logarithmic)",
    };
    panel.x_axis(&labels, heading)?;
    for (eta, model) in [(0.0, Model::FixedE), (100.0, Model::FixedMe)] {
        panel.horizontal(eta, Stroke::dashed(MUTED, 3, (14, 8)))?;
        let (_, y) = panel.place((0.0, eta));
        let at = (panel.columns.end + 14, y);
        panel
            .sheet
            .text(&model.label(group.setting), at, HPos::Left, BLACK)?;
    }
    Ok(())
}

impl Line<'_> {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.places
            .iter()
            .flat_map(|(_, etas)| etas.iter().copied())
    }

    fn means(&self) -> Vec<(f64, f64)> {
        let mean = |(x, etas): &(f64, Vec<f64>)| (*x, summarize(etas).mean);
        self.places.iter().map(mean).collect()
    }

    fn draw(&self, panel: &Panel) -> Result<(), PlotError> {
        let color = self.look.color;
        let means = self.means();
        panel.line(&means, Stroke::line(color, 5))?;
        for (x, etas) in &self.places {
            let summary = summarize(etas);
            if let Some(interval) = summary.interval.filter(|_| summary.n >= SEEDS_FOR_A_BAR) {
                panel.error_bar(*x, interval, color)?;
            }
        }
        for mean in means.into_iter().filter(|mean| panel.y.contains(&mean.1)) {
            panel.mean(mean, self.look)?;
        }
        for (x, etas) in &self.places {
            // With one seed the mean is the seed.
            for eta in etas.iter().filter(|_| etas.len() > 1) {
                panel.seed((*x, *eta), self.beside, color)?;
            }
        }
        Ok(())
    }
}

/// Means outside the frame: triangles at its border with their values, one above the other where several meet.
fn draw_beyond(panel: &Panel, lines: &[Line]) -> Result<(), PlotError> {
    let mut drawn: Vec<(f64, bool)> = Vec::new();
    for line in lines {
        let outside = line
            .means()
            .into_iter()
            .filter(|mean| !panel.y.contains(&mean.1));
        for (x, mean) in outside {
            let border = (x, mean > panel.y.end);
            let row = drawn.iter().filter(|d| **d == border).count() as i32;
            panel.beyond((x, mean), row, line.look, &whole_percent(mean / 100.0))?;
            drawn.push(border);
        }
    }
    Ok(())
}

fn caption(group: &Group, lines: &[Line], all: &Range<f64>, y: &Range<f64>) -> String {
    let setting = group.setting;
    let small = Model::FixedE.label(setting);
    let big = Model::FixedMe.label(setting);
    let counts = || {
        lines
            .iter()
            .flat_map(|l| l.places.iter().map(|p| p.1.len()))
    };
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let mut caption = format!(
        "Share of the loss gap between {small} (0 %) and {big} from scratch (100 %) that the upcycled model closes at \
         equal tokens."
    );
    caption += match most {
        1 => " One seed: no spread is known.",
        _ => " Large marks are means over seeds, small discs single seeds.",
    };
    caption += match (least, most) {
        (_, 1) => "",
        (SEEDS_FOR_A_BAR.., _) => " Bars are 95 % intervals of the mean (Student t).",
        (_, SEEDS_FOR_A_BAR..) => {
            " Bars are 95 % intervals of the mean (Student t), only where there are three seeds or more."
        }
        _ => " With fewer than three seeds no interval is drawn.",
    };
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
    if all.start < y.start || all.end > y.end {
        caption += &format!(
            " Triangles at the border stand for values outside (from {} to {}).",
            whole_percent(all.start / 100.0),
            whole_percent(all.end / 100.0)
        );
    }
    caption
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
            cell.gap_closure = Some(-4.66);
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
        assert_eq!([0, 1, 2, 3].map(beside), [20, -20, 34, -34]);
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
            cell.gap_closure = None;
        }
        assert!(drawn(&results).is_none());
    }

    #[test]
    fn range_always_shows_both_references() {
        assert_eq!(range(&(-300.0..50.0)), range(&(-200.0..50.0)));
        assert!(range(&(-183.0..50.0)).start < -183.0);
        let narrow = range(&(40.0..60.0));
        assert!(narrow.start < 0.0 && narrow.end > 100.0);
    }
}
