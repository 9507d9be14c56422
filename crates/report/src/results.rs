//! What a sweep found out: plain rows that the CSV file, the terminal table and the report are made from.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::number::{count, percent};

/// Everything that a sweep found out, with what is needed to repeat it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Name of the sweep (its run directory).
    pub name: String,
    /// The command line that reproduces it.
    pub command: String,
    /// The full sweep configuration as TOML.
    pub config: String,
    /// What it has in place of its scales' own values.
    #[serde(default)]
    pub overrides: Overrides,
    /// Where it ran.
    pub environment: Environment,
    /// Entropy rate of the data in nats a token, where it is known in closed form.
    pub floor: Option<f64>,
    /// What a reader of the figures has to know, in sentences without their full stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The recipe that others are compared with; none for the paper's that comes first, or else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// One row for each recipe that cells, curves and routing rows name; none in results of an older version.
    #[serde(default)]
    pub recipes: Vec<RecipeRow>,
    /// One row for each (scale, E, m, K, CPT fraction, recipe, seed).
    pub cells: Vec<Cell>,
    /// Validation loss over training, one curve for each run.
    pub curves: Vec<Curve>,
    /// Routing of the final models, one row for each run and MoE layer.
    pub routing: Vec<RoutingRow>,
    /// Downstream tasks of the final models, one row for each cell and task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRow>,
}

/// A downstream task on the three models of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Where in the sweep.
    #[serde(flatten)]
    pub setting: Setting,
    /// Name of the upcycling recipe.
    pub recipe: String,
    /// Seed of the comparison.
    pub seed: u64,
    /// Name of the task.
    pub task: String,
    /// What stands for it.
    pub metric: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// What guessing reaches; none where nothing is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The largest standard error over items of the three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Of the small model.
    pub fixed_e: f64,
    /// Of the upcycled model.
    pub upcycled: f64,
    /// Of the big model trained from scratch.
    pub fixed_me: f64,
}

impl Results {
    /// Names of the recipes that the cells are of, in order of first appearance.
    pub fn recipe_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.recipe.as_str()) {
                names.push(&cell.recipe);
            }
        }
        names
    }
}

/// What a sweep has in place of the values of its scales; none where it leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    /// Tokens of pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Size of the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
    /// Context in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Highest learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_lr: Option<f64>,
}

/// A recipe of the sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeRow {
    /// Its name in the other rows.
    pub name: String,
    /// Whether it is the paper's.
    pub of_paper: bool,
}

/// The machine and software that produced the results.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Version of burn-upcycle.
    pub version: String,
    /// Backend and device, in words.
    pub backend: String,
    /// What computed the products of experts, by the results: `reference` (plain tensor operations), `specialised` (kernels of this
    /// program), `tensor-cores`, or several, with `+` between; none where results do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// Processor model.
    pub processor: String,
    /// Number of threads available.
    pub threads: usize,
    /// Operating system and architecture.
    pub system: String,
    /// UTC time of the report, RFC 3339.
    pub date: String,
    /// The commit that the program was built from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The program that ran, with what was compiled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// The axes that cells, curves and routing rows share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Name of the scale.
    pub scale: String,
    /// Data source, in short.
    pub data: String,
    /// Protocol, `trunk` or `annealed`.
    pub protocol: String,
    /// Experts a layer before upcycling, E.
    pub experts: usize,
    /// Multiplier m.
    pub multiplier: f64,
    /// Experts a layer after upcycling, mE.
    pub target_experts: usize,
    /// Experts chosen for a token, K.
    pub top_k: usize,
    /// CPT steps over pre-training steps.
    pub cpt_fraction: f64,
    /// Pre-training steps over all steps, tau / T, in sweeps that move tau while T stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<f64>,
    /// Tokens of pre-training, in sweeps over several lengths of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Stable learning rate after the operator over that before it, in sweeps that change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpt_lr: Option<f64>,
    /// What there is m times as much of after upcycling, where that is not the number of experts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows: Option<Grows>,
}

