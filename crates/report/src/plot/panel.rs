//! A panel of a sheet: axes, lines and marks at data coordinates.

use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::element::PathElement;
use plotters::prelude::{Cartesian2d, DrawingArea, SVGBackend};
use plotters::style::text_anchor::HPos;
use plotters::style::{BLACK, Color, RGBColor};

use crate::number::fixed;
use crate::plot::axis::ticks;
use crate::plot::clip::clipped;
use crate::plot::error::PlotError;
use crate::plot::palette::{Look, Mark};
use crate::plot::sheet::{LETTER, MARGIN, MUTED, Sheet, shortened, solid};

const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);

/// How near a pointer has to be to read a value.
const VALUE_OF_MEAN: i32 = 16;
const VALUE_OF_SEED: i32 = 9;
/// Values that are read along one line.
const MOST_VALUES: usize = 40;

type Plane<'s> = DrawingArea<SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// How a line is drawn.
#[derive(Clone, Copy)]
pub(crate) struct Stroke {
    pub(crate) color: RGBColor,
    pub(crate) opacity: f64,
    pub(crate) width: u32,
    /// Length of dashes and gaps.
    pub(crate) dash: Option<(i32, i32)>,
}

impl Stroke {
    pub(crate) fn line(color: RGBColor, width: u32) -> Self {
        Self {
            color,
            opacity: 1.0,
            width,
            dash: None,
        }
    }

    /// A line of a model.
    pub(crate) fn of(look: Look, width: u32) -> Self {
        Self {
            dash: look.dash,
            ..Self::line(look.color, width)
        }
    }

    pub(crate) fn faint(color: RGBColor, width: u32) -> Self {
        Self {
            opacity: 0.35,
            ..Self::line(color, width)
        }
    }

    pub(crate) fn dashed(color: RGBColor, width: u32, dash: (i32, i32)) -> Self {
        Self {
            dash: Some(dash),
            ..Self::line(color, width)
        }
    }
}

/// A plane with data coordinates; what lies outside its ranges is not drawn.
pub(crate) struct Panel<'p, 's> {
    pub(crate) sheet: &'p Sheet<'s>,
    plane: Plane<'s>,
    pub(crate) columns: Range<i32>,
    pub(crate) x: Range<f64>,
    pub(crate) y: Range<f64>,
}

impl<'p, 's> Panel<'p, 's> {
    /// A panel over some columns of a sheet.
    pub(crate) fn new(
        sheet: &'p Sheet<'s>,
        columns: Range<i32>,
        x: Range<f64>,
        y: Range<f64>,
    ) -> Self {
        let pixels = (columns.clone(), sheet.rows.end..sheet.rows.start);
        let plane = Cartesian2d::new(x.clone(), y.clone(), pixels);
        Self {
            sheet,
            plane: sheet.area.clone().apply_coord_spec(plane),
            columns,
            x,
            y,
        }
    }

    /// Where a point lies on the sheet.
    pub(crate) fn place(&self, point: (f64, f64)) -> (i32, i32) {
        self.plane.map_coordinate(&point)
    }

    /// The text, shortened to what fits between the panel's borders.
    pub(crate) fn fitting(&self, text: &str) -> String {
        let width = f64::from(self.columns.end - self.columns.start);
        shortened(text, (width / LETTER) as usize)
    }

    /// Horizontal grid lines with numbers at the left, and a heading above.
    pub(crate) fn y_axis(&self, heading: &str) -> Result<(), PlotError> {
        let ticks = ticks(&self.y, 7);
        for value in ticks.values {
            self.horizontal(value, Stroke::line(GRID, 2))?;
            let (x, y) = self.place((self.x.start, value));
            let label = fixed(value, ticks.decimals);
            self.sheet.text(&label, (x - 16, y), HPos::Right, MUTED)?;
        }
        self.heading(heading, MARGIN.max(self.columns.start - 100))
    }

    /// Vertical grid lines with numbers below, and a heading above.
    pub(crate) fn x_grid(&self, heading: &str) -> Result<(), PlotError> {
        for value in ticks(&self.x, 3).values {
            self.vertical(value, Stroke::line(GRID, 2))?;
        }
        self.round_x_axis(3, "")?;
        self.heading(heading, self.columns.start)
    }

    fn heading(&self, heading: &str, left: i32) -> Result<(), PlotError> {
        let at = (left, self.sheet.rows.start - 36);
        self.sheet.text(heading, at, HPos::Left, BLACK)
    }

    /// About `target` round numbers and a heading below the panel.
    pub(crate) fn round_x_axis(&self, target: usize, heading: &str) -> Result<(), PlotError> {
        let ticks = ticks(&self.x, target);
        let label = |value: &f64| (*value, fixed(*value, ticks.decimals));
        let labels: Vec<_> = ticks.values.iter().map(label).collect();
        self.x_axis(&labels, heading)
    }

