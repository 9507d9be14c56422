//! Tasks by name or by file, before their rows are there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use upcycle_data::{DataConfig, Dataset};
use upcycle_files::FileError;

use crate::{
    build::build,
    error::TaskError,
    file::{HubData, ItemForm, TaskForm},
    item::{Candidate, Choice, Continuation, Items, MetricKind, Task},
};

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../configs/", $name, ".toml")))),+]
    };
}

const PRESETS: &[(&str, &str)] = presets!(
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "openbookqa",
    "sciq",
    "siqa",
    "winogrande",
    "boolq",
    "mmlu",
    "blimp",
    "lambada",
    "perplexity",
);

/// Tasks whose answers are written and not chosen.
const GENERATED: [&str; 3] = ["gsm8k", "bbh", "ifeval"];

/// Stands for all built-in tasks that need no rows.
const SYNTHETIC: &str = "synthetic";

/// Questions of a built-in task without a limit.
const QUESTIONS: usize = 1000;

/// A task that is known by its form: what its items are made of, and where their rows are.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    name: String,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// Questions about what a corpus of a skill teaches.
    Skill(DataConfig),
    Rows(Box<TaskForm>),
}

/// Where the rows of a task are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowSource {
    /// They are made up.
    None,
    /// In a file.
    File(PathBuf),
    /// On the Hugging Face hub, in a split of a data set.
    Hub {
        /// `ORG/NAME` or `ORG/NAME@REVISION`.
        dataset: String,
        /// The configuration, `*` for all of them; none where there is one, or one that is called `default`.
        config: Option<String>,
        /// The split.
        split: String,
    },
}

/// Names of the built-in tasks with what the first lines of their files say.
pub fn catalogue() -> Vec<(&'static str, String)> {
    let presets = PRESETS.iter().map(|(name, text)| {
        let lines = text.lines().map_while(|line| line.strip_prefix("# "));
        (*name, lines.collect::<Vec<_>>().join(" "))
    });
    let skills = DataConfig::SKILLS.map(|name| {
        let about = match name {
            "knowledge" => "Facts about made-up persons, which `train --data knowledge` teaches.",
            "arithmetic" => "Equations that were held out from `train --data arithmetic`.",
            _ => "Walks along arrows in the text itself, which `train --data lookup` teaches.",
        };
        (name, about.to_owned())
    });
    presets.chain(skills).collect()
}

impl TaskSpec {
    /// The tasks of one entry of a list: `NAME`, `NAME=FILE` with the rows in a file of one's own,
    /// `NAME:CONFIG` with another configuration of the data set, `FILE.toml`, `knowledge:PERSONS`
    /// and the like, or `synthetic` for all of the latter.
    ///
    /// # Errors
    /// If there is no such task, it is not computed here, or its file has an error.
    pub fn parse(text: &str) -> Result<Vec<TaskSpec>, TaskError> {
        if text == SYNTHETIC {
            return DataConfig::SKILLS
                .iter()
                .map(|name| Self::one(name))
                .collect();
        }
        Ok(vec![Self::one(text)?])
    }

    fn one(text: &str) -> Result<TaskSpec, TaskError> {
        if let Some(config) = DataConfig::skill(text)? {
            return Ok(TaskSpec {
                name: text.to_owned(),
                source: Source::Skill(config),
            });
        }
        let (known, file) = match text.split_once('=') {
            Some((known, file)) => (known, Some(PathBuf::from(file))),
            None => (text, None),
        };
        if known.ends_with(".toml") {
            return Self::read(Path::new(known), file);
        }
        let (preset, config) = match known.split_once(':') {
            Some((preset, config)) => (preset, Some(config.to_owned())),
            None => (known, None),
        };
        if GENERATED.contains(&preset) {
            return Err(TaskError::Generates {
                name: preset.to_owned(),
            });
        }
        let Some((_, toml)) = PRESETS.iter().find(|(name, _)| *name == preset) else {
            let presets = PRESETS.iter().map(|(name, _)| *name);
            let all = presets.chain(DataConfig::SKILLS).chain([SYNTHETIC]);
            return Err(TaskError::Unknown {
                name: preset.to_owned(),
                known: all.collect::<Vec<_>>().join(", "),
            });
        };
        let mut form = parsed(preset, toml)?;
        match &mut form.hub {
            Some(hub) if config.is_some() => hub.config = config,
            None if config.is_some() => {
                return Err(TaskError::Parse {
                    place: preset.to_owned(),
                    problem: format!(
                        "`{known}`: its rows are in a file, which has no configurations; leave out what stands behind the colon"
                    ),
                });
            }
            _ => {}
        }
        Ok(Self::of(known, form, file))
    }

