//! Threads that compute on the processor.

use std::num::NonZeroUsize;

use anyhow::{Context, Result};

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
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global()
            .with_context(|| format!("--threads {threads}: they cannot be started"))
    }
}

/// How many there are: as many as were asked for, or else cores for this process.
pub fn count() -> usize {
    rayon::current_num_threads()
}
