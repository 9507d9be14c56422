//! Shuffling without storing the shuffle.

const ROUNDS: u64 = 8;

/// A keyed pseudo-random bijection of `0..size`.
///
/// A Feistel network permutes the smallest square power of two that holds `size`; results outside
/// the range are fed back until one falls inside ("cycle walking"), which keeps it a bijection.
/// The network's domain is less than four times `size` (but at least 4), so a look-up takes
/// fewer than four passes on average.
pub(crate) struct Permutation {
    keys: [u64; 4],
    half_bits: u32,
    size: u64,
}

impl Permutation {
    /// A permutation of `0..size`. `size` must be at least 1 and at most 2^62.
    pub(crate) fn new(key: [u8; 32], size: u64) -> Permutation {
        debug_assert!((1..=1 << 62).contains(&size));
        let mut keys = [0; 4];
        for (word, bytes) in keys.iter_mut().zip(key.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        Permutation {
            keys,
            half_bits: bits.div_ceil(2).max(1),
            size,
        }
    }

    /// Where `index`, which must be less than the size, goes.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.size);
        let mut value = self.network(index);
        while value >= self.size {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let key = self.keys[(round % 4) as usize].wrapping_add(round);
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_bijection(key: [u8; 32], size in 1_u64..3000) {
            let permutation = Permutation::new(key, size);
            let mut images: Vec<u64> = (0..size).map(|index| permutation.apply(index)).collect();
            images.sort_unstable();
            prop_assert!(images.into_iter().eq(0..size));
        }

        #[test]
        fn large_sizes_stay_in_range(key: [u8; 32], size in 1_u64..=1 << 62, index: u64) {
            prop_assert!(Permutation::new(key, size).apply(index % size) < size);
        }
    }

    #[test]
    fn keys_and_indices_matter() {
        let images = |key| -> Vec<u64> {
            let permutation = Permutation::new([key; 32], 1000);
            (0..1000).map(|index| permutation.apply(index)).collect()
        };
        let (one, two) = (images(1), images(2));
        let same = one.iter().zip(&two).filter(|(a, b)| a == b).count();
        let fixed = (0..1000).zip(&one).filter(|(a, b)| a == *b).count();
        assert!(
            same < 10,
            "{same} of 1000 images are the same under two keys"
        );
        assert!(fixed < 10, "{fixed} of 1000 indices stay where they are");
    }
}
