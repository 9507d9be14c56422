//! SwiGLU experts, stacked: one parameter a matrix.

use std::ops::Range;

use burn::{
    module::{Module, Param, ParamId},
    tensor::{Tensor, TensorData, backend::Backend},
};
use thiserror::Error;
use upcycle_kernels::{ExpertWeights, MoeBackend, Precision};
use upcycle_team::{Team, TeamError};

use crate::{init::Initializer, router::Routing};

/// The experts of a layer, or a block of them. Growing, moments and norms of one expert are slices along the first axis.
#[derive(Module, Debug)]
pub struct Experts<B: Backend> {
    /// Gate projections, `[E, D, F]`.
    pub gate_edf: Param<Tensor<B, 3>>,
    /// Up projections, `[E, D, F]`.
    pub up_edf: Param<Tensor<B, 3>>,
    /// Down projections, `[E, F, D]`.
    pub down_efd: Param<Tensor<B, 3>>,
    /// The devices that the layer's experts are spread over, equally many consecutive ones on each in the order of ranks;
    /// [alone](Team::alone) where all of them are here. All have to run the layer equally often, each on at least one token.
    #[module(skip)]
    pub team: Team,
}

/// Experts that cannot be spread over a team of devices.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ShardError(pub String);

impl<B: Backend> Experts<B> {
    /// Experts with fan-in scaled normal weights, of which this member of the team has its own; the down projections are scaled
    /// by `residual_scale` more. E is the number of all experts, a multiple of the team's size.
    pub fn init(
        name: &str,
        [e, d, f]: [usize; 3],
        residual_scale: f32,
        initializer: &Initializer,
        team: &Team,
        device: &B::Device,
    ) -> Self {
        let own = block(team, e / team.size());
        let normal = |part: &str, shape: [usize; 3], scale: f32| {
            let std = scale * (shape[1] as f32).powf(-0.5);
            let name = format!("{name}.{part}");
            initializer.normal_rows(&name, shape, std, own.clone(), device)
        };
        Self {
            gate_edf: normal("gate", [e, d, f], 1.0),
            up_edf: normal("up", [e, d, f], 1.0),
            down_efd: normal("down", [e, f, d], residual_scale),
            team: team.clone(),
        }
    }

    /// Number of experts of the layer, here and on the other devices of the team.
    pub fn count(&self) -> usize {
        self.gate_edf.dims()[0] * self.team.size()
    }

    /// Which experts of the layer are here.
    pub fn block(&self) -> Range<usize> {
        block(&self.team, self.gate_edf.dims()[0])
    }

    /// Ids of the three matrices.
    pub fn ids(&self) -> [ParamId; 3] {
        [self.gate_edf.id, self.up_edf.id, self.down_efd.id]
    }

    /// Whether these experts can be spread over a team.
    ///
    /// # Errors
    /// If they are already, or there are not equally many for each device.
    pub(crate) fn check_shard(&self, team: &Team) -> Result<(), ShardError> {
        if self.team.size() > 1 {
            return Err(ShardError(format!(
                "the experts are spread over {} devices already; load the model again to spread them anew",
                self.team.size()
            )));
        }
        check_blocks(self.count(), team)
    }

    /// Keeps those experts alone that this member of the team is to hold.
    pub(crate) fn shard(&mut self, team: Team) {
        let own = block(&team, self.count() / team.size());
        if team.size() > 1 {
            for weight in [&mut self.gate_edf, &mut self.up_edf, &mut self.down_efd] {
                keep(weight, own.clone());
            }
        }
        self.team = team;
    }

    /// Inner products of the weights of every two experts of the layer, all three matrices together, `[E, E]`. All devices of a
    /// team have to call it, and get the same; after a fault of the team, which [`Team::fault`] tells, zeros.
    pub fn inner_products(&self) -> Tensor<B, 2> {
        let zeros = |_: TeamError| Tensor::zeros([self.count(); 2], &self.gate_edf.device());
        self.products_of_team().unwrap_or_else(zeros)
    }

    /// The experts of one device at a time, so that never more than two blocks of a matrix are here.
    fn products_of_team(&self) -> Result<Tensor<B, 2>, TeamError> {
        let (team, device) = (&self.team, self.gate_edf.device());
        let (rank, size) = (team.rank(), team.size());
        // Without their gradients: autodiff would tie the devices' graphs together.
        let own: [Tensor<B, 2>; 3] = [&self.gate_edf, &self.up_edf, &self.down_efd]
            .map(|weight| weight.val().detach().flatten(1, 2));
        let [e, _] = own[0].dims();
        let mut products_ee = Vec::with_capacity(size);
        for step in 0..size {
            let (to, from) = ((rank + size - step) % size, (rank + step) % size);
            let mut sum_ee = Tensor::<B, 2>::zeros([e, e], &device);
            for own_en in &own {
                let other_en = match step {
                    0 => own_en.clone(),
                    _ => {
                        team.send_tensor(to, own_en.clone())?;
                        team.receive_tensor(from, &device)?
                    }
                };
                sum_ee = sum_ee + own_en.clone().matmul(other_en.transpose());
            }
            products_ee.push(sum_ee);
        }
        products_ee.rotate_right(rank);
        let own_rows = Tensor::cat(products_ee, 1);
        if size == 1 {
            return Ok(own_rows);
        }
        let own_rows: Vec<f32> = own_rows.into_data().iter().collect();
        let rows = team.gather_values(&own_rows)?.concat();
        let data = TensorData::new(rows, [self.count(); 2]);
        Ok(Tensor::from_data(data, &device))
    }
}

impl<B: MoeBackend> Experts<B> {
    /// The weighted sum of each token's experts, `[T, D] -> [T, D]`.
    pub fn forward(
        &self,
        x_td: Tensor<B, 2>,
        routing: &Routing<B>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let weights = ExpertWeights {
            gate_edf: self.gate_edf.val(),
            up_edf: self.up_edf.val(),
            down_efd: self.down_efd.val(),
        };
        B::expert_ffn_of_team(
            x_td,
            weights,
            routing.experts_tk.clone(),
            routing.gates_tk.clone(),
            precision,
            &self.team,
        )
    }
}

/// Whether each device of a team can have equally many of so many experts.
///
/// # Errors
/// If not, with what would be right.
pub fn check_blocks(experts: usize, team: &Team) -> Result<(), ShardError> {
    match experts.is_multiple_of(team.size()) {
        true => Ok(()),
        false => Err(ShardError(format!(
            "{experts} experts cannot be spread equally over {} devices; choose a number of devices that divides {experts}",
            team.size()
        ))),
    }
}

/// The experts of this member of a team of which each member has so many.
fn block(team: &Team, each: usize) -> Range<usize> {
    team.rank() * each..(team.rank() + 1) * each
}

/// Keeps some rows of a parameter, with its id and whether it is trained.
fn keep<B: Backend>(parameter: &mut Param<Tensor<B, 3>>, rows: Range<usize>) {
    let trained = parameter.is_require_grad();
    let rows = parameter.val().detach().narrow(0, rows.start, rows.len());
    // Through the host: a part of a tensor would keep the whole in memory.
    let value = Tensor::<B, 3>::from_data(rows.into_data(), &parameter.device());
    *parameter = Param::initialized(parameter.id, value.set_require_grad(trained));
}
