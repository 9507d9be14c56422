//! Growing one MoE layer: what is computed, apart from where its parameters are read from and written to.

use std::ops::Range;

use crate::{
    deviation::Deviation,
    error::OperatorError,
    evidence::LayerEvidence,
    experts::{ExpertInit, ExpertMatrices},
    measurement::Measurement,
    plan::LayerPlan,
    recipe::Recipe,
    router::{RouterExtension, RouterRows, TieBreakKind},
    seed::LayerSeed,
    tie_break::Directions,
};

/// One layer of an upcycling, made by [`Upcycle::layer`](crate::Upcycle::layer). Growing a model in memory and streaming a
/// checkpoint from disk to disk both compute with it.
#[derive(Debug, Clone, Copy)]
pub struct LayerGrowth<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) plan: &'a LayerPlan,
    pub(crate) index: usize,
    pub(crate) seed: LayerSeed,
}

impl LayerGrowth<'_> {
    /// Router rows and biases of the grown layer.
    pub fn rows(&self, before: &RouterRows) -> (RouterRows, Option<Deviation>) {
        let seed = self.seed.of("router");
        let (rows, experts) = self.recipe.router.extend(before, self.plan, seed);
        let layer = self.index;
        let deviation = Deviation::CopiedRows { layer, experts };
        (rows, some(deviation))
    }

    /// Whether the weights of replicas are those of their sources.
    pub fn copies_experts(&self) -> bool {
        self.recipe.experts == (ExpertInit::Copy {})
    }

    /// Gate, up and down projections of the grown layer, see [`ExpertInit::grow`].
    pub fn experts(&self, source: ExpertMatrices) -> ([Vec<f32>; 3], Option<Deviation>) {
        let seed = self.seed.of("experts");
        let (matrices, copied) = self.recipe.experts.grow(source, self.plan, seed);
        (matrices, self.copied(copied))
    }

    /// Experts of the layer that those of a block of the grown one are made of, in ascending order.
    pub(crate) fn reads(&self, block: Range<usize>) -> Vec<usize> {
        self.recipe.experts.reads(self.plan, block)
    }

    /// Gate, up and down projections of a block of the grown layer, of the experts that it [`reads`](Self::reads), and the
    /// replicas that could not be made and are plain copies.
    pub(crate) fn block(
        &self,
        source: ExpertMatrices,
        block: Range<usize>,
    ) -> ([Vec<f32>; 3], Vec<usize>) {
        let seed = self.seed.of("experts");
        let held = self.reads(block.clone());
        let init = &self.recipe.experts;
        init.grow_block(source, &held, self.plan, block, seed)
    }

    /// That these experts are plain copies; none if there are none.
    pub(crate) fn copied(&self, experts: Vec<usize>) -> Option<Deviation> {
        let layer = self.index;
        some(Deviation::CopiedExperts { layer, experts })
    }

    /// Gate, up and down of one expert of the grown layer, see [`ExpertInit::replica`].
    pub fn replica(
        &self,
        source: ExpertMatrices,
        neighbour: ExpertMatrices,
        expert: usize,
    ) -> ([Vec<f32>; 3], Option<Deviation>) {
        let seed = self.seed.of("experts");
        let (matrices, made) = self.recipe.experts.replica(source, neighbour, expert, seed);
        let copied = if made { vec![] } else { vec![expert] };
        (matrices, self.copied(copied))
    }

    /// The tie-break of two-level selection for inputs of width `d`; none if the recipe has none.
    ///
    /// # Errors
    /// If it is to be made of tokens that were not measured.
    pub fn directions(
        &self,
        evidence: &LayerEvidence,
        d: usize,
    ) -> Result<Option<(Directions, Option<Deviation>)>, OperatorError> {
        let RouterExtension::TwoLevel { tie_break, .. } = self.recipe.router else {
            return Ok(None);
        };
        let seed = self.seed.of("tie-break");
        Ok(Some(match tie_break {
            TieBreakKind::Random => (Directions::random(self.plan, d, seed), None),
            TieBreakKind::Centroids => {
                let tokens = evidence.tokens.as_ref();
                let tokens =
                    tokens.ok_or_else(|| self.recipe.missing(Measurement::RoutedTokens))?;
                let width = tokens.inputs.len() * tokens.top_k;
                if width != tokens.experts.len() * d {
                    return Err(OperatorError::EvidenceMismatch {
                        what: "width of measured tokens",
                        found: width / tokens.experts.len().max(1),
                        expected: d,
                    });
                }
                let (directions, sources) = Directions::centroids(self.plan, tokens, d, seed);
                let layer = self.index;
                let deviation = Deviation::RandomDirections { layer, sources };
                (directions, some(deviation))
            }
        }))
    }
}

/// A deviation that concerns nobody is none.
fn some(deviation: Deviation) -> Option<Deviation> {
    (!deviation.of().is_empty()).then_some(deviation)
}
