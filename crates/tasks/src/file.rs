//! A task's file: which rows, and how a row becomes an item.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    filter::Filter,
    item::MetricKind,
    template::{Field, Template},
};

/// A task as it stands in a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: Kind,
    data: Option<PathBuf>,
    hub: Option<HubData>,
    context: Option<String>,
    contexts: Option<Vec<String>>,
    choices: Option<OneOrMany>,
    continuation: Option<String>,
    answer: Option<Answer>,
    answer_is: Option<AnswerForm>,
    labels: Option<String>,
    target: Option<String>,
    good: Option<String>,
    bad: Option<String>,
    text: Option<String>,
    clean: Option<String>,
    description: Option<String>,
    delimiter: Option<String>,
    fewshot: Option<usize>,
    fewshot_data: Option<PathBuf>,
    fewshot_separator: Option<String>,
    fewshot_by: Option<String>,
    metrics: Option<Vec<MetricKind>>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Which of several answers to a context.
    MultipleChoice,
    /// After which of several contexts a text is most likely (Trinh and Le, 2018).
    PartialEvaluation,
    /// Which of two sentences.
    MinimalPairs,
    /// The words that follow.
    Cloze,
    /// How likely a text is.
    Perplexity,
}

/// Rows of a data set of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HubData {
    /// `ORG/NAME` or `ORG/NAME@REVISION`.
    pub(crate) dataset: String,
    /// The configuration, `*` for all of them; none where there is one, or one that is called `default`.
    pub(crate) config: Option<String>,
    /// The split that is asked.
    pub(crate) split: String,
    /// The split that examples are from.
    pub(crate) fewshot_split: Option<String>,
}

/// A field that is a list, or a text for each entry.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected \"{field}\" or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The right answer, the same for all rows or a field.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number from 0 or \"{field}\"")]
enum Answer {
    Fixed(usize),
    Field(String),
}

/// What a field says of the right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerForm {
    /// Its place from 0; true is 1 and false is 0.
    #[default]
    Index,
    /// Its place from 1.
    Number,
    /// A, B, C, ...
    Letter,
    /// One of the labels.
    Label,
    /// The answer itself.
    Text,
}

/// A task as it is computed.
#[derive(Debug, Clone)]
pub(crate) struct TaskForm {
    pub(crate) items: ItemForm,
    pub(crate) description: Template,
    pub(crate) delimiter: String,
    pub(crate) clean: Option<Filter>,
    pub(crate) fewshot: usize,
    pub(crate) fewshot_separator: String,
    pub(crate) fewshot_by: Template,
    pub(crate) metrics: Vec<MetricKind>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) fewshot_data: Option<PathBuf>,
    pub(crate) hub: Option<HubData>,
}

