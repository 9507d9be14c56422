//! The documents of files.

use std::{
    fs, iter,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use upcycle_digest::Digest;

use super::{
    column::Column, files::Files, form_feeds::FormFeeds, format::Format, json_lines::JsonLines,
    lines::Lines,
};
use crate::{DataError, FindRemote, RemoteText, remote_name, watch::Watch};

/// Files and how to take them apart into documents, of which only some are in memory at once.
pub(super) struct Documents {
    paths: Vec<PathBuf>,
    files: Files,
    column: String,
    /// Where the files are to be fetched.
    remote: Option<Arc<dyn RemoteText>>,
}

/// What reading documents told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Files that were begun.
    pub(super) files: usize,
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
    pub(super) fn find(
        paths: &[PathBuf],
        column: &str,
        find: FindRemote<'_>,
    ) -> Result<Documents, DataError> {
        let remote = match paths {
            [path] => remote_name(path).map(find).transpose(),
            _ => Ok(None),
        };
        let remote = remote.map_err(DataError::Remote)?;
        let name = remote.as_ref().map(|remote| remote.name());
        Ok(Documents {
            paths: match name {
                Some(name) => vec![format!("hf:{name}").into()],
                None => paths.to_vec(),
            },
            files: match &remote {
                Some(remote) => Files::of_remote(remote.as_ref())?,
                None => Files::find(paths)?,
            },
            column: column.to_owned(),
            remote,
        })
    }

    /// What determines the documents, if they are those of a data set of the hub.
    pub(super) fn remote(&self) -> Option<&dyn RemoteText> {
        self.remote.as_deref()
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
        self.visit(watch, |document| {
            digest.bytes(document.as_bytes());
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Every document, of which there must be one, in order for `visit`, until it breaks off. No
    /// file is touched before a document of it is wanted.
    pub(super) fn visit(
        &self,
        watch: &Watch<'_>,
        mut visit: impl FnMut(String) -> Result<ControlFlow<()>, DataError>,
    ) -> Result<Counts, DataError> {
        let mut counts = Counts::default();
        for file in 0..self.files.known.len() {
            counts.files += 1;
            for row in self.open(file, watch)? {
                match row? {
                    Some(text) if is_blank(&text) => {}
                    Some(text) => {
                        counts.documents += 1;
                        counts.bytes += text.len() as u64;
                        counts.longest = counts.longest.max(text.len() as u64);
                        if visit(text)?.is_break() {
                            return Ok(counts);
                        }
                    }
                    None => counts.nulls += 1,
                }
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
        (0..self.files.known.len()).flat_map(move |file| {
            self.open(file, watch).unwrap_or_else(|error| -> Rows<'a> {
                // The error takes the place of the rows.
                Box::new(iter::once(Err(error)))
            })
        })
    }

    /// The rows of the file of this place in the list.
    fn open<'a>(&self, file: usize, watch: &'a Watch<'a>) -> Result<Rows<'a>, DataError> {
        let (path, format) = &self.files.known[file];
        let Some(remote) = &self.remote else {
            return open(path, *format, &self.column, watch);
        };
        watch.check()?;
        let path = remote.fetch(file).map_err(DataError::Remote)?;
        // What cannot be read is told when it is opened.
        watch.found(fs::metadata(&path).map_or(0, |file| file.len()));
        open(&path, *format, &self.column, watch)
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

    fn find(paths: &[PathBuf]) -> Result<Documents, DataError> {
        Documents::find(paths, "text", &|name: &str| Err(name.into()))
    }

    fn read_documents(paths: &[PathBuf]) -> Result<Vec<String>, DataError> {
        let documents = find(paths)?;
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

        let documents = find(&paths).unwrap();
        let digest = &mut Digest::new("test");
        let counts = documents.hash_into(digest, &Watch::silent()).unwrap();
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
