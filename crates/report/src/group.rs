//! The rows of a sweep that belong into one figure or table: all that share scale, data, protocol, E, mE and K, over
//! CPT fractions or, in sweeps that move tau, over transitions.

use crate::gap::Gap;
use crate::number::count;
use crate::results::{Cell, Curve, Results, RoutingRow, Setting};
use crate::statistics::{SMALLEST_GAP, Summary, gap_closure, ratio_of_means, summarize};

/// One comparison of Fixed-E, Fixed-mE and some recipes over CPT fractions and seeds.
pub(crate) struct Group<'a> {
    /// The setting of one of its rows; only the place on the axis differs between rows.
    pub(crate) setting: &'a Setting,
    /// Name for people, unique in a sweep.
    pub(crate) label: String,
    /// Name for files, unique in a sweep.
    pub(crate) stem: String,
    /// What the length of pre-training adds to both names, at their ends; nothing in sweeps over one length.
    of_length: Names,
    /// Those of the sweep's recipes that are the paper's.
    of_paper: Vec<&'a str>,
    /// The recipe that others are to be compared with, if one was asked for.
    asked: Option<&'a str>,
    pub(crate) cells: Vec<&'a Cell>,
    pub(crate) curves: Vec<&'a Curve>,
    pub(crate) routing: Vec<&'a RoutingRow>,
}

/// Parts of a label and of a file name.
#[derive(Debug, Clone, Default)]
struct Names {
    label: String,
    stem: String,
}

/// The seeds of one recipe at one place.
pub(crate) struct Seeds<'a> {
    pub(crate) recipe: &'a str,
    pub(crate) place: f64,
    pub(crate) cells: Vec<&'a Cell>,
}

/// Groups the rows, in order of first appearance.
pub(crate) fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for cell in &results.cells {
        find(&mut groups, &cell.setting).cells.push(cell);
    }
    for curve in &results.curves {
        find(&mut groups, &curve.setting).curves.push(curve);
    }
    for row in &results.routing {
        find(&mut groups, &row.setting).routing.push(row);
    }
    let own = results.recipes.iter().filter(|recipe| recipe.of_paper);
    let of_paper: Vec<&str> = own.map(|recipe| recipe.name.as_str()).collect();
    for group in &mut groups {
        group.of_paper.clone_from(&of_paper);
        group.asked = results.baseline.as_deref();
    }
    name(groups)
}

fn find<'g, 'a>(groups: &'g mut Vec<Group<'a>>, setting: &'a Setting) -> &'g mut Group<'a> {
    let position = groups.iter().position(|g| same(g.setting, setting));
    let index = position.unwrap_or_else(|| {
        groups.push(Group {
            setting,
            label: String::new(),
            stem: String::new(),
            of_length: Names::default(),
            of_paper: Vec::new(),
            asked: None,
            cells: Vec::new(),
            curves: Vec::new(),
            routing: Vec::new(),
        });
        groups.len() - 1
    });
    &mut groups[index]
}

fn same(a: &Setting, b: &Setting) -> bool {
    a.length == b.length && same_but_for_length(a, b)
}

fn same_but_for_length(a: &Setting, b: &Setting) -> bool {
    a.scale == b.scale
        && a.data == b.data
        && a.protocol == b.protocol
        && a.experts == b.experts
        && a.target_experts == b.target_experts
        && a.top_k == b.top_k
        && a.cpt_lr == b.cpt_lr
        && a.grows == b.grows
        && a.transition.is_some() == b.transition.is_some()
}

/// The protocol that is named wherever it is used; the other is the usual one.
pub(crate) const ANNEALED: &str = "annealed";

