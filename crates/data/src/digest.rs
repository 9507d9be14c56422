//! Hashes of tuples: fingerprints, and the keys of random streams.

/// A blake3 hash of a sequence of fields, the same on every platform.
pub(crate) struct Digest(blake3::Hasher);

impl Digest {
    /// Starts a hash. Different purposes never share a value, so that the key of one random stream
    /// is never that of another.
    pub(crate) fn new(purpose: &str) -> Digest {
        let mut digest = Digest(blake3::Hasher::new());
        digest.bytes(purpose.as_bytes());
        digest
    }

    pub(crate) fn number(&mut self, value: u64) -> &mut Digest {
        self.0.update(&value.to_le_bytes());
        self
    }

    pub(crate) fn real(&mut self, value: f64) -> &mut Digest {
        self.number(value.to_bits())
    }

    /// Bytes of any length. The length goes first, so that fields cannot run into one another.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Digest {
        self.number(value.len() as u64);
        self.0.update(value);
        self
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    pub(crate) fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
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
