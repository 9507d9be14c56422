//! Utility scores of the experts of a checkpoint.

use serde::{Deserialize, Serialize};
use upcycle_operator::{LayerEvidence, Norms, Score, Upcycle};

use crate::{checkpoint::HfCheckpoint, error::HfError, moe::Moe};

/// Utility scores that were recorded elsewhere, as they stand in a JSON file:
/// `{"score": "load", "layers": [[0.01, 0.02, ...], ...]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenScores {
    /// What they are; must be what the recipe asks for.
    pub score: Score,
    /// Scores of all experts, for each MoE layer in order; those that the model does not run come last, and may be left out.
    pub layers: Vec<Vec<f64>>,
}

pub(crate) fn check_scores(
    given: &GivenScores,
    operator: &Upcycle,
    moe: &Moe,
) -> Result<(), HfError> {
    let fail = |problem: String| Err(HfError::Impossible(format!("given scores: {problem}")));
    let recipe = &operator.recipe;
    let Some(utility) = recipe.selection.utility() else {
        return fail(format!(
            "recipe `{}` selects without scores; choose `selection.kind` = `greedy`, `proportional` or `sampled`",
            recipe.name
        ));
    };
    if utility.score != given.score {
        return fail(format!(
            "the file has {}, recipe `{}` asks for {}; change `selection.score`",
            name(given.score),
            recipe.name,
            name(utility.score)
        ));
    }
    // Programs that run the model see no others.
    let runs = moe.layers.iter().filter(|layer| layer.runs).count();
    if ![runs, moe.layers.len()].contains(&given.layers.len()) {
        return fail(format!(
            "the file has scores for {} layers, the model has {runs} MoE layers{}",
            given.layers.len(),
            match moe.layers.len() - runs {
                0 => String::new(),
                more => format!(", and {more} of multi-token prediction"),
            }
        ));
    }
    Ok(())
}

/// Scores of the experts of a layer: those given, or what can be told from the weights.
pub(crate) fn utility_scores(
    checkpoint: &HfCheckpoint,
    moe: &Moe,
    operator: &Upcycle,
    given: Option<&GivenScores>,
    layer: usize,
) -> Result<Vec<f64>, HfError> {
    if let Some(given) = given {
        return Ok(given.layers[layer].clone());
    }
    let mut evidence = LayerEvidence::NOTHING;
    let utility = operator.recipe.selection.utility();
    if utility.is_some_and(|utility| utility.score == Score::WeightNorm) {
        let mut norms = Norms::default();
        for expert in 0..moe.experts {
            let ([gate, up, down], _) = checkpoint.expert(&moe.layers[layer], expert)?;
            norms.fc1.push((squares(&gate) + squares(&up)).sqrt());
            norms.fc2.push(squares(&down).sqrt());
        }
        evidence.weights = Some(norms);
    }
    operator.scores(&evidence, layer, moe.experts).map_err(|missing| {
        HfError::Impossible(format!(
            "recipe `{}` needs {}, which weights do not tell; record them as docs/huggingface.md shows and give them as scores, or use `selection.kind` = `uniform`",
            operator.recipe.name,
            missing.name()
        ))
    })
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// Name of a score, as recipes have it.
fn name(score: Score) -> String {
    let name = serde_json::to_value(score).ok();
    let name = name
        .as_ref()
        .and_then(|name| name.as_str())
        .unwrap_or_default();
    format!("`{name}`")
}
