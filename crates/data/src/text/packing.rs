//! From documents to packed tokens, where they are not in the cache.

use std::{cell::OnceCell, path::Path};

use upcycle_digest::Digest;

use super::{
    cache::{Cache, Packed},
    mixture::Mixture,
    source::Source,
    tokenizer::{Recipe, Tokenizer},
};
use crate::{
    DataError, Splitting, TextChange, TextReport,
    watch::{TextWork, Watch},
};

/// One tokenizer for several sources. It is made when it is needed, and at most once.
pub(super) struct Packing<'a> {
    cache_dir: &'a Path,
    /// Where what is not in the cache is packed.
    new_dir: &'a Path,
    recipe: &'a Recipe,
    /// What a trained tokenizer is trained on.
    sources: &'a [Source],
    tokenizer: OnceCell<Tokenizer>,
    watch: &'a Watch<'a>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        cache_dir: &'a Path,
        recipe: &'a Recipe,
        sources: &'a [Source],
        watch: &'a Watch<'a>,
    ) -> Packing<'a> {
        Packing {
            cache_dir,
            new_dir: cache_dir,
            recipe,
            sources,
            tokenizer: OnceCell::new(),
            watch,
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

    /// The tokens of sources, from the cache if they are there, and what was found of each.
    pub(super) fn pack(&self, sources: &[&Source]) -> Result<Vec<(Packed, TextReport)>, DataError> {
        let kept = sources.iter().map(|source| self.kept(source));
        let kept: Vec<Option<Packed>> = kept.collect();
        let missing = sources.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
        let missing: u64 = missing.map(|(source, _)| source.documents.bytes()).sum();
        if kept.iter().any(Option::is_none) {
            self.tokenizer()?;
            self.watch.begin(TextWork::Packing, missing);
        }
        let packed = sources.iter().zip(kept).map(|(source, kept)| {
            let (packed, change) = match kept {
                Some(packed) => (packed, None),
                None => self.make(source)?,
            };
            let report = self.report(source, &packed, change);
            Ok::<_, DataError>((packed, report))
        });
        packed.collect()
    }

    /// The tokens of a source that are in the cache.
    fn kept(&self, source: &Source) -> Option<Packed> {
        Cache::new(self.cache_dir, &self.name(source)).load()
    }

    /// Packs a source; tells what has changed since the same files were packed before.
    fn make(&self, source: &Source) -> Result<(Packed, Option<TextChange>), DataError> {
        let new = Cache::new(self.new_dir, &self.name(source));
        let packed = new.build(source, self.tokenizer()?, self.watch)?;
        // Of a data set of the hub more or less is no change.
        let is_own = source.documents.remote().is_none();
        Ok((packed, new.change().filter(|_| is_own)))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, DataError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let watch = self.watch;
        if matches!(self.recipe, Recipe::Bpe { .. }) {
            let bytes = self.sources.iter().map(|source| source.documents.bytes());
            watch.begin(TextWork::Learning, bytes.sum());
        }
        let texts = self.sources.iter();
        let texts = texts.flat_map(move |source| source.pretraining_texts(watch));
        let tokenizer = Tokenizer::make(self.recipe, texts)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    fn report(&self, source: &Source, packed: &Packed, change: Option<TextChange>) -> TextReport {
        // All sources share a tokenizer, of which the first one tells.
        let is_first = self
            .sources
            .first()
            .is_some_and(|it| std::ptr::eq(it, source));
        let vocab = match self.recipe {
            Recipe::Bpe { vocab } if is_first => Some([*vocab, packed.vocab]),
            _ => None,
        };
        let counts = packed.read.or(source.counts).unwrap_or_default();
        let splitting = match source.splitting {
            // What no document exceeds need not be told.
            Splitting::WholeUpTo(bytes) if counts.longest <= bytes => Splitting::Whole,
            splitting => splitting,
        };
        let remote = source.documents.remote();
        TextReport {
            paths: source.documents.paths().to_vec(),
            share: None,
            files: counts.files,
            of_files: remote.map(|remote| remote.files().len()),
            skipped: source.documents.skipped().to_vec(),
            documents: counts.documents,
            nulls: counts.nulls,
            splitting,
            tokens: packed.tokens(),
            change,
            vocab: vocab.filter(|[asked, found]| found < asked),
        }
    }
}