/// What there is m times as much of after upcycling, beside or in place of the number of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grows {
    /// Experts, and the experts of a token.
    ExpertsAndTopK,
    /// The hidden width of experts; their number stays.
    Width,
}

impl fmt::Display for Grows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExpertsAndTopK => "experts-and-top-k",
            Self::Width => "width",
        })
    }
}

impl FromStr for Grows {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = [Self::ExpertsAndTopK, Self::Width].into_iter();
        let found = all.find(|it| it.to_string() == name);
        found.ok_or_else(|| format!("nothing that grows is called `{name}`"))
    }
}

impl Setting {
    /// What grows in words, such as `8 to 16 experts, top-2`.
    pub fn growth_name(&self) -> String {
        let Self {
            experts,
            target_experts,
            top_k,
            multiplier,
            ..
        } = self;
        match self.grows {
            None => format!("{experts} to {target_experts} experts, top-{top_k}"),
            Some(Grows::ExpertsAndTopK) => {
                let grown = *top_k as f64 * multiplier;
                format!("{experts} to {target_experts} experts, top-{top_k} to top-{grown}")
            }
            Some(Grows::Width) => {
                format!("{experts} experts to {multiplier} times their width, top-{top_k}")
            }
        }
    }

    /// Name of the model of the final shape.
    pub fn fixed_me_name(&self) -> String {
        match self.grows {
            Some(Grows::Width) => "Fixed-wide".to_owned(),
            _ => format!("Fixed-{}", self.target_experts),
        }
    }

    /// Where on the axis of its group: the transition in sweeps that move tau, else the CPT fraction.
    pub fn place(&self) -> f64 {
        self.transition.unwrap_or(self.cpt_fraction)
    }

    /// The length of pre-training in words, in sweeps over several.
    pub fn length_name(&self) -> Option<String> {
        let length = count(self.length? as f64);
        Some(format!("{length} tokens of pre-training"))
    }

    /// The learning rate after the operator in words, in sweeps that change it.
    pub fn cpt_lr_name(&self) -> Option<String> {
        let factor = self.cpt_lr?;
        Some(format!(
            "{factor} times the learning rate after the operator"
        ))
    }

    /// Name of a place on that axis, such as `CPT 25 %`.
    pub fn place_name(&self, place: f64) -> String {
        match self.transition {
            Some(_) => format!("τ/T {}", percent(place)),
            None => format!("CPT {}", percent(place)),
        }
    }
}

/// One comparison of Fixed-E, Upcycled and Fixed-mE at equal tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// Where in the sweep this cell lies.
    #[serde(flatten)]
    pub setting: Setting,
    /// Name of the upcycling recipe.
    pub recipe: String,
    /// Seed of initialisation, data order and operator.
    pub seed: u64,
    /// Backend that computed it.
    pub backend: String,
    /// What computed the products of experts on it, as in [`Environment`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// Tokens before the operator (tau).
    pub pretrain_tokens: u64,
    /// Tokens after it.
    pub cpt_tokens: u64,
    /// Final validation loss of the small model, nats a token.
    pub loss_fixed_e: f64,
    /// Final validation loss of the upcycled model.
    pub loss_upcycled: f64,
    /// Final validation loss of the big model trained from scratch.
    pub loss_fixed_me: f64,
    /// Final test loss of the small model, nats a token; none in results of older versions, which have no test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss_fixed_e: Option<f64>,
    /// Final test loss of the upcycled model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss_upcycled: Option<f64>,
    /// Final test loss of the big model trained from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss_fixed_me: Option<f64>,
    /// Validation loss right before the operator.
    pub loss_before: f64,
    /// Validation loss right after the operator, before any training.
    pub loss_after: f64,
    /// Norm of the change of all logits by the operator, over the norm of the logits before.
    pub logit_difference: f64,
    /// Largest change of a logit by the operator.
    pub largest_logit_difference: f64,
    /// Share of tokens whose experts come from other sources right after the operator, mean over layers.
    pub changed_sources: f64,
    /// Share of tokens that choose two replicas of one source right after the operator, mean over layers.
    pub twin_coselection: f64,
    /// Gap closure eta as a fraction (1.0 = all of the gap); none where Fixed-mE is not ahead of Fixed-E by
    /// [`SMALLEST_GAP`](crate::statistics::SMALLEST_GAP).
    pub gap_closure: Option<f64>,
    /// Seconds of training of Fixed-E.
    #[serde(default)]
    pub wall_seconds_fixed_e: f64,
    /// Seconds of training of the upcycled run: pre-training and CPT.
    pub wall_seconds: f64,
    /// Seconds of training of Fixed-mE.
    pub wall_seconds_fixed_me: f64,
    /// FLOPs of Fixed-E.
    #[serde(default)]
    pub train_flops_fixed_e: f64,
    /// FLOPs of the upcycled run: pre-training and CPT.
    pub train_flops: f64,
    /// FLOPs of Fixed-mE.
    pub train_flops_fixed_me: f64,
}

