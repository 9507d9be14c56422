//! Text that is packed together.

use upcycle_digest::Digest;

use super::{
    cut::Shares,
    documents::{Counts, Documents},
    tokenizer::Recipe,
};
use crate::{DataError, Split, watch::Watch};

/// Documents, how they are cut, and what they are to be known by.
pub(super) struct Source {
    pub(super) documents: Documents,
    pub(super) shares: Shares,
    pub(super) counts: Counts,
    /// The hash of all that determines the tokens but for the documents.
    begun: Digest,
    fingerprint: String,
}

impl Source {
    /// Reads all documents once, to know them.
    pub(super) fn read(
        documents: Documents,
        shares: Shares,
        recipe: &Recipe,
        watch: &Watch<'_>,
    ) -> Result<Source, DataError> {
        let mut begun = Digest::new("upcycle-data text corpus 2");
        shares.hash_into(&mut begun);
        recipe.hash_into(&mut begun);
        let mut digest = begun.clone();
        let counts = documents.hash_into(&mut digest, watch)?;
        Ok(Source {
            documents,
            shares,
            counts,
            begun,
            fingerprint: digest.hex(),
        })
    }

    /// A hash of all that determines the tokens, if a tokenizer that is trained is trained on this
    /// text alone. Where the files lie is not part of it.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Every document for `visit`.
    ///
    /// # Errors
    ///
    /// Those of `visit`, or if the documents are not those that were read at first.
    pub(super) fn visit(
        &self,
        watch: &Watch<'_>,
        mut visit: impl FnMut(String) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut digest = self.begun.clone();
        for document in self.documents.iter(watch) {
            let document = document?;
            digest.bytes(document.as_bytes());
            visit(document)?;
        }
        if digest.hex() == self.fingerprint {
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
        self.documents.iter(watch).map(move |document| {
            document.map(|document| self.shares.part(Split::Pretrain, &document).to_owned())
        })
    }
}
