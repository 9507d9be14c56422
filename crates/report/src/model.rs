//! The models that are compared: Fixed-E, Fixed-mE and one for each recipe.

use crate::results::{Arm, Curve, RoutingRow, Setting};

/// One of the models that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model<'a> {
    FixedE,
    Upcycled(&'a str),
    FixedMe,
}

impl<'a> Model<'a> {
    pub(crate) fn new(arm: Arm, recipe: Option<&'a str>) -> Self {
        match arm {
            Arm::FixedE => Self::FixedE,
            Arm::FixedMe => Self::FixedMe,
            Arm::Upcycled => Self::Upcycled(recipe.unwrap_or("upcycled")),
        }
    }

    /// Name for people, such as `Fixed-16`.
    pub(crate) fn label(self, setting: &Setting) -> String {
        match self {
            Self::FixedE => format!("Fixed-{}", setting.experts),
            Self::Upcycled(recipe) => recipe.to_owned(),
            Self::FixedMe => setting.fixed_me_name(),
        }
    }
}

impl Curve {
    /// The model that this is the curve of.
    pub(crate) fn model(&self) -> Model<'_> {
        Model::new(self.arm, self.recipe.as_deref())
    }
}

impl RoutingRow {
    /// The model that this is a layer of.
    pub(crate) fn model(&self) -> Model<'_> {
        Model::new(self.arm, self.recipe.as_deref())
    }
}

/// Fixed-E, the upcycled models in order of appearance, Fixed-mE.
pub(crate) fn in_order<'a>(models: impl IntoIterator<Item = Model<'a>>) -> Vec<Model<'a>> {
    let mut ordered: Vec<Model> = Vec::new();
    for model in models {
        if !ordered.contains(&model) {
            ordered.push(model);
        }
    }
    ordered.sort_by_key(|model| match model {
        Model::FixedE => 0,
        Model::Upcycled(_) => 1,
        Model::FixedMe => 2,
    });
    ordered
}
