//! From texts to the tokens that a model sees and those that are scored.
//!
//! The rules are those of lm-evaluation-harness, so that scores are the same.

use upcycle_data::{DataError, TextTokenizer};

use crate::item::Continuation;

/// Tokens that a model sees, and those that should follow its last positions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// What the model sees, at most its context.
    pub inputs: Vec<u32>,
    /// What should follow the last `targets.len()` of the inputs; there are as many inputs or more.
    pub targets: Vec<u32>,
}

/// A tokenizer, and the token that stands before a text which nothing stands before.
pub struct Encoder {
    tokenizer: TextTokenizer,
    prefix: u32,
    unknown: Option<u32>,
}

/// Why a text cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// The tokenizer rejects it.
    #[error(transparent)]
    Tokenizer(#[from] DataError),
    /// Nothing of it is left to score.
    #[error("what is to be scored has no token")]
    Empty,
    /// The model has no token for a word of it.
    #[error(
        "`{text}` has a word that the model does not know; a model of a built-in corpus knows the words of that corpus and size alone"
    )]
    Unknown {
        /// What is to be scored.
        text: String,
    },
    /// It is longer than the model's context.
    #[error(
        "what is to be scored has {tokens} tokens, and the model's context is {context}; leave the item out, or use a model of a longer context"
    )]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// Longest sequence of the model, in tokens.
        context: usize,
    },
}

/// What Python takes for whitespace.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Words of a text as lm-evaluation-harness counts them: the parts that `re.split(r"\s+", text)`
/// gives, so that space at an end counts for a word of no letters.
pub(crate) fn count_words(text: &str) -> usize {
    let mut words = 1;
    let mut in_space = false;
    for c in text.chars() {
        if is_space(c) && !in_space {
            words += 1;
        }
        in_space = is_space(c);
    }
    words
}

impl Encoder {
    /// An encoder. `prefix` is the token that texts begin with, or that ends them.
    pub fn new(tokenizer: TextTokenizer, prefix: u32) -> Encoder {
        let unknown = tokenizer.unknown();
        Encoder {
            tokenizer,
            prefix,
            unknown,
        }
    }

    /// Token ids, including any that are never used.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The tokens of a continuation behind its context.
    ///
    /// White space at the end of the context goes to the continuation. Both are tokenized as one
    /// text, and what the tokens of the context alone are fewer is the continuation, also where a
    /// token spans both. Without a context the prefix stands in its place, unless the continuation
    /// begins with it. What is longer than the model's context and the token after it loses its
    /// beginning.
    pub(crate) fn continuation(
        &self,
        item: &Continuation,
        context: usize,
    ) -> Result<Sequence, SequenceError> {
        let before = item.context.trim_end_matches(is_space);
        let (mut tokens, first) = if before.is_empty() {
            let text = format!("{}{}", item.context, item.text);
            let mut tokens = self.tokenizer.encode(&text)?;
            if tokens.first() != Some(&self.prefix) {
                tokens.insert(0, self.prefix);
            }
            (tokens, 1)
        } else {
            let text = format!("{}{}", item.context, item.text);
            let first = self.tokenizer.encode_input(before)?.len();
            (self.tokenizer.encode_input(&text)?, first)
        };
        let targets = match tokens.get(first..) {
            Some(targets) if !targets.is_empty() => targets.to_vec(),
            _ => return Err(SequenceError::Empty),
        };
        if targets.iter().any(|&token| Some(token) == self.unknown) {
            return Err(SequenceError::Unknown {
                text: item.text.clone(),
            });
        }
        if targets.len() > context {
            return Err(SequenceError::TooLong {
                tokens: targets.len(),
                context,
            });
        }
        tokens.pop();
        let left = tokens.len().saturating_sub(context);
        tokens.drain(..left);
        Ok(Sequence {
            inputs: tokens,
            targets,
        })
    }

    /// The tokens of a document in windows, each token scored once: the first behind the prefix,
    /// the last window with as much of what stands before it as fits.
    pub(crate) fn windows(
        &self,
        document: &str,
        context: usize,
    ) -> Result<Vec<Sequence>, SequenceError> {
        let tokens = self.tokenizer.encode_input(document)?;
        if tokens.is_empty() {
            return Err(SequenceError::Empty);
        }
        Ok(windows(&tokens, self.prefix, context))
    }
}

