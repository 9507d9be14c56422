//! Flags that set the fields which errors of the libraries name.

/// Fields, or the beginnings of their names, and the flags that set them.
const FLAGS: [(&str, &str); 41] = [
    ("selection.", "selection"),
    ("experts.kind", "expert-init"),
    ("experts.", "expert-init"),
    ("router.", "router"),
    ("optimizer.kind", "optimizer"),
    ("optimizer.weight", "optimizer"),
    ("dense.", "dense"),
    ("layout", "layout"),
    ("scores", "scores"),
    ("resume", "resume"),
    ("top_k", "top-k"),
    ("experts", "experts"),
    ("scales", "scales"),
    ("multipliers", "multipliers"),
    ("cpt", "cpt"),
    ("transitions", "transitions"),
    ("recipes", "recipes"),
    ("seeds", "seeds"),
    ("growth", "growth"),
    ("protocols", "protocol"),
    ("tokens", "tokens"),
    ("vocab", "vocab"),
    ("model.vocab", "vocab"),
    ("context", "context"),
    ("batch.context", "context"),
    ("name", "name"),
    ("peak_lr", "peak-lr"),
    ("warmup_steps", "warmup"),
    ("precision", "precision"),
    ("devices", "devices"),
    ("expert_parallel", "expert-parallel"),
    ("other_data", "other-data"),
    ("text_column", "text-column"),
    ("split_documents", "split-documents"),
    ("paths", "data"),
    ("persons", "data"),
    ("modulus", "data"),
    ("hops", "data"),
    ("weights", "data"),
    ("temperature", "temperature"),
    ("top_p", "top-p"),
];

/// What a command that has these flags can add to an error; empty if the error names no field that it has a flag for, or
/// names the flag itself.
pub fn hint(error: &str, has: impl Fn(&str) -> bool) -> String {
    if error.contains("unknown field") {
        // The fields that it names are those that there are.
        return String::new();
    }
    let named: Vec<&str> = error.split('`').skip(1).step_by(2).collect();
    let mut flags: Vec<&str> = Vec::new();
    for (field, flag) in FLAGS {
        let of_field = |name: &&str| match field.ends_with('.') {
            true => name.starts_with(field),
            false => *name == field,
        };
        let is_told = error.contains(&format!("--{flag}")) || flags.contains(&flag);
        if named.iter().any(of_field) && !is_told && has(flag) {
            flags.push(flag);
        }
    }
    match flags.is_empty() {
        true => String::new(),
        false => format!(" (on the command line: --{})", flags.join(", --")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_fields_get_the_flags_that_a_command_has() {
        let all = |_: &str| true;
        let error = "recipe field `router.strength`: must be zero or a positive number";
        assert_eq!(hint(error, all), " (on the command line: --router)");
        assert_eq!(hint(error, |_| false), "");
        assert_eq!(hint("--router x: field `router.strength`", all), "");
        assert_eq!(hint("`cpt` is empty", all), " (on the command line: --cpt)");
        assert_eq!(hint("nothing is named", all), "");
        let unknown = "x.toml: line 1: unknown field `sedes`, expected one of `name`, `seeds`";
        assert_eq!(hint(unknown, all), "");
        let diverged = "a lower `peak_lr` or a longer `warmup_steps` usually helps";
        assert_eq!(
            hint(diverged, all),
            " (on the command line: --peak-lr, --warmup)"
        );
    }
}
