//! Several processes that train one model, each with one device, on one machine or on many.

mod place;
mod slurm;

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use upcycle_lab::{LabError, host_name};
use upcycle_team::{Meeting, Team};
use upcycle_train::TrainError;

use crate::{interrupt, output};
use place::{Environment, Place};

/// The flags that say where the processes of one training meet.
#[derive(Debug, Clone, Default, Args)]
pub struct MeetArgs {
    /// Train with other processes, one device each, on this machine or on others: all are started with the same flags and
    /// meet at this address of the one with RANK=0. RANK and WORLD_SIZE in the environment say which one this is, and
    /// LOCAL_RANK which GPU is its own, as torchrun sets them.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = place::address,
        help_heading = "Many machines"
    )]
    meet: Option<String>,
    /// Train with all tasks of this step of a Slurm job, which srun started on so many nodes. They meet on the first of them,
    /// or where --meet says.
    #[arg(long, value_name = "N", help_heading = "Many machines")]
    nodes: Option<NonZeroUsize>,
    /// Letters that only processes of this training have, so that none of another joins it. [default: under Slurm the
    /// numbers of job and step, else none]
    #[arg(long, value_name = "TEXT", help_heading = "Many machines")]
    meet_token: Option<String>,
}

impl MeetArgs {
    /// Does a work together with the processes that these flags name, or alone. Others than the leader are silent but for
    /// errors.
    ///
    /// # Errors
    /// If the flags and the environment do not fit, the processes do not find each other, or the work fails here or there.
    pub fn join(&self, work: impl FnOnce(&Member) -> Result<()>) -> Result<()> {
        let Some(place) = self.place(&|name| std::env::var(name).ok())? else {
            return work(&Member::alone());
        };
        let member = Member::meet(&place)?;
        let outcome = work(&member);
        match &outcome {
            // The leader may still be writing what it has got from here.
            Err(error) if !is_of_all(error) => member.team.fail(&format!("{error:#}")),
            _ => member.team.leave(),
        }
        outcome
    }

    /// Whether several processes are to train one model.
    pub fn is_team(&self) -> bool {
        self.meet.is_some() || self.nodes.is_some()
    }

    /// The place of this process; none without others.
    fn place(&self, env: Environment) -> Result<Option<Place>> {
        let token = self.meet_token.as_deref();
        let place = match (&self.meet, self.nodes) {
            (meet, Some(nodes)) => Place::by_slurm(env, nodes.get(), meet.as_deref(), token)?,
            (Some(meet), None) => Place::by_hand(env, meet, token.unwrap_or_default())?,
            (None, None) if token.is_some() => {
                bail!("--meet-token is for several processes; add --meet HOST:PORT or --nodes")
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(place))
    }
}

/// Whether all processes end with an error at the same step: they are stopped, or the loss is not finite, or another one has
/// failed.
fn is_of_all(error: &anyhow::Error) -> bool {
    let trained = match error.downcast_ref::<LabError>() {
        Some(LabError::Stage { source, .. }) => Some(source.as_ref()),
        _ => error.downcast_ref::<TrainError>(),
    };
    interrupt::is_one(error) || matches!(trained, Some(TrainError::Stopped { .. }))
}

/// This process among those that train one model.
#[derive(Debug, Clone)]
pub struct Member {
    team: Team,
    /// Its number among those of its machine.
    local: usize,
    /// Processes of its machine.
    here: usize,
}

impl Member {
    /// The only one.
    pub fn alone() -> Self {
        Self {
            team: Team::alone(),
            local: 0,
            here: 1,
        }
    }

    /// Meets the others.
    fn meet(place: &Place) -> Result<Self> {
        if place.rank > 0 {
            output::only_errors(place.rank);
        }
        let Place { address, size, .. } = place;
        output::note!("{size} processes meet at {address}");
        let team = Team::connect(&Meeting {
            address: address.clone(),
            rank: place.rank,
            size: *size,
            token: place.token.clone(),
            timeout: Meeting::TIMEOUT,
        })?;
        let hosts = team.gather_values(&host_name())?;
        let here = |hosts: &[String]| {
            let same = hosts.iter().filter(|host| **host == host_name());
            same.count()
        };
        Ok(Self {
            local: place.local.unwrap_or(here(&hosts[..place.rank])),
            here: here(&hosts),
            team,
        })
    }

    /// Whether this process speaks and writes.
    pub fn is_leader(&self) -> bool {
        self.team.rank() == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.team.size() == 1
    }

    /// How many train the model.
    pub fn processes(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.team.size()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Its number among the processes of its machine.
    pub fn local(&self) -> usize {
        self.local
    }

    /// Processes of its machine.
    pub fn here(&self) -> usize {
        self.here
    }

    /// The processes.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Waits until all have come so far.
    ///
    /// # Errors
    /// If one of them cannot.
    pub fn wait_for_all(&self) -> Result<()> {
        self.team.gather_values(&())?;
        Ok(())
    }

    /// Does what leaves files for others: the leader first, then all others.
    ///
    /// # Errors
    /// If it fails, here or where it was done before.
    pub fn after_leader<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let first = match self.is_leader() {
            true => Ok(work()?),
            false => Err(work),
        };
        self.wait_for_all()?;
        first.or_else(|work| work())
    }

    /// What the leader finds, on all.
    ///
    /// # Errors
    /// If it finds nothing.
    pub fn of_leader<T>(&self, find: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let own = match self.is_leader() {
            true => vec![serde_json::to_string(&find()?)?],
            false => Vec::new(),
        };
        let all = self.team.gather_values(&own)?;
        let said = all.into_iter().flatten().next();
        let said = said.context("the process with rank 0 said nothing")?;
        Ok(serde_json::from_str(&said)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_flags_is_alone() {
        // As in a job of a cluster that has nothing to do with this program.
        let env = |_: &str| Some("3".to_owned());
        assert_eq!(MeetArgs::default().place(&env).unwrap(), None);
        let lost = MeetArgs {
            meet_token: Some("a".into()),
            ..MeetArgs::default()
        };
        let error = lost.place(&env).unwrap_err().to_string();
        assert!(error.contains("--meet HOST:PORT"), "{error}");
    }

    #[test]
    fn the_leader_does_it_first_and_says_what_it_found() {
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for team in Team::threads(3) {
                let order = &order;
                scope.spawn(move || {
                    let rank = team.rank();
                    let member = Member {
                        team,
                        ..Member::alone()
                    };
                    let work = || {
                        order.lock().unwrap().push(rank);
                        Ok(rank)
                    };
                    assert_eq!(member.after_leader(work).unwrap(), rank);
                    assert_eq!(member.of_leader(|| Ok(10 + rank)).unwrap(), 10);
                    member.team.leave();
                });
            }
        });
        let order = order.into_inner().unwrap();
        assert_eq!((order[0], order.len()), (0, 3));
    }
}
