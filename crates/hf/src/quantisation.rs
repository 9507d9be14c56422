//! Lists of a quantised checkpoint that name experts one by one.

use serde_json::Value;

use crate::{config::ConfigFile, error::HfError, grow::Growth};

/// The section of `config.json` with such lists.
const SECTION: &str = "quantization_config";

impl Growth<'_> {
    /// Gives replicas the entries of their sources in every list of a section, or of the whole file for no name, that names experts. What names experts in
    /// another way, and so is left as it is, is returned.
    pub(crate) fn extend_lists(
        &self,
        file: &mut ConfigFile,
        section: &str,
    ) -> Result<Vec<String>, HfError> {
        let (mut lists, mut left) = (Vec::new(), Vec::new());
        if let Some(value) = file.value(section) {
            self.look(value, section, &mut lists, &mut left);
        }
        for (field, list) in lists {
            if let Some(place) = file.span(&field) {
                file.replace(place, &list)?;
            }
        }
        Ok(left)
    }

    /// Entries of `config.json`'s lists, and of those beside it.
    pub(crate) fn extend_config(&self, config: &mut ConfigFile) -> Result<Vec<String>, HfError> {
        self.extend_lists(config, SECTION)
    }

    /// Finds lists that name experts, as they are to be, by field; and other fields that do.
    fn look(
        &self,
        value: &Value,
        field: &str,
        lists: &mut Vec<(String, String)>,
        left: &mut Vec<String>,
    ) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let field = match field {
                        "" => name.clone(),
                        _ => format!("{field}.{name}"),
                    };
                    if self.entries(name).is_some() || (name.contains('.') && value.is_array()) {
                        left.push(field);
                        continue;
                    }
                    self.look(value, &field, lists, left);
                }
            }
            Value::Array(entries) => {
                let texts = entries.iter().map(Value::as_str);
                let Some(texts) = texts.collect::<Option<Vec<&str>>>() else {
                    return;
                };
                if texts.iter().any(|text| self.entries(text).is_some()) {
                    let grown = texts.iter().flat_map(|text| {
                        let entries = self.entries(text);
                        entries.unwrap_or_else(|| vec![(*text).to_owned()])
                    });
                    lists.push((field.to_owned(), Value::from_iter(grown).to_string()));
                }
            }
            _ => {}
        }
    }

    /// The names of all experts of the grown checkpoint that come from the expert that a text names; none if it names none.
    fn entries(&self, text: &str) -> Option<Vec<String>> {
        // A list may name modules, without the dot before a tensor.
        let dotted = format!("{text}.");
        let sets = self.checkpoint.layout.sets();
        sets.iter().enumerate().find_map(|(set, (storages, _))| {
            storages.iter().find_map(|storage| {
                let pattern = &storage.tensors;
                let found = pattern.find(text).map(|place| (place, 0));
                let (place, cut) = found.or_else(|| Some((pattern.find(&dotted)?, 1)))?;
                let source = place.expert?;
                let mut layers = self.moe.layers.iter();
                let layer = layers.position(|layer| layer.is_at(set, &place))?;
                let of_source = self.source_of(layer).enumerate();
                let places = of_source.filter(|(_, own)| *own == source);
                let name = |(expert, _)| {
                    let expert = Some(expert);
                    let mut name = pattern.name(crate::pattern::Place { expert, ..place });
                    name.truncate(name.len() - cut);
                    name
                };
                Some(places.map(name).collect())
            })
        })
    }
}