/// How a row becomes an item.
#[derive(Debug, Clone)]
pub(crate) enum ItemForm {
    MultipleChoice {
        context: Template,
        choices: Choices,
        answer: AnswerRule,
    },
    PartialEvaluation {
        contexts: Vec<Template>,
        continuation: Template,
        answer: AnswerRule,
    },
    MinimalPairs {
        good: Template,
        bad: Template,
    },
    Cloze {
        context: Template,
        target: Template,
    },
    Perplexity {
        text: Template,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Choices {
    List(Field),
    Each(Vec<Template>),
}

#[derive(Debug, Clone)]
pub(crate) enum AnswerRule {
    Fixed(usize),
    Of {
        answer: Template,
        form: AnswerForm,
        labels: Option<Field>,
    },
}

impl TaskForm {
    /// # Errors
    /// With line and field where these are known.
    pub(crate) fn parse(text: &str) -> Result<TaskForm, String> {
        let file: File = upcycle_files::from_toml(text).map_err(|error| error.to_string())?;
        file.check_fields()?;
        let kind = file.kind;
        let items = file.items()?;
        let template = |name, text: Option<&String>| match text {
            Some(text) => parsed(name, text),
            None => Template::parse(""),
        };
        let can_have_examples = !matches!(kind, Kind::MinimalPairs | Kind::Perplexity);
        let fewshot = file.fewshot.unwrap_or(0);
        if fewshot > 0 && !can_have_examples {
            return Err("`fewshot` has no meaning for tasks of this kind; leave it out".to_owned());
        }
        let clean = file.clean.as_deref().map(Filter::named).transpose();
        Ok(TaskForm {
            description: template("description", file.description.as_ref())?,
            delimiter: file.delimiter.clone().unwrap_or_else(|| " ".to_owned()),
            clean: clean.map_err(|problem| format!("`clean`: {problem}"))?,
            fewshot,
            fewshot_separator: (file.fewshot_separator.clone())
                .unwrap_or_else(|| "\n\n".to_owned()),
            fewshot_by: template("fewshot_by", file.fewshot_by.as_ref())?,
            metrics: file.metrics()?,
            items,
            data: file.data,
            fewshot_data: file.fewshot_data,
            hub: file.hub,
        })
    }

    /// The fields that rows must have.
    pub(crate) fn fields(&self) -> Vec<&Field> {
        let of_items: Vec<&Field> = match &self.items {
            ItemForm::MultipleChoice {
                context,
                choices,
                answer,
            } => {
                let choices: Vec<&Field> = match choices {
                    Choices::List(field) => vec![field],
                    Choices::Each(texts) => texts.iter().flat_map(Template::fields).collect(),
                };
                let answer = answer.fields();
                context.fields().chain(choices).chain(answer).collect()
            }
            ItemForm::PartialEvaluation {
                contexts,
                continuation,
                answer,
            } => {
                let contexts = contexts.iter().flat_map(Template::fields);
                let all = contexts.chain(continuation.fields());
                all.chain(answer.fields()).collect()
            }
            ItemForm::MinimalPairs { good, bad } => good.fields().chain(bad.fields()).collect(),
            ItemForm::Cloze { context, target } => {
                context.fields().chain(target.fields()).collect()
            }
            ItemForm::Perplexity { text } => text.fields().collect(),
        };
        let shared = self.description.fields().chain(self.fewshot_by.fields());
        of_items.into_iter().chain(shared).collect()
    }
}

impl AnswerRule {
    fn fields(&self) -> Vec<&Field> {
        match self {
            AnswerRule::Fixed(_) => Vec::new(),
            AnswerRule::Of { answer, labels, .. } => answer.fields().chain(labels).collect(),
        }
    }
}

/// Fields that every kind may have besides its own.
const SHARED: [&str; 4] = ["data", "hub", "description", "fewshot"];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::MultipleChoice => "multiple-choice",
            Kind::PartialEvaluation => "partial-evaluation",
            Kind::MinimalPairs => "minimal-pairs",
            Kind::Cloze => "cloze",
            Kind::Perplexity => "perplexity",
        }
    }

    /// The fields that it must have, and those that it may have.
    fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        const EXAMPLES: [&str; 4] = [
            "delimiter",
            "fewshot_data",
            "fewshot_separator",
            "fewshot_by",
        ];
        const OF_CHOICE: [&str; 7] = [
            EXAMPLES[0],
            EXAMPLES[1],
            EXAMPLES[2],
            EXAMPLES[3],
            "answer_is",
            "labels",
            "clean",
        ];
        match self {
            Kind::MultipleChoice => (&["context", "choices", "answer"], &OF_CHOICE),
            Kind::PartialEvaluation => (&["contexts", "continuation", "answer"], &OF_CHOICE),
            Kind::MinimalPairs => (&["good", "bad"], &["delimiter"]),
            Kind::Cloze => (&["context", "target"], &EXAMPLES),
            Kind::Perplexity => (&["text"], &[]),
        }
    }
}

