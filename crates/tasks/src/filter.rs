//! What placeholders of templates can do to a field.

use std::borrow::Cow;

/// A change of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Trim,
    TrimStart,
    Capitalize,
    Spaces,
    LastWord,
    WithoutLastWord,
    BeforeBlank,
    AfterBlank,
    Wikihow,
}

impl Filter {
    const ALL: [(&str, Filter); 9] = [
        ("trim", Filter::Trim),
        ("trim-start", Filter::TrimStart),
        ("capitalize", Filter::Capitalize),
        ("spaces", Filter::Spaces),
        ("last-word", Filter::LastWord),
        ("without-last-word", Filter::WithoutLastWord),
        ("before-blank", Filter::BeforeBlank),
        ("after-blank", Filter::AfterBlank),
        ("wikihow", Filter::Wikihow),
    ];

    /// The filter of a name.
    pub(crate) fn named(name: &str) -> Result<Filter, String> {
        let found = Filter::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, filter)| *filter).ok_or_else(|| {
            let known: Vec<&str> = Filter::ALL.iter().map(|(known, _)| *known).collect();
            format!("unknown filter `{name}`; known are {}", known.join(", "))
        })
    }

    /// The changed text.
    ///
    /// # Errors
    /// If it has no blank where one is needed.
    pub(crate) fn apply(self, text: &str) -> Result<String, String> {
        let blank = || {
            text.split_once('_')
                .ok_or_else(|| format!("{text:?} has no blank `_`"))
        };
        Ok(match self {
            Filter::Trim => text.trim().to_owned(),
            Filter::TrimStart => text.trim_start().to_owned(),
            Filter::Capitalize => capitalize(text),
            Filter::Spaces => text.replace('_', " "),
            Filter::LastWord => last_word(text).1.to_owned(),
            Filter::WithoutLastWord => last_word(text).0.to_owned(),
            Filter::BeforeBlank => blank()?.0.to_owned(),
            Filter::AfterBlank => blank()?.1.trim().to_owned(),
            Filter::Wikihow => wikihow(text),
        })
    }
}

/// The first letter large, all others small.
fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let first: String = first.collect();
    first + &letters.as_str().to_lowercase()
}

/// What stands before the last space, and behind it.
fn last_word(text: &str) -> (&str, &str) {
    text.rsplit_once(' ').unwrap_or(("", text))
}

/// Without the marks of WikiHow's articles, as HellaSwag is scored.
fn wikihow(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Without what stands in square brackets on one line, and these.
fn without_brackets(text: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let after = &rest[start..];
        let end = after.find(']').filter(|&end| !after[..end].contains('\n'));
        let skipped = end.map_or(start + 1, |end| start + end + 1);
        kept.push_str(match end {
            Some(_) => &rest[..start],
            None => &rest[..skipped],
        });
        rest = &rest[skipped..];
    }
    match rest.len() == text.len() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(kept + rest),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn filters_do_what_they_say() {
        for (name, text, expected) in [
            ("trim", " a ", "a"),
            ("trim-start", " a ", "a "),
            ("capitalize", "éa BC", "Éa bc"),
            ("capitalize", "", ""),
            ("spaces", "world_history", "world history"),
            ("last-word", "one two three", "three"),
            ("without-last-word", "one two three", "one two"),
            ("last-word", "one", "one"),
            ("without-last-word", "one", ""),
            ("before-blank", "The _ fell .", "The "),
            ("after-blank", "The _ fell . ", "fell ."),
            (
                "wikihow",
                " [header] How [title] Go [step] on. ",
                " How. Go on.",
            ),
            ("wikihow", "a [b", "a [b"),
            ("wikihow", "a] [b\nc] [d] e", "a] [b\nc] e"),
        ] {
            let filter = Filter::named(name).unwrap();
            assert_eq!(filter.apply(text).unwrap(), expected, "{name} {text:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        assert!(Filter::named("upper").unwrap_err().contains("capitalize"));
        let missing = Filter::BeforeBlank.apply("no blank").unwrap_err();
        assert!(missing.contains("`_`"), "{missing}");
    }
}