/// Names each group by what sets it apart: data and protocol only where the sweep has several, but the protocol always
/// where it is not the usual one.
fn name(mut groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let several = |field: fn(&Setting) -> &str| {
        groups
            .windows(2)
            .any(|pair| field(pair[0].setting) != field(pair[1].setting))
    };
    let several_data = several(|s| &s.data);
    let several_protocols = several(|s| &s.protocol);
    let mut taken: Vec<String> = Vec::new();
    for group in &mut groups {
        let s = group.setting;
        let mut label = format!("{}, {}", s.scale, s.growth_name());
        let mut stem = format!("{}_{}x{}_k{}", s.scale, s.experts, s.multiplier, s.top_k);
        if let Some(grows) = s.grows {
            stem += &format!("_{grows}");
        }
        if several_data {
            label += &format!(", {}", s.data);
            stem += &format!("_{}", s.data);
        }
        if several_protocols || s.protocol == ANNEALED {
            label += &format!(", {}", s.protocol);
        }
        if several_protocols {
            stem += &format!("_{}", s.protocol);
        }
        if let Some(factor) = s.cpt_lr {
            label.extend(s.cpt_lr_name().map(|name| format!(", {name}")));
            stem += &format!("_lr{factor}");
        }
        if let Some(length) = s.length {
            let name = s.length_name().unwrap_or_default();
            group.of_length.label = format!(", {name}");
            group.of_length.stem = format!("_{}", file_name(&count(length as f64)));
        }
        group.label = label + &group.of_length.label;
        let stem = file_name(&stem) + &group.of_length.stem;
        group.stem = distinct(stem, &taken);
        taken.push(group.stem.clone());
    }
    groups
}

fn file_name(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '_' | '-' => c,
            _ => '-',
        })
        .collect()
}

fn distinct(stem: String, taken: &[String]) -> String {
    (2_usize..)
        .map(|i| format!("{stem}-{i}"))
        .take(taken.len())
        .fold(stem.clone(), |name, next| {
            if taken.contains(&name) { next } else { name }
        })
}

impl<'a> Group<'a> {
    /// Whether another group differs in the length of pre-training, and in nothing else.
    pub(crate) fn differs_in_length(&self, other: &Self) -> bool {
        same_but_for_length(self.setting, other.setting)
            && self.setting.length != other.setting.length
    }

    /// Name for people of all lengths of pre-training together.
    pub(crate) fn label_without_length(&self) -> &str {
        self.label
            .strip_suffix(&self.of_length.label)
            .unwrap_or(&self.label)
    }

    /// Name for files of all lengths of pre-training together.
    pub(crate) fn stem_without_length(&self) -> &str {
        self.stem
            .strip_suffix(&self.of_length.stem)
            .unwrap_or(&self.stem)
    }

    /// Whether a cell is one of this group's.
    pub(crate) fn holds(&self, cell: &Cell) -> bool {
        same(self.setting, &cell.setting)
    }

    /// Places of the finished cells, ascending.
    pub(crate) fn places(&self) -> Vec<f64> {
        ascending(self.cells.iter().map(|c| c.setting.place()))
    }

