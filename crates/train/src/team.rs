//! Several devices that train one model: each takes a share of the sequences of every batch, and losses, gradients and loads
//! are added up by Burn's collective operations, so that all take the same step.
//!
//! Without the feature `collective` there is one device.

use std::ops::Range;

use burn::{optim::GradientsParams, tensor::Tensor};
use upcycle_kernels::MoeAutodiffBackend;

use crate::error::TrainError;

/// One of the devices that train a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    index: usize,
    count: usize,
}

impl Peer {
    /// The only device.
    pub(crate) const ALONE: Self = Self { index: 0, count: 1 };

    /// Number of devices.
    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// The rows of a batch that are this device's.
    pub(crate) fn share(self, rows: usize) -> Range<usize> {
        let each = rows / self.count;
        self.index * each..(self.index + 1) * each
    }
}

/// The devices of a training, or why they cannot be one.
pub(crate) fn team(devices: usize, rows: usize) -> Result<Vec<Peer>, TrainError> {
    let fail = |problem: String| {
        Err(TrainError::Spec {
            field: "batch.rows",
            problem,
        })
    };
    if devices > 1 && !cfg!(feature = "collective") {
        return Err(TrainError::Device(
            "training on several devices is not compiled in; build with `--features multi-device`"
                .into(),
        ));
    }
    if !rows.is_multiple_of(devices) {
        return fail(format!(
            "{rows} sequences of a pass cannot be shared evenly by {devices} devices; take another number of devices"
        ));
    }
    let count = devices;
    Ok((0..count).map(|index| Peer { index, count }).collect())
}

#[cfg(feature = "collective")]
mod collective {
    use burn::{
        collective::{
            AllReduceStrategy, CollectiveConfig, CollectiveError, PeerId, ReduceOperation,
            all_reduce, finish_collective, register, reset_collective,
        },
        tensor::TensorPrimitive,
    };

    use super::*;

    impl From<CollectiveError> for TrainError {
        fn from(error: CollectiveError) -> Self {
            Self::Device(format!(
                "another device of this training failed ({error:?})"
            ))
        }
    }

    impl Peer {
        fn id(self) -> PeerId {
            PeerId::from(self.index)
        }

        /// The sum over all devices.
        pub(crate) fn sum<B: MoeAutodiffBackend>(
            self,
            tensor: Tensor<B::InnerBackend, 1>,
        ) -> Result<Tensor<B::InnerBackend, 1>, TrainError> {
            if self.count == 1 {
                return Ok(tensor);
            }
            let primitive = tensor.into_primitive().tensor();
            let sum = all_reduce::<B::InnerBackend>(self.id(), primitive, ReduceOperation::Sum)?;
            Ok(Tensor::from_primitive(TensorPrimitive::Float(sum)))
        }

        /// The sum of the gradients of all devices.
        pub(crate) fn sum_gradients<B: MoeAutodiffBackend>(
            self,
            gradients: GradientsParams,
        ) -> Result<GradientsParams, TrainError> {
            if self.count == 1 {
                return Ok(gradients);
            }
            Ok(gradients.all_reduce::<B::InnerBackend>(self.id(), ReduceOperation::Sum)?)
        }

        /// Joins the others; all of them have to.
        pub(crate) fn join<B: MoeAutodiffBackend>(
            self,
            device: &B::Device,
        ) -> Result<Membership<B>, TrainError> {
            if self.count > 1 {
                // One device adds up, so that all get the same bits.
                let config = CollectiveConfig::default()
                    .with_num_devices(self.count)
                    .with_local_all_reduce_strategy(AllReduceStrategy::Centralized);
                register::<B::InnerBackend>(self.id(), device.clone(), config)?;
            }
            Ok(Membership {
                peer: self,
                leave: finish::<B>,
                fail: reset_collective::<B::InnerBackend>,
                done: false,
                marker: std::marker::PhantomData,
            })
        }
    }

    fn finish<B: MoeAutodiffBackend>(peer: Peer) {
        // At the end nobody is left to tell.
        let _ = finish_collective::<B::InnerBackend>(peer.id());
    }

    /// A device's place among the others. Dropped before [`leave`](Self::leave), it tells the others, who would wait for ever.
    pub(crate) struct Membership<B> {
        peer: Peer,
        leave: fn(Peer),
        fail: fn(),
        done: bool,
        marker: std::marker::PhantomData<fn() -> B>,
    }

    impl<B> Membership<B> {
        /// The training is over.
        pub(crate) fn leave(mut self) {
            self.done = true;
        }
    }

    impl<B> Drop for Membership<B> {
        fn drop(&mut self) {
            match (self.peer.count, self.done) {
                (1, _) => {}
                (_, true) => (self.leave)(self.peer),
                (_, false) => (self.fail)(),
            }
        }
    }
}

#[cfg(not(feature = "collective"))]
mod alone {
    use super::*;

    impl Peer {
        pub(crate) fn sum<B: MoeAutodiffBackend>(
            self,
            tensor: Tensor<B::InnerBackend, 1>,
        ) -> Result<Tensor<B::InnerBackend, 1>, TrainError> {
            Ok(tensor)
        }

        // Its other body needs the backend.
        #[allow(clippy::extra_unused_type_parameters)]
        pub(crate) fn sum_gradients<B: MoeAutodiffBackend>(
            self,
            gradients: GradientsParams,
        ) -> Result<GradientsParams, TrainError> {
            Ok(gradients)
        }

        pub(crate) fn join<B: MoeAutodiffBackend>(
            self,
            _: &B::Device,
        ) -> Result<Membership, TrainError> {
            Ok(Membership)
        }
    }

    /// The only device's place.
    pub(crate) struct Membership;

    impl Membership {
        pub(crate) fn leave(self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_all() {
        if cfg!(feature = "collective") {
            let peers = team(3, 6).unwrap();
            let shares: Vec<_> = peers.iter().map(|peer| peer.share(6)).collect();
            assert_eq!(shares, [0..2, 2..4, 4..6]);
        }
        assert_eq!(team(1, 5).unwrap(), [Peer::ALONE]);
        assert_eq!(Peer::ALONE.share(5), 0..5);
        assert!(team(2, 5).is_err());
    }
}
