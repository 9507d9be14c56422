//! Sharing documents among the splits.

use upcycle_digest::Digest;

use super::{cut::Shares, documents::Counts};
use crate::{DataError, Split, SplitDocuments, Splitting};

/// Documents of the smallest split, on average, for documents to stay whole.
const ENOUGH: f64 = 10.0;

/// What becomes of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes to one split.
    Whole(Split),
    /// Every split gets its part.
    Cut,
}

/// How documents are shared among the splits.
///
/// # Errors
///
/// If all are to stay whole, and one is longer than the smallest split. `label` names them.
pub(super) fn splitting(
    asked: SplitDocuments,
    shares: &Shares,
    counts: &Counts,
    label: impl FnOnce() -> String,
) -> Result<Splitting, DataError> {
    let cut = shares.of_splits().into_iter().filter(|&share| share > 0.0);
    let smallest = cut.fold(1.0, f64::min);
    let limit = (smallest * counts.bytes as f64) as u64;
    let is_few = smallest * (counts.documents as f64) < ENOUGH;
    let is_long = counts.longest > limit;
    match asked {
        _ if smallest == 1.0 => Ok(Splitting::HeldOut),
        SplitDocuments::Cut => Ok(Splitting::Cut),
        SplitDocuments::Auto if is_few => Ok(Splitting::TooFew),
        SplitDocuments::Auto if is_long => Ok(Splitting::WholeUpTo(limit)),
        SplitDocuments::Whole if is_long => Err(DataError::LongDocument {
            paths: label(),
            bytes: counts.longest,
            limit,
        }),
        SplitDocuments::Auto | SplitDocuments::Whole => Ok(Splitting::Whole),
    }
}

/// The same for documents that are not read yet, of which at least so many bytes will be. There
/// are enough of them in every split if none is longer than a part of the smallest one.
pub(super) fn splitting_ahead(asked: SplitDocuments, shares: &Shares, bytes: u64) -> Splitting {
    let cut = shares.of_splits().into_iter().filter(|&share| share > 0.0);
    let smallest = cut.fold(1.0, f64::min);
    match asked {
        _ if smallest == 1.0 => Splitting::HeldOut,
        SplitDocuments::Cut => Splitting::Cut,
        SplitDocuments::Whole => Splitting::Whole,
        SplitDocuments::Auto => Splitting::WholeUpTo((smallest * bytes as f64 / ENOUGH) as u64),
    }
}

/// Deals documents to splits, in their order.
///
/// A document goes to one of the splits that have less than their share of the bytes, by a draw in
/// proportion to what they lack. So the shares are right wherever one stops, up to a document or
/// two, and no split gets every second document of text that takes turns.
pub(super) struct Dealer {
    /// In the order of [`Split::ALL`], as all four.
    shares: [f64; 4],
    /// Longer documents are cut.
    limit: u64,
    documents: u64,
    bytes: u64,
    dealt: [u64; 4],
}

impl Dealer {
    pub(super) fn new(shares: &Shares, splitting: Splitting) -> Dealer {
        Dealer {
            shares: shares.of_splits(),
            limit: splitting.longest_whole(),
            documents: 0,
            bytes: 0,
            dealt: [0; 4],
        }
    }

    /// The fate of the next document of so many bytes.
    pub(super) fn deal(&mut self, bytes: u64) -> Fate {
        if bytes > self.limit {
            return Fate::Cut;
        }
        self.bytes += bytes;
        let lacks =
            |(share, dealt): (f64, u64)| (share * self.bytes as f64 - dealt as f64).max(0.0);
        let places = self.shares.into_iter().zip(self.dealt);
        let lacks: Vec<f64> = places.map(lacks).collect();
        let mut draw = self.draw() * lacks.iter().sum::<f64>();
        self.documents += 1;
        let place = lacks.iter().position(|lack| {
            let is_it = draw < *lack;
            draw -= lack;
            is_it
        });
        // None only where rounding leaves the last draw beyond all of them.
        let place = place.unwrap_or(0);
        self.dealt[place] += bytes;
        Fate::Whole(Split::ALL[place])
    }

    /// A number from 0 to 1, another one for each document.
    fn draw(&self) -> f64 {
        let seed = Digest::new("upcycle-data dealt document 1")
            .number(self.documents)
            .seed();
        (seed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::TextConfig;

    fn counts(documents: u64, bytes: u64, longest: u64) -> Counts {
        Counts {
            files: 1,
            documents,
            nulls: 0,
            bytes,
            longest,
        }
    }

    #[test]
    fn documents_stay_whole_where_there_are_enough() {
        let shares = Shares::new(&TextConfig::default());
        let of = |asked, counts: Counts| splitting(asked, &shares, &counts, || "a.txt".into());
        let auto = |counts| of(SplitDocuments::Auto, counts).unwrap();
        assert_eq!(auto(counts(1, 1000, 1000)), Splitting::TooFew);
        assert_eq!(auto(counts(500, 100_000, 2000)), Splitting::Whole);
        assert_eq!(auto(counts(500, 100_000, 4000)), Splitting::WholeUpTo(2500));
        assert_eq!(
            of(SplitDocuments::Cut, counts(500, 100_000, 2000)).unwrap(),
            Splitting::Cut
        );
        let error = of(SplitDocuments::Whole, counts(500, 100_000, 4000)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("4000") && error.contains("a.txt"), "{error}");
        let held_out = Shares::whole(Split::Test);
        let held_out = splitting(
            SplitDocuments::Whole,
            &held_out,
            &counts(1, 9, 9),
            String::new,
        );
        assert_eq!(held_out.unwrap(), Splitting::HeldOut);
        assert_eq!(
            splitting_ahead(SplitDocuments::Auto, &shares, 100_000),
            Splitting::WholeUpTo(250)
        );
    }

    #[test]
    fn dealt_documents_have_the_shares_and_no_pattern() {
        let shares = Shares::new(&TextConfig::default());
        let mut dealer = Dealer::new(&shares, Splitting::WholeUpTo(500));
        let mut bytes = [0.0; 4];
        let mut even = 0;
        for document in 0..1000 {
            let length = if document % 2 == 0 { 100 } else { 110 };
            let Fate::Whole(split) = dealer.deal(length) else {
                panic!("a short document is cut");
            };
            bytes[split as usize] += length as f64 / 105_000.0;
            even += usize::from(split == Split::Pretrain && document % 2 == 0);
        }
        for (bytes, share) in bytes.into_iter().zip([0.475, 0.475, 0.025, 0.025]) {
            assert!((bytes - share).abs() < 0.005, "{bytes} of {share}");
        }
        assert!((180..300).contains(&even), "{even}");
        assert_eq!(dealer.deal(501), Fate::Cut);
    }
}
