//! Text into tokens.

mod bpe;
mod byte_level;
mod subword;

use std::{
    fs,
    path::{Path, PathBuf},
};

use upcycle_digest::Digest;

use self::subword::Subword;
use crate::{DataError, TokenizerConfig};

/// The separator of the byte tokenizer: the first id that is no byte.
const BYTES_SEPARATOR: u32 = 256;

/// All that determines a tokenizer besides the corpus, which is enough to tell whether packed
/// tokens are still the right ones without making the tokenizer.
pub(super) enum Recipe {
    Bytes,
    Bpe { vocab: usize },
    File { path: PathBuf, json: String },
}

impl Recipe {
    pub(super) fn read(config: &TokenizerConfig) -> Result<Recipe, DataError> {
        Ok(match config {
            TokenizerConfig::Bytes => Recipe::Bytes,
            TokenizerConfig::Bpe { vocab } => Recipe::Bpe { vocab: *vocab },
            TokenizerConfig::File { path } => Recipe::File {
                json: fs::read_to_string(path).map_err(|reason| unusable(path, reason))?,
                path: path.clone(),
            },
        })
    }

    pub(super) fn hash_into(&self, digest: &mut Digest) {
        match self {
            Recipe::Bytes => digest.bytes(b"bytes"),
            Recipe::Bpe { vocab } => digest.bytes(b"bpe").number(*vocab as u64),
            Recipe::File { json, .. } => digest.bytes(b"file").bytes(json.as_bytes()),
        };
    }
}

/// Turns text into tokens.
pub(super) enum Tokenizer {
    Bytes,
    Subword(Box<Subword>),
}

impl Tokenizer {
    /// Follows a recipe. Only byte pair encoding looks at the texts, which must be those of the
    /// pre-training split alone: validation text must not shape the vocabulary.
    pub(super) fn make(
        recipe: &Recipe,
        texts: impl Iterator<Item = Result<String, DataError>> + Send,
    ) -> Result<Tokenizer, DataError> {
        let subword = match recipe {
            Recipe::Bytes => return Ok(Tokenizer::Bytes),
            Recipe::Bpe { vocab } => train(*vocab, texts)?,
            Recipe::File { path, json } => {
                Subword::parse(json.clone()).map_err(|reason| unusable(path, reason))?
            }
        };
        Ok(Tokenizer::Subword(Box::new(subword)))
    }

    /// Token ids, including any that are never used.
    pub(super) fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Bytes => BYTES_SEPARATOR as usize + 1,
            Tokenizer::Subword(subword) => subword.vocab_size(),
        }
    }

    /// The token that goes after each document.
    pub(super) fn separator(&self) -> Option<u32> {
        match self {
            Tokenizer::Bytes => Some(BYTES_SEPARATOR),
            Tokenizer::Subword(subword) => subword.separator(),
        }
    }

    /// The tokenizer in the form of the `tokenizers` library, as it is kept with packed tokens; none for bytes.
    pub(super) fn json(&self) -> Option<&str> {
        match self {
            Tokenizer::Bytes => None,
            Tokenizer::Subword(subword) => Some(subword.json()),
        }
    }

    /// The token of this name; bytes have no names.
    pub(super) fn token(&self, name: &str) -> Option<u32> {
        match self {
            Tokenizer::Bytes => None,
            Tokenizer::Subword(subword) => subword.token(name),
        }
    }

    /// The token of words that a vocabulary of whole words lacks; none for other tokenizers.
    pub(super) fn unknown(&self) -> Option<u32> {
        match self {
            Tokenizer::Bytes => None,
            Tokenizer::Subword(subword) => subword.unknown(),
        }
    }

    /// The tokens that it puts before an input of its own accord.
    pub(super) fn head(&self) -> Vec<u32> {
        match self {
            Tokenizer::Bytes => Vec::new(),
            Tokenizer::Subword(subword) => subword.head(),
        }
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self {
            Tokenizer::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Tokenizer::Subword(subword) => subword.encode(text),
        }
    }

    /// The text of tokens, without special ones. What is no UTF-8 becomes U+FFFD.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        match self {
            Tokenizer::Bytes => {
                let bytes = ids.iter().filter_map(|&id| u8::try_from(id).ok());
                let bytes: Vec<u8> = bytes.collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Tokenizer::Subword(subword) => subword.decode(ids),
        }
    }
}

