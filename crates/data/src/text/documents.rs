//! The documents of files.

use std::{
    fs, iter,
    path::{Path, PathBuf},
};

use upcycle_digest::Digest;

use super::{
    column::Column, files::Files, form_feeds::FormFeeds, format::Format, json_lines::JsonLines,
    lines::Lines,
};
use crate::{DataError, watch::Watch};

/// Files and how to take them apart into documents, of which only some are in memory at once.
pub(super) struct Documents {
    paths: Vec<PathBuf>,
    files: Files,
    column: String,
}

/// What reading all documents told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) documents: u64,
    /// Rows without a document.
    pub(super) nulls: u64,
    /// Bytes of all documents, and of the longest.
    pub(super) bytes: u64,
    pub(super) longest: u64,
}

/// The rows of a file, documents or null.
type Rows<'a> = Box<dyn Iterator<Item = Result<Option<String>, DataError>> + Send + 'a>;

impl Documents {
    /// Those of the files that `paths` stand for, in the field or column of this name where files
    /// have such.
    pub(super) fn find(paths: &[PathBuf], column: &str) -> Result<Documents, DataError> {
        Ok(Documents {
            paths: paths.to_vec(),
            files: Files::find(paths)?,
            column: column.to_owned(),
        })
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The paths, for messages.
    pub(super) fn label(&self) -> String {
        let names = self.paths.iter().map(|path| path.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.known.iter().map(|(path, _)| path.as_path())
    }

    /// The field or column that the text is read from; none where no file has such.
    pub(super) fn column(&self) -> Option<&str> {
        let has_columns = |(_, format): &(PathBuf, Format)| !matches!(format, Format::Text(_));
        let known = &self.files.known;
        known
            .iter()
            .any(has_columns)
            .then_some(self.column.as_str())
    }

    pub(super) fn skipped(&self) -> &[PathBuf] {
        &self.files.skipped
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        // What cannot be read is told when it is opened.
        let sizes = self.files().filter_map(|file| fs::metadata(file).ok());
        sizes.map(|file| file.len()).sum()
    }

    /// Every document, in order, without the blank ones.
    pub(super) fn iter<'a>(
        &'a self,
        watch: &'a Watch<'a>,
    ) -> impl Iterator<Item = Result<String, DataError>> + Send {
        self.rows(watch).filter_map(|row| {
            row.map(|text| text.filter(|text| !is_blank(text)))
                .transpose()
        })
    }

    /// Reads all documents, of which there must be one, and adds them to a hash.
    pub(super) fn hash_into(
        &self,
        digest: &mut Digest,
        watch: &Watch<'_>,
    ) -> Result<Counts, DataError> {
        let mut counts = Counts::default();
        for row in self.rows(watch) {
            match row? {
                Some(text) if is_blank(&text) => {}
                Some(text) => {
                    counts.documents += 1;
                    counts.bytes += text.len() as u64;
                    counts.longest = counts.longest.max(text.len() as u64);
                    digest.bytes(text.as_bytes());
                }
                None => counts.nulls += 1,
            }
        }
        if counts.documents == 0 {
            return Err(DataError::NoText {
                files: self.label(),
            });
        }
        Ok(counts)
    }

    fn rows<'a>(
        &'a self,
        watch: &'a Watch<'a>,
    ) -> impl Iterator<Item = Result<Option<String>, DataError>> + Send {
        self.files.known.iter().flat_map(move |(path, format)| {
            open(path, *format, &self.column, watch).unwrap_or_else(|error| -> Rows<'a> {
                // The error takes the place of the rows.
                Box::new(iter::once(Err(error)))
            })
        })
    }
}

fn open<'a>(
    path: &Path,
    format: Format,
    column: &str,
    watch: &'a Watch<'a>,
) -> Result<Rows<'a>, DataError> {
    let lines = |compression| Lines::open(path, compression, watch);
    let rows: Rows<'a> = match format {
        Format::Text(compression) => Box::new(FormFeeds::new(lines(compression)?)),
        Format::JsonLines(compression) => Box::new(JsonLines::new(lines(compression)?, column)),
        Format::Parquet => Box::new(Column::open(path, column, watch)?),
    };
    Ok(rows)
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;

    use super::*;

    fn read_documents(paths: &[PathBuf]) -> Result<Vec<String>, DataError> {
        let documents = Documents::find(paths, "text")?;
        let watch = Watch::silent();
        let counts = documents.hash_into(&mut Digest::new("test"), &watch)?;
        let all: Vec<String> = documents.iter(&watch).collect::<Result<_, _>>()?;
        assert_eq!(counts.documents, all.len() as u64);
        Ok(all)
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
        write("a/z.jsonl", "{\"text\": \"one\"}\n{\"text\": null}\n");
        write("a.md", "skipped");
        let paths = [folder.path().to_path_buf()];
        assert_eq!(read_documents(&paths).unwrap(), ["one", "two", "three"]);

        let documents = Documents::find(&paths, "text").unwrap();
        let counts = documents.hash_into(&mut Digest::new("test"), &Watch::silent());
        let counts = counts.unwrap();
        assert_eq!((counts.documents, counts.nulls), (3, 1));
        assert_eq!(documents.skipped(), [folder.path().join("a.md")]);
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
        fs::write(path("latin.txt"), b"caf\xe9").unwrap();
        fails(&[path("latin.txt")], &["latin.txt is not UTF-8 at byte 3"]);

        fs::write(path("blank.txt"), " \n").unwrap();
        fs::write(path("empty.jsonl"), "").unwrap();
        fails(
            &[path("blank.txt"), path("empty.jsonl")],
            &["no text in", "blank.txt, ", "empty.jsonl"],
        );

        fs::write(path("broken.jsonl.zst"), "no frame").unwrap();
        fails(
            &[path("broken.jsonl.zst")],
            &["broken.jsonl.zst cannot be decompressed", "get it again"],
        );
        fs::write(path("broken.parquet"), "no table").unwrap();
        fails(
            &[path("broken.parquet")],
            &["broken.parquet is not a whole Parquet file"],
        );
    }
}
