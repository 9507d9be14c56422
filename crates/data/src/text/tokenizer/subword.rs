//! Tokenizers of the `tokenizers` library.

use tokenizers::Tokenizer;

use crate::DataError;

/// Names under which tokenizers know the end of a text, the most common first.
const SEPARATORS: [&str; 5] = ["<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|end_of_text|>"];

/// Bytes a piece: the library needs some hundred bytes of memory for each byte that it encodes at
/// once.
const PIECE: usize = 1 << 18;

/// Pieces that are encoded at once, in parallel.
const PIECES: usize = 16;

/// A tokenizer of the `tokenizers` library.
pub(in crate::text) struct Subword {
    tokenizer: Tokenizer,
    json: String,
    vocab_size: usize,
    separator: Option<u32>,
}

impl Subword {
    pub(super) fn parse(json: String) -> tokenizers::Result<Subword> {
        let mut tokenizer: Tokenizer = json.parse()?;
        // Corpora are encoded whole, whatever inputs the tokenizer was last used for.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        // Text that spells a special token is text: only a document's end is a separator.
        tokenizer.set_encode_special_tokens(true);
        // Ids can have gaps, so that their number does not tell how many rows an embedding needs.
        let vocab_size = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .ok_or("its vocabulary is empty")? as usize
            + 1;
        let separator = SEPARATORS
            .iter()
            .find_map(|token| tokenizer.token_to_id(token));
        Ok(Subword {
            tokenizer,
            json,
            vocab_size,
            separator,
        })
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn separator(&self) -> Option<u32> {
        self.separator
    }

    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// The token of words that a vocabulary of whole words lacks; none for other tokenizers.
    pub(super) fn unknown(&self) -> Option<u32> {
        let json: serde_json::Value = serde_json::from_str(&self.json).ok()?;
        let model = json.get("model")?;
        let is_of_words = model.get("type")? == "WordLevel";
        let unknown = model.get("unk_token")?.as_str()?;
        is_of_words.then(|| self.token(unknown)).flatten()
    }

    pub(super) fn token(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_to_id(name)
    }

    /// The special tokens that its post-processor puts before an input; none where it cannot be
    /// told which these are.
    pub(super) fn head(&self) -> Vec<u32> {
        let probe = |special| self.tokenizer.encode_fast("a", special);
        let (Ok(with), Ok(without)) = (probe(true), probe(false)) else {
            return Vec::new();
        };
        let (with, without) = (with.get_ids(), without.get_ids());
        let start = with
            .windows(without.len().max(1))
            .position(|window| window == without);
        with[..start.unwrap_or(0)].to_vec()
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let pieces: Vec<&str> = pieces(text).collect();
        let mut ids = Vec::new();
        for pieces in pieces.chunks(PIECES) {
            let encodings = self
                .tokenizer
                .encode_batch_fast(pieces.to_vec(), false)
                .map_err(|reason| refused(text, reason))?;
            ids.extend(encodings.iter().flat_map(|encoding| encoding.get_ids()));
        }
        Ok(ids)
    }

    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        let text = self.tokenizer.decode(ids, true);
        text.map_err(|reason| DataError::Decode {
            reason: reason.to_string(),
        })
    }
}

fn refused(text: &str, reason: tokenizers::Error) -> DataError {
    DataError::Encode {
        start: text.chars().take(40).collect(),
        reason: reason.to_string(),
    }
}

/// A text in pieces of bounded size: whole lines, or whole characters where a line is longer.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> + Send {
    let mut rest = text;
    std::iter::from_fn(move || {
        let limit = rest.floor_char_boundary(PIECE);
        let end = match rest[..limit].rfind('\n') {
            Some(line_break) if limit < rest.len() => line_break + 1,
            _ => limit,
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::{super::bpe, *};

    fn trained() -> Subword {
        let text = "l'été à la mer, 日本語, <|endoftext|>\n".repeat(20);
        Subword::parse(bpe::train(300, [text.as_str()].into_iter()).unwrap()).unwrap()
    }

    #[test]
    fn encoding_loses_nothing() {
        let subword = trained();
        for text in ["l'été 😀\n\n\tx", " a ", "日本"] {
            let ids = subword.encode(text).unwrap();
            assert_eq!(subword.tokenizer.decode(&ids, false).unwrap(), text);
        }
        assert!(subword.encode("l'été à la mer").unwrap().len() < 10);
    }

    #[test]
    fn text_that_spells_the_separator_is_text() {
        let subword = trained();
        let separator = subword.separator().unwrap();
        let ids = subword.encode("a<|endoftext|>b").unwrap();
        assert!(!ids.contains(&separator));
        assert_eq!(
            subword.tokenizer.decode(&ids, false).unwrap(),
            "a<|endoftext|>b"
        );
    }

    #[test]
    fn long_texts_are_encoded_in_pieces() {
        let subword = trained();
        let text = "une ligne de texte\n".repeat(30_000);
        assert!(pieces(&text).count() > 2);
        assert!(pieces(&text).all(|piece| piece.len() <= PIECE && piece.ends_with('\n')));
        assert_eq!(pieces(&text).collect::<String>(), text);
        let ids = subword.encode(&text).unwrap();
        assert_eq!(subword.tokenizer.decode(&ids, false).unwrap(), text);

        let line = "€".repeat(PIECE / 2);
        assert_eq!(pieces(&line).collect::<String>(), line);
        assert_eq!(pieces("").count(), 0);
    }

    #[test]
    fn truncation_gaps_and_missing_separators_are_coped_with() {
        let subword = Subword::parse(
            r#"{
                "version": "1.0",
                "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
                "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
                "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 7}, "unk_token": "a"}
            }"#
            .to_owned(),
        )
        .unwrap();
        assert_eq!(subword.vocab_size(), 8);
        assert_eq!(subword.separator(), None);
        assert_eq!(subword.encode("a b b c").unwrap(), [0, 7, 7, 0]);
    }
}
