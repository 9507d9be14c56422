//! The numbers of a metrics line by name, as plots show them.

use crate::metrics::MetricsLine;

/// The scalars of a line. What stands before the first `/` of a name is a section of plots; MoE layers count from 0.
///
/// An evaluation gives what only it knows: rates and norms are those of the steps.
pub(crate) fn scalars(line: &MetricsLine) -> Vec<(String, f64)> {
    let named = |name: &str, value: f64| (name.to_owned(), value);
    match line {
        MetricsLine::Step {
            loss,
            gradient_norm,
            lr,
            tokens_per_second,
            ..
        } => {
            let mut scalars = vec![
                named("loss/train", *loss),
                named("gradient_norm", *gradient_norm),
                named("learning_rate", *lr),
            ];
            scalars.extend(tokens_per_second.map(|rate| named("tokens_per_second", rate)));
            scalars
        }
        MetricsLine::Evaluation {
            loss,
            twins,
            routing,
            ..
        } => {
            let mut scalars = vec![named("loss/validation", *loss)];
            for (index, layer) in routing.iter().enumerate() {
                let mut of_layer = |name: &str, value: f64| {
                    scalars.push((format!("routing/layer_{index}/{name}"), value));
                };
                of_layer("max_violation", layer.max_violation);
                of_layer("dead_experts", layer.dead_experts as f64);
                of_layer("entropy", layer.entropy);
                // Without replicas there are no twins.
                if twins.is_some() {
                    of_layer("twin_coselection", layer.twin_coselection);
                }
            }
            if let Some(twins) = twins {
                scalars.push(named("twins/cosine", twins.cosine));
                scalars.push(named("twins/coselection", twins.coselection));
            }
            scalars
        }
    }
}
