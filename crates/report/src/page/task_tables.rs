//! The tables of downstream tasks.

use crate::number::fixed;
use crate::page::markup::{Table, recipe, text};
use crate::plot::palette::Palette;
use crate::results::Results;
use crate::tasks::task_lines;

/// Tasks on the final models, a table for each place of the sweep; none if there were no tasks.
pub(crate) fn tasks(results: &Results, palette: &Palette) -> Vec<Table> {
    let tables = task_lines(results).into_iter().map(|(setting, lines)| {
        let caption = format!(
            "Downstream tasks ({}), means over seeds: {}, {}",
            setting.place_name(setting.place()),
            setting.scale,
            setting.growth_name()
        );
        let head = [
            "task",
            "recipe",
            "metric",
            "chance",
            "Fixed-E",
            "Upcycled",
            "Fixed-mE",
            "gap closure, %",
        ];
        let mut table = Table::new(caption, 2, head);
        for line in lines {
            let names = [
                text(line.task),
                recipe(line.recipe, palette),
                text(line.metric),
                text(fixed(line.chance, 4)),
            ];
            table.row(names.into_iter().chain(line.values().map(text)));
        }
        table
    });
    tables.collect()
}

/// What the numbers are.
pub(crate) const NOTE: &str = "Scores of the final models as lm-evaluation-harness computes them. Gap closure by a task: \
    (Upcycled less Fixed-E) over (Fixed-mE less Fixed-E), none where that gap is within its standard error over items. Mean: \
    over all tasks that are shares of right answers.";
