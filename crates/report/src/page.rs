//! The page: sections in the order in which a reader asks.

mod claims;
mod comparisons;
mod cost_tables;
mod findings;
mod loss_tables;
mod markup;
mod paper;
mod published;
mod routing_tables;

use std::fmt::Write;

use claims::claims;
use comparisons::{leads, trends};
use cost_tables::costs;
use findings::findings;
use loss_tables::{cells, gap_closures, jumps, losses};
use markup::{Html, Table};
use routing_tables::routing;

use crate::error::ReportError;
use crate::group::{Group, groups};
use crate::number::count;
use crate::plot::palette::Palette;
use crate::plot::{Figure, FigureKind, figures};
use crate::results::Results;

const STYLE: &str = include_str!("page/page.css");

/// A heading, the anchor that leads to it, and what stands below it.
struct Section {
    anchor: &'static str,
    heading: &'static str,
    body: String,
}

/// The report as one HTML page that needs nothing else: figures and styles are inside.
///
/// # Errors
///
/// When a figure cannot be drawn.
pub fn html(results: &Results) -> Result<String, ReportError> {
    Ok(page(results, &figures(results)?))
}

/// The whole page.
pub(crate) fn page(results: &Results, figures: &[Figure]) -> String {
    let title = Html::text(&format!("Expert upcycling: {}", results.name));
    let sections = sections(results, figures);
    let links: String = sections
        .iter()
        .map(|s| format!("<li><a href=\"#{}\">{}</a></li>\n", s.anchor, s.heading))
        .collect();
    let body: String = sections
        .iter()
        .map(|s| {
            let Section {
                anchor,
                heading,
                body,
            } = s;
            format!("<section id=\"{anchor}\">\n<h2>{heading}</h2>\n{body}</section>\n")
        })
        .collect();
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{summary}</header>
<nav aria-label="Sections"><ul>
{links}</ul></nav>
<main>
{body}</main>
<footer>{footer}</footer>
</body>
</html>
"#,
        summary = summary(results),
        footer = footer(results),
    )
}

/// The findings, a paragraph for each group.
fn summary(results: &Results) -> String {
    let groups = groups(results);
    let found: Vec<(&Group, String)> = groups
        .iter()
        .filter_map(|group| Some((group, findings(group)?)))
        .collect();
    if found.is_empty() {
        return "<p class=\"summary\">No cell of this sweep has finished yet.</p>\n".to_owned();
    }
    let paragraph = |(group, text): &(&Group, String)| {
        let (label, text) = (Html::text(&group.label), Html::text(text));
        format!("<p class=\"summary\"><strong>{label}.</strong> {text}</p>\n")
    };
    let paragraphs: String = found.iter().map(paragraph).collect();
    paragraphs + &shrunk(results)
}

