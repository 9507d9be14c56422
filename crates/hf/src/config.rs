//! `config.json`: read as it is, changed in place.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};
use upcycle_files::FileError;

use crate::error::HfError;

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

    /// Reads `config.json` of a checkpoint.
    pub(crate) fn read(dir: &Path) -> Result<Self, HfError> {
        let path = dir.join(Self::NAME);
        let text = fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
        Self::parse(path, text)
    }

    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self, HfError> {
        let value: Value = serde_json::from_str(&text)
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

    fn value(&self, field: &str) -> Option<&Value> {
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

    /// The value of the first of these fields that is there.
    pub(crate) fn any<T: DeserializeOwned>(&self, fields: &[String]) -> Result<T, HfError> {
        for field in fields {
            if let Some(value) = self.get(field)? {
                return Ok(value);
            }
        }
        Err(HfError::file(
            &self.path,
            format!("has no field `{}`", fields.join("` or `")),
        ))
    }

    /// Changes all of these fields that are there; every other byte stays.
    ///
    /// # Errors
    /// If the file is not JSON any more.
    pub(crate) fn set(&mut self, fields: &[String], value: usize) -> Result<(), HfError> {
        for field in fields {
            let Some((start, end)) = span(&self.text, field) else {
                continue;
            };
            let mut text = self.text.clone();
            text.replace_range(start..end, &value.to_string());
            *self = Self::parse(self.path.clone(), text)?;
        }
        Ok(())
    }
}

/// Where the value of a field stands in a JSON text; none if it is missing or null.
fn span(text: &str, field: &str) -> Option<(usize, usize)> {
    let mut section = text;
    for part in field.split('.') {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(section).ok()?;
        section = fields.get(part)?.get();
    }
    let start = section.as_ptr() as usize - text.as_ptr() as usize;
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
        file.set(&fields, 128).unwrap();
        assert_eq!(
            file.text(),
            "{\"eps\":1e-05,\n  \"n\" : 128, \"text\": {\"n\": 128,\"m\":null }, \"n_\": [8]}\n"
        );
        assert_eq!(file.get::<usize>("text.n").unwrap(), Some(128));
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
