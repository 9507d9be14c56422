//! Text that is packed together.

use std::ops::ControlFlow;

use upcycle_digest::Digest;

use super::{
    cut::Shares,
    documents::{Counts, Documents},
    limit::Limit,
    tokenizer::Recipe,
};
use crate::{DataError, Split};

/// Documents, how they are cut, and what they are to be known by.
pub(super) struct Source {
    pub(super) documents: Documents,
    pub(super) shares: Shares,
    /// What reading all documents told; none for those of the hub, which are read when they are
    /// packed, and no further than needed.
    pub(super) counts: Option<Counts>,
    limit: Option<Limit>,
    /// The hash of all that determines the tokens but for the documents.
    begun: Digest,
    fingerprint: String,
}

impl Source {
    /// Reads all documents once, to know them, but for those of the hub, which their name tells,
    /// and of which only `limit` is wanted.
    pub(super) fn read(
        documents: Documents,
        shares: Shares,
        limit: Option<Limit>,
        recipe: &Recipe,
    ) -> Result<Source, DataError> {
        let limit = limit.filter(|_| documents.remote().is_some());
        let mut begun = Digest::new("upcycle-data text corpus 2");
        shares.hash_into(&mut begun);
        recipe.hash_into(&mut begun);
        let mut digest = begun.clone();
        let counts = match documents.remote() {
            Some(remote) => {
                digest.bytes(b"hub").bytes(remote.name().as_bytes());
                digest.bytes(documents.column().as_bytes());
                for tokens in limit.iter().flat_map(Limit::tokens) {
                    digest.number(tokens);
                }
                None
            }
            None => Some(documents.hash_into(&mut digest)?),
        };
        Ok(Source {
            documents,
            shares,
            counts,
            limit,
            begun,
            fingerprint: digest.hex(),
        })
    }

    /// A hash of all that determines the tokens, if a tokenizer that is trained is trained on this
    /// text alone. Where the files lie is not part of it; nor is what is in those of the hub, where
    /// the files of a commit never change.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Every document for `visit`, until it breaks off.
    ///
    /// # Errors
    ///
    /// Those of `visit`, or if the documents are not those that were read at first.
    pub(super) fn visit(
        &self,
        mut visit: impl FnMut(String) -> Result<ControlFlow<()>, DataError>,
    ) -> Result<Counts, DataError> {
        let mut digest = self.begun.clone();
        let counts = self.documents.visit(|document| {
            digest.bytes(document.as_bytes());
            visit(document)
        })?;
        if self.documents.remote().is_some() || digest.hex() == self.fingerprint {
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
    pub(super) fn pretraining_texts(
        &self,
    ) -> impl Iterator<Item = Result<String, DataError>> + Send {
        let parts = self.documents.iter().map(move |document| {
            document.map(|document| self.shares.part(Split::Pretrain, &document).to_owned())
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
}
