//! Single operations, forward and backward, beside their reference bodies.

use std::time::Instant;

use super::{
    measure::{Bench, OperationTimes},
    model::Model,
};
use serde::Serialize;

/// The operations at the sizes of one model.
#[derive(Debug, Serialize)]
pub struct Table {
    model: String,
    /// Matrix product rate, FLOP/s.
    matmul_rate: f64,
    /// Copy rate, bytes read and written a second.
    copy_rate: f64,
    operations: Vec<OperationTimes>,
}

/// Measures every operation at the sizes of a model.
pub fn measure(model: &Model, meter: &dyn Bench, on_host: bool) -> Table {
    Table {
        model: model.name.clone(),
        matmul_rate: meter.matmul_rate(),
        copy_rate: if on_host {
            host_copy_rate()
        } else {
            meter.copy_rate()
        },
        operations: meter.operations(model.sizes()),
    }
}

/// Copy rate of all threads, which no single tensor operation of a CPU backend reaches.
fn host_copy_rate() -> f64 {
    const BYTES: usize = 1 << 26;
    let threads = crate::threads::count();
    let (from, mut to) = (vec![1u8; BYTES], vec![0u8; BYTES]);
    let part = BYTES.div_ceil(threads);
    let mut seconds = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                scope.spawn(move || to.copy_from_slice(std::hint::black_box(from)));
            }
        });
        started.elapsed().as_secs_f64()
    };
    let best = (0..9).map(|_| seconds()).fold(f64::INFINITY, f64::min);
    2.0 * BYTES as f64 / best
}

impl Table {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}  operations, forward and backward; matrix products {:.0} GFLOP/s, copies {:.1} GB/s",
                self.model,
                self.matmul_rate / 1e9,
                self.copy_rate / 1e9
            ),
            format!(
                "   {:<21} {:>9} {:>9} {:>8} {:>9} {:>14} {:>7}",
                "", "ms", "GFLOP/s", "GB/s", "of rate", "reference ms", "ratio"
            ),
        ];
        for times in &self.operations {
            let seconds = times.seconds.unwrap_or(times.reference_seconds);
            let (flops, bytes) = (times.flops / seconds, times.bytes / seconds);
            // The rate that it is nearer to is the one that bounds it.
            let share = (flops / self.matmul_rate).max(bytes / self.copy_rate);
            lines.push(format!(
                "   {:<21} {:>9.3} {:>9.1} {:>8.1} {:>7.1} % {:>14.3} {:>7.2}",
                times.operation,
                1e3 * seconds,
                flops / 1e9,
                bytes / 1e9,
                100.0 * share,
                1e3 * times.reference_seconds,
                times.reference_seconds / seconds
            ));
        }
        lines
    }
}
