//! What the three models of a comparison can do, and how much of that gap is closed.

use crate::columns::in_columns;
use crate::csv::quoted;
use crate::number::{fixed, mean_interval, mean_sd};
use crate::results::{Results, Setting, TaskRow};
use crate::statistics::{Summary, ratio_of_means, summarize};

const DECIMALS: usize = 4;

/// The name of the mean over several tasks.
const MEAN: &str = "mean";

/// A task and a recipe at one place of a sweep, over seeds.
pub(crate) struct TaskLine<'a> {
    pub(crate) task: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) recipe: &'a str,
    /// What guessing reaches; NaN where nothing is chosen.
    pub(crate) chance: f64,
    pub(crate) models: [Summary; 3],
    /// NaN where the gap is within its standard error over items.
    pub(crate) eta: Summary,
}

/// Places of a sweep with their lines, in order of first appearance.
pub(crate) fn task_lines(results: &Results) -> Vec<(&Setting, Vec<TaskLine<'_>>)> {
    let mut settings: Vec<&Setting> = Vec::new();
    for row in &results.tasks {
        if !settings.contains(&&row.setting) {
            settings.push(&row.setting);
        }
    }
    let lines = settings.into_iter().map(|setting| {
        let own = results.tasks.iter().filter(|row| row.setting == *setting);
        (setting, lines(&own.collect::<Vec<_>>()))
    });
    lines.collect()
}

fn lines<'a>(rows: &[&'a TaskRow]) -> Vec<TaskLine<'a>> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let name = (row.task.as_str(), row.recipe.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let lines = names.iter().map(|&(task, recipe)| {
        let own = rows.iter().copied();
        let own = own.filter(|row| row.task == task && row.recipe == recipe);
        line(&own.collect::<Vec<_>>())
    });
    let mut lines: Vec<TaskLine> = lines.flatten().collect();
    lines.extend(means(rows));
    lines
}

fn line<'a>(rows: &[&'a TaskRow]) -> Option<TaskLine<'a>> {
    let first = rows.first()?;
    let model = |value: fn(&TaskRow) -> f64| summarize(rows.iter().map(|row| value(row)));
    let sign = if first.higher_is_better { 1.0 } else { -1.0 };
    let closed = |row: &TaskRow| sign * (row.upcycled - row.fixed_e);
    let gap = |row: &TaskRow| sign * (row.fixed_me - row.fixed_e);
    let errors = rows.iter().filter_map(|row| row.standard_error);
    let error = summarize(errors).mean;
    // Of the mean over seeds of the difference of two models.
    let noise = (2.0 / rows.len() as f64).sqrt() * error;
    let least = if noise.is_finite() { noise } else { 0.0 };
    Some(TaskLine {
        task: &first.task,
        metric: &first.metric,
        recipe: &first.recipe,
        chance: first.chance.unwrap_or(f64::NAN),
        models: [
            model(|row| row.fixed_e),
            model(|row| row.upcycled),
            model(|row| row.fixed_me),
        ],
        eta: ratio_of_means(
            rows.iter().map(|row| (closed(row), gap(row))),
            least.max(1e-9),
        ),
    })
}

