//! Large buffers that are used again: a fresh one costs a page fault every 4 KiB, more than most work done on it.
//!
//! The operations take their buffers from here and return what they need no longer, kept tensors included. Whoever
//! is done with a result, such as an optimizer with a gradient, can do so as well by [`recycle`].

use std::{
    mem::MaybeUninit,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Elements from which on a buffer is worth keeping.
const SMALLEST: usize = 1 << 14;
/// Most elements kept, 2 GiB; the oldest go first.
const LIMIT: usize = 1 << 29;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    buffers: Vec::new(),
    elements: 0,
});

struct Pool {
    /// The oldest first.
    buffers: Vec<Vec<f32>>,
    /// Sum of their capacities.
    elements: usize,
}

fn pool() -> MutexGuard<'static, Pool> {
    // A panic cannot leave the pool in a bad state.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a buffer for later results.
pub fn recycle(buffer: Vec<f32>) {
    let capacity = buffer.capacity();
    if !(SMALLEST..=LIMIT).contains(&capacity) {
        return;
    }
    let mut dropped = Vec::new();
    let mut pool = pool();
    pool.elements += capacity;
    pool.buffers.push(buffer);
    while pool.elements > LIMIT {
        let oldest = pool.buffers.remove(0);
        pool.elements -= oldest.capacity();
        dropped.push(oldest);
    }
}

/// An empty vector with room for `len` elements, and for a quarter more at most if it was used before.
fn with_room(len: usize) -> Vec<f32> {
    if len < SMALLEST {
        return Vec::with_capacity(len);
    }
    let mut pool = pool();
    let fitting = pool.buffers.iter().enumerate().filter(|(_, buffer)| {
        let capacity = buffer.capacity();
        capacity >= len && capacity - len <= len / 4
    });
    // Of equally good ones the youngest, which is more likely in cache.
    let best = fitting.rev().min_by_key(|(_, buffer)| buffer.capacity());
    let Some(index) = best.map(|(index, _)| index) else {
        drop(pool);
        return Vec::with_capacity(len);
    };
    let mut buffer = pool.buffers.remove(index);
    pool.elements -= buffer.capacity();
    buffer.clear();
    buffer
}

/// A vector of zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    if len < SMALLEST {
        return vec![0.0; len];
    }
    let mut buffer = with_room(len);
    buffer.resize(len, 0.0);
    buffer
}

/// A buffer that is written in full before it is read, without being cleared first.
pub(crate) struct Unwritten(Vec<f32>);

impl Unwritten {
    pub(crate) fn new(len: usize) -> Self {
        Self(with_room(len))
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

/// A temporary buffer that is recycled when dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recycled(pub(crate) Vec<f32>);

impl Drop for Recycled {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.0));
    }
}

impl std::ops::Deref for Recycled {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl std::ops::DerefMut for Recycled {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
