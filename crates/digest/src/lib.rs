//! Hashes of tuples: fingerprints of what results depend on, and the streams of random numbers that a seed, a purpose and
//! whatever else tells them apart lead to. Every random number of the workspace comes from such a stream, so that none
//! depends on the order in which things are computed, and no two purposes ever share one.
//!
//! ```
//! use rand_chacha::rand_core::RngCore;
//! use upcycle_digest::Digest;
//!
//! let noise = |layer| Digest::new("noise").number(7).number(layer).rng();
//! assert_eq!(noise(0).next_u64(), noise(0).next_u64());
//! assert_ne!(noise(0).next_u64(), noise(1).next_u64());
//! ```

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// A BLAKE3 hash of a sequence of fields, the same on every platform.
#[derive(Debug, Clone)]
pub struct Digest(blake3::Hasher);

impl Digest {
    /// Starts a hash. Different purposes never share a value, so that the key of one random stream is never that of
    /// another.
    pub fn new(purpose: &str) -> Self {
        let mut digest = Self(blake3::Hasher::new());
        digest.bytes(purpose.as_bytes());
        digest
    }

    /// Adds a number.
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    /// Adds a number by its bits.
    pub fn real(&mut self, value: f64) -> &mut Self {
        self.number(value.to_bits())
    }

    /// Adds bytes of any number. The length goes first, so that fields cannot run into one another.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64);
        self.0.update(value);
        self
    }

    /// 32 bytes.
    pub fn key(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    /// The same as hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }

    /// The stream of random numbers of these fields.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key())
    }

    /// A seed for whatever takes one number.
    pub fn seed(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.key();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_into_one_another() {
        let of = |fields: &[&str]| {
            let mut digest = Digest::new("test");
            for field in fields {
                digest.bytes(field.as_bytes());
            }
            digest.hex()
        };
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(Digest::new("one").key(), Digest::new("two").key());
    }
}
