//! The recipe that others are compared with.

use anyhow::{Result, bail};

/// The flag that names it.
#[derive(Debug, Clone, clap::Args)]
pub struct BaselineArg {
    /// Recipe that differences are taken against, by its name in the tables. [default: the paper's that comes first in the
    /// sweep, or else the first]
    #[arg(
        long,
        alias = "less",
        value_name = "RECIPE",
        help_heading = "Comparisons"
    )]
    baseline: Option<String>,
}

impl BaselineArg {
    /// The recipe that was asked for, if one was.
    ///
    /// # Errors
    /// If it is none of `recipes`.
    pub fn among(&self, recipes: &[&str]) -> Result<Option<&str>> {
        let baseline = self.baseline.as_deref();
        if let Some(name) = baseline.filter(|name| !recipes.contains(name)) {
            bail!(
                "--baseline {name}: there is no such recipe among the results; there are {}",
                recipes.join(", ")
            );
        }
        Ok(baseline)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_that_is_not_there_is_told_with_those_that_are() {
        let baseline = |name: Option<&str>| BaselineArg {
            baseline: name.map(str::to_owned),
        };
        let recipes = ["paper", "exact"];
        assert_eq!(baseline(None).among(&recipes).unwrap(), None);
        let exact = baseline(Some("exact"));
        assert_eq!(exact.among(&recipes).unwrap(), Some("exact"));
        let error = baseline(Some("exakt")).among(&recipes).unwrap_err();
        assert!(error.to_string().ends_with("there are paper, exact"));
    }
}
