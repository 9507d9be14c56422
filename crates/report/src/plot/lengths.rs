//! Figures of sweeps over several lengths of pre-training: gap closure over the length at one CPT fraction, and over the
//! tokens since the operator.

use crate::group::Group;
use crate::model::Model;
use crate::number::{count, percent};
use crate::plot::axis::extent;
use crate::plot::error::PlotError;
use crate::plot::eta::{self, Line, Point};
use crate::plot::figure::{Figure, FigureKind};
use crate::plot::gap_closure::{across, x_axis};
use crate::plot::palette::Palette;
use crate::plot::panel::Panel;
use crate::plot::sheet::{WIDTH, draw, legend};
use crate::results::Setting;

/// The figures of one family of groups, which differ in the length of pre-training alone; none for a single length.
pub(crate) fn figures(family: &[&Group], palette: &Palette) -> Result<Vec<Figure>, PlotError> {
    if family.len() < 2 {
        return Ok(Vec::new());
    }
    let mut figures = Vec::new();
    for share in shares(family) {
        figures.extend(over_length(family, share, palette)?);
    }
    figures.extend(over_tokens(family, palette)?);
    Ok(figures)
}

/// Groups that differ in the length of pre-training alone, families in order of appearance, lengths ascending.
pub(crate) fn families<'g, 'a>(groups: &'g [Group<'a>]) -> Vec<Vec<&'g Group<'a>>> {
    let mut families: Vec<Vec<&Group>> = Vec::new();
    let with_length = groups.iter().filter(|group| group.setting.length.is_some());
    for group in with_length.filter(|group| !group.cells.is_empty()) {
        let alike = families.iter_mut().find(|family| {
            family
                .first()
                .is_some_and(|first| group.differs_in_length(first))
        });
        match alike {
            Some(family) => family.push(group),
            None => families.push(vec![group]),
        }
    }
    for family in &mut families {
        family.sort_by_key(|group| group.setting.length);
    }
    families
}

/// CPT fractions that at least two lengths have, ascending.
fn shares(family: &[&Group]) -> Vec<f64> {
    let mut all: Vec<f64> = family.iter().flat_map(|group| group.places()).collect();
    all.sort_by(f64::total_cmp);
    let mut shares: Vec<f64> = all
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    shares.dedup();
    shares
}

fn length_of(setting: &Setting) -> f64 {
    setting.length.unwrap_or(0) as f64
}

/// Recipes of all lengths, in order of appearance.
fn recipes<'a>(family: &[&Group<'a>]) -> Vec<&'a str> {
    let mut recipes: Vec<&str> = Vec::new();
    for recipe in family.iter().flat_map(|group| group.recipes()) {
        if !recipes.contains(&recipe) {
            recipes.push(recipe);
        }
    }
    recipes
}

fn over_length(
    family: &[&Group],
    share: f64,
    palette: &Palette,
) -> Result<Option<Figure>, PlotError> {
    let lengths: Vec<f64> = family.iter().map(|g| length_of(g.setting)).collect();
    let lines = recipes(family).into_iter().enumerate().map(|(i, recipe)| {
        let points = family.iter().filter_map(|group| {
            Point::new(length_of(group.setting).ln(), &group.seeds(recipe, share))
        });
        Line {
            recipe,
            look: palette.look(Model::Upcycled(recipe)),
            beside: eta::beside(i),
            points: points.collect(),
        }
    });
    let what = format!("over the length of pre-training, CPT {}", percent(share));
    let name = format!("length_cpt{}", (100.0 * share).round());
    let heading = "tokens of pre-training (logarithmic)";
    draw_lines(
        family,
        lines,
        &lengths,
        palette,
        (&what, &name, heading),
        "",
    )
}

