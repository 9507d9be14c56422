//! What this program is, for results to name it.

use std::path::Path;

/// The commit that it was built from, in short, and whether files differed from it; none where that was not known.
pub const COMMIT: Option<&str> = option_env!("UPCYCLE_COMMIT");

/// Features that are compiled in unless they are left out.
const DEFAULT: [(&str, bool); 2] = [
    ("cpu", cfg!(feature = "cpu")),
    ("hub", cfg!(feature = "hub")),
];
/// Features that have to be asked for.
const FURTHER: [(&str, bool); 5] = [
    ("ndarray", cfg!(feature = "ndarray")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cuda", cfg!(feature = "cuda")),
    ("multi-device", cfg!(feature = "multi-device")),
    ("tui", cfg!(feature = "tui")),
];

fn compiled_in(features: &[(&'static str, bool)]) -> Vec<&'static str> {
    let features = features.iter().filter(|(_, is_in)| *is_in);
    features.map(|(name, _)| *name).collect()
}

/// Features beyond the usual ones that are compiled in.
pub fn further_features() -> Vec<&'static str> {
    compiled_in(&FURTHER)
}

/// The name that it was started by and its features, such as `sweep (cpu, hub)`.
pub fn name() -> String {
    let started = std::env::args().next().unwrap_or_default();
    let name = Path::new(&started).file_stem().unwrap_or_default();
    let features = [compiled_in(&DEFAULT), further_features()].concat();
    format!("{} ({})", name.to_string_lossy(), features.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named() {
        assert!(name().ends_with(')') && name().contains(" ("));
        assert_eq!(name().contains("cpu"), cfg!(feature = "cpu"));
        assert_eq!(further_features().contains(&"cuda"), cfg!(feature = "cuda"));
    }
}
