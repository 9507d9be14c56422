//! What fields of a configuration must be.

use crate::DataError;

pub(crate) fn require(
    holds: bool,
    field: &'static str,
    value: impl ToString,
    requirement: &'static str,
) -> Result<(), DataError> {
    if holds {
        return Ok(());
    }
    Err(DataError::Field {
        field,
        value: value.to_string(),
        requirement,
    })
}
