//! One colour and mark for each model, the same in every figure and table of a report.

use plotters::style::{BLACK, RGBColor};

use crate::model::Model;
use crate::results::Results;

/// Recipes whose look is the same in every report, in the order of the colours.
const KNOWN: [&str; 4] = ["paper", "exact", "uniform", "auto"];

/// The known recipes, then others in order of appearance; Okabe and Ito's colours, which colour-blind readers can tell
/// apart.
const COLORS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x88, 0x22, 0x55),
];

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

    /// Fixed-E is grey, Fixed-mE black; colours and marks of recipes repeat together only after 21 of them.
    pub(crate) fn look(&self, model: Model<'_>) -> Look {
        let (color, mark) = match model {
            Model::FixedE => (GREY, Mark::Square),
            Model::FixedMe => (BLACK, Mark::Square),
            Model::Upcycled(recipe) => {
                let index = self.recipes.iter().position(|r| *r == recipe);
                let index = index.unwrap_or(self.recipes.len());
                (COLORS[index % COLORS.len()], MARKS[index % MARKS.len()])
            }
        };
        Look { color, mark }
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
