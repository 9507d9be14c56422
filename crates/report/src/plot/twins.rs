//! The figure of replicas drifting apart over continued pre-training.

use crate::group::Group;
use crate::model::{Model, in_order};
use crate::number::{count, fixed};
use crate::plot::axis::{extent, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::loss_curves::{mean, token_labels};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{WIDTH, draw, legend};
use crate::results::{Curve, TwinPoint};

const COSINE: &str = "cosine of the weights of two replicas";
const COMMON: &str = "tokens that choose two replicas of a source in %";

fn cosine(point: &TwinPoint) -> f64 {
    point.cosine
}

fn common(point: &TwinPoint) -> f64 {
    100.0 * point.coselection
}

/// Cosine and common tokens of replicas in the longest runs; none if no run has any.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let curves = group.longest_curves();
    let tokens = curves
        .iter()
        .flat_map(|c| c.twins.iter().map(|p| p.tokens as f64));
    let Some(tokens) = extent(tokens) else {
        return Ok(None);
    };
    let title = format!("Replicas drifting apart: {}", group.label);
    let models = in_order(curves.iter().map(|curve| curve.model()));
    let bundles: Vec<Bundle> = models
        .into_iter()
        .filter_map(|model| Bundle::new(model, palette.look(model), &curves))
        .collect();
    let models = bundles.iter().map(|bundle| bundle.model);
    let legend = legend(models, group.setting, palette);
    let svg = draw(&title, &legend, 460, |sheet| {
        for (columns, heading, quantity) in [
            (120..WIDTH / 2 - 50, COSINE, cosine as fn(&TwinPoint) -> f64),
            (WIDTH / 2 + 90..WIDTH - 40, COMMON, common),
        ] {
            let all = bundles.iter().flat_map(|b| b.values(quantity));
            let Some(all) = extent(all) else { continue };
            let y = widened(&(all.start.min(0.0)..all.end), 0.02, 0.06);
            let panel = Panel::new(sheet, columns, widened(&tokens, 0.0, 0.0), y);
            panel.y_axis(heading)?;
            panel.x_axis(&token_labels(&panel.x, 4), "tokens")?;
            for bundle in &bundles {
                let seeds = bundle.seeds(quantity);
                for seed in seeds.iter().filter(|_| seeds.len() > 1) {
                    panel.line(seed, Stroke::faint(bundle.look.color, 2))?;
                }
                let mean = mean(&seeds);
                panel.line(&mean, Stroke::of(bundle.look, 4))?;
                panel.values_along(&mean, |(tokens, value)| {
                    let name = bundle.model.label(group.setting);
                    format!("{name} at {} tokens: {}", count(tokens), fixed(value, 3))
                });
            }
        }
        Ok(())
    })?;
    let place = curves[0].setting.place();
    Ok(Some(Figure {
        kind: FigureKind::Twins,
        name: format!("twins_{}", group.stem),
        title,
        caption: format!(
            "From τ on ({}): means over MoE layers and seeds, thin lines single seeds. Left: cosine of all weights of two \
             experts that come from one source; 1 is a copy. Right: share of validation tokens that have two replicas of one \
             source among their K experts; such a token has fewer distinct experts than K.",
            group.setting.place_name(place)
        ),
        svg,
    }))
}

/// The runs of one model that have replicas.
struct Bundle<'a> {
    model: Model<'a>,
    look: Look,
    runs: Vec<&'a [TwinPoint]>,
}

impl<'a> Bundle<'a> {
    fn new(model: Model<'a>, look: Look, curves: &[&'a Curve]) -> Option<Self> {
        let own = curves.iter().filter(|curve| curve.model() == model);
        let runs: Vec<&[TwinPoint]> = own
            .map(|curve| curve.twins.as_slice())
            .filter(|points| !points.is_empty())
            .collect();
        (!runs.is_empty()).then_some(Self { model, look, runs })
    }

    fn values(&self, quantity: fn(&TwinPoint) -> f64) -> Vec<f64> {
        self.runs.iter().copied().flatten().map(quantity).collect()
    }

    fn seeds(&self, quantity: fn(&TwinPoint) -> f64) -> Vec<Vec<(f64, f64)>> {
        let point = |point: &TwinPoint| (point.tokens as f64, quantity(point));
        self.runs
            .iter()
            .map(|run| run.iter().map(point).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn only_grown_models_have_replicas() {
        let mut results = sample::results();
        let palette = Palette::new(&results);
        let drawn = figure(&groups(&results)[0], &palette).unwrap().unwrap();
        assert!(drawn.svg.contains("\npaper\n") && !drawn.svg.contains("\nFixed-8\n"));
        for curve in &mut results.curves {
            curve.twins.clear();
        }
        let palette = Palette::new(&results);
        assert!(figure(&groups(&results)[0], &palette).unwrap().is_none());
    }
}
