//! Documents as JSON objects, one a line.

use std::path::Path;

use serde::Deserialize;

use crate::DataError;

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// The field `text` of every line that is not blank. `path` is for messages.
pub(super) fn documents(path: &Path, contents: &str) -> Result<Vec<String>, DataError> {
    contents
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| match serde_json::from_str::<Line>(line) {
            Ok(line) => Ok(line.text),
            Err(error) => Err(DataError::JsonLine {
                path: path.into(),
                line: index + 1,
                reason: reason(&error),
            }),
        })
        .collect()
}

/// What the parser says, without the place within the line: it calls every line the first.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line ") {
        Some((reason, _)) => format!("{reason} at column {}", error.column()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn lines_are_documents_and_other_fields_are_ignored() {
        let contents = "{\"text\": \"a\\nb\", \"id\": 3}\n\n{\"text\": \"\"}\r\n";
        assert_eq!(documents(Path::new("x"), contents).unwrap(), ["a\nb", ""]);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, reason) in [
            ("{\"text\": 3}", "invalid type"),
            ("{\"body\": \"a\"}", "missing field `text`"),
            ("{\"text\": \"a", "EOF while parsing a string at column 11"),
        ] {
            let contents = format!("{{\"text\": \"a\"}}\n\n{line}\n");
            let error = documents(Path::new("d/x.jsonl"), &contents).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("d/x.jsonl, line 3: "), "{message}");
            assert!(message.contains(reason), "{message}");
        }
    }
}