/// Of each recipe the mean over all tasks that are shares of right answers, where there are several; seeds that have all of
/// them count.
fn means<'a>(rows: &[&'a TaskRow]) -> Vec<TaskLine<'a>> {
    let shares: Vec<&TaskRow> = rows
        .iter()
        .copied()
        .filter(|row| row.chance.is_some())
        .collect();
    let mut tasks: Vec<&str> = shares.iter().map(|row| row.task.as_str()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    if tasks.len() < 2 {
        return Vec::new();
    }
    let mut recipes: Vec<&str> = Vec::new();
    for row in &shares {
        if !recipes.contains(&row.recipe.as_str()) {
            recipes.push(&row.recipe);
        }
    }
    let lines = recipes.into_iter().map(|recipe| {
        let own: Vec<&TaskRow> = shares
            .iter()
            .copied()
            .filter(|row| row.recipe == recipe)
            .collect();
        let mut seeds: Vec<u64> = own.iter().map(|row| row.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let of_seed = |seed: u64| own.iter().copied().filter(move |row| row.seed == seed);
        seeds.retain(|&seed| of_seed(seed).count() == tasks.len());
        let mean = |seed: u64, value: fn(&TaskRow) -> f64| {
            of_seed(seed).map(value).sum::<f64>() / tasks.len() as f64
        };
        let model =
            |value: fn(&TaskRow) -> f64| summarize(seeds.iter().map(|&seed| mean(seed, value)));
        let pairs = seeds.iter().map(|&seed| {
            let small = mean(seed, |row| row.fixed_e);
            let closed = mean(seed, |row| row.upcycled) - small;
            (closed, mean(seed, |row| row.fixed_me) - small)
        });
        let squares = own
            .iter()
            .filter_map(|row| row.standard_error)
            .map(|error| error * error);
        let squares = squares.sum::<f64>() / own.len().max(1) as f64;
        // Tasks have items of their own, so that their errors are independent.
        let noise = (2.0 * squares / (tasks.len() * seeds.len().max(1)) as f64).sqrt();
        TaskLine {
            task: MEAN,
            metric: "acc",
            recipe,
            chance: of_seed(seeds.first().copied().unwrap_or_default())
                .filter_map(|row| row.chance)
                .sum::<f64>()
                / tasks.len() as f64,
            eta: ratio_of_means(pairs.collect::<Vec<_>>(), noise.max(1e-9)),
            models: [
                model(|row| row.fixed_e),
                model(|row| row.upcycled),
                model(|row| row.fixed_me),
            ],
        }
    });
    lines.collect()
}

/// One line for each task and recipe of each place: the three models, means over seeds ± standard deviation, and the gap
/// closure in per cent. Empty without tasks.
pub fn task_table(results: &Results) -> String {
    let tables = task_lines(results).into_iter().map(|(setting, lines)| {
        let head = [
            "task", "metric", "recipe", "chance", "Fixed-E", "Upcycled", "Fixed-mE", "eta %",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(lines.iter().map(|line| {
            let mut cells = vec![
                line.task.to_owned(),
                line.metric.to_owned(),
                line.recipe.to_owned(),
                fixed(line.chance, DECIMALS),
            ];
            cells.extend(line.values());
            cells
        }));
        let place = setting.place_name(setting.place());
        format!(
            "{}, {place}\n{}",
            setting.growth_name(),
            in_columns(&rows, &[0, 1, 2])
        )
    });
    tables.collect::<Vec<_>>().join("\n\n")
}

impl TaskLine<'_> {
    /// The three models and the gap closure, as people read them.
    pub(crate) fn values(&self) -> [String; 4] {
        let [small, grown, big] = &self.models;
        [
            mean_sd(small, 1.0, DECIMALS),
            mean_sd(grown, 1.0, DECIMALS),
            mean_sd(big, 1.0, DECIMALS),
            mean_interval(&self.eta, 100.0, 0),
        ]
    }
}

/// The rows as comma-separated values.
pub(crate) fn tasks_csv(results: &Results) -> String {
    let head = "scale,experts,target_experts,top_k,cpt_fraction,recipe,seed,task,metric,chance,standard_error,fixed_e,upcycled,fixed_me\n";
    let mut text = head.to_owned();
    let optional = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for row in &results.tasks {
        let setting = &row.setting;
        let cells = [
            quoted(setting.scale.clone()),
            setting.experts.to_string(),
            setting.target_experts.to_string(),
            setting.top_k.to_string(),
            setting.cpt_fraction.to_string(),
            quoted(row.recipe.clone()),
            row.seed.to_string(),
            quoted(row.task.clone()),
            row.metric.clone(),
            optional(row.chance),
            optional(row.standard_error),
            row.fixed_e.to_string(),
            row.upcycled.to_string(),
            row.fixed_me.to_string(),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sample;

    fn results(rows: &[(&str, u64, [f64; 3])]) -> Results {
        let setting = sample::results().cells[0].setting.clone();
        let tasks = rows
            .iter()
            .map(|&(task, seed, [fixed_e, upcycled, fixed_me])| TaskRow {
                setting: setting.clone(),
                recipe: "exact".into(),
                seed,
                task: task.into(),
                metric: "acc".into(),
                higher_is_better: true,
                chance: Some(0.25),
                standard_error: Some(0.01),
                fixed_e,
                upcycled,
                fixed_me,
            });
        Results {
            tasks: tasks.collect(),
            ..Results::default()
        }
    }

    #[test]
    fn gaps_are_closed_over_seeds_and_tasks() {
        let results = results(&[
            ("piqa", 0, [0.50, 0.56, 0.60]),
            ("piqa", 1, [0.50, 0.54, 0.60]),
            ("sciq", 0, [0.40, 0.60, 0.60]),
            ("sciq", 1, [0.40, 0.60, 0.60]),
        ]);
        let places = task_lines(&results);
        assert_eq!(places.len(), 1);
        let lines = &places[0].1;
        let names: Vec<&str> = lines.iter().map(|line| line.task).collect();
        assert_eq!(names, ["piqa", "sciq", MEAN]);
        for (line, eta) in lines.iter().zip([0.5, 1.0, 0.25 / 0.3]) {
            assert!((line.eta.mean - eta).abs() < 1e-9, "{}", line.task);
        }
        assert!((lines[2].models[1].mean - 0.575).abs() < 1e-9);
        let table = task_table(&results);
        assert!(table.contains("piqa") && table.contains("eta %"), "{table}");
        assert_eq!(tasks_csv(&results).lines().count(), 5);
    }

    #[test]
    fn a_gap_within_its_error_is_not_divided_by() {
        let results = results(&[("piqa", 0, [0.50, 0.51, 0.51])]);
        let lines = task_lines(&results);
        assert!(lines[0].1[0].eta.mean.is_nan());
        assert_eq!(task_table(&Results::default()), "");
    }
}
