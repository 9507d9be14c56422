//! The disjoint parts of a corpus.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the disjoint parts of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What the dense model is pre-trained on.
    Pretrain,
    /// What the upcycled model is trained on: continued pre-training.
    Cpt,
    /// What losses are measured on while choices are made: of recipes, schedules, defaults. Never trained on.
    Validation,
    /// What final losses are reported on, and no choice is made by. Never trained on.
    Test,
}

impl Split {
    /// Every split, in the order in which the parts of a document follow one another.
    pub const ALL: [Split; 4] = [Split::Pretrain, Split::Cpt, Split::Validation, Split::Test];

    /// The name used in configurations, file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Split::Pretrain => "pretrain",
            Split::Cpt => "cpt",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_name_is_the_serialized_form() {
        for split in Split::ALL {
            assert_eq!(
                serde_json::to_value(split).unwrap(),
                serde_json::Value::from(split.name())
            );
        }
    }
}
