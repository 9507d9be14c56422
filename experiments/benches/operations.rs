//! Single operations on the CPU, forward and backward, beside their reference bodies.

use std::time::Duration;

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use criterion::Criterion;
use upcycle_experiments::bench::{cases::cases, model::Model};
use upcycle_kernels::MoeBackend;

fn operations(criterion: &mut Criterion) {
    let sizes = Model::s().sizes();
    for case in cases::<Autodiff<Flex>>(sizes, &FlexDevice) {
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
