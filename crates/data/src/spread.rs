//! An order in which every prefix covers the whole range.

/// The `index`-th of `size` places, visited so that every place comes once and the first `n`, for
/// any `n`, lie about evenly over the whole range.
///
/// The step is about the golden ratio's share of the range, which leaves gaps of few different
/// lengths: usually up to three times their mean, and up to eight times where a small range forces
/// the step away from the ratio. `index` must be less than `size`.
pub(crate) fn spread(index: u64, size: u64) -> u64 {
    debug_assert!(index < size);
    (u128::from(index) * u128::from(step(size)) % u128::from(size)) as u64
}

/// The first number from the golden section of `size` on that shares no factor with it: only such
/// a step visits every place.
fn step(size: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let start = ((size as f64 * GOLDEN) as u64).max(1);
    (start..)
        .find(|&step| greatest_common_divisor(step, size) == 1)
        .unwrap_or(1)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_comes_once(size in 1_u64..3000) {
            let mut places: Vec<u64> = (0..size).map(|index| spread(index, size)).collect();
            places.sort_unstable();
            prop_assert!(places.into_iter().eq(0..size));
        }

        #[test]
        fn a_prefix_leaves_no_large_gap(size in 200_u64..100_000, count in 8_u64..100) {
            let mut places: Vec<u64> = (0..count).map(|index| spread(index, size)).collect();
            places.sort_unstable();
            places.push(size);
            let gap = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(size);
            prop_assert!(gap <= 8 * size / count + 1, "a gap of {gap} in {size}");
        }
    }
}
