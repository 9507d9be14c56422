//! Files of named tensors in the safetensors format, written and read one tensor at a time.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use burn::tensor::{Tensor, backend::Backend};
use safetensors::{Dtype, tensor::Metadata};
use upcycle_files::{FileError, tensor_header, write_with};

use super::{FileSum, broken};
use crate::error::TrainError;

/// Values that come from a device at a time, where there are rows, by whole rows.
pub(super) const VALUES: usize = 1 << 20;
/// Values that are converted at a time.
const PIECE: usize = 1 << 14;

/// Name, type and shape of a tensor.
pub(super) type Entry = (String, Dtype, Vec<usize>);

/// A file being written, tensor by tensor.
pub(super) struct TensorWriter<'a> {
    path: &'a Path,
    file: &'a mut File,
    hash: blake3::Hasher,
    bytes: u64,
}

impl<'a> TensorWriter<'a> {
    /// Writes a file of these tensors, whose values `values` gives in this order.
    pub fn write(
        path: &'a Path,
        entries: &[Entry],
        values: impl FnOnce(&mut TensorWriter<'_>) -> Result<(), TrainError>,
    ) -> Result<FileSum, TrainError> {
        let tensors = entries
            .iter()
            .map(|(name, dtype, shape)| (name.as_str(), *dtype, shape.as_slice()));
        let header = tensor_header(tensors, None)
            .map_err(|error| broken(path, format!("its header: {error}")))?;
        let bytes_of =
            |(_, dtype, shape): &Entry| shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let end = (header.len() + entries.iter().map(bytes_of).sum::<usize>()) as u64;
        let mut sum = None;
        write_with(path, |file| {
            let mut writer = TensorWriter {
                path,
                file,
                hash: blake3::Hasher::new(),
                bytes: 0,
            };
            writer.put(&header)?;
            values(&mut writer)?;
            if writer.bytes != end {
                let problem = format!("came out with {} bytes, not {end}", writer.bytes);
                return Err(broken(path, problem));
            }
            sum = Some(FileSum {
                bytes: writer.bytes,
                blake3: writer.hash.finalize().to_hex().to_string(),
            });
            Ok(())
        })?;
        sum.ok_or_else(|| broken(path, "was not written".into()))
    }

    /// The next tensor, of type F32, which comes from its device some rows at a time.
    pub fn tensor<B: Backend, const D: usize>(
        &mut self,
        tensor: &Tensor<B, D>,
    ) -> Result<(), TrainError> {
        let rows = tensor.dims()[0];
        let row = tensor.shape().num_elements().div_ceil(rows.max(1));
        let step = (VALUES / row.max(1)).max(1);
        for start in (0..rows).step_by(step) {
            let piece = tensor.clone().narrow(0, start, step.min(rows - start));
            let data = piece.into_data().convert::<f32>();
            let values = data.as_slice();
            self.floats(values.map_err(|error| broken(self.path, format!("{error:?}")))?)?;
        }
        Ok(())
    }

    fn floats(&mut self, values: &[f32]) -> Result<(), TrainError> {
        let mut bytes = Vec::with_capacity(4 * PIECE.min(values.len()));
        for piece in values.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// The value of the next tensor, of type U64 and without axes.
    pub fn count(&mut self, value: u64) -> Result<(), TrainError> {
        self.put(&value.to_le_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        let written = self.file.write_all(bytes);
        written.map_err(FileError::of("write", self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// A file being read, tensor by tensor.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// First byte of the first tensor.
    data: u64,
}

impl TensorFile {
    /// Opens a file that is known to be whole.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let mut file = File::open(path).map_err(FileError::of("open", path))?;
        let read = |error| FileError::of("read", path)(error);
        let size = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(read)?;
        let length = u64::from_le_bytes(length);
        let fault = |problem: &str| broken(path, format!("is not a safetensors file: {problem}"));
        if length > size {
            return Err(fault("its header is longer than the file"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| fault(&error.to_string()))?;
        let data = length + 8;
        if data + metadata.data_len() as u64 != size {
            return Err(fault("its header speaks of another size"));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            data,
        })
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.metadata.tensors().len()
    }

    /// Shape of a tensor; none if it is not there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Some values of a tensor of type F32 and this shape, which are counted row by row.
    pub fn floats(
        &self,
        name: &str,
        shape: &[usize],
        range: Range<usize>,
    ) -> Result<Vec<f32>, TrainError> {
        self.begin(name, Dtype::F32, shape, 4 * range.start)?;
        let bytes = 4 * range.len();
        let mut values = Vec::with_capacity(bytes / 4);
        let mut piece = vec![0; bytes.min(4 * PIECE)];
        let mut left = bytes;
        while left > 0 {
            let piece = &mut piece[..left.min(4 * PIECE)];
            self.read(piece)?;
            let (numbers, _) = piece.as_chunks();
            values.extend(numbers.iter().map(|&number| f32::from_le_bytes(number)));
            left -= piece.len();
        }
        Ok(values)
    }

    /// Value of a tensor of type U64 without axes.
    pub fn count(&self, name: &str) -> Result<u64, TrainError> {
        self.begin(name, Dtype::U64, &[], 0)?;
        let mut value = [0; 8];
        self.read(&mut value)?;
        Ok(u64::from_le_bytes(value))
    }

    /// Goes so many bytes into a tensor.
    fn begin(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        offset: usize,
    ) -> Result<(), TrainError> {
        let fault = |problem: String| Err(broken(&self.path, problem));
        let Some(info) = self.metadata.info(name) else {
            return fault(format!("it has no tensor {name}"));
        };
        if info.dtype != dtype || info.shape != shape {
            return fault(format!(
                "{name} is of type {} and shape {:?}, the configuration asks for {dtype} and {shape:?}",
                info.dtype, info.shape
            ));
        }
        let place = self.data + (info.data_offsets.0 + offset) as u64;
        let sought = (&self.file).seek(SeekFrom::Start(place));
        sought.map_err(FileError::of("read", &self.path))?;
        Ok(())
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), TrainError> {
        let read = (&self.file).read_exact(bytes);
        Ok(read.map_err(FileError::of("read", &self.path))?)
    }
}
