//! A corpus of text files, tokenized once.

mod cache;
mod codec;
mod column;
mod cut;
mod documents;
mod files;
mod form_feeds;
mod format;
mod json_lines;
mod limit;
mod lines;
mod mixture;
mod packing;
mod rows;
mod source;
mod stream;
mod table;
mod tokenizer;
mod windows;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use self::{
    cache::Packed, cut::Shares, documents::Documents, limit::Limit, mixture::Mixture,
    packing::Packing, rows::Rows, source::Source, tokenizer::Recipe, windows::Windows,
};
pub use self::{
    codec::{TextStream, TextTokenizer},
    table::{TableRow, read_table},
};
use crate::{Batch, DataError, FindRemote, Split, TextConfig, TextReport};

/// The packed tokens of all splits and what they were made with.
pub(crate) struct TextCorpus {
    /// At least one.
    sources: Vec<Packed>,
    /// None for a single source.
    mixture: Option<Mixture>,
    /// Files of their own for a split, which is then not cut from the sources.
    validation: Option<Packed>,
    test: Option<Packed>,
    fingerprint: String,
    reports: Vec<TextReport>,
}

impl TextCorpus {
    /// Text that is not in the cache is packed in `new_dir`, which may be the cache itself.
    pub(crate) fn open(
        config: &TextConfig,
        cache_dir: &Path,
        new_dir: &Path,
        find: FindRemote<'_>,
    ) -> Result<TextCorpus, DataError> {
        config.check()?;
        let recipe = Recipe::read(&config.tokenizer)?;
        let read = |paths: &[PathBuf], shares, limit| {
            let documents = Documents::find(paths, &config.text_column, find)?;
            Source::read(documents, shares, limit, &recipe)
        };
        let held_out = |paths: &[PathBuf], split| match paths {
            [] => Ok(None),
            paths => {
                let limit = Limit::of_held_out(config, split);
                read(paths, Shares::whole(split), limit).map(Some)
            }
        };
        let lists = config.sources();
        let mixture = (lists.len() > 1).then(|| Mixture::new(&config.weights));
        let share = |source| mixture.as_ref().map(|mixture| mixture.share(source));
        let sources = lists
            .into_iter()
            .enumerate()
            .map(|(index, paths)| {
                let limit = Limit::of_training(config, share(index).unwrap_or(1.0));
                read(paths, Shares::new(config), limit)
            })
            .collect::<Result<Vec<Source>, DataError>>()?;
        let validation = held_out(&config.validation, Split::Validation)?;
        let test = held_out(&config.test, Split::Test)?;
        check_apart(&sources, validation.as_ref(), test.as_ref())?;

        let packing = Packing::new(cache_dir, &recipe, &sources).into_folder(new_dir);
        let fingerprint =
            packing.fingerprint(mixture.as_ref(), [validation.as_ref(), test.as_ref()]);
        let mut reports = Vec::new();
        let mut pack = |source: &Source, share: Option<f64>| {
            let (packed, report) = packing.pack(source)?;
            reports.push(TextReport { share, ..report });
            Ok::<Packed, DataError>(packed)
        };
        let mut packed = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            packed.push(pack(source, share(index))?);
        }
        let mut held_out = |source: Option<&Source>| match source {
            Some(source) => pack(source, None).map(Some),
            None => Ok(None),
        };
        let (validation, test) = (held_out(validation.as_ref())?, held_out(test.as_ref())?);
        Ok(TextCorpus {
            sources: packed,
            mixture,
            validation,
            test,
            fingerprint,
            reports,
        })
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn reports(&self) -> &[TextReport] {
        &self.reports
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.sources[0].vocab
    }

    pub(crate) fn tokenizer_json(&self) -> String {
        let json = self.sources[0].tokenizer_json.clone();
        json.unwrap_or_else(tokenizer::byte_level_json)
    }

    /// Tokens of a split before one comes a second time.
    pub(crate) fn tokens(&self, split: Split) -> u64 {
        let (packed, mixture) = self.packed(split);
        let tokens: Vec<u64> = packed
            .iter()
            .map(|packed| packed.stream(split).tokens())
            .collect();
        match mixture {
            Some(mixture) => mixture.rows_within(&tokens),
            None => tokens.iter().sum(),
        }
    }

    /// Bytes of the tokens of all sources and held-out files.
    pub(crate) fn packed_bytes(&self) -> u64 {
        let held_out = self.validation.iter().chain(&self.test);
        self.sources.iter().chain(held_out).map(Packed::bytes).sum()
    }

    pub(crate) fn check_shape(&self, context: usize) -> Result<(), DataError> {
        Split::ALL
            .into_iter()
            .try_for_each(|split| self.rows(split, context).map(drop))
    }

    pub(crate) fn batch(
        &self,
        split: Split,
        seed: u64,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        self.rows(split, context)?.shuffled(seed, first_row, rows)
    }

    pub(crate) fn evaluation_rows(&self, split: Split, context: usize) -> u64 {
        self.rows(split, context).map_or(0, |rows| rows.count())
    }

    pub(crate) fn evaluation_batch(
        &self,
        split: Split,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        let there = self.rows(split, context)?;
        let end = first_row.saturating_add(rows as u64);
        if end > there.count() {
            return Err(DataError::EvaluationRow {
                split,
                row: end - 1,
                context,
                rows: there.count(),
            });
        }
        there.spread(first_row, rows)
    }

    fn rows(&self, split: Split, context: usize) -> Result<Rows<'_>, DataError> {
        let (packed, mixture) = self.packed(split);
        let sources = packed.iter().zip(&self.reports).map(|(packed, report)| {
            let windows = Windows::new(split, packed.stream(split), context);
            windows.map_err(|error| match mixture {
                Some(_) => DataError::OfSource {
                    paths: report.label(),
                    error: Box::new(error),
                },
                None => error,
            })
        });
        Ok(Rows {
            split,
            context,
            sources: sources.collect::<Result<_, _>>()?,
            mixture,
        })
    }

    /// Where the tokens of a split are.
    fn packed(&self, split: Split) -> (&[Packed], Option<&Mixture>) {
        let held_out = match split {
            Split::Pretrain | Split::Cpt => None,
            Split::Validation => self.validation.as_ref(),
            Split::Test => self.test.as_ref(),
        };
        match held_out {
            Some(packed) => (std::slice::from_ref(packed), None),
            None => (self.sources.as_slice(), self.mixture.as_ref()),
        }
    }
}

/// No file may be trained on and held out.
fn check_apart(
    sources: &[Source],
    validation: Option<&Source>,
    test: Option<&Source>,
) -> Result<(), DataError> {
    let training = sources.iter().map(|source| ("training", source));
    let validation = validation.map(|source| ("validation", source));
    let test = test.map(|source| ("test", source));
    let mut uses: HashMap<PathBuf, &'static str> = HashMap::new();
    for (this, source) in training.chain(validation).chain(test) {
        for file in source.documents.files() {
            // Folders can name one file in different ways.
            let place = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
            let other = *uses.entry(place).or_insert(this);
            if other != this {
                return Err(DataError::HeldOutTwice {
                    file: file.into(),
                    first: other,
                    second: this,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
