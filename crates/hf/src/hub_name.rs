//! What a split of a data set of the hub is called.

use std::fmt;

/// `ORG/NAME[@REVISION][:CONFIG][/SPLIT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubName {
    /// `ORG/NAME`.
    pub(crate) dataset: String,
    pub(crate) revision: Option<String>,
    pub(crate) config: Option<String>,
    pub(crate) split: Option<String>,
}

impl HubName {
    /// None if it is no such name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (org, rest) = text.split_once('/')?;
        let (name, rest) = split_at_any(rest, &['@', ':', '/']);
        let (revision, rest) = match rest.strip_prefix('@') {
            Some(rest) => {
                let (revision, rest) = rest.split_at(revision_end(rest));
                (Some(revision), rest)
            }
            None => (None, rest),
        };
        let (config, rest) = match rest.strip_prefix(':') {
            Some(rest) => {
                let (config, rest) = split_at_any(rest, &['/']);
                (Some(config), rest)
            }
            None => (None, rest),
        };
        let split = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('/')?),
        };
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', '\\', '@', ':']);
        let is_name = |part: &str| plain(part) && part != "." && part != "..";
        let is_revision = |revision: &str| {
            let mut parts = revision.split('/');
            parts.all(is_name)
        };
        let is_right = is_name(org)
            && is_name(name)
            && revision.is_none_or(is_revision)
            && config.is_none_or(plain)
            && split.is_none_or(plain);
        is_right.then(|| Self {
            dataset: format!("{org}/{name}"),
            revision: revision.map(str::to_owned),
            config: config.map(str::to_owned),
            split: split.map(str::to_owned),
        })
    }
}

fn split_at_any<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Where a revision ends. Those of the hub's own have slashes: `refs/convert/parquet`, `refs/pr/7`.
fn revision_end(text: &str) -> usize {
    let slashes = if text.starts_with("refs/") { 2 } else { 0 };
    let slash = text.match_indices('/').nth(slashes).map(|(at, _)| at);
    let ends = [slash, text.find(':')];
    ends.into_iter().flatten().min().unwrap_or(text.len())
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.dataset)?;
        for (sign, part) in [
            ('@', &self.revision),
            (':', &self.config),
            ('/', &self.split),
        ] {
            if let Some(part) = part {
                write!(f, "{sign}{part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_but_the_first_can_be_left_out() {
        for (text, parts) in [
            ("a/b.c", ["a/b.c", "", "", ""]),
            ("a/b/test", ["a/b", "", "", "test"]),
            ("a/b@v1", ["a/b", "v1", "", ""]),
            ("a/b@v1/test", ["a/b", "v1", "", "test"]),
            ("a/b:en", ["a/b", "", "en", ""]),
            (
                "a/b@refs/convert/parquet:20231101.en/train",
                ["a/b", "refs/convert/parquet", "20231101.en", "train"],
            ),
            ("a/b@refs/pr/7/train", ["a/b", "refs/pr/7", "", "train"]),
        ] {
            let name = HubName::parse(text).unwrap();
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            let found = [
                name.dataset.clone(),
                part(&name.revision),
                part(&name.config),
                part(&name.split),
            ];
            assert_eq!(found, parts, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_none() {
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/b@",
            "a/b:",
            "a/b/",
            "a/..",
            "a/b@../c",
            "a/b:c/d/e",
            "a/b:c:d",
        ] {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
    }
}
