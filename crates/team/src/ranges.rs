//! Even shares.

use std::ops::Range;

/// `0..elements`, cut for as many members in ranges whose lengths differ by one at most, the longer ones first. With fewer
/// elements than members, the last ranges are empty.
pub fn even_ranges(elements: usize, members: usize) -> Vec<Range<usize>> {
    let each = elements / members.max(1);
    let longer = elements - each * members;
    let start = |member: usize| member * each + member.min(longer);
    (0..members)
        .map(|member| start(member)..start(member + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_even_and_all() {
        assert_eq!(even_ranges(8, 3), [0..3, 3..6, 6..8]);
        assert_eq!(even_ranges(2, 3), [0..1, 1..2, 2..2]);
        assert!(even_ranges(5, 0).is_empty());
    }
}
