//! Routing statistics of a layer over many tokens.

use serde::{Deserialize, Serialize};

use crate::sources::ExpertSources;

/// Health of the routing of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutingStats {
    /// Share of routed rows for every expert, `[E]`; sums to 1.
    pub load: Vec<f64>,
    /// Largest load over the mean load, less 1.
    pub max_violation: f64,
    /// Entropy of the load over `ln E`: 1 when even.
    pub normalized_entropy: f64,
    /// Experts without a token.
    pub dead_experts: usize,
    /// Mean number of distinct sources among the K experts of a token.
    pub distinct_sources: f64,
    /// Share of tokens with two replicas of one source among their experts.
    pub twin_coselection: f64,
}

/// Adds up routing decisions, batch by batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoutingCounter {
    sources: ExpertSources,
    load: Vec<u64>,
    tokens: u64,
    distinct_sources: u64,
    twin_tokens: u64,
}

impl RoutingCounter {
    /// A counter for a layer whose experts come from `sources`.
    pub fn new(sources: ExpertSources) -> Self {
        Self {
            load: vec![0; sources.experts()],
            sources,
            tokens: 0,
            distinct_sources: 0,
            twin_tokens: 0,
        }
    }

    /// Where the layer's experts come from.
    pub fn sources(&self) -> &ExpertSources {
        &self.sources
    }

    /// Adds the experts of some tokens, flat `[T * K]`. An index beyond the layer's experts is left out, and its token is one
    /// of fewer experts.
    ///
    /// # Panics
    /// If `top_k` is 0.
    pub fn add(&mut self, experts: &[usize], top_k: usize) {
        let source_of = self.sources.source_of();
        for token in experts.chunks(top_k) {
            let known = token.iter().filter(|&&expert| expert < source_of.len());
            let mut chosen = Vec::with_capacity(top_k);
            for &expert in known {
                self.load[expert] += 1;
                chosen.push(source_of[expert]);
            }
            let experts = chosen.len();
            chosen.sort_unstable();
            chosen.dedup();
            self.tokens += 1;
            self.distinct_sources += chosen.len() as u64;
            self.twin_tokens += u64::from(chosen.len() < experts);
        }
    }

    /// Adds what another counter of the same layer has counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.load.iter_mut().zip(&other.load) {
            *count += more;
        }
        self.tokens += other.tokens;
        self.distinct_sources += other.distinct_sources;
        self.twin_tokens += other.twin_tokens;
    }

    /// What has been counted; all zero before the first token.
    pub fn stats(&self) -> RoutingStats {
        let rows: u64 = self.load.iter().sum();
        let share = |count: u64, of: u64| {
            if of == 0 {
                0.0
            } else {
                count as f64 / of as f64
            }
        };
        let load: Vec<f64> = self.load.iter().map(|&count| share(count, rows)).collect();
        let experts = load.len() as f64;
        let entropy: f64 = load.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        RoutingStats {
            max_violation: load.iter().fold(0.0, |max: f64, &p| max.max(p)) * experts - 1.0,
            normalized_entropy: if experts > 1.0 {
                entropy / experts.ln()
            } else {
                1.0
            },
            dead_experts: self.load.iter().filter(|&&count| count == 0).count(),
            distinct_sources: share(self.distinct_sources, self.tokens),
            twin_coselection: share(self.twin_tokens, self.tokens),
            load,
        }
    }
}
