//! Every operation against a plain implementation in `f64`.

mod attention;
mod cross_entropy;
mod elementwise;
mod expert_ffn;
mod linear;
mod parallel;

/// Small generator of test data (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// In -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub(crate) fn ids(&mut self, n: usize, end: usize) -> Vec<i32> {
        (0..n).map(|_| self.below(end) as i32).collect()
    }
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Root of summed squared differences over that of the expected values.
#[track_caller]
pub(crate) fn assert_close(name: &str, actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{name}: length");
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, e) in actual.iter().zip(expected) {
        difference += (f64::from(*a) - e).powi(2);
        norm += e * e;
    }
    let error = (difference / norm.max(1e-30)).sqrt();
    assert!(
        error <= 5e-6 || difference.sqrt() < 1e-12,
        "{name}: relative error {error:e}"
    );
    let largest = expected.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let off = (f64::from(*a) - e).abs();
        assert!(
            off <= 1e-4 * largest.max(1e-8),
            "{name}[{i}]: {a} instead of {e}"
        );
    }
}

/// The same results for one and for three threads.
pub(crate) fn same_for_any_threads(run: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&run)
    };
    let one: Vec<Vec<u32>> = bits(with(1));
    assert!(one == bits(with(3)), "depends on the number of threads");
    assert!(one == bits(with(2)), "depends on the number of threads");
}

fn bits(all: Vec<Vec<f32>>) -> Vec<Vec<u32>> {
    all.into_iter()
        .map(|x| x.into_iter().map(f32::to_bits).collect())
        .collect()
}