    /// The task in a file of its own, whose name it has.
    fn read(path: &Path, file: Option<PathBuf>) -> Result<TaskSpec, TaskError> {
        let text = fs::read_to_string(path).map_err(FileError::of("read", path))?;
        let mut form = parsed(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = [&mut form.data, &mut form.fewshot_data];
        for file in files.into_iter().flatten() {
            *file = folder.join(&*file);
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self::of(&name, form, file))
    }

    fn of(name: &str, mut form: TaskForm, file: Option<PathBuf>) -> TaskSpec {
        form.data = file.or(form.data);
        TaskSpec {
            name: name.to_owned(),
            source: Source::Rows(Box::new(form)),
        }
    }

    /// What it is called in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same task with another number of examples before each item.
    ///
    /// # Errors
    /// If it cannot have examples.
    pub fn with_fewshot(mut self, fewshot: usize) -> Result<TaskSpec, TaskError> {
        match &mut self.source {
            Source::Rows(form) if !has_no_examples(&form.items) || fewshot == 0 => {
                form.fewshot = fewshot;
                Ok(self)
            }
            Source::Skill(_) if fewshot == 0 => Ok(self),
            _ => Err(TaskError::NoExamples { task: self.name }),
        }
    }

    /// Where its rows are.
    ///
    /// # Errors
    /// If that is not said.
    pub fn rows(&self) -> Result<RowSource, TaskError> {
        let Source::Rows(form) = &self.source else {
            return Ok(RowSource::None);
        };
        match (&form.data, &form.hub) {
            (Some(path), _) => Ok(RowSource::File(path.clone())),
            (None, Some(hub)) => Ok(of_hub(hub, &hub.split)),
            (None, None) => Err(TaskError::NoRows {
                task: self.name.clone(),
            }),
        }
    }

    /// Where the rows of its examples are.
    ///
    /// # Errors
    /// If it needs some, and that is not said.
    pub fn example_rows(&self) -> Result<RowSource, TaskError> {
        let Source::Rows(form) = &self.source else {
            return Ok(RowSource::None);
        };
        if form.fewshot == 0 {
            return Ok(RowSource::None);
        }
        let hub = form.hub.as_ref();
        match (
            &form.fewshot_data,
            hub.and_then(|hub| Some((hub, hub.fewshot_split.as_ref()?))),
        ) {
            (Some(path), _) => Ok(RowSource::File(path.clone())),
            (None, Some((hub, split))) => Ok(of_hub(hub, split)),
            (None, None) => Err(TaskError::NoExampleRows {
                task: self.name.clone(),
            }),
        }
    }

    /// The task with the first `limit` rows of files, or of what is made up; all without a limit.
    ///
    /// # Errors
    /// If a file cannot be read, or a row gives no item.
    pub fn build(
        &self,
        files: &[PathBuf],
        example_files: &[PathBuf],
        limit: Option<usize>,
    ) -> Result<Task, TaskError> {
        let (items, metrics) = match &self.source {
            Source::Skill(config) => {
                let metrics = vec![MetricKind::Acc, MetricKind::AnswerBitsPerByte];
                (questions(config, limit.unwrap_or(QUESTIONS))?, metrics)
            }
            Source::Rows(form) => {
                let items = build(form, &self.name, files, example_files, limit)?;
                (items, form.metrics.clone())
            }
        };
        if items.is_empty() {
            return Err(TaskError::NoItems {
                task: self.name.clone(),
            });
        }
        Ok(Task {
            name: self.name.clone(),
            items,
            metrics,
        })
    }
}

fn parsed(place: &str, text: &str) -> Result<TaskForm, TaskError> {
    TaskForm::parse(text).map_err(|problem| TaskError::Parse {
        place: place.to_owned(),
        problem,
    })
}

fn has_no_examples(items: &ItemForm) -> bool {
    matches!(
        items,
        ItemForm::MinimalPairs { .. } | ItemForm::Perplexity { .. }
    )
}

fn of_hub(hub: &HubData, split: &str) -> RowSource {
    RowSource::Hub {
        dataset: hub.dataset.clone(),
        config: hub.config.clone(),
        split: split.to_owned(),
    }
}

fn questions(config: &DataConfig, count: usize) -> Result<Items, TaskError> {
    // Corpora of skills are generated and leave the folder alone.
    let corpus = Dataset::open(config, Path::new(""))?;
    let questions = corpus.questions(count).into_iter().map(|question| {
        let candidates = question.choices.into_iter().map(|answer| Candidate {
            scored: Continuation {
                context: question.context.clone(),
                text: format!(" {answer}"),
            },
            answer,
        });
        Choice {
            candidates: candidates.collect(),
            answer: question.answer,
        }
    });
    Ok(Items::Choices(questions.collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn error(text: &str) -> String {
        TaskSpec::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_task_is_read() {
        for (name, about) in catalogue() {
            let spec = &TaskSpec::parse(name).unwrap()[0];
            assert_eq!(spec.name(), name);
            assert!(about.ends_with('.'), "{name}: {about}");
            let rows = spec.rows();
            assert_eq!(rows.is_err(), name == "perplexity", "{name}");
        }
        assert_eq!(TaskSpec::parse("synthetic").unwrap().len(), 3);
    }

    #[test]
    fn rows_come_from_where_one_says() {
        let spec = TaskSpec::parse("blimp:wh_island").unwrap().remove(0);
        assert_eq!(spec.name(), "blimp:wh_island");
        let Ok(RowSource::Hub { config, split, .. }) = spec.rows() else {
            panic!("no hub")
        };
        assert_eq!(
            (config.as_deref(), split.as_str()),
            (Some("wh_island"), "train")
        );
        let spec = TaskSpec::parse("piqa=a/b.jsonl").unwrap().remove(0);
        assert_eq!(spec.rows().unwrap(), RowSource::File("a/b.jsonl".into()));
        assert_eq!(spec.example_rows().unwrap(), RowSource::None);
        let spec = spec.with_fewshot(3).unwrap();
        let Ok(RowSource::Hub { split, .. }) = spec.example_rows() else {
            panic!("no hub")
        };
        assert_eq!(split, "train");
    }

    #[test]
    fn what_is_not_computed_is_told() {
        assert!(error("gsm8k").contains("lm-evaluation-harness"));
        assert!(error("trivia").contains("no task `trivia`; known are hellaswag"));
        assert!(error("knowledge:0").contains("`persons`"));
        assert!(error("none.toml").contains("cannot read none.toml"));
        assert!(error("perplexity:x").contains("behind the colon"));
        let blimp = TaskSpec::parse("blimp").unwrap().remove(0);
        let message = blimp.with_fewshot(2).unwrap_err().to_string();
        assert!(message.contains("blimp"), "{message}");
    }

    #[test]
    fn files_of_tasks_name_rows_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        let toml = "kind = \"cloze\"\ndata = \"rows.jsonl\"\ncontext = \"{a}\"\ntarget = \"{b}\"\n";
        fs::write(&path, toml).unwrap();
        fs::write(
            folder.path().join("rows.jsonl"),
            "{\"a\": \"x\", \"b\": \"y\"}\n",
        )
        .unwrap();
        let spec = TaskSpec::parse(path.to_str().unwrap()).unwrap().remove(0);
        assert_eq!(spec.name(), "own");
        let RowSource::File(rows) = spec.rows().unwrap() else {
            panic!("no file")
        };
        let task = spec.build(&[rows], &[], None).unwrap();
        assert_eq!(task.items.len(), 1);
        fs::write(folder.path().join("rows.jsonl"), "").unwrap();
        let message = spec.build(&[folder.path().join("rows.jsonl")], &[], None);
        assert!(message.unwrap_err().to_string().contains("own has no item"));
    }

    #[test]
    fn questions_have_a_chance_of_one_in_four() {
        let spec = TaskSpec::parse("knowledge:10").unwrap().remove(0);
        let task = spec.build(&[], &[], Some(20)).unwrap();
        let Items::Choices(items) = task.items else {
            panic!("no choices")
        };
        assert_eq!(items.len(), 20);
        assert!(items.iter().all(|item| item.candidates.len() == 4));
    }
}
