//! Where the experts of a layer come from.

use serde::{Deserialize, Serialize};

use crate::sources::ExpertSources;

/// Where the experts of a layer come from, growth by growth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// Experts before all growths.
    experts: usize,
    /// Source of every expert among the experts before that growth, first growth first.
    growths: Vec<ExpertSources>,
}

impl Lineage {
    /// A layer that was never grown.
    pub fn new(experts: usize) -> Self {
        Self {
            experts,
            growths: Vec::new(),
        }
    }

    /// The same layer, grown; none if the sources are not this lineage's experts.
    pub fn grown(mut self, sources: ExpertSources) -> Option<Self> {
        let fits = sources.count() == self.experts();
        self.growths.push(sources);
        fits.then_some(self)
    }

    /// Whether every growth starts from the experts of the one before.
    pub fn is_whole(&self) -> bool {
        let mut experts = self.experts;
        self.growths.iter().all(|growth| {
            let fits = growth.count() == experts;
            experts = growth.experts();
            fits
        })
    }

    /// Number of experts now, E.
    pub fn experts(&self) -> usize {
        self.growths
            .last()
            .map_or(self.experts, ExpertSources::experts)
    }

    /// What was done, first growth first.
    pub fn growths(&self) -> &[ExpertSources] {
        &self.growths
    }

    /// The expert before all growths that every expert comes from.
    pub fn origins(&self) -> ExpertSources {
        let first = ExpertSources::identity(self.experts);
        self.growths
            .iter()
            .fold(first, |origins, growth| growth.through(&origins))
    }
}
