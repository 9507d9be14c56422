//! Figures of a sweep as SVG, and SVG as PNG.

mod axis;
mod canvas;
mod clip;
mod gap_closure;
mod loss_curves;
pub(crate) mod palette;
mod pareto;
mod ranking;
mod routing_load;
mod twins;

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use crate::group::groups;
use crate::plot::palette::Palette;
use crate::results::Results;

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What it shows.
    pub kind: FigureKind,
    /// File stem, unique in a sweep, such as `gap_closure_tiny_8x2_k2`.
    pub name: String,
    /// Title; it stands in the picture too.
    pub title: String,
    /// What the marks and lines mean, in sentences.
    pub caption: String,
    /// The picture, on white ground.
    pub svg: String,
}

/// What a figure shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// Gap closure over the CPT fraction.
    GapClosure,
    /// Validation loss over tokens.
    LossCurves,
    /// Final loss over training compute and time.
    Pareto,
    /// Load of each expert.
    RoutingLoad,
    /// Replicas drifting apart.
    Twins,
}

/// Why a figure could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The drawing library failed.
    #[error("cannot draw the figure: {0}")]
    Draw(String),
    /// The picture is not valid SVG.
    #[error("cannot read the figure as SVG")]
    Svg(#[from] usvg::Error),
    /// A picture of this size cannot be made.
    #[error("cannot make a PNG of {width} x {height} pixels; choose another scale")]
    Size {
        /// Pixels a row.
        width: f32,
        /// Rows.
        height: f32,
    },
    /// The PNG encoder failed.
    #[error("cannot encode the figure as PNG: {0}")]
    Encode(String),
}

/// All figures of a sweep: for each (scale, data, protocol, E, mE, K) gap closure over the CPT fraction, loss curves, loss
/// over cost, the load of the experts, and replicas drifting apart, each where there are data for it.
///
/// # Errors
///
/// When the drawing library fails.
pub fn figures(results: &Results) -> Result<Vec<Figure>, PlotError> {
    let palette = Palette::new(results);
    let mut figures = Vec::new();
    for group in &groups(results) {
        let recipes = group.recipes().len();
        let few = group.few(MOST_RECIPES);
        let left_out = recipes - few.recipes().len();
        let one_place = group.places().len() == 1;
        if one_place && recipes > MOST_RECIPES {
            figures.extend(ranking::figure(group, &palette)?);
        }
        let mut drawn = Vec::new();
        if !one_place || recipes <= MOST_RECIPES {
            drawn.extend(gap_closure::figure(&few, &palette)?);
        }
        drawn.extend(loss_curves::figure(&few, &palette, results.floor)?);
        drawn.extend(pareto::figure(&few, &palette)?);
        drawn.extend(routing_load::figure(&few, &palette)?);
        drawn.extend(twins::figure(&few, &palette)?);
        for mut figure in drawn {
            if left_out > 0 {
                figure.caption += &format!(
                    " Of {recipes} recipes the {MOST_RECIPES} best and worst are drawn; the tables have all."
                );
            }
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// More recipes than this cannot be told apart in a picture.
const MOST_RECIPES: usize = 12;

const LARGEST_SIDE: f32 = 32_768.0;

/// Renders SVG as PNG, `scale` pixels a unit. Text is set in a font that comes with the program, so that the result
/// is the same on every machine.
///
/// # Errors
///
/// When the text is not SVG, or the scale gives a picture of no size or more than 32,768 pixels a side.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
    let tree = usvg::Tree::from_str(svg, &options())?;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let size = PlotError::Size { width, height };
    if !(width >= 1.0 && height >= 1.0 && width.max(height) <= LARGEST_SIDE) {
        return Err(size);
    }
    let Some(mut pixels) = tiny_skia::Pixmap::new(width.ceil() as u32, height.ceil() as u32) else {
        return Err(size);
    };
    pixels.fill(tiny_skia::Color::WHITE);
    let scale = tiny_skia::Transform::from_scale(scale, scale);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels
        .encode_png()
        .map_err(|error| PlotError::Encode(error.to_string()))
}

/// Options with the bundled font. It has Latin, Greek and Cyrillic letters, but no arrows.
fn options() -> usvg::Options<'static> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts
        .faces()
        .find_map(|face| face.families.first().map(|(name, _)| name.clone()));
    if let Some(family) = family {
        fonts.set_sans_serif_family(family);
    }
    usvg::Options {
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn names(results: &Results) -> Vec<String> {
        let figures = figures(results).unwrap();
        figures.into_iter().map(|f| f.name).collect()
    }

    #[test]
    fn five_figures_a_group() {
        let expected = [
            "gap_closure_tiny_8x2_k2",
            "loss_curves_tiny_8x2_k2",
            "pareto_tiny_8x2_k2",
            "routing_load_tiny_8x2_k2",
            "twins_tiny_8x2_k2",
        ];
        assert_eq!(names(&sample::results()), expected);
        assert_eq!(names(&sample::two_top_k()).len(), 10);
        assert!(names(&sample::empty()).is_empty());
    }

    #[test]
    fn many_recipes_are_ranked_and_few_are_drawn() {
        let mut results = sample::results();
        results
            .cells
            .retain(|cell| cell.setting.cpt_fraction == 1.0);
        let cells = results.cells.clone();
        for i in 0..20 {
            results.cells.extend(cells.iter().cloned().map(|mut cell| {
                cell.recipe = format!("recipe-{i:02}");
                cell.gap_closure = Some(f64::from(i));
                cell
            }));
        }
        let figures = figures(&results).unwrap();
        let gap = &figures[0];
        assert!(gap.title.starts_with("Gap closure at") && gap.svg.contains("\nrecipe-07\n"));
        let pareto = figures
            .iter()
            .find(|f| f.kind == FigureKind::Pareto)
            .unwrap();
        assert!(
            pareto
                .caption
                .contains("Of 22 recipes the 12 best and worst")
        );
        assert!(pareto.svg.contains("\nrecipe-19\n") && !pareto.svg.contains("\nrecipe-07\n"));
    }

    #[test]
    fn figures_are_svg_that_renders_to_png() {
        for results in [sample::results(), sample::odd()] {
            for figure in figures(&results).unwrap() {
                assert!(figure.svg.starts_with("<svg role=\"img\""));
                assert!(!figure.svg.contains("NaN"), "{}", figure.name);
                let png = png(&figure.svg, 0.25).unwrap();
                let pixels = tiny_skia::Pixmap::decode_png(&png).unwrap();
                assert_eq!(pixels.width(), 380);
            }
        }
    }

    #[test]
    fn text_is_drawn_without_system_fonts() {
        let picture = |text: &str| {
            let svg = format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"><text y="20" font-family="sans-serif">{text}</text></svg>"#
            );
            png(&svg, 1.0).unwrap()
        };
        for text in ["abc", "η", "τ", "±", "−", "…"] {
            assert_ne!(picture(text), picture(""), "{text} left no trace");
        }
    }

    #[test]
    fn no_png_of_impossible_size() {
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"/>"#;
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e9] {
            assert!(matches!(png(svg, scale), Err(PlotError::Size { .. })));
        }
        assert!(matches!(png("no picture", 1.0), Err(PlotError::Svg(_))));
    }
}
