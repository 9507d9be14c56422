//! Opens data, and shows how its text is read and packed.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget};
use upcycle_data::{DataConfig, DataError, Dataset, TextProgress, TextWork};
use upcycle_report::number;

use crate::{
    hub_data,
    interrupt::{self, Work},
    output,
    progress::style,
    ui::Ui,
};

/// Time between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Opens data; the reading of text is ended by Ctrl-C and its like. Text that is not in the cache is packed in `new_dir`.
///
/// # Errors
/// If it cannot be opened, or was stopped.
pub fn open(config: &DataConfig, cache_dir: &Path, new_dir: &Path, ui: Ui) -> Result<Dataset> {
    if !matches!(config, DataConfig::Text(_)) {
        return Ok(Dataset::open(config, cache_dir)?);
    }
    let display = Display::new(ui);
    let is_stopped = || interrupt::flag().load(Ordering::Relaxed);
    let opened = interrupt::during(Work::Packing, || {
        Dataset::open_observed(config, cache_dir, new_dir, &hub_data::find, &|progress| {
            display.show(progress);
            match is_stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
    })?;
    display.bar.finish_and_clear();
    let data = opened?;
    // It may have been done before anybody looked.
    match is_stopped() {
        true => Err(DataError::Interrupted.into()),
        false => Ok(data),
    }
}

/// A bar, or plain lines.
struct Display {
    bar: ProgressBar,
    ui: Ui,
    state: Mutex<State>,
}

struct State {
    work: Option<TextWork>,
    begun: Instant,
    last_line: Instant,
}

impl Display {
    fn new(ui: Ui) -> Self {
        let target = match ui {
            Ui::Bars | Ui::Tui => ProgressDrawTarget::stderr_with_hz(5),
            Ui::Plain | Ui::None => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(
            "{bar:30.cyan/black} {bytes}/{total_bytes}  {msg}  {elapsed_precise} elapsed, {eta} left",
        ));
        let now = Instant::now();
        Self {
            bar,
            ui,
            state: Mutex::new(State {
                work: None,
                begun: now,
                last_line: now,
            }),
        }
    }

    fn show(&self, progress: TextProgress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.work.replace(progress.work) != Some(progress.work) {
            state.begun = Instant::now();
            self.bar.reset();
        }
        self.bar.set_length(progress.total);
        let seconds = state.begun.elapsed().as_secs_f64();
        let told = said(progress, seconds);
        self.bar.set_position(progress.bytes);
        if self.ui == Ui::Plain && state.last_line.elapsed() >= PLAIN_INTERVAL {
            state.last_line = Instant::now();
            let left = progress.total.saturating_sub(progress.bytes) as f64;
            output::note!(
                "{told}: {} of {}, {} left",
                number::bytes(progress.bytes),
                number::bytes(progress.total),
                number::duration(seconds * left / progress.bytes.max(1) as f64)
            );
        }
        self.bar.set_message(told);
    }
}

/// What is done, and how fast after some seconds.
fn said(progress: TextProgress, seconds: f64) -> String {
    match progress.work {
        TextWork::Reading => "reading text".into(),
        TextWork::Learning => "training the tokenizer".into(),
        TextWork::Packing => {
            let tokens = progress.tokens as f64;
            format!(
                "packing text, {} tokens, {} tokens/s",
                number::count(tokens),
                number::count(tokens / seconds.max(1e-9))
            )
        }
    }
}