/// Every length's budgets at their tokens since the operator: curves that fall on one another say that what a recipe needs is
/// a number of steps, and not a share of pre-training.
fn over_tokens(family: &[&Group], palette: &Palette) -> Result<Option<Figure>, PlotError> {
    let tokens = |group: &Group, share: f64| share * length_of(group.setting);
    let mut places: Vec<f64> = family
        .iter()
        .flat_map(|group| group.places().into_iter().map(|share| tokens(group, share)))
        .collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let recipes = recipes(family);
    let lines = recipes.iter().enumerate().flat_map(|(i, &recipe)| {
        family.iter().map(move |group| {
            let places = group.places().into_iter();
            let points = places.filter_map(|share| {
                Point::new(tokens(group, share).ln(), &group.seeds(recipe, share))
            });
            Line {
                recipe,
                look: palette.look(Model::Upcycled(recipe)),
                beside: eta::beside(i),
                points: points.collect(),
            }
        })
    });
    let words = (
        "over the tokens since the operator",
        "length_tokens",
        "tokens since the operator (logarithmic)",
    );
    let note = " Lines of one recipe are its lengths of pre-training: where they fall on one another, a recipe needs a \
                number of steps and not a share of pre-training.";
    draw_lines(family, lines, &places, palette, words, note)
}

fn draw_lines<'a>(
    family: &[&Group<'a>],
    lines: impl Iterator<Item = Line<'a>>,
    places: &[f64],
    palette: &Palette,
    (what, name, heading): (&str, &str, &str),
    note: &str,
) -> Result<Option<Figure>, PlotError> {
    let lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
    let (Some(all), Some(first)) = (
        extent(lines.iter().flat_map(|line| line.values())),
        family.first(),
    ) else {
        return Ok(None);
    };
    let setting = first.setting;
    let title = format!("Gap closure {what}: {}", first.label_without_length());
    let mut models: Vec<Model> = Vec::new();
    for recipe in lines.iter().map(|line| line.recipe) {
        let model = Model::Upcycled(recipe);
        if !models.contains(&model) {
            models.push(model);
        }
    }
    let legend = legend(models, setting, palette);
    let y = eta::range(&all);
    let svg = draw(&title, &legend, 620, |sheet| {
        let panel = Panel::new(sheet, 120..WIDTH - 170, across(places), y.clone());
        x_axis(&panel, places, count, heading)?;
        eta::y_axis(&panel, setting)?;
        lines.iter().try_for_each(|line| line.draw(&panel))?;
        eta::draw_beyond(&panel, &lines)
    })?;
    let caption = format!(
        "Share of the loss gap between {} (0 %) and {} from scratch (100 %) that is closed, {what}.{}{note}{}",
        Model::FixedE.label(setting),
        Model::FixedMe.label(setting),
        eta::marks(&lines),
        eta::outside(&all, &y)
    );
    Ok(Some(Figure {
        kind: FigureKind::GapClosure,
        name: format!("{name}_{}", first.stem_without_length()),
        title,
        caption,
        svg,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn lengths_of_one_setting_are_a_family() {
        let results = sample::lengths();
        let groups = groups(&results);
        assert_eq!(groups.len(), 2);
        assert_ne!(groups[0].stem, groups[1].stem);
        assert!(groups[0].label.ends_with("1.02M tokens of pre-training"));
        let families = families(&groups);
        assert_eq!(families.len(), 1);
        let figures = figures(&families[0], &Palette::new(&results)).unwrap();
        let names: Vec<&str> = figures.iter().map(|f| f.name.as_str()).collect();
        let expected = [
            "length_cpt10_tiny_8x2_k2",
            "length_cpt25_tiny_8x2_k2",
            "length_cpt50_tiny_8x2_k2",
            "length_cpt100_tiny_8x2_k2",
            "length_tokens_tiny_8x2_k2",
        ];
        assert_eq!(names, expected);
        assert!(figures[0].svg.contains("1.02M") && figures[0].svg.contains("16.4M"));
    }

    #[test]
    fn one_length_has_no_such_figure() {
        let results = sample::results();
        assert!(families(&groups(&results)).is_empty());
        let mut results = sample::lengths();
        let first = results.cells[0].setting.length;
        results.cells.retain(|cell| cell.setting.length == first);
        results.curves.clear();
        results.routing.clear();
        let groups = groups(&results);
        let families = families(&groups);
        assert!(
            figures(&families[0], &Palette::new(&results))
                .unwrap()
                .is_empty()
        );
    }
}
