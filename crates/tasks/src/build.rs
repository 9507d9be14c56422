//! From rows to items.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use upcycle_data::{TableRow, read_table};

use crate::{
    error::TaskError,
    file::{AnswerForm, AnswerRule, Choices, ItemForm, TaskForm},
    item::{Candidate, Choice, Continuation, Items},
    template::{Template, kind},
};

/// A table of rows and where it is from.
struct Table {
    path: PathBuf,
    rows: Vec<TableRow>,
}

type Fields = Map<String, Value>;

/// The items of the first `limit` rows of all files, with examples from others before each.
pub(crate) fn build(
    form: &TaskForm,
    name: &str,
    files: &[PathBuf],
    example_files: &[PathBuf],
    limit: Option<usize>,
) -> Result<Items, TaskError> {
    let tables = read(form, files, limit)?;
    let example_tables = match form.fewshot {
        0 => Vec::new(),
        _ => read(form, example_files, None)?,
    };
    let examples = examples(form, &example_tables)?;
    let rows = Rows {
        form,
        name,
        tables,
        examples,
    };
    Ok(match &form.items {
        ItemForm::MultipleChoice {
            context,
            choices,
            answer,
        } => Items::Choices(rows.items(|head, row| {
            let context = format!("{head}{}", clean(form, context.fill(row)?)?);
            let choices = choices_of(form, choices, row)?;
            Ok(Choice {
                answer: answer.resolve(row, &choices)?,
                candidates: choices
                    .iter()
                    .map(|answer| candidate(form, &context, answer, answer))
                    .collect(),
            })
        })?),
        ItemForm::PartialEvaluation {
            contexts,
            continuation,
            answer,
        } => Items::Choices(rows.items(|head, row| {
            let contexts = filled(form, contexts, row)?;
            let text = continuation.fill(row)?;
            let candidates = contexts
                .iter()
                .map(|context| candidate(form, &format!("{head}{context}"), &text, context));
            Ok(Choice {
                answer: answer.resolve(row, &contexts)?,
                candidates: candidates.collect(),
            })
        })?),
        ItemForm::MinimalPairs { good, bad } => Items::Choices(rows.items(|head, row| {
            let pair = [good.fill(row)?, bad.fill(row)?];
            if pair[0] == pair[1] {
                return Err("both sentences are the same".to_owned());
            }
            let candidates = pair.iter().map(|text| candidate(form, head, text, text));
            Ok(Choice {
                answer: 0,
                candidates: candidates.collect(),
            })
        })?),
        ItemForm::Cloze { context, target } => Items::Clozes(rows.items(|head, row| {
            Ok(Continuation {
                context: format!("{head}{}", context.fill(row)?),
                text: format!("{}{}", form.delimiter, target.fill(row)?),
            })
        })?),
        ItemForm::Perplexity { text } => {
            Items::Documents(rows.items(|head, row| Ok(format!("{head}{}", text.fill(row)?)))?)
        }
    })
}

/// The rows of a task and the examples that may stand before them.
struct Rows<'a> {
    form: &'a TaskForm,
    name: &'a str,
    tables: Vec<Table>,
    examples: Vec<Example>,
}

impl Rows<'_> {
    /// An item for each row, made from what stands before it and its fields.
    fn items<T>(
        &self,
        make: impl Fn(&str, &Fields) -> Result<T, String>,
    ) -> Result<Vec<T>, TaskError> {
        let mut items = Vec::new();
        for table in &self.tables {
            for row in &table.rows {
                let head = self.head(table, row)?;
                let item = make(&head, &row.fields);
                items.push(item.map_err(|problem| of_row(&table.path, row, problem))?);
            }
        }
        Ok(items)
    }

    /// What stands before an item: description and examples.
    fn head(&self, table: &Table, row: &TableRow) -> Result<String, TaskError> {
        let form = self.form;
        let fill = |template: &Template| {
            let text = template.fill(&row.fields);
            text.map_err(|problem| of_row(&table.path, row, problem))
        };
        let mut head = fill(&form.description)?;
        let group = fill(&form.fewshot_by)?;
        let fitting = (self.examples.iter())
            .filter(|example| example.group == group && example.fields != row.fields)
            .take(form.fewshot);
        let mut count = 0;
        for example in fitting {
            head.push_str(&example.text);
            count += 1;
        }
        if count < form.fewshot {
            return Err(TaskError::Examples {
                task: self.name.to_owned(),
                wanted: form.fewshot,
                found: count,
            });
        }
        Ok(head)
    }
}

