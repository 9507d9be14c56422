//! Documents between lines of a single form feed.

use super::lines::{Lines, without_break};
use crate::DataError;

/// The stretches of a text between lines of a single form feed, without the line break that ends
/// the line before it.
pub(super) struct FormFeeds<'a> {
    lines: Lines<'a>,
    ended: bool,
}

impl<'a> FormFeeds<'a> {
    pub(super) fn new(lines: Lines<'a>) -> FormFeeds<'a> {
        FormFeeds {
            lines,
            ended: false,
        }
    }

    fn document(&mut self) -> Result<String, DataError> {
        let mut text = String::new();
        while let Some(line) = self.lines.read()? {
            if without_break(line) == "\u{c}" {
                text.truncate(without_break(&text).len());
                return Ok(text);
            }
            text.push_str(line);
        }
        self.ended = true;
        Ok(text)
    }
}

impl Iterator for FormFeeds<'_> {
    type Item = Result<Option<String>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.ended).then(|| self.document().map(Some))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{io::Cursor, path::Path};

    use super::{super::lines::Compression, *};

    #[test]
    fn form_feed_lines_separate_documents() {
        let documents = |text: &'static str| -> Vec<String> {
            let reader = Box::new(Cursor::new(text));
            let lines = Lines::new(Path::new("x"), Compression::None, reader);
            FormFeeds::new(lines)
                .map(|row| row.unwrap().unwrap())
                .collect()
        };
        assert_eq!(documents("a\nb\n\u{c}\nc\n"), ["a\nb", "c\n"]);
        assert_eq!(documents("a\r\n\u{c}\r\nb"), ["a", "b"]);
        assert_eq!(documents("a\u{c}b"), ["a\u{c}b"]);
        assert_eq!(documents("\u{c}\na\n\u{c}"), ["", "a", ""]);
    }
}
