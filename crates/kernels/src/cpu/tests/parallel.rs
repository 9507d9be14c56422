//! Threads that stay awake.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::cpu::parallel::{awake, for_each};

#[test]
fn a_pool_that_stays_awake_does_all_tasks_and_ends() {
    let (ended, end) = mpsc::channel();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(4)
        .exit_handler(move |_| ended.send(()).unwrap())
        .build()
        .unwrap();
    let sums: Vec<usize> = pool.install(|| {
        awake(|| {
            let round = |round| {
                let sum = AtomicUsize::new(0);
                for_each(
                    17,
                    || (),
                    |(), task| {
                        sum.fetch_add(task, Ordering::Relaxed);
                    },
                );
                // Long enough for the others to sleep.
                if round % 50 == 0 {
                    thread::sleep(Duration::from_millis(8));
                }
                sum.into_inner()
            };
            (0..200).map(round).collect()
        })
    });
    assert_eq!(sums, vec![16 * 17 / 2; 200]);
    let panics = || pool.install(|| awake(|| panic!("as asked")));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    drop(pool);
    for _ in 0..4 {
        end.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