fn candidate(form: &TaskForm, context: &str, text: &str, answer: &str) -> Candidate {
    Candidate {
        scored: Continuation {
            context: context.to_owned(),
            text: format!("{}{text}", form.delimiter),
        },
        answer: answer.to_owned(),
    }
}

fn of_row(path: &Path, row: &TableRow, problem: String) -> TaskError {
    TaskError::Row {
        path: path.to_owned(),
        row: row.number,
        problem,
    }
}

/// Reads tables, of several files as many rows each; a field must be of one kind in all rows.
fn read(form: &TaskForm, files: &[PathBuf], limit: Option<usize>) -> Result<Vec<Table>, TaskError> {
    let each = limit.map(|limit| limit.div_ceil(files.len().max(1)));
    let mut tables = Vec::new();
    for path in files {
        let rows = read_table(path, each)?;
        check_kinds(form, path, &rows)?;
        tables.push(Table {
            path: path.clone(),
            rows,
        });
    }
    Ok(tables)
}

fn check_kinds(form: &TaskForm, path: &Path, rows: &[TableRow]) -> Result<(), TaskError> {
    let fields = form.fields();
    let mut first: HashMap<&str, (&'static str, u64)> = HashMap::new();
    for row in rows {
        for field in &fields {
            let value = field.value(&row.fields);
            let this = kind(value.map_err(|problem| of_row(path, row, problem))?);
            let entry = first.entry(&field.path);
            let (other, number) = *entry.or_insert((this, row.number));
            if other != this {
                let problem = format!(
                    "field `{}` is {this}, and in row {number} it is {other}; a field must be of one kind in all rows",
                    field.path
                );
                return Err(of_row(path, row, problem));
            }
        }
    }
    Ok(())
}

/// An example: what it may stand before, and its text.
struct Example {
    group: String,
    fields: Fields,
    text: String,
}

fn examples(form: &TaskForm, tables: &[Table]) -> Result<Vec<Example>, TaskError> {
    let mut examples = Vec::new();
    for table in tables {
        for row in &table.rows {
            let example = example(form, &row.fields);
            examples.push(example.map_err(|problem| of_row(&table.path, row, problem))?);
        }
    }
    Ok(examples)
}

fn example(form: &TaskForm, row: &Fields) -> Result<Example, String> {
    let (context, answer) = match &form.items {
        ItemForm::MultipleChoice {
            context,
            choices,
            answer,
        } => {
            let choices = choices_of(form, choices, row)?;
            let right = answer.resolve(row, &choices)?;
            (clean(form, context.fill(row)?)?, choices[right].clone())
        }
        ItemForm::PartialEvaluation {
            contexts,
            continuation,
            answer,
        } => {
            let contexts = filled(form, contexts, row)?;
            let right = answer.resolve(row, &contexts)?;
            (contexts[right].clone(), continuation.fill(row)?)
        }
        ItemForm::Cloze { context, target } => (context.fill(row)?, target.fill(row)?),
        ItemForm::MinimalPairs { .. } | ItemForm::Perplexity { .. } => {
            return Err("tasks of this kind have no examples".to_owned());
        }
    };
    Ok(Example {
        group: form.fewshot_by.fill(row)?,
        fields: row.clone(),
        text: format!(
            "{context}{}{answer}{}",
            form.delimiter, form.fewshot_separator
        ),
    })
}

fn clean(form: &TaskForm, text: String) -> Result<String, String> {
    match form.clean {
        Some(filter) => filter.apply(&text),
        None => Ok(text),
    }
}

fn filled(form: &TaskForm, templates: &[Template], row: &Fields) -> Result<Vec<String>, String> {
    let texts = templates
        .iter()
        .map(|template| clean(form, template.fill(row)?));
    texts.collect()
}

fn choices_of(form: &TaskForm, choices: &Choices, row: &Fields) -> Result<Vec<String>, String> {
    let texts = match choices {
        Choices::Each(templates) => return filled(form, templates, row),
        Choices::List(field) => field.texts(row)?,
    };
    if texts.len() < 2 {
        return Err(format!(
            "there are {} choices; there must be two at least",
            texts.len()
        ));
    }
    texts.into_iter().map(|text| clean(form, text)).collect()
}

impl AnswerRule {
    /// The place of the right one of some choices.
    fn resolve(&self, row: &Fields, choices: &[String]) -> Result<usize, String> {
        let (place, said) = match self {
            AnswerRule::Fixed(place) => (Some(*place), place.to_string()),
            AnswerRule::Of {
                answer,
                form,
                labels,
            } => {
                let flag = answer.field().map(|field| field.value(row)).transpose()?;
                if let (Some(Value::Bool(flag)), AnswerForm::Index) = (flag, form) {
                    (Some(usize::from(*flag)), flag.to_string())
                } else {
                    let said = answer.fill(row)?;
                    let labels = labels.as_ref().map(|field| field.texts(row)).transpose()?;
                    (form.place(&said, choices, labels.as_deref()), said)
                }
            }
        };
        place.filter(|&place| place < choices.len()).ok_or_else(|| {
            let wanted = match self {
                AnswerRule::Fixed(_) => AnswerForm::Index,
                AnswerRule::Of { form, .. } => *form,
            };
            format!(
                "the answer {said:?} is none of the {} choices; `answer` must be {} (`answer_is` says what it is)",
                choices.len(),
                wanted.words()
            )
        })
    }
}

impl AnswerForm {
    fn place(self, said: &str, choices: &[String], labels: Option<&[String]>) -> Option<usize> {
        let said = said.trim();
        let among = |texts: &[String]| texts.iter().position(|text| text.trim() == said);
        match self {
            AnswerForm::Index => said.parse().ok(),
            AnswerForm::Number => said.parse::<usize>().ok()?.checked_sub(1),
            AnswerForm::Letter => match said.as_bytes() {
                [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
                [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
                _ => None,
            },
            AnswerForm::Label => among(labels?),
            AnswerForm::Text => among(choices),
        }
    }

    fn words(self) -> &'static str {
        match self {
            AnswerForm::Index => "a place from 0",
            AnswerForm::Number => "a place from 1",
            AnswerForm::Letter => "a letter from A",
            AnswerForm::Label => "one of the labels",
            AnswerForm::Text => "one of the choices",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;

    use super::*;

    /// The items of rows, and of examples where there are any.
    fn items(form: &str, rows: &str, examples: &str) -> Result<Items, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let files = [("rows.jsonl", rows), ("examples.jsonl", examples)];
        let [rows, examples] = files.map(|(name, text)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            [path]
        });
        build(
            &TaskForm::parse(form).unwrap(),
            "test",
            &rows,
            &examples,
            None,
        )
    }

    fn choices(form: &str, rows: &str) -> Vec<Choice> {
        match items(form, rows, "").unwrap() {
            Items::Choices(choices) => choices,
            other => panic!("{other:?}"),
        }
    }

    fn told(form: &str, rows: &str) -> String {
        items(form, rows, "").unwrap_err().to_string()
    }

    const CHOICE: &str = r#"
kind = "multiple-choice"
context = "Q: {q}"
choices = "{c}"
answer = "{a}"
"#;

    #[test]
    fn answers_are_found_in_every_form() {
        for (rule, row, right) in [
            ("", r#""a": 1"#, 1),
            ("", r#""a": "1""#, 1),
            ("", r#""a": true"#, 1),
            ("answer_is = \"number\"", r#""a": 1"#, 0),
            ("answer_is = \"letter\"", r#""a": "B""#, 1),
            ("answer_is = \"text\"", r#""a": "x""#, 0),
            (
                "answer_is = \"label\"\nlabels = \"{l}\"",
                r#""a": "2", "l": ["1", "2"]"#,
                1,
            ),
        ] {
            let row = format!("{{\"q\": \"?\", \"c\": [\"x\", \"y\"], {row}}}");
            let found = choices(&format!("{CHOICE}{rule}"), &row);
            assert_eq!(found[0].answer, right, "{rule}");
            let candidate = &found[0].candidates[1];
            assert_eq!(candidate.scored.context, "Q: ?");
            assert_eq!(candidate.scored.text, " y");
            assert_eq!(candidate.answer, "y");
        }
    }

    #[test]
    fn examples_stand_before_items_of_their_group() {
        let form = format!(
            "{CHOICE}description = \"About {{g}}.\\n\"\nfewshot = 1\nfewshot_by = \"{{g}}\"\n"
        );
        let rows = r#"{"q": "two", "c": ["x", "y"], "a": 0, "g": "b"}"#;
        let examples = r#"{"q": "other", "c": ["x", "y"], "a": 0, "g": "a"}
{"q": "one", "c": ["x", "y"], "a": 1, "g": "b"}"#;
        let Items::Choices(found) = items(&form, rows, examples).unwrap() else {
            panic!("no choices")
        };
        let context = &found[0].candidates[0].scored.context;
        assert_eq!(context, "About b.\nQ: one y\n\nQ: two");
        let missing = items(&form, rows, "").unwrap_err().to_string();
        assert!(missing.contains("have 1 example"), "{missing}");
        let same = items(&form, rows, rows).unwrap_err().to_string();
        assert!(same.contains("have 1 example"), "{same}");
    }

    #[test]
    fn contexts_pairs_and_clozes_become_items() {
        let form = r#"
kind = "partial-evaluation"
contexts = ["{s|before-blank}{one}", "{s|before-blank}{two}"]
continuation = "{s|after-blank}"
answer = "{a}"
answer_is = "number"
"#;
        let row = r#"{"s": "The _ fell.", "one": "cup", "two": "sky", "a": "1"}"#;
        let found = choices(form, row);
        assert_eq!(found[0].answer, 0);
        let second = &found[0].candidates[1];
        assert_eq!(second.scored.context, "The sky");
        assert_eq!(second.scored.text, " fell.");
        assert_eq!(second.answer, "The sky");

        let pair = choices(
            "kind = \"minimal-pairs\"\ngood = \"{g}\"\nbad = \"{b}\"",
            r#"{"g": "I am.", "b": "I is."}"#,
        );
        assert_eq!(pair[0].candidates[1].scored.text, " I is.");
        assert_eq!(pair[0].candidates[1].scored.context, "");

        let cloze =
            "kind = \"cloze\"\ncontext = \"{t|without-last-word}\"\ntarget = \"{t|last-word}\"";
        let cloze = items(cloze, r#"{"t": "one two three"}"#, "").unwrap();
        let expected = Continuation {
            context: "one two".into(),
            text: " three".into(),
        };
        assert_eq!(cloze, Items::Clozes(vec![expected]));
    }

    #[test]
    fn rows_that_give_no_item_are_told() {
        let good = r#"{"q": "?", "c": ["x", "y"], "a": 1}"#;
        for (row, part) in [
            (
                r#"{"q": "?", "c": ["x", "y"]}"#,
                "row 2: there is no field `a`; there are ",
            ),
            (
                r#"{"q": 3, "c": ["x", "y"], "a": 1}"#,
                "field `q` is a number, and in row 1 it is text",
            ),
            (
                r#"{"q": "?", "c": ["x", "y"], "a": 2}"#,
                "answer \"2\" is none of the 2 choices",
            ),
            (r#"{"q": "?", "c": ["x"], "a": 0}"#, "there are 1 choices"),
            (
                r#"{"q": null, "c": ["x", "y"], "a": 0}"#,
                "field `q` is null",
            ),
            ("[1]", "line 2"),
        ] {
            let message = told(CHOICE, &format!("{good}\n{row}\n"));
            assert!(
                message.contains("rows.jsonl") && message.contains(part),
                "{message}"
            );
        }
        let pair = "kind = \"minimal-pairs\"\ngood = \"{g}\"\nbad = \"{b}\"";
        assert!(told(pair, r#"{"g": "x", "b": "x"}"#).contains("the same"));
    }
}
