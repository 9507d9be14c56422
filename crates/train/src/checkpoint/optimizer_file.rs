//! The optimizer's state in a file of tensors: for a parameter at `PATH`, steps `PATH.time` and the moments `PATH.moment_1`
//! and `PATH.moment_2`.

use std::path::Path;

use burn::{
    optim::{AdamWState, AdaptiveMomentumState, record::AdaptorRecord},
    tensor::{Tensor, TensorData},
};
use safetensors::Dtype;
use upcycle_kernels::{
    AdamWRecord, MoeAutodiffBackend,
    adamw::{AdamW, moment_shape, state_of_rank},
};
use upcycle_lm::{Lm, parameter_shapes};

use super::{
    FileSum, broken,
    tensor_file::{Entry, TensorFile, TensorWriter},
};
use crate::error::TrainError;

const TIME: &str = "time";
const MOMENTS: [&str; 2] = ["moment_1", "moment_2"];

/// Evaluates an expression with `D` bound to the number of axes of a parameter.
macro_rules! of_rank {
    ($rank:expr, $D:ident => $body:expr) => {
        match $rank {
            1 => {
                const $D: usize = 1;
                $body
            }
            2 => {
                const $D: usize = 2;
                $body
            }
            3 => {
                const $D: usize = 3;
                $body
            }
            _ => {
                const $D: usize = 4;
                $body
            }
        }
    };
}

/// Writes the state of every parameter that has one.
pub(super) fn write<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    optimizer: &AdamWRecord<B>,
    path: &Path,
) -> Result<FileSum, TrainError> {
    let shapes = parameter_shapes(model);
    let states: Vec<_> = shapes
        .iter()
        .filter_map(|shape| Some((shape, optimizer.get(&shape.id)?)))
        .collect();
    let fits = states
        .iter()
        .all(|(shape, state)| moment_shape(state) == shape.dims);
    if !fits || states.len() != optimizer.len() {
        let problem = "the optimizer has a state of no parameter of its shape";
        return Err(broken(path, problem.into()));
    }
    // Counts of eight bytes first, so that all is aligned.
    let times = states
        .iter()
        .map(|(shape, _)| (format!("{}.{TIME}", shape.path), Dtype::U64, Vec::new()));
    let moments = states.iter().flat_map(|(shape, _)| {
        MOMENTS.map(|name| {
            (
                format!("{}.{name}", shape.path),
                Dtype::F32,
                shape.dims.clone(),
            )
        })
    });
    let entries: Vec<Entry> = times.chain(moments).collect();
    TensorWriter::write(path, &entries, |writer| {
        for (shape, state) in &states {
            let time =
                of_rank!(shape.dims.len(), D => state_of::<B, D>(state).map(|state| state.time));
            writer.count(time.unwrap_or_default() as u64)?;
        }
        for (shape, state) in &states {
            of_rank!(shape.dims.len(), D => {
                let Some(state) = state_of::<B, D>(state) else {
                    continue;
                };
                writer.tensor(&state.moment_1)?;
                writer.tensor(&state.moment_2)?;
            });
        }
        Ok(())
    })
}

/// Reads the state of every parameter that has one.
pub(super) fn read<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    path: &Path,
    device: &B::Device,
) -> Result<AdamWRecord<B>, TrainError> {
    let file = TensorFile::open(path)?;
    let mut optimizer = AdamWRecord::<B>::new();
    for shape in parameter_shapes(model) {
        let name = |part: &str| format!("{}.{part}", shape.path);
        if file.shape(&name(TIME)).is_none() {
            continue;
        }
        let time = file.count(&name(TIME))? as usize;
        let [first, second] = MOMENTS.map(|part| {
            let values = file.floats(&name(part), &shape.dims)?;
            Ok::<_, TrainError>(TensorData::new(values, shape.dims.clone()))
        });
        let (first, second) = (first?, second?);
        let record = of_rank!(shape.dims.len(), D => {
            let tensor = |data| Tensor::<B::InnerBackend, D>::from_data(data, device);
            let state = AdaptiveMomentumState::new(time, tensor(first), tensor(second));
            AdaptorRecord::from_state::<D>(AdamWState::new(state))
        });
        optimizer.insert(shape.id, record);
    }
    let (states, known) = (file.len(), (MOMENTS.len() + 1) * optimizer.len());
    if states != known {
        let problem = format!(
            "{} of {states} tensors belong to no parameter of the model",
            states - known
        );
        return Err(broken(path, problem));
    }
    Ok(optimizer)
}

fn state_of<B: MoeAutodiffBackend, const D: usize>(
    record: &AdaptorRecord<AdamW, B>,
) -> Option<AdaptiveMomentumState<B::InnerBackend, D>> {
    state_of_rank::<AdamW, B, D>(record.clone()).map(|state| state.momentum)
}
