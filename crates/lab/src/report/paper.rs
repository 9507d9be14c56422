//! The paper's published figures (arXiv 2604.19835 v2) beside ours.

use crate::group::{Group, Model};
use crate::number::{MISSING, fixed, mean_sd, percent};
use crate::plot::palette::Palette;
use crate::report::comparisons::on_same_seeds;
use crate::report::markup::{Html, Table};
use crate::results::{Cell, Setting};
use crate::statistics::{gap_closure, paired, spearman, summarize};

/// Table 2b: CPT steps over pre-training steps (tau = 50K) and gap closure in %, recipe not stated, 32 to 64 experts.
const TABLE_2B: [(&str, f64, f64); 5] = [
    ("5K", 0.10, 34.7),
    ("13K", 0.26, 64.0),
    ("25K", 0.50, 84.3),
    ("38K", 0.76, 88.5),
    ("51K", 1.02, 98.0),
];

/// Our CPT fraction stands beside the paper's if it differs by no more than this share of it.
const NEAR: f64 = 0.1;
/// A sweep over heuristics has its own table; this one would only repeat all of its recipes.
const MOST_ROWS: usize = 40;

/// Gap closure over the CPT budget, the paper's line first.
fn budgets(groups: &[Group], palette: &Palette) -> Option<Table> {
    let near = |place: &f64| {
        TABLE_2B
            .iter()
            .any(|(_, paper, _)| (place - paper).abs() <= NEAR * paper)
    };
    let rows: Vec<(&Group, &str)> = groups
        .iter()
        .filter(|group| group.setting.transition.is_none() && group.places().iter().any(near))
        .flat_map(|group| {
            group
                .recipes()
                .into_iter()
                .map(move |recipe| (group, recipe))
        })
        .collect();
    if rows.is_empty() || rows.len() > MOST_ROWS {
        return None;
    }
    let budgets = TABLE_2B.map(|(steps, fraction, _)| {
        Html::with_remark(
            &format!("CPT {}", percent(fraction)),
            &format!("{steps} steps"),
        )
    });
    let names: [Html; 2] = ["model".into(), "recipe".into()];
    let head = names.into_iter().chain(budgets);
    let mut table = Table::new(
        "Gap closure η in % by CPT budget (steps of the paper, tau = 50K): paper, Table 2b, and this sweep",
        2,
        head,
    );
    let names = [PAPERS_ABLATION.into(), "not stated".into()];
    let figures = TABLE_2B.map(|(_, _, eta)| fixed(eta, 1).into());
    table.row(names.into_iter().chain(figures));
    for (group, recipe) in rows {
        let name = Html::model(recipe, palette.look(Model::Upcycled(recipe)));
        let etas = TABLE_2B.map(|(_, fraction, _)| ours(group, recipe, fraction));
        table.row([group.label.as_str().into(), name].into_iter().chain(etas));
    }
    Some(table)
}

/// Our gap closure at the place nearest to the paper's, which is told where it is another; a dash if none is near.
fn ours<'a>(group: &Group<'a>, recipe: &'a str, paper: f64) -> Html {
    let distance = |fraction: &f64| (fraction - paper).abs();
    let nearest = group
        .places()
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    match nearest.filter(|fraction| distance(fraction) <= NEAR * paper) {
        Some(fraction) => {
            let etas = group.seeds(recipe, fraction).gap_closures();
            let eta = mean_sd(&summarize(&etas), 100.0, 1);
            match (100.0 * fraction).round() == (100.0 * paper).round() {
                true => eta.into(),
                false => {
                    Html::with_remark(&eta, &format!("at {}", group.setting.place_name(fraction)))
                }
            }
        }
        None => MISSING.into(),
    }
}

/// Table 2a: tau over all steps (T = 100K) and gap closure in %, 32 to 64 experts.
const TABLE_2A: [(&str, f64, f64); 5] = [
    ("5K", 0.05, 81.0),
    ("13K", 0.13, 100.0),
    ("25K", 0.25, 100.0),
    ("38K", 0.38, 100.0),
    ("51K", 0.51, 98.0),
];

