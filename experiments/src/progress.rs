//! Shows how a sweep goes: bars, plain lines, or a dashboard.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use upcycle_lab::{Observer, RunEvent, Stage, StageKey, StageResult};
use upcycle_report::number;
use upcycle_train::TrainEvent;

#[cfg(feature = "tui")]
use crate::dashboard::{Dashboard, StageProgress};
use crate::{output, ui::Ui};

/// Time between plain lines of one stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Progress of a sweep.
pub struct Progress {
    bars: MultiProgress,
    total: ProgressBar,
    ui: Ui,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stages: BTreeMap<StageKey, Running>,
    cached: usize,
    finished: usize,
    count: usize,
    started: Option<Instant>,
    steps_done: u64,
    #[cfg(feature = "tui")]
    dashboard: Option<Dashboard>,
}

struct Running {
    bar: ProgressBar,
    loss: f64,
    /// Tokens and seconds since the stage began, for its rate.
    tokens: u64,
    seconds: f64,
    last_line: Instant,
}

impl Progress {
    /// Progress over `count` stages of `steps` steps in all.
    pub fn new(ui: Ui, count: usize, steps: u64) -> Self {
        let target = match ui {
            Ui::Bars => ProgressDrawTarget::stderr_with_hz(5),
            _ => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let total = bars.add(ProgressBar::new(steps));
        total.set_style(style(
            "{bar:30.cyan/black} {pos}/{len} steps  {elapsed_precise} elapsed, {eta} left  {msg}",
        ));
        Self {
            bars,
            total,
            ui,
            state: Mutex::new(State {
                count,
                ..State::default()
            }),
        }
    }

    /// Removes what is shown, and gives the terminal back.
    pub fn finish(&self) {
        self.total.finish_and_clear();
        #[cfg(feature = "tui")]
        drop(self.lock().dashboard.take());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        match self.ui {
            Ui::Plain => output::note!("{line}"),
            // A terminal that cannot be written to has nobody to tell.
            Ui::Bars => _ = self.bars.println(line),
            Ui::Tui | Ui::None => {}
        }
    }
}

impl Observer for Progress {
    fn event(&self, event: RunEvent) {
        let mut state = self.lock();
        match event {
            RunEvent::Cached(stage) => {
                state.cached += 1;
                self.say(&format!("cached    {}", stage.label));
            }
            RunEvent::Started(stage) => {
                state.started.get_or_insert_with(Instant::now);
                let bar = self.bars.add(ProgressBar::new(stage.steps()));
                bar.set_style(style("  {bar:20.green/black} {prefix}  {msg}"));
                bar.set_prefix(stage.label.clone());
                let running = Running {
                    bar,
                    loss: f64::NAN,
                    tokens: 0,
                    seconds: 0.0,
                    last_line: Instant::now(),
                };
                state.stages.insert(stage.key.clone(), running);
            }
            RunEvent::Training(stage, event) => self.training(&mut state, stage, &event),
            RunEvent::Finished(stage, result) => {
                state.finished += 1;
                if let Some(running) = state.stages.remove(&stage.key) {
                    running.bar.finish_and_clear();
                    self.bars.remove(&running.bar);
                }
                let done = state.finished + state.cached;
                let news = news(result);
                let line = format!("[{done}/{}] {}  {news}", state.count, stage.label);
                self.say(&line);
                if let StageResult::Upcycle(outcome) = result {
                    for deviation in &outcome.deviations {
                        self.say(&format!("note: {}: {deviation}", stage.label));
                    }
                }
            }
        }
    }
}

impl Progress {
    fn training(&self, state: &mut State, stage: &Stage, event: &TrainEvent) {
        let started = state
            .started
            .map_or(0.0, |start| start.elapsed().as_secs_f64());
        let Some(running) = state.stages.get_mut(&stage.key) else {
            return;
        };
        match *event {
            TrainEvent::Resumed { step } => {
                let done = step.saturating_sub(stage.from);
                running.bar.set_position(done);
                self.total.inc(done);
                self.say(&format!("resumed   {} at step {step}", stage.label));
            }
            TrainEvent::Recut { micro_batches } => {
                self.say(&format!(
                    "recut     {} into {micro_batches} micro-batches a batch: sums have another order from here on",
                    stage.label
                ));
            }
            TrainEvent::Step {
                step,
                loss,
                tokens,
                seconds,
            } => {
                running.loss = loss;
                running.tokens += tokens;
                running.seconds += seconds;
                let rate = running.tokens as f64 / running.seconds.max(1e-9);
                running.bar.set_position(step.saturating_sub(stage.from));
                running
                    .bar
                    .set_message(format!("loss {loss:.4}  {} tokens/s", number::count(rate)));
                self.total.inc(1);
                if self.ui == Ui::Plain && running.last_line.elapsed() >= PLAIN_INTERVAL {
                    running.last_line = Instant::now();
                    let left = self.total.length().unwrap_or(0) - self.total.position();
                    let steps = (state.steps_done + 1) as f64;
                    let eta = number::duration(started / steps * left as f64);
                    output::note!(
                        "          {} step {step} of {}  loss {loss:.4}  {} tokens/s  {eta} left",
                        stage.label,
                        stage.to,
                        number::count(rate),
                    );
                }
                state.steps_done += 1;
                #[cfg(feature = "tui")]
                if self.ui == Ui::Tui {
                    self.show(state, loss, rate);
                }
            }
            #[cfg(feature = "tui")]
            TrainEvent::Evaluated { loss, .. } => {
                if let Some(dashboard) = &mut state.dashboard {
                    dashboard.evaluated(loss);
                }
            }
            #[cfg(not(feature = "tui"))]
            TrainEvent::Evaluated { .. } => {}
        }
    }

    /// Shows a step on the dashboard.
    #[cfg(feature = "tui")]
    fn show(&self, state: &mut State, loss: f64, rate: f64) {
        let stages = state.stages.values().map(|running| StageProgress {
            label: running.bar.prefix(),
            done: running.bar.position(),
            steps: running.bar.length().unwrap_or(0),
        });
        let stages: Vec<_> = stages.collect();
        let total = self.total.length().unwrap_or(0);
        let done = self.total.position();
        Dashboard::show(&mut state.dashboard, loss, rate, [done, total], &stages);
    }
}

fn news(result: &StageResult) -> String {
    match result {
        StageResult::Train(outcome) => format!(
            "validation loss {:.4}  {}",
            outcome.evaluation.loss,
            number::duration(outcome.train_seconds)
        ),
        StageResult::Upcycle(outcome) => format!(
            "validation loss {:.4} before, {:.4} after",
            outcome.before.loss, outcome.after.loss
        ),
    }
}

/// A style from a template of this file; a mistake in it falls back to the default look.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
