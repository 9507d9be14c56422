//! Single operations on the CPU, forward and backward, beside their reference bodies.

use std::time::Duration;

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use criterion::Criterion;
use upcycle_experiments::bench::cases::{Sizes, cases};
use upcycle_kernels::MoeBackend;

/// The layers of a small model: 2048 tokens, 32 experts, K 4.
const SIZES: Sizes = Sizes {
    rows: 8,
    context: 256,
    d_model: 256,
    heads: 8,
    experts: 32,
    top_k: 4,
    d_expert: 256,
    vocab: 4096,
};

fn operations(criterion: &mut Criterion) {
    for case in cases::<Autodiff<Flex>>(SIZES, &FlexDevice) {
        let mut group = criterion.benchmark_group(case.name);
        if let Some(specialised) = &case.specialised {
            group.bench_function("specialised", |bencher| bencher.iter(specialised));
        }
        group.bench_function("reference", |bencher| bencher.iter(&case.reference));
        group.finish();
    }
}

fn main() {
    // On a thread of a pool, as training has it.
    Flex::run(|| {
        let mut criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .configure_from_args();
        operations(&mut criterion);
        criterion.final_summary();
    });
}
