//! Small draws.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

/// A random number less than `bound`, which must be at least 1 and at most 2^32. The bias is less
/// than `bound` in 2^32.
pub(crate) fn below(bound: usize, rng: &mut ChaCha8Rng) -> u32 {
    ((u64::from(rng.next_u32()) * bound as u64) >> 32) as u32
}

/// Puts random entries first: the first `count` are then a uniformly random choice in random
/// order.
pub(crate) fn shuffle<T>(entries: &mut [T], count: usize, rng: &mut ChaCha8Rng) {
    for place in 0..count.min(entries.len()) {
        let other = place + below(entries.len() - place, rng) as usize;
        entries.swap(place, other);
    }
}

#[cfg(test)]
mod tests {
    use upcycle_digest::Digest;

    use super::*;

    #[test]
    fn shuffling_loses_nothing_and_moves_most() {
        let mut rng = Digest::new("test").rng();
        let mut entries: Vec<u32> = (0..100).collect();
        shuffle(&mut entries, 100, &mut rng);
        assert!((0..100).zip(&entries).filter(|(a, b)| a == *b).count() < 10);
        entries.sort_unstable();
        assert!(entries.into_iter().eq(0..100));
        shuffle::<u32>(&mut [], 3, &mut rng);
    }
}
