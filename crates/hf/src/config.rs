//! `config.json`: read as it is, changed in place.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use upcycle_files::FileError;

use crate::{error::HfError, layout::Choice};

/// The text of a `config.json`. A field is named by its path, with dots.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    value: Value,
}

impl ConfigFile {
    /// Name of the file in a checkpoint.
    pub const NAME: &'static str = "config.json";

    /// Name of a file beside it that describes quantised weights (NVIDIA's ModelOpt).
    pub(crate) const QUANTISATION: &'static str = "hf_quant_config.json";

    /// Reads `config.json` of a checkpoint.
    pub(crate) fn read(dir: &Path) -> Result<Self, HfError> {
        Self::read_from(&dir.join(Self::NAME))
    }

    /// Reads a file like it.
    pub(crate) fn read_from(path: &Path) -> Result<Self, HfError> {
        let text = fs::read_to_string(path).map_err(FileError::of("read", path))?;
        Self::parse(path.to_owned(), text)
    }

    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self, HfError> {
        let value: Value = serde_json::from_str(&strict(&text))
            .map_err(|error| HfError::file(&path, format!("is not JSON: {error}")))?;
        if !value.is_object() {
            return Err(HfError::file(path, "is not a JSON object"));
        }
        Ok(Self { path, text, value })
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A field's value, or all of the file for no name; none if it is missing or null.
    pub(crate) fn value(&self, field: &str) -> Option<&Value> {
        if field.is_empty() {
            return Some(&self.value);
        }
        let mut parts = field.split('.');
        let found = parts.try_fold(&self.value, |value, part| value.get(part))?;
        (!found.is_null()).then_some(found)
    }

    /// A field's value; none if it is missing or null.
    ///
    /// # Errors
    /// If it is of another type.
    pub(crate) fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, HfError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let parsed = T::deserialize(value);
        parsed.map(Some).map_err(|error| {
            HfError::file(
                &self.path,
                format!("field `{field}` is {value}, which it cannot be: {error}"),
            )
        })
    }

    /// A field's value.
    ///
    /// # Errors
    /// If it is missing, null or of another type.
    pub(crate) fn need<T: DeserializeOwned>(&self, field: &str) -> Result<T, HfError> {
        self.get(field)?
            .ok_or_else(|| HfError::file(&self.path, format!("has no field `{field}`")))
    }

    /// The value of the first of these fields that is there, in the whole file or in the section of a language model; none
    /// without any.
    ///
    /// # Errors
    /// If it is of another type.
    pub(crate) fn first<T: DeserializeOwned>(
        &self,
        fields: &[String],
    ) -> Result<Option<T>, HfError> {
        for field in in_sections(fields) {
            if let Some(value) = self.get(&field)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// A count that is the same for all layers: a number, or a list of equal ones, in the first of these fields that is
    /// there.
    ///
    /// # Errors
    /// If there is none, or layers differ.
    pub(crate) fn count(&self, fields: &[String]) -> Result<usize, HfError> {
        let missing = || {
            HfError::file(
                &self.path,
                format!("has no field `{}`", fields.join("` or `")),
            )
        };
        let value: Counts = self.first(fields)?.ok_or_else(missing)?;
        match value {
            Counts::One(count) => Ok(count),
            Counts::EachLayer(counts) => match counts.as_slice() {
                [first, rest @ ..] if rest.iter().all(|count| count == first) => Ok(*first),
                _ => Err(HfError::file(
                    &self.path,
                    format!(
                        "has {counts:?} for `{}`; layers with different numbers of experts cannot be grown together",
                        fields.join("` or `")
                    ),
                )),
            },
        }
    }

    /// What the configuration says of a choice of the layout.
    ///
    /// # Errors
    /// If a field has a value that the layout does not know.
    pub(crate) fn choice<T: DeserializeOwned + Copy>(
        &self,
        choice: &Choice<T>,
    ) -> Result<T, HfError> {
        let (field, default, values) = match choice {
            Choice::Always(value) => return Ok(*value),
            Choice::Field {
                field,
                default,
                values,
            } => (field, default, values),
        };
        if values.is_empty() {
            return Ok(self.first(field)?.unwrap_or(*default));
        }
        let Some(value) = self.first::<serde_json::Value>(field)? else {
            return Ok(*default);
        };
        let text = match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        };
        values.get(&text).copied().ok_or_else(|| {
            let known: Vec<&str> = values.keys().map(String::as_str).collect();
            HfError::file(
                &self.path,
                format!(
                    "field `{}` is `{text}`; known are `{}`",
                    field.join("` or `"),
                    known.join("`, `")
                ),
            )
        })
    }

    /// Changes all of these fields that are there, in the whole file and in the section of a language model, where they are
    /// `before`; a list gets as many. Every other byte stays.
    ///
    /// # Errors
    /// If the file is not JSON any more.
    pub(crate) fn set(
        &mut self,
        fields: &[String],
        before: usize,
        value: usize,
    ) -> Result<(), HfError> {
        for field in in_sections(fields) {
            let Some((start, end)) = span(&self.text, &field) else {
                continue;
            };
            let text = match self.get::<Counts>(&field)? {
                Some(Counts::One(count)) if count == before => value.to_string(),
                Some(Counts::EachLayer(counts)) if counts.iter().all(|&it| it == before) => {
                    format!("{:?}", vec![value; counts.len()])
                }
                _ => continue,
            };
            self.replace(start..end, &text)?;
        }
        Ok(())
    }

    /// Changes some bytes of the text.
    ///
    /// # Errors
    /// If the file is not JSON any more.
    pub(crate) fn replace(&mut self, place: Range<usize>, by: &str) -> Result<(), HfError> {
        let mut text = self.text.clone();
        text.replace_range(place, by);
        *self = Self::parse(self.path.clone(), text)?;
        Ok(())
    }

    /// Where the value of a field stands in the text; none if it is missing or null.
    pub(crate) fn span(&self, field: &str) -> Option<Range<usize>> {
        span(&self.text, field).map(|(start, end)| start..end)
    }
}

/// A count, or one for each layer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Counts {
    One(usize),
    EachLayer(Vec<usize>),
}

