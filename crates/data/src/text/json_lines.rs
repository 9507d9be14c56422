//! Documents as JSON objects, one a line.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::lines::{Lines, without_break};
use crate::DataError;

/// One field of every line that is not blank; none where it is null.
pub(super) struct JsonLines<'a> {
    lines: Lines<'a>,
    field: String,
}

impl<'a> JsonLines<'a> {
    pub(super) fn new(lines: Lines<'a>, field: &str) -> JsonLines<'a> {
        JsonLines {
            lines,
            field: field.to_owned(),
        }
    }

    fn bad_line(&self, error: &serde_json::Error) -> DataError {
        DataError::JsonLine {
            path: self.lines.path().into(),
            line: self.lines.number(),
            column: self.field.clone(),
            reason: reason(error),
        }
    }
}

impl Iterator for JsonLines<'_> {
    type Item = Result<Option<String>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let parsed = match self.lines.read() {
                Ok(Some(line)) if line.trim().is_empty() => continue,
                // Some programs put a byte order mark before the first line.
                Ok(Some(line)) => parse(
                    without_break(line).trim_start_matches('\u{feff}'),
                    &self.field,
                ),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            };
            return Some(parsed.map_err(|error| self.bad_line(&error)));
        }
    }
}

fn parse(line: &str, field: &str) -> serde_json::Result<Option<String>> {
    let mut json = serde_json::Deserializer::from_str(line);
    let text = Field(field).deserialize(&mut json)?;
    json.end()?;
    Ok(text)
}

/// The field of an object that has this name.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if text.replace(map.next_value::<Option<String>>()?).is_some() {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            }
        }
        text.ok_or_else(|| A::Error::custom(format!("missing field `{}`", self.0)))
    }
}

/// What the parser says, without the place within the line: it calls every line the first.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line ") {
        Some((reason, _)) => format!("{reason} at column {}", error.column()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{io::Cursor, path::Path};

    use super::{super::lines::Compression, *};

    fn documents(contents: &str, field: &str) -> Result<Vec<Option<String>>, DataError> {
        let reader = Box::new(Cursor::new(contents.to_owned()));
        let lines = Lines::new(Path::new("d/x.jsonl"), Compression::None, reader);
        JsonLines::new(lines, field).collect()
    }

    fn texts(documents: &[&str]) -> Vec<Option<String>> {
        documents
            .iter()
            .map(|&text| Some(text.to_owned()))
            .collect()
    }

    #[test]
    fn lines_are_documents_and_other_fields_are_ignored() {
        let contents = "{\"text\": \"a\\nb\", \"id\": 3}\n\n{\"text\": \"\"}\r\n";
        assert_eq!(documents(contents, "text").unwrap(), texts(&["a\nb", ""]));
    }

    #[test]
    fn another_field_can_be_named_and_null_is_no_document() {
        let contents = "{\"text\": 3, \"body\": \"a\"}\n{\"body\": null}\n";
        let mut expected = texts(&["a"]);
        expected.push(None);
        assert_eq!(documents(contents, "body").unwrap(), expected);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, reason) in [
            ("{\"text\": 3}", "invalid type"),
            ("{\"body\": \"a\"}", "missing field `text`"),
            (
                "{\"text\": \"a\", \"text\": \"b\"}",
                "duplicate field `text`",
            ),
            ("{\"text\": \"a", "EOF while parsing a string at column 11"),
            ("{\"text\": \"a\"} x", "trailing characters"),
            ("[1]", "expected an object"),
        ] {
            let contents = format!("{{\"text\": \"a\"}}\n\n{line}\n");
            let message = documents(&contents, "text").unwrap_err().to_string();
            assert!(message.starts_with("d/x.jsonl, line 3: "), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(message.contains("`text_column`"), "{message}");
        }
    }
}
