//! Threads that compute on the processor.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};

/// More threads a core than this wait for each other more than they compute.
const MOST_A_CORE: usize = 8;

/// The flag that says how many.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ThreadsArg {
    /// Threads that compute on the processor. [default: one for each core that there is for this process]
    #[arg(long, value_name = "N", help_heading = "Running")]
    pub threads: Option<NonZeroUsize>,
}

impl ThreadsArg {
    /// Starts as many threads as were asked for; to be called before anything computes.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn apply(self) -> Result<()> {
        let Some(threads) = self.threads else {
            return Ok(());
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if threads.get() > MOST_A_CORE * cores {
            bail!(
                "--threads {threads} is more than {MOST_A_CORE} for each of the {cores} cores here, and would only be slower; lower it"
            );
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global()
            .with_context(|| format!("--threads {threads}: they cannot be started"))
    }
}

/// How many there are: as many as were asked for, or else cores for this process.
pub fn count() -> usize {
    rayon::current_num_threads()
}