/// Gap closure over the step of the operator, the paper's line first.
fn transitions(groups: &[Group], palette: &Palette) -> Option<Table> {
    let groups = groups.iter().filter(|g| g.setting.transition.is_some());
    let rows: Vec<(&Group, &str)> = groups
        .flat_map(|group| {
            group
                .recipes()
                .into_iter()
                .map(move |recipe| (group, recipe))
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let places = TABLE_2A.map(|(steps, share, _)| {
        Html::with_remark(
            &format!("τ/T {}", percent(share)),
            &format!("{steps} steps"),
        )
    });
    let names: [Html; 2] = ["model".into(), "recipe".into()];
    let mut table = Table::new(
        "Gap closure η in % by transition time (steps of the paper, T = 100K): paper, Table 2a, and this sweep",
        2,
        names.into_iter().chain(places),
    );
    let names = [PAPERS_ABLATION.into(), "not stated".into()];
    let figures = TABLE_2A.map(|(_, _, eta)| fixed(eta, 1).into());
    table.row(names.into_iter().chain(figures));
    for (group, recipe) in rows {
        let name = Html::model(recipe, palette.look(Model::Upcycled(recipe)));
        let etas = TABLE_2A.map(|(_, share, _)| ours(group, recipe, share));
        table.row([group.label.as_str().into(), name].into_iter().chain(etas));
    }
    Some(table)
}

const PAPERS_ABLATION: &str = "paper: 10 layers, 32 to 64 experts, top-2";

/// Table 3: losses of Fixed-32 and Fixed-64, and of each selection, at CPT of 13K, 25K, 38K and 50K steps (tau = 50K).
const TABLE_3_FIXED: [(f64, [f64; 2]); 4] = [
    (0.26, [2.857, 2.808]),
    (0.50, [2.835, 2.785]),
    (0.76, [2.821, 2.769]),
    (1.0, [2.809, 2.758]),
];
const TABLE_3: [(&str, &str, [f64; 4]); 6] = [
    ("random-experts", "random new", [3.107, 3.010, 2.969, 2.963]),
    ("uniform", "uniform", [2.853, 2.809, 2.787, 2.769]),
    ("paper-weight-norm", "|w|", [2.846, 2.807, 2.785, 2.771]),
    ("paper-saliency", "|g| |w|", [2.846, 2.809, 2.778, 2.766]),
    ("paper", "|g|²", [2.844, 2.804, 2.773, 2.759]),
    ("paper-fisher", "|g|²/H", [2.845, 2.805, 2.776, 2.768]),
];

/// Which experts to copy: gap closure of the paper and of this sweep, one under the other.
fn selections(group: &Group, palette: &Palette) -> Option<Table> {
    let recipes = group.recipes();
    let known = TABLE_3
        .iter()
        .filter(|(recipe, ..)| recipes.contains(recipe));
    if known.count() < 3 || group.setting.transition.is_some() {
        return None;
    }
    let budgets = TABLE_3_FIXED.map(|(share, _)| Html::from(format!("CPT {}", percent(share))));
    let names: [Html; 2] = ["copies by".into(), "whose".into()];
    let mut table = Table::new(
        format!(
            "Gap closure η in % by what is copied: paper, Table 3 (from its losses), and {}",
            group.label
        ),
        2,
        names.into_iter().chain(budgets),
    );
    for (recipe, name, losses) in TABLE_3 {
        let figures = losses
            .iter()
            .zip(TABLE_3_FIXED)
            .map(|(loss, (_, [small, big]))| eta_in_percent(small, *loss, big).into());
        let names = [name.into(), "paper".into()];
        table.row(names.into_iter().chain(figures));
        let name = Html::model(recipe, palette.look(Model::Upcycled(recipe)));
        let etas = TABLE_3_FIXED.map(|(share, _)| ours(group, recipe, share));
        table.row([name, "this sweep".into()].into_iter().chain(etas));
    }
    Some(table)
}

fn eta_in_percent(small: f64, upcycled: f64, big: f64) -> String {
    gap_closure(small, upcycled, big).map_or(MISSING.to_owned(), |eta| fixed(100.0 * eta, 1))
}

/// Table 4: K / E of the target in %, losses of Fixed-E, Fixed-mE, MoE to MoE and dense to MoE (K = 1).
const TABLE_4: [(f64, [f64; 4]); 4] = [
    (25.0, [3.085, 3.056, 3.061, 3.087]),
    (12.5, [3.056, 3.018, 3.025, 3.086]),
    (6.25, [3.018, 2.986, 2.992, 3.069]),
    (3.125, [2.894, 2.788, 2.808, 3.049]),
];
const DENSE: &str = "sparse-upcycling";

/// Experts from experts and from a dense network: gap closure of the paper and of this sweep.
fn activation(groups: &[Group], palette: &Palette) -> Option<Table> {
    let has = |group: &&Group| group.recipes().contains(&DENSE);
    let groups: Vec<&Group> = groups.iter().filter(has).collect();
    let recipes = groups.first()?.recipes();
    let ratios = TABLE_4.map(|(ratio, _)| Html::from(format!("K/E {}", percent(ratio / 100.0))));
    let names: [Html; 2] = ["from".into(), "whose".into()];
    let mut table = Table::new(
        "Gap closure η in % by the activation ratio of the target, K = 1: paper, Table 4 (from its losses), and this sweep at \
         its longest CPT",
        2,
        names.into_iter().chain(ratios),
    );
    for (from, index) in [("experts", 2), ("a dense network", 3)] {
        let figures =
            TABLE_4.map(|(_, losses)| eta_in_percent(losses[0], losses[index], losses[1]).into());
        table.row([from.into(), "paper".into()].into_iter().chain(figures));
    }
    for recipe in recipes {
        let etas = TABLE_4.map(|(ratio, _)| {
            let own =
                |setting: &Setting| 100.0 * setting.top_k as f64 / setting.target_experts as f64;
            let group = groups
                .iter()
                .find(|group| (own(group.setting) - ratio).abs() < 0.1);
            let Some((group, last)) = group.and_then(|g| Some((g, *g.places().last()?))) else {
                return MISSING.into();
            };
            mean_sd(
                &summarize(&group.seeds(recipe, last).gap_closures()),
                100.0,
                1,
            )
            .into()
        });
        let name = Html::model(recipe, palette.look(Model::Upcycled(recipe)));
        table.row([name, "this sweep".into()].into_iter().chain(etas));
    }
    Some(table)
}

/// Tables 8, 11 and 12: final losses by heuristic; `plain` is the paper's plain copy with bias noise.
const TABLES_8_11_12: [(&str, f64); 40] = [
    ("expert-noise-0.01", 2.76859),
    ("expert-noise-0.02", 2.76860),
    ("expert-noise-0.05", 2.76895),
    ("expert-scaled-0.95", 2.76846),
    ("expert-scaled-0.90", 2.76815),
    ("expert-scaled-1.05", 2.76896),
    ("expert-drop-xavier-0.3", 2.77043),
    ("expert-drop-xavier-0.5", 2.77125),
    ("expert-drop-xavier-0.7", 2.77304),
    ("expert-drop-kaiming-0.5", 2.77337),
    ("expert-drop-normal-0.5", 2.77203),
    ("expert-interpolate-0.2", 2.76888),
    ("expert-interpolate-0.5", 2.76953),
    ("expert-interpolate-0.7", 2.76966),
    ("expert-orthogonal", 2.77487),
    ("expert-svd-0.05-0.02", 2.77476),
    ("expert-svd-0.1-0.05", 2.77483),
    ("expert-svd-0.2-0.1", 2.77472),
    ("expert-svd-drop-0.3", 2.77441),
    ("expert-svd-values-0.15", 2.76938),
    ("expert-svd-vectors-0.1", 2.77468),
    ("expert-svd-mix-0.2", 2.77483),
    ("expert-svd-mix-0.3", 2.77472),
    ("expert-svd-mix-0.5", 2.77472),
    ("expert-svd-mix-0.7", 2.77475),
    ("expert-sparse-code-256", 2.77034),
    ("expert-sparse-code-512", 2.76955),
    ("expert-sparse-code-1024", 2.76938),
    ("expert-sparse-code-sparsity-0.2", 2.76981),
    ("expert-sparse-code-sparsity-0.05", 2.76951),
    ("expert-sparse-code-mix-0.5", 2.76964),
    ("expert-sparse-code-200", 2.76945),
    ("router-interpolate-light", 2.76861),
    ("router-interpolate-balanced", 2.76877),
    ("router-interpolate-heavy", 2.76776),
    ("router-bias-only", 2.76836),
    ("router-orthogonal", 2.76867),
    ("router-adversarial-0.1", 2.76848),
    ("router-adversarial-0.3", 2.76990),
    (PLAIN, PLAIN_LOSS),
];
const PLAIN: &str = "uniform";
const PLAIN_LOSS: f64 = 2.76858;

/// Heuristics: what each costs beside a plain copy, in the paper and here.
fn heuristics(group: &Group, palette: &Palette) -> Option<Table> {
    let recipes = group.recipes();
    let known = TABLES_8_11_12
        .iter()
        .filter(|(recipe, _)| recipes.contains(recipe));
    if known.count() < 5 || !recipes.contains(&PLAIN) {
        return None;
    }
    let last = *group.places().last()?;
    let loss = |recipe| group.seeds(recipe, last).summary(|c| c.loss_upcycled).mean;
    let known: Vec<(&str, f64)> = TABLES_8_11_12
        .into_iter()
        .filter(|(recipe, _)| recipes.contains(recipe))
        .collect();
    let pairs: Vec<(f64, f64)> = known
        .iter()
        .map(|&(recipe, paper)| (paper, loss(recipe)))
        .collect();
    let caption = format!(
        "Loss of each heuristic less that of a plain copy with bias noise, in thousandths of a nat: paper, Tables 8, 11 and \
         12 (one seed), and {} at {}; rank correlation of the two (Spearman) {}. The paper’s figures for singular vectors and \
         SVD mixes carry a fault of its code, which loses their signs",
        group.label,
        group.setting.place_name(last),
        fixed(spearman(&pairs).unwrap_or(f64::NAN), 2)
    );
    let mut table = Table::new(
        caption,
        1,
        ["heuristic", "paper", "this sweep", "jump here"],
    );
    for (recipe, paper) in known {
        let seeds = group.seeds(recipe, last);
        let base = group.seeds(PLAIN, last);
        let more = paired(on_same_seeds(&seeds, &base, |cell| {
            Some(cell.loss_upcycled)
        }));
        table.row([
            Html::model(recipe, palette.look(Model::Upcycled(recipe))),
            fixed(1e3 * (paper - PLAIN_LOSS), 2).into(),
            mean_sd(&more, 1e3, 2).into(),
            fixed(seeds.summary(|c| c.loss_after - c.loss_before).mean, 3).into(),
        ]);
    }
    Some(table)
}

/// Tables 1 and 7: scale, CPT over pre-training, losses of Fixed-E, Upcycled and Fixed-mE.
const BY_SCALE: [(&str, f64, [f64; 3]); 5] = [
    ("7B-interleaved", 0.5, [1.339, 1.305, 1.308]),
    ("7B-interleaved", 1.0, [1.301, 1.263, 1.267]),
    ("154M", 1.0, [3.564, 3.519, 3.516]),
    ("305M", 1.0, [3.153, 3.071, 3.067]),
    ("1B", 1.0, [2.819, 2.767, 2.763]),
];

/// The paper's own scales; none if the sweep has none of them.
fn scales(groups: &[Group], palette: &Palette) -> Option<Table> {
    let head = [
        "model", "recipe", "Fixed-E", "Upcycled", "Fixed-mE", "η in %",
    ];
    let caption =
        "The paper’s models: its losses and gap closure (Tables 1 and 7), and this sweep’s";
    let mut table = Table::new(caption, 2, head);
    let mut any = false;
    for (scale, place, losses) in BY_SCALE {
        let group = groups.iter().find(|group| {
            let doubled = group.setting.target_experts == 2 * group.setting.experts;
            group.setting.scale == scale
                && doubled
                && matches!(group.setting.experts, 32 | 256)
                && group.setting.transition.is_none()
                && group.places().contains(&place)
        });
        let Some(group) = group else { continue };
        any = true;
        let name = format!("{scale}, CPT {}", percent(place));
        let [small, upcycled, big] = losses;
        let figures = losses.map(|loss| fixed(loss, 3).into());
        let eta = [eta_in_percent(small, upcycled, big).into()];
        table.row(
            [name.as_str().into(), "paper’s".into()]
                .into_iter()
                .chain(figures)
                .chain(eta),
        );
        for recipe in group.recipes() {
            let seeds = group.seeds(recipe, place);
            let loss =
                |quantity: fn(&Cell) -> f64| mean_sd(&seeds.summary(quantity), 1.0, 3).into();
            table.row([
                name.as_str().into(),
                Html::model(recipe, palette.look(Model::Upcycled(recipe))),
                loss(|c| c.loss_fixed_e),
                loss(|c| c.loss_upcycled),
                loss(|c| c.loss_fixed_me),
                mean_sd(&summarize(&seeds.gap_closures()), 100.0, 1).into(),
            ]);
        }
    }
    any.then_some(table)
}

/// The paper's tables that a sweep has something beside.
pub(crate) fn tables(groups: &[Group], palette: &Palette) -> Vec<Table> {
    let whole = [
        scales(groups, palette),
        transitions(groups, palette),
        activation(groups, palette),
        budgets(groups, palette),
    ];
    let single = groups
        .iter()
        .flat_map(|group| [selections(group, palette), heuristics(group, palette)]);
    whole.into_iter().chain(single).flatten().collect()
}

/// What keeps the two from being compared number by number.
pub(crate) const CAVEAT: &str = "The two are not directly comparable: the paper's models have 0.15 to 1.3 billion \
    parameters and saw 2 to 93 billion tokens of text, and no seeds or error bars are reported; what can be compared is \
    the shape over the CPT budget and not the level. Losses compare only with the \
    same text, vocabulary and context. (After 13K steps the paper's Table 3 has 8.2 % for the uniform recipe and 26.5 % for \
    the one by gradient norm, where its Table 2b has 64.0 %.)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn the_papers_losses_give_its_gap_closure() {
        let printed = [None, None, Some(93.8), Some(95.3), Some(92.9)];
        for ((scale, _, [small, upcycled, big]), printed) in BY_SCALE.into_iter().zip(printed) {
            let eta = 100.0 * gap_closure(small, upcycled, big).unwrap();
            assert!(
                printed.is_none_or(|printed: f64| (eta - printed).abs() < 0.06),
                "{scale}: {eta}"
            );
        }
    }

    #[test]
    fn near_budgets_stand_together() {
        let results = sample::results();
        let groups = groups(&results);
        let ours = |paper: f64| ours(&groups[0], "paper", paper).to_string();
        assert!(ours(1.02).contains("<small>at CPT 100\u{a0}%</small>"));
        assert!(ours(0.26).contains("<small>at CPT 25\u{a0}%</small>"));
        assert!(ours(0.5).contains('±') && !ours(0.5).contains("CPT"));
        assert_eq!(ours(0.76), MISSING);
    }
}
