//! Text that is read more than once.

use upcycle_data::{Dataset, Split};
use upcycle_report::number;

/// That training reads a split more than once when it needs so many tokens of it, as a sentence; none if it does not.
pub fn note(data: &Dataset, split: Split, needed: u64) -> Option<String> {
    let there = data.tokens(split)?;
    (needed > there).then(|| {
        format!(
            "the {split} split of the data comes again after {} tokens and is read {:.1} times; more text or fewer --tokens avoid that",
            number::count(there as f64),
            needed as f64 / there as f64
        )
    })
}