fn windows(tokens: &[u32], prefix: u32, context: usize) -> Vec<Sequence> {
    // What stands before token `i` is entry `i`.
    let whole = [&[prefix], tokens].concat();
    let starts = (0..tokens.len()).step_by(context.max(1));
    let windows = starts.map(|start| {
        let end = tokens.len().min(start + context);
        Sequence {
            inputs: whole[end.saturating_sub(context)..end].to_vec(),
            targets: tokens[start..end].to_vec(),
        }
    });
    windows.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    /// Bytes, with their separator as the prefix.
    fn bytes(context: &str, text: &str, longest: usize) -> Result<Sequence, SequenceError> {
        let item = Continuation {
            context: context.into(),
            text: text.into(),
        };
        Encoder::new(TextTokenizer::bytes(), 256).continuation(&item, longest)
    }

    fn tokens(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn a_continuation_follows_its_context() {
        let sequence = bytes("ab", " cd", 10).unwrap();
        assert_eq!(sequence.inputs, tokens("ab c"));
        assert_eq!(sequence.targets, tokens(" cd"));
    }

    #[test]
    fn space_at_the_end_of_the_context_is_scored() {
        let sequence = bytes("ab \n", "c", 10).unwrap();
        assert_eq!(sequence.inputs, tokens("ab \n"));
        assert_eq!(sequence.targets, tokens(" \nc"));
    }

    #[test]
    fn nothing_before_a_text_is_the_prefix() {
        for (context, text) in [("", " c"), (" ", "c")] {
            let sequence = bytes(context, text, 10).unwrap();
            assert_eq!(sequence.inputs, [256, 32]);
            assert_eq!(sequence.targets, [32, 99]);
        }
    }

    #[test]
    fn long_contexts_lose_their_beginning() {
        let sequence = bytes("abcdef", "gh", 4).unwrap();
        assert_eq!(sequence.inputs, tokens("defg"));
        assert_eq!(sequence.targets, tokens("gh"));
        assert_eq!(bytes("abcdef", "ghij", 4).unwrap().inputs, tokens("fghi"));
        let error = bytes("a", "bcdef", 4).unwrap_err().to_string();
        assert!(
            error.contains("5 tokens") && error.contains("is 4"),
            "{error}"
        );
        assert!(matches!(bytes("a", "", 4), Err(SequenceError::Empty)));
    }

    #[test]
    fn windows_are_those_of_the_harness() {
        // get_rolling_token_windows([1..=5], prefix 9, max_seq_len 2, context_len 1).
        let expected: [(Vec<u32>, Vec<u32>); 3] = [
            (vec![9, 1], vec![1, 2]),
            (vec![2, 3], vec![3, 4]),
            (vec![3, 4], vec![5]),
        ];
        let windows = windows(&[1, 2, 3, 4, 5], 9, 2);
        let windows: Vec<_> = windows
            .into_iter()
            .map(|it| (it.inputs, it.targets))
            .collect();
        assert_eq!(windows, expected);
    }

    #[test]
    fn words_are_counted_as_the_harness_does() {
        for (text, words) in [
            ("", 1),
            ("a", 1),
            ("a b", 2),
            (" a  b\n", 4),
            ("a\u{1c}b", 2),
        ] {
            assert_eq!(count_words(text), words, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_token_is_scored_once(tokens in prop::collection::vec(0_u32..50, 1..60), context in 1_usize..20) {
            let windows = windows(&tokens, 77, context);
            let scored: Vec<u32> = windows.iter().flat_map(|it| it.targets.clone()).collect();
            prop_assert_eq!(&scored, &tokens);
            let whole = [&[77], tokens.as_slice()].concat();
            let mut end = 0;
            for window in &windows {
                prop_assert!(window.inputs.len() <= context);
                prop_assert!(window.targets.len() <= window.inputs.len());
                end += window.targets.len();
                // What stands before the last target is the last input.
                prop_assert_eq!(&window.inputs[..], &whole[end - window.inputs.len()..end]);
            }
        }

        #[test]
        fn scored_tokens_end_the_text(context in "[a-c ]{0,20}", text in "[a-c ]{1,8}", longest in 8_usize..30) {
            if let Ok(sequence) = bytes(&context, &text, longest) {
                let whole = tokens(&format!("{context}{text}"));
                prop_assert!(whole.ends_with(&sequence.targets));
                prop_assert!(sequence.targets.ends_with(&tokens(&text)));
                prop_assert!(sequence.inputs.len() <= longest);
                prop_assert!(sequence.targets.len() <= sequence.inputs.len());
            }
        }
    }
}