    /// Numbers and a heading below the panel.
    pub(crate) fn x_axis(&self, labels: &[(f64, String)], heading: &str) -> Result<(), PlotError> {
        let bottom = self.sheet.rows.end;
        for (value, label) in labels {
            let (x, _) = self.place((*value, self.y.start));
            self.sheet
                .text(label, (x, bottom + 28), HPos::Center, MUTED)?;
        }
        if heading.is_empty() {
            return Ok(());
        }
        let middle = (self.columns.start + self.columns.end) / 2;
        self.sheet
            .text(heading, (middle, bottom + 70), HPos::Center, BLACK)
    }

    /// A line across the panel.
    pub(crate) fn horizontal(&self, y: f64, stroke: Stroke) -> Result<(), PlotError> {
        self.line(&[(self.x.start, y), (self.x.end, y)], stroke)
    }

    /// A line from the bottom to the top of the panel.
    pub(crate) fn vertical(&self, x: f64, stroke: Stroke) -> Result<(), PlotError> {
        self.line(&[(x, self.y.start), (x, self.y.end)], stroke)
    }

    /// A line through the points, cut at the panel's border and interrupted where a point is not finite.
    pub(crate) fn line(&self, points: &[(f64, f64)], stroke: Stroke) -> Result<(), PlotError> {
        let style = solid(stroke.color, stroke.opacity, stroke.width);
        for piece in clipped(points, &self.x, &self.y) {
            let piece: Vec<_> = piece.into_iter().map(|p| self.place(p)).collect();
            self.sheet.path(piece, style, stroke.dash)?;
        }
        Ok(())
    }

    /// What is read where a pointer rests on a large mark.
    pub(crate) fn value(&self, point: (f64, f64), text: String) {
        let (at, _) = self.held(point);
        self.sheet.value(at, VALUE_OF_MEAN, text);
    }

    /// What is read where a pointer rests on the disc of a seed.
    pub(crate) fn value_of_seed(&self, point: (f64, f64), beside: i32, text: String) {
        let ((x, y), _) = self.held(point);
        self.sheet.value((x + beside, y), VALUE_OF_SEED, text);
    }

    /// What is read along a line; of many points, some.
    pub(crate) fn values_along(&self, points: &[(f64, f64)], text: impl Fn((f64, f64)) -> String) {
        let (x, y) = (self.x.start..=self.x.end, self.y.start..=self.y.end);
        let is_inside = |point: &&(f64, f64)| x.contains(&point.0) && y.contains(&point.1);
        let inside: Vec<&(f64, f64)> = points.iter().filter(is_inside).collect();
        let step = inside.len().div_ceil(MOST_VALUES).max(1);
        for point in inside.into_iter().step_by(step) {
            self.value(*point, text(*point));
        }
    }

    /// A small translucent disc for one seed, some units beside its place; a triangle at the border for a value above
    /// or below the panel.
    pub(crate) fn seed(
        &self,
        point: (f64, f64),
        beside: i32,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        let style = color.mix(0.5).filled();
        let ((x, y), beyond) = self.held(point);
        let mark = beyond.unwrap_or(Mark::Circle);
        self.sheet.shape((x + beside, y), mark, 7, style)
    }

    /// A large mark for a mean; a triangle at the border for a value above or below the panel.
    pub(crate) fn mean(&self, point: (f64, f64), look: Look) -> Result<(), PlotError> {
        let (at, beyond) = self.held(point);
        let mark = beyond.unwrap_or(look.mark);
        self.sheet.mark(at, Look { mark, ..look }, 10)
    }

    /// A triangle at the border for a mean above or below the panel, with its value; `row` counts those that stand at
    /// the border already.
    pub(crate) fn beyond(
        &self,
        point: (f64, f64),
        row: i32,
        look: Look,
        value: &str,
    ) -> Result<(), PlotError> {
        let ((x, y), beyond) = self.held(point);
        let Some(mark) = beyond else {
            return Ok(());
        };
        let inwards = if mark == Mark::Up { 40 } else { -40 };
        let y = y + row * inwards;
        let (right, side) = if x + 160 < self.columns.end {
            (20, HPos::Left)
        } else {
            (-20, HPos::Right)
        };
        self.sheet.label(value, (x + right, y), side, BLACK)?;
        self.sheet.mark((x, y), Look { mark, ..look }, 10)
    }

    /// A bar with caps.
    pub(crate) fn error_bar(
        &self,
        x: f64,
        (low, high): (f64, f64),
        color: RGBColor,
    ) -> Result<(), PlotError> {
        self.line(&[(x, low), (x, high)], Stroke::line(color, 3))?;
        for y in [low, high] {
            if self.y.contains(&y) {
                let (x, y) = self.place((x, y));
                let cap = vec![(x - 9, y), (x + 9, y)];
                let cap = PathElement::new(cap, solid(color, 1.0, 3));
                self.sheet.area.draw(&cap)?;
            }
        }
        Ok(())
    }

    fn held(&self, (x, y): (f64, f64)) -> ((i32, i32), Option<Mark>) {
        if y < self.y.start {
            let (x, y) = self.place((x, self.y.start));
            ((x, y - 10), Some(Mark::Down))
        } else if y > self.y.end {
            let (x, y) = self.place((x, self.y.end));
            ((x, y + 10), Some(Mark::Up))
        } else {
            (self.place((x, y)), None)
        }
    }
}
