//! Who is told how far text is read, and may end it.

use std::{
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::DataError;

/// What is done with text when a corpus is opened, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextWork {
    /// All of it is read, to know whether it is packed already.
    Reading,
    /// A tokenizer is trained on it.
    Learning,
    /// It is tokenized and kept.
    Packing,
}

/// How far the text of a corpus is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextProgress {
    /// What it is read for.
    pub work: TextWork,
    /// Bytes of files that were read for this, as they lie on the disk.
    pub bytes: u64,
    /// Bytes of all files that are to be read for this.
    pub total: u64,
    /// Tokens that were packed.
    pub tokens: u64,
}

/// Is told now and then, and ends the work with [`ControlFlow::Break`].
pub type TextObserver<'a> = dyn Fn(TextProgress) -> ControlFlow<()> + Sync + 'a;

/// Bytes after which an observer is told again.
const STEP: u64 = 1 << 20;

/// Counts what is read, and tells an observer.
pub(crate) struct Watch<'a> {
    observer: &'a TextObserver<'a>,
    progress: Mutex<TextProgress>,
    is_stopped: AtomicBool,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(observer: &'a TextObserver<'a>) -> Watch<'a> {
        Watch {
            observer,
            progress: Mutex::new(TextProgress {
                work: TextWork::Reading,
                bytes: 0,
                total: 0,
                tokens: 0,
            }),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Nobody is told.
    pub(crate) fn silent() -> Watch<'static> {
        const NOBODY: &TextObserver<'static> = &|_| ControlFlow::Continue(());
        Watch::new(NOBODY)
    }

    /// Begins to read files of so many bytes.
    pub(crate) fn begin(&self, work: TextWork, total: u64) {
        self.change(|progress| {
            *progress = TextProgress {
                work,
                bytes: 0,
                total,
                tokens: 0,
            };
            true
        });
    }

    /// There are so many more bytes to read than was known.
    pub(crate) fn found(&self, bytes: u64) {
        self.change(|progress| {
            progress.total += bytes;
            true
        });
    }

    /// So many more bytes of files were read.
    pub(crate) fn read(&self, bytes: u64) {
        self.change(|progress| {
            let before = progress.bytes;
            progress.bytes += bytes;
            progress.bytes / STEP > before / STEP
        });
    }

    /// So many more tokens were packed.
    pub(crate) fn packed(&self, tokens: u64) {
        self.change(|progress| {
            progress.tokens += tokens;
            true
        });
    }

    /// Whether to go on.
    ///
    /// # Errors
    ///
    /// If the observer wants an end.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        match self.is_stopped.load(Ordering::Relaxed) {
            true => Err(DataError::Interrupted),
            false => Ok(()),
        }
    }

    /// Changes the progress, and tells it if `change` says so.
    fn change(&self, change: impl FnOnce(&mut TextProgress) -> bool) {
        let (is_due, progress) = {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            (change(&mut progress), *progress)
        };
        if is_due && (self.observer)(progress).is_break() {
            self.is_stopped.store(true, Ordering::Relaxed);
        }
    }
}
