//! Token ids in files.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use memmap2::Mmap;

/// How an id is stored, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    U16,
    U32,
}

impl Width {
    /// The narrowest that holds all ids of a vocabulary.
    pub(super) fn of(vocab_size: usize) -> Width {
        if vocab_size <= 1 << 16 {
            Width::U16
        } else {
            Width::U32
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }
}

/// Writes a stream, and hashes what it writes.
pub(super) struct StreamWriter {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    width: Width,
    tokens: u64,
}

impl StreamWriter {
    pub(super) fn create(path: &Path, width: Width) -> io::Result<StreamWriter> {
        Ok(StreamWriter {
            file: BufWriter::new(File::create(path)?),
            hasher: blake3::Hasher::new(),
            width,
            tokens: 0,
        })
    }

    /// Tokens that were appended.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends ids, which must fit the width.
    pub(super) fn append(&mut self, ids: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = match self.width {
            Width::U16 => ids
                .iter()
                .flat_map(|&id| (id as u16).to_le_bytes())
                .collect(),
            Width::U32 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        };
        self.tokens += ids.len() as u64;
        self.hasher.update(&bytes);
        self.file.write_all(&bytes)
    }

    /// Closes the file; tells its tokens and the hash of its bytes.
    pub(super) fn finish(mut self) -> io::Result<(u64, blake3::Hash)> {
        self.file.flush()?;
        Ok((self.tokens, self.hasher.finalize()))
    }
}

/// A stream, mapped into memory.
pub(super) struct TokenStream {
    map: Mmap,
    width: Width,
}

impl TokenStream {
    pub(super) fn open(path: &Path, width: Width) -> io::Result<TokenStream> {
        let file = File::open(path)?;
        // SAFETY: the mapping is sound as long as nobody changes the file. This crate never does:
        // it writes streams elsewhere, renames them into place, and replaces them by removal,
        // which leaves the mapped file as it is.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(TokenStream { map, width })
    }

    pub(super) fn tokens(&self) -> u64 {
        (self.map.len() / self.width.bytes()) as u64
    }

    pub(super) fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.map)
    }

    /// The ids from `start` on, as many as there are.
    pub(super) fn ids(&self, start: usize) -> impl Iterator<Item = u32> {
        let width = self.width;
        self.map
            .chunks_exact(width.bytes())
            .skip(start)
            .map(move |bytes| match (width, bytes) {
                (Width::U16, &[a, b]) => u32::from(u16::from_le_bytes([a, b])),
                (Width::U32, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
                _ => unreachable!("chunks have the width's length"),
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_width_follows_the_vocabulary() {
        assert_eq!(Width::of(65_536), Width::U16);
        assert_eq!(Width::of(65_537), Width::U32);
    }

    #[test]
    fn streams_are_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.bin");
        for (width, ids) in [
            (Width::U16, [1, 65_535, 256, 7]),
            (Width::U32, [1, 1 << 31, 65_536, 7]),
        ] {
            let mut writer = StreamWriter::create(&path, width).unwrap();
            writer.append(&ids[..1]).unwrap();
            writer.append(&ids[1..]).unwrap();
            let (tokens, hash) = writer.finish().unwrap();
            let stream = TokenStream::open(&path, width).unwrap();
            assert_eq!((tokens, hash), (4, stream.hash()));
            assert_eq!(stream.tokens(), 4);
            assert_eq!(stream.ids(0).collect::<Vec<_>>(), ids);
            assert_eq!(stream.ids(2).collect::<Vec<_>>(), ids[2..]);
        }
    }

    #[test]
    fn a_stream_can_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.bin");
        StreamWriter::create(&path, Width::U16)
            .unwrap()
            .finish()
            .unwrap();
        let stream = TokenStream::open(&path, Width::U16).unwrap();
        assert_eq!((stream.tokens(), stream.ids(0).count()), (0, 0));
    }
}
