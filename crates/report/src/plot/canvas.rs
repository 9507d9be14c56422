//! What figures are drawn with: a sheet with title and legend, and panels with axes on it.
//!
//! The SVG backend of plotters has whole-number coordinates, so figures are drawn at twice the size at which a page
//! shows them: lines stay smooth. All lengths here are in these units.

use std::io;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{Cartesian2d, DrawingArea, IntoDrawingArea, IntoFont, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, RGBColor, ShapeStyle, TextStyle, WHITE};

use crate::number::fixed;
use crate::plot::PlotError;
use crate::plot::axis::ticks;
use crate::plot::clip::clipped;
use crate::plot::palette::{Look, Mark};

/// Width of every figure.
pub(crate) const WIDTH: i32 = 1520;
/// Left edge of titles and legends.
const MARGIN: i32 = 20;
const TITLE_SIZE: f64 = 34.0;
const TEXT_SIZE: f64 = 28.0;
/// No letter of the text is wider on average, also where a narrow page enlarges it.
const LETTER: f64 = 0.58 * TEXT_SIZE;
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
/// Colour of axis text and reference lines.
pub(crate) const MUTED: RGBColor = RGBColor(0x55, 0x55, 0x55);

type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
type Plane<'s> = DrawingArea<SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl From<DrawingAreaErrorKind<io::Error>> for PlotError {
    fn from(error: DrawingAreaErrorKind<io::Error>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// An entry of the legend.
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) look: Look,
}

/// A figure on white ground.
pub(crate) struct Sheet<'s> {
    area: Area<'s>,
    /// Vertical extent of what is left for the panels' data.
    pub(crate) rows: Range<i32>,
}

/// Draws a figure with panels of the given height and returns it as SVG.
pub(crate) fn draw(
    title: &str,
    legend: &[Entry],
    panel_height: i32,
    panels: impl FnOnce(&Sheet) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let places = legend_places(legend);
    let lines = places.last().map_or(0, |(_, line)| line + 1);
    let top = 70 + 44 * lines + 62;
    let rows = top..top + panel_height;
    let mut svg = String::new();
    {
        let backend = SVGBackend::with_string(&mut svg, (WIDTH as u32, (rows.end + 100) as u32));
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let sheet = Sheet { area, rows };
        sheet.write(title, (MARGIN, 38), HPos::Left, TITLE_SIZE, BLACK)?;
        for (entry, (x, line)) in legend.iter().zip(places) {
            sheet.legend_entry(entry, (x, 92 + 44 * line))?;
        }
        panels(&sheet)?;
        sheet.area.present()?;
    }
    Ok(labelled(&svg, title))
}

/// Names the picture for readers who do not see it.
fn labelled(svg: &str, title: &str) -> String {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let title = title.replace('"', "&quot;");
    svg.replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{title}\" "),
        1,
    )
}

const LEGEND_LINE: i32 = 56;

/// Left edge and line of each entry: as many on a line as are sure to fit.
fn legend_places(legend: &[Entry]) -> Vec<(i32, i32)> {
    let (mut x, mut line) = (MARGIN, 0);
    let mut places = Vec::new();
    for entry in legend {
        let letters = shortened(&entry.label, LONGEST).chars().count() as f64;
        let width = LEGEND_LINE + 12 + (LETTER * letters) as i32;
        if x > MARGIN && x + width > WIDTH - MARGIN {
            (x, line) = (MARGIN, line + 1);
        }
        places.push((x, line));
        x += width + 36;
    }
    places
}

/// The longest label of a legend, in letters.
const LONGEST: usize = 48;

fn shortened(label: &str, longest: usize) -> String {
    if label.chars().count() <= longest {
        return label.to_owned();
    }
    let kept = label.chars().take(longest.saturating_sub(1));
    kept.chain(['…']).collect()
}

impl<'s> Sheet<'s> {
    /// Text in the size of axis labels, centred vertically on the position.
    pub(crate) fn text(
        &self,
        text: &str,
        at: (i32, i32),
        side: HPos,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        self.write(text, at, side, TEXT_SIZE, color)
    }

    /// Text on a white ground, which lines do not strike through.
    pub(crate) fn label(
        &self,
        text: &str,
        (x, y): (i32, i32),
        side: HPos,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        let width = (LETTER * text.chars().count() as f64) as i32;
        let left = match side {
            HPos::Left => x,
            HPos::Right => x - width,
            HPos::Center => x - width / 2,
        };
        let half = (0.6 * TEXT_SIZE) as i32;
        let ground = [(left - 4, y - half), (left + width + 4, y + half)];
        let ground = Rectangle::new(ground, WHITE.filled());
        self.area.draw(&ground)?;
        self.text(text, (x, y), side, color)
    }

