//! When the operator is applied and when runs end.

use crate::{error::LabError, scale::Scale, sweep::SweepConfig};

/// Share of a run over which the learning rate decays (the paper, section 4: 10 %).
const DECAY_SHARE: f64 = 0.1;

/// One step of the operator and the budgets after it.
pub(super) struct Times {
    /// Step of the operator.
    pub(super) tau: u64,
    /// Steps before `tau` at which other operators of the sweep are applied; trunks are cut there to be shared.
    pub(super) earlier: Vec<u64>,
    /// Share of all steps, in sweeps that move tau while all steps stay as many.
    pub(super) transition: Option<f64>,
    /// Tokens of pre-training, in sweeps over several lengths.
    pub(super) length: Option<u64>,
    pub(super) budgets: Vec<Budget>,
}

/// One budget of continued pre-training.
pub(super) struct Budget {
    /// Steps of it over steps of pre-training.
    pub(super) share: f64,
    pub(super) decay_from: u64,
    pub(super) end: u64,
}

/// All operators of a sweep, for a scale.
pub(super) fn times(config: &SweepConfig, scale: &Scale) -> Result<Vec<Times>, LabError> {
    let pretrain_steps = scale.training.pretrain_steps;
    match (config.lengths.is_empty(), config.transitions.is_empty()) {
        (true, true) => Ok(vec![Times {
            tau: pretrain_steps,
            earlier: Vec::new(),
            transition: None,
            length: None,
            budgets: budgets(pretrain_steps, &config.cpt)?,
        }]),
        (false, _) => lengths(config, scale.tokens_per_step()),
        (true, false) => transitions(config, pretrain_steps),
    }
}

/// Pre-training of several lengths, each with the budgets of the sweep.
fn lengths(config: &SweepConfig, tokens_per_step: u64) -> Result<Vec<Times>, LabError> {
    let tau_of = |length: u64| length / tokens_per_step;
    let times = config.lengths.iter().map(|&length| {
        let tau = tau_of(length);
        let others = config.lengths.iter().map(|&other| tau_of(other));
        if tau == 0 || others.clone().filter(|&other| other == tau).count() > 1 {
            return Err(LabError::Sweep {
                field: "lengths",
                problem: format!(
                    "{length} tokens are {tau} steps of {tokens_per_step} tokens; every length must be at least one step, and another number of steps than the others"
                ),
            });
        }
        Ok(Times {
            tau,
            earlier: others.filter(|&other| other < tau).collect(),
            transition: None,
            length: Some(length),
            budgets: budgets(tau, &config.cpt)?,
        })
    });
    times.collect()
}

/// Operators at several shares of all steps.
fn transitions(config: &SweepConfig, pretrain_steps: u64) -> Result<Vec<Times>, LabError> {
    let end = pretrain_steps + share_of(pretrain_steps, config.cpt[0]);
    let taus = config.transitions.iter().map(|&share| share_of(end, share));
    let taus: Vec<u64> = taus.collect();
    let mut times = Vec::new();
    for (&tau, &transition) in taus.iter().zip(&config.transitions) {
        let alike = taus.iter().filter(|&&other| other == tau).count() > 1;
        if tau == 0 || tau == end || alike {
            return Err(LabError::Sweep {
                field: "transitions",
                problem: format!(
                    "{transition} of {end} steps is step {tau}, which is no step of its own between the first and the last; raise `tokens`"
                ),
            });
        }
        times.push(Times {
            tau,
            earlier: taus.iter().copied().filter(|&other| other < tau).collect(),
            transition: Some(transition),
            length: None,
            budgets: vec![Budget {
                share: (end - tau) as f64 / tau as f64,
                decay_from: end - decay_steps(end, end - tau),
                end,
            }],
        });
    }
    Ok(times)
}

/// The budgets of all shares; each must be steps of its own.
fn budgets(tau: u64, shares: &[f64]) -> Result<Vec<Budget>, LabError> {
    let mut budgets: Vec<Budget> = Vec::new();
    for &share in shares {
        let cpt = share_of(tau, share);
        let end = tau + cpt;
        let same = budgets.iter().find(|budget| budget.end == end);
        if cpt == 0 || same.is_some() {
            let problem = match same {
                Some(other) => format!("{share} and {} are the same number of steps", other.share),
                None => format!("{share} is less than one step"),
            };
            return Err(LabError::Sweep {
                field: "cpt",
                problem: format!("{problem} of a pre-training of {tau}; raise `tokens`"),
            });
        }
        budgets.push(Budget {
            share,
            decay_from: end - decay_steps(end, cpt),
            end,
        });
    }
    Ok(budgets)
}

fn share_of(steps: u64, share: f64) -> u64 {
    (steps as f64 * share).round() as u64
}

/// Steps of the decay that ends a run of `total` steps: 10 %, but no more than the `last` stage has.
pub(super) fn decay_steps(total: u64, last: u64) -> u64 {
    ((total as f64 * DECAY_SHARE).round() as u64).clamp(1, last)
}

impl Times {
    /// Steps of `count` growths: tau, and others before the first decay, at these shares of the steps between or, without any, at
    /// even distances.
    pub(super) fn growth_steps(&self, count: usize, stages: &[f64]) -> Result<Vec<u64>, LabError> {
        let decays = self.budgets.iter().map(|budget| budget.decay_from);
        let stable = decays.min().unwrap_or(self.tau) - self.tau;
        if count > 1 && stable < count as u64 {
            return Err(LabError::Sweep {
                field: "growth",
                problem: format!(
                    "{count} doublings do not fit into the {stable} steps between the first and the decay of the shortest budget; leave that budget out, or raise `tokens`"
                ),
            });
        }
        if count == 1 || stages.is_empty() {
            let steps = (0..count as u64).map(|i| self.tau + i * stable / count as u64);
            return Ok(steps.collect());
        }
        let steps: Vec<u64> = stages
            .iter()
            .map(|&s| self.tau + share_of(stable, s))
            .collect();
        let apart = steps.windows(2).all(|pair| pair[0] < pair[1]);
        if stages.len() != count || !apart || steps.last() >= Some(&(self.tau + stable)) {
            return Err(LabError::Sweep {
                field: "stages",
                problem: format!(
                    "{count} doublings need {count} shares that are different steps among the {stable} between the first and the decay of the shortest budget; these are {}",
                    stages.len()
                ),
            });
        }
        Ok(steps)
    }
}
