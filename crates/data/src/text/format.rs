//! What a file's name says about its contents.

use std::path::Path;

use super::lines::Compression;

/// How documents lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Text with lines of a single form feed between documents.
    Text(Compression),
    /// A JSON object a line.
    JsonLines(Compression),
    /// A table with a column of documents.
    Parquet,
}

impl Format {
    /// None if the name says nothing that is known here.
    pub(super) fn of(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?;
        // A name that begins with its only dot has no extension.
        let (stem, extension) = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())?;
        let compression = match extension {
            "txt" => return Some(Format::Text(Compression::None)),
            "jsonl" => return Some(Format::JsonLines(Compression::None)),
            "parquet" => return Some(Format::Parquet),
            "gz" => Compression::Gzip,
            "zst" => Compression::Zstd,
            _ => return None,
        };
        match Path::new(stem).extension()?.to_str()? {
            "txt" => Some(Format::Text(compression)),
            // Large data sets call compressed JSON lines .json.gz.
            "jsonl" | "json" => Some(Format::JsonLines(compression)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_compression() {
        let of = |name: &str| Format::of(Path::new(name));
        assert_eq!(of("a/b.txt"), Some(Format::Text(Compression::None)));
        assert_eq!(of("b.txt.gz"), Some(Format::Text(Compression::Gzip)));
        assert_eq!(of("b.txt.zst"), Some(Format::Text(Compression::Zstd)));
        assert_eq!(of("b.jsonl"), Some(Format::JsonLines(Compression::None)));
        let zipped = Some(Format::JsonLines(Compression::Gzip));
        assert_eq!((of("b.jsonl.gz"), of("c4.00.json.gz")), (zipped, zipped));
        assert_eq!(
            of("b.jsonl.zst"),
            Some(Format::JsonLines(Compression::Zstd))
        );
        assert_eq!(of("b.parquet"), Some(Format::Parquet));
        for unknown in ["b.json", "b.zst", "b.tar.gz", "b.parquet.gz", ".txt", "txt"] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }
}
