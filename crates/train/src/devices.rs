//! Work that several devices of this process do together.

use std::thread;

use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_team::Team;

use crate::{crew::Crew, error::TrainError};

/// Does the work of the `first` device on this thread, and that of each `other` one on a thread of its own, all with an even
/// share of the processor. Gives what the first one came to; its error has the reasons of the others.
pub(crate) fn on_devices<B: MoeAutodiffBackend, T: Send>(
    devices: &[B::Device],
    expert_parallel: usize,
    first: impl FnOnce(&B::Device, &Crew) -> Result<T, TrainError> + Send,
    other: impl Fn(&B::Device, &Crew) -> Result<T, TrainError> + Sync,
) -> Result<T, TrainError> {
    let teams = Team::threads(devices.len()).into_iter();
    let crews: Vec<Crew> = teams
        .map(|team| Crew::new(team, expert_parallel))
        .collect::<Result<_, _>>()?;
    let other = &other;
    thread::scope(|scope| {
        let mut members = devices.iter().zip(crews);
        let leader = members.next();
        let others: Vec<_> = members
            .map(|(device, crew)| {
                scope.spawn(move || on_one::<B, T>(crew, |crew| other(device, crew)))
            })
            .collect();
        let Some((device, crew)) = leader else {
            let problem = "there is no device to compute on";
            return Err(TrainError::Devices(problem.into()));
        };
        let outcome = on_one::<B, T>(crew, |crew| first(device, crew));
        let ended = |_| Err(TrainError::Panicked("the thread of a device ended".into()));
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(ended).map(|_| ()))
            .fold(Ok(()), Result::and);
        outcome.and_then(|outcome| others.map(|()| outcome))
    })
}

/// The work of one device, which leaves the others in peace if it ends as they do.
fn on_one<B: MoeAutodiffBackend, T: Send>(
    crew: Crew,
    work: impl FnOnce(&Crew) -> Result<T, TrainError> + Send,
) -> Result<T, TrainError> {
    let outcome = B::InnerBackend::run_one_of(crew.all.size(), || work(&crew));
    if outcome.as_ref().err().is_none_or(TrainError::is_of_all) {
        crew.all.leave();
    }
    outcome
}
