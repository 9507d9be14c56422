//! What growing changed, for people.

use anyhow::Result;
use upcycle_operator::Verification;

use crate::output;

/// Prints it.
pub fn print(verified: &Verification) -> Result<()> {
    output::line(format!(
        "on {} tokens: loss {:+.2e} nats, logits {:.2e} relative and {:.2e} at most",
        verified.tokens,
        verified.loss_difference(),
        verified.relative_logit_difference,
        verified.largest_logit_difference
    ))?;
    for (index, layer) in verified.layers.iter().enumerate() {
        let routing = &layer.routing;
        let changed = match layer.changed_sources {
            Some(share) => format!(", {:.1} % of tokens with other sources", 100.0 * share),
            None => String::new(),
        };
        output::line(format!(
            "MoE layer {index}: {:.2} distinct sources a token, twins together in {:.1} % of tokens{changed}, largest load {:.2} of the mean",
            routing.distinct_sources,
            100.0 * routing.twin_coselection,
            routing.max_violation + 1.0
        ))?;
    }
    Ok(())
}
