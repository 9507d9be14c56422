//! The figure of final loss over what training cost, in FLOPs and in time.

use std::ops::Range;

use crate::group::Group;
use crate::model::Model;
use crate::number::{duration_unit, fixed, flops_unit};
use crate::plot::axis::{extent, widened};
use crate::plot::error::PlotError;
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::palette::{Look, Palette};
use crate::plot::panel::{Panel, Stroke};
use crate::plot::sheet::{MUTED, WIDTH, draw, legend};
use crate::results::Cell;
use crate::statistics::summarize;

/// Losses further above the best than this many times the spread of the fixed models are cut off.
const WORST: f64 = 2.0;

/// Loss over cost of all models at all places; none if no cell has a loss and a cost.
pub(crate) fn figure(group: &Group, palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let lines = lines(group, palette);
    let Some(losses) = shown_losses(&lines) else {
        return Ok(None);
    };
    let title = format!("Loss over cost: {}", group.label);
    let models = lines.iter().map(|line| line.model);
    let legend = legend(models, group.setting, palette);
    let svg = draw(&title, &legend, 560, |sheet| {
        for (columns, cost) in [
            (120..WIDTH / 2 - 50, Cost::Flops),
            (WIDTH / 2 + 90..WIDTH - 40, Cost::Seconds),
        ] {
            let Some(costs) = extent(lines.iter().flat_map(|line| line.costs(cost))) else {
                continue;
            };
            let (unit, name) = cost.unit(costs.end);
            let x = widened(&(costs.start / unit..costs.end / unit), 0.05, 0.05);
            let panel = Panel::new(sheet, columns, x, losses.clone());
            panel.y_axis("validation loss in nats a token")?;
            panel.round_x_axis(5, &name)?;
            let points = |line: &Line| line.scaled(cost, unit);
            let front = front(lines.iter().flat_map(points).collect());
            panel.line(&front, Stroke::dashed(MUTED, 3, (6, 8)))?;
            for line in &lines {
                panel.line(&points(line), Stroke::of(line.look, 3))?;
            }
            for line in &lines {
                let model = line.model.label(group.setting);
                for point in points(line) {
                    panel.mean(point, line.look)?;
                    let (cost, loss) = (fixed(point.0, 2), fixed(point.1, 4));
                    panel.value(point, format!("{model}: loss {loss}, {name} {cost}"));
                }
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        kind: FigureKind::Pareto,
        name: format!("pareto_{}", group.stem),
        title,
        caption: CAPTION.to_owned(),
        svg,
    }))
}

const CAPTION: &str = "Final validation loss over the training that led to it, pre-training included; each mark is the mean \
    over seeds at one place of the sweep. Dashed: the Pareto front, that is the runs that no other run beats in loss without \
    costing more. Left: floating-point operations without the vocabulary head. Right: measured seconds of training steps, \
    with other stages beside where the sweep ran several at once.";

#[derive(Clone, Copy)]
enum Cost {
    Flops,
    Seconds,
}

impl Cost {
    fn unit(self, largest: f64) -> (f64, String) {
        match self {
            Self::Flops => {
                let (unit, name) = flops_unit(largest);
                (unit, format!("training compute in {name}"))
            }
            Self::Seconds => {
                let (unit, name) = duration_unit(largest);
                (unit, format!("training time in {name}"))
            }
        }
    }
}

/// One model: mean FLOPs, seconds and loss at each place.
struct Line<'a> {
    model: Model<'a>,
    look: Look,
    points: Vec<[f64; 3]>,
}

impl Line<'_> {
    fn costs(&self, cost: Cost) -> impl Iterator<Item = f64> {
        self.points.iter().map(move |point| point[cost as usize])
    }

    /// Cost and loss of every place.
    fn scaled(&self, cost: Cost, unit: f64) -> Vec<(f64, f64)> {
        let losses = self.points.iter().map(|point| point[2]);
        self.costs(cost)
            .map(|cost| cost / unit)
            .zip(losses)
            .collect()
    }
}

fn lines<'a>(group: &Group<'a>, palette: &Palette) -> Vec<Line<'a>> {
    let places = group.places();
    let line = |model: Model<'a>| {
        let point = |&place: &f64| {
            let cells = match model {
                Model::Upcycled(recipe) => group.seeds(recipe, place).cells,
                Model::FixedE | Model::FixedMe => group.fixed(place),
            };
            let mean =
                |i: usize| summarize(cells.iter().map(|cell| cost_and_loss(model, cell)[i])).mean;
            let point = [mean(0), mean(1), mean(2)];
            let known = point.iter().all(|value| value.is_finite()) && point[0] > 0.0;
            known.then_some(point)
        };
        Line {
            model,
            look: palette.look(model),
            points: places.iter().filter_map(point).collect(),
        }
    };
    let recipes = group.recipes().into_iter().map(Model::Upcycled);
    let models = [Model::FixedE]
        .into_iter()
        .chain(recipes)
        .chain([Model::FixedMe]);
    models
        .map(line)
        .filter(|line| !line.points.is_empty())
        .collect()
}

/// FLOPs, seconds and final loss of one run.
fn cost_and_loss(model: Model, cell: &Cell) -> [f64; 3] {
    match model {
        Model::FixedE => [
            cell.train_flops_fixed_e,
            cell.wall_seconds_fixed_e,
            cell.loss_fixed_e,
        ],
        Model::Upcycled(_) => [cell.train_flops, cell.wall_seconds, cell.loss_upcycled],
        Model::FixedMe => [
            cell.train_flops_fixed_me,
            cell.wall_seconds_fixed_me,
            cell.loss_fixed_me,
        ],
    }
}

/// All losses, but for those that would squeeze the rest.
fn shown_losses(lines: &[Line]) -> Option<Range<f64>> {
    let losses = |line: &Line| line.points.iter().map(|point| point[2]).collect::<Vec<_>>();
    let all = extent(lines.iter().flat_map(losses))?;
    let fixed = lines
        .iter()
        .filter(|line| !matches!(line.model, Model::Upcycled(_)));
    let fixed = extent(fixed.flat_map(losses)).unwrap_or(all.clone());
    let spread = (fixed.end - all.start).max(0.01 * all.start.abs());
    Some(widened(
        &(all.start..all.end.min(all.start + WORST * spread)),
        0.05,
        0.05,
    ))
}

/// The points that no other point beats in one coordinate without being worse in the other, by cost.
fn front(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    points.retain(|point| {
        let better = point.1 < best;
        best = best.min(point.1);
        better
    });
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = vec![(2.0, 1.5), (1.0, 2.0), (3.0, 1.6), (4.0, 1.0), (1.0, 2.5)];
        assert_eq!(front(points), [(1.0, 2.0), (2.0, 1.5), (4.0, 1.0)]);
    }

    #[test]
    fn all_models_are_there() {
        let results = sample::results();
        let group = &groups(&results)[0];
        let lines = lines(group, &Palette::new(&results));
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.points.len() == 4));
    }

    #[test]
    fn results_without_losses_have_no_figure() {
        let mut results = sample::results();
        for cell in &mut results.cells {
            (cell.loss_fixed_e, cell.loss_fixed_me) = (f64::NAN, f64::NAN);
            cell.loss_upcycled = f64::NAN;
        }
        let palette = Palette::new(&results);
        assert!(figure(&groups(&results)[0], &palette).unwrap().is_none());
    }
}
