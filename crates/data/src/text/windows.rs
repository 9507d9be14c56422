//! Stretches of a stream.

use upcycle_digest::Digest;

use super::stream::TokenStream;
use crate::{DataError, Split, permutation::Permutation, spread::spread};

/// A stream in windows of `context + 1` tokens, each beginning with the last token of the one
/// before, so that every token but the first is a target once.
pub(super) struct Windows<'a> {
    stream: &'a TokenStream,
    context: usize,
    count: u64,
}

impl<'a> Windows<'a> {
    /// The windows of a stream, of which there is at least one.
    pub(super) fn new(
        split: Split,
        stream: &'a TokenStream,
        context: usize,
    ) -> Result<Windows<'a>, DataError> {
        if context == 0 {
            return Err(DataError::ContextTooShort { context, least: 1 });
        }
        let tokens = stream.tokens();
        let count = tokens.saturating_sub(1) / context as u64;
        if count == 0 {
            return Err(DataError::SplitTooSmall {
                split,
                tokens,
                context,
            });
        }
        Ok(Windows {
            stream,
            context,
            count,
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The window at place `row` of an endless shuffle, in which each epoch holds every window
    /// once.
    pub(super) fn shuffled(&self, split: Split, seed: u64, row: u64) -> u64 {
        let key = Digest::new("upcycle-data text epoch 1")
            .bytes(split.name().as_bytes())
            .number(seed)
            .number(row / self.count)
            .key();
        Permutation::new(key, self.count).apply(row % self.count)
    }

    /// The window at place `row` of a fixed order, every prefix of which covers the whole stream
    /// and so every domain. `row` must be less than the count.
    pub(super) fn spread(&self, row: u64) -> u64 {
        spread(row, self.count)
    }

    /// Writes the tokens of a window and those that follow them, as many as there is room for.
    pub(super) fn copy(&self, window: u64, inputs: &mut [u32], targets: &mut [u32]) {
        // The window lies in a mapped file, so its place fits the address space.
        let start = window as usize * self.context;
        for (slots, start) in [(inputs, start), (targets, start + 1)] {
            let slots = slots.iter_mut().zip(self.stream.ids(start));
            slots.for_each(|(slot, id)| *slot = id);
        }
    }
}
