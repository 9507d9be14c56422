//! Tokens by which a model ends a text.

use serde::Deserialize;

use crate::{checkpoint::HfCheckpoint, config::ConfigFile, error::HfError};

/// Where transformers says how a model generates.
const GENERATION: &str = "generation_config.json";
const FIELD: &str = "eos_token_id";

/// Some models have several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl HfCheckpoint {
    /// Tokens that end a text, as `generation_config.json` says, or else `config.json`; empty if neither does.
    ///
    /// # Errors
    /// If a file is not what it should be.
    pub fn end_of_text(&self) -> Result<Vec<u32>, HfError> {
        let path = self.dir.join(GENERATION);
        let ids: Option<Ids> = match path.is_file() {
            true => ConfigFile::read_from(&path)?.get(FIELD)?,
            false => None,
        };
        let ids = match ids {
            Some(ids) => Some(ids),
            None => self.config.get(FIELD)?,
        };
        Ok(match ids {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
            None => Vec::new(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_generation_config_goes_before() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mixtral");
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let ids = |generation: Option<&str>| {
            let path = dir.path().join(GENERATION);
            match generation {
                Some(text) => fs::write(path, text).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            let checkpoint = HfCheckpoint::open(dir.path(), None).unwrap();
            checkpoint.end_of_text()
        };
        assert_eq!(ids(Some(r#"{"eos_token_id": [5, 7]}"#)).unwrap(), [5, 7]);
        assert_eq!(ids(Some(r#"{"eos_token_id": 5}"#)).unwrap(), [5]);
        assert_eq!(ids(Some(r#"{"eos_token_id": null}"#)).unwrap(), [2]);
        let error = ids(Some(r#"{"eos_token_id": "end"}"#)).unwrap_err();
        assert!(error.to_string().contains("eos_token_id"), "{error}");
        assert_eq!(ids(None).unwrap(), [2]);
    }
}
