//! Growing a model, beside a plain copy of the result.

use anyhow::Result;
use serde::Serialize;
use upcycle_lab::presets;
use upcycle_lm::LmConfig;
use upcycle_operator::{ExpertInit, RouterExtension, TieBreakKind, Upcycle};

use super::{
    measure::{Bench, OperatorTimes},
    median,
    model::Model,
};

/// Recipes on one model.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Experts a layer before and after.
    experts: [usize; 2],
    rows: Vec<Row>,
}

/// One recipe.
#[derive(Debug, Serialize)]
struct Row {
    recipe: &'static str,
    #[serde(flatten)]
    times: OperatorTimes,
    /// Time of the operator over that of the copy, median of the rounds.
    ratio: f64,
}

/// A model with 1 GB of parameters.
fn model() -> LmConfig {
    LmConfig {
        layers: 5,
        experts: 32,
        d_model: 512,
        d_expert: 1024,
        ..Model::s().config
    }
}

/// Measures all recipes.
pub fn measure(rounds: usize, meter: &dyn Bench) -> Result<Table> {
    let model = model();
    let target = 2 * model.experts;
    let mut rows = Vec::new();
    let two_level = RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Random,
        strength: 0.3,
        separation: 0.0,
        release: None,
    };
    let uniform = presets::recipe("uniform")?;
    let svd = ExpertInit::SvdPerturb {
        values: 0.1,
        vectors: 0.05,
        drop: 0.0,
    };
    for (name, experts, router) in [
        ("copies", ExpertInit::Copy {}, uniform.router.clone()),
        ("copies, two-level", ExpertInit::Copy {}, two_level),
        (
            "scaled copies",
            ExpertInit::Scale { factor: 0.95 },
            uniform.router.clone(),
        ),
        (
            "noise",
            ExpertInit::Noise { std: 0.01 },
            uniform.router.clone(),
        ),
        ("singular values and vectors", svd, uniform.router.clone()),
    ] {
        let mut recipe = uniform.clone();
        recipe.experts = experts;
        recipe.router = router;
        let operator = Upcycle::new(recipe, target);
        // A decomposition takes so long that noise does not matter.
        let decomposes = matches!(operator.recipe.experts, ExpertInit::SvdPerturb { .. });
        let rounds = if decomposes { 1 } else { rounds };
        let times = meter.operator(&model, &operator, rounds)?;
        let ratios = times.seconds.iter().zip(&times.copy_seconds);
        rows.push(Row {
            recipe: name,
            ratio: median(ratios.map(|(seconds, copy)| seconds / copy)),
            times,
        });
    }
    Ok(Table {
        experts: [model.experts, target],
        rows,
    })
}

impl Table {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let [from, to] = self.experts;
        let bytes = self.rows.first().map_or(0.0, |row| row.times.bytes);
        let mut lines = vec![format!(
            "operator, {from} to {to} experts: {:.2} GB of grown parameters, over a plain copy of as many bytes",
            bytes / 1e9
        )];
        for row in &self.rows {
            lines.push(format!(
                "   {:<28} {:>8.3} s  copy {:>6.3} s  ratio {:.2}",
                row.recipe,
                median(row.times.seconds.iter().copied()),
                median(row.times.copy_seconds.iter().copied()),
                row.ratio
            ));
        }
        lines
    }
}
