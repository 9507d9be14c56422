//! Documents as JSON objects, one a line.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

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
    let found = json.deserialize_map(Field(field))?;
    json.end()?;
    match found {
        Found::Text(text) => Ok(Some(text)),
        Found::Null => Ok(None),
        Found::Nothing => Err(serde_json::Error::custom(format!(
            "missing field `{field}`"
        ))),
    }
}

/// What there is in the place of a field.
enum Found {
    Text(String),
    Null,
    Nothing,
}

/// The field of an object that has this name, or that a name before a dot leads to: `inner` in the
/// object `outer` for `outer.inner`.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// Without the text, which may be a whole document.
    fn visit_str<E: Error>(self, _: &str) -> Result<Found, E> {
        Err(E::custom(format!(
            "text in place of an object with the field `{}`",
            self.0
        )))
    }

    /// An object that is null has fields that are.
    fn visit_unit<E: Error>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Nothing;
        while let Some(key) = map.next_key::<String>()? {
            let new = if key == self.0 {
                map.next_value::<Option<String>>()?
                    .map_or(Found::Null, Found::Text)
            } else if let Some(inner) = inner(self.0, &key) {
                map.next_value_seed(Field(inner))?
            } else {
                map.next_value::<IgnoredAny>()?;
                Found::Nothing
            };
            if matches!(new, Found::Nothing) {
                continue;
            }
            if !matches!(found, Found::Nothing) {
                return Err(A::Error::custom(format!("duplicate field `{}`", self.0)));
            }
            found = new;
        }
        Ok(found)
    }
}

/// What is to be looked for in the object `outer` of a field like `outer.inner`.
fn inner<'a>(field: &'a str, outer: &str) -> Option<&'a str> {
    field.strip_prefix(outer)?.strip_prefix('.')
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
    fn a_field_can_be_inside_of_an_object() {
        let contents =
            "{\"a\": {\"b\": {\"c\": \"deep\"}, \"d\": 1}}\n{\"a\": null}\n{\"a.b.c\": \"flat\"}\n";
        let mut expected = texts(&["deep", "flat"]);
        expected.insert(1, None);
        assert_eq!(documents(contents, "a.b.c").unwrap(), expected);
        for (line, reason) in [
            ("{\"a\": {\"d\": \"x\"}}", "missing field `a.b.c`"),
            (
                "{\"a\": \"x\"}",
                "text in place of an object with the field `b.c`",
            ),
        ] {
            let message = documents(line, "a.b.c").unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
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
