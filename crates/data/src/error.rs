//! What can go wrong.

use std::{
    io,
    path::{Path, PathBuf},
};

use upcycle_files::FileError;

use crate::{RemoteError, Split};

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
        "in the data configuration, `paths` is empty; name at least one .txt, .jsonl or .parquet file, or folder of them"
    )]
    NoPaths,
    /// The size of a built-in corpus that is no number.
    #[error("`{size}` is no size of the corpus {name}; an example is {name}:20")]
    SkillSize {
        /// The corpus.
        name: String,
        /// What stands behind the colon.
        size: String,
    },
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
    /// A pattern that is none, or matches no text.
    #[error(
        "the pattern {pattern} cannot be used: {reason}; correct it in the data configuration, with quotes around it where a shell reads it"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is neither text nor JSON lines nor Parquet.
    #[error(
        "{path} is neither a .txt nor a .jsonl file (also as .gz or .zst) nor a .parquet file; convert or rename it, or name the folder that holds the text"
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
    /// A compressed file is damaged.
    #[error("{path} cannot be decompressed: {reason}; it is damaged or not whole: get it again")]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: io::Error,
    },
    /// A Parquet file is damaged, or uses what is not known here.
    #[error("{path} is not a whole Parquet file: {reason}; get it again, or leave it out")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A Parquet file is compressed in a way that is not known here.
    #[error(
        "the text in {path} is compressed with {codec}, which cannot be read; write the file again with zstd, snappy, gzip, lz4 or no compression"
    )]
    ParquetCompression {
        /// The file.
        path: PathBuf,
        /// The compression.
        codec: &'static str,
    },
    /// A Parquet file lacks the column.
    #[error(
        "{path} has no column \"{column}\"; it has {columns}: name the one that holds the text with `text_column`"
    )]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns there are, separated by commas.
        columns: String,
    },
    /// A column of a Parquet file does not hold text.
    #[error(
        "column \"{column}\" of {path} is {kind}, not strings; name one that holds text with `text_column`"
    )]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// What it holds.
        kind: String,
    },
    /// A row of a Parquet file is not UTF-8.
    #[error(
        "row {row} of column \"{column}\" of {path} is not UTF-8; name a column that holds text with `text_column`, or write the file again"
    )]
    RowNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The row, from 1.
        row: u64,
    },
    /// Files differ from what was read a moment before.
    #[error("{paths} changed while it was read; start again when nothing writes to it any more")]
    Changing {
        /// The paths, separated by commas.
        paths: String,
    },
    /// A file has two uses that exclude each other.
    #[error(
        "{file} is both {first} and {second} text, so that losses on it would mean nothing; leave it out of one of them"
    )]
    HeldOutTwice {
        /// The file.
        file: PathBuf,
        /// A use.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A document that is to stay whole does not fit a split.
    #[error(
        "a document of {bytes} bytes in {paths} is longer than the smallest split, of {limit} bytes; leave `split_documents` at auto, so that it is cut, add text, or give text of its own for validation and test"
    )]
    LongDocument {
        /// The paths that it is in, separated by commas.
        paths: String,
        /// Its bytes.
        bytes: u64,
        /// The smallest split's share of all bytes.
        limit: u64,
    },
    /// Something is wrong with one source of a mixture.
    #[error("{paths}: {error}")]
    OfSource {
        /// The paths of the source, separated by commas.
        paths: String,
        /// What is wrong.
        error: Box<DataError>,
    },
    /// A line of JSON is not a document.
    #[error(
        "{path}, line {line}: {reason}; each line must be a JSON object with a string field \"{column}\" (`text_column` names another)"
    )]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field that should hold the text.
        column: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A table that is not there.
    #[error("{path} does not exist; correct the path")]
    NoTable {
        /// The file.
        path: PathBuf,
    },
    /// A line of a table is not a row.
    #[error("{path}, line {line}: {reason}; each line must be a JSON object")]
    TableLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A data set of the hub cannot be had.
    #[error("{0}")]
    Remote(RemoteError),
    /// A data set of the hub where there is none.
    #[error(
        "{path} is a data set of the Hugging Face hub, and the hub is not compiled in; build with `--features hub`, or download its files and name them"
    )]
    NoHub {
        /// The path as configured.
        path: PathBuf,
    },
    /// A data set of the hub among other paths.
    #[error(
        "{path} is a data set of the Hugging Face hub, which is fetched as far as needed and cannot stand among other paths; make it a source of a mixture, each path with a weight, as in {path}=0.5"
    )]
    RemoteBeside {
        /// The path as configured.
        path: PathBuf,
    },
    /// A folder without text files.
    #[error(
        "{folder} holds no .txt or .jsonl file (also as .gz or .zst) nor a .parquet file, at any depth; name a folder that does"
    )]
    NoTextFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// The observer wanted an end.
    #[error(
        "stopped while text was being read; nothing half-packed is kept, and the same command begins with it again"
    )]
    Interrupted,
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
    /// The tokenizer has no text for tokens.
    #[error("the tokenizer cannot decode: {reason}; use the one that the model was trained with")]
    Decode {
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

impl DataError {
    pub(crate) fn unreadable(path: &Path, reason: io::Error) -> DataError {
        DataError::Read {
            path: path.into(),
            reason,
        }
    }
}
