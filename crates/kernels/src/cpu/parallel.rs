//! Tasks over the rayon pool, and the memory that they write.

use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rayon::Yield;

use super::view::ViewMut;

/// Runs tasks `0..tasks` on the calling thread and the rayon pool.
///
/// A thread begins with a part of the tasks that is the same in every operation of as many, so that it finds what it wrote in the
/// last one in its own caches, and then takes from the others what they have not begun. `scratch` is called once a worker.
pub fn for_each<S>(
    tasks: usize,
    scratch: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, usize) + Sync,
) {
    let queues = rayon::current_num_threads();
    run(&Queues::new(tasks, queues), scratch, body);
}

/// The same for tasks that are sorted by size, the largest first: a thread that is free takes the next one.
pub fn for_each_sorted<S>(
    tasks: usize,
    scratch: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, usize) + Sync,
) {
    run(&Queues::new(tasks, 1), scratch, body);
}

/// Tasks that nobody has begun, in queues of `size` consecutive ones.
struct Queues {
    tasks: usize,
    size: usize,
    /// The first task that is left in each queue.
    next: Vec<AtomicUsize>,
}

impl Queues {
    fn new(tasks: usize, queues: usize) -> Self {
        let queues = queues.clamp(1, tasks.max(1));
        let size = tasks.div_ceil(queues);
        let next = (0..queues)
            .map(|queue| AtomicUsize::new(queue * size))
            .collect();
        Self { tasks, size, next }
    }

    /// The next task of queue number `own`, or of the queue behind it that has one.
    fn take(&self, own: usize) -> Option<usize> {
        let queues = self.next.len();
        (own..own + queues).find_map(|queue| {
            let queue = queue % queues;
            let end = range(queue, self.size, self.tasks).end;
            let next = &self.next[queue];
            let left = next.load(Ordering::Relaxed) < end;
            left.then(|| next.fetch_add(1, Ordering::Relaxed))
                .filter(|&task| task < end)
        })
    }
}

/// Runs the tasks of all queues, each worker with those of its own first.
fn run<S>(queues: &Queues, scratch: impl Fn() -> S + Sync, body: impl Fn(&mut S, usize) + Sync) {
    let work = || {
        let own = rayon::current_thread_index().unwrap_or(0);
        let Some(first) = queues.take(own) else {
            return;
        };
        let mut scratch = scratch();
        body(&mut scratch, first);
        while let Some(task) = queues.take(own) {
            body(&mut scratch, task);
        }
    };
    let others = rayon::current_num_threads()
        .min(queues.tasks)
        .saturating_sub(1);
    let working = AtomicUsize::new(others);
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| {
                work();
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
        work();
        // The scope itself would soon fall asleep, and being woken up takes longer than most tasks.
        let waits = Instant::now();
        while working.load(Ordering::Relaxed) > 0 && waits.elapsed() < PATIENCE {
            if rayon::yield_local() != Some(Yield::Executed) {
                pause();
            }
        }
    });
}

/// How long a thread looks for work, or waits for others, before it sleeps.
const PATIENCE: Duration = Duration::from_millis(1);
/// How long it then sleeps before it looks again: twice as long each time, up to a limit.
const NAPS: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(2)];

/// A moment of waiting: some hundred cycles, more where many threads look at the same memory. Whoever else wants the core has it
/// first.
fn pause() {
    thread::yield_now();
    for _ in 0..2 * rayon::current_num_threads() {
        std::hint::spin_loop();
    }
}

/// Does `work` on a thread of a rayon pool whose other threads stay awake for it: operations follow each other so closely that
/// sleeping between them, as they would, costs more than most of them take.
pub fn awake<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let done = Arc::new(AtomicBool::new(false));
    let own = rayon::current_thread_index();
    let until = done.clone();
    rayon::spawn_broadcast(move |context| {
        if own != Some(context.index()) {
            look_for_work(&until);
        }
    });
    let _guard = SetOnDrop(done);
    work()
}

/// Does what a pool has to do until `done`.
fn look_for_work(done: &AtomicBool) {
    let [shortest, longest] = NAPS;
    let (mut idle, mut nap) = (Instant::now(), shortest);
    while !done.load(Ordering::Relaxed) {
        if rayon::yield_now() == Some(Yield::Executed) {
            (idle, nap) = (Instant::now(), shortest);
        } else if idle.elapsed() < PATIENCE {
            pause();
        } else {
            thread::sleep(nap);
            nap = longest.min(2 * nap);
        }
    }
}

/// Set when it is dropped, by a panic too.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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
        // SAFETY: the memory need not be initialised, and the caller keeps views apart.
        unsafe { ViewMut::within(self.start.cast(), self.len, start, [rows, cols], row_stride) }
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
    /// One part, with zeros in it.
    ///
    /// # Safety
    /// No other part or view that lives at the same time may overlap it.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn cleared(&self, range: Range<usize>) -> &'a mut [f32] {
        // SAFETY: the caller keeps parts apart, and the first of these two is gone when the second begins.
        unsafe {
            self.part(range.clone()).fill(MaybeUninit::new(0.0));
            self.written(range)
        }
    }
}
