//! Lines of gap closure: what the figures over budgets, training lengths and steps since the operator have in common.

use std::ops::Range;

use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

use crate::group::Seeds;
use crate::model::Model;
use crate::number::{fixed, mean_interval, whole_percent};
use crate::plot::axis::widened;
use crate::plot::error::PlotError;
use crate::plot::palette::Look;
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::MUTED;
use crate::results::Setting;
use crate::statistics::Summary;

/// What is farther away from the gap than this, in per cent, is marked at the border.
const WINDOW: Range<f64> = -200.0..200.0;
/// Fewer seeds speak for themselves.
pub(super) const SEEDS_FOR_A_BAR: usize = 3;

/// Gap closure of one recipe at one place, in per cent.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) x: f64,
    /// Of all seeds together.
    pub(super) eta: Summary,
    /// Of those seeds that have one of their own.
    pub(super) seeds: Vec<f64>,
}

impl Point {
    /// None without a gap to divide by.
    pub(super) fn new(x: f64, seeds: &Seeds) -> Option<Self> {
        let eta = seeds.eta();
        eta.mean.is_finite().then(|| Self {
            x,
            eta: Summary {
                mean: 100.0 * eta.mean,
                sd: 100.0 * eta.sd,
                interval: eta.interval.map(|(low, high)| (100.0 * low, 100.0 * high)),
                ..eta
            },
            seeds: seeds.ratios().iter().map(|eta| 100.0 * eta).collect(),
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.seeds.iter().copied().chain([self.eta.mean])
    }

    /// The interval, where there are seeds enough to trust it.
    pub(super) fn bar(&self) -> Option<(f64, f64)> {
        self.eta.interval.filter(|_| self.eta.n >= SEEDS_FOR_A_BAR)
    }
}

/// One recipe in a figure.
pub(super) struct Line<'a> {
    pub(super) recipe: &'a str,
    pub(super) look: Look,
    /// How far to the right of their place seeds stand, so that those of other recipes do not hide them.
    pub(super) beside: i32,
    /// From left to right.
    pub(super) points: Vec<Point>,
}

/// Right and left of the means in turn, then farther away.
pub(super) fn beside(recipe: usize) -> i32 {
    let distance = 20 + 14 * (recipe / 2) as i32;
    if recipe.is_multiple_of(2) {
        distance
    } else {
        -distance
    }
}

/// Both references and the values inside the window, with room below and above for marks and triangles.
pub(super) fn range(all: &Range<f64>) -> Range<f64> {
    let low = all.start.clamp(WINDOW.start, 0.0);
    let high = all.end.clamp(100.0, WINDOW.end);
    widened(&(low..high), 0.07, 0.07)
}

/// The axis of gap closure, with Fixed-E at 0 % and Fixed-mE at 100 %.
pub(super) fn y_axis(panel: &Panel, setting: &Setting) -> Result<(), PlotError> {
    panel.y_axis("gap closure η in %")?;
    for (eta, model) in [(0.0, Model::FixedE), (100.0, Model::FixedMe)] {
        panel.horizontal(eta, Stroke::dashed(MUTED, 3, (14, 8)))?;
        let (_, y) = panel.place((0.0, eta));
        let at = (panel.columns.end + 14, y);
        let label = model.label(setting);
        panel.sheet.text(&label, at, HPos::Left, BLACK)?;
    }
    Ok(())
}

impl Line<'_> {
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().flat_map(Point::values)
    }

    fn means(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().map(|point| (point.x, point.eta.mean))
    }

    pub(super) fn draw(&self, panel: &Panel) -> Result<(), PlotError> {
        let color = self.look.color;
        let means: Vec<(f64, f64)> = self.means().collect();
        panel.line(&means, Stroke::of(self.look, 5))?;
        for point in &self.points {
            if let Some(interval) = point.bar() {
                panel.error_bar(point.x, interval, color)?;
            }
        }
        for mean in means.into_iter().filter(|mean| panel.y.contains(&mean.1)) {
            panel.mean(mean, self.look)?;
        }
        // With one seed the mean is the seed.
        for point in self.points.iter().filter(|point| point.eta.n > 1) {
            for eta in &point.seeds {
                let place = (point.x, *eta);
                panel.seed(place, self.beside, color)?;
                panel.value_of_seed(place, self.beside, of_seed(self.recipe, *eta));
            }
        }
        for point in &self.points {
            panel.value((point.x, point.eta.mean), of_all(self.recipe, point));
        }
        Ok(())
    }
}

/// What is read at the mark of all seeds together.
pub(super) fn of_all(recipe: &str, point: &Point) -> String {
    let eta = mean_interval(&point.eta, 1.0, 1);
    format!("{recipe}: η in % {eta}, n = {}", point.eta.n)
}

/// What is read at the disc of a seed.
pub(super) fn of_seed(recipe: &str, eta: f64) -> String {
    format!("{recipe}, one seed: η in % {}", fixed(eta, 1))
}

/// Means outside the frame: triangles at its border with their values, one above the other where several meet.
pub(super) fn draw_beyond(panel: &Panel, lines: &[Line]) -> Result<(), PlotError> {
    let mut drawn: Vec<(f64, bool)> = Vec::new();
    for line in lines {
        for (x, mean) in line.means().filter(|mean| !panel.y.contains(&mean.1)) {
            let border = (x, mean > panel.y.end);
            let row = drawn.iter().filter(|d| **d == border).count() as i32;
            panel.beyond((x, mean), row, line.look, &whole_percent(mean / 100.0))?;
            drawn.push(border);
        }
    }
    Ok(())
}

/// What marks and bars are, for lines with at least and at most so many seeds a point.
pub(super) fn marks(lines: &[Line]) -> String {
    let counts = || {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(|point| point.eta.n)
    };
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let mut text = match most {
        1 => " One seed: no spread is known.",
        _ => " Large marks are all seeds together, mean difference over mean gap; small discs are single seeds.",
    }
    .to_owned();
    text += match (least, most) {
        (_, 1) => "",
        (SEEDS_FOR_A_BAR.., _) => " Bars are 95 % intervals (Fieller).",
        (_, SEEDS_FOR_A_BAR..) => {
            " Bars are 95 % intervals (Fieller), only where there are three seeds or more."
        }
        _ => " With fewer than three seeds no interval is drawn.",
    };
    text
}

/// What triangles are, where something lies outside the frame.
pub(super) fn outside(all: &Range<f64>, y: &Range<f64>) -> String {
    if all.start >= y.start && all.end <= y.end {
        return String::new();
    }
    format!(
        " Triangles at the border stand for values outside (from {} to {}).",
        whole_percent(all.start / 100.0),
        whole_percent(all.end / 100.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_several_recipes_stand_apart() {
        assert_eq!([0, 1, 2, 3].map(beside), [20, -20, 34, -34]);
    }

    #[test]
    fn range_always_shows_both_references() {
        assert_eq!(range(&(-300.0..50.0)), range(&(-200.0..50.0)));
        assert!(range(&(-183.0..50.0)).start < -183.0);
        let narrow = range(&(40.0..60.0));
        assert!(narrow.start < 0.0 && narrow.end > 100.0);
    }
}
