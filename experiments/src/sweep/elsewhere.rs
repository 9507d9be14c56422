//! What a sweep costs on devices that need not be here: GPUs that somebody thinks of, or nodes of a cluster.

use anyhow::Result;
use upcycle_data::Dataset;
use upcycle_lab::{Calibration, Devices, Estimate, Store, SweepConfig, SweepPlan};

use super::{args::SweepArgs, memory_refusal, repetitions};
use crate::{
    backend::{BackendKind, machine, machine_on},
    output,
};

impl SweepArgs {
    /// Whether a dry run is for other devices than those of this machine: they have a stated speed, or there are not as many
    /// GPUs here.
    pub(super) fn is_elsewhere(&self, devices: Devices) -> bool {
        let of_gpus = matches!(self.backend, BackendKind::Auto | BackendKind::Cuda);
        let missing = || machine_on(self.backend, devices).is_err();
        let several = devices.count.get() > 1 && of_gpus;
        self.dry_run && (self.device_speed.is_some() || several && missing())
    }

    /// Prints what a sweep would cost there.
    pub(super) fn plan_elsewhere(self, config: &SweepConfig, devices: Devices) -> Result<()> {
        let backend = match self.backend {
            BackendKind::Auto => BackendKind::Cuda,
            named => named,
        };
        output::note!("a plan for backend {}; nothing runs here", backend.name());
        let scratch = self.scratch()?;
        let tasks = self.tasks.read()?;
        let data = self.data(config, scratch.as_ref())?;
        tasks.check_data(&data)?;
        let plan = SweepPlan::new(config, &data, backend.name())?;
        self.baseline(&plan)?;
        let (estimate, refusal) = self.estimate_elsewhere(&plan, &data, backend, devices)?;
        self.print_dry_run(&plan, &estimate, &data, refusal)
    }

    /// What a sweep costs, and why it cannot run in the memory that was stated.
    pub(super) fn estimate_elsewhere(
        &self,
        plan: &SweepPlan,
        data: &Dataset,
        backend: BackendKind,
        devices: Devices,
    ) -> Result<(Estimate, Option<String>)> {
        devices.check_all(&plan.graph)?;
        let known = Store::existing(&self.out);
        let speed = self.speed(plan, backend, devices, known.as_ref());
        let limit = self.memory.limit_of(self.memory.memory, devices);
        let (known, name) = (known.as_ref(), backend.name());
        let estimate = Estimate::new(plan, known, name, speed.as_ref(), 1, &limit);
        for note in repetitions(plan, data).into_iter().chain(plan.notes()) {
            output::note!("note: {note}");
        }
        let largest = estimate.largest().zip(self.memory.memory);
        let refusal = largest.and_then(|(stage, available)| memory_refusal(stage, available));
        Ok((estimate, refusal))
    }

    /// As fast as it was stated; else as this machine, where it has the device; else, in plans of several, as the paper's.
    fn speed(
        &self,
        plan: &SweepPlan,
        backend: BackendKind,
        devices: Devices,
        known: Option<&Store>,
    ) -> Option<Calibration> {
        let stated = self.device_speed.map(Calibration::stated);
        let measured = || {
            let machine = machine(backend).ok()?;
            let meter = machine.meter.as_ref();
            Some(Calibration::measure(meter, &plan.graph, known, 1))
        };
        let assumed = || (self.dry_run && devices.count.get() > 1).then(Calibration::of_paper);
        let speed = stated.or_else(measured).or_else(assumed)?;
        let speed = speed.with_machines(self.nodes.nodes());
        Some(speed.with_link(self.link.link()))
    }
}
