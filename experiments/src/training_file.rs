//! How a model was trained, for those who train it on: a file beside its checkpoints.

use std::{
    fs, io,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use upcycle_data::{DataConfig, TokenizerConfig, remote_name};
use upcycle_lab::Scale;

const FILE: &str = "training.json";

/// How a model was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingFile {
    /// Model, batch, schedule, optimizer and balancing.
    pub scale: Scale,
    /// What it was trained on, with paths that hold everywhere on this machine.
    pub data: DataConfig,
    /// Seed of the order of the data.
    pub seed: u64,
    /// First step of continued pre-training; none before it.
    pub cpt_from: Option<u64>,
}

impl TrainingFile {
    /// That of a checkpoint, or of the run whose checkpoint it is; none where nothing is told.
    ///
    /// # Errors
    /// If what is told cannot be read.
    pub fn of(checkpoint: &Path) -> Result<Option<Self>> {
        // The checkpoints of a run are two folders below it.
        let above = checkpoint.parent();
        let above = above.filter(|folder| folder.ends_with("checkpoints"));
        let run = above.and_then(Path::parent);
        for folder in [Some(checkpoint), run].into_iter().flatten() {
            let path = folder.join(FILE);
            let problem = match fs::read_to_string(&path) {
                Ok(text) => match serde_json::from_str(&text) {
                    Ok(file) => return Ok(Some(file)),
                    Err(error) => error.to_string(),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => error.to_string(),
            };
            bail!(
                "{} cannot be read ({problem}); restore it, or remove it and say with flags how the model was trained (--scale, --data)",
                path.display()
            );
        }
        Ok(None)
    }

    /// Writes the file into a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        Ok(upcycle_files::write(&folder.join(FILE), json.as_bytes())?)
    }
}

/// The same data by paths that do not depend on the current folder.
///
/// # Errors
/// If the current folder is not known.
pub fn in_full(data: &DataConfig) -> Result<DataConfig> {
    let mut data = data.clone();
    if let DataConfig::Text(text) = &mut data {
        let lists = [&mut text.paths, &mut text.validation, &mut text.test];
        for path in lists.into_iter().flatten() {
            *path = whole(path)?;
        }
        if let TokenizerConfig::File { path } = &mut text.tokenizer {
            *path = whole(path)?;
        }
    }
    Ok(data)
}

fn whole(path: &Path) -> Result<PathBuf> {
    if remote_name(path).is_some() {
        return Ok(path.to_owned());
    }
    absolute(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use upcycle_data::TextConfig;
    use upcycle_lab::presets;

    use super::*;

    #[test]
    fn a_checkpoint_knows_what_its_run_says() {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = run.path().join("checkpoints/step-00000007");
        assert_eq!(TrainingFile::of(&checkpoint).unwrap(), None);
        let data = DataConfig::Text(TextConfig {
            paths: vec!["a.txt".into(), "hf:org/name".into()],
            ..TextConfig::default()
        });
        let file = TrainingFile {
            scale: presets::scale("tiny").unwrap(),
            data: in_full(&data).unwrap(),
            seed: 3,
            cpt_from: Some(5),
        };
        file.write(run.path()).unwrap();
        let of = TrainingFile::of;
        assert_eq!(of(run.path()).unwrap(), Some(file.clone()));
        assert_eq!(of(&checkpoint).unwrap(), Some(file.clone()));
        fs::write(run.path().join(FILE), "{\"scale\": ").unwrap();
        let error = of(&checkpoint).unwrap_err().to_string();
        assert!(
            error.contains(FILE) && error.contains("restore it"),
            "{error}"
        );
        let DataConfig::Text(text) = file.data else {
            panic!("text became something else");
        };
        assert!(text.paths[0].is_absolute());
        assert_eq!(text.paths[1], Path::new("hf:org/name"));
    }
}
