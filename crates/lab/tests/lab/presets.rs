//! Every configuration file of this crate is a preset, and every preset says what it is.

use std::{fs, path::Path};

use upcycle_lab::presets;

#[test]
fn every_file_is_a_preset_that_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let catalogue = presets::catalogue();
    for (folder, presets) in [("scales", &catalogue.scales), ("sweeps", &catalogue.sweeps)] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(presets.iter().any(|preset| preset.name == name), "{name}");
        }
    }
    let all = [catalogue.scales, catalogue.sweeps, catalogue.recipes];
    for preset in all.iter().flatten() {
        assert!(!preset.about.is_empty(), "{} says nothing", preset.name);
    }
}
