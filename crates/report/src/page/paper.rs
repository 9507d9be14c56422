//! The paper's published figures (arXiv 2604.19835 v2) beside ours.

use maud::Markup;

use crate::group::Group;
use crate::number::{MISSING, fixed, mean_sd, percent};
use crate::page::comparisons::on_same_seeds;
use crate::page::markup::{self, Table, text, with_remark};
use crate::page::published::{
    ABLATION, BY_SCALE, PLAIN, PLAIN_LOSS, TABLE_2A, TABLE_2B, TABLE_3, TABLE_3_FIXED, TABLE_4,
    TABLES_8_11_12,
};
use crate::plot::palette::Palette;
use crate::results::{Cell, Setting};
use crate::statistics::{gap_closure, paired, spearman};

/// Our CPT fraction stands beside the paper's if it differs by no more than this share of it.
const NEAR: f64 = 0.1;
/// A sweep over heuristics has its own table; this one would only repeat all of its recipes.
const MOST_ROWS: usize = 40;

/// Gap closure over CPT budgets, or over the step of the operator; the paper's line first.
fn over_places(groups: &[Group], palette: &Palette, tau_moves: bool) -> Option<Table> {
    let (paper, caption) = match tau_moves {
        true => (
            TABLE_2A,
            "by transition time (steps of the paper, T = 100K): paper, Table 2a, and this sweep",
        ),
        false => (
            TABLE_2B,
            "by CPT budget (steps of the paper, tau = 50K): paper, Table 2b, and this sweep",
        ),
    };
    let near = |place: &f64| {
        let mut distances = paper
            .iter()
            .map(|(_, paper, _)| (place - paper).abs() / paper);
        distances.any(|distance| distance <= NEAR)
    };
    let rows: Vec<(&Group, &str)> = groups
        .iter()
        .filter(|group| group.setting.transition.is_some() == tau_moves)
        .filter(|group| group.setting.grows.is_none())
        .filter(|group| group.places().iter().any(near))
        .flat_map(|group| {
            let recipes = group.recipes().into_iter();
            recipes.map(move |recipe| (group, recipe))
        })
        .collect();
    let (first, _) = rows.first()?;
    if rows.len() > MOST_ROWS {
        return None;
    }
    let places = paper.map(|(steps, place, _)| {
        with_remark(first.setting.place_name(place), &format!("{steps} steps"))
    });
    let names = ["model", "recipe"].map(text);
    let caption = format!("Gap closure η in % {caption}");
    let mut table = Table::new(caption, 2, names.into_iter().chain(places));
    let names = [ABLATION, "not stated"].map(text);
    let figures = paper.map(|(_, _, eta)| text(fixed(eta, 1)));
    table.row(names.into_iter().chain(figures));
    for (group, recipe) in rows {
        let name = markup::recipe(recipe, palette);
        let etas = paper.map(|(_, place, _)| ours(group, recipe, place));
        table.row([text(&group.label), name].into_iter().chain(etas));
    }
    Some(table)
}

/// Our gap closure at the place nearest to the paper's, which is told where it is another; a dash if none is near.
fn ours<'a>(group: &Group<'a>, recipe: &'a str, paper: f64) -> Markup {
    let distance = |fraction: &f64| (fraction - paper).abs();
    let nearest = group
        .places()
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    match nearest.filter(|fraction| distance(fraction) <= NEAR * paper) {
        Some(fraction) => {
            let eta = mean_sd(&group.seeds(recipe, fraction).eta(), 100.0, 1);
            match (100.0 * fraction).round() == (100.0 * paper).round() {
                true => text(eta),
                false => with_remark(eta, &format!("at {}", group.setting.place_name(fraction))),
            }
        }
        None => text(MISSING),
    }
}

/// Which experts to copy: gap closure of the paper and of this sweep, one under the other.
fn selections(group: &Group, palette: &Palette) -> Option<Table> {
    let recipes = group.recipes();
    let known = TABLE_3
        .iter()
        .filter(|(recipe, ..)| recipes.contains(recipe));
    if known.count() < 3 || group.setting.transition.is_some() {
        return None;
    }
    let budgets = TABLE_3_FIXED.map(|(share, _)| text(format!("CPT {}", percent(share))));
    let names = ["copies by", "whose"].map(text);
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
            .map(|(loss, (_, [small, big]))| text(eta_in_percent(small, *loss, big)));
        let names = [name, "paper"].map(text);
        table.row(names.into_iter().chain(figures));
        let name = markup::recipe(recipe, palette);
        let etas = TABLE_3_FIXED.map(|(share, _)| ours(group, recipe, share));
        table.row([name, text("this sweep")].into_iter().chain(etas));
    }
    Some(table)
}

