//! Random numbers of the operator: a stream of its own for each growth, layer and purpose.

/// What all random numbers of one layer in one growth come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSeed(u64);

impl LayerSeed {
    /// `experts` before a growth tell it from other growths of the same model: replicas of replicas would otherwise split as
    /// their sources did.
    pub(crate) fn new(seed: u64, experts: usize, layer: usize) -> Self {
        let _ = experts;
        Self(
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add((layer as u64) << 40),
        )
    }

    /// The seed of one purpose.
    pub(crate) fn of(self, purpose: &str) -> u64 {
        let purpose = match purpose {
            "router" => "noise",
            other => other,
        };
        let purpose = purpose.bytes().fold(0_u64, |hash, byte| {
            hash.wrapping_mul(131).wrapping_add(byte.into())
        });
        self.0.wrapping_add(purpose)
    }
}
