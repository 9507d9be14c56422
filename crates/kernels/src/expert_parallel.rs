//! Experts that are spread over a team: rows travel to the member that holds their expert, and outputs travel back.
//!
//! Every member holds equally many experts, in the order of ranks. A row is a token with one of its K experts. Rows are put in
//! order by selections and added up a token at a time, so results repeat.
//!
//! A fault of the team cannot be returned from a backward pass. The team keeps it, and results are zeros from then on: whoever
//! uses them asks for [`Team::fault`] first.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive, backend::Backend, ops::FloatTensor};
use upcycle_team::{Team, TeamError};

use crate::{
    ExpertWeights, MoeBackend, Precision, padded,
    traced::{BackwardFn, Traced, primitive},
};

/// Body of [`MoeBackend::expert_ffn_of_team`] without gradients.
pub(crate) fn expert_ffn<B: MoeBackend>(
    x_td: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_tk: Tensor<B, 2, Int>,
    gates_tk: Tensor<B, 2>,
    precision: Precision,
    team: &Team,
) -> Tensor<B, 2> {
    let zeros = Zeros::of(&x_td, &weights, &gates_tk);
    let output = move || {
        let routes = Routes::new(experts_tk, &weights, team)?;
        let (x_nd, gates_n1) = routes.send(x_td, gates_tk)?;
        let experts_n1 = routes.experts_n1.clone();
        routes.combine(B::expert_ffn(
            x_nd, weights, experts_n1, gates_n1, precision,
        ))
    };
    output().unwrap_or_else(|_: TeamError| zeros.output())
}

/// Body of [`MoeBackend::expert_ffn_of_team`] with the gradients of `x`, gate, up and down weights, and gates. Members have to ask
/// for the same gradients.
pub(crate) fn expert_ffn_traced<B: MoeBackend>(
    x_td: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_tk: Tensor<B, 2, Int>,
    gates_tk: Tensor<B, 2>,
    precision: Precision,
    team: &Team,
) -> Traced<B, 5> {
    let zeros = Zeros::of(&x_td, &weights, &gates_tk);
    let forward = move || {
        let routes = Routes::new(experts_tk, &weights, team)?;
        let (x_nd, gates_n1) = routes.send(x_td, gates_tk)?;
        let local = local(
            x_nd,
            weights,
            routes.experts_n1.clone(),
            gates_n1,
            precision,
        );
        let output = routes.combine(tensor(local.output))?;
        Ok::<_, TeamError>((output, routes, local.backward))
    };
    let Ok((output, routes, local)) = forward() else {
        return Traced {
            output: primitive(zeros.output()),
            backward: Arc::new(move |_: FloatTensor<B>, needed: [bool; 5]| zeros.gradients(needed)),
        };
    };
    let backward = move |dy_td: FloatTensor<B>, needed: [bool; 5]| {
        let found = routes.backward(tensor(dy_td), &*local, needed);
        found.unwrap_or_else(|_| zeros.gradients(needed))
    };
    Traced {
        output: primitive(output),
        backward: Arc::new(backward),
    }
}

/// What the backend has for the experts of this member, with its backward pass.
fn local<B: MoeBackend>(
    x_nd: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_n1: Tensor<B, 2, Int>,
    gates_n1: Tensor<B, 2>,
    precision: Precision,
) -> Traced<B, 5> {
    let traced = B::expert_ffn_traced(
        x_nd.clone(),
        weights.clone(),
        experts_n1.clone(),
        gates_n1.clone(),
        precision,
    );
    traced.unwrap_or_else(|| padded::expert_ffn(x_nd, weights, experts_n1, gates_n1, precision))
}

/// Where the routed rows of a forward pass go, and which rows come here. `S` rows are sent, `N` received.
struct Routes<B: Backend> {
    team: Team,
    /// T and K.
    shape: [usize; 2],
    /// Rows sent to each member.
    sent: Vec<usize>,
    /// Rows received from each member.
    received: Vec<usize>,
    /// Token of every sent row, `[S]`.
    token_s: Tensor<B, 1, Int>,
    /// Routed row of every sent row, `[S]`; `R` stands for a gate of 0.
    row_s: Tensor<B, 1, Int>,
    /// Place of every routed row among the sent ones, `[R]`.
    place_r: Tensor<B, 1, Int>,
    /// Expert of every received row among those of this member, `[N, 1]`.
    experts_n1: Tensor<B, 2, Int>,
}

impl<B: Backend> Routes<B> {
    /// Reads the experts back from the device, and tells the others which of theirs will get rows.
    fn new(
        experts_tk: Tensor<B, 2, Int>,
        weights: &ExpertWeights<B>,
        team: &Team,
    ) -> Result<Self, TeamError> {
        let device = experts_tk.device();
        let shape @ [t, k] = experts_tk.dims();
        let [block, _, _] = weights.gate_edf.dims();
        let experts = experts_tk.into_data();
        let experts: Vec<usize> = experts.iter::<i64>().map(|id| id as usize).collect();
        let mut rows_of = vec![Vec::new(); team.size()];
        for (row, expert) in experts.iter().enumerate() {
            rows_of[expert / block].push(row);
        }
        // Not every backend has tensors without elements: a member that would get no row gets one with a gate of 0, which adds
        // nothing to outputs and gradients.
        let nothing = experts.len();
        for rows in &mut rows_of {
            if rows.is_empty() {
                rows.push(nothing);
            }
        }
        let local = |&row: &usize| experts.get(row).map_or(0, |expert| expert % block) as i32;
        let of_member = |rows: &Vec<usize>| -> Vec<i32> { rows.iter().map(local).collect() };
        let ids = team.exchange_values(rows_of.iter().map(of_member).collect())?;

        let order = rows_of.concat();
        let mut places = vec![0; experts.len()];
        for (place, &row) in order.iter().enumerate() {
            if row != nothing {
                places[row] = place;
            }
        }
        let tokens: Vec<usize> = order.iter().map(|row| row / k % t).collect();
        let received: Vec<usize> = ids.iter().map(Vec::len).collect();
        let count: usize = received.iter().sum();
        let experts_n1 = TensorData::new(ids.concat(), [count, 1]);
        Ok(Self {
            team: team.clone(),
            shape,
            sent: rows_of.iter().map(Vec::len).collect(),
            received,
            token_s: indices(&tokens, &device),
            row_s: indices(&order, &device),
            place_r: indices(&places, &device),
            experts_n1: Tensor::from_data(experts_n1, &device),
        })
    }

