//! Packed streams on disk, so that text is tokenized once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use upcycle_files::{FileError, Staged, remove_folder};

use super::{
    cut::Shares,
    stream::{StreamWriter, TokenStream, Width},
    tokenizer::Tokenizer,
};
use crate::{DataError, Split};

const META: &str = "meta.json";
const TOKENIZER: &str = "tokenizer.json";

/// The packed streams of a corpus, checked and mapped.
pub(super) struct Packed {
    pub(super) vocab: usize,
    pub(super) tokenizer_json: Option<String>,
    /// In the order of [`Split::ALL`].
    streams: [TokenStream; 4],
}

impl Packed {
    pub(super) fn stream(&self, split: Split) -> &TokenStream {
        match split {
            Split::Pretrain => &self.streams[0],
            Split::Cpt => &self.streams[1],
            Split::Validation => &self.streams[2],
            Split::Test => &self.streams[3],
        }
    }
}

/// The folder of one corpus in the cache.
pub(super) struct Cache {
    folder: PathBuf,
}

/// What `meta.json` holds: enough to tell a damaged folder from a whole one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    vocab: usize,
    pretrain: StreamMeta,
    cpt: StreamMeta,
    validation: StreamMeta,
    test: StreamMeta,
    /// The hash of `tokenizer.json`, where there is one.
    tokenizer: Option<String>,
}

/// A stream's tokens and the hash of its file.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamMeta {
    tokens: u64,
    blake3: String,
}

impl Cache {
    /// The place of the corpus with this fingerprint, whether or not it is there.
    pub(super) fn new(cache_dir: &Path, fingerprint: &str) -> Cache {
        Cache {
            folder: cache_dir.join(fingerprint),
        }
    }

    /// The streams, if they are there and undamaged.
    pub(super) fn load(&self) -> Option<Packed> {
        let meta = fs::read(self.folder.join(META)).ok()?;
        let meta: Meta = serde_json::from_slice(&meta).ok()?;
        let width = Width::of(meta.vocab);
        let stream = |split, expected: &StreamMeta| {
            let stream = TokenStream::open(&stream_path(&self.folder, split), width).ok()?;
            let found = StreamMeta {
                tokens: stream.tokens(),
                blake3: stream.hash().to_string(),
            };
            (found == *expected).then_some(stream)
        };
        let tokenizer_json = match meta.tokenizer {
            Some(expected) => {
                let json = fs::read_to_string(self.folder.join(TOKENIZER)).ok()?;
                (blake3::hash(json.as_bytes()).to_string() == expected).then_some(Some(json))?
            }
            None => None,
        };
        Some(Packed {
            vocab: meta.vocab,
            tokenizer_json,
            streams: [
                stream(Split::Pretrain, &meta.pretrain)?,
                stream(Split::Cpt, &meta.cpt)?,
                stream(Split::Validation, &meta.validation)?,
                stream(Split::Test, &meta.test)?,
            ],
        })
    }

    /// Tokenizes the documents, saves the streams and loads them.
    pub(super) fn build(
        &self,
        documents: &[String],
        shares: &Shares,
        tokenizer: &Tokenizer,
    ) -> Result<Packed, DataError> {
        let mut staged = Staged::new(&self.folder)?;
        self.fill(staged.path(), documents, shares, tokenizer)?;
        if staged.publish().is_err() {
            // Another process was faster, and its streams serve as well; or what is there is
            // damaged.
            if let Some(packed) = self.load() {
                return Ok(packed);
            }
            if self.folder.exists() {
                remove_folder(&self.folder)?;
            }
            staged.publish()?;
        }
        self.load().ok_or_else(|| {
            self.unusable(io::Error::other(
                "the files just written cannot be read back unchanged",
            ))
        })
    }

    fn fill(
        &self,
        folder: &Path,
        documents: &[String],
        shares: &Shares,
        tokenizer: &Tokenizer,
    ) -> Result<(), DataError> {
        let pack = |split| self.pack(folder, split, documents, shares, tokenizer);
        let meta = Meta {
            vocab: tokenizer.vocab_size(),
            pretrain: pack(Split::Pretrain)?,
            cpt: pack(Split::Cpt)?,
            validation: pack(Split::Validation)?,
            test: pack(Split::Test)?,
            tokenizer: tokenizer
                .json()
                .map(|json| blake3::hash(json.as_bytes()).to_string()),
        };
        if let Some(json) = tokenizer.json() {
            upcycle_files::write(&folder.join(TOKENIZER), json.as_bytes())?;
        }
        let json = serde_json::to_vec_pretty(&meta);
        let json = json.map_err(|error| self.unusable(error.into()))?;
        Ok(upcycle_files::write(&folder.join(META), &json)?)
    }

    fn pack(
        &self,
        folder: &Path,
        split: Split,
        documents: &[String],
        shares: &Shares,
        tokenizer: &Tokenizer,
    ) -> Result<StreamMeta, DataError> {
        let unusable = |reason| self.unusable(reason);
        let width = Width::of(tokenizer.vocab_size());
        let path = stream_path(folder, split);
        let mut writer = StreamWriter::create(&path, width).map_err(unusable)?;
        let parts = documents
            .iter()
            .map(|document| shares.part(split, document))
            .filter(|part| !part.is_empty());
        for part in parts {
            let mut ids = tokenizer.encode(part)?;
            ids.extend(tokenizer.separator());
            writer.append(&ids).map_err(unusable)?;
        }
        let (tokens, hash) = writer.finish().map_err(unusable)?;
        Ok(StreamMeta {
            tokens,
            blake3: hash.to_string(),
        })
    }

    fn unusable(&self, reason: io::Error) -> DataError {
        FileError::of("use the cache in", &self.folder)(reason).into()
    }
}

fn stream_path(folder: &Path, split: Split) -> PathBuf {
    folder.join(format!("{split}.bin"))
}
