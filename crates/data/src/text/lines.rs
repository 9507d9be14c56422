//! Lines of files, compressed or not.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::{DataError, watch::Watch};

/// How a text file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The lines of a file, of which only one is in memory.
pub(super) struct Lines<'a> {
    path: PathBuf,
    compression: Compression,
    reader: Box<dyn BufRead + Send + 'a>,
    line: Vec<u8>,
    /// Bytes before the line, without compression.
    offset: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn open(
        path: &Path,
        compression: Compression,
        watch: &'a Watch<'a>,
    ) -> Result<Lines<'a>, DataError> {
        let open = || -> io::Result<Box<dyn BufRead + Send + 'a>> {
            let file = File::open(path)?;
            let file = BufReader::new(Watched { file, watch });
            let reader: Box<dyn BufRead + Send + 'a> = match compression {
                Compression::None => Box::new(file),
                Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
                Compression::Zstd => Box::new(BufReader::new(ZstdDecoder::with_buffer(file)?)),
            };
            Ok(reader)
        };
        let reader = open().map_err(|reason| DataError::unreadable(path, reason))?;
        Ok(Lines::new(path, compression, reader))
    }

    /// Lines of what `reader` gives. Path and compression are for messages.
    pub(super) fn new(
        path: &Path,
        compression: Compression,
        reader: Box<dyn BufRead + Send + 'a>,
    ) -> Lines<'a> {
        Lines {
            path: path.into(),
            compression,
            reader,
            line: Vec::new(),
            offset: 0,
            number: 0,
        }
    }

    /// The next line with its break; none at the end.
    pub(super) fn read(&mut self) -> Result<Option<&str>, DataError> {
        self.offset += self.line.len();
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line);
        if read.map_err(|reason| self.broken(reason))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        match str::from_utf8(&self.line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(DataError::NotUtf8 {
                path: self.path.clone(),
                offset: self.offset + error.valid_up_to(),
            }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line read last, from 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    fn broken(&self, reason: io::Error) -> DataError {
        let reason = match reason.downcast::<DataError>() {
            Ok(error) => return error,
            Err(reason) => reason,
        };
        match self.compression {
            Compression::None => DataError::unreadable(&self.path, reason),
            Compression::Gzip | Compression::Zstd => DataError::Compressed {
                path: self.path.clone(),
                reason,
            },
        }
    }
}

/// A file whose reading is watched.
struct Watched<'a> {
    file: File,
    watch: &'a Watch<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.watch.check().map_err(io::Error::other)?;
        let read = self.file.read(buffer)?;
        self.watch.read(read as u64);
        Ok(read)
    }
}

pub(super) fn without_break(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{fs, io::Write};

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(text: &str) -> Vec<u8> {
        zstd::stream::encode_all(text.as_bytes(), 0).unwrap()
    }

    fn all(path: &Path, compression: Compression) -> Result<Vec<String>, DataError> {
        let watch = Watch::silent();
        let mut lines = Lines::open(path, compression, &watch)?;
        let mut all = Vec::new();
        while let Some(line) = lines.read()? {
            all.push(line.to_owned());
        }
        assert_eq!(lines.number(), all.len());
        Ok(all)
    }

    #[test]
    fn compressed_files_have_the_lines_of_plain_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let text = "one\r\n\nthrée\nfour";
        for (compression, bytes) in [
            (Compression::None, text.as_bytes().to_vec()),
            (Compression::Gzip, gzip(text)),
            (Compression::Zstd, zstandard(text)),
            // Files are often put together from several frames.
            (
                Compression::Gzip,
                [gzip("one\r\n\nthr"), gzip("ée\nfour")].concat(),
            ),
            (
                Compression::Zstd,
                [zstandard("one\r\n\nthr"), zstandard("ée\nfour")].concat(),
            ),
        ] {
            fs::write(&path, bytes).unwrap();
            let lines = all(&path, compression).unwrap();
            assert_eq!(
                lines,
                ["one\r\n", "\n", "thrée\n", "four"],
                "{compression:?}"
            );
        }
    }

    #[test]
    fn broken_frames_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt.zst");
        let text: String = (0..20_000_u32).map(|i| format!("{}\n", i * i)).collect();
        for (compression, whole) in [
            (Compression::Gzip, gzip(&text)),
            (Compression::Zstd, zstandard(&text)),
        ] {
            let cut = &whole[..whole.len() / 2];
            for bytes in [cut, &b"no frame at all, but long enough for a header"[..]] {
                fs::write(&path, bytes).unwrap();
                let message = all(&path, compression).unwrap_err().to_string();
                assert!(
                    message.contains("a.txt.zst cannot be decompressed"),
                    "{message}"
                );
                assert!(message.contains("get it again"), "{message}");
            }
        }
    }

    #[test]
    fn bad_bytes_are_counted_from_the_start_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"caf\xc3\xa9\ncaf\xe9\n").unwrap();
        let message = all(&path, Compression::None).unwrap_err().to_string();
        assert!(message.contains("not UTF-8 at byte 9"), "{message}");
    }
}