/// Bytes as a tokenizer of the `tokenizers` library: the same ids.
pub(super) fn byte_level_json() -> String {
    byte_level::json()
}

fn train(
    vocab: usize,
    texts: impl Iterator<Item = Result<String, DataError>> + Send,
) -> Result<Subword, DataError> {
    let mut unread = None;
    // The trainer takes texts alone: the first error ends them, and then counts.
    let texts = texts.map_while(|text| text.map_err(|error| unread = Some(error)).ok());
    let trained = bpe::train(vocab, texts).and_then(Subword::parse);
    match unread {
        Some(error) => Err(error),
        None => trained.map_err(|reason| DataError::Train {
            reason: reason.to_string(),
        }),
    }
}

fn unusable(path: &Path, reason: impl ToString) -> DataError {
    DataError::Tokenizer {
        path: path.into(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::iter;

    use super::*;
    use crate::{Split, TextConfig, text::cut::Shares};

    #[test]
    fn bytes_are_their_own_ids() {
        let tokenizer = Tokenizer::Bytes;
        assert_eq!(tokenizer.encode("aé").unwrap(), [97, 0xc3, 0xa9]);
        assert_eq!(tokenizer.vocab_size(), 257);
        assert_eq!(tokenizer.separator(), Some(256));
        assert_eq!(tokenizer.json(), None);
    }

    #[test]
    fn bytes_are_the_same_in_the_form_of_the_library() {
        let subword = Subword::parse(byte_level_json()).unwrap();
        let (subword, bytes) = (Tokenizer::Subword(Box::new(subword)), Tokenizer::Bytes);
        assert_eq!(subword.vocab_size(), bytes.vocab_size());
        assert_eq!(subword.separator(), bytes.separator());
        let all: String = (0..=255).map(char::from).collect();
        for text in [all.as_str(), "l'été 😀\n\tx  y", "<|endoftext|>", ""] {
            let ids = bytes.encode(text).unwrap();
            assert_eq!(subword.encode(text).unwrap(), ids, "{text:?}");
            for tokenizer in [&subword, &bytes] {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            }
        }
        for tokenizer in [&subword, &bytes] {
            assert_eq!(tokenizer.decode(&[97, 256, 0xc3]).unwrap(), "a\u{fffd}");
        }
    }

    #[test]
    fn byte_pairs_are_learned_from_the_pretraining_part_alone() {
        let recipe = || Recipe::Bpe { vocab: 300 };
        let shares = Shares::new(&TextConfig::default());
        let json = |later: &str| {
            let document = "the cat and the hat ".repeat(10) + &later.repeat(11);
            let part = shares.part(Split::Pretrain, &document).to_owned();
            let tokenizer = Tokenizer::make(&recipe(), iter::once(Ok(part))).unwrap();
            tokenizer.json().unwrap().to_owned()
        };
        assert_eq!(json("zzzzzzzzzzzzzzzzzzzz"), json("kkkkkkkkkkkkkkkkkkkk"));
    }

    #[test]
    fn broken_tokenizer_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let config = TokenizerConfig::File { path: path.clone() };
        let fails = |result: Result<(), DataError>| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("tokenizer.json is not a usable tokenizer"));
            assert!(message.contains("of the `tokenizers` library"));
        };
        fails(Recipe::read(&config).map(drop));
        fs::write(&path, "{}").unwrap();
        let recipe = Recipe::read(&config).unwrap();
        fails(Tokenizer::make(&recipe, iter::empty()).map(drop));
    }

    #[test]
    fn texts_that_cannot_be_read_end_the_training() {
        let missing = DataError::Missing { path: "x".into() };
        let texts = [Ok("a text".to_owned()), Err(missing)];
        let result = Tokenizer::make(&Recipe::Bpe { vocab: 300 }, texts.into_iter());
        let message = result.map(drop).unwrap_err().to_string();
        assert!(message.contains("x does not exist"), "{message}");
    }
}
