//! Texts with fields of rows in them.

use serde_json::{Map, Value};

use crate::filter::Filter;

/// A text with placeholders: `{field}`, `{outer.inner}`, `{list.0}` (from 0), `{field|filter}`;
/// `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A field of a row and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// As it is written.
    pub(crate) path: String,
    filters: Vec<Filter>,
}

impl Template {
    /// # Errors
    /// If a brace has no partner, or a filter is unknown.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(place) = rest.find(['{', '}']) {
            plain.push_str(&rest[..place]);
            let (brace, after) = rest[place..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let field = after.split_once('}').filter(|_| brace == "{");
            let Some((field, after)) = field else {
                return Err(format!(
                    "`{brace}` in {text:?} has no partner; write {brace}{brace} for a brace"
                ));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(Field::parse(field)?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// The fields it needs.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Text(_) => None,
        })
    }

    /// The only field, if it is nothing else.
    pub(crate) fn field(&self) -> Option<&Field> {
        match self.parts.as_slice() {
            [Part::Field(field)] => Some(field),
            _ => None,
        }
    }

    /// The text for a row.
    ///
    /// # Errors
    /// If a field is missing, or is no text or number.
    pub(crate) fn fill(&self, row: &Map<String, Value>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field(field) => text.push_str(&field.text(row)?),
            }
        }
        Ok(text)
    }
}

impl Field {
    fn parse(text: &str) -> Result<Field, String> {
        let mut parts = text.split('|').map(str::trim);
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err("a placeholder `{}` names no field".to_owned());
        }
        Ok(Field {
            path: path.to_owned(),
            filters: parts.map(Filter::named).collect::<Result<_, _>>()?,
        })
    }

    /// Its value in a row.
    ///
    /// # Errors
    /// If it is missing or null.
    pub(crate) fn value<'a>(&self, row: &'a Map<String, Value>) -> Result<&'a Value, String> {
        let mut names = self.path.split('.');
        let mut value = row.get(names.next().unwrap_or_default());
        for name in names {
            value = match value {
                Some(Value::Object(fields)) => fields.get(name),
                Some(Value::Array(entries)) => name
                    .parse::<usize>()
                    .ok()
                    .and_then(|place| entries.get(place)),
                _ => None,
            };
        }
        match value {
            Some(Value::Null) => Err(format!("field `{}` is null", self.path)),
            Some(value) => Ok(value),
            None => {
                let names: Vec<&str> = row.keys().map(String::as_str).collect();
                Err(format!(
                    "there is no field `{}`; there are {}",
                    self.path,
                    names.join(", ")
                ))
            }
        }
    }

    /// Its value as text.
    ///
    /// # Errors
    /// If it is missing, or is no text or number.
    pub(crate) fn text(&self, row: &Map<String, Value>) -> Result<String, String> {
        self.of_value(self.value(row)?)
    }

    /// The entries of a list as texts.
    ///
    /// # Errors
    /// If it is missing, no list, or an entry is no text or number.
    pub(crate) fn texts(&self, row: &Map<String, Value>) -> Result<Vec<String>, String> {
        match self.value(row)? {
            Value::Array(entries) => entries.iter().map(|entry| self.of_value(entry)).collect(),
            other => Err(format!(
                "field `{}` is {}, not a list",
                self.path,
                kind(other)
            )),
        }
    }

    fn of_value(&self, value: &Value) -> Result<String, String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => {
                return Err(format!(
                    "field `{}` is {}, not text",
                    self.path,
                    kind(other)
                ));
            }
        };
        let filters = self.filters.iter();
        filters
            .copied()
            .try_fold(text, |text, filter| filter.apply(&text))
            .map_err(|problem| format!("field `{}`: {problem}", self.path))
    }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use serde_json::json;

    use super::*;

    fn fill(template: &str, row: Value) -> Result<String, String> {
        let Value::Object(row) = row else {
            panic!("no object")
        };
        Template::parse(template)?.fill(&row)
    }

    #[test]
    fn placeholders_are_filled() {
        let row = json!({"q": " Why?", "n": 3, "c": {"text": ["x", "y"]}, "l": ["p"]});
        let filled = fill("{{{q|trim}}}: {n} {c.text.1} {l.0}", row).unwrap();
        assert_eq!(filled, "{Why?}: 3 y p");
    }

    #[test]
    fn what_cannot_be_filled_is_told() {
        for (template, part) in [
            ("{z}", "no field `z`; there are a, b, n"),
            ("{a.b}", "no field `a.b`"),
            ("{b}", "field `b` is a list, not text"),
            ("{n}", "field `n` is null"),
            ("{a", "`{` in \"{a\" has no partner"),
            ("a}", "`}` in"),
            ("{a|shout}", "unknown filter `shout`"),
            ("{}", "names no field"),
            ("{a|before-blank}", "field `a`: \"x\" has no blank"),
        ] {
            let row = json!({"a": "x", "b": [1], "n": null});
            let problem = fill(template, row).unwrap_err();
            assert!(problem.contains(part), "{template}: {problem}");
        }
    }

    #[test]
    fn lists_are_texts() {
        let row = json!({"l": ["a ", 2], "t": "x", "m": [[1]]});
        let Value::Object(row) = row else {
            panic!("no object")
        };
        let texts = |template: &str| {
            let template = Template::parse(template).unwrap();
            template.field().unwrap().texts(&row)
        };
        assert_eq!(texts("{l|trim}").unwrap(), ["a", "2"]);
        assert!(texts("{t}").unwrap_err().contains("is text, not a list"));
        assert!(texts("{m}").unwrap_err().contains("is a list, not text"));
        assert_eq!(Template::parse("a {l}").unwrap().field(), None);
    }
}
