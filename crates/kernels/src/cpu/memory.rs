//! Buffers that are written in full before they are read, and so need not be cleared first.

use std::mem::MaybeUninit;

use super::parallel::Disjoint;

/// Room for elements of which none has been written yet.
pub(crate) struct Unwritten(Vec<f32>);

impl Unwritten {
    /// Room for `len` elements.
    pub(crate) fn new(len: usize) -> Self {
        Self(Vec::with_capacity(len))
    }

    /// The memory to write, `len` elements.
    pub(crate) fn memory(&mut self, len: usize) -> &mut [MaybeUninit<f32>] {
        &mut self.0.spare_capacity_mut()[..len]
    }

    /// The buffer as a vector.
    ///
    /// # Safety
    /// The first `len` elements of [`memory`](Self::memory) must have been written.
    pub(crate) unsafe fn written(mut self, len: usize) -> Vec<f32> {
        assert!(len <= self.0.capacity(), "within the buffer");
        // SAFETY: the capacity was checked, and the caller wrote the elements.
        unsafe { self.0.set_len(len) };
        self.0
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
    write(Disjoint::new(buffer.memory(len)));
    // SAFETY: the caller wrote them.
    unsafe { buffer.written(len) }
}
