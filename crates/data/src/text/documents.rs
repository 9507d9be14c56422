//! Finding files and taking them apart into documents.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::json_lines;
use crate::DataError;

/// What a file's name says about its contents.
#[derive(Clone, Copy)]
enum Format {
    Text,
    JsonLines,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        match path.extension().and_then(OsStr::to_str) {
            Some("txt") => Some(Format::Text),
            Some("jsonl") => Some(Format::JsonLines),
            _ => None,
        }
    }
}

/// Every document of the configured paths, in order, without the blank ones.
pub(super) fn read_documents(paths: &[PathBuf]) -> Result<Vec<String>, DataError> {
    let mut documents = Vec::new();
    for path in paths {
        for (file, format) in find(path)? {
            let text = read_text(&file)?;
            match format {
                Format::Text => documents.extend(between_form_feeds(&text).map(str::to_owned)),
                Format::JsonLines => documents.extend(json_lines::documents(&file, &text)?),
            }
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    if documents.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(DataError::NoText {
            files: names.join(", "),
        });
    }
    Ok(documents)
}

/// The files that a configured path stands for.
fn find(path: &Path) -> Result<Vec<(PathBuf, Format)>, DataError> {
    let metadata = fs::metadata(path).map_err(|reason| match reason.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
        _ => unreadable(path, reason),
    })?;
    if !metadata.is_dir() {
        let format = Format::of(path).ok_or_else(|| DataError::Extension { path: path.into() })?;
        return Ok(vec![(path.into(), format)]);
    }
    let mut files = Vec::new();
    search(path, &mut files)?;
    if files.is_empty() {
        return Err(DataError::NoTextFiles {
            folder: path.into(),
        });
    }
    Ok(files)
}

/// Adds the text files under a folder, sorted by name, for folders list their entries in an order
/// that differs between machines.
fn search(folder: &Path, files: &mut Vec<(PathBuf, Format)>) -> Result<(), DataError> {
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<PathBuf>>>()
        })
        .map_err(|reason| unreadable(folder, reason))?;
    entries.sort_unstable();
    for entry in entries {
        let metadata = fs::metadata(&entry).map_err(|reason| unreadable(&entry, reason))?;
        if metadata.is_dir() {
            search(&entry, files)?;
        } else if let Some(format) = Format::of(&entry) {
            files.push((entry, format));
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(|reason| unreadable(path, reason))?;
    String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path.into(),
        offset: error.utf8_error().valid_up_to(),
    })
}

/// The stretches of a text between lines of a single form feed, without the line break that ends
/// the line before it.
fn between_form_feeds(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if without_break(line) == "\u{c}" {
                rest = Some(&text[at + line.len()..]);
                return Some(without_break(&text[..at]));
            }
            at += line.len();
        }
        rest = None;
        Some(text)
    })
}

fn without_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn unreadable(path: &Path, reason: io::Error) -> DataError {
    DataError::Read {
        path: path.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn form_feed_lines_separate_documents() {
        let documents = |text| between_form_feeds(text).collect::<Vec<_>>();
        assert_eq!(documents("a\nb\n\u{c}\nc\n"), ["a\nb", "c\n"]);
        assert_eq!(documents("a\r\n\u{c}\r\nb"), ["a", "b"]);
        assert_eq!(documents("a\u{c}b"), ["a\u{c}b"]);
        assert_eq!(documents("\u{c}\na\n\u{c}"), ["", "a", ""]);
    }

    #[test]
    fn folders_are_searched_in_order_and_other_files_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("b.txt", "two\n\u{c}\n \n\u{c}\nthree");
        write("a/z.jsonl", "{\"text\": \"one\"}\n");
        write("a.md", "skipped");
        assert_eq!(
            read_documents(&[folder.path().into()]).unwrap(),
            ["one", "two", "three"]
        );
    }

    #[track_caller]
    fn fails(paths: &[PathBuf], expected: &[&str]) {
        let message = read_documents(paths).unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
    }

    #[test]
    fn errors_name_the_file_and_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fails(
            &[path("none.txt")],
            &["none.txt does not exist", "correct the path"],
        );
        fails(&[folder.path().into()], &["holds no .txt or .jsonl file"]);

        fs::write(path("a.pdf"), "x").unwrap();
        fails(&[path("a.pdf")], &["a.pdf is neither", "convert"]);

        fs::write(path("latin.txt"), b"caf\xe9").unwrap();
        fails(&[path("latin.txt")], &["latin.txt is not UTF-8 at byte 3"]);

        fs::write(path("blank.txt"), " \n").unwrap();
        fs::write(path("empty.jsonl"), "").unwrap();
        fails(
            &[path("blank.txt"), path("empty.jsonl")],
            &["no text in", "blank.txt, ", "empty.jsonl"],
        );
    }

    #[cfg(unix)]
    #[test]
    fn folders_that_contain_themselves_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        fails(&[folder.path().into()], &["cannot read", "loop"]);
    }
}
