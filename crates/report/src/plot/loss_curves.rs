//! The figure of validation loss over tokens, with the final losses beside it.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

use crate::group::Group;
use crate::model::{Model, in_order};
use crate::number::{count, count_unit, fixed};
use crate::plot::axis::{extent, ticks, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, Sheet, WIDTH, draw, legend};
use crate::results::Curve;
use crate::statistics::summarize;

/// Share of the run that is left out at its start, where the loss falls too fast to see anything else.
const SKIPPED: f64 = 0.2;
/// More rows than this leave no room for names among the final losses.
const ROWS_WITH_NAMES: usize = 9;

/// Loss curves of the longest runs; none if there is no curve.
pub(crate) fn figure(
    group: &Group,
    palette: &Palette,
    floor: Option<f64>,
) -> Result<Option<Figure>, PlotError> {
    let bundles = bundles(group, palette);
    let Some(view) = View::new(&bundles, floor) else {
        return Ok(None);
    };
    let title = format!("Validation loss: {}", group.label);
    let models = bundles.iter().map(|bundle| bundle.model);
    let legend = legend(models, group.setting, palette);
    let finals = finals(&bundles);
    let svg = draw(&title, &legend, 620, |sheet| {
        draw_run(sheet, &bundles, &view)?;
        draw_finals(sheet, &finals)
    })?;
    Ok(Some(Figure {
        kind: FigureKind::LossCurves,
        name: format!("loss_curves_{}", group.stem),
        title,
        caption: caption(group, &view, floor),
        svg,
    }))
}

/// The curves of one model over seeds.
struct Bundle<'a> {
    model: Model<'a>,
    name: String,
    look: Look,
    tau: f64,
    seeds: Vec<Vec<(f64, f64)>>,
    mean: Vec<(f64, f64)>,
}

fn bundles<'a>(group: &Group<'a>, palette: &Palette) -> Vec<Bundle<'a>> {
    let curves = group.longest_curves();
    let models = in_order(curves.iter().map(|curve| curve.model()));
    let has_fixed_e = models.contains(&Model::FixedE);
    let bundle = |model: Model<'a>| {
        let own: Vec<&Curve> = curves
            .iter()
            .copied()
            .filter(|c| c.model() == model)
            .collect();
        // Up to tau an upcycled run is Fixed-E, whose line is drawn already.
        let from_tau = has_fixed_e && matches!(model, Model::Upcycled(_));
        let seeds: Vec<_> = own.iter().map(|curve| points(curve, from_tau)).collect();
        Bundle {
            model,
            name: model.label(group.setting),
            look: palette.look(model),
            tau: own.first().map_or(0.0, |curve| curve.tau_tokens as f64),
            mean: mean(&seeds),
            seeds,
        }
    };
    models.into_iter().map(bundle).collect()
}

fn points(curve: &Curve, from_tau: bool) -> Vec<(f64, f64)> {
    let start = if from_tau { curve.tau_tokens } else { 0 };
    let points = curve
        .points
        .iter()
        .filter(|p| p.0 >= start && p.1.is_finite());
    points
        .map(|(tokens, loss)| (*tokens as f64, *loss))
        .collect()
}

/// The mean at each point that all seeds have. Tokens may occur twice, before and after the operator, so points are
/// matched by tokens and occurrence.
pub(crate) fn mean(seeds: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let mut losses: BTreeMap<(u64, usize), Vec<f64>> = BTreeMap::new();
    for points in seeds {
        let mut last = (u64::MAX, 0);
        for (tokens, loss) in points {
            let tokens = *tokens as u64;
            last = (tokens, if last.0 == tokens { last.1 + 1 } else { 0 });
            losses.entry(last).or_default().push(*loss);
        }
    }
    let complete = losses.into_iter().filter(|(_, l)| l.len() == seeds.len());
    complete
        .map(|((tokens, _), l)| (tokens as f64, summarize(&l).mean))
        .collect()
}

/// What part of the plane is shown.
struct View {
    tokens: Range<f64>,
    loss: Range<f64>,
    tau: f64,
    floor: Option<f64>,
}

