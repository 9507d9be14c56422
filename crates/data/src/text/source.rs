//! Text that is packed together.

use upcycle_digest::Digest;

use super::{
    cut::Shares,
    deal::{Dealer, Fate, splitting},
    documents::{Counts, Documents},
    tokenizer::Recipe,
};
use crate::{DataError, Split, SplitDocuments, Splitting, watch::Watch};

/// Documents, how the splits share them, and what they are to be known by.
pub(super) struct Source {
    pub(super) documents: Documents,
    pub(super) counts: Counts,
    pub(super) splitting: Splitting,
    shares: Shares,
    /// The hash of shares and tokenizer, to which documents are added.
    begun: Digest,
    /// The hash with all documents.
    hash: String,
    fingerprint: String,
}

impl Source {
    /// Reads all documents once, to know them.
    pub(super) fn read(
        documents: Documents,
        shares: Shares,
        asked: SplitDocuments,
        recipe: &Recipe,
        watch: &Watch<'_>,
    ) -> Result<Source, DataError> {
        let mut begun = Digest::new("upcycle-data text corpus 2");
        shares.hash_into(&mut begun);
        recipe.hash_into(&mut begun);
        let mut digest = begun.clone();
        let counts = documents.hash_into(&mut digest, watch)?;
        let splitting = splitting(asked, &shares, &counts, || documents.label())?;
        let hash = digest.hex();
        let fingerprint = match splitting {
            Splitting::HeldOut | Splitting::Cut | Splitting::TooFew => hash.clone(),
            // How long a document may be follows from all of them.
            Splitting::Whole | Splitting::WholeUpTo(_) => {
                let mut digest = Digest::new("upcycle-data text of whole documents 1");
                digest.bytes(hash.as_bytes()).hex()
            }
        };
        Ok(Source {
            documents,
            counts,
            splitting,
            shares,
            begun,
            hash,
            fingerprint,
        })
    }

    /// A hash of all that determines the tokens, if a tokenizer that is trained is trained on this
    /// text alone. Where the files lie is not part of it.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Every document for `visit`, with what becomes of it.
    ///
    /// # Errors
    ///
    /// Those of `visit`, or if the documents are not those that were read at first.
    pub(super) fn visit(
        &self,
        watch: &Watch<'_>,
        mut visit: impl FnMut(String, Fate) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut digest = self.begun.clone();
        let mut dealer = self.dealer();
        for document in self.documents.iter(watch) {
            let document = document?;
            digest.bytes(document.as_bytes());
            let fate = dealer.deal(document.len() as u64);
            visit(document, fate)?;
        }
        if digest.hex() == self.hash {
            return Ok(());
        }
        Err(DataError::Changing {
            paths: self.documents.label(),
        })
    }

    /// What a trained tokenizer may see of the documents.
    pub(super) fn pretraining_texts<'a>(
        &'a self,
        watch: &'a Watch<'a>,
    ) -> impl Iterator<Item = Result<String, DataError>> + Send {
        let mut dealer = self.dealer();
        self.documents.iter(watch).map(move |document| {
            document.map(|document| {
                let fate = dealer.deal(document.len() as u64);
                self.part(Split::Pretrain, &document, fate).to_owned()
            })
        })
    }

    /// What a split gets of a document; empty where that is nothing.
    pub(super) fn part<'a>(&self, split: Split, document: &'a str, fate: Fate) -> &'a str {
        match fate {
            Fate::Cut => self.shares.part(split, document),
            Fate::Whole(own) if own == split => document,
            Fate::Whole(_) => "",
        }
    }

    fn dealer(&self) -> Dealer {
        Dealer::new(&self.shares, self.splitting)
    }
}