    fn write(
        &self,
        text: &str,
        at: (i32, i32),
        side: HPos,
        size: f64,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        // The backend divides sizes by 1.24.
        let style = TextStyle::from(("sans-serif", 1.24 * size).into_font())
            .color(&color)
            .pos(Pos::new(side, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style))?)
    }

    fn legend_entry(&self, entry: &Entry, (x, y): (i32, i32)) -> Result<(), PlotError> {
        let stroke = solid(entry.look.color, 1.0, 5);
        let line = PathElement::new(vec![(x, y), (x + LEGEND_LINE, y)], stroke);
        self.area.draw(&line)?;
        self.mark((x + LEGEND_LINE / 2, y), entry.look, 10)?;
        let label = shortened(&entry.label, LONGEST);
        self.text(&label, (x + LEGEND_LINE + 12, y), HPos::Left, BLACK)
    }

    /// A large mark with a white rim, so that it stands out from lines.
    pub(crate) fn mark(&self, at: (i32, i32), look: Look, radius: i32) -> Result<(), PlotError> {
        self.shape(at, look.mark, radius + 3, WHITE.filled())?;
        self.shape(at, look.mark, radius, look.color.filled())
    }

    fn shape(
        &self,
        (x, y): (i32, i32),
        mark: Mark,
        radius: i32,
        style: ShapeStyle,
    ) -> Result<(), PlotError> {
        let r = radius;
        let wide = r * 5 / 4;
        match mark {
            Mark::Circle => self.area.draw(&Circle::new((x, y), r, style))?,
            Mark::Square => {
                let r = r * 8 / 9;
                let corners = [(x - r, y - r), (x + r, y + r)];
                self.area.draw(&Rectangle::new(corners, style))?;
            }
            Mark::Diamond => {
                let corners = [(x, y - wide), (x + wide, y), (x, y + wide), (x - wide, y)];
                self.area.draw(&Polygon::new(corners.to_vec(), style))?;
            }
            Mark::Up | Mark::Down => {
                let r = if mark == Mark::Up { wide } else { -wide };
                let corners = [(x - r, y + r * 3 / 4), (x, y - r), (x + r, y + r * 3 / 4)];
                self.area.draw(&Polygon::new(corners.to_vec(), style))?;
            }
        }
        Ok(())
    }

    /// A panel over some columns of the sheet.
    pub(crate) fn panel(&self, columns: Range<i32>, x: Range<f64>, y: Range<f64>) -> Panel<'_, 's> {
        let pixels = (columns.clone(), self.rows.end..self.rows.start);
        let plane = Cartesian2d::new(x.clone(), y.clone(), pixels);
        Panel {
            sheet: self,
            plane: self.area.clone().apply_coord_spec(plane),
            columns,
            x,
            y,
        }
    }
}

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

fn solid(color: RGBColor, opacity: f64, width: u32) -> ShapeStyle {
    color.mix(opacity).stroke_width(width)
}

/// A plane with data coordinates; what lies outside its ranges is not drawn.
pub(crate) struct Panel<'p, 's> {
    pub(crate) sheet: &'p Sheet<'s>,
    plane: Plane<'s>,
    pub(crate) columns: Range<i32>,
    pub(crate) x: Range<f64>,
    pub(crate) y: Range<f64>,
}

impl Panel<'_, '_> {
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
        let ticks = ticks(&self.x, 3);
        for value in &ticks.values {
            self.vertical(*value, Stroke::line(GRID, 2))?;
        }
        let label = |value: &f64| (*value, fixed(*value, ticks.decimals));
        let labels: Vec<_> = ticks.values.iter().map(label).collect();
        self.x_axis(&labels, "")?;
        self.heading(heading, self.columns.start)
    }

    fn heading(&self, heading: &str, left: i32) -> Result<(), PlotError> {
        let at = (left, self.sheet.rows.start - 36);
        self.sheet.text(heading, at, HPos::Left, BLACK)
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
            match stroke.dash {
                None => self.sheet.area.draw(&PathElement::new(piece, style))?,
                Some((dash, gap)) => {
                    let dashes = DashedPathElement::new(piece, dash, gap, style);
                    self.sheet.area.draw(&dashes)?;
                }
            }
        }
        Ok(())
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
