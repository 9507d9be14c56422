//! A corpus of text files, tokenized once.

mod cache;
mod cut;
mod documents;
mod json_lines;
mod stream;
mod tokenizer;
mod windows;

use std::path::Path;

use upcycle_digest::Digest;

use self::{
    cache::{Cache, Packed},
    cut::Shares,
    documents::read_documents,
    tokenizer::{Recipe, Tokenizer},
    windows::Windows,
};
use crate::{Batch, DataError, Split, TextConfig};

/// The packed tokens of all splits and what they were made with.
pub(crate) struct TextCorpus {
    packed: Packed,
    fingerprint: String,
}

impl TextCorpus {
    pub(crate) fn open(config: &TextConfig, cache_dir: &Path) -> Result<TextCorpus, DataError> {
        config.check()?;
        let recipe = Recipe::read(&config.tokenizer)?;
        let documents = read_documents(&config.paths)?;
        let shares = Shares::new(config);
        let fingerprint = fingerprint(&shares, &recipe, &documents);
        let cache = Cache::new(cache_dir, &fingerprint);
        let packed = match cache.load() {
            Some(packed) => packed,
            None => {
                let tokenizer = Tokenizer::make(recipe, &documents, &shares)?;
                cache.build(&documents, &shares, &tokenizer)?
            }
        };
        Ok(TextCorpus {
            packed,
            fingerprint,
        })
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.packed.vocab
    }

    pub(crate) fn tokenizer_json(&self) -> Option<&str> {
        self.packed.tokenizer_json.as_deref()
    }

    pub(crate) fn tokens(&self, split: Split) -> u64 {
        self.packed.stream(split).tokens()
    }

    pub(crate) fn check_shape(&self, context: usize) -> Result<(), DataError> {
        Split::ALL
            .into_iter()
            .try_for_each(|split| self.windows(split, context).map(drop))
    }

    pub(crate) fn batch(
        &self,
        split: Split,
        seed: u64,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        self.windows(split, context)?.batch(rows, |windows, row| {
            windows.shuffled(split, seed, first_row.wrapping_add(row))
        })
    }

    pub(crate) fn evaluation_rows(&self, split: Split, context: usize) -> u64 {
        self.windows(split, context)
            .map_or(0, |windows| windows.count())
    }

    pub(crate) fn evaluation_batch(
        &self,
        split: Split,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        let windows = self.windows(split, context)?;
        let end = first_row.saturating_add(rows as u64);
        if end > windows.count() {
            return Err(DataError::EvaluationRow {
                split,
                row: end - 1,
                context,
                rows: windows.count(),
            });
        }
        windows.batch(rows, |windows, row| windows.spread(first_row + row))
    }

    fn windows(&self, split: Split, context: usize) -> Result<Windows<'_>, DataError> {
        Windows::new(split, self.packed.stream(split), context)
    }
}

/// A hash of all that determines the tokens. Where the files lie does not.
fn fingerprint(shares: &Shares, recipe: &Recipe, documents: &[String]) -> String {
    let mut digest = Digest::new("upcycle-data text corpus 2");
    shares.hash_into(&mut digest);
    recipe.hash_into(&mut digest);
    for document in documents {
        digest.bytes(document.as_bytes());
    }
    digest.hex()
}

#[cfg(test)]
mod tests;
