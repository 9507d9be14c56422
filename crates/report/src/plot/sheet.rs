//! What figures are drawn on: a sheet with a title and a legend.
//!
//! The SVG backend of plotters has whole-number coordinates, so figures are drawn at twice the size at which a page
//! shows them: lines stay smooth. All lengths here are in these units.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use maud::html;
use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{DrawingArea, IntoDrawingArea, IntoFont, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, RGBColor, ShapeStyle, TextStyle, WHITE};

use crate::model::Model;
use crate::plot::error::PlotError;
use crate::plot::palette::{Look, Mark, Palette};
use crate::results::Setting;

/// Width of every figure.
pub(crate) const WIDTH: i32 = 1520;
/// Left edge of titles and legends.
pub(super) const MARGIN: i32 = 20;
const TITLE_SIZE: f64 = 34.0;
const TEXT_SIZE: f64 = 28.0;
/// No letter of the text is wider on average.
pub(super) const LETTER: f64 = 0.58 * TEXT_SIZE;
/// Colour of axis text and reference lines.
pub(crate) const MUTED: RGBColor = RGBColor(0x55, 0x55, 0x55);

type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;

impl From<DrawingAreaErrorKind<io::Error>> for PlotError {
    fn from(error: DrawingAreaErrorKind<io::Error>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// An entry of the legend.
pub(crate) struct Entry {
    label: String,
    look: Look,
}

/// A legend of some models.
pub(crate) fn legend<'a>(
    models: impl IntoIterator<Item = Model<'a>>,
    setting: &Setting,
    palette: &Palette,
) -> Vec<Entry> {
    let entry = |model: Model| Entry {
        label: model.label(setting),
        look: palette.look(model),
    };
    models.into_iter().map(entry).collect()
}

/// A figure on white ground.
pub(crate) struct Sheet<'s> {
    pub(super) area: Area<'s>,
    /// Vertical extent of what is left for the panels' data.
    pub(crate) rows: Range<i32>,
    /// What is read where a pointer rests; the drawing library has no such thing.
    values: RefCell<Vec<Value>>,
}

/// What is read where a pointer rests.
struct Value {
    at: (i32, i32),
    radius: i32,
    text: String,
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
    let values = {
        let backend = SVGBackend::with_string(&mut svg, (WIDTH as u32, (rows.end + 100) as u32));
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let sheet = Sheet {
            area,
            rows,
            values: RefCell::default(),
        };
        sheet.write(title, (MARGIN, 38), HPos::Left, TITLE_SIZE, BLACK)?;
        for (entry, (x, line)) in legend.iter().zip(places) {
            sheet.legend_entry(entry, (x, 92 + 44 * line))?;
        }
        panels(&sheet)?;
        sheet.area.present()?;
        sheet.values.take()
    };
    Ok(labelled(&with_values(svg, &values), title))
}

/// The picture with the values of its marks as titles of circles that are not seen.
fn with_values(mut svg: String, values: &[Value]) -> String {
    let circles = html! {
        @for value in values {
            circle cx=(value.at.0) cy=(value.at.1) r=(value.radius) fill="none" pointer-events="all" {
                title { (value.text) }
            }
        }
    };
    if let Some(end) = svg.rfind("</svg>") {
        svg.insert_str(end, &circles.into_string());
    }
    svg
}

/// Names the picture for readers who do not see it.
fn labelled(svg: &str, title: &str) -> String {
    let title = html! { (title) }.into_string();
    let named = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    svg.replacen("<svg ", &named, 1)
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

/// The label, cut to some letters.
pub(super) fn shortened(label: &str, longest: usize) -> String {
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

    /// A text that is read where a pointer rests within some units of a place.
    pub(super) fn value(&self, at: (i32, i32), radius: i32, text: String) {
        self.values.borrow_mut().push(Value { at, radius, text });
    }

    fn legend_entry(&self, entry: &Entry, (x, y): (i32, i32)) -> Result<(), PlotError> {
        let line = vec![(x, y), (x + LEGEND_LINE, y)];
        self.path(line, solid(entry.look.color, 1.0, 5), entry.look.dash)?;
        self.mark((x + LEGEND_LINE / 2, y), entry.look, 10)?;
        let label = shortened(&entry.label, LONGEST);
        self.text(&label, (x + LEGEND_LINE + 12, y), HPos::Left, BLACK)
    }

    /// A line, of dashes and gaps where these have lengths.
    pub(super) fn path(
        &self,
        points: Vec<(i32, i32)>,
        style: ShapeStyle,
        dash: Option<(i32, i32)>,
    ) -> Result<(), PlotError> {
        match dash {
            None => self.area.draw(&PathElement::new(points, style))?,
            Some((dash, gap)) => {
                let dashes = DashedPathElement::new(points, dash, gap, style);
                self.area.draw(&dashes)?;
            }
        }
        Ok(())
    }

    /// A large mark with a white rim, so that it stands out from lines.
    pub(crate) fn mark(&self, at: (i32, i32), look: Look, radius: i32) -> Result<(), PlotError> {
        self.shape(at, look.mark, radius + 3, WHITE.filled())?;
        self.shape(at, look.mark, radius, look.color.filled())
    }

    /// A mark of one colour.
    pub(super) fn shape(
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
}

/// A line of some colour, opacity and width.
pub(super) fn solid(color: RGBColor, opacity: f64, width: u32) -> ShapeStyle {
    color.mix(opacity).stroke_width(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::png;

    #[test]
    fn values_are_titles_inside_of_the_picture() {
        let svg = draw("a & b", &[], 100, |sheet| {
            sheet.value((30, 40), 12, "x < 1: 2.5".to_owned());
            Ok(())
        });
        let svg = svg.unwrap();
        let circle = "<circle cx=\"30\" cy=\"40\" r=\"12\" fill=\"none\" pointer-events=\"all\"><title>x &lt; 1: 2.5</title></circle>";
        assert!(svg.contains(circle), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(png(&svg, 0.5).is_ok());
    }
}
