//! Buffers that are written in full before they are read, and so need not be cleared first.

use std::mem::MaybeUninit;

use super::parallel::Disjoint;

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
