//! Patterns of tensor names.

use std::fmt::Write;

use serde::Deserialize;

/// A pattern such as `*layers.{layer}.mlp.experts.{expert}.*`: `{layer}` and `{expert}` are whole numbers; a `*` in
/// front or at the end is any text, none included.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pattern {
    any_before: bool,
    any_after: bool,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Layer,
    Expert,
}

/// What a name says under a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// Text of the `*` in front.
    pub before: &'a str,
    /// The layer.
    pub layer: usize,
    /// The expert, where the pattern has one.
    pub expert: Option<usize>,
    /// Text of the `*` at the end.
    pub after: &'a str,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let any_before = text.starts_with('*');
        let any_after = text.len() > 1 && text.ends_with('*');
        let mut rest = &text[usize::from(any_before)..text.len() - usize::from(any_after)];
        let mut pieces = Vec::new();
        while let Some(open) = rest.find('{') {
            let (name, after) = rest[open + 1..]
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a `{{` without `}}`"))?;
            if open > 0 {
                pieces.push(Piece::Text(rest[..open].to_owned()));
            }
            pieces.push(match name {
                "layer" => Piece::Layer,
                "expert" => Piece::Expert,
                _ => {
                    return Err(format!(
                        "`{text}` has {{{name}}}; known are {{layer}} and {{expert}}"
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let starts_with_text = matches!(pieces.first(), Some(Piece::Text(_)));
        let is_star = |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains('*'));
        if !starts_with_text || pieces.iter().any(is_star) || !pieces.contains(&Piece::Layer) {
            return Err(format!(
                "`{text}` must have text, {{layer}}, and `*` at its ends only"
            ));
        }
        Ok(Self {
            any_before,
            any_after,
            pieces,
        })
    }
}

impl Pattern {
    /// Whether experts have tensors of their own.
    pub fn has_expert(&self) -> bool {
        self.pieces.contains(&Piece::Expert)
    }

    /// Reads a name; none if it is not of this pattern.
    pub fn find<'a>(&self, name: &'a str) -> Option<Place<'a>> {
        let Some(Piece::Text(first)) = self.pieces.first() else {
            return None;
        };
        if !self.any_before {
            return self.read(name, 0);
        }
        name.match_indices(first.as_str())
            .find_map(|(start, _)| self.read(name, start))
    }

    fn read<'a>(&self, name: &'a str, start: usize) -> Option<Place<'a>> {
        let mut place = Place {
            before: &name[..start],
            layer: 0,
            expert: None,
            after: "",
        };
        let mut rest = &name[start..];
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Layer => place.layer = number(&mut rest)?,
                Piece::Expert => place.expert = Some(number(&mut rest)?),
            }
        }
        place.after = rest;
        (self.any_after || rest.is_empty()).then_some(place)
    }

    /// What names of a layer begin with: `before`, the first text of the pattern, the layer's number and a dot.
    pub fn of_layer(&self, before: &str, layer: usize) -> String {
        let first = match self.pieces.first() {
            Some(Piece::Text(text)) => text.as_str(),
            _ => "",
        };
        format!("{before}{first}{layer}.")
    }

    /// The name of a place.
    pub fn name(&self, place: Place) -> String {
        let mut name = match self.any_before {
            true => place.before.to_owned(),
            false => String::new(),
        };
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                // Writing to a string cannot fail.
                Piece::Layer => _ = write!(name, "{}", place.layer),
                Piece::Expert => _ = write!(name, "{}", place.expert.unwrap_or_default()),
            }
        }
        name + place.after
    }
}

/// Takes a whole number from the front.
fn number(rest: &mut &str) -> Option<usize> {
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn names_are_read_and_written() {
        let experts = pattern("*layers.{layer}.mlp.experts.{expert}.*");
        let name = "model.layers.12.mlp.experts.3.up_proj.weight_scale_inv";
        let place = experts.find(name).unwrap();
        assert_eq!((place.before, place.layer), ("model.", 12));
        assert_eq!(
            (place.expert, place.after),
            (Some(3), "up_proj.weight_scale_inv")
        );
        assert_eq!(experts.name(place), name);
        assert_eq!(
            experts.find("model.layers.12.mlp.shared_experts.up_proj.weight"),
            None
        );
        assert_eq!(
            experts.find("model.layers.x.mlp.experts.3.up_proj.weight"),
            None
        );
        assert_eq!(
            experts.find("model.layers.99999999999999999999.mlp.experts.3.w"),
            None
        );
    }

    #[test]
    fn a_star_in_front_tries_every_place() {
        let router = pattern("*layers.{layer}.gate");
        let place = router.find("layers.x.layers.7.gate").unwrap();
        assert_eq!((place.before, place.layer), ("layers.x.", 7));
        assert_eq!(router.find("layers.7.gates"), None);
    }

    #[test]
    fn patterns_that_cannot_work_are_explained() {
        for text in [
            "",
            "*",
            "{layer}.x",
            "a.{head}",
            "a.{layer",
            "a.*.{layer}.*.b",
            "a.*.{layer}.b",
            "a.b",
        ] {
            assert!(Pattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
