//! Files that are read over a network, some bytes at a time.

use std::{fmt, io::Read, path::Path};

use crate::{error::HfError, header::Header};

/// The files of a checkpoint somewhere else.
pub(crate) trait Ranges: fmt::Debug + Send + Sync {
    /// At most `bytes` bytes of a file from `start` on, and how long the whole file is.
    fn open(&self, file: &str, start: u64, bytes: u64) -> Result<(Box<dyn Read>, u64), HfError>;
}

/// Bytes that are asked for first: the headers of most shards are shorter.
const FIRST: u64 = 64 << 10;

/// Exactly so many bytes of a file.
pub(crate) fn read_exact(
    ranges: &dyn Ranges,
    path: &Path,
    start: u64,
    bytes: u64,
) -> Result<Vec<u8>, HfError> {
    let (reader, _) = ranges.open(&name_of(path), start, bytes)?;
    let mut buffer = Vec::new();
    let read = reader.take(bytes).read_to_end(&mut buffer);
    match read {
        Ok(_) if buffer.len() as u64 == bytes => Ok(buffer),
        Ok(_) => Err(HfError::file(
            path,
            "ended before all of it had come; try again",
        )),
        Err(error) => Err(HfError::file(
            path,
            format!("did not come: {error}; try again"),
        )),
    }
}

/// The name of a file in the folder of its checkpoint.
pub(crate) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The header of a safetensors file.
pub(crate) fn read_header(ranges: &dyn Ranges, path: &Path) -> Result<Header, HfError> {
    let (reader, total) = ranges.open(&name_of(path), 0, FIRST)?;
    let mut start = Vec::new();
    let read = reader.take(FIRST.min(total)).read_to_end(&mut start);
    read.map_err(|error| HfError::file(path, format!("did not come: {error}; try again")))?;
    let size = Header::size(&start, total, path)?;
    let end = 8 + size as usize;
    if end > start.len() {
        let at = start.len() as u64;
        start.extend(read_exact(ranges, path, at, end as u64 - at)?);
    }
    Header::parse(&start[8..end], total, path)
}
