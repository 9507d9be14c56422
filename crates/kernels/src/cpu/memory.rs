//! Buffers that are written before they are read, and so need not be cleared first.

use std::{cell::RefCell, mem::MaybeUninit};

use super::parallel::Disjoint;

/// Memory that a thread needs during an operation, with anything in it, from the start of a cache line.
///
/// A thread keeps it for its next operation: clearing new memory takes as long as many an operation of a small model.
pub(crate) struct Scratch(Vec<Line>);

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

thread_local! {
    /// What operations of this thread needed that are over. One within another takes what it took the last time.
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Cache lines of one scratch that a thread keeps at most, 4 MiB.
const LARGEST_SPARE: usize = 1 << 16;
/// Elements of a cache line.
pub(crate) const LINE: usize = 16;

impl Scratch {
    /// Room for parts of these sizes.
    pub(crate) fn new<const N: usize>(sizes: [usize; N]) -> Self {
        let lines = sizes.iter().map(|size| size.div_ceil(LINE)).sum::<usize>();
        let mut memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        memory.resize(lines.max(memory.len()), Line([0.0; LINE]));
        Self(memory)
    }

    /// Parts of these sizes, no larger than those that there was made room for.
    pub(crate) fn parts<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        let (lines, elements) = (self.0.as_mut_ptr(), self.0.len() * LINE);
        // SAFETY: a line is so many elements without gaps, and the lines are borrowed exclusively for as long as the parts.
        let mut rest = unsafe { std::slice::from_raw_parts_mut(lines.cast::<f32>(), elements) };
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
            SPARE.with_borrow_mut(|spare| spare.push(std::mem::take(&mut self.0)));
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
