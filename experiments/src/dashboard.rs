//! burn-train's terminal dashboard, fed from the events of a run.
//!
//! Its kill key panics in the thread that speaks to it next, also when that only drops it, so every word to it is guarded;
//! a kill then stops the run as its stop key does. Its arrow keys panic in its own thread before there is a value, so it
//! is opened with the first step.

use std::{
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use burn::{
    data::dataloader::Progress,
    train::{
        Interrupter,
        metric::{
            MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
            SerializedEntry,
        },
        renderer::{
            MetricState, MetricsRenderer, ProgressType, TrainingProgress,
            tui::TuiMetricsRendererWrapper,
        },
    },
};

use crate::interrupt;

/// What burn-train panics with when the user kills the training.
const KILLED: &str = "Killing training from user input.";

/// The dashboard of one process; generic, so that a test can put a renderer in its place that panics.
pub struct Dashboard<R: MetricsRenderer = TuiMetricsRendererWrapper> {
    renderer: Option<R>,
    interrupter: Interrupter,
    loss: MetricId,
    rate: MetricId,
}

/// A stage as the dashboard shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageProgress {
    /// Its name.
    pub label: String,
    /// Steps done in it.
    pub done: u64,
    /// All of its steps.
    pub steps: u64,
}

impl Dashboard {
    /// Takes over the terminal. To be called with the first step.
    fn open() -> Self {
        silence_kills();
        let interrupter = Interrupter::new();
        let renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        Self::new(renderer, interrupter)
    }

    /// Shows a step, see [`step`](Self::step), on the dashboard in `place`, which is opened with the first one, and passes on
    /// that the user has asked for the end of the run.
    pub fn show(
        place: &mut Option<Self>,
        loss: f64,
        rate: f64,
        done_of_total: [u64; 2],
        stages: &[StageProgress],
    ) {
        let dashboard = place.get_or_insert_with(Self::open);
        dashboard.step(loss, rate, done_of_total, stages);
        if dashboard.is_stopped() {
            interrupt::flag().store(true, Ordering::Relaxed);
        }
    }
}

impl<R: MetricsRenderer> Dashboard<R> {
    fn new(renderer: R, interrupter: Interrupter) -> Self {
        let id = |name: &str| MetricId::new(Arc::new(name.to_owned()));
        let (loss, rate) = (id("Loss"), id("Tokens/s"));
        let definition = |id: &MetricId, name: &str, unit: &str, higher_is_better| {
            let unit = Some(unit.to_owned());
            MetricDefinition {
                metric_id: id.clone(),
                name: name.to_owned(),
                description: None,
                attributes: NumericAttributes {
                    unit,
                    higher_is_better,
                }
                .into(),
            }
        };
        let definitions = [
            definition(&loss, "Loss", "nats", false),
            definition(&rate, "Tokens/s", "tokens/s", true),
        ];
        let mut dashboard = Self {
            renderer: Some(renderer),
            interrupter,
            loss,
            rate,
        };
        dashboard.tell(|renderer| {
            for definition in definitions {
                renderer.register_metric(definition);
            }
        });
        dashboard
    }

    /// Whether the user has asked for the end of the run.
    fn is_stopped(&self) -> bool {
        self.interrupter.should_stop()
    }

    /// A step of some stage is done, which makes `done` of `total` in all.
    fn step(&mut self, loss: f64, rate: f64, [done, total]: [u64; 2], stages: &[StageProgress]) {
        let states = [(&self.loss, loss), (&self.rate, rate)];
        let states = states.map(|(id, value)| value_of(id, value));
        let stages = stages.iter().map(|stage| ProgressType::Detailed {
            tag: stage.label.clone(),
            progress: Progress::new(stage.done as usize, stage.steps as usize),
        });
        let stages: Vec<_> = stages.collect();
        self.tell(|renderer| {
            for state in states.into_iter().flatten() {
                renderer.update_train(state);
            }
            let progress = TrainingProgress {
                progress: Some(Progress::new(done as usize, total as usize)),
                // One epoch, which the dashboard counts from 1.
                global_progress: Progress::new(1, 1),
                iteration: Some(done as usize),
            };
            renderer.render_train(progress, stages);
        });
    }

    /// A validation loss.
    pub fn evaluated(&mut self, loss: f64) {
        let state = value_of(&self.loss, loss);
        self.tell(|renderer| {
            if let Some(state) = state {
                renderer.update_valid(state);
            }
        });
    }

    fn tell(&mut self, say: impl FnOnce(&mut R)) {
        let Some(renderer) = &mut self.renderer else {
            return;
        };
        if catch_unwind(AssertUnwindSafe(|| say(renderer))).is_err() {
            self.interrupter.stop(Some(KILLED));
            self.close();
        }
    }

    /// Gives the terminal back.
    fn close(&mut self) {
        let renderer = self.renderer.take();
        if catch_unwind(AssertUnwindSafe(|| drop(renderer))).is_err() {
            self.interrupter.stop(Some(KILLED));
        }
    }
}

impl<R: MetricsRenderer> Drop for Dashboard<R> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A value that can be plotted; none of what is no number.
fn value_of(id: &MetricId, value: f64) -> Option<MetricState> {
    let text = SerializedEntry::new(format!("{value:.4}"), value.to_string());
    let entry = MetricEntry::new(id.clone(), text);
    value
        .is_finite()
        .then_some(MetricState::Numeric(entry, NumericEntry::Value(value)))
}

/// Kills are no defects: nothing is to be said of them.
fn silence_kills() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&KILLED) {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use upcycle_lm::burn_train::NoRenderer;

    use super::*;

    #[test]
    fn values_that_are_no_numbers_are_left_out() {
        let id = MetricId::new(Arc::new("x".to_owned()));
        assert!(value_of(&id, f64::NAN).is_none() && value_of(&id, 1.0).is_some());
    }

    #[test]
    fn a_run_that_is_not_stopped_goes_on() {
        let mut dashboard = Dashboard::new(NoRenderer, Interrupter::new());
        dashboard.step(1.0, 1.0, [1, 2], &[]);
        dashboard.evaluated(1.0);
        assert!(!dashboard.is_stopped());
    }
}
