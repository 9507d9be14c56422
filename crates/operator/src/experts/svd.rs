//! Matrices changed through their singular value decomposition.

use faer::{Mat, MatMut, MatRef, linalg::solvers::Solve};
use rand::Rng;

use super::{matrix::Matrix, noise::normal};

/// `U S V^T`, singular values in descending order.
struct Svd {
    u: Mat<f32>,
    s: Vec<f32>,
    v: Mat<f32>,
}

impl Matrix<'_> {
    fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(self.values, self.rows, self.columns)
    }

    /// None where the iteration does not converge, as for weights that are not finite.
    fn svd(&self) -> Option<Svd> {
        let svd = self.view().thin_svd().ok()?;
        Some(Svd {
            u: svd.U().to_owned(),
            s: svd.S().column_vector().iter().copied().collect(),
            v: svd.V().to_owned(),
        })
    }
}

/// Noise on singular values, rotations of singular vectors, and small components dropped; false for a matrix that cannot be
/// decomposed, which stays as it is.
///
/// The rotations are near the identity, so every vector keeps its sign and its partner on the other side.
pub(crate) fn perturb(
    to: &mut [f32],
    matrix: Matrix,
    [values, vectors, drop]: [f32; 3],
    rng: &mut impl Rng,
) -> bool {
    let Some(mut svd) = matrix.svd() else {
        return false;
    };
    let components = svd.s.len();
    let kept = components - (drop * components as f32).round() as usize;
    for (component, value) in svd.s.iter_mut().enumerate() {
        let noise = normal(rng);
        *value = if component < kept {
            *value * (1.0 + values * noise)
        } else {
            0.0
        };
    }
    if vectors > 0.0 {
        svd.u = &svd.u * rotation(components, vectors, rng);
        svd.v = &svd.v * rotation(components, vectors, rng);
    }
    write(to, matrix, &scaled(&svd.u, &svd.s) * svd.v.transpose());
    true
}

/// The leading components of `own`, and of the neighbour the trailing share `weight`; false where one of them cannot be
/// decomposed.
pub(super) fn mix(to: &mut [f32], own: Matrix, neighbour: Matrix, weight: f32) -> bool {
    let (Some(mut own_svd), Some(mut other)) = (own.svd(), neighbour.svd()) else {
        return false;
    };
    let components = own_svd.s.len();
    let kept = components - (weight * components as f32).round() as usize;
    own_svd.s[kept..].fill(0.0);
    other.s[..kept].fill(0.0);
    let mixed = &scaled(&own_svd.u, &own_svd.s) * own_svd.v.transpose()
        + &scaled(&other.u, &other.s) * other.v.transpose();
    write(to, own, mixed);
    true
}

/// The columns of `u`, each times its singular value.
fn scaled(u: &Mat<f32>, s: &[f32]) -> Mat<f32> {
    Mat::from_fn(u.nrows(), u.ncols(), |row, column| {
        u[(row, column)] * s[column]
    })
}

/// A random rotation of `n` axes by angles of about `angle` radians: the Cayley transform `(I + A)^-1 (I - A)` of a
/// skew-symmetric matrix, which is orthogonal for every A and the identity for A = 0.
fn rotation(n: usize, angle: f32, rng: &mut impl Rng) -> Mat<f32> {
    let scale = angle / 2.0 / (n as f32).sqrt();
    let mut skew = Mat::<f32>::zeros(n, n);
    for row in 0..n {
        for column in 0..row {
            let value = scale * normal(rng);
            skew[(row, column)] = value;
            skew[(column, row)] = -value;
        }
    }
    let identity = Mat::<f32>::identity(n, n);
    (&identity + &skew)
        .partial_piv_lu()
        .solve(&identity - &skew)
}

fn write(to: &mut [f32], shape: Matrix, values: Mat<f32>) {
    MatMut::from_row_major_slice_mut(to, shape.rows, shape.columns).copy_from(&values);
}