/// What the sweep changed of its scales.
fn shrunk(results: &Results) -> String {
    let overrides = &results.overrides;
    let changes: Vec<String> = [
        overrides
            .tokens
            .map(|tokens| format!("{} tokens of pre-training", count(tokens as f64))),
        overrides
            .vocab
            .map(|vocab| format!("a vocabulary of {vocab}")),
        overrides
            .context
            .map(|context| format!("a context of {context} tokens")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if changes.is_empty() {
        return String::new();
    }
    let text = format!(
        "The scales are smaller or larger here than by their names: {}.",
        changes.join(", ")
    );
    format!("<p class=\"summary\">{}</p>\n", Html::text(&text))
}

fn sections(results: &Results, figures: &[Figure]) -> Vec<Section> {
    let palette = Palette::new(results);
    let groups = groups(results);
    let finished: Vec<&Group> = groups.iter().filter(|g| !g.cells.is_empty()).collect();
    let tables = |make: fn(&Group, &Palette) -> Table| -> String {
        let tables = finished
            .iter()
            .map(|group| make(group, &palette).to_string());
        tables.collect()
    };
    let some = |make: &dyn Fn(&Group) -> Option<Table>| -> String {
        let tables = groups.iter().filter_map(make);
        tables.map(|table| table.to_string()).collect()
    };
    let all = [
        Section {
            anchor: "gap-closure",
            heading: "Gap closure",
            body: pictures(figures, FigureKind::GapClosure) + &tables(gap_closures),
        },
        Section {
            anchor: "comparisons",
            heading: "What can be told apart",
            body: some(&|group| leads(group, &palette)) + &some(&|group| trends(group, &palette)),
        },
        Section {
            anchor: "claims",
            heading: "Claims, held or not",
            body: noted(some(&|group| claims(group)), claims::NOTE),
        },
        Section {
            anchor: "losses",
            heading: "Losses",
            body: tables(losses) + &pictures(figures, FigureKind::LossCurves),
        },
        Section {
            anchor: "operator",
            heading: "What the operator does to the loss",
            body: tables(jumps),
        },
        Section {
            anchor: "cost",
            heading: "Cost",
            body: noted(
                pictures(figures, FigureKind::Pareto) + &tables(costs),
                COST_NOTE,
            ),
        },
        Section {
            anchor: "routing",
            heading: "Routing",
            body: noted(
                some(&|group| routing(group, &palette))
                    + &pictures(figures, FigureKind::RoutingLoad)
                    + &pictures(figures, FigureKind::Twins),
                ROUTING_NOTE,
            ),
        },
        Section {
            anchor: "paper",
            heading: "The paper’s figures beside ours",
            body: beside_the_paper(&groups, &palette),
        },
        Section {
            anchor: "seeds",
            heading: "Single seeds",
            body: folded("All rows", tables(cells)),
        },
        Section {
            anchor: "reproduce",
            heading: "How to reproduce",
            body: reproduction(results),
        },
    ];
    all.into_iter().filter(|s| !s.body.is_empty()).collect()
}

const COST_NOTE: &str = "Upcycled counts pre-training, the operator and CPT. Each run is counted as if it were made \
    alone; a sweep shares stages between runs and pays less. Time is wall-clock time, measured with other stages running \
    beside wherever the sweep ran several at once: read it as a hint, and FLOPs as the cost.";

const ROUTING_NOTE: &str = "Max violation: largest load of an expert over the mean load, less 1. Normalized entropy: 1 \
    is a uniform load. Distinct sources: different pre-training experts among the K that a token chose. Twin \
    co-selection: share of tokens that chose two replicas of one source.";

fn pictures(figures: &[Figure], kind: FigureKind) -> String {
    let chosen = figures.iter().filter(|figure| figure.kind == kind);
    let picture = |figure: &Figure| {
        let (svg, caption) = (&figure.svg, Html::text(&figure.caption));
        format!("<figure>\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n")
    };
    chosen.map(picture).collect()
}

/// The body with a note below it, unless there is nothing to note.
fn noted(body: String, note: &str) -> String {
    if body.is_empty() {
        return body;
    }
    format!("{body}<p class=\"note\">{}</p>\n", Html::text(note))
}

fn folded(summary: &str, body: String) -> String {
    if body.is_empty() {
        return body;
    }
    format!("<details>\n<summary>{summary}</summary>\n{body}</details>\n")
}

fn beside_the_paper(groups: &[Group], palette: &Palette) -> String {
    let tables = paper::tables(groups, palette).into_iter();
    noted(
        tables.map(|table| table.to_string()).collect(),
        paper::CAVEAT,
    )
}

fn reproduction(results: &Results) -> String {
    let environment = &results.environment;
    let facts = [
        ("burn-upcycle", environment.version.clone()),
        ("backend", environment.backend.clone()),
        ("processor", environment.processor.clone()),
        ("threads", environment.threads.to_string()),
        ("system", environment.system.clone()),
        ("date", environment.date.clone()),
    ];
    let mut body = format!(
        "<pre><code>{}</code></pre>\n<dl>\n",
        Html::text(&results.command)
    );
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        // Writing to a string cannot fail.
        let _ = writeln!(body, "<dt>{name}</dt><dd>{}</dd>", Html::text(fact));
    }
    let config = format!("<pre><code>{}</code></pre>\n", Html::text(&results.config));
    body + "</dl>\n" + &folded("Full configuration", config)
}

fn footer(results: &Results) -> Html {
    let environment = &results.environment;
    Html::text(&format!(
        "Made by burn-upcycle {} from {} comparisons, {}.",
        environment.version,
        results.cells.len(),
        environment.date
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::figures;
    use crate::sample;

    fn html(results: &Results) -> String {
        page(results, &figures(results).unwrap())
    }

    #[test]
    fn has_every_part() {
        let page = html(&sample::two_top_k());
        assert_eq!(page.matches("<figure>").count(), 10);
        assert_eq!(page.matches("<figcaption>").count(), 10);
        assert_eq!(page.matches("<section").count(), 10);
        assert_eq!(page.matches("<h1>").count(), 1);
        for part in ["98.0", "<details>", "cargo run --release --bin sweep"] {
            assert!(page.contains(part), "{part} is missing");
        }
    }

    #[test]
    fn tags_are_closed() {
        for results in [sample::empty(), sample::results(), sample::odd()] {
            let page = html(&results);
            for tag in [
                "section", "table", "figure", "details", "tr", "th", "td", "div", "svg", "p",
            ] {
                let opened = page.matches(&format!("<{tag}>")).count()
                    + page.matches(&format!("<{tag} ")).count();
                assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
            }
        }
    }

    #[test]
    fn needs_no_network_and_no_script() {
        let page = html(&sample::odd());
        for forbidden in ["<script", "<link", "<img", "url(", "@import", "src="] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let foreign = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;co&quot;, inc"));
    }

    #[test]
    fn shrunk_scales_are_told() {
        let mut results = sample::results();
        assert!(!html(&results).contains("by their names"));
        results.overrides.tokens = Some(200_000);
        results.overrides.context = Some(32);
        let page = html(&results);
        assert!(page.contains("names: 200K tokens of pre-training, a context of 32 tokens."));
    }

    #[test]
    fn nothing_finished_is_said() {
        let page = html(&sample::empty());
        assert!(page.contains("No cell of this sweep has finished yet."));
        assert!(!page.contains("id=\"gap-closure\""));
    }
}
