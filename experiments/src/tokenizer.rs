//! The tokenizer of a model: one rule for all that reads or writes its text.

use std::path::{Path, PathBuf};

use anyhow::Result;
use upcycle_data::TextTokenizer;

/// A tokenizer, and where it is.
pub struct Found {
    pub tokenizer: TextTokenizer,
    /// Its file; none where every byte is a token.
    pub file: Option<PathBuf>,
}

/// The tokenizer of the model in the folder `dir`: the one that is asked for, `bytes` or a file, else the folder's own. None if
/// it has none: that its tokens may be bytes is no reason to take them for such.
///
/// # Errors
/// If its file cannot be read.
pub fn find(dir: &Path, asked: Option<&str>) -> Result<Option<Found>> {
    let own = dir.join("tokenizer.json");
    let file = match asked {
        Some("bytes") => None,
        Some(path) => Some(PathBuf::from(path)),
        None if own.is_file() => Some(own),
        None => return Ok(None),
    };
    let tokenizer = match &file {
        Some(file) => TextTokenizer::read(file)?,
        None => TextTokenizer::bytes(),
    };
    Ok(Some(Found { tokenizer, file }))
}

/// Why there is no tokenizer, and what to do.
pub fn missing(dir: &Path) -> String {
    format!(
        "{} has no tokenizer.json; give the model's own with --tokenizer, or --tokenizer bytes for a model of text that an older version trained on bytes (models of the built-in corpus of chains know no text)",
        dir.display()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_asked_for_goes_before_the_models_own_and_nothing_is_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let file = |asked| find(folder.path(), asked).map(|found| found.map(|it| it.file));
        assert_eq!(file(None).unwrap(), None);
        assert_eq!(file(Some("bytes")).unwrap(), Some(None));
        let own = folder.path().join("tokenizer.json");
        fs::write(&own, "no tokenizer").unwrap();
        assert!(file(None).is_err());
        assert_eq!(file(Some("bytes")).unwrap(), Some(None));
        let error = file(Some("nowhere.json")).unwrap_err().to_string();
        assert!(error.contains("nowhere.json"), "{error}");
    }
}
