//! The flags of a recipe.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use toml::{Table, Value};
use upcycle_lab::presets;
use upcycle_operator::Recipe;

/// A recipe, and changes to its sections.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// Recipe: paper, uniform, exact, short-release, separated, released, hyperplane, dormant; for dense models
    /// sparse-upcycling, drop-upcycling, virtual-groups; or a TOML file. [default: short-release, which wants some
    /// thousand steps of continued pre-training, and with K = 1 exact; for Hugging Face checkpoints hyperplane or dormant,
    /// whichever fits the family's router]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Operator")]
    recipe: Option<String>,
    /// Which experts are copied. As with the flags below, another kind replaces what the recipe says, and the same kind or
    /// none changes the named fields. Kinds: uniform, greedy, proportional, sampled, random, explicit; such as
    /// greedy:score=gradient-squared,cap=3 or explicit:file=counts.json.
    #[arg(long, value_name = "KIND:KEY=VALUE,..", help_heading = "Operator")]
    selection: Option<String>,
    /// What the weights of replicas are: copy, noise, drop, shuffle, interpolate, orthogonal, scale, svd-perturb,
    /// svd-mix, sparse-code; such as drop:share=0.5,init=xavier.
    #[arg(long, value_name = "KIND:KEY=VALUE,..", help_heading = "Operator")]
    expert_init: Option<String>,
    /// What the router does with them: copy, noise, interpolate, bias-noise, scale, orthogonal, adversarial, svd,
    /// hyperplane, dormant, new, two-level; such as two-level:tie_break=random,strength=0.3.
    #[arg(long, value_name = "KIND:KEY=VALUE,..", help_heading = "Operator")]
    router: Option<String>,
    /// What happens to Adam's moments: reset, reset-new, copy, scale, interpolate; such as scale:momentum=0.5.
    #[arg(long, value_name = "KIND:KEY=VALUE,..", help_heading = "Operator")]
    optimizer: Option<String>,
    /// Learning rates of experts and router rows over some steps afterwards, such as experts=2,router=2,steps=1500.
    #[arg(long, value_name = "KEY=VALUE,..", help_heading = "Operator")]
    boost: Option<String>,
    /// How a dense model becomes a MoE model, such as top_k=2,shards=1.
    #[arg(long, value_name = "KEY=VALUE,..", help_heading = "Operator")]
    dense: Option<String>,
}

impl RecipeArgs {
    /// The recipe with all changes; the one named `default` if the flags name none.
    pub fn recipe(&self, default: &str) -> Result<Recipe> {
        let mut recipe = presets::recipe(self.recipe.as_deref().unwrap_or(default))?;
        let sections = [
            ("selection", "selection", &self.selection),
            ("expert-init", "experts", &self.expert_init),
            ("router", "router", &self.router),
            ("optimizer", "optimizer", &self.optimizer),
            ("boost", "boost", &self.boost),
            ("dense", "dense", &self.dense),
        ];
        let mut table = Table::try_from(&recipe).context("the recipe is no table")?;
        let mut changed = false;
        for (flag, section, text) in sections {
            let Some(text) = text else { continue };
            let before = table.get(section).and_then(Value::as_table);
            let after = section_of(text, before).with_context(|| format!("--{flag} {text}"))?;
            table.insert(section.to_owned(), Value::Table(after));
            // One at a time, so that an error is of this flag.
            recipe = recipe_of(&table).with_context(|| format!("--{flag} {text}"))?;
            changed = true;
        }
        if changed {
            recipe.name.push_str("-changed");
            recipe.of_paper = false;
        }
        recipe.read_counts(Path::new(""))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe named `default`, with its router changed and then all changes of the flags.
    pub fn with_router(&self, default: &str, router: &str) -> Result<Recipe> {
        let changed = Self {
            router: Some(router.to_owned()),
            ..self.clone()
        };
        let recipe = changed.recipe(default)?;
        Ok(Recipe {
            name: default.to_owned(),
            ..recipe
        })
    }

    /// The flag of a section that is of no use for checkpoints without an optimizer's state.
    pub fn of_training(&self) -> Option<&'static str> {
        let of_training = [
            ("--optimizer", &self.optimizer),
            ("--boost", &self.boost),
            ("--dense", &self.dense),
        ];
        let mut given = of_training.into_iter().filter(|(_, value)| value.is_some());
        given.next().map(|(flag, _)| flag)
    }

    /// Whether the flags say nothing of recipe and router.
    pub fn router_is_open(&self) -> bool {
        self.recipe.is_none() && self.router.is_none()
    }
}

/// The sections of a recipe that make checkpoints of other programs, as flags have them.
pub fn in_words(recipe: &Recipe) -> String {
    let table = Table::try_from(recipe).unwrap_or_default();
    let section = |name: &str| {
        let fields = table.get(name).and_then(Value::as_table);
        let text = fields.map(section_text).unwrap_or_default();
        format!("{name} {text}")
    };
    ["selection", "experts", "router"].map(section).join(", ")
}

