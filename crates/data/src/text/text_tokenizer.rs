//! A tokenizer for text that is of no corpus: questions, prompts.

use std::{iter, path::Path};

use super::tokenizer::{Recipe, Tokenizer};
use crate::{DataError, TokenizerConfig};

/// Turns text that is of no corpus into the tokens that a model was trained on.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    head: Vec<u32>,
}

impl TextTokenizer {
    /// One token a byte.
    pub fn bytes() -> TextTokenizer {
        TextTokenizer {
            tokenizer: Tokenizer::Bytes,
            head: Vec::new(),
        }
    }

    /// The tokenizer in a `tokenizer.json` of the `tokenizers` library.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is no tokenizer.
    pub fn read(path: &Path) -> Result<TextTokenizer, DataError> {
        let recipe = Recipe::read(&TokenizerConfig::File { path: path.into() })?;
        let tokenizer = Tokenizer::make(&recipe, iter::empty())?;
        let head = tokenizer.head();
        Ok(TextTokenizer { tokenizer, head })
    }

    /// Token ids, including any that are never used.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The token that goes after each document of a corpus.
    pub fn separator(&self) -> Option<u32> {
        self.tokenizer.separator()
    }

    /// The token of this name.
    pub fn token(&self, name: &str) -> Option<u32> {
        self.tokenizer.token(name)
    }

    /// The tokens of a text alone.
    ///
    /// # Errors
    ///
    /// If the tokenizer rejects the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokenizer.encode(text)
    }

    /// The tokens of a text behind those that the tokenizer puts before every input of its own
    /// accord, such as `<s>` of Llama's; most have none.
    ///
    /// # Errors
    ///
    /// If the tokenizer rejects the text.
    pub fn encode_input(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let text = self.encode(text)?;
        Ok([self.head.as_slice(), text.as_slice()].concat())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;

    use super::*;

    #[test]
    fn bytes_have_no_head() {
        let tokenizer = TextTokenizer::bytes();
        assert_eq!(tokenizer.encode_input("ab").unwrap(), [97, 98]);
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.separator()),
            (257, Some(256))
        );
        assert_eq!(tokenizer.token("<s>"), None);
    }

    #[test]
    fn what_a_tokenizer_puts_before_inputs_is_put_before_inputs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = r#"{
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 2, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}}
            },
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<s>": 2}, "unk_token": "a"}
        }"#;
        fs::write(&path, json).unwrap();
        let tokenizer = TextTokenizer::read(&path).unwrap();
        assert_eq!(tokenizer.encode("b a").unwrap(), [1, 0]);
        assert_eq!(tokenizer.encode_input("b a").unwrap(), [2, 1, 0]);
        assert_eq!(tokenizer.token("<s>"), Some(2));
    }
}
