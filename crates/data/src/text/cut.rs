//! Cutting documents into the parts of the splits.

use upcycle_digest::Digest;

use crate::{Split, TextConfig};

/// Where documents are cut, as shares of their bytes.
pub(super) struct Shares {
    cpt_start: f64,
    validation_start: f64,
    test_start: f64,
}

impl Shares {
    pub(super) fn new(config: &TextConfig) -> Shares {
        let test_start = 1.0 - config.test_share;
        let validation_start = test_start - config.validation_share;
        Shares {
            cpt_start: validation_start - config.cpt_share,
            validation_start,
            test_start,
        }
    }

    pub(super) fn hash_into(&self, digest: &mut Digest) {
        digest
            .real(self.cpt_start)
            .real(self.validation_start)
            .real(self.test_start);
    }

    /// The part of a document that belongs to a split, empty where the document is too short to
    /// have one. Cuts fall between characters, so that every part is text.
    pub(super) fn part<'a>(&self, split: Split, document: &'a str) -> &'a str {
        let place =
            |share: f64| document.floor_char_boundary((document.len() as f64 * share) as usize);
        match split {
            Split::Pretrain => &document[..place(self.cpt_start)],
            Split::Cpt => &document[place(self.cpt_start)..place(self.validation_start)],
            Split::Validation => &document[place(self.validation_start)..place(self.test_start)],
            Split::Test => &document[place(self.test_start)..],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(cpt_share: f64, validation_share: f64, test_share: f64) -> Shares {
        Shares::new(&TextConfig {
            cpt_share,
            validation_share,
            test_share,
            ..TextConfig::default()
        })
    }

    #[test]
    fn parts_have_their_shares() {
        let document = "x".repeat(1000);
        let lengths =
            Split::ALL.map(|split| shares(0.5, 0.125, 0.125).part(split, &document).len());
        assert_eq!(lengths, [250, 500, 125, 125]);
    }

    #[test]
    fn cuts_do_not_split_characters() {
        let shares = shares(0.3, 0.15, 0.15);
        for split in Split::ALL {
            assert_eq!(shares.part(split, ""), "");
        }
        assert_eq!(shares.part(Split::Pretrain, "é€😀"), "é");
        assert_eq!(shares.part(Split::Test, "é€😀"), "😀");
    }

    proptest! {
        #[test]
        fn parts_follow_one_another_and_make_the_document(
            document: String,
            cpt in 0.001_f64..0.5,
            validation in 0.001_f64..0.25,
            test in 0.001_f64..0.249,
        ) {
            let shares = shares(cpt, validation, test);
            let parts = Split::ALL.map(|split| shares.part(split, &document));
            prop_assert_eq!(parts.concat(), document);
        }
    }
}