impl View {
    /// The region of interest; none if there is no point.
    fn new(bundles: &[Bundle], floor: Option<f64>) -> Option<Self> {
        let points = || bundles.iter().flat_map(|b| b.seeds.iter().flatten());
        let end = extent(points().map(|p| p.0))?.end;
        let tau = bundles.iter().map(|b| b.tau).fold(0.0, f64::max);
        // No more of pre-training than of CPT, so that short CPT is not squeezed into a corner.
        let start = (SKIPPED * end).max(2.0 * tau - end).min(0.9 * end);
        let shown = |p: &&(f64, f64)| p.0 >= start;
        let all = extent(points().filter(shown).map(|p| p.1))?;
        let fixed = bundles
            .iter()
            .filter(|b| !matches!(b.model, Model::Upcycled(_)));
        let fixed = fixed.flat_map(|b| b.seeds.iter().flatten());
        let fixed = extent(fixed.filter(shown).map(|p| p.1)).unwrap_or(all.clone());
        // A jump that is much larger than everything else is cut off.
        let most = all.start + 2.5 * (fixed.end - all.start).max(0.01 * all.start.abs());
        let high = all.end.min(most);
        let near = |f: &f64| *f < all.start && *f > all.start - 0.4 * (high - all.start);
        let floor = floor.filter(near);
        // Head room for the label of tau.
        let loss = widened(&(floor.unwrap_or(all.start)..high), 0.05, 0.12);
        Some(Self {
            tokens: widened(&(start..end), 0.0, 0.0),
            loss,
            tau,
            floor,
        })
    }
}

fn draw_run(sheet: &Sheet, bundles: &[Bundle], view: &View) -> Result<(), PlotError> {
    let panel = Panel::new(sheet, 120..970, view.tokens.clone(), view.loss.clone());
    panel.y_axis("validation loss in nats a token")?;
    panel.x_axis(&token_labels(&view.tokens, 5), "tokens")?;
    draw_references(&panel, view)?;
    for bundle in bundles {
        for seed in bundle.seeds.iter().filter(|_| bundle.seeds.len() > 1) {
            panel.line(seed, Stroke::faint(bundle.look.color, 2))?;
        }
    }
    for bundle in bundles {
        panel.line(&bundle.mean, Stroke::of(bundle.look, 4))?;
        panel.values_along(&bundle.mean, |(tokens, loss)| {
            let (tokens, loss) = (count(tokens), fixed(loss, 4));
            format!("{} at {tokens} tokens: {loss}", bundle.name)
        });
    }
    Ok(())
}

/// About `target` round numbers of tokens, all in the unit of the largest.
pub(crate) fn token_labels(tokens: &Range<f64>, target: usize) -> Vec<(f64, String)> {
    let (unit, prefix) = count_unit(tokens.end);
    let ticks = ticks(&(tokens.start / unit..tokens.end / unit), target);
    let label = |value: f64| format!("{}{prefix}", fixed(value, ticks.decimals));
    ticks.values.iter().map(|v| (v * unit, label(*v))).collect()
}

fn draw_references(panel: &Panel, view: &View) -> Result<(), PlotError> {
    if view.tokens.contains(&view.tau) {
        panel.vertical(view.tau, Stroke::dashed(MUTED, 3, (14, 8)))?;
        let (x, y) = panel.place((view.tau, view.loss.end));
        let label = format!("τ = {}", count(view.tau));
        let (x, side) = if x - panel.columns.start > 220 {
            (x - 12, HPos::Right)
        } else {
            (x + 12, HPos::Left)
        };
        panel.sheet.label(&label, (x, y + 24), side, MUTED)?;
    }
    if let Some(floor) = view.floor {
        panel.horizontal(floor, Stroke::dashed(MUTED, 3, (4, 8)))?;
        let (x, y) = panel.place((view.tokens.start, floor));
        let label = format!("entropy floor {}", fixed(floor, 3));
        panel
            .sheet
            .label(&label, (x + 10, y - 22), HPos::Left, MUTED)?;
    }
    Ok(())
}

/// The last loss of each model's seeds.
fn finals<'b>(bundles: &'b [Bundle]) -> Vec<(&'b Bundle<'b>, Vec<f64>)> {
    let last = |bundle: &'b Bundle| {
        let ends = bundle.seeds.iter().filter_map(|s| s.last().map(|p| p.1));
        (bundle, ends.collect::<Vec<f64>>())
    };
    bundles.iter().map(last).collect()
}

