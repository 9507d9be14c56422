//! The files that paths stand for.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::format::Format;
use crate::{DataError, RemoteText};

/// Files with documents, and those beside them that are none.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) known: Vec<(PathBuf, Format)>,
    /// Files of folders and patterns whose kind is unknown.
    pub(super) skipped: Vec<PathBuf>,
}

impl Files {
    /// The files of paths, folders and patterns, in their order.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Files, DataError> {
        let mut files = Files::default();
        for path in paths {
            files.add(path)?;
        }
        Ok(files)
    }

    /// The files of a data set of the hub, by names that begin with its own.
    pub(super) fn of_remote(remote: &dyn RemoteText) -> Result<Files, DataError> {
        let files = remote.files().iter().map(|file| {
            let path = PathBuf::from(format!("hf:{}/{file}", remote.name()));
            match Format::of(&path) {
                Some(format) => Ok((path, format)),
                None => Err(DataError::Extension { path }),
            }
        });
        Ok(Files {
            known: files.collect::<Result<_, _>>()?,
            skipped: Vec::new(),
        })
    }

    fn add(&mut self, path: &Path) -> Result<(), DataError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(reason) => {
                return match path.to_str().filter(|text| is_pattern(text)) {
                    Some(pattern) => self.add_matches(pattern),
                    None if reason.kind() == io::ErrorKind::NotFound => {
                        Err(DataError::Missing { path: path.into() })
                    }
                    None => Err(DataError::unreadable(path, reason)),
                };
            }
        };
        if !metadata.is_dir() {
            let format =
                Format::of(path).ok_or_else(|| DataError::Extension { path: path.into() })?;
            self.known.push((path.into(), format));
            return Ok(());
        }
        let before = self.known.len();
        self.search(path)?;
        if self.known.len() == before {
            return Err(DataError::NoTextFiles {
                folder: path.into(),
            });
        }
        Ok(())
    }

    /// Adds the files under a folder, sorted by name, for folders list their entries in an order
    /// that differs between machines.
    fn search(&mut self, folder: &Path) -> Result<(), DataError> {
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<io::Result<Vec<PathBuf>>>()
            })
            .map_err(|reason| DataError::unreadable(folder, reason))?;
        entries.sort_unstable();
        for entry in entries {
            self.add_entry(entry)?;
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: PathBuf) -> Result<(), DataError> {
        let metadata =
            fs::metadata(&entry).map_err(|reason| DataError::unreadable(&entry, reason))?;
        if metadata.is_dir() {
            return self.search(&entry);
        }
        match Format::of(&entry) {
            Some(format) => self.known.push((entry, format)),
            None => self.skipped.push(entry),
        }
        Ok(())
    }

    /// Adds what a pattern matches, each file once and sorted by name.
    fn add_matches(&mut self, pattern: &str) -> Result<(), DataError> {
        let bad = |reason: String| DataError::Pattern {
            pattern: pattern.to_owned(),
            reason,
        };
        let mut found = Files::default();
        for entry in glob::glob(pattern).map_err(|error| bad(error.to_string()))? {
            found.add_entry(entry.map_err(|error| bad(error.to_string()))?)?;
        }
        found.known.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        found.known.dedup_by(|(a, _), (b, _)| a == b);
        found.skipped.sort_unstable();
        found.skipped.dedup();
        if found.known.is_empty() {
            return Err(bad(match found.skipped.first() {
                Some(file) => format!("of its files none is text, as {}", file.display()),
                None => "it matches nothing".to_owned(),
            }));
        }
        self.known.append(&mut found.known);
        self.skipped.append(&mut found.skipped);
        Ok(())
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// A folder with empty files of these names.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    /// The names of known and of skipped files, below the folder.
    fn found(folder: &Path, path: &str) -> Result<(Vec<String>, Vec<String>), DataError> {
        let files = Files::find(&[folder.join(path)])?;
        let name = |path: &PathBuf| {
            let path = path.strip_prefix(folder).unwrap();
            path.to_str().unwrap().replace('\\', "/")
        };
        let known = files.known.iter().map(|(path, _)| name(path));
        Ok((known.collect(), files.skipped.iter().map(name).collect()))
    }

    #[test]
    fn folders_are_searched_in_order_and_other_files_told() {
        let folder = folder(&["b.txt", "a/z.jsonl.zst", "a/y.parquet", "a.md", "a/x.csv"]);
        let (known, skipped) = found(folder.path(), "").unwrap();
        assert_eq!(known, ["a/y.parquet", "a/z.jsonl.zst", "b.txt"]);
        assert_eq!(skipped, ["a/x.csv", "a.md"]);
    }

    #[test]
    fn patterns_match_files_and_folders_once() {
        let folder = folder(&["a/1.parquet", "a/b/2.parquet", "a/b/3.txt", "a/b/4.md"]);
        let find = |pattern| found(folder.path(), pattern).unwrap();
        let (known, skipped) = find("a/**/*.parquet");
        assert_eq!(known, ["a/1.parquet", "a/b/2.parquet"]);
        assert!(skipped.is_empty());
        let (known, skipped) = find("a/*");
        assert_eq!(known, ["a/1.parquet", "a/b/2.parquet", "a/b/3.txt"]);
        assert_eq!(skipped, ["a/b/4.md"]);
    }

    #[test]
    fn a_name_with_the_signs_of_a_pattern_is_a_name() {
        let folder = folder(&["[a].txt", "a.txt"]);
        assert_eq!(found(folder.path(), "[a].txt").unwrap().0, ["[a].txt"]);
    }

    #[test]
    fn errors_name_the_path_and_the_fix() {
        let folder = folder(&["a.pdf", "sub/b.pdf"]);
        for (path, expected) in [
            (
                "none.txt",
                &["none.txt does not exist", "correct the path"][..],
            ),
            ("sub", &["holds no .txt or .jsonl file", "name a folder"]),
            ("a.pdf", &["a.pdf is neither", "convert"]),
            ("*.txt", &["*.txt", "matches nothing", "quotes"]),
            ("*.pdf", &["*.pdf", "a.pdf"]),
            ("a***.txt", &["a***.txt", "cannot be used"]),
        ] {
            let message = found(folder.path(), path).unwrap_err().to_string();
            for part in expected {
                assert!(message.contains(part), "no {part:?} in {message:?}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn folders_that_contain_themselves_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        let message = found(folder.path(), "").unwrap_err().to_string();
        assert!(
            message.contains("cannot read") && message.contains("loop"),
            "{message}"
        );
    }
}
