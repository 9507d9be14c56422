//! Cutting documents into the parts of the splits.

use std::path::PathBuf;

use upcycle_digest::Digest;

use crate::{Split, TextConfig};

/// Where documents are cut, as shares of their bytes.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    cpt_start: f64,
    validation_start: f64,
    test_start: f64,
}

impl Shares {
    /// Those of the text to train on. What is held out in files of its own is not cut from it.
    pub(super) fn new(config: &TextConfig) -> Shares {
        let cut = |share: f64, own: &[PathBuf]| if own.is_empty() { share } else { 0.0 };
        let test_start = 1.0 - cut(config.test_share, &config.test);
        let validation_start = test_start - cut(config.validation_share, &config.validation);
        Shares {
            cpt_start: validation_start - config.cpt_share,
            validation_start,
            test_start,
        }
    }

    /// Whole documents for one split.
    pub(super) fn whole(split: Split) -> Shares {
        let after = |other: Split| if split > other { 0.0 } else { 1.0 };
        Shares {
            cpt_start: after(Split::Pretrain),
            validation_start: after(Split::Cpt),
            test_start: after(Split::Validation),
        }
    }

    /// In the order of [`Split::ALL`].
    pub(super) fn of_splits(&self) -> [f64; 4] {
        [
            self.cpt_start,
            self.validation_start - self.cpt_start,
            self.test_start - self.validation_start,
            1.0 - self.test_start,
        ]
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
    fn documents_can_go_to_one_split_whole() {
        for whole in Split::ALL {
            for split in Split::ALL {
                let part = Shares::whole(whole).part(split, "é€😀");
                assert_eq!(part, if split == whole { "é€😀" } else { "" });
            }
        }
    }

    #[test]
    fn held_out_files_leave_their_shares_to_pretraining() {
        let shares = Shares::new(&TextConfig {
            cpt_share: 0.5,
            validation_share: 0.125,
            test_share: 0.125,
            validation: vec!["held.txt".into()],
            ..TextConfig::default()
        });
        let document = "x".repeat(1000);
        let lengths = Split::ALL.map(|split| shares.part(split, &document).len());
        assert_eq!(lengths, [375, 500, 0, 125]);
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
