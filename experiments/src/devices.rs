//! Flags for devices that train one model together.

use std::num::NonZeroUsize;

use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use upcycle_lab::{Devices, Link};

use crate::amount;

#[derive(Debug, Clone, Copy, Args, Serialize, Deserialize)]
pub struct DevicesArgs {
    /// Devices that train one model together: each takes a share of the sequences of a batch, and of the optimizer's state.
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Running")]
    pub devices: NonZeroUsize,
    /// Of those devices, so many share the experts of every layer, each an equal block of them, and tokens are sent to the
    /// experts that they choose; it divides --devices and the number of experts. With 1 each device holds all experts.
    #[arg(long, value_name = "M", default_value = "1", help_heading = "Running")]
    #[serde(default = "one")]
    pub expert_parallel: NonZeroUsize,
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

impl DevicesArgs {
    /// Checks that several devices are not asked of each of the processes of a team.
    ///
    /// # Errors
    /// If they are.
    pub fn check_team(self, is_team: bool) -> Result<()> {
        if is_team && self.devices.get() > 1 {
            bail!(
                "--devices is for one process, and each of several has one device; leave it out and start a process for each device"
            );
        }
        Ok(())
    }

    /// The devices of so many processes, of which each of several has one.
    ///
    /// # Errors
    /// If --devices asks for more, or they cannot hold each block of experts equally often.
    pub fn of_processes(self, processes: NonZeroUsize) -> Result<Devices> {
        self.check_team(processes.get() > 1)?;
        let count = self.devices.max(processes);
        Ok(Devices::new(count, self.expert_parallel)?)
    }
}

/// How devices that are planned for are connected.
#[derive(Debug, Clone, Copy, Args)]
pub struct LinkArgs {
    /// With --dry-run: bytes a second that each device sends to others, such as 450GB/s or 400Gb/s.
    #[arg(long, value_name = "RATE", value_parser = amount::parse_link, requires = "dry_run", help_heading = "Running")]
    pub link: Option<f64>,
    /// The same to devices of other machines. [default: that of --link]
    #[arg(long, value_name = "RATE", value_parser = amount::parse_link, requires = "link", help_heading = "Running")]
    pub link_between: Option<f64>,
    /// Devices of a machine, for --link-between.
    #[arg(
        long,
        value_name = "N",
        default_value = "8",
        requires = "link_between",
        help_heading = "Running"
    )]
    pub machine_devices: NonZeroUsize,
}

impl LinkArgs {
    /// How fast a device sends, if it was said.
    pub fn link(self) -> Option<Link> {
        self.link.map(|within| Link {
            within,
            between: self.link_between.unwrap_or(within),
            machine: self.machine_devices,
        })
    }
}
