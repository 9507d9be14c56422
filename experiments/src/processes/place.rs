//! Which of the processes that train one model this one is, as torchrun or Slurm put it into the environment.

use anyhow::{Context, Result, bail};

use super::slurm;

/// Variables that say which process this is, and why they should be there.
const BY_HAND: (&[&str], &str) = (
    &["RANK", "WORLD_SIZE"],
    "--meet takes this process's place from RANK and WORLD_SIZE, as torchrun sets them: start one process with RANK=0 WORLD_SIZE=2, one with RANK=1 WORLD_SIZE=2, and the same flags",
);
const BY_SLURM: (&[&str], &str) = (
    &[
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_STEP_NUM_NODES",
        "SLURM_STEP_NODELIST",
    ],
    "--nodes takes this process's place from Slurm: start it by srun in a job, or give --meet",
);

/// The variable of the environment that has a name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A process's place among those that train one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// Processes.
    pub size: usize,
    /// Its number among those of its machine; none where nobody says.
    pub local: Option<usize>,
    /// Where they meet: `HOST:PORT` of the process with rank 0.
    pub address: String,
    /// What other trainings do not have.
    pub token: String,
}

impl Place {
    /// The place that torchrun gives, or whoever sets its variables.
    ///
    /// # Errors
    /// If a variable is missing or no such number.
    pub fn by_hand(env: Environment, address: &str, token: &str) -> Result<Self> {
        check_all_there(env, BY_HAND)?;
        Self {
            rank: number(env, "RANK")?,
            size: number(env, "WORLD_SIZE")?,
            local: env("LOCAL_RANK")
                .map(|_| number(env, "LOCAL_RANK"))
                .transpose()?,
            address: address.to_owned(),
            token: token.to_owned(),
        }
        .checked("RANK", "WORLD_SIZE")
    }

    /// The place of a task of a Slurm step that runs on `nodes` nodes; it meets the others on the first of them, unless another
    /// address is given.
    ///
    /// # Errors
    /// If this is no such task.
    pub fn by_slurm(
        env: Environment,
        nodes: usize,
        address: Option<&str>,
        token: Option<&str>,
    ) -> Result<Self> {
        check_all_there(env, BY_SLURM)?;
        let there = number(env, "SLURM_STEP_NUM_NODES")?;
        if there != nodes {
            bail!("--nodes is {nodes}, and srun started this step on {there}; give srun the same");
        }
        let job = number(env, "SLURM_JOB_ID")?;
        let step = env("SLURM_STEP_ID").unwrap_or_default();
        let address = match address {
            Some(address) => address.to_owned(),
            None => {
                let list = env("SLURM_STEP_NODELIST").unwrap_or_default();
                let host = slurm::first_host(&list).with_context(|| {
                    format!("SLURM_STEP_NODELIST={list} names no host; give --meet HOST:PORT")
                })?;
                format!("{host}:{}", slurm::port(job))
            }
        };
        Self {
            rank: number(env, "SLURM_PROCID")?,
            size: number(env, "SLURM_STEP_NUM_TASKS")?,
            local: Some(number(env, "SLURM_LOCALID")?),
            address,
            token: token.map_or_else(|| format!("{job}.{step}"), str::to_owned),
        }
        .checked("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    }

    fn checked(self, rank: &str, size: &str) -> Result<Self> {
        if self.rank >= self.size {
            bail!(
                "{rank}={} and {size}={} in the environment do not fit: ranks count from 0 and are less than the number of processes",
                self.rank,
                self.size
            );
        }
        Ok(self)
    }
}

/// An address where processes can meet, for a flag.
pub fn address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let port = parts.filter(|(host, _)| !host.is_empty());
    let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("it is HOST:PORT of the process with rank 0, such as node7:29500".into()),
    }
}

fn check_all_there(env: Environment, (names, how): (&[&str], &str)) -> Result<()> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| env(name).is_none())
        .collect();
    match missing.as_slice() {
        [] => Ok(()),
        [one] => bail!("{how} ({one} is not set)"),
        several => bail!("{how} ({} are not set)", several.join(", ")),
    }
}

fn number(env: Environment, name: &str) -> Result<usize> {
    let value = env(name).unwrap_or_default();
    let number = value.trim().parse::<usize>();
    number.with_context(|| format!("{name}={value} in the environment is not a number from 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn torchrun_says_which_process_this_is() {
        let by_hand = |variables: &[(&str, &str)]| Place::by_hand(&env(variables), "a:1", "t");
        let all = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")];
        let place = by_hand(&all).unwrap();
        assert_eq!((place.rank, place.size, place.local), (3, 4, Some(1)));
        assert_eq!(by_hand(&all[..2]).unwrap().local, None);
        for (variables, problem) in [
            (&all[..1], "(WORLD_SIZE is not set)"),
            (&[][..], "(RANK, WORLD_SIZE are not set)"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")][..], "do not fit"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")][..], "RANK=x"),
        ] {
            let error = by_hand(variables).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn slurm_says_where_its_tasks_meet() {
        let variables = [
            ("SLURM_JOB_ID", "17"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "2"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_STEP_NUM_NODES", "2"),
            ("SLURM_STEP_NODELIST", "gpu[07-08]"),
        ];
        let place = Place::by_slurm(&env(&variables), 2, None, None).unwrap();
        assert_eq!((place.rank, place.size, place.local), (2, 4, Some(0)));
        assert!(place.address.starts_with("gpu07:"), "{}", place.address);
        assert_eq!(place.token, "17.0");
        let given = Place::by_slurm(&env(&variables), 2, Some("ib7:1"), Some("t")).unwrap();
        assert_eq!(
            (given.address.as_str(), given.token.as_str()),
            ("ib7:1", "t")
        );
        let other = Place::by_slurm(&env(&variables), 3, None, None).unwrap_err();
        assert!(other.to_string().contains("on 2"), "{other}");
        // What sbatch's own script finds, outside of srun.
        let batch: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| !name.contains("STEP"))
            .collect();
        let batch = Place::by_slurm(&env(&batch), 2, None, None).unwrap_err();
        assert!(batch.to_string().contains("SLURM_STEP_ID"), "{batch}");
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for right in ["node7:29500", "10.0.0.1:1", "[::1]:29500"] {
            assert_eq!(address(right).unwrap(), right);
        }
        for wrong in ["node7", ":29500", "node7:", "node7:0", "node7:70000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
