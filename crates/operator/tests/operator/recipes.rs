//! Every recipe of the repository is valid and can be carried out.

use std::{fs, path::Path};

use upcycle_operator::{ExpertMatrices, LayerPlan, Recipe, RouterRows};

#[test]
fn every_recipe_can_be_carried_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
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
            let text = fs::read_to_string(&path).unwrap();
            let recipe = Recipe::from_toml(&text).unwrap();
            assert_eq!(
                Some(recipe.name.as_str()),
                path.file_stem().unwrap().to_str()
            );
            let named = Recipe::all_named().iter().any(|(_, own)| *own == text);
            assert!(named, "{} has no name", path.display());
            let (grown, _) = recipe.experts.grow(source, &plan, 1);
            let (grown_rows, _) = recipe.router.extend(&rows, &plan, 1);
            let all = grown.iter().flatten().chain(&grown_rows.weight);
            assert!(all.chain(&grown_rows.bias).all(|value| value.is_finite()));
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn times_and_rates_that_cannot_be_are_named() {
    let named = |name: &str| {
        let found = Recipe::all_named().iter().find(|(own, _)| *own == name);
        found.unwrap().1.to_owned()
    };
    let error = |text: &str| {
        let recipe = Recipe::from_toml(text);
        let error = recipe.and_then(|recipe| recipe.validate()).unwrap_err();
        error.to_string()
    };
    let boosted = named("boosted-release");
    let of_boosted = [
        ("experts = 2.0", "experts = 0.0", "boost.experts"),
        ("router = 2.0", "router = -1.0", "boost.router"),
        ("steps = 1500", "steps = 0", "boost.steps"),
        (
            ", steps = 300",
            ", steps = 300, over = 0.1",
            "router.release",
        ),
        (", steps = 300", "", "router.release"),
        (", steps = 300", ", steps = 0", "router.release.steps"),
        (", steps = 300", ", over = -1.0", "router.release.over"),
    ];
    let wider = named("wider");
    let of_wider = [
        ("kind = \"uniform\"", "kind = \"random\"", "selection.kind"),
        ("kind = \"copy\"", "kind = \"bias-noise\"", "router.kind"),
        ("kind = \"reset-new\"", "kind = \"reset\"", "optimizer.kind"),
        (
            "[router]",
            "[experts]\nkind = \"orthogonal\"\n[router]",
            "experts.kind",
        ),
    ];
    let of_boosted = of_boosted.map(|case| (&boosted, case));
    let of_wider = of_wider.map(|case| (&wider, case));
    for (recipe, (from, to, expected)) in of_boosted.into_iter().chain(of_wider) {
        let error = error(&recipe.replace(from, to));
        assert!(error.contains(&format!("`{expected}`")), "{to}: {error}");
    }
}
