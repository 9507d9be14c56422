//! Headers of safetensors files.

use std::{fs::File, io::Read, path::Path};

use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;
use serde_json::{Map, Value};
use upcycle_files::FileError;

use crate::error::HfError;

/// The largest header that the format allows.
const LARGEST: u64 = 100_000_000;

/// A file's header and where its data begins.
pub(crate) struct Header {
    pub metadata: Metadata,
    /// First byte of tensor data.
    pub data: u64,
}

impl Header {
    /// Reads and checks the header of a file.
    pub fn read(path: &Path) -> Result<Self, HfError> {
        let mut file = File::open(path).map_err(FileError::of("open", path))?;
        let bytes = file.metadata().map_err(FileError::of("read", path))?.len();
        let mut start = Vec::new();
        let mut first = Read::by_ref(&mut file).take(8);
        first
            .read_to_end(&mut start)
            .map_err(FileError::of("read", path))?;
        let size = Self::size(&start, bytes, path)?;
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header)
            .map_err(FileError::of("read", path))?;
        Self::parse(&header, bytes, path)
    }

    /// The length of the header of a file of so many bytes, from how the file begins.
    pub fn size(start: &[u8], file_bytes: u64, path: &Path) -> Result<u64, HfError> {
        let short = || HfError::file(path, "is too short for a safetensors file; is it cut off?");
        let size = start.first_chunk().copied().ok_or_else(short)?;
        let size = u64::from_le_bytes(size);
        if size > LARGEST {
            return Err(HfError::file(path, "is not a safetensors file"));
        }
        match size + 8 > file_bytes {
            true => Err(short()),
            false => Ok(size),
        }
    }

    /// Checks a header, without its length, against the size of its file.
    pub fn parse(header: &[u8], file_bytes: u64, path: &Path) -> Result<Self, HfError> {
        let metadata: Metadata = match serde_json::from_slice(header) {
            Ok(metadata) => metadata,
            Err(error) => return Err(explain(header, path, &error.to_string())),
        };
        let data = header.len() as u64 + 8;
        let expected = data.saturating_add(metadata.data_len() as u64);
        if file_bytes != expected {
            let problem = if file_bytes < expected {
                "is cut off; download it again"
            } else {
                "has bytes that belong to no tensor; download it again"
            };
            return Err(HfError::file(
                path,
                format!("{problem} (it has {file_bytes} bytes, its header speaks of {expected})"),
            ));
        }
        Ok(Self { metadata, data })
    }
}

/// The first tensor that cannot be as the header says, or what the parser said.
fn explain(header: &[u8], path: &Path, error: &str) -> HfError {
    #[derive(Deserialize)]
    struct Entry {
        dtype: Dtype,
        shape: Vec<usize>,
        data_offsets: (usize, usize),
    }

    let entries: Map<String, Value> = serde_json::from_slice(header).unwrap_or_default();
    let mut tensors: Vec<_> = entries
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    tensors.sort_by_key(|(_, entry)| entry["data_offsets"][0].as_u64());
    for (name, entry) in tensors {
        let fault = |problem: String| HfError::Tensor {
            path: path.to_owned(),
            tensor: name.clone(),
            problem,
        };
        let Entry {
            dtype,
            shape,
            data_offsets: (start, end),
        } = match Entry::deserialize(entry) {
            Ok(entry) => entry,
            Err(_) if Dtype::deserialize(&entry["dtype"]).is_err() => {
                return fault(format!("has the unknown dtype {}", entry["dtype"]));
            }
            Err(error) => return fault(format!("is not described as it should be: {error}")),
        };
        let elements = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
        let bytes = elements
            .and_then(|n| n.checked_mul(dtype.bitsize()))
            .map(|bits| bits / 8);
        if end.checked_sub(start) != bytes {
            return fault(format!(
                "of dtype {dtype} and shape {shape:?} cannot have data at {start}..{end}"
            ));
        }
    }
    HfError::file(path, format!("has a broken header: {error}"))
}