    /// Sends tokens and gates to the experts, and gives what came here, `[N, D]` and `[N, 1]`.
    fn send(
        &self,
        x_td: Tensor<B, 2>,
        gates_tk: Tensor<B, 2>,
    ) -> Result<(Tensor<B, 2>, Tensor<B, 2>), TeamError> {
        let [t, k] = self.shape;
        let gate_of_nothing = Tensor::zeros([1, 1], &gates_tk.device());
        let gates = Tensor::cat(vec![gates_tk.reshape([t * k, 1]), gate_of_nothing], 0);
        let gates_s1 = gates.select(0, self.row_s.clone());
        let x_sd = x_td.select(0, self.token_s.clone());
        Ok((
            self.exchange(x_sd, &self.sent)?,
            self.exchange(gates_s1, &self.sent)?,
        ))
    }

    /// Sends outputs back to where their rows came from, and adds up those of a token, `[N, D] -> [T, D]`.
    fn combine(&self, y_nd: Tensor<B, 2>) -> Result<Tensor<B, 2>, TeamError> {
        let [t, k] = self.shape;
        let [_, d] = y_nd.dims();
        let y_rd = self.send_back(y_nd)?;
        Ok(y_rd.reshape([t, k, d]).sum_dim(1).reshape([t, d]))
    }

    /// Gradients of the arguments of [`expert_ffn`] from that of its output, `[T, D]`.
    fn backward(
        &self,
        dy_td: Tensor<B, 2>,
        local: &BackwardFn<B, 5>,
        needed: [bool; 5],
    ) -> Result<[Option<FloatTensor<B>>; 5], TeamError> {
        let dy_sd = dy_td.select(0, self.token_s.clone());
        let dy_nd = self.exchange(dy_sd, &self.sent)?;
        let [x, gate, up, down, gates] = local(primitive(dy_nd), needed);
        let x = x.map(|dx| self.combine(tensor(dx))).transpose()?;
        let gates = gates.map(|gates| self.send_back(tensor(gates)));
        let gates = gates.transpose()?.map(|gates| gates.reshape(self.shape));
        Ok([x.map(primitive), gate, up, down, gates.map(primitive)])
    }

    /// Sends rows back to where they came from, and puts those that come in the order of routed rows, `[N, C] -> [R, C]`.
    fn send_back(&self, rows_nc: Tensor<B, 2>) -> Result<Tensor<B, 2>, TeamError> {
        let rows_sc = self.exchange(rows_nc, &self.received)?;
        Ok(rows_sc.select(0, self.place_r.clone()))
    }

    /// Sends as many rows to each member, one member after the other, and gives theirs likewise.
    fn exchange(&self, rows: Tensor<B, 2>, counts: &[usize]) -> Result<Tensor<B, 2>, TeamError> {
        let device = rows.device();
        let parts = rows.split_with_sizes(counts.to_vec(), 0);
        Ok(Tensor::cat(self.team.exchange(parts, &device)?, 0))
    }
}

/// What stands for results that a team with a fault cannot compute.
struct Zeros<B: Backend> {
    x: [usize; 2],
    gate: [usize; 3],
    down: [usize; 3],
    gates: [usize; 2],
    device: B::Device,
}

impl<B: Backend> Zeros<B> {
    fn of(x_td: &Tensor<B, 2>, weights: &ExpertWeights<B>, gates_tk: &Tensor<B, 2>) -> Self {
        Self {
            x: x_td.dims(),
            gate: weights.gate_edf.dims(),
            down: weights.down_efd.dims(),
            gates: gates_tk.dims(),
            device: x_td.device(),
        }
    }

    fn output(&self) -> Tensor<B, 2> {
        Tensor::zeros(self.x, &self.device)
    }

    fn gradients(&self, [x, gate, up, down, gates]: [bool; 5]) -> [Option<FloatTensor<B>>; 5] {
        let rows = |shape: [usize; 2]| primitive(Tensor::<B, 2>::zeros(shape, &self.device));
        let weights = |shape: [usize; 3]| primitive(Tensor::<B, 3>::zeros(shape, &self.device));
        [
            x.then(|| rows(self.x)),
            gate.then(|| weights(self.gate)),
            up.then(|| weights(self.gate)),
            down.then(|| weights(self.down)),
            gates.then(|| rows(self.gates)),
        ]
    }
}

/// A float tensor of a primitive.
fn tensor<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn indices<B: Backend>(values: &[usize], device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
