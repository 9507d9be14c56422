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
use upcycle_lm::Lm;

use super::{
    FileSum, broken, output,
    tensor_file::{Entry, TensorFile},
};
use crate::{
    crew::Crew,
    error::TrainError,
    placement::{Placement, placements},
};

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

/// Writes the state of every parameter that has one, of which each device has its share.
pub(super) fn write<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    optimizer: &AdamWRecord<B>,
    path: &Path,
    crew: &Crew,
    device: &B::Device,
) -> Result<Option<FileSum>, TrainError> {
    let placements = placements(model, crew);
    let own: Vec<_> = placements
        .iter()
        .map(|placement| optimizer.get(&placement.whole.id))
        .collect();
    let fits = placements.iter().zip(&own).all(|(placement, state)| {
        state.is_none_or(|state| moment_shape(state) == placement.moment_dims)
    });
    if !fits || own.iter().flatten().count() != optimizer.len() {
        let problem = "the optimizer has a state of no parameter of its shape";
        return Err(broken(path, problem.into()));
    }
    let times = times_of_all(&placements, &own, crew)?;
    let states: Vec<_> = (placements.iter().zip(own).zip(times))
        .filter_map(|((placement, state), time)| Some((placement, state, time?)))
        .collect();
    // Counts of eight bytes first, so that all is aligned.
    let times = states.iter().map(|(placement, ..)| {
        let name = format!("{}.{TIME}", placement.whole.path);
        (name, Dtype::U64, Vec::new())
    });
    let moments = states.iter().flat_map(|(placement, ..)| {
        let whole = &placement.whole;
        MOMENTS.map(|name| {
            let name = format!("{}.{name}", whole.path);
            (name, Dtype::F32, whole.dims.clone())
        })
    });
    let entries: Vec<Entry> = times.chain(moments).collect();
    output::write(path, &entries, crew, |output| {
        for (_, _, time) in &states {
            output.count(*time)?;
        }
        for (placement, state, _) in &states {
            of_rank!(placement.moment_dims.len(), D => {
                let state = state.and_then(state_of::<B, D>);
                let [first, second] = match state {
                    Some(state) => [state.moment_1, state.moment_2].map(Some),
                    None => [None, None],
                };
                output.tensor(&placement.moments, first, device)?;
                output.tensor(&placement.moments, second, device)?;
            });
        }
        Ok(())
    })
}

/// Steps of every parameter's state; none where no device has one. A device without elements of a parameter does not know.
fn times_of_all<B: MoeAutodiffBackend>(
    placements: &[Placement],
    own: &[Option<&AdaptorRecord<AdamW, B>>],
    crew: &Crew,
) -> Result<Vec<Option<u64>>, TrainError> {
    let own: Vec<Option<u64>> = (placements.iter().zip(own))
        .map(|(placement, state)| {
            let state = (*state)?;
            let time = of_rank!(placement.moment_dims.len(), D => state_of::<B, D>(state)?.time);
            Some(time as u64)
        })
        .collect();
    let all = crew.all.gather_values(&own)?.into_iter();
    let known = all.reduce(|known, more| {
        let pairs = known.into_iter().zip(more);
        pairs.map(|(known, more)| known.or(more)).collect()
    });
    Ok(known.unwrap_or_default())
}

/// Reads a device's share of the state of every parameter that has one.
pub(super) fn read<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    path: &Path,
    crew: &Crew,
    device: &B::Device,
) -> Result<AdamWRecord<B>, TrainError> {
    let file = TensorFile::open(path)?;
    let mut optimizer = AdamWRecord::<B>::new();
    let mut known = 0;
    for placement in placements(model, crew) {
        let whole = &placement.whole;
        let name = |part: &str| format!("{}.{part}", whole.path);
        if file.shape(&name(TIME)).is_none() {
            continue;
        }
        known += 1 + MOMENTS.len();
        let time = file.count(&name(TIME))? as usize;
        let own = &placement.moments.own;
        let [first, second] = MOMENTS.map(|part| {
            let values = file.floats(&name(part), &whole.dims, own.clone())?;
            Ok::<_, TrainError>(TensorData::new(values, placement.moment_dims.clone()))
        });
        let (first, second) = (first?, second?);
        if own.is_empty() {
            continue;
        }
        let record = of_rank!(placement.moment_dims.len(), D => {
            let tensor = |data| Tensor::<B::InnerBackend, D>::from_data(data, device);
            let state = AdaptiveMomentumState::new(time, tensor(first), tensor(second));
            AdaptorRecord::from_state::<D>(AdamWState::new(state))
        });
        optimizer.insert(whole.id, record);
    }
    let states = file.len();
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
