//! A corpus of text files, tokenized once.

mod cache;
mod codec;
mod column;
mod cut;
mod deal;
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
use crate::{
    Batch, DataError, FindRemote, Split, TextConfig, TextReport,
    watch::{TextWork, Watch},
};

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
        watch: &Watch<'_>,
    ) -> Result<TextCorpus, DataError> {
        config.check()?;
        let recipe = Recipe::read(&config.tokenizer)?;
        let find = |paths: &[PathBuf]| Documents::find(paths, &config.text_column, find);
        let held_out = |paths: &[PathBuf]| match paths {
            [] => Ok(None),
            paths => find(paths).map(Some),
        };
        let sources = config.sources().into_iter().map(find);
        let sources = sources.collect::<Result<Vec<Documents>, DataError>>()?;
        let (validation, test) = (held_out(&config.validation)?, held_out(&config.test)?);
        check_apart(&sources, validation.as_ref(), test.as_ref())?;

        let mixture = (sources.len() > 1).then(|| Mixture::new(&config.weights));
        let share = |source| {
            mixture
                .as_ref()
                .map_or(1.0, |mixture| mixture.share(source))
        };
        let all = sources.iter().chain(&validation).chain(&test);
        watch.begin(TextWork::Reading, all.map(Documents::bytes).sum());
        let asked = config.split_documents;
        let read = |documents, shares, limit| {
            Source::read(documents, shares, limit, asked, &recipe, watch)
        };
        let sources = sources.into_iter().enumerate();
        let sources = sources
            .map(|(index, documents)| {
                let limit = Limit::of_training(config, share(index));
                read(documents, Shares::new(config), limit)
            })
            .collect::<Result<Vec<Source>, DataError>>()?;
        let whole = |documents: Option<Documents>, split| {
            let limit = Limit::of_held_out(config, split);
            let source = documents.map(|documents| read(documents, Shares::whole(split), limit));
            source.transpose()
        };
        let validation = whole(validation, Split::Validation)?;
        let test = whole(test, Split::Test)?;

        let packing = Packing::new(cache_dir, &recipe, &sources, watch).into_folder(new_dir);
        let fingerprint =
            packing.fingerprint(mixture.as_ref(), [validation.as_ref(), test.as_ref()]);
        let all: Vec<&Source> = sources.iter().chain(&validation).chain(&test).collect();
        let (packed, mut reports): (Vec<Packed>, Vec<TextReport>) =
            packing.pack(&all)?.into_iter().unzip();
        if let Some(mixture) = &mixture {
            let reports = reports.iter_mut().take(sources.len()).enumerate();
            reports.for_each(|(source, report)| report.share = Some(mixture.share(source)));
        }
        let mut packed = packed.into_iter();
        Ok(TextCorpus {
            sources: packed.by_ref().take(sources.len()).collect(),
            validation: validation.and_then(|_| packed.next()),
            test: test.and_then(|_| packed.next()),
            mixture,
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
    sources: &[Documents],
    validation: Option<&Documents>,
    test: Option<&Documents>,
) -> Result<(), DataError> {
    let training = sources.iter().map(|documents| ("training", documents));
    let validation = validation.map(|documents| ("validation", documents));
    let test = test.map(|documents| ("test", documents));
    let mut uses: HashMap<PathBuf, &'static str> = HashMap::new();
    for (this, documents) in training.chain(validation).chain(test) {
        for file in documents.files() {
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
