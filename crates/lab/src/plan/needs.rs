//! How much of its data a run reads.

use super::times::times;
use crate::{error::LabError, presets, scale::Scale, sweep::SweepConfig};

/// Tokens that are read at most of splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Of the pre-training split, and of that of continued pre-training.
    pub training: u64,
    /// Of the validation split, and of the test split.
    pub evaluation: u64,
}

impl Needs {
    /// Of one training run.
    pub fn of_scale(scale: &Scale) -> Self {
        let training = &scale.training;
        Self {
            training: training
                .pretrain_steps
                .saturating_mul(scale.tokens_per_step()),
            evaluation: (training.evaluation_rows * scale.model.context) as u64,
        }
    }

    /// Of the longest runs of a sweep, which must be valid.
    ///
    /// # Errors
    /// If a scale is unknown, or lengths and budgets are no steps of their own.
    pub fn of_sweep(config: &SweepConfig) -> Result<Self, LabError> {
        let mut needs = Self::default();
        for name in &config.scales {
            let scale = sized(presets::scale(name)?, config);
            let tokens_per_step = scale.tokens_per_step();
            if tokens_per_step == 0 {
                // Planning tells what is wrong with it.
                continue;
            }
            needs.evaluation = needs.evaluation.max(Self::of_scale(&scale).evaluation);
            for times in times(config, &scale)? {
                let ends = times.budgets.iter().map(|budget| budget.end);
                let cpt = ends.max().map_or(0, |end| end - times.tau);
                let steps = times.tau.max(cpt);
                needs.training = needs.training.max(steps.saturating_mul(tokens_per_step));
            }
        }
        Ok(needs)
    }
}

/// The scale with the sweep's context and tokens.
pub(super) fn sized(mut scale: Scale, config: &SweepConfig) -> Scale {
    if let Some(context) = config.context {
        scale.model.context = context;
    }
    // One trunk has one warmup, and is evaluated as often for all lengths.
    match config.lengths.iter().max().or(config.tokens.as_ref()) {
        Some(&tokens) => scale.with_pretrain_tokens(tokens),
        None => scale,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_decides() {
        let mut config = presets::sweep("quick").unwrap();
        config.scales = vec!["tiny".into()];
        config.lengths = Vec::new();
        config.tokens = Some(1_000_000);
        config.context = Some(64);
        config.cpt = vec![0.5, 2.0];
        let needs = Needs::of_sweep(&config).unwrap();
        let scale = sized(presets::scale("tiny").unwrap(), &config);
        let pretraining = Needs::of_scale(&scale);
        assert!(pretraining.training.abs_diff(1_000_000) < scale.tokens_per_step());
        assert_eq!(needs.training, 2 * pretraining.training);
        assert_eq!(needs.evaluation, pretraining.evaluation);

        config.cpt = vec![0.5];
        config.tokens = None;
        config.lengths = vec![500_000, 4_000_000];
        let longest = Needs::of_sweep(&config).unwrap().training;
        assert!(longest.abs_diff(4_000_000) < scale.tokens_per_step());
    }
}
