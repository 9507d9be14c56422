//! Configuration files by name (compiled in) or by path.

use std::{fs, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use upcycle_operator::{Recipe, Selection};

use crate::{error::LabError, scale::Scale, sweep::SweepConfig};

macro_rules! presets {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../configs/", $folder, "/", $name, ".toml")))),+]
    };
}

const SCALES: &[(&str, &str)] = presets!(
    "scales":
    "tiny", "tiny-softmax", "small", "medium", "154M", "305M", "1B", "2.4B", "1B-interleaved", "0.7B-top1", "7B-interleaved",
);
const SWEEPS: &[(&str, &str)] = presets!(
    "sweeps": "quick", "table2b", "table3", "table7", "multipliers", "topk", "exact", "softmax",
);
const RECIPES: &[(&str, &str)] = presets!(
    "recipes":
    "paper", "uniform", "exact", "separated", "released", "hyperplane", "dormant", "sparse-upcycling", "drop-upcycling", "virtual-groups", "heuristics/random-experts",
    "heuristics/hyperplane-1", "heuristics/hyperplane-3", "heuristics/hyperplane-10", "heuristics/hyperplane-30",
    "paper-weight-norm", "paper-saliency", "paper-fisher",
);

/// The scale of a name, or in the TOML file of a path.
///
/// # Errors
/// If there is none, or it has an error.
pub fn scale(name: &str) -> Result<Scale, LabError> {
    read("scale", SCALES, name)
}

/// The sweep of a name, or in the TOML file of a path.
///
/// # Errors
/// If there is none, or it has an error.
pub fn sweep(name: &str) -> Result<SweepConfig, LabError> {
    read("sweep", SWEEPS, name)
}

/// The recipe of a name, or in the TOML file of a path.
///
/// # Errors
/// If there is none, or it has an error.
pub fn recipe(name: &str) -> Result<Recipe, LabError> {
    let mut recipe: Recipe = read("recipe", RECIPES, name)?;
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    read_counts(&mut recipe, folder)?;
    recipe.validate()?;
    Ok(recipe)
}

/// Reads the counts that a recipe names a file for; a relative path is one from `folder`.
///
/// The file is JSON: `{"counts": [[2, 1, ...], ...]}`, one list for all MoE layers or one for each.
///
/// # Errors
/// If the file cannot be read or is something else.
pub fn read_counts(recipe: &mut Recipe, folder: &Path) -> Result<(), LabError> {
    let Selection::Explicit { counts, file } = &mut recipe.selection else {
        return Ok(());
    };
    let Some(path) = file.take().map(|path| folder.join(path)) else {
        return Ok(());
    };
    let text = fs::read_to_string(&path).map_err(|source| LabError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let read: Counts = serde_json::from_str(&text).map_err(|error| LabError::Parse {
        place: path.display().to_string(),
        problem: format!("{error}; it should be {{\"counts\": [[2, 1, ...], ...]}}"),
    })?;
    *counts = read.counts;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    counts: Vec<Vec<usize>>,
}

fn read<T: DeserializeOwned>(
    kind: &'static str,
    presets: &[(&str, &str)],
    name: &str,
) -> Result<T, LabError> {
    let path = Path::new(name);
    let (place, text) = match presets.iter().find(|(preset, _)| *preset == name) {
        Some((_, text)) => (format!("{kind} `{name}`"), (*text).to_owned()),
        None if path.is_file() => {
            let text = fs::read_to_string(path).map_err(|source| LabError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            (name.to_owned(), text)
        }
        None => {
            let known: Vec<_> = presets.iter().map(|(preset, _)| *preset).collect();
            return Err(LabError::UnknownPreset {
                kind,
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    };
    toml::from_str(&text).map_err(|error| LabError::Parse {
        place,
        problem: error.to_string().trim_end().to_owned(),
    })
}
