//! Configuration files by name (compiled in) or by path.

use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use upcycle_files::FileError;
use upcycle_operator::Recipe;

use crate::{error::LabError, scale::Scale, sweep::SweepConfig};

macro_rules! presets {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../configs/", $folder, "/", $name, ".toml")))),+]
    };
}

const SCALES: &[(&str, &str)] = presets!(
    "scales":
    "tiny", "tiny-softmax", "small", "medium", "154M", "305M", "1B", "2.4B", "1B-interleaved", "0.7B-top1", "7B-interleaved",
);
const SWEEPS: &[(&str, &str)] = presets!(
    "sweeps":
    "quick", "reproduction", "table1", "table2a", "table2b", "table3", "table4", "table7", "table8", "multipliers", "topk", "exact", "softmax",
);

/// Names of the presets of one kind, with what the first lines of their files say.
#[derive(Debug, Clone, Serialize)]
pub struct Catalogue {
    /// Models and their training.
    pub scales: Vec<Preset>,
    /// Whole experiments.
    pub sweeps: Vec<Preset>,
    /// Operators.
    pub recipes: Vec<Preset>,
}

/// A configuration file that is compiled in.
#[derive(Debug, Clone, Serialize)]
pub struct Preset {
    /// What to give on the command line.
    pub name: &'static str,
    /// What its file says of itself.
    pub about: String,
}

/// What stands for a recipe in sweeps, and is none of its own.
pub const AUTO: &str = "auto";
const ABOUT_AUTO: &str = "By the steps of a budget at the stable learning rate: `exact` for fewer than 750 (with softmax scores 250), `short-release` for fewer than 1300, `boosted-release` from there on; with K = 1 always `exact`.";

/// All presets.
pub fn catalogue() -> Catalogue {
    let list = |presets: &[(&'static str, &str)]| -> Vec<Preset> {
        let preset = |(name, text): &(&'static str, &str)| Preset {
            name,
            about: about(text),
        };
        presets.iter().map(preset).collect()
    };
    let auto = Preset {
        name: AUTO,
        about: ABOUT_AUTO.to_owned(),
    };
    let recipes = list(Recipe::all_named());
    Catalogue {
        scales: list(SCALES),
        sweeps: list(SWEEPS),
        recipes: [auto].into_iter().chain(recipes).collect(),
    }
}

/// The comment at the head of a file.
fn about(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("# "));
    lines.collect::<Vec<_>>().join(" ")
}

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

/// The recipe of a name, or in the TOML file of a path; not [`AUTO`], which only a plan can tell.
///
/// # Errors
/// If there is none, or it has an error.
pub fn recipe(name: &str) -> Result<Recipe, LabError> {
    if name == AUTO {
        return Err(LabError::Auto);
    }
    let mut recipe: Recipe = read("recipe", Recipe::all_named(), name)?;
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    recipe.read_counts(folder)?;
    recipe.validate()?;
    Ok(recipe)
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
            let text = fs::read_to_string(path).map_err(FileError::of("read", path))?;
            (name.to_owned(), text)
        }
        None => {
            let known = presets.iter().map(|(preset, _)| *preset);
            let known: Vec<_> = known.filter(|preset| !preset.contains('/')).collect();
            return Err(LabError::UnknownPreset {
                kind,
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    };
    upcycle_files::from_toml(&text).map_err(|error| LabError::Parse {
        place,
        problem: error.to_string(),
    })
}
