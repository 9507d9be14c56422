//! NdArray takes the reference bodies: it is the second opinion on the specialised ones.

impl crate::MoeBackend for burn_ndarray::NdArray {}
