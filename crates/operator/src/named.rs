//! Recipes by name, compiled in.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::{error::OperatorError, recipe::Recipe, selection::Selection};

macro_rules! recipes {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../recipes/", $name, ".toml")))),+]
    };
}

/// Names and files; heuristics stand behind the others.
const RECIPES: &[(&str, &str)] = recipes!(
    "paper",
    "paper-weight-norm",
    "paper-saliency",
    "paper-fisher",
    "uniform",
    "uniform-moments",
    "exact",
    "exact-random",
    "exact-untied",
    "exact-reset",
    "exact-reset-new",
    "separated",
    "released",
    "short-release",
    "boosted-release",
    "hyperplane",
    "dormant",
    "new-experts",
    "growing-top-k",
    "wider",
    "sparse-upcycling",
    "drop-upcycling",
    "virtual-groups",
    "heuristics/expert-drop-kaiming-0.5",
    "heuristics/expert-drop-normal-0.5",
    "heuristics/expert-drop-xavier-0.3",
    "heuristics/expert-drop-xavier-0.5",
    "heuristics/expert-drop-xavier-0.7",
    "heuristics/expert-interpolate-0.2",
    "heuristics/expert-interpolate-0.5",
    "heuristics/expert-interpolate-0.7",
    "heuristics/expert-noise-0.01",
    "heuristics/expert-noise-0.02",
    "heuristics/expert-noise-0.05",
    "heuristics/expert-orthogonal",
    "heuristics/expert-scaled-0.90",
    "heuristics/expert-scaled-0.95",
    "heuristics/expert-scaled-1.05",
    "heuristics/expert-shuffle",
    "heuristics/expert-sparse-code-1024",
    "heuristics/expert-sparse-code-200",
    "heuristics/expert-sparse-code-256",
    "heuristics/expert-sparse-code-512",
    "heuristics/expert-sparse-code-mix-0.5",
    "heuristics/expert-sparse-code-sparsity-0.05",
    "heuristics/expert-sparse-code-sparsity-0.2",
    "heuristics/expert-svd-0.05-0.02",
    "heuristics/expert-svd-0.1-0.05",
    "heuristics/expert-svd-0.2-0.1",
    "heuristics/expert-svd-drop-0.3",
    "heuristics/expert-svd-mix-0.2",
    "heuristics/expert-svd-mix-0.3",
    "heuristics/expert-svd-mix-0.5",
    "heuristics/expert-svd-mix-0.7",
    "heuristics/expert-svd-values-0.15",
    "heuristics/expert-svd-vectors-0.1",
    "heuristics/hyperplane-1",
    "heuristics/hyperplane-10",
    "heuristics/hyperplane-3",
    "heuristics/hyperplane-30",
    "heuristics/plain-copy",
    "heuristics/random-experts",
    "heuristics/router-adversarial-0.1",
    "heuristics/router-adversarial-0.3",
    "heuristics/router-bias-only",
    "heuristics/router-interpolate-balanced",
    "heuristics/router-interpolate-heavy",
    "heuristics/router-interpolate-light",
    "heuristics/router-noise-0.01",
    "heuristics/router-noise-0.02",
    "heuristics/router-noise-0.05",
    "heuristics/router-orthogonal",
    "heuristics/router-perturb-new-0.01",
    "heuristics/router-perturb-new-0.05",
    "heuristics/router-scaled-0.95",
    "heuristics/router-scaled-1.05",
    "heuristics/router-svd-0.05-0.02",
    "heuristics/router-svd-0.1-0.05",
    "heuristics/router-temperature-0.9",
    "heuristics/router-temperature-1.1",
);

impl Recipe {
    /// Names of the recipes that are compiled in, with the text of their files.
    pub fn all_named() -> &'static [(&'static str, &'static str)] {
        RECIPES
    }

    /// The recipe of a name, such as `exact`, `released`, `uniform` or `paper`.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, OperatorError> {
        let known = || {
            let names = RECIPES.iter().map(|(name, _)| *name);
            let names: Vec<_> = names.filter(|name| !name.contains('/')).collect();
            OperatorError::UnknownRecipe {
                name: name.to_owned(),
                known: names.join(", "),
            }
        };
        let (_, text) = RECIPES
            .iter()
            .find(|(own, _)| *own == name)
            .ok_or_else(known)?;
        Self::from_toml(text)
    }

    /// A recipe as it stands in a TOML file. A file of counts that it names is not read, see
    /// [`read_counts`](Self::read_counts).
    ///
    /// # Errors
    /// With line and field, if it is none, or a field has an impossible value.
    pub fn from_toml(text: &str) -> Result<Self, OperatorError> {
        let recipe: Self = upcycle_files::from_toml(text)
            .map_err(|error| OperatorError::RecipeFile(error.to_string()))?;
        match recipe.selection {
            // Counts are still to come.
            Selection::Explicit { file: Some(_), .. } => {}
            _ => recipe.validate()?,
        }
        Ok(recipe)
    }

    /// Reads the counts that the recipe names a file for; a relative path is one from `folder`.
    ///
    /// The file is JSON: `{"counts": [[2, 1, ...], ...]}`, one list for all MoE layers or one for each.
    ///
    /// # Errors
    /// If the file cannot be read or is something else.
    pub fn read_counts(&mut self, folder: &Path) -> Result<(), OperatorError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Counts {
            counts: Vec<Vec<usize>>,
        }
        let Selection::Explicit { counts, file } = &mut self.selection else {
            return Ok(());
        };
        let Some(path) = file.take().map(|path| folder.join(path)) else {
            return Ok(());
        };
        let fail = |problem: String| {
            OperatorError::RecipeFile(format!("counts in {}: {problem}", path.display()))
        };
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let read: Counts = serde_json::from_str(&text).map_err(|error| {
            fail(format!(
                "{error}; it should be {{\"counts\": [[2, 1, ...], ...]}}"
            ))
        })?;
        *counts = read.counts;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_recipe_can_be_used() {
        for (name, _) in Recipe::all_named() {
            let recipe = Recipe::named(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            let own = name.rsplit('/').next().unwrap_or_default();
            assert_eq!(recipe.name, own);
        }
        let error = Recipe::named("exakt").err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("exact")));
    }
}