/// The inverse of [`section_of`].
fn section_text(section: &Table) -> String {
    let kind = section
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let fields: Vec<String> = section
        .iter()
        .filter(|(key, value)| *key != "kind" && !value.is_array() && !value.is_table())
        .map(|(key, value)| match value {
            // As it was written, not as the nearest double.
            Value::Float(number) => format!("{key}={}", *number as f32),
            Value::String(text) => format!("{key}={text}"),
            value => format!("{key}={value}"),
        })
        .collect();
    match fields.is_empty() {
        true => kind.to_owned(),
        false => format!("{kind}:{}", fields.join(",")),
    }
}

fn recipe_of(table: &Table) -> Result<Recipe> {
    let recipe = table.clone().try_into();
    recipe.map_err(|error: toml::de::Error| anyhow!("{}", error.message()))
}

/// `KIND:KEY=VALUE,..` as a section of a recipe. Without a kind, or with the kind that it has, the section keeps its
/// other fields.
fn section_of(text: &str, before: Option<&Table>) -> Result<Table> {
    let (kind, fields) = match text.split_once(':') {
        Some((kind, fields)) => (Some(kind), fields),
        None if text.contains('=') => (None, text),
        None => (Some(text), ""),
    };
    let same = |before: &&Table| {
        kind.is_none_or(|kind| before.get("kind").and_then(Value::as_str) == Some(kind))
    };
    let mut section = before.filter(same).cloned().unwrap_or_default();
    if let Some(kind) = kind {
        section.insert("kind".into(), kind.into());
    }
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        let Some((path, value)) = field.split_once('=') else {
            bail!("`{field}` should be KEY=VALUE");
        };
        let mut keys = path.trim().split('.');
        let last = keys.next_back().unwrap_or_default();
        let mut table = &mut section;
        for key in keys {
            let entry = table
                .entry(key)
                .or_insert_with(|| Value::Table(Table::new()));
            table = entry
                .as_table_mut()
                .with_context(|| format!("`{key}` has no fields"))?;
        }
        table.insert(last.to_owned(), value_of(value.trim()));
    }
    Ok(section)
}

/// A number or truth value where it looks like one, a string otherwise.
fn value_of(text: &str) -> Value {
    let whole = text.parse().map(Value::Integer).ok();
    whole
        .or_else(|| text.parse().map(Value::Float).ok())
        .or_else(|| text.parse().map(Value::Boolean).ok())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn changed(section: &str, text: &str) -> Result<Recipe> {
        let mut args = RecipeArgs {
            recipe: None,
            selection: None,
            expert_init: None,
            router: None,
            optimizer: None,
            boost: None,
            dense: None,
        };
        let field = match section {
            "selection" => &mut args.selection,
            "expert-init" => &mut args.expert_init,
            "router" => &mut args.router,
            "optimizer" => &mut args.optimizer,
            _ => &mut args.dense,
        };
        *field = Some(text.into());
        args.recipe("exact")
    }

    fn json(section: &str, text: &str) -> String {
        let recipe = serde_json::to_value(changed(section, text).unwrap()).unwrap();
        let section = if section == "expert-init" {
            "experts"
        } else {
            section
        };
        recipe[section].to_string()
    }

    #[test]
    fn flags_replace_sections_or_change_their_fields() {
        assert_eq!(json("optimizer", "reset"), r#"{"kind":"reset"}"#);
        assert_eq!(
            json("router", "strength=1"),
            r#"{"kind":"two-level","separation":0.0,"strength":1.0,"tie_break":"centroids"}"#
        );
        assert_eq!(
            json("router", "two-level:release.shape=cosine,release.over=0.5"),
            r#"{"kind":"two-level","release":{"over":0.5,"shape":"cosine"},"separation":0.0,"strength":0.30000001192092896,"tie_break":"centroids"}"#
        );
        assert_eq!(
            json("expert-init", "drop:share=0.5,init=xavier"),
            r#"{"init":"xavier","kind":"drop","share":0.5}"#
        );
        assert_eq!(
            json("dense", "top_k=2"),
            r#"{"layers":"all-moe","shards":1,"top_k":2}"#
        );
    }

    #[test]
    fn recipes_are_said_as_their_flags() {
        let args = |router: &str| changed("router", router).unwrap();
        assert_eq!(
            in_words(&args("hyperplane:strength=0.02")),
            "selection uniform, experts copy, router hyperplane:strength=0.02"
        );
    }

    #[test]
    fn errors_name_the_flag_and_what_would_be_right() {
        let error = |section, text| format!("{:#}", changed(section, text).unwrap_err());
        let kind = error("router", "teleport");
        assert!(
            kind.contains("--router teleport") && kind.contains("two-level"),
            "{kind}"
        );
        let field = error("router", "two-level:strenght=1");
        assert!(
            field.contains("strenght") && field.contains("strength"),
            "{field}"
        );
        assert!(error("selection", "greedy:cap").contains("KEY=VALUE"));
        assert!(error("expert-init", "drop:share=2,init=xavier").contains("experts.share"));
        assert!(error("selection", "explicit:file=absent.json").contains("absent.json"));
    }
}
