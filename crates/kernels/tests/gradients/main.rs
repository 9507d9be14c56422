//! Every specialised operation against its reference body: outputs and gradients, on shapes that are not round.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod flex {
    type Inner = burn_flex::Flex;
    include!("checks.rs");
}

mod ndarray {
    type Inner = burn_ndarray::NdArray;
    include!("checks.rs");
}