impl Cell {
    /// Lead of Fixed-mE over Fixed-E, nats a token.
    pub(crate) fn gap(&self) -> f64 {
        self.loss_fixed_e - self.loss_fixed_me
    }

    /// Lead of Upcycled over Fixed-E: what it closes of the gap, nats a token.
    pub(crate) fn closed(&self) -> f64 {
        self.loss_fixed_e - self.loss_upcycled
    }
}

/// Which of the three models of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The small model, trained for all steps.
    FixedE,
    /// The small model, grown at tau, trained on.
    Upcycled,
    /// The big model from scratch.
    FixedMe,
}

/// Validation loss over the training of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// Where in the sweep this run lies.
    #[serde(flatten)]
    pub setting: Setting,
    /// Which model.
    pub arm: Arm,
    /// Recipe of an upcycled run.
    pub recipe: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Tokens at which the operator is (or would be) applied.
    pub tau_tokens: u64,
    /// Tokens seen and validation loss in nats, in order. At tau an upcycled run has two points: before and after.
    pub points: Vec<(u64, f64)>,
    /// How alike replicas are, from tau on; empty for runs that were not grown.
    #[serde(default)]
    pub twins: Vec<TwinPoint>,
}

/// How alike the replicas of one source are at one time, means over MoE layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TwinPoint {
    /// Tokens seen.
    pub tokens: u64,
    /// Mean cosine of the weights of two replicas of one source.
    pub cosine: f64,
    /// Share of tokens that chose two replicas of one source.
    pub coselection: f64,
}

/// Routing of one MoE layer of a final model, on validation tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoutingRow {
    /// Where in the sweep this run lies.
    #[serde(flatten)]
    pub setting: Setting,
    /// Which model.
    pub arm: Arm,
    /// Recipe of an upcycled run.
    pub recipe: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Index of the MoE layer, from 0.
    pub layer: usize,
    /// Share of routed tokens for each expert; sums to 1.
    pub load: Vec<f64>,
    /// Largest load over the mean load, less 1.
    pub max_violation: f64,
    /// Entropy of the load over its largest possible value, ln(experts).
    pub normalized_entropy: f64,
    /// Experts without a token.
    pub dead_experts: usize,
    /// Mean number of distinct sources among the K experts of a token.
    pub distinct_sources: f64,
    /// Share of tokens that chose two replicas of one source.
    pub twin_coselection: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn rows_of_an_older_version_are_read() {
        let mut json = serde_json::to_value(sample::results()).unwrap();
        for field in ["recipes", "overrides"] {
            assert!(json.as_object_mut().unwrap().remove(field).is_some());
        }
        for field in ["commit", "program"] {
            let environment = json["environment"].as_object_mut().unwrap();
            assert!(environment.remove(field).is_some());
        }
        let results: Results = serde_json::from_value(json).unwrap();
        assert!(results.recipes.is_empty() && results.overrides == Overrides::default());
        assert!(results.environment.commit.is_none() && results.baseline.is_none());
    }
}
