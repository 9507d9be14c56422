//! Buffers that are written before they are read, and so need not be cleared first.

use std::{cell::Cell, mem::MaybeUninit};

use super::parallel::Disjoint;

/// Memory that a thread needs during an operation, with anything in it.
///
/// A thread keeps it for its next operation: clearing new memory takes as long as many an operation of a small model.
pub(crate) struct Scratch(Vec<f32>);

thread_local! {
    /// What the last operation of this thread needed.
    static SPARE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Elements that a thread keeps at most, 4 MiB.
const LARGEST_SPARE: usize = 1 << 20;
/// Elements of a cache line.
pub(crate) const LINE: usize = 16;

impl Scratch {
    /// Room for parts of these sizes.
    pub(crate) fn new<const N: usize>(sizes: [usize; N]) -> Self {
        let len = sizes
            .iter()
            .map(|size| size.next_multiple_of(LINE))
            .sum::<usize>();
        let mut memory = SPARE.take();
        memory.resize(len.max(memory.len()), 0.0);
        Self(memory)
    }

    /// Parts of these sizes, no larger than those that there was made room for.
    pub(crate) fn parts<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        let mut rest = self.0.as_mut_slice();
        sizes.map(|size| {
            let (part, behind) =
                std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(LINE));
            rest = behind;
            &mut part[..size]
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.len() <= LARGEST_SPARE {
            SPARE.set(std::mem::take(&mut self.0));
        }
    }
}

/// Room for elements of which none has been written yet.
pub(crate) struct Unwritten {
    memory: Vec<f32>,
    len: usize,
}

impl Unwritten {
    /// Room for `len` elements.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            memory: Vec::with_capacity(len),
            len,
        }
    }

    /// The memory, for tasks to write.
    pub(crate) fn parts(&mut self) -> Disjoint<'_, MaybeUninit<f32>> {
        Disjoint::new(&mut self.memory.spare_capacity_mut()[..self.len])
    }

    /// The elements.
    ///
    /// # Safety
    /// All of them must have been written.
    pub(crate) unsafe fn written(mut self) -> Vec<f32> {
        // SAFETY: there is room for them, and the caller wrote them.
        unsafe { self.memory.set_len(self.len) };
        self.memory
    }
}

/// A vector of `len` elements.
///
/// # Safety
/// `write` must write all of them.
pub(crate) unsafe fn filled(
    len: usize,
    write: impl FnOnce(Disjoint<'_, MaybeUninit<f32>>),
) -> Vec<f32> {
    let mut buffer = Unwritten::new(len);
    write(buffer.parts());
    // SAFETY: the caller wrote them.
    unsafe { buffer.written() }
}
