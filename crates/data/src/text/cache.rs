//! Packed streams on disk, so that text is tokenized once.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use upcycle_digest::Digest;
use upcycle_files::{FileError, Staged, remove_abandoned, remove_folder};

use super::{
    deal::Fate,
    documents::Counts,
    source::Source,
    stream::{StreamWriter, TokenStream, Width},
    tokenizer::Tokenizer,
};
use crate::{DataError, Split, TextChange, watch::Watch};

const META: &str = "meta.json";
const TOKENIZER: &str = "tokenizer.json";

/// Bytes of documents that are tokenized at once.
const BATCH: u64 = 1 << 22;

/// The packed streams of a corpus, checked and mapped.
pub(super) struct Packed {
    pub(super) vocab: usize,
    pub(super) tokenizer_json: Option<String>,
    /// What was read of a data set of the hub.
    pub(super) read: Option<Counts>,
    /// In the order of [`Split::ALL`].
    streams: [TokenStream; 4],
}

impl Packed {
    /// The tokens of each split, in the order of [`Split::ALL`].
    pub(super) fn tokens(&self) -> [u64; 4] {
        Split::ALL.map(|split| self.stream(split).tokens())
    }

    /// Bytes of the tokens.
    pub(super) fn bytes(&self) -> u64 {
        let width = Width::of(self.vocab).bytes() as u64;
        self.tokens().iter().sum::<u64>() * width
    }

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
    /// What was packed, so that people can be told that it has changed; older caches do not know.
    #[serde(default)]
    text: Option<TextMeta>,
    /// What was read of a data set of the hub. Other text is read at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<Counts>,
}

