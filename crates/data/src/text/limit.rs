//! How much of a data set of the hub is packed.

use super::cut::Shares;
use crate::{Split, TextConfig};

/// Tokens that a split must hold in any case: validation is cut from the same documents, and is a small part of them.
pub(super) const LEAST: u64 = 1 << 18;

/// Beyond what was asked for, as the sources of a mixture end with a row that is not full.
const SPARE: u64 = 1 << 14;

/// Tokens that are enough of each split, in the order of [`Split::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit([u64; 4]);

impl Limit {
    /// Of a source that gives a share of the tokens of training; none if all of its text is wanted.
    pub(super) fn of_training(config: &TextConfig, share: f64) -> Option<Limit> {
        let tokens = enough(config.hub_tokens?, share);
        Some(Limit([tokens, tokens, 0, 0]))
    }

    /// Of text that is held out whole: as much as documents that are cut would give.
    pub(super) fn of_held_out(config: &TextConfig, split: Split) -> Option<Limit> {
        let share = match split {
            Split::Test => config.test_share,
            _ => config.validation_share,
        };
        let tokens = enough(config.hub_tokens?, share / config.cpt_share);
        let of = |other: Split| if other == split { tokens } else { 0 };
        Some(Limit(Split::ALL.map(of)))
    }

    pub(super) fn tokens(&self) -> [u64; 4] {
        self.0
    }

    /// Bytes of documents that must follow before splits that hold so many tokens hold enough, as a token is a byte at
    /// least; 0 if they do.
    pub(super) fn missing_bytes(&self, held: [u64; 4], shares: &Shares) -> u64 {
        let splits = shares.of_splits().into_iter().zip(self.0).zip(held);
        let missing = splits.map(|((share, wanted), held)| {
            let tokens = wanted.saturating_sub(held);
            match tokens {
                0 => 0,
                tokens => ((tokens as f64 / share) as u64).max(1),
            }
        });
        missing.max().unwrap_or(0)
    }
}

fn enough(tokens: u64, share: f64) -> u64 {
    let tokens = (tokens as f64 * share).ceil() as u64;
    tokens.saturating_add(SPARE).max(LEAST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn config(hub_tokens: Option<u64>) -> TextConfig {
        TextConfig {
            hub_tokens,
            ..TextConfig::default()
        }
    }

    #[test]
    fn a_source_holds_its_share_and_no_less_than_validation_needs() {
        let of = |tokens, share| Limit::of_training(&config(Some(tokens)), share).map(|it| it.0);
        assert_eq!(of(1_000_000, 0.5), Some([516_384, 516_384, 0, 0]));
        assert_eq!(of(1_000, 0.5), Some([LEAST, LEAST, 0, 0]));
        assert_eq!(Limit::of_training(&config(None), 1.0), None);
        let held_out = Limit::of_held_out(&config(Some(190_000_000)), Split::Test);
        assert_eq!(held_out.unwrap().0, [0, 0, 0, 10_000_000 + SPARE]);
    }

    #[test]
    fn what_is_missing_is_of_the_split_that_is_furthest_behind() {
        let config = config(Some(1_000_000));
        let shares = Shares::new(&config);
        let limit = Limit::of_training(&config, 1.0).unwrap();
        let [wanted, ..] = limit.tokens();
        let missing = |pretrain, cpt| limit.missing_bytes([pretrain, cpt, 0, 0], &shares);
        assert_eq!(missing(wanted, wanted), 0);
        assert!((999..=1001).contains(&missing(wanted, wanted - 475)));
        assert!(missing(0, wanted) > 2 * wanted);
    }
}
