//! Training byte-level byte pair encoding.

use tokenizers::{
    AddedToken, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

use super::subword::pieces;

/// The token that goes after each document.
pub(super) const SEPARATOR: &str = "<|endoftext|>";

/// Trains a tokenizer of at most `vocab` tokens and returns it as JSON. The same texts give the
/// same tokenizer.
pub(super) fn train<S: AsRef<str> + Send>(
    vocab: usize,
    texts: impl Iterator<Item = S> + Send,
) -> tokenizers::Result<String> {
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab)
        // A pair that occurs once says nothing about other text.
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(SEPARATOR, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let texts = texts.flat_map(|text| {
        let pieces = pieces(text.as_ref()).map(str::to_owned);
        pieces.collect::<Vec<String>>()
    });
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(byte_level))
        .with_decoder(Some(byte_level))
        .train(&mut trainer, texts)?;
    tokenizer.to_string(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// Enough words, with enough ties between pairs, for an unstable order to show.
    fn text() -> String {
        (0..20_000_u32)
            .map(|i| {
                format!(
                    "{}{} ",
                    i * i % 977,
                    ["ba", "né", "\n", "ti "][i as usize % 4]
                )
            })
            .collect()
    }

    #[test]
    fn training_is_deterministic() {
        let text = text();
        let train = || train(900, [text.as_str()].into_iter()).unwrap();
        let first = train();
        for _ in 0..3 {
            assert_eq!(train(), first);
        }
    }

    #[test]
    fn the_vocabulary_is_at_most_as_large_as_asked() {
        let size = |vocab, text: &str| {
            let json = train(vocab, [text].into_iter()).unwrap();
            let tokenizer: Tokenizer = json.parse().unwrap();
            tokenizer.get_vocab_size(true)
        };
        assert_eq!(size(600, &text()), 600);
        assert_eq!(size(257, &text()), 257);
        assert_eq!(size(600, "ab ab"), 258);
        assert_eq!(size(600, ""), 257);
    }
}
