//! Text for a model to continue, and text from what it says.

use std::path::Path;

use super::tokenizer::{Recipe, Tokenizer};
use crate::{DataError, TokenizerConfig};

/// A tokenizer outside of a corpus: that of a checkpoint, for questions and prompts.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// What goes before every input.
    head: Vec<u32>,
}

impl TextTokenizer {
    /// Every byte is a token.
    pub fn bytes() -> Self {
        Self {
            tokenizer: Tokenizer::Bytes,
            head: Vec::new(),
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not one of the `tokenizers` library.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let path = path.to_owned();
        let recipe = Recipe::read(&TokenizerConfig::File { path })?;
        let tokenizer = Tokenizer::make(&recipe, std::iter::empty())?;
        let head = tokenizer.head();
        Ok(Self { tokenizer, head })
    }

    /// Token ids, including any that are never used.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The token that goes after each document of a corpus, and ends a text; none if the tokenizer knows none.
    pub fn separator(&self) -> Option<u32> {
        self.tokenizer.separator()
    }

    /// The token of words that a vocabulary of whole words lacks; none for other tokenizers.
    pub fn unknown(&self) -> Option<u32> {
        self.tokenizer.unknown()
    }

    /// The token of this name.
    pub fn token(&self, name: &str) -> Option<u32> {
        self.tokenizer.token(name)
    }

    /// Tokens of a text, as corpora have them.
    ///
    /// # Errors
    ///
    /// If the tokenizer rejects the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokenizer.encode(text)
    }

    /// The tokens of a text behind those that the tokenizer puts before every input of its own accord, such as `<s>` of
    /// Llama's; most have none.
    ///
    /// # Errors
    ///
    /// If the tokenizer rejects the text.
    pub fn encode_input(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let text = self.encode(text)?;
        Ok([self.head.as_slice(), text.as_slice()].concat())
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.tokenizer.decode(ids)
    }

    /// The text of what follows some tokens, piece by piece.
    pub fn stream(&self, before: &[u32]) -> TextStream<'_> {
        TextStream {
            tokenizer: &self.tokenizer,
            ids: before.to_vec(),
            start: before.len().saturating_sub(MEMORY),
            given: before.len(),
        }
    }
}

/// Tokens before the first that it is decoded with: how a token is written can depend on those before it.
const MEMORY: usize = 5;

/// Text from tokens as they come. No character is given in parts: bytes that do not end one are held back.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Tokens from here on are decoded together.
    start: usize,
    /// The text of tokens up to here was given.
    given: usize,
}

impl TextStream<'_> {
    /// Adds a token, and gives the text that is certain by now; empty if none is.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot decode the tokens.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids[self.start..])?;
        match text.ends_with(char::REPLACEMENT_CHARACTER) {
            true => Ok(String::new()),
            false => self.give(&text),
        }
    }

    /// Gives what was held back, with U+FFFD where a character has no end.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot decode the tokens.
    pub fn finish(&mut self) -> Result<String, DataError> {
        let text = self.tokenizer.decode(&self.ids[self.start..])?;
        self.give(&text)
    }

    /// What a text of the tokens from `start` on adds to what was given.
    fn give(&mut self, text: &str) -> Result<String, DataError> {
        let before = (self.tokenizer).decode(&self.ids[self.start..self.given])?;
        // A character that was open is given whole.
        let whole = before.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let new = text.get(whole.len()..).unwrap_or_default();
        // A token without a text does not become the first: a space in front of the next one would be lost.
        if !new.is_empty() {
            // What is decoded together begins with a whole character.
            if whole.len() == before.len() {
                self.start = self.given;
            }
            self.given = self.ids.len();
        }
        Ok(new.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;

    use super::{super::tokenizer::byte_level_json, *};

    /// Pieces of the text of some tokens, and what is left in the end.
    fn pieces(tokenizer: &TextTokenizer, before: &[u32], ids: &[u32]) -> (Vec<String>, String) {
        let mut stream = tokenizer.stream(before);
        let pieces = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        (pieces, stream.finish().unwrap())
    }

    fn read(json: &str) -> TextTokenizer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        fs::write(&path, json).unwrap();
        TextTokenizer::read(&path).unwrap()
    }

    #[test]
    fn characters_are_given_whole() {
        for tokenizer in [TextTokenizer::bytes(), read(&byte_level_json())] {
            let before = tokenizer.encode("été ").unwrap();
            let ids = tokenizer.encode("aé😀b").unwrap();
            let (given, left) = pieces(&tokenizer, &before, &ids);
            assert_eq!(given, ["a", "", "é", "", "", "", "😀", "b"]);
            assert_eq!(left, "");
            // The end is missing.
            let (given, left) = pieces(&tokenizer, &before, &ids[..5]);
            assert_eq!((given.concat().as_str(), left.as_str()), ("aé", "\u{fffd}"));
            // A byte that begins no character is shown with what follows.
            let (given, left) = pieces(&tokenizer, &[], &[0xff, 97]);
            assert_eq!(
                (given, left.as_str()),
                (vec![String::new(), "\u{fffd}a".into()], "")
            );
        }
    }

    #[test]
    fn a_character_that_the_prompt_leaves_open_is_given_whole() {
        let tokenizer = TextTokenizer::bytes();
        for text in ["xé", "x→", "x😀"] {
            let ids = tokenizer.encode(&format!("{text}ab")).unwrap();
            let (given, left) = pieces(&tokenizer, &ids[..2], &ids[2..]);
            assert_eq!(given.concat() + &left, format!("{}ab", &text[1..]));
        }
    }

    #[test]
    fn spaces_between_words_depend_on_what_was_before() {
        let words = read(
            r#"{
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
                "decoder": null,
                "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
            }"#,
        );
        let given = |before: &[u32]| pieces(&words, before, &[1, 0]).0.concat();
        assert_eq!(given(&[0]), " b a");
        assert_eq!(given(&[]), "b a");
    }

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
        let tokenizer = read(
            r#"{
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
        }"#,
        );
        assert_eq!(tokenizer.encode("b a").unwrap(), [1, 0]);
        assert_eq!(tokenizer.encode_input("b a").unwrap(), [2, 1, 0]);
        assert_eq!(tokenizer.token("<s>"), Some(2));
        // It is of no text.
        assert_eq!(pieces(&tokenizer, &[2], &[2, 0]).0.concat(), "a");
    }
}
