//! Tasks over the rayon pool, and the memory that they write.

use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::view::ViewMut;

/// Runs tasks `0..tasks` on the calling thread and the rayon pool; each worker takes the next task when it is free.
///
/// `scratch` is called once a worker; put large tasks first.
pub fn for_each<S>(
    tasks: usize,
    scratch: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut task = next.fetch_add(1, Ordering::Relaxed);
        if task < tasks {
            let mut scratch = scratch();
            while task < tasks {
                body(&mut scratch, task);
                task = next.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let workers = rayon::current_num_threads().min(tasks);
    rayon::in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// [`for_each`] over consecutive ranges of at most `size` items.
pub fn for_each_range(items: usize, size: usize, body: impl Fn(Range<usize>) + Sync) {
    let size = size.max(1);
    for_each(
        items.div_ceil(size),
        || (),
        |(), task| body(range(task, size, items)),
    );
}

/// Range number `index` of `items` in ranges of `size`.
pub(crate) fn range(index: usize, size: usize, items: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(items)
}

/// A slice of which parallel tasks write parts that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for the `&mut [T]` it was made of; overlap between tasks is ruled out by its unsafe methods.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// One part.
    ///
    /// # Safety
    /// No other part or view that lives at the same time may overlap it.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part of the slice"
        );
        // SAFETY: within the slice, and the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

impl<'a> Disjoint<'a, f32> {
    /// A matrix within the slice, from element `start`, for reading and writing.
    ///
    /// # Safety
    /// No other part or view that lives at the same time may share an element with it.
    pub(crate) unsafe fn view(
        &self,
        start: usize,
        [rows, cols]: [usize; 2],
        row_stride: usize,
    ) -> ViewMut<'a> {
        // SAFETY: the slice is initialised, and the caller keeps views apart.
        unsafe { ViewMut::within(self.start, self.len, start, [rows, cols], row_stride, true) }
    }
}

impl<'a> Disjoint<'a, MaybeUninit<f32>> {
    /// A matrix within the slice, from element `start`, for writing.
    ///
    /// # Safety
    /// No other part or view that lives at the same time may share an element with it.
    pub(crate) unsafe fn view(
        &self,
        start: usize,
        [rows, cols]: [usize; 2],
        row_stride: usize,
    ) -> ViewMut<'a> {
        let memory = self.start.cast();
        // SAFETY: the view is marked as not initialised, and the caller keeps views apart.
        unsafe { ViewMut::within(memory, self.len, start, [rows, cols], row_stride, false) }
    }

    /// One part that has been written.
    ///
    /// # Safety
    /// All of it must have been, and no other part or view that lives at the same time may overlap it.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn written(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part of the slice"
        );
        // SAFETY: within the slice and written; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start).cast(), range.len()) }
    }
}
