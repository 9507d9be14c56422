//! Bytes as tokens, in the form of the `tokenizers` library, so that a checkpoint can say what its tokens are.

use serde_json::{Map, Value, json};

use super::{BYTES_SEPARATOR, bpe::SEPARATOR};

/// `tokenizer.json` of byte pair encoding without a pair.
pub(super) fn json() -> String {
    let mut vocab: Map<String, Value> = (letters().enumerate())
        .map(|(byte, letter)| (letter.to_string(), byte.into()))
        .collect();
    vocab.insert(SEPARATOR.to_owned(), BYTES_SEPARATOR.into());
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": BYTES_SEPARATOR, "content": SEPARATOR, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": []
        }
    });
    tokenizer.to_string()
}

/// The letters that byte-level tokenizers write bytes with, in the order of the bytes: printable characters stand for
/// themselves, and all others are shifted behind the last byte, one after the other.
fn letters() -> impl Iterator<Item = char> {
    let mut behind = 256..;
    (0..=255_u8).map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => (behind.next())
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}
