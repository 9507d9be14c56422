//! Every recipe of the repository is valid and can be carried out.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use upcycle_lab::presets;
use upcycle_operator::{ExpertMatrices, LayerPlan, RouterRows};

#[test]
fn every_recipe_can_be_carried_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/recipes");
    let (experts, d, f) = (4, 6, 8);
    let values =
        |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 1.7).sin()).collect() };
    let (gate, up, down) = (
        values(experts * d * f),
        values(experts * d * f),
        values(experts * d * f),
    );
    let source = ExpertMatrices {
        gate: &gate,
        up: &up,
        down: &down,
        d,
        f,
    };
    let rows = RouterRows {
        weight: values(experts * d),
        bias: values(experts),
        d,
        input_rms: 1.0,
    };
    let plan = LayerPlan::from_counts(&[2, 1, 3, 1]);
    let mut seen = 0;
    for folder in [folder.clone(), folder.join("heuristics")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let recipe = presets::recipe(path.to_str().unwrap()).unwrap();
            assert_eq!(
                Some(recipe.name.as_str()),
                path.file_stem().unwrap().to_str()
            );
            let grown = recipe.experts.grow(source, &plan, 1);
            let grown_rows = recipe.router.extend(&rows, &plan, 1);
            let all = grown.iter().flatten().chain(&grown_rows.weight);
            assert!(all.chain(&grown_rows.bias).all(|value| value.is_finite()));
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn every_file_is_a_preset_that_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let catalogue = presets::catalogue();
    for (folder, prefix, presets) in [
        ("scales", "", &catalogue.scales),
        ("sweeps", "", &catalogue.sweeps),
        ("recipes", "", &catalogue.recipes),
        ("recipes/heuristics", "heuristics/", &catalogue.recipes),
    ] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let name = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
            let preset = presets.iter().find(|preset| preset.name == name);
            let preset = preset.unwrap_or_else(|| panic!("{name} is no preset"));
            assert!(!preset.about.is_empty(), "{name} says nothing of itself");
        }
    }
}
