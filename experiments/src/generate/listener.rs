//! Tokens on their way to whoever reads them.

use std::{ops::ControlFlow, time::Instant};

use anyhow::{Error, Result};
use serde::Serialize;
use upcycle_data::TextStream;
use upcycle_lm::{Finish, GeneratedToken};

use super::model::Model;
use crate::output;

/// What is printed as tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Nothing.
    Nothing,
    /// Their text; their ids where they have none.
    Text,
    /// A line for each, with its experts.
    Routing,
}

/// One continuation.
#[derive(Debug, Serialize)]
pub struct Sample {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub ids: Vec<u32>,
    pub finish: Finish,
    /// Experts of every token in every MoE layer; empty unless they are asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routing: Vec<Vec<Routed>>,
}

/// Experts of a token in a MoE layer.
#[derive(Debug, Serialize)]
pub struct Routed {
    experts: Vec<usize>,
    /// The experts before all growths that they come from, where the model was grown.
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<Vec<usize>>,
}

/// Hears of tokens, prints them and keeps them.
pub struct Listener<'a> {
    model: &'a Model,
    prompt: &'a [u32],
    /// Continuations that there will be.
    count: usize,
    show: Show,
    /// Of the last continuation.
    stream: Option<TextStream<'a>>,
    samples: Vec<Sample>,
    /// When the first and the last token came.
    times: Option<[Instant; 2]>,
    fault: Option<Error>,
}

impl<'a> Listener<'a> {
    pub fn new(model: &'a Model, prompt: &'a [u32], count: usize, show: Show) -> Self {
        Self {
            model,
            prompt,
            count,
            show,
            stream: None,
            samples: Vec::new(),
            times: None,
            fault: None,
        }
    }

    /// Hears of a token; breaks off if nobody reads on, or it cannot be shown.
    pub fn hear(&mut self, token: &GeneratedToken) -> ControlFlow<()> {
        let now = Instant::now();
        let first = self.times.map_or(now, |[first, _]| first);
        self.times = Some([first, now]);
        match self.take(token) {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                self.fault = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// All continuations, and tokens a second after the first one.
    ///
    /// # Errors
    /// What kept a token from being shown.
    pub fn finish(mut self, finished: &[Finish]) -> Result<(Vec<Sample>, Option<f64>)> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.begin(finished.len())?;
        self.end_sample()?;
        for (sample, &finish) in self.samples.iter_mut().zip(finished) {
            sample.finish = finish;
        }
        let tokens: usize = self.samples.iter().map(|sample| sample.ids.len()).sum();
        let seconds = self.times.map(|[first, last]| (last - first).as_secs_f64());
        let speed = seconds.map(|seconds| tokens.saturating_sub(1) as f64 / seconds);
        let speed = speed.filter(|speed| speed.is_finite() && *speed > 0.0);
        Ok((self.samples, speed))
    }

    /// Shows and keeps a token. False if nobody reads on.
    fn take(&mut self, token: &GeneratedToken) -> Result<bool> {
        self.begin(token.sample + 1)?;
        let piece = match &mut self.stream {
            Some(stream) => Some(stream.push(token.id)?),
            None => None,
        };
        let experts = token.experts.iter().enumerate();
        let routed = experts.map(|(layer, experts)| Routed {
            experts: experts.clone(),
            sources: self.model.sources(layer, experts),
        });
        let routed: Vec<Routed> = routed.collect();
        let Some(sample) = self.samples.last_mut() else {
            return Ok(true);
        };
        let is_first = sample.ids.is_empty();
        let shown = match (self.show, &piece) {
            (Show::Nothing, _) => String::new(),
            (Show::Text, Some(piece)) => piece.clone(),
            (Show::Text, None) if is_first => token.id.to_string(),
            (Show::Text, None) => format!(" {}", token.id),
            (Show::Routing, piece) => line(token.id, piece.as_deref(), &routed),
        };
        sample.ids.push(token.id);
        if let (Some(text), Some(piece)) = (&mut sample.text, &piece) {
            text.push_str(piece);
        }
        if !routed.is_empty() {
            sample.routing.push(routed);
        }
        Ok(shown.is_empty() || output::piece(&shown)?)
    }

    /// Begins continuations until there are as many; those that end before their first token are never heard of.
    fn begin(&mut self, count: usize) -> Result<()> {
        while self.samples.len() < count {
            self.end_sample()?;
            let tokenizer = self.model.tokenizer().ok();
            self.stream = tokenizer.map(|tokenizer| tokenizer.stream(self.prompt));
            self.samples.push(Sample {
                text: self.stream.is_some().then(String::new),
                ids: Vec::new(),
                finish: Finish::Stopped,
                routing: Vec::new(),
            });
            if self.count > 1 && self.show != Show::Nothing {
                output::line(format!("[sample {}]", self.samples.len()))?;
            }
        }
        Ok(())
    }

    /// Shows what was held back of the last continuation.
    fn end_sample(&mut self) -> Result<()> {
        let Some(sample) = self.samples.last_mut() else {
            return Ok(());
        };
        let mut rest = String::new();
        if let (Some(stream), Some(text)) = (&mut self.stream, &mut sample.text) {
            rest = stream.finish()?;
            text.push_str(&rest);
        }
        match self.show {
            Show::Text => output::line(rest)?,
            Show::Routing if !rest.is_empty() => output::line(format!("{rest:?}"))?,
            Show::Routing | Show::Nothing => {}
        }
        Ok(())
    }
}

/// A token and its experts, layer by layer.
fn line(id: u32, piece: Option<&str>, routed: &[Routed]) -> String {
    let name = match piece {
        Some(piece) => format!("{piece:?}"),
        None => id.to_string(),
    };
    let layers = routed.iter().enumerate();
    let layers = layers.map(|(layer, routed)| format!("{layer}: {}", routed.words()));
    let layers: Vec<String> = layers.collect();
    format!("{name:<16} {}\n", layers.join("; "))
}

impl Routed {
    /// Such as `3, 11 (of 3)`: an expert and what it was copied from.
    fn words(&self) -> String {
        let experts = self.experts.iter().enumerate();
        let words = experts.map(|(place, expert)| {
            let source = self.sources.as_ref().map(|sources| sources[place]);
            match source.filter(|source| source != expert) {
                Some(source) => format!("{expert} (of {source})"),
                None => expert.to_string(),
            }
        });
        words.collect::<Vec<String>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_shown_with_their_sources() {
        let routed = |experts: &[usize], sources: Option<&[usize]>| Routed {
            experts: experts.to_vec(),
            sources: sources.map(<[usize]>::to_vec),
        };
        let layers = [routed(&[3, 11], Some(&[3, 4])), routed(&[0, 2], None)];
        let expected = format!("{:<16} 0: 3, 11 (of 4); 1: 0, 2\n", "\" the\"");
        assert_eq!(line(7, Some(" the"), &layers), expected);
        assert_eq!(line(7, None, &layers[1..]), format!("{:<16} 0: 0, 2\n", 7));
    }
}
