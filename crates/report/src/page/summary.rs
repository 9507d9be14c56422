//! What stands at the head of the page: the findings, and what a reader has to know beside them.

use maud::{Markup, html};

use crate::group::{Group, groups};
use crate::number::{count, plural};
use crate::page::findings::findings;
use crate::results::Results;

/// The findings, a paragraph for each group.
pub(crate) fn summary(results: &Results) -> Markup {
    let groups = groups(results);
    let found: Vec<(&Group, String)> = groups
        .iter()
        .filter_map(|group| Some((group, findings(group)?)))
        .collect();
    html! {
        @if found.is_empty() {
            p.summary { "No cell of this sweep has finished yet." }
        } @else {
            @for (group, text) in &found {
                p.summary { strong { (group.label) "." } " " (text) }
            }
            @if !results.notes.is_empty() {
                details {
                    summary { "To know before reading: " (plural(results.notes.len(), "note")) }
                    ul { @for note in &results.notes { li { (note) "." } } }
                }
            }
            @if let Some(text) = shrunk(results) {
                p.summary { (text) }
            }
            @if is_of_an_older_version(results) {
                p.summary { (OLDER_VERSION) }
            }
        }
    }
}

/// What the sweep changed of its scales.
fn shrunk(results: &Results) -> Option<String> {
    let overrides = &results.overrides;
    let changes: Vec<String> = [
        overrides
            .tokens
            .map(|tokens| format!("{} tokens of pre-training", count(tokens as f64))),
        overrides
            .vocab
            .map(|vocab| format!("a vocabulary of {vocab}")),
        overrides
            .context
            .map(|context| format!("a context of {context} tokens")),
        overrides
            .peak_lr
            .map(|lr| format!("a highest learning rate of {lr}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!changes.is_empty()).then(|| {
        format!(
            "The scales are other than by their names here: {}.",
            changes.join(", ")
        )
    })
}

const OLDER_VERSION: &str = "These results are of an older version and do not say which recipes are the paper’s: \
    comparisons with those are with the first recipe, or are left out. Nor do they say whether the scales were made \
    smaller. Run the sweep again to collect both; finished stages are not computed twice.";

/// Whether there is a recipe that the results do not know.
fn is_of_an_older_version(results: &Results) -> bool {
    let is_known = |name: &str| results.recipes.iter().any(|recipe| recipe.name == name);
    results.cells.iter().any(|cell| !is_known(&cell.recipe))
}