    /// Recipes of the finished cells, in order of appearance.
    pub(crate) fn recipes(&self) -> Vec<&'a str> {
        let mut recipes: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !recipes.contains(&cell.recipe.as_str()) {
                recipes.push(&cell.recipe);
            }
        }
        recipes
    }

    /// Whether a recipe is one of the paper's.
    pub(crate) fn is_of_paper(&self, recipe: &str) -> bool {
        self.of_paper.contains(&recipe)
    }

    /// The recipe that others are compared with: the one that was asked for; else, or where it is not there, the paper's that
    /// comes first, or the first. What the seeds say has no part in it: a recipe that was chosen on them looks better than it is.
    pub(crate) fn baseline(&self) -> Option<&'a str> {
        let recipes = self.recipes();
        let is_asked = |recipe: &&str| self.asked == Some(*recipe);
        let is_of_paper = |recipe: &&str| self.is_of_paper(recipe);
        let asked = recipes.iter().copied().find(is_asked);
        asked
            .or(recipes.iter().copied().find(is_of_paper))
            .or(recipes.first().copied())
    }

    /// The group with at most `most` recipes: the two thirds of them with the highest mean gap closure at the last place, and
    /// the third with the lowest.
    pub(crate) fn few(&self, most: usize) -> Self {
        let mut recipes = self.recipes();
        if recipes.len() > most {
            let last = self.places().last().copied().unwrap_or(f64::NAN);
            // What has no gap closure is none of the highest.
            let eta = |recipe: &str| match self.seeds(recipe, last).eta().mean {
                eta if eta.is_finite() => eta,
                _ => f64::NEG_INFINITY,
            };
            recipes.sort_by(|a, b| eta(b).total_cmp(&eta(a)));
            let (highest, lowest) = (most - most / 3, most / 3);
            recipes.drain(highest..recipes.len() - lowest);
        }
        let chosen = |recipe: Option<&str>| recipe.is_none_or(|recipe| recipes.contains(&recipe));
        let all_cells = self.cells.iter().copied();
        let (curves, routing) = (self.curves.iter().copied(), self.routing.iter().copied());
        Self {
            setting: self.setting,
            label: self.label.clone(),
            stem: self.stem.clone(),
            of_length: self.of_length.clone(),
            of_paper: self.of_paper.clone(),
            asked: self.asked,
            cells: all_cells
                .filter(|cell| chosen(Some(&cell.recipe)))
                .collect(),
            curves: curves
                .filter(|curve| chosen(curve.recipe.as_deref()))
                .collect(),
            routing: routing
                .filter(|row| chosen(row.recipe.as_deref()))
                .collect(),
        }
    }

    /// The cells of one recipe at one place; it may have none.
    pub(crate) fn seeds(&self, recipe: &'a str, place: f64) -> Seeds<'a> {
        let chosen = |c: &&&Cell| c.recipe == recipe && c.setting.place() == place;
        Seeds {
            recipe,
            place,
            cells: self.cells.iter().filter(chosen).copied().collect(),
        }
    }

    /// Each recipe at each place that has a cell: places ascending, recipes in order of appearance.
    pub(crate) fn comparisons(&self) -> Vec<Seeds<'a>> {
        let mut comparisons = Vec::new();
        for place in self.places() {
            for recipe in self.recipes() {
                let seeds = self.seeds(recipe, place);
                if !seeds.cells.is_empty() {
                    comparisons.push(seeds);
                }
            }
        }
        comparisons
    }

    /// One cell a seed at a place: Fixed-E and Fixed-mE are the same runs whatever the recipe.
    pub(crate) fn fixed(&self, place: f64) -> Vec<&'a Cell> {
        let mut cells: Vec<&Cell> = Vec::new();
        for cell in &self.cells {
            let new = !cells.iter().any(|c| c.seed == cell.seed);
            if new && cell.setting.place() == place {
                cells.push(cell);
            }
        }
        cells
    }

    /// The gap between Fixed-E and Fixed-mE at a place, over the seeds of which both have a loss.
    pub(crate) fn gap(&self, place: f64) -> Gap {
        let mut cells = self.fixed(place);
        cells.retain(|cell| cell.gap().is_finite());
        let of = |loss: fn(&Cell) -> f64| summarize(cells.iter().map(|c| loss(c)));
        Gap {
            fixed_e: of(|c| c.loss_fixed_e),
            fixed_me: of(|c| c.loss_fixed_me),
            lead: of(Cell::gap),
        }
    }

    /// The curves at the last place that has one.
    pub(crate) fn longest_curves(&self) -> Vec<&'a Curve> {
        let last = ascending(self.curves.iter().map(|c| c.setting.place())).pop();
        let longest = |c: &&&Curve| Some(c.setting.place()) == last;
        self.curves.iter().filter(longest).copied().collect()
    }

    /// The routing rows at the last place that has one.
    pub(crate) fn longest_routing(&self) -> Vec<&'a RoutingRow> {
        let last = ascending(self.routing.iter().map(|r| r.setting.place())).pop();
        let longest = |r: &&&RoutingRow| Some(r.setting.place()) == last;
        self.routing.iter().filter(longest).copied().collect()
    }
}

impl Seeds<'_> {
    /// Those seeds of which all three models have a loss: gap closure is over these.
    pub(crate) fn complete(&self) -> Self {
        let has_all = |cell: &&Cell| cell.closed().is_finite() && cell.gap().is_finite();
        Self {
            recipe: self.recipe,
            place: self.place,
            cells: self.cells.iter().copied().filter(has_all).collect(),
        }
    }

    /// Summary of one quantity over the seeds.
    pub(crate) fn summary(&self, quantity: impl Fn(&Cell) -> f64) -> Summary {
        summarize(self.cells.iter().map(|c| quantity(c)))
    }

    /// Gap closure of all seeds together, as a fraction: the ratio of mean differences, with Fieller's interval. A seed with a
    /// small gap counts as it is, where the mean of ratios would have to leave it out.
    pub(crate) fn eta(&self) -> Summary {
        let pairs = self.cells.iter().map(|c| (c.closed(), c.gap()));
        ratio_of_means(pairs, SMALLEST_GAP)
    }

    /// The same on the test split; none where it was not evaluated.
    pub(crate) fn test_eta(&self) -> Option<Summary> {
        let tested = self.tested();
        let all = tested.len() == self.cells.len() && !tested.is_empty();
        let pairs = tested
            .iter()
            .map(|[small, own, big]| (small - own, small - big));
        all.then(|| ratio_of_means(pairs, SMALLEST_GAP))
    }

    /// Gap closures on the test split of those seeds that have one of their own.
    pub(crate) fn test_ratios(&self) -> Vec<f64> {
        let tested = self.tested().into_iter();
        tested
            .filter_map(|[small, own, big]| gap_closure(small, own, big))
            .collect()
    }

    /// Test losses of Fixed-E, Upcycled and Fixed-mE of those seeds that have them.
    fn tested(&self) -> Vec<[f64; 3]> {
        let losses = |c: &&Cell| {
            Some([
                c.test_loss_fixed_e?,
                c.test_loss_upcycled?,
                c.test_loss_fixed_me?,
            ])
        };
        self.cells.iter().filter_map(losses).collect()
    }

    /// Gap closures of those seeds that have one of their own.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let etas = self.cells.iter().filter_map(|c| c.gap_closure);
        etas.filter(|eta| eta.is_finite()).collect()
    }
}

