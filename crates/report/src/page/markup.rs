//! Pieces that several sections of the page are made of.

use maud::{Markup, Render, html};
use plotters::style::RGBColor;

use crate::model::Model;
use crate::plot::palette::{Look, Mark, Palette};

/// Text as it stands; what HTML would take for markup is escaped.
pub(crate) fn text(text: impl Render) -> Markup {
    text.render()
}

/// A name with the colour and the mark that it has in the figures.
pub(crate) fn swatched(name: &str, look: Look) -> Markup {
    let RGBColor(r, g, b) = look.color;
    let shape = match look.mark {
        Mark::Circle => "circle",
        Mark::Diamond => "diamond",
        Mark::Square | Mark::Up | Mark::Down => "square",
    };
    html! {
        span.swatch.(shape) style=(format!("background:#{r:02x}{g:02x}{b:02x}")) {}
        (name)
    }
}

/// The name of a recipe with its colour.
pub(crate) fn recipe(name: &str, palette: &Palette) -> Markup {
    swatched(name, palette.look(Model::Upcycled(name)))
}

/// Text that takes more lines rather than all of the width.
pub(crate) fn wide(text: &str) -> Markup {
    html! { span.wide { (text) } }
}

/// A number, in bold where it is the best of its column by more than chance.
pub(crate) fn marked(number: impl Render, is_best: bool) -> Markup {
    match is_best {
        true => html! { strong { (number) } },
        false => number.render(),
    }
}

/// A number with a remark below it.
pub(crate) fn with_remark(number: impl Render, remark: &str) -> Markup {
    html! { (number) br; small { (remark) } }
}

/// A table whose first columns name the rows.
pub(crate) struct Table {
    caption: String,
    head: Vec<Markup>,
    /// How many columns name the row.
    names: usize,
    rows: Vec<Vec<Markup>>,
}

impl Table {
    pub(crate) fn new(
        caption: impl Into<String>,
        names: usize,
        head: impl IntoIterator<Item = impl Render>,
    ) -> Self {
        Self {
            caption: caption.into(),
            head: head.into_iter().map(text).collect(),
            names,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Markup>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Render for Table {
    fn render(&self) -> Markup {
        let class = |column: usize| (column < self.names).then_some("name");
        html! {
            // A wide table scrolls by itself, also with the keyboard.
            div.table role="region" tabindex="0" aria-label=(self.caption) {
                table {
                    caption { (self.caption) }
                    thead {
                        tr {
                            @for (column, head) in self.head.iter().enumerate() {
                                th scope="col" class=[class(column)] { (head) }
                            }
                        }
                    }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for (column, cell) in row.iter().enumerate() {
                                    @if let Some(class) = class(column) {
                                        th scope="row" class=(class) { (cell) }
                                    } @else {
                                        td { (cell) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let html = text("<a href=\"x\">&</a>").into_string();
        assert_eq!(html, "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;");
    }

    #[test]
    fn tables_have_scopes() {
        let mut table = Table::new("A & B", 1, ["name", "value"]);
        table.row([text("a"), text("1")]);
        let html = table.render().into_string();
        assert!(html.contains("<caption>A &amp; B</caption>"));
        assert!(html.contains("<th scope=\"col\">value</th>"));
        assert!(html.contains("<th scope=\"row\" class=\"name\">a</th><td>1</td>"));
    }
}