impl File {
    /// Every field that has a meaning for some kind, and whether it is there.
    fn given(&self) -> [(&'static str, bool); 20] {
        [
            ("data", self.data.is_some()),
            ("hub", self.hub.is_some()),
            ("context", self.context.is_some()),
            ("contexts", self.contexts.is_some()),
            ("choices", self.choices.is_some()),
            ("continuation", self.continuation.is_some()),
            ("answer", self.answer.is_some()),
            ("answer_is", self.answer_is.is_some()),
            ("labels", self.labels.is_some()),
            ("target", self.target.is_some()),
            ("good", self.good.is_some()),
            ("bad", self.bad.is_some()),
            ("text", self.text.is_some()),
            ("clean", self.clean.is_some()),
            ("description", self.description.is_some()),
            ("delimiter", self.delimiter.is_some()),
            ("fewshot", self.fewshot.is_some()),
            ("fewshot_data", self.fewshot_data.is_some()),
            ("fewshot_separator", self.fewshot_separator.is_some()),
            ("fewshot_by", self.fewshot_by.is_some()),
        ]
    }

    fn check_fields(&self) -> Result<(), String> {
        let kind = self.kind.name();
        let (needed, allowed) = self.kind.fields();
        for (name, is_given) in self.given() {
            if needed.contains(&name) && !is_given {
                return Err(format!(
                    "`{name}` is missing; a task of kind {kind} needs {}",
                    needed.join(", ")
                ));
            }
            let known = [needed, allowed, &SHARED].concat();
            if is_given && !known.contains(&name) {
                return Err(format!(
                    "`{name}` has no meaning for a task of kind {kind}; leave it out"
                ));
            }
        }
        if self.data.is_some() && self.hub.is_some() {
            return Err("`data` and `hub` say both where the rows are; leave one out".to_owned());
        }
        Ok(())
    }

    fn items(&self) -> Result<ItemForm, String> {
        // All that a kind needs has been found to be there.
        let template = |name, text: &Option<String>| parsed(name, text.as_deref().unwrap_or(""));
        Ok(match self.kind {
            Kind::MultipleChoice => ItemForm::MultipleChoice {
                context: template("context", &self.context)?,
                choices: self.choices()?,
                answer: self.answer()?,
            },
            Kind::PartialEvaluation => ItemForm::PartialEvaluation {
                contexts: several("contexts", self.contexts.as_deref().unwrap_or_default())?,
                continuation: template("continuation", &self.continuation)?,
                answer: self.answer()?,
            },
            Kind::MinimalPairs => ItemForm::MinimalPairs {
                good: template("good", &self.good)?,
                bad: template("bad", &self.bad)?,
            },
            Kind::Cloze => ItemForm::Cloze {
                context: template("context", &self.context)?,
                target: template("target", &self.target)?,
            },
            Kind::Perplexity => ItemForm::Perplexity {
                text: template("text", &self.text)?,
            },
        })
    }

    fn choices(&self) -> Result<Choices, String> {
        Ok(match &self.choices {
            Some(OneOrMany::One(text)) => Choices::List(only_field("choices", text)?),
            Some(OneOrMany::Many(texts)) => Choices::Each(several("choices", texts)?),
            None => Choices::Each(Vec::new()),
        })
    }

    fn answer(&self) -> Result<AnswerRule, String> {
        let form = self.answer_is.unwrap_or_default();
        let labels = self.labels.as_deref();
        let labels = labels.map(|text| only_field("labels", text)).transpose()?;
        if (form == AnswerForm::Label) != labels.is_some() {
            return Err(
                "`labels` and `answer_is = \"label\"` belong together; give both, or neither"
                    .to_owned(),
            );
        }
        Ok(match &self.answer {
            Some(Answer::Field(text)) => AnswerRule::Of {
                answer: parsed("answer", text)?,
                form,
                labels,
            },
            Some(Answer::Fixed(place)) => AnswerRule::Fixed(*place),
            None => AnswerRule::Fixed(0),
        })
    }

    fn metrics(&self) -> Result<Vec<MetricKind>, String> {
        let (possible, usual): (&[MetricKind], usize) = match self.kind {
            Kind::MultipleChoice => (&MetricKind::OF_CHOICES, 2),
            Kind::PartialEvaluation | Kind::MinimalPairs => (&MetricKind::OF_CHOICES, 1),
            Kind::Cloze => (&MetricKind::OF_CLOZES, 2),
            Kind::Perplexity => (&MetricKind::OF_DOCUMENTS, 3),
        };
        let Some(metrics) = &self.metrics else {
            return Ok(possible[..usual].to_vec());
        };
        if metrics.is_empty() {
            return Err("`metrics` is empty; name one, or leave it out".to_owned());
        }
        if let Some(metric) = metrics.iter().find(|metric| !possible.contains(metric)) {
            let names: Vec<&str> = possible.iter().map(|metric| metric.name()).collect();
            return Err(format!(
                "`metrics`: {} is not measured of a task of kind {}; there are {}",
                metric.name(),
                self.kind.name(),
                names.join(", ")
            ));
        }
        Ok(metrics.clone())
    }
}

fn parsed(name: &str, text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|problem| format!("`{name}`: {problem}"))
}