/// Where documents lay, and the hash of them alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextMeta {
    files: Vec<String>,
    /// The field or column, where files have such; older caches do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    blake3: String,
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
            read: meta.read,
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
        source: &Source,
        tokenizer: &Tokenizer,
        watch: &Watch<'_>,
    ) -> Result<Packed, DataError> {
        remove_abandoned(&self.folder);
        let mut staged = Staged::locked(&self.folder)?;
        self.fill(staged.path(), source, tokenizer, watch)?;
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

    /// What has changed since the same files were packed; none if they never were, or if they were
    /// packed with these documents, too.
    pub(super) fn change(&self) -> Option<TextChange> {
        let text_in = |folder: &Path| {
            let meta = fs::read(folder.join(META)).ok()?;
            serde_json::from_slice::<Meta>(&meta).ok()?.text
        };
        let own = text_in(&self.folder)?;
        let folders = self.folder.parent().and_then(|all| fs::read_dir(all).ok());
        let entries = folders.into_iter().flatten().flatten();
        let packed: Vec<TextMeta> = entries
            .filter(|entry| entry.path() != self.folder)
            .filter_map(|entry| text_in(&entry.path()))
            .filter(|text| text.files == own.files)
            .collect();
        if packed.iter().any(|text| text.blake3 == own.blake3) {
            return None;
        }
        let other_column = |text: &TextMeta| {
            let before = text.column.clone()?;
            (before != *own.column.as_ref()?).then_some(before)
        };
        match packed.iter().map(other_column).collect::<Option<Vec<_>>>() {
            Some(columns) => Some(TextChange::Column {
                before: columns.into_iter().next()?,
                now: own.column?,
            }),
            None => Some(TextChange::Contents),
        }
    }

    fn fill(
        &self,
        folder: &Path,
        source: &Source,
        tokenizer: &Tokenizer,
        watch: &Watch<'_>,
    ) -> Result<(), DataError> {
        let packer = Packer::new(folder, source, tokenizer, watch);
        let mut packer = packer.map_err(|it| self.unusable(it))?;
        let mut digest = Digest::new("upcycle-data documents 1");
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut missing = source.missing_bytes(packer.tokens());
        let counts = source.visit(watch, |document, fate| {
            digest.bytes(document.as_bytes());
            bytes += document.len() as u64;
            batch.push((document, fate));
            if bytes >= BATCH.min(missing) {
                self.pack(&mut packer, &batch)?;
                batch.clear();
                bytes = 0;
                missing = source.missing_bytes(packer.tokens());
            }
            Ok(match missing {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        })?;
        self.pack(&mut packer, &batch)?;
        let streams = packer.finish().map_err(|reason| self.unusable(reason))?;
        let [pretrain, cpt, validation, test] = streams;
        let files = source.documents.files().take(counts.files);
        let meta = Meta {
            vocab: tokenizer.vocab_size(),
            pretrain,
            cpt,
            validation,
            test,
            tokenizer: tokenizer
                .json()
                .map(|json| blake3::hash(json.as_bytes()).to_string()),
            text: Some(TextMeta {
                files: files.map(|file| file.display().to_string()).collect(),
                column: source.documents.column().map(str::to_owned),
                blake3: digest.hex(),
            }),
            read: source.documents.remote().map(|_| counts),
        };
        if let Some(json) = tokenizer.json() {
            upcycle_files::write(&folder.join(TOKENIZER), json.as_bytes())?;
        }
        let json = serde_json::to_vec_pretty(&meta);
        let json = json.map_err(|error| self.unusable(error.into()))?;
        Ok(upcycle_files::write(&folder.join(META), &json)?)
    }

    fn pack(&self, packer: &mut Packer<'_>, documents: &[(String, Fate)]) -> Result<(), DataError> {
        for split in Split::ALL {
            let encoded = packer.encode(split, documents)?;
            packer
                .append(split, encoded)
                .map_err(|reason| self.unusable(reason))?;
        }
        Ok(())
    }

    fn unusable(&self, reason: io::Error) -> DataError {
        FileError::of("use the cache in", &self.folder)(reason).into()
    }
}

fn stream_path(folder: &Path, split: Split) -> PathBuf {
    folder.join(format!("{split}.bin"))
}

/// Tokenizes documents into the streams of all splits.
struct Packer<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    watch: &'a Watch<'a>,
    /// In the order of [`Split::ALL`].
    writers: [StreamWriter; 4],
}

impl<'a> Packer<'a> {
    fn new(
        folder: &Path,
        source: &'a Source,
        tokenizer: &'a Tokenizer,
        watch: &'a Watch<'a>,
    ) -> io::Result<Packer<'a>> {
        let width = Width::of(tokenizer.vocab_size());
        let writer = |split| StreamWriter::create(&stream_path(folder, split), width);
        Ok(Packer {
            source,
            tokenizer,
            watch,
            writers: [
                writer(Split::Pretrain)?,
                writer(Split::Cpt)?,
                writer(Split::Validation)?,
                writer(Split::Test)?,
            ],
        })
    }

    /// Tokens that were written, in the order of [`Split::ALL`].
    fn tokens(&self) -> [u64; 4] {
        self.writers.each_ref().map(StreamWriter::tokens)
    }

    /// The tokens of each document's part of a split, on all cores.
    fn encode(
        &self,
        split: Split,
        documents: &[(String, Fate)],
    ) -> Result<Vec<Vec<u32>>, DataError> {
        documents
            .par_iter()
            .map(|(document, fate)| self.source.part(split, document, *fate))
            .filter(|part| !part.is_empty())
            .map(|part| -> Result<Vec<u32>, DataError> {
                self.watch.check()?;
                let mut ids = self.tokenizer.encode(part)?;
                ids.extend(self.tokenizer.separator());
                Ok(ids)
            })
            .collect()
    }

    fn append(&mut self, split: Split, encoded: Vec<Vec<u32>>) -> io::Result<()> {
        let writer = match split {
            Split::Pretrain => &mut self.writers[0],
            Split::Cpt => &mut self.writers[1],
            Split::Validation => &mut self.writers[2],
            Split::Test => &mut self.writers[3],
        };
        encoded.iter().try_for_each(|ids| writer.append(ids))?;
        let tokens = encoded.iter().map(|ids| ids.len() as u64);
        self.watch.packed(tokens.sum());
        Ok(())
    }

    /// Closes the streams; tells what they hold.
    fn finish(self) -> io::Result<[StreamMeta; 4]> {
        let finish = |writer: StreamWriter| -> io::Result<StreamMeta> {
            let (tokens, hash) = writer.finish()?;
            Ok(StreamMeta {
                tokens,
                blake3: hash.to_string(),
            })
        };
        let [pretrain, cpt, validation, test] = self.writers;
        Ok([
            finish(pretrain)?,
            finish(cpt)?,
            finish(validation)?,
            finish(test)?,
        ])
    }
}