fn ascending(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn groups_and_their_names() {
        let results = sample::two_top_k();
        let groups = groups(&results);
        let stems: Vec<&str> = groups.iter().map(|g| g.stem.as_str()).collect();
        assert_eq!(stems, ["tiny_8x2_k1", "tiny_8x2_k2"]);
        assert_eq!(groups[1].label, "tiny, 8 to 16 experts, top-2");
        assert_eq!(groups[0].places(), [0.1, 0.25, 0.5, 1.0]);
        assert_eq!(groups[0].fixed(1.0).len(), 2);
        assert_eq!(groups[0].comparisons().len(), 8);
    }

    #[test]
    fn names_differ_where_only_the_data_differ() {
        let mut results = sample::results();
        let mut other = results.cells[0].clone();
        other.setting.data = "Some Text?".into();
        results.cells.push(other);
        let groups = groups(&results);
        assert_eq!(groups[1].stem, "tiny_8x2_k2_some-text-");
        assert!(groups[1].label.ends_with("Some Text?"));
    }

    #[test]
    fn the_annealed_protocol_is_named() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.setting.protocol = ANNEALED.into();
        }
        results.curves.clear();
        results.routing.clear();
        let groups = groups(&results);
        assert_eq!(groups[0].label, "tiny, 8 to 16 experts, top-2, annealed");
        assert_eq!(groups[0].stem, "tiny_8x2_k2");
    }

    #[test]
    fn the_baseline_is_asked_for_or_the_papers() {
        let mut results = sample::results();
        let baseline = |results: &Results| groups(results)[0].baseline().map(str::to_owned);
        assert_eq!(baseline(&results).as_deref(), Some("paper"));
        results.baseline = Some("distinct".into());
        assert_eq!(baseline(&results).as_deref(), Some("distinct"));
        results.baseline = Some("of another group".into());
        results.cells.reverse();
        assert_eq!(baseline(&results).as_deref(), Some("paper"));
        results.recipes.clear();
        assert_eq!(baseline(&results).as_deref(), Some("distinct"));
    }

    #[test]
    fn a_run_that_diverged_leaves_its_seed_out() {
        let mut results = sample::seeds(3);
        for cell in &mut results.cells {
            if cell.seed == 1 && cell.recipe == "paper" {
                cell.loss_upcycled = f64::NAN;
            }
            if cell.seed == 2 {
                cell.loss_fixed_me = f64::INFINITY;
            }
        }
        let group = &groups(&results)[0];
        let seeds = group.seeds("paper", 0.5);
        assert_eq!((seeds.cells.len(), seeds.complete().cells.len()), (3, 1));
        assert_eq!(seeds.eta().n, 1);
        let gap = group.gap(0.5);
        assert_eq!((gap.fixed_e.n, gap.fixed_me.n, gap.lead.n), (2, 2, 2));
    }

    #[test]
    fn file_names_stay_distinct() {
        let taken = ["a".to_owned(), "a-2".to_owned()];
        assert_eq!(distinct("a".into(), &taken), "a-3");
        assert_eq!(distinct("b".into(), &taken), "b");
    }

    #[test]
    fn a_fraction_that_is_no_number_is_left_out() {
        let mut results = sample::results();
        results.cells[0].setting.cpt_fraction = f64::NAN;
        assert_eq!(groups(&results)[0].places().len(), 4);
    }
}
