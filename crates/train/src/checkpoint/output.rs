//! Tensors whose pieces are on several devices, on the way to one file.

use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    FileSum, broken,
    tensor_file::{Entry, TensorWriter, VALUES},
};
use crate::{crew::Crew, error::TrainError, placement::Pieces};

/// Where a device gives its pieces of a file's tensors: the first device writes them, the others send theirs to it, a few
/// values at a time and when it asks for them, so that they never wait in its memory.
pub(super) struct Output<'a, 'b> {
    crew: &'a Crew,
    path: &'a Path,
    /// Of the first device.
    writer: Option<&'a mut TensorWriter<'b>>,
}

/// Writes a file of these tensors, whose pieces `values` gives in this order on every device. Gives the first device the
/// file's size and hash.
pub(super) fn write(
    path: &Path,
    entries: &[Entry],
    crew: &Crew,
    values: impl FnOnce(&mut Output<'_, '_>) -> Result<(), TrainError>,
) -> Result<Option<FileSum>, TrainError> {
    if !crew.leads() {
        let mut output = Output {
            crew,
            path,
            writer: None,
        };
        return values(&mut output).map(|()| None);
    }
    let sum = TensorWriter::write(path, entries, |writer| {
        values(&mut Output {
            crew,
            path,
            writer: Some(writer),
        })
    });
    sum.map(Some)
}

impl Output<'_, '_> {
    /// The value of the next tensor, of type U64 and without axes, which every device knows.
    pub fn count(&mut self, value: u64) -> Result<(), TrainError> {
        match &mut self.writer {
            Some(writer) => writer.count(value),
            None => Ok(()),
        }
    }

    /// The next tensor, of type F32, of which `own` is this device's piece; none where it has none.
    pub fn tensor<B: Backend, const D: usize>(
        &mut self,
        pieces: &Pieces,
        own: Option<Tensor<B, D>>,
        device: &B::Device,
    ) -> Result<(), TrainError> {
        let all = &self.crew.all;
        let filled = pieces.all.iter().filter(|(_, range)| !range.is_empty());
        for (rank, range) in filled {
            let own = match *rank == all.rank() {
                true => Some(self.piece(own.as_ref(), range.len())?),
                false => None,
            };
            match (&mut self.writer, own) {
                (Some(writer), Some(own)) => writer.tensor(own)?,
                (Some(writer), None) => {
                    for _ in (0..range.len()).step_by(VALUES) {
                        all.send_value(*rank, &())?;
                        writer.tensor(&all.receive_tensor::<B, 1>(*rank, device)?)?;
                    }
                }
                (None, Some(own)) => {
                    let own = own.clone().reshape([range.len()]);
                    for start in (0..range.len()).step_by(VALUES) {
                        let end = range.len().min(start + VALUES);
                        all.receive_value::<()>(0)?;
                        all.send_tensor(0, own.clone().slice([start..end]))?;
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// A piece of as many values as there are to be.
    fn piece<'t, B: Backend, const D: usize>(
        &self,
        own: Option<&'t Tensor<B, D>>,
        values: usize,
    ) -> Result<&'t Tensor<B, D>, TrainError> {
        own.filter(|tensor| tensor.shape().num_elements() == values)
            .ok_or_else(|| {
                broken(
                    self.path,
                    format!(
                        "device {} does not have its part of it",
                        self.crew.all.rank()
                    ),
                )
            })
    }
}
