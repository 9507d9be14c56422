//! The matrices of an expert, however they are stored.

use crate::{
    checkpoint::HfCheckpoint,
    error::HfError,
    layout::{Fused, Matrix, Orientation, Stacking},
    moe::MoeLayer,
};

impl HfCheckpoint {
    /// Gate, up and down of an expert in f32, as `[D, F]`, `[D, F]` and `[F, D]`, with D and F.
    ///
    /// # Errors
    /// If they are not plain matrices of floats.
    pub(crate) fn expert(
        &self,
        layer: &MoeLayer,
        expert: usize,
    ) -> Result<([Vec<f32>; 3], [usize; 2]), HfError> {
        let layout = self.storage(layer);
        let [d, f] = self.expert_shape(layer, expert)?;
        let (mut gate, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
        for part in layout.names() {
            let values = self.expert_matrix(layer, expert, part)?;
            match layout.matrix(part) {
                Some(Matrix::Gate) => gate = values,
                Some(Matrix::Up) => up = values,
                Some(Matrix::Down) => down = values,
                Some(Matrix::GateUp(fused)) => [gate, up] = fused.apart(&values, f),
                None => {}
            }
        }
        if !layout.has_gate() {
            // Nothing of it is written.
            gate.clone_from(&up);
        }
        Ok(([gate, up, down], [d, f]))
    }

    /// The gate (0), up (1) or down (2) projections of all experts of a layer in f32, one after the other, as `[D, F]`, `[D, F]`
    /// or `[F, D]`.
    ///
    /// # Errors
    /// If experts are not plain matrices of floats of these sizes, or have no gate projection.
    pub(crate) fn stacked(
        &self,
        layer: &MoeLayer,
        matrix: usize,
        shape: [usize; 2],
    ) -> Result<Vec<f32>, HfError> {
        let layout = self.storage(layer);
        let wanted = [Matrix::Gate, Matrix::Up, Matrix::Down][matrix];
        let parts = || layout.names();
        let is_fused = |part: &&str| matches!(layout.matrix(part), Some(Matrix::GateUp(_)));
        let part = parts().find(|part| layout.matrix(part) == Some(wanted));
        let Some(part) = part.or_else(|| parts().find(is_fused)) else {
            let problem = format!(
                "experts of layer {} have no gate projection, which models here have",
                layer.layer
            );
            return Err(HfError::file(&self.dir, problem));
        };
        let mut all = Vec::with_capacity(layer.experts * shape[0] * shape[1]);
        for expert in 0..layer.experts {
            let [d, f] = self.expert_shape(layer, expert)?;
            let found = if wanted == Matrix::Down {
                [f, d]
            } else {
                [d, f]
            };
            if found != shape {
                let name = layout.tensors.name(layer.place(Some(expert), part));
                let problem = format!("makes {found:?} of an expert, not {shape:?}");
                return Err(self.fault(&name, problem));
            }
            let values = self.expert_matrix(layer, expert, part)?;
            match layout.matrix(part) {
                Some(Matrix::GateUp(fused)) => all.extend(&fused.apart(&values, f)[matrix]),
                _ => all.extend(values),
            }
        }
        Ok(all)
    }

    /// Whether the matrices of all experts of a layer are floats of the same shape.
    pub(crate) fn check_experts(&self, layer: &MoeLayer, experts: usize) -> Result<(), HfError> {
        let first = self.expert_shape(layer, 0)?;
        for expert in 1..experts {
            let shape = self.expert_shape(layer, expert)?;
            if shape != first {
                let problem = format!(
                    "expert {expert} of layer {} has D and F {shape:?}, expert 0 {first:?}",
                    layer.layer
                );
                return Err(HfError::file(&self.dir, problem));
            }
        }
        Ok(())
    }

    /// D and F of an expert, whose matrices must be floats and fit each other.
    fn expert_shape(&self, layer: &MoeLayer, expert: usize) -> Result<[usize; 2], HfError> {
        let layout = self.storage(layer);
        let mut shape = None;
        for part in layout.names() {
            let name = layout.tensors.name(layer.place(Some(expert), part));
            if !self.tensors.contains_key(&name) {
                let problem = format!(
                    "is not there: experts are stored as {}, which cannot be computed with; use `experts.kind` = `copy`",
                    layer.parts.join(", ")
                );
                return Err(self.fault(&name, problem));
            }
            self.check_float(&name)?;
            let [inputs, outputs] = self.matrix_shape(layer, part, &name)?;
            let own = match layout.matrix(part) {
                Some(Matrix::Down) => [outputs, inputs],
                Some(Matrix::GateUp(_)) if outputs.is_multiple_of(2) => [inputs, outputs / 2],
                Some(Matrix::GateUp(_)) => [inputs, 0],
                _ => [inputs, outputs],
            };
            if own.contains(&0) || shape.is_some_and(|shape| shape != own) {
                let found = &self.tensor(&name)?.shape;
                let problem =
                    format!("has shape {found:?}, which does not fit the expert's other matrices");
                return Err(self.fault(&name, problem));
            }
            shape = Some(own);
        }
        shape.ok_or_else(|| HfError::file(&self.dir, "its layout names no matrix of experts"))
    }

    /// Inputs and outputs of a matrix of an expert.
    fn matrix_shape(
        &self,
        layer: &MoeLayer,
        part: &str,
        name: &str,
    ) -> Result<[usize; 2], HfError> {
        let layout = self.storage(layer);
        let tensor = self.tensor(name)?;
        let [rows, columns] = match (layout.stacking(), tensor.shape.as_slice()) {
            (Stacking::Separate, &[rows, columns]) => [rows, columns],
            (Stacking::Stacked, &[_, rows, columns]) if layout.axis == 0 => [rows, columns],
            (Stacking::Flat, &[rows, columns]) => [rows / layer.experts.max(1), columns],
            _ => {
                let problem = format!(
                    "has shape {:?}, which is not that of a matrix an expert",
                    tensor.shape
                );
                return Err(self.fault(name, problem));
            }
        };
        Ok(match self.orientation(layer, part) {
            Orientation::InOut => [rows, columns],
            Orientation::OutIn => [columns, rows],
        })
    }

    fn orientation(&self, layer: &MoeLayer, part: &str) -> Orientation {
        let layout = self.storage(layer);
        let matrix = layout.matrix(part).unwrap_or(Matrix::Up);
        layout.orientation(matrix)
    }

    /// A matrix of an expert as `[inputs, outputs]`.
    fn expert_matrix(
        &self,
        layer: &MoeLayer,
        expert: usize,
        part: &str,
    ) -> Result<Vec<f32>, HfError> {
        let layout = self.storage(layer);
        let name = layout.tensors.name(layer.place(Some(expert), part));
        let [inputs, outputs] = self.matrix_shape(layer, part, &name)?;
        let size = (inputs * outputs) as u64;
        let start = match layout.stacking() {
            Stacking::Separate => 0,
            Stacking::Stacked | Stacking::Flat => expert as u64 * size,
        };
        let values = self.float_range(&name, start, size)?;
        Ok(match self.orientation(layer, part) {
            Orientation::InOut => values,
            Orientation::OutIn => transpose(&values, [outputs, inputs]),
        })
    }
}

impl Fused {
    /// Gate and up, `[D, F]` each, of both in one, `[D, 2 F]`.
    fn apart(self, values: &[f32], f: usize) -> [Vec<f32>; 2] {
        let (second, step) = match self {
            Self::Halves => (f, 1),
            Self::Interleaved => (1, 2),
        };
        [0, second].map(|first| {
            let rows = values.chunks_exact(2 * f);
            let taken = rows.flat_map(|row| row[first..].iter().step_by(step).take(f));
            taken.copied().collect()
        })
    }
}

/// `[rows, columns] -> [columns, rows]`.
pub(crate) fn transpose(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let mut result = vec![0.0; rows * columns];
    if columns > 0 {
        for (r, row) in values.chunks_exact(columns).enumerate() {
            for (c, &value) in row.iter().enumerate() {
                result[c * rows + r] = value;
            }
        }
    }
    result
}