/// A row for each model: its name and mean loss, and below them its mark and seeds.
fn draw_finals(sheet: &Sheet, finals: &[(&Bundle, Vec<f64>)]) -> Result<(), PlotError> {
    let Some(all) = extent(finals.iter().flat_map(|(_, ends)| ends.iter().copied())) else {
        return Ok(());
    };
    let rows = finals.len() as f64;
    let panel = Panel::new(sheet, 1080..WIDTH - 40, widened(&all, 0.1, 0.1), 0.0..rows);
    panel.x_grid("final loss in nats a token")?;
    for (bundle, ends) in finals {
        if !matches!(bundle.model, Model::Upcycled(_)) {
            let stroke = Stroke::dashed(bundle.look.color, 2, (14, 8));
            panel.vertical(summarize(ends).mean, stroke)?;
        }
    }
    for (row, (bundle, ends)) in finals.iter().enumerate() {
        let top = rows - row as f64;
        let mean = summarize(ends).mean;
        if !mean.is_finite() {
            continue;
        }
        if finals.len() <= ROWS_WITH_NAMES {
            let label = panel.fitting(&format!("{} {}", fixed(mean, 4), bundle.name));
            let at = panel.place((panel.x.start, top - 0.3));
            sheet.label(&label, at, HPos::Left, BLACK)?;
        }
        panel.mean((mean, top - 0.7), bundle.look)?;
        let told = format!("{}: {}, n = {}", bundle.name, fixed(mean, 4), ends.len());
        panel.value((mean, top - 0.7), told);
        for end in ends.iter().filter(|_| ends.len() > 1) {
            panel.seed((*end, top - 0.7), 0, bundle.look.color)?;
            let told = format!("{}, one seed: {}", bundle.name, fixed(*end, 4));
            panel.value_of_seed((*end, top - 0.7), 0, told);
        }
    }
    Ok(())
}

fn caption(group: &Group, view: &View, floor: Option<f64>) -> String {
    let longest = group.longest_curves();
    let longest = longest
        .first()
        .map(|c| c.setting.place_name(c.setting.place()));
    let mut caption = format!(
        "Left: validation loss ({}), from {} tokens on; thick lines are means over seeds, \
         thin lines single seeds. The operator acts at τ (dashed). Right: mean loss at the end of the runs, on \
         its own scale; the dashed lines are the means of the fixed models.",
        longest.unwrap_or_default(),
        count(view.tokens.start)
    );
    match (floor, view.floor) {
        (Some(floor), None) => {
            caption += &format!(
                " The entropy floor of the data, {} nats, lies below the frame.",
                fixed(floor, 3)
            );
        }
        (_, Some(_)) => caption += " Dotted: entropy rate of the data, the least loss possible.",
        (None, None) => {}
    }
    caption
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn means_keep_both_points_at_tau() {
        let a = vec![(1.0, 3.0), (1.0, 5.0), (2.0, 2.0)];
        let b = vec![(1.0, 5.0), (1.0, 7.0), (3.0, 2.0)];
        assert_eq!(mean(&[a, b]), [(1.0, 4.0), (1.0, 6.0)]);
    }

    #[test]
    fn final_losses_are_named() {
        let results = sample::results();
        let figure = figure(&groups(&results)[0], &Palette::new(&results), None);
        let svg = figure.unwrap().unwrap().svg;
        let named = |name: &str| {
            svg.lines()
                .filter(|l| l.starts_with("1.4") && l.ends_with(name))
                .count()
        };
        for name in ["Fixed-8", "paper", "distinct", "Fixed-16"] {
            assert_eq!(named(name), 1, "{name}");
        }
    }

    #[test]
    fn view_starts_late_and_shows_tau() {
        let results = sample::results();
        let groups = groups(&results);
        let palette = Palette::new(&results);
        let view = View::new(&bundles(&groups[0], &palette), results.floor).unwrap();
        assert!(view.tokens.start >= 0.2 * view.tokens.end);
        assert!(view.tokens.contains(&view.tau));
        assert_eq!(view.floor, results.floor);
    }

    #[test]
    fn a_far_floor_is_told_and_not_drawn() {
        let mut results = sample::results();
        results.floor = Some(0.1);
        let groups = groups(&results);
        let figure = figure(&groups[0], &Palette::new(&results), results.floor);
        assert!(figure.unwrap().unwrap().caption.contains("below the frame"));
    }
}
