//! Which kernels compute.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use upcycle_kernels::{Bodies, Precision, Proof, TensorCores};
use upcycle_train::Engine;

use crate::{limits::on_cpu, output, processes::Member};

/// The flag that chooses kernels.
#[derive(Debug, Clone, Copy, Default, Args, Serialize, Deserialize)]
pub struct KernelsArg {
    /// Whose kernels compute. Those on tensor cores are tried out when a run in bf16 begins, and taken if they are right and
    /// faster there than Burn's products.
    #[arg(long, value_enum, default_value_t, help_heading = "Running")]
    #[serde(default)]
    pub kernels: Kernels,
}

/// Whose kernels compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernels {
    /// This program's; on tensor cores those that prove themselves.
    #[default]
    Auto,
    /// This program's, whatever they prove.
    Specialised,
    /// Plain tensor operations: slow, to find out whose fault something is.
    Reference,
}

impl KernelsArg {
    /// Chooses for the rest of the process, and tells what was tried out. Processes of a team choose the same.
    ///
    /// # Errors
    /// If a process of the team is lost.
    pub fn choose(self, engine: &dyn Engine, precision: Precision, member: &Member) -> Result<()> {
        if cfg!(feature = "autotune") && !on_cpu(engine) {
            output::note!(
                "kernels are tuned to the shapes of this run in its first minutes, which are slow; what is found is kept for later runs"
            );
        }
        match self.kernels {
            Kernels::Reference => Bodies::Reference.select(),
            Kernels::Specialised => TensorCores::Own.choose(),
            Kernels::Auto if precision == Precision::Bf16 => {
                let proof = engine.prove();
                if let Some(proof) = &proof {
                    output::note!("{}", verdict(proof));
                }
                let own = proof.is_some_and(|proof| proof.choice() == TensorCores::Own);
                let all = member.team().gather_values(&own)?;
                if own && all.contains(&false) {
                    TensorCores::Burn.choose();
                    output::note!(
                        "another process of this training takes Burn's products, so all do"
                    );
                }
            }
            Kernels::Auto => {}
        }
        Ok(())
    }
}

/// What the kernels on tensor cores did, in a sentence.
fn verdict(proof: &Proof) -> String {
    let Proof { error, own, burn } = proof;
    // Plans count what this program's kernels keep.
    let more =
        "they keep more activations than a plan counts, so lower --memory if there is not enough";
    if !proof.is_right() {
        return format!(
            "warning: the kernels of experts on tensor cores are wrong on this GPU (relative error {error:.1e}), so Burn's products are taken ({more}); please report it with the name of the GPU and its driver"
        );
    }
    let times = burn.as_secs_f64() / own.as_secs_f64().max(f64::MIN_POSITIVE);
    let taken = match proof.choice() {
        TensorCores::Own => "taken".to_owned(),
        _ => format!("Burn's are taken; {more}"),
    };
    format!(
        "kernels of experts on tensor cores: right (relative error {error:.1e}), {times:.2} times as fast as Burn's products: {taken}"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_verdict_names_what_is_taken() {
        let verdict = |error, own, burn| {
            let [own, burn] = [own, burn].map(Duration::from_millis);
            verdict(&Proof { error, own, burn })
        };
        assert!(verdict(1e-4, 1, 2).ends_with("2.00 times as fast as Burn's products: taken"));
        let slower = verdict(1e-4, 2, 1);
        assert!(slower.contains("Burn's are taken") && slower.contains("--memory"));
        let wrong = verdict(0.5, 1, 2);
        assert!(wrong.starts_with("warning") && wrong.contains("please report"));
    }
}
