//! From documents to packed tokens, where they are not in the cache.

use std::{cell::OnceCell, path::Path};

use upcycle_digest::Digest;

use super::{
    cache::{Cache, Packed},
    mixture::Mixture,
    source::Source,
    tokenizer::{Recipe, Tokenizer},
};
use crate::{DataError, TextReport};

/// One tokenizer for several sources. It is made when it is needed, and at most once.
pub(super) struct Packing<'a> {
    cache_dir: &'a Path,
    /// Where what is not in the cache is packed.
    new_dir: &'a Path,
    recipe: &'a Recipe,
    /// What a trained tokenizer is trained on.
    sources: &'a [Source],
    tokenizer: OnceCell<Tokenizer>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        cache_dir: &'a Path,
        recipe: &'a Recipe,
        sources: &'a [Source],
    ) -> Packing<'a> {
        Packing {
            cache_dir,
            new_dir: cache_dir,
            recipe,
            sources,
            tokenizer: OnceCell::new(),
        }
    }

    /// Leaves the cache as it is: what is not there is packed in another folder.
    pub(super) fn into_folder(mut self, new_dir: &'a Path) -> Packing<'a> {
        self.new_dir = new_dir;
        self
    }

    /// What a source's tokens are known by: its own fingerprint, so that another mixture of the
    /// same sources finds them, unless the tokenizer was trained on other text.
    pub(super) fn name(&self, source: &Source) -> String {
        let own = source.fingerprint();
        let trained_on = self.sources.iter().map(Source::fingerprint);
        let is_trained = matches!(self.recipe, Recipe::Bpe { .. });
        if !is_trained || trained_on.clone().eq([own]) {
            return own.to_owned();
        }
        let mut digest = Digest::new("upcycle-data text of a shared tokenizer 1");
        digest.bytes(own.as_bytes());
        for text in trained_on {
            digest.bytes(text.as_bytes());
        }
        digest.hex()
    }

    /// What a corpus of all sources is known by.
    pub(super) fn fingerprint(
        &self,
        mixture: Option<&Mixture>,
        held_out: [Option<&Source>; 2],
    ) -> String {
        // As it was before there were mixtures and held-out files.
        if let ([source], [None, None]) = (self.sources, held_out) {
            return self.name(source);
        }
        let mut digest = Digest::new("upcycle-data mixture 1");
        for source in self.sources {
            digest.bytes(self.name(source).as_bytes());
        }
        for &rows in mixture.into_iter().flat_map(Mixture::rows) {
            digest.number(rows);
        }
        for source in held_out {
            let name = source.map(|source| self.name(source)).unwrap_or_default();
            digest.bytes(name.as_bytes());
        }
        digest.hex()
    }

    /// The tokens of a source, from the cache if they are there, and what was found.
    pub(super) fn pack(&self, source: &Source) -> Result<(Packed, TextReport), DataError> {
        let name = self.name(source);
        let kept = Cache::new(self.cache_dir, &name);
        let (packed, has_changed) = match kept.load() {
            Some(packed) => (packed, false),
            None => {
                let new = Cache::new(self.new_dir, &name);
                let packed = new.build(source, self.tokenizer()?)?;
                // Of a data set of the hub more or less is no change.
                let is_of_hub = source.documents.remote().is_some();
                (packed, !is_of_hub && new.has_other_text())
            }
        };
        let counts = packed.read.or(source.counts).unwrap_or_default();
        let report = TextReport {
            paths: source.documents.paths().to_vec(),
            share: None,
            files: counts.files,
            of_files: source.documents.remote().map(|remote| remote.files().len()),
            skipped: source.documents.skipped().to_vec(),
            documents: counts.documents,
            nulls: counts.nulls,
            tokens: packed.tokens(),
            has_changed,
        };
        Ok((packed, report))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, DataError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let texts = self.sources.iter().flat_map(Source::pretraining_texts);
        let tokenizer = Tokenizer::make(self.recipe, texts)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }
}