fn eta_in_percent(small: f64, upcycled: f64, big: f64) -> String {
    gap_closure(small, upcycled, big).map_or(MISSING.to_owned(), |eta| fixed(100.0 * eta, 1))
}

const DENSE: &str = "sparse-upcycling";

/// Experts from experts and from a dense network: gap closure of the paper and of this sweep.
fn activation(groups: &[Group], palette: &Palette) -> Option<Table> {
    let has = |group: &&Group| group.recipes().contains(&DENSE);
    let groups: Vec<&Group> = groups.iter().filter(has).collect();
    let recipes = groups.first()?.recipes();
    let ratios = TABLE_4.map(|(ratio, _)| text(format!("K/E {}", percent(ratio / 100.0))));
    let names = ["from", "whose"].map(text);
    let mut table = Table::new(
        "Gap closure η in % by the activation ratio of the target, K = 1: paper, Table 4 (from its losses), and this sweep at \
         its longest CPT",
        2,
        names.into_iter().chain(ratios),
    );
    for (from, index) in [("experts", 2), ("a dense network", 3)] {
        let figures =
            TABLE_4.map(|(_, losses)| text(eta_in_percent(losses[0], losses[index], losses[1])));
        table.row([from, "paper"].map(text).into_iter().chain(figures));
    }
    for recipe in recipes {
        let etas = TABLE_4.map(|(ratio, _)| {
            let own =
                |setting: &Setting| 100.0 * setting.top_k as f64 / setting.target_experts as f64;
            let group = groups
                .iter()
                .find(|group| (own(group.setting) - ratio).abs() < 0.1);
            let Some((group, last)) = group.and_then(|g| Some((g, *g.places().last()?))) else {
                return text(MISSING);
            };
            text(mean_sd(&group.seeds(recipe, last).eta(), 100.0, 1))
        });
        let name = markup::recipe(recipe, palette);
        table.row([name, text("this sweep")].into_iter().chain(etas));
    }
    Some(table)
}

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
            markup::recipe(recipe, palette),
            text(fixed(1e3 * (paper - PLAIN_LOSS), 2)),
            text(mean_sd(&more, 1e3, 2)),
            text(fixed(
                seeds.summary(|c| c.loss_after - c.loss_before).mean,
                3,
            )),
        ]);
    }
    Some(table)
}

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
                && group.setting.grows.is_none()
                && group.places().contains(&place)
        });
        let Some(group) = group else { continue };
        any = true;
        let name = format!("{scale}, CPT {}", percent(place));
        let [small, upcycled, big] = losses;
        let figures = losses.map(|loss| text(fixed(loss, 3)));
        let eta = [text(eta_in_percent(small, upcycled, big))];
        table.row(
            [name.as_str(), "paper’s"]
                .map(text)
                .into_iter()
                .chain(figures)
                .chain(eta),
        );
        for recipe in group.recipes() {
            let seeds = group.seeds(recipe, place).complete();
            let loss = |quantity: fn(&Cell) -> f64| text(mean_sd(&seeds.summary(quantity), 1.0, 3));
            table.row([
                text(&name),
                markup::recipe(recipe, palette),
                loss(|c| c.loss_fixed_e),
                loss(|c| c.loss_upcycled),
                loss(|c| c.loss_fixed_me),
                text(mean_sd(&seeds.eta(), 100.0, 1)),
            ]);
        }
    }
    any.then_some(table)
}

/// The paper's tables that a sweep has something beside.
pub(crate) fn tables(groups: &[Group], palette: &Palette) -> Vec<Table> {
    let whole = [
        scales(groups, palette),
        over_places(groups, palette, true),
        activation(groups, palette),
        over_places(groups, palette, false),
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
        let ours = |paper: f64| ours(&groups[0], "paper", paper).into_string();
        assert!(ours(1.02).contains("<small>at CPT 100\u{a0}%</small>"));
        assert!(ours(0.26).contains("<small>at CPT 25\u{a0}%</small>"));
        assert!(ours(0.5).contains('±') && !ours(0.5).contains("CPT"));
        assert_eq!(ours(0.76), MISSING);
    }
}