/// Sections that describe a language model in the configuration of a larger one.
const SECTIONS: [&str; 5] = [
    "text_config",
    "language_config",
    "llm_config",
    "thinker_config.text_config",
    "thinker_config",
];

/// The fields in the whole file, and in every section of a language model.
fn in_sections(fields: &[String]) -> impl Iterator<Item = String> {
    let within = SECTIONS
        .iter()
        .flat_map(move |section| fields.iter().map(move |field| format!("{section}.{field}")));
    fields.iter().cloned().chain(within)
}

/// The text as JSON of the same length: Python writes numbers as `Infinity`, `-Infinity` and `NaN`, which JSON does not know.
/// They become empty texts, so that whoever asks for such a field is told.
fn strict(text: &str) -> Cow<'_, str> {
    const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !NOT_JSON.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let (mut json, mut rest) = (String::with_capacity(text.len()), text);
    let mut quoted = false;
    while let Some(next) = rest.chars().next() {
        let word = NOT_JSON
            .iter()
            .find(|word| !quoted && rest.starts_with(**word));
        let taken = match (word, next) {
            (Some(word), _) => {
                json += &format!("{:width$}", "\"\"", width = word.len());
                word.len()
            }
            (None, '\\') if quoted => {
                let two: String = rest.chars().take(2).collect();
                json += &two;
                two.len()
            }
            (None, c) => {
                quoted ^= c == '"';
                json.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(json)
}

/// Where the value of a field stands in a JSON text; none if it is missing or null.
fn span(text: &str, field: &str) -> Option<(usize, usize)> {
    let json = strict(text);
    let mut section = &*json;
    for part in field.split('.') {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(section).ok()?;
        section = fields.get(part)?.get();
    }
    let start = section.as_ptr() as usize - json.as_ptr() as usize;
    (section != "null").then_some((start, start + section.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(text: &str) -> ConfigFile {
        ConfigFile::parse("config.json".into(), text.into()).unwrap()
    }

    #[test]
    fn only_the_named_values_change() {
        let text = "{\"eps\":1e-05,\n  \"n\" : 8, \"text\": {\"n\": 8,\"m\":null }, \"n_\": [8]}\n";
        let mut file = config(text);
        let fields = ["n", "text.n", "text.m", "absent"].map(String::from);
        file.set(&fields, 8, 128).unwrap();
        assert_eq!(
            file.text(),
            "{\"eps\":1e-05,\n  \"n\" : 128, \"text\": {\"n\": 128,\"m\":null }, \"n_\": [8]}\n"
        );
        assert_eq!(file.get::<usize>("text.n").unwrap(), Some(128));
    }

    #[test]
    fn numbers_of_python_stay_as_they_are() {
        let text = r#"{"a": [Infinity, -Infinity, NaN], "NaN \" Infinity": 1, "text_config": {"n": [2, 2]}}"#;
        let mut file = config(text);
        file.set(&["n".to_owned()], 2, 4).unwrap();
        assert_eq!(file.text(), text.replace("[2, 2]", "[4, 4]"));
        assert!(file.get::<Vec<f64>>("a").is_err());
        assert_eq!(file.count(&["n".to_owned()]).unwrap(), 4);
    }

    #[test]
    fn errors_name_file_and_field() {
        let file = config(r#"{"n": "eight", "m": null}"#);
        let wrong = file.get::<usize>("n").unwrap_err().to_string();
        assert!(
            wrong.contains("config.json") && wrong.contains("`n`"),
            "{wrong}"
        );
        let missing = file.need::<usize>("m").unwrap_err().to_string();
        assert!(missing.contains("has no field `m`"), "{missing}");
        assert!(ConfigFile::parse("c".into(), "[1]".into()).is_err());
    }
}
