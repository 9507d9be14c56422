//! Vocabularies of whole words.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// The token that goes after each document.
pub(super) const SEPARATOR: u32 = 0;

/// What every vocabulary begins with: the separator, and what stands for words that are not in it.
const SPECIAL: [&str; 2] = ["<|endoftext|>", "<|unknown|>"];

/// The words of a corpus, which are its tokens.
#[derive(Default)]
pub(super) struct Words {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Words {
    pub(super) fn new() -> Words {
        let mut words = Words::default();
        for word in SPECIAL {
            words.add(word);
        }
        words
    }

    /// The id of a word, which is new if it was not there.
    pub(super) fn add(&mut self, word: &str) -> u32 {
        if let Some(id) = self.ids.get(word) {
            return *id;
        }
        let id = self.words.len() as u32;
        self.words.push(word.to_owned());
        self.ids.insert(word.to_owned(), id);
        id
    }

    /// The ids of the words of a text.
    pub(super) fn add_all(&mut self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|word| self.add(word)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Words with spaces between them.
    pub(super) fn text(&self, ids: &[u32]) -> String {
        let words = ids.iter().map(|&id| self.words[id as usize].as_str());
        words.collect::<Vec<&str>>().join(" ")
    }

    /// The vocabulary as a tokenizer of the `tokenizers` library.
    pub(super) fn tokenizer_json(&self) -> String {
        let special = (0..).zip(SPECIAL).map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true
            })
        });
        let vocab = self
            .ids
            .iter()
            .map(|(word, &id)| (word.clone(), Value::from(id)));
        let vocab: Map<String, Value> = vocab.collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": special.collect::<Vec<Value>>(),
            "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null,
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": SPECIAL[1]},
        })
        .to_string()
    }
}