fn several(name: &str, texts: &[String]) -> Result<Vec<Template>, String> {
    if texts.len() < 2 {
        return Err(format!("`{name}` must be at least two texts"));
    }
    texts.iter().map(|text| parsed(name, text)).collect()
}

fn only_field(name: &str, text: &str) -> Result<Field, String> {
    let template = parsed(name, text)?;
    let field = template.field().cloned();
    field.ok_or_else(|| {
        format!("`{name}` must be a single field that is a list, such as \"{{{name}}}\"")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const GOOD: &str = r#"
kind = "multiple-choice"
data = "a.jsonl"
context = "{question}"
choices = "{answers}"
answer = "{label}"
"#;

    #[test]
    fn what_is_left_out_has_its_default() {
        let form = TaskForm::parse(GOOD).unwrap();
        assert_eq!(form.delimiter, " ");
        assert_eq!(form.fewshot_separator, "\n\n");
        assert_eq!(form.metrics, [MetricKind::Acc, MetricKind::AccNorm]);
        let fields: Vec<&str> = form
            .fields()
            .iter()
            .map(|field| field.path.as_str())
            .collect();
        assert_eq!(fields, ["question", "answers", "label"]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (from, to, part) in [
            (
                "context = \"{question}\"\n",
                "",
                "`context` is missing; a task of kind multiple-choice needs",
            ),
            ("answer =", "anser =", "line 6: unknown field `anser`"),
            ("multiple-choice", "quiz", "unknown variant `quiz`"),
            (
                "multiple-choice",
                "cloze",
                "`choices` has no meaning for a task of kind cloze",
            ),
            (
                "\"{answers}\"",
                "[\"{a}\"]",
                "`choices` must be at least two texts",
            ),
            (
                "\"{answers}\"",
                "\"or {answers}\"",
                "`choices` must be a single field",
            ),
            (
                "\"{answers}\"",
                "3",
                "expected \"{field}\" or a list of texts",
            ),
            ("\"{label}\"", "-1", "expected a number from 0 or"),
            ("{question}", "{question", "`context`: `{`"),
            ("answer =", "answer_is = \"label\"\nanswer =", "`labels`"),
            (
                "answer =",
                "metrics = [\"perplexity\"]\nanswer =",
                "perplexity is not measured",
            ),
            (
                "answer =",
                "clean = \"soap\"\nanswer =",
                "`clean`: unknown filter `soap`",
            ),
            (
                "answer =",
                "hub = { dataset = \"a/b\", split = \"test\" }\nanswer =",
                "`data` and `hub`",
            ),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let problem = TaskForm::parse(&text).unwrap_err();
            assert!(problem.contains(part), "no {part:?} in {problem:?}");
        }
    }
}
