//! Text that is packed together.

use std::ops::ControlFlow;

use upcycle_digest::Digest;

use super::{
    cut::Shares,
    deal::{Dealer, Fate, splitting, splitting_ahead},
    documents::{Counts, Documents},
    limit::{LEAST, Limit},
    tokenizer::Recipe,
};
use crate::{DataError, Split, SplitDocuments, Splitting, watch::Watch};

/// Documents, how the splits share them, and what they are to be known by.
pub(super) struct Source {
    pub(super) documents: Documents,
    /// What reading all documents told; none for those of the hub, which are read when they are
    /// packed, and no further than needed.
    pub(super) counts: Option<Counts>,
    pub(super) splitting: Splitting,
    limit: Option<Limit>,
    shares: Shares,
    /// The hash of shares and tokenizer, to which documents are added.
    begun: Digest,
    /// The hash with all documents, or with the name of those of the hub.
    hash: String,
    fingerprint: String,
}

impl Source {
    /// Reads all documents once, to know them, but for those of the hub, which their name tells,
    /// and of which only `limit` is wanted.
    pub(super) fn read(
        documents: Documents,
        shares: Shares,
        limit: Option<Limit>,
        asked: SplitDocuments,
        recipe: &Recipe,
        watch: &Watch<'_>,
    ) -> Result<Source, DataError> {
        let limit = limit.filter(|_| documents.remote().is_some());
        let mut begun = Digest::new("upcycle-data text corpus 2");
        shares.hash_into(&mut begun);
        recipe.hash_into(&mut begun);
        let mut digest = begun.clone();
        let known = match documents.remote() {
            Some(_) => None,
            None => Some(documents.hash_into(&mut digest, watch)?),
        };
        let splitting = match &known {
            Some(counts) => splitting(asked, &shares, counts, || documents.label())?,
            None => {
                let bytes = limit.map(|limit| limit.missing_bytes([0; 4], &shares));
                splitting_ahead(asked, &shares, bytes.unwrap_or(LEAST))
            }
        };
        if let Some(remote) = documents.remote() {
            digest.bytes(b"hub").bytes(remote.name().as_bytes());
            digest.bytes(documents.column().unwrap_or_default().as_bytes());
            digest.number(splitting.longest_whole());
            for tokens in limit.iter().flat_map(Limit::tokens) {
                digest.number(tokens);
            }
        }
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
            counts: known,
            splitting,
            limit,
            shares,
            begun,
            hash,
            fingerprint,
        })
    }

    /// A hash of all that determines the tokens, if a tokenizer that is trained is trained on this
    /// text alone. Where the files lie is not part of it; nor is what is in those of the hub, where
    /// the files of a commit never change.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Every document for `visit`, with what becomes of it, until it breaks off.
    ///
    /// # Errors
    ///
    /// Those of `visit`, or if the documents are not those that were read at first.
    pub(super) fn visit(
        &self,
        watch: &Watch<'_>,
        mut visit: impl FnMut(String, Fate) -> Result<ControlFlow<()>, DataError>,
    ) -> Result<Counts, DataError> {
        let mut digest = self.begun.clone();
        let mut dealer = self.dealer();
        let counts = self.documents.visit(watch, |document| {
            digest.bytes(document.as_bytes());
            let fate = dealer.deal(document.len() as u64);
            visit(document, fate)
        })?;
        if self.documents.remote().is_some() || digest.hex() == self.hash {
            return Ok(counts);
        }
        Err(DataError::Changing {
            paths: self.documents.label(),
        })
    }

    /// Bytes of documents that must be packed before splits that hold so many tokens hold enough;
    /// 0 if they do, and no end to them where all documents are wanted.
    pub(super) fn missing_bytes(&self, held: [u64; 4]) -> u64 {
        let missing = |limit: &Limit| limit.missing_bytes(held, &self.shares);
        self.limit.as_ref().map_or(u64::MAX, missing)
    }

    /// What a trained tokenizer may see of the documents: of those of the hub as many bytes as
    /// tokens are wanted, which is known before there are tokens.
    pub(super) fn pretraining_texts<'a>(
        &'a self,
        watch: &'a Watch<'a>,
    ) -> impl Iterator<Item = Result<String, DataError>> + Send {
        let mut dealer = self.dealer();
        let parts = self.documents.iter(watch).map(move |document| {
            document.map(|document| {
                let fate = dealer.deal(document.len() as u64);
                self.part(Split::Pretrain, &document, fate).to_owned()
            })
        });
        let limit = self.limit.as_ref().map(|limit| limit.tokens()[0]);
        let mut left = limit.unwrap_or(u64::MAX);
        parts.take_while(move |part| {
            let is_wanted = left > 0;
            let bytes = part.as_ref().map_or(0, String::len);
            left = left.saturating_sub(bytes as u64);
            is_wanted
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
