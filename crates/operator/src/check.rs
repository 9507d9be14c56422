//! Checks of a recipe's fields.

/// A field with an impossible value, and what would be right.
pub(crate) type Fault = (&'static str, &'static str);

pub(crate) fn that(holds: bool, field: &'static str, problem: &'static str) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err((field, problem)) }
}

pub(crate) fn not_negative(field: &'static str, value: f32) -> Result<(), Fault> {
    let holds = value.is_finite() && value >= 0.0;
    that(holds, field, "must be zero or a positive number")
}

pub(crate) fn positive(field: &'static str, value: f32) -> Result<(), Fault> {
    let holds = value.is_finite() && value > 0.0;
    that(holds, field, "must be a positive number")
}

pub(crate) fn share(field: &'static str, value: f32) -> Result<(), Fault> {
    let holds = (0.0..=1.0).contains(&value);
    that(holds, field, "must lie between 0 and 1")
}

pub(crate) fn below_one(field: &'static str, value: f32) -> Result<(), Fault> {
    let holds = (0.0..1.0).contains(&value);
    that(holds, field, "must be at least 0 and below 1")
}

pub(crate) fn at_least_one(field: &'static str, value: usize) -> Result<(), Fault> {
    that(value > 0, field, "must be at least 1")
}
