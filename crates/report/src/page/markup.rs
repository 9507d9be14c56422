//! HTML that is escaped by construction, and tables made of it.

use std::fmt;

use plotters::style::RGBColor;

use crate::plot::palette::Look;

/// A piece of valid HTML.
#[derive(Debug, Clone, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Text; what HTML would take for markup is escaped.
    pub(crate) fn text(text: &str) -> Self {
        let mut html = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => html += "&amp;",
                '<' => html += "&lt;",
                '>' => html += "&gt;",
                '"' => html += "&quot;",
                '\'' => html += "&#39;",
                c => html.push(c),
            }
        }
        Self(html)
    }

    /// A name with the colour that it has in the figures.
    pub(crate) fn model(name: &str, look: Look) -> Self {
        let RGBColor(r, g, b) = look.color;
        let name = Self::text(name);
        Self(format!(
            r#"<span class="swatch" style="background:#{r:02x}{g:02x}{b:02x}"></span>{name}"#
        ))
    }

    /// Text that takes more lines rather than all of the width.
    pub(crate) fn wide(text: &str) -> Self {
        Self(format!(r#"<span class="wide">{}</span>"#, Self::text(text)))
    }

    /// A number that stands out, with a remark below it.
    pub(crate) fn strong_with_remark(text: &str, remark: &str) -> Self {
        let (text, remark) = (Self::text(text), Self::text(remark));
        Self(format!(
            "<strong>{text}</strong><br><small>{remark}</small>"
        ))
    }

    /// A number with a remark below it.
    pub(crate) fn with_remark(text: &str, remark: &str) -> Self {
        let (text, remark) = (Self::text(text), Self::text(remark));
        Self(format!("{text}<br><small>{remark}</small>"))
    }
}

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        Self::text(&text)
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

/// A table whose first columns name the rows.
pub(crate) struct Table {
    caption: String,
    head: Vec<Html>,
    /// How many columns name the row.
    names: usize,
    rows: Vec<Vec<Html>>,
}

impl Table {
    pub(crate) fn new<T: Into<Html>>(
        caption: impl Into<String>,
        names: usize,
        head: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            caption: caption.into(),
            head: head.into_iter().map(Into::into).collect(),
            names,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Html>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caption = Html::text(&self.caption);
        // A wide table scrolls by itself, also with the keyboard.
        writeln!(
            f,
            "<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n\
             <table>\n<caption>{caption}</caption>\n<thead><tr>"
        )?;
        for (column, head) in self.head.iter().enumerate() {
            let class = name_class(column < self.names);
            write!(f, "<th scope=\"col\"{class}>{head}</th>")?;
        }
        writeln!(f, "</tr></thead>\n<tbody>")?;
        for row in &self.rows {
            write!(f, "<tr>")?;
            for (column, cell) in row.iter().enumerate() {
                if column < self.names {
                    write!(f, "<th scope=\"row\"{}>{cell}</th>", name_class(true))?;
                } else {
                    write!(f, "<td>{cell}</td>")?;
                }
            }
            writeln!(f, "</tr>")?;
        }
        writeln!(f, "</tbody>\n</table>\n</div>")
    }
}

fn name_class(is_name: bool) -> &'static str {
    if is_name { " class=\"name\"" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let html = Html::text("<a href=\"x\" class='y'>&</a>").to_string();
        assert_eq!(
            html,
            "&lt;a href=&quot;x&quot; class=&#39;y&#39;&gt;&amp;&lt;/a&gt;"
        );
    }

    #[test]
    fn tables_have_scopes() {
        let mut table = Table::new("A & B", 1, ["name", "value"]);
        table.row(["a".into(), "1".into()]);
        let html = table.to_string();
        assert!(html.contains("<caption>A &amp; B</caption>"));
        assert!(html.contains("<th scope=\"col\">value</th>"));
        assert!(html.contains("<th scope=\"row\" class=\"name\">a</th><td>1</td>"));
    }
}
