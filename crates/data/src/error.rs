//! What can go wrong.

use std::{io, path::PathBuf};

use upcycle_files::FileError;

use crate::Split;

/// Why a dataset cannot be opened or a batch cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A field of the configuration is out of range.
    #[error("in the data configuration, `{field}` is {value}; it must be {requirement}")]
    Field {
        /// The field, or the expression over fields.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        requirement: &'static str,
    },
    /// A text configuration without text.
    #[error(
        "in the data configuration, `paths` is empty; name at least one .txt file, .jsonl file, or folder of them"
    )]
    NoPaths,
    /// A configured path does not exist.
    #[error("{path} does not exist; correct the path in the data configuration")]
    Missing {
        /// The path as configured.
        path: PathBuf,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {reason}; check that it is there and may be read")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// A file is neither text nor JSON lines.
    #[error(
        "{path} is neither a .txt nor a .jsonl file; convert or rename it, or name the folder that holds the text"
    )]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A file is not UTF-8.
    #[error("{path} is not UTF-8 at byte {offset}; convert the file to UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first bad byte is, in bytes from the start of the file.
        offset: usize,
    },
    /// A line of a `.jsonl` file is not a document.
    #[error(
        "{path}, line {line}: {reason}; each line must be a JSON object with a string field \"text\""
    )]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder without text files.
    #[error("{folder} holds no .txt or .jsonl file, at any depth; name a folder that does")]
    NoTextFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// Files without text.
    #[error("there is no text in {files}: every document is empty; add text or name other files")]
    NoText {
        /// The configured paths, separated by commas.
        files: String,
    },
    /// A tokenizer file cannot be used.
    #[error(
        "{path} is not a usable tokenizer: {reason}; it must be a tokenizer.json of the `tokenizers` library"
    )]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Byte pair encoding cannot be trained.
    #[error(
        "cannot train byte pair encoding on the pre-training split: {reason}; set `tokenizer` to bytes or to a file"
    )]
    Train {
        /// What the `tokenizers` library said.
        reason: String,
    },
    /// The tokenizer rejects a text.
    #[error(
        "the tokenizer cannot encode the text that begins with {start:?}: {reason}; remove that text or use another tokenizer"
    )]
    Encode {
        /// The first characters of the text.
        start: String,
        /// What the `tokenizers` library said.
        reason: String,
    },
    /// Packed tokens cannot be saved or mapped.
    #[error(
        "packed tokens cannot be kept: {0}; check that the cache folder may be written and has space, or choose another"
    )]
    Cache(#[from] FileError),
    /// A split is shorter than one window.
    #[error(
        "the {split} split holds {tokens} tokens, less than one window of context {context} and the token after it; add text, raise the split's share, or shorten the context"
    )]
    SplitTooSmall {
        /// The split.
        split: Split,
        /// Its tokens.
        tokens: u64,
        /// The asked context, in tokens.
        context: usize,
    },
    /// A context in which nothing can be scored.
    #[error("a context of {context} tokens leaves nothing to score; it must be at least {least}")]
    ContextTooShort {
        /// The asked context, in tokens.
        context: usize,
        /// The shortest context of this dataset, in tokens.
        least: usize,
    },
    /// Rows past the end of a split.
    #[error(
        "row {row} of the {split} split was asked for, but at context {context} there are {rows}; ask for no more than `evaluation_rows` tells"
    )]
    EvaluationRow {
        /// The split.
        split: Split,
        /// The last row asked for, from 0.
        row: u64,
        /// The context, in tokens.
        context: usize,
        /// How many rows there are.
        rows: u64,
    },
    /// A batch that does not fit in memory.
    #[error(
        "a batch of {rows} rows at context {context} does not fit in memory; ask for fewer rows or a shorter context"
    )]
    BatchTooLarge {
        /// The asked rows.
        rows: usize,
        /// The asked context, in tokens.
        context: usize,
    },
}
