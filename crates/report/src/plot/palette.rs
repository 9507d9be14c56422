//! One colour and mark for each model, the same in every figure and table of a report.

use plotters::style::{BLACK, RGBColor};

use crate::model::Model;
use crate::results::Results;

/// Recipes whose look is the same in every report, in the order of the colours.
const KNOWN: [&str; 4] = ["paper", "exact", "uniform", "auto"];

/// The known recipes, then others in order of appearance: Okabe and Ito's colours, which colour-blind readers can tell
/// apart, then seven more, whose lines are dashed so that nobody has to.
const COLORS: [RGBColor; 14] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x88, 0x22, 0x55),
    RGBColor(0x8C, 0x8A, 0x1F),
    RGBColor(0x6F, 0x4C, 0xB0),
    RGBColor(0xB5, 0x65, 0x4A),
    RGBColor(0x2C, 0x7F, 0x6E),
    RGBColor(0x9B, 0xB8, 0x2E),
    RGBColor(0x74, 0x86, 0xA8),
    RGBColor(0xE0, 0x62, 0x7E),
];

/// Lengths of dashes and gaps; the first lines are solid. As many recipes share one as can be told apart by colour.
const DASHES: [Option<(i32, i32)>; 4] = [None, Some((22, 10)), Some((6, 8)), Some((44, 12))];
const RECIPES_A_DASH: usize = 7;

const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);

/// The shape of a mark, so that no figure depends on colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Circle,
    Diamond,
    Square,
    /// For values above the frame.
    Up,
    /// For values below the frame.
    Down,
}

const MARKS: [Mark; 3] = [Mark::Circle, Mark::Diamond, Mark::Square];

/// How a model looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) color: RGBColor,
    pub(crate) mark: Mark,
    /// Lengths of the dashes and gaps of its lines; none for solid ones.
    pub(crate) dash: Option<(i32, i32)>,
}

/// The looks of all models of a sweep.
pub(crate) struct Palette<'a> {
    /// The known recipes and those of the sweep.
    recipes: Vec<&'a str>,
}

impl<'a> Palette<'a> {
    pub(crate) fn new(results: &'a Results) -> Self {
        let cells = results.cells.iter().map(|c| c.recipe.as_str());
        let curves = results.curves.iter().filter_map(|c| c.recipe.as_deref());
        let routing = results.routing.iter().filter_map(|r| r.recipe.as_deref());
        let mut recipes: Vec<&str> = KNOWN.to_vec();
        for recipe in cells.chain(curves).chain(routing) {
            if !recipes.contains(&recipe) {
                recipes.push(recipe);
            }
        }
        Self { recipes }
    }

    /// Fixed-E is grey, Fixed-mE black. No colour is there twice among 14 recipes, no dash and colour among 28, and no dash,
    /// colour and mark among 84.
    pub(crate) fn look(&self, model: Model<'_>) -> Look {
        let fixed = |color| Look {
            color,
            mark: Mark::Square,
            dash: None,
        };
        match model {
            Model::FixedE => fixed(GREY),
            Model::FixedMe => fixed(BLACK),
            Model::Upcycled(recipe) => {
                let index = self.recipes.iter().position(|r| *r == recipe);
                let index = index.unwrap_or(self.recipes.len());
                Look {
                    color: COLORS[index % COLORS.len()],
                    mark: MARKS[index % MARKS.len()],
                    dash: DASHES[index / RECIPES_A_DASH % DASHES.len()],
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn known_recipes_look_the_same_in_every_report() {
        let (empty, results) = (sample::empty(), sample::results());
        let (without, with) = (Palette::new(&empty), Palette::new(&results));
        let colors = [(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)];
        for (recipe, (r, g, b)) in KNOWN.into_iter().zip(colors) {
            let look = with.look(Model::Upcycled(recipe));
            assert_eq!(look.color, RGBColor(r, g, b));
            assert_eq!(look, without.look(Model::Upcycled(recipe)));
        }
    }

    #[test]
    fn many_recipes_look_different() {
        let names: Vec<String> = (0..84).map(|i| format!("recipe {i}")).collect();
        let palette = Palette {
            recipes: names.iter().map(String::as_str).collect(),
        };
        let looks: Vec<Look> = names
            .iter()
            .map(|name| palette.look(Model::Upcycled(name)))
            .collect();
        for (i, a) in looks.iter().enumerate() {
            for (j, b) in looks[..i].iter().enumerate() {
                assert_ne!(a, b, "{i} and {j}");
                assert!(i >= 14 || a.color != b.color, "{i} and {j}");
                assert!(i >= 28 || (a.color, a.dash) != (b.color, b.dash));
            }
        }
        assert!(looks[..7].iter().all(|look| look.dash.is_none()));
    }

    #[test]
    fn models_look_different() {
        let results = sample::results();
        let palette = Palette::new(&results);
        let models = [
            Model::FixedE,
            Model::Upcycled("paper"),
            Model::Upcycled("distinct"),
            Model::FixedMe,
        ];
        for (i, a) in models.iter().enumerate() {
            for b in &models[..i] {
                assert_ne!(palette.look(*a), palette.look(*b));
            }
        }
    }
}
