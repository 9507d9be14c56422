//! Writing tensors as shards: sizes, headers, the index.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::Dtype;
use serde_json::json;
use upcycle_files::tensor_header;

use crate::{checkpoint::SINGLE, error::HfError};

/// Name, type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorMeta {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Parameters that it counts for.
    pub parameters: u64,
}

impl TensorMeta {
    pub fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|&dim| dim as u64).product();
        elements * self.dtype.bitsize() as u64 / 8
    }
}

/// Which tensors go to which file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShardPlan {
    pub files: Vec<ShardFile>,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShardFile {
    pub name: String,
    /// Its tensors, in the order of their data, by index.
    pub tensors: Vec<usize>,
    /// Length and header as JSON.
    pub header: Vec<u8>,
    /// Size of the file.
    pub bytes: u64,
}

impl ShardFile {
    /// Whether a folder has it, whole.
    pub fn is_in(&self, folder: &Path) -> bool {
        let there = std::fs::metadata(folder.join(&self.name));
        there.is_ok_and(|there| there.len() == self.bytes)
    }
}

impl ShardPlan {
    /// Fills one file after the other up to `shard_bytes`; a larger tensor gets a file of its own.
    ///
    /// Within a file wider types come first, so that all data is aligned.
    pub fn new(
        tensors: &[TensorMeta],
        shard_bytes: u64,
        metadata: Option<&HashMap<String, String>>,
    ) -> Result<Self, HfError> {
        let mut groups: Vec<(Vec<usize>, u64)> = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let bytes = tensor.bytes();
            match groups.last_mut() {
                Some((group, sum)) if *sum + bytes <= shard_bytes => {
                    group.push(index);
                    *sum += bytes;
                }
                _ => groups.push((vec![index], bytes)),
            }
        }
        let count = groups.len();
        let files = groups
            .into_iter()
            .enumerate()
            .map(|(number, (mut group, bytes))| {
                group.sort_by_key(|&index| std::cmp::Reverse(tensors[index].dtype.bitsize()));
                let name = match count {
                    1 => SINGLE.to_owned(),
                    _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
                };
                let header = header(group.iter().map(|&index| &tensors[index]), metadata)?;
                Ok(ShardFile {
                    name,
                    bytes: header.len() as u64 + bytes,
                    tensors: group,
                    header,
                })
            });
        Ok(Self {
            files: files.collect::<Result<_, HfError>>()?,
        })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// `model.safetensors.index.json`; none for a single file.
    pub fn index(&self, tensors: &[TensorMeta]) -> Option<String> {
        if self.files.len() == 1 {
            return None;
        }
        let weight_map: BTreeMap<&str, &str> = self
            .files
            .iter()
            .flat_map(|file| {
                let names = file
                    .tensors
                    .iter()
                    .map(|&index| tensors[index].name.as_str());
                names.map(|name| (name, file.name.as_str()))
            })
            .collect();
        let total_size: u64 = tensors.iter().map(TensorMeta::bytes).sum();
        let total_parameters: u64 = tensors.iter().map(|tensor| tensor.parameters).sum();
        let index = json!({
            "metadata": { "total_parameters": total_parameters, "total_size": total_size },
            "weight_map": weight_map,
        });
        Some(format!("{index:#}\n"))
    }
}

/// Length and header of a file, padded to 8 bytes.
fn header<'a>(
    tensors: impl Iterator<Item = &'a TensorMeta>,
    metadata: Option<&HashMap<String, String>>,
) -> Result<Vec<u8>, HfError> {
    let tensors = tensors.map(|it| (it.name.as_str(), it.dtype, it.shape.as_slice()));
    tensor_header(tensors, metadata).map_err(|error| {
        HfError::Impossible(format!("the header of a shard cannot be made: {error}"))
    })
}
