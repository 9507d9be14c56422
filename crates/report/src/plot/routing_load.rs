//! The figure of the load of each expert.

use std::ops::Range;

use crate::group::Group;
use crate::model::{Model, in_order};
use crate::number::{count, fixed, percent};
use crate::plot::axis::{extent, ticks, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, WIDTH, draw, legend};
use crate::results::RoutingRow;
use crate::statistics::summarize;

/// Loads above this multiple of the uniform share are cut off.
const HIGHEST: f64 = 8.0;
/// The frame reaches at least so far above and below the uniform share.
const LEAST: f64 = 0.05;
/// With more experts than this a line shows more than marks do.
const EXPERTS_WITH_MARKS: usize = 32;

/// Sorted loads of the longest runs' first seed; none if there is no routing row.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let rows = group.longest_routing();
    let Some(seed) = rows.iter().map(|row| row.seed).min() else {
        return Ok(None);
    };
    let rows: Vec<&RoutingRow> = rows.into_iter().filter(|row| row.seed == seed).collect();
    let profiles = profiles(&rows, palette);
    let loads = profiles.iter().flat_map(|p| p.layers.iter().flatten());
    let Some(all) = extent(loads.map(|point| point.1)) else {
        return Ok(None);
    };
    let title = format!("Load of the experts: {}", group.label);
    let models = profiles.iter().map(|profile| profile.model);
    let legend = legend(models, group.setting, palette);
    let y = range(&all);
    let svg = draw(&title, &legend, 460, |sheet| {
        let panel = Panel::new(sheet, 120..WIDTH - 60, 0.0..1.0, y.clone());
        panel.y_axis("load, as a multiple of the uniform share")?;
        let places = ticks(&panel.x, 5).values.into_iter();
        let labels: Vec<_> = places.map(|x| (x, percent(x))).collect();
        panel.x_axis(&labels, "experts of a layer, most loaded first")?;
        panel.horizontal(1.0, Stroke::dashed(MUTED, 3, (14, 8)))?;
        for profile in &profiles {
            for layer in profile.layers.iter().filter(|_| profile.layers.len() > 1) {
                panel.line(layer, Stroke::faint(profile.look.color, 2))?;
            }
            panel.line(&profile.mean, Stroke::of(profile.look, 4))?;
            panel.values_along(&profile.mean, |(_, load)| {
                let name = profile.model.label(group.setting);
                format!("{name}: {} times the uniform share", fixed(load, 2))
            });
        }
        for profile in &profiles {
            let marked = profile.mean.len() <= EXPERTS_WITH_MARKS;
            for point in profile.mean.iter().filter(|_| marked) {
                panel.mean(*point, profile.look)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        kind: FigureKind::RoutingLoad,
        name: format!("routing_load_{}", group.stem),
        title,
        caption: caption(&rows, seed, &all, &y),
        svg,
    }))
}

/// As much as the loads and the uniform share need, so that models that hardly differ can be told apart.
fn range(all: &Range<f64>) -> Range<f64> {
    let low = all.start.clamp(0.0, 1.0 - LEAST);
    let high = all.end.clamp(1.0 + LEAST, HIGHEST);
    let padded = widened(&(low..high), 0.06, 0.06);
    padded.start.max(-0.02 * high)..padded.end
}

/// The sorted loads of one model: (position among the experts, multiple of the uniform share).
struct Profile<'a> {
    model: Model<'a>,
    look: Look,
    layers: Vec<Vec<(f64, f64)>>,
    mean: Vec<(f64, f64)>,
}

fn profiles<'a>(rows: &[&'a RoutingRow], palette: &Palette) -> Vec<Profile<'a>> {
    let models = in_order(rows.iter().map(|row| row.model()));
    let profile = |model: Model<'a>| {
        let own = rows.iter().filter(|row| row.model() == model);
        let layers: Vec<_> = own.map(|row| sorted(&row.load)).collect();
        Profile {
            model,
            look: palette.look(model),
            mean: mean(&layers),
            layers,
        }
    };
    models.into_iter().map(profile).collect()
}

fn sorted(load: &[f64]) -> Vec<(f64, f64)> {
    let experts = load.len() as f64;
    let mut load: Vec<f64> = load.iter().copied().filter(|l| l.is_finite()).collect();
    load.sort_by(|a, b| b.total_cmp(a));
    let place = |(rank, share): (usize, &f64)| ((rank as f64 + 0.5) / experts, share * experts);
    load.iter().enumerate().map(place).collect()
}

/// The mean over layers, rank by rank.
fn mean(layers: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let experts = layers.iter().map(Vec::len).min().unwrap_or(0);
    (0..experts)
        .map(|rank| {
            let loads = layers.iter().map(|layer| layer[rank].1);
            (layers[0][rank].0, summarize(loads).mean)
        })
        .collect()
}

fn caption(rows: &[&RoutingRow], seed: u64, all: &Range<f64>, y: &Range<f64>) -> String {
    let place = rows
        .first()
        .map(|r| r.setting.place_name(r.setting.place()));
    let mut layers: Vec<usize> = rows.iter().map(|row| row.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let mut caption = format!(
        "Share of the routed validation tokens that each expert of the final models gets, over the uniform share \
         (dashed); {}, seed {seed}.",
        place.unwrap_or_default()
    );
    if layers.len() > 1 {
        caption += &format!(
            " Thick lines are means over the {} MoE layers, thin lines single layers.",
            layers.len()
        );
    }
    if y.start > 0.0 {
        caption += " The vertical axis does not start at zero.";
    }
    if all.end > y.end {
        caption += &format!(
            " Loads above {} times the uniform share lie beyond the frame.",
            count(HIGHEST)
        );
    }
    caption
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_sorted_and_relative() {
        assert_eq!(sorted(&[0.25, 0.75]), [(0.25, 1.5), (0.75, 0.5)]);
        assert_eq!(sorted(&[f64::NAN, 1.0]).len(), 1);
        assert!(sorted(&[]).is_empty());
    }

    #[test]
    fn range_is_close_and_has_the_uniform_share() {
        let near = range(&(0.9..1.2));
        assert!(near.start > 0.8 && near.start < 0.9 && near.end > 1.2 && near.end < 1.3);
        let even = range(&(1.0..1.0));
        assert!(even.start < 0.96 && even.end > 1.04);
        let wide = range(&(0.0..100.0));
        assert!(wide.start < 0.0 && wide.start > -0.5 && wide.end < 9.0);
    }

    #[test]
    fn mean_over_layers_of_unequal_length() {
        let layers = [sorted(&[0.5, 0.5]), sorted(&[1.0])];
        assert_eq!(mean(&layers), [(0.25, 1.0)]);
        assert!(mean(&[]).is_empty());
    }
}
