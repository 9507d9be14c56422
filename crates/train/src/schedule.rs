//! The learning rate of every step: warmup, stable, decay.

use serde::{Deserialize, Serialize};

/// Warmup-stable-decay (WSD) over the steps of one stage; a pure function of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak_lr: f64,
    /// Step at which the warmup began; it may lie before the stage.
    pub warmup_from: u64,
    /// Steps over which the rate rises linearly to the peak; 0 for none.
    pub warmup_steps: u64,
    /// Step from which the rate falls linearly, to 0 at `end`; none for a stage without decay.
    pub decay_from: Option<u64>,
    /// Step after the stage's last.
    pub end: u64,
}

impl Schedule {
    /// Learning rate of step `step` (from 0).
    pub fn lr(&self, step: u64) -> f64 {
        let warm = if self.warmup_steps == 0 {
            1.0
        } else {
            let done = step.saturating_sub(self.warmup_from) + 1;
            (done as f64 / self.warmup_steps as f64).min(1.0)
        };
        let decay = match self.decay_from {
            Some(from) if step >= from => {
                self.end.saturating_sub(step) as f64 / (self.end - from).max(1) as f64
            }
            _ => 1.0,
        };
        self.peak_lr * warm * decay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_stays_and_falls_to_zero() {
        let schedule = Schedule {
            peak_lr: 2.0,
            warmup_from: 100,
            warmup_steps: 4,
            decay_from: Some(110),
            end: 120,
        };
        let lr: Vec<f64> = [100, 103, 109, 110, 115, 119]
            .map(|step| schedule.lr(step))
            .to_vec();
        assert_eq!(lr, [0.5, 2.0, 2.0, 2.0, 1.0, 0.2]);
        assert_eq!(schedule.lr(120), 0.0);
    }

    #[test]
    fn without_warmup_and_decay_it_is_constant() {
        let schedule = Schedule {
            peak_lr: 1e-3,
            warmup_from: 0,
            warmup_steps: 0,
            decay_from: None,
            end: 10,
        };
        assert!((0..10).all(|step| schedule.lr(step) == 1e-3));
    }
}
