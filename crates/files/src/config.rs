//! Configuration files that people write, in TOML.

use std::fmt;

use serde::de::DeserializeOwned;
use toml::de::Error;

/// What is wrong with a TOML text, and where: `line 3, `seeds`: invalid type: string "two", expected u64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TomlError {
    /// From 1; none where a field is missing that would stand outside of all sections.
    pub line: Option<usize>,
    /// The key, or the head of the section, that the problem is with.
    pub key: Option<String>,
    /// What is wrong, with what would be right where that is known.
    pub problem: String,
}

impl std::error::Error for TomlError {}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}")?;
        }
        // Most problems with a key name it.
        let key = self.key.as_ref();
        if let Some(key) = key.filter(|key| !self.problem.contains(&format!("`{key}`"))) {
            let comma = if self.line.is_some() { ", " } else { "" };
            write!(f, "{comma}`{key}`")?;
        }
        let place = if self.line.is_some() { ": " } else { "" };
        write!(f, "{place}{}", self.problem)
    }
}

/// A value as it stands in a TOML text.
///
/// # Errors
/// With line and key, if the text is no TOML or not of such a value. An unknown key is told with those that are known.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(|error| located(text, &error))
}

fn located(text: &str, error: &Error) -> TomlError {
    let problem = error.message().trim_end().replace('\n', "; ");
    // Outside of all sections the parser has no place for what is missing.
    let place = error
        .span()
        .filter(|span| !span.is_empty() || span.start > 0);
    let start = place.map(|span| span.start);
    let (at, key) = match culprit(text, start.unwrap_or(0), &problem) {
        Some((at, key)) => (Some(at), Some(key)),
        None => (start, start.and_then(|start| key_of(text, start))),
    };
    let line = at.and_then(|at| Some(text.get(..at)?.matches('\n').count() + 1));
    TomlError { line, key, problem }
}

/// Place and name of the key that a problem names. Values that are read in two steps, such as sections with a `kind`, have
/// the place of their section only.
fn culprit(text: &str, place: usize, problem: &str) -> Option<(usize, String)> {
    let (what, rest) = problem.split_once(" `")?;
    let (name, _) = rest.split_once('`')?;
    let is_it = |key: &str, value: &str| match what {
        "unknown field" => key == name,
        "unknown variant" => value == name,
        _ => false,
    };
    let mut at = text.get(..place)?.rfind('\n').map_or(0, |end| end + 1);
    for line in text.get(at..)?.split_inclusive('\n') {
        let mut assigned = line
            .split(['{', ','])
            .filter_map(|part| part.split_once('='));
        let found = assigned.find(|(key, value)| is_it(last_part(key), unquoted(value)));
        if let Some((key, _)) = found {
            return Some((at, last_part(key).to_owned()));
        }
        at += line.len();
    }
    None
}

/// The last part of a dotted key, without quotes.
fn last_part(key: &str) -> &str {
    let last = key.rsplit('.').next().unwrap_or(key);
    last.trim().trim_matches(['"', '\''])
}

/// What stands between the quotes at the head of a value.
fn unquoted(value: &str) -> &str {
    let mut parts = value.split(['"', '\'']);
    parts.nth(1).unwrap_or_default()
}

/// The head of the section that begins at a place, or else the key whose value stands there.
fn key_of(text: &str, place: usize) -> Option<String> {
    let (before, after) = (text.get(..place)?, text.get(place..)?);
    let begins_a_line = before.is_empty() || before.ends_with('\n');
    if begins_a_line && after.starts_with('[') {
        return after.lines().next().map(|head| head.trim().to_owned());
    }
    let (assigned, value) = before.rsplit_once('=')?;
    // Only arrays go on in further lines.
    let is_open = value.matches('[').count() > value.matches(']').count();
    if value.contains('\n') && !is_open {
        return None;
    }
    let key = last_part(assigned.rsplit(['\n', '{', ',']).next()?);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    (!key.is_empty() && key.chars().all(is_plain)).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sweep {
        name: String,
        #[serde(default)]
        seeds: u64,
        #[serde(default)]
        cpt: Vec<f64>,
        router: Option<Router>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
    #[allow(dead_code)]
    enum Router {
        Copy {},
        TwoLevel { strength: f64 },
    }

    fn error(text: &str) -> String {
        from_toml::<Sweep>(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_those_that_are_known() {
        let text = "# A sweep.\nname = \"x\"\nsedes = 3\n";
        let told =
            "line 3: unknown field `sedes`, expected one of `name`, `seeds`, `cpt`, `router`";
        assert_eq!(error(text), told);
    }

    #[test]
    fn a_value_of_another_type_is_told_with_its_key() {
        let told = "line 2, `seeds`: invalid type: string \"two\", expected u64";
        assert_eq!(error("name = \"x\"\nseeds = \"two\"\n"), told);
        let array = error("name = \"x\"\ncpt = [\n  0.1,\n  \"all\",\n]\n");
        assert!(array.starts_with("line 4, `cpt`: invalid type"), "{array}");
    }

    #[test]
    fn keys_of_sections_with_a_kind_have_their_own_line() {
        let head = "name = \"x\"\nseeds = 1\n[router]\nkind = \"two-level\"\n";
        let field = error(&format!("{head}# Much.\nstrenght = 1.0\n"));
        assert!(field.starts_with("line 6: unknown field `strenght`, expected"));
        let kind = error("name = \"x\"\nrouter = { kind = \"teleport\" }\n");
        assert!(kind.starts_with("line 2, `kind`: unknown variant `teleport`"));
        assert!(kind.contains("`two-level`"), "{kind}");
        assert_eq!(error(head), "line 3, `[router]`: missing field `strength`");
    }

    #[test]
    fn what_is_missing_or_no_toml_is_told() {
        assert_eq!(error("seeds = 1\n"), "missing field `name`");
        assert!(error("name = \"x\"\nseeds 3\n").starts_with("line 2"));
        assert!(from_toml::<Sweep>("name = \"x\"\n").is_ok());
    }
}
