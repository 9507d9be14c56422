//! Figures of a sweep as SVG, and SVG as PNG.

mod axis;
mod clip;
mod error;
mod eta;
mod figure;
mod gap_closure;
mod lengths;
mod loss_curves;
pub(crate) mod palette;
mod panel;
mod pareto;
mod png;
mod ranking;
mod routing_load;
mod sheet;
mod twins;

pub use error::PlotError;
pub use figure::{Figure, FigureKind};
pub use png::png;

use crate::group::groups;
use crate::plot::palette::Palette;
use crate::results::Results;

/// All figures of a sweep: for each (scale, data, protocol, E, mE, K) gap closure over the CPT fraction, loss curves, loss
/// over cost, the load of the experts, and replicas drifting apart, each where there are data for it; before them those over
/// several lengths of pre-training.
///
/// # Errors
///
/// When the drawing library fails.
pub fn figures(results: &Results) -> Result<Vec<Figure>, PlotError> {
    let palette = Palette::new(results);
    let mut figures = Vec::new();
    let groups = groups(results);
    for family in lengths::families(&groups) {
        figures.extend(lengths::figures(&family, &palette)?);
    }
    for group in &groups {
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
                    " Of {recipes} recipes the {MOST_RECIPES} with the highest and lowest mean gap closure are drawn; the tables have all."
                );
            }
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// More recipes than this cannot be told apart in a picture.
const MOST_RECIPES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use resvg::tiny_skia;

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
                .contains("Of 22 recipes the 12 with the highest and lowest")
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
}
