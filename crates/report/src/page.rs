//! The page: sections in the order in which a reader asks.

mod claims;
pub(crate) mod comparisons;
mod cost_tables;
mod findings;
mod loss_tables;
mod markup;
mod paper;
mod published;
mod routing_tables;
mod summary;
mod task_tables;

use claims::claims;
use comparisons::{leads, loss_differences, trends};
use cost_tables::costs;
use loss_tables::{cells, gap_closures, jumps, losses, test_gap_closures};
use markup::Table;
use maud::{DOCTYPE, Markup, PreEscaped, html};
pub use published::paper_gpu_hours;
use routing_tables::routing;
use summary::summary;
use task_tables::tasks;

use crate::error::ReportError;
use crate::group::{Group, groups};
use crate::plot::palette::Palette;
use crate::plot::{Figure, FigureKind, figures};
use crate::results::Results;

const STYLE: &str = include_str!("page/page.css");

/// The report as one HTML page that needs nothing else: figures and styles are inside.
///
/// # Errors
///
/// When a figure cannot be drawn.
pub fn html(results: &Results) -> Result<String, ReportError> {
    Ok(page(results, &figures(results)?).into_string())
}

/// A heading, the anchor that leads to it, and what stands below it.
struct Section {
    anchor: &'static str,
    heading: &'static str,
    body: Markup,
}

/// The whole page.
pub(crate) fn page(results: &Results, figures: &[Figure]) -> Markup {
    let title = format!("Expert upcycling: {}", results.name);
    let sections = sections(results, figures);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    (summary(results))
                }
                nav aria-label="Sections" {
                    ul {
                        @for section in &sections {
                            li { a href={ "#" (section.anchor) } { (section.heading) } }
                        }
                    }
                }
                main {
                    @for section in &sections {
                        section id=(section.anchor) {
                            h2 { (section.heading) }
                            (section.body)
                        }
                    }
                }
                footer { (footer(results)) }
            }
        }
    }
}

/// The sections that have something to show.
fn sections(results: &Results, figures: &[Figure]) -> Vec<Section> {
    let palette = Palette::new(results);
    let groups = groups(results);
    let finished: Vec<&Group> = groups.iter().filter(|g| !g.cells.is_empty()).collect();
    let tables = |make: fn(&Group, &Palette) -> Table| {
        html! { @for group in &finished { (make(group, &palette)) } }
    };
    let some = |make: &dyn Fn(&Group) -> Option<Table>| {
        html! { @for table in groups.iter().filter_map(make) { (table) } }
    };
    let pictures = |kind: FigureKind| pictures(figures, kind);
    let all = [
        Section {
            anchor: "gap-closure",
            heading: "Gap closure",
            body: html! {
                (pictures(FigureKind::GapClosure))
                (tables(gap_closures))
                (some(&|group| test_gap_closures(group, &palette)))
            },
        },
        Section {
            anchor: "comparisons",
            heading: "What can be told apart",
            body: noted(
                html! {
                    (some(&|group| loss_differences(group, &palette)))
                    (some(&|group| leads(group, &palette)))
                    (some(&|group| trends(group, &palette)))
                },
                comparisons::NOTE,
            ),
        },
        Section {
            anchor: "claims",
            heading: "Claims, held or not",
            body: noted(some(&claims), claims::NOTE),
        },
        Section {
            anchor: "losses",
            heading: "Losses",
            body: html! { (tables(losses)) (pictures(FigureKind::LossCurves)) },
        },
        Section {
            anchor: "tasks",
            heading: "Downstream tasks",
            body: noted(
                html! { @for table in tasks(results, &palette) { (table) } },
                task_tables::NOTE,
            ),
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
                html! { (pictures(FigureKind::Pareto)) (tables(costs)) },
                COST_NOTE,
            ),
        },
        Section {
            anchor: "routing",
            heading: "Routing",
            body: noted(
                html! {
                    (some(&|group| routing(group, &palette)))
                    (pictures(FigureKind::RoutingLoad))
                    (pictures(FigureKind::Twins))
                },
                ROUTING_NOTE,
            ),
        },
        Section {
            anchor: "paper",
            heading: "The paper’s figures beside ours",
            body: noted(
                html! { @for table in paper::tables(&groups, &palette) { (table) } },
                paper::CAVEAT,
            ),
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
    let shown = |section: &Section| !section.body.0.is_empty();
    all.into_iter().filter(shown).collect()
}

const COST_NOTE: &str = "Upcycled counts pre-training, the operator and CPT. Each run is counted as if it were made \
    alone; a sweep shares stages between runs and pays less. Time is wall-clock time, measured with other stages running \
    beside wherever the sweep ran several at once: read it as a hint, and FLOPs as the cost.";

const ROUTING_NOTE: &str = "Max violation: largest load of an expert over the mean load, less 1. Normalized entropy: 1 \
    is a uniform load. Distinct sources: different pre-training experts among the K that a token chose. Twin \
    co-selection: share of tokens that chose two replicas of one source.";

fn pictures(figures: &[Figure], kind: FigureKind) -> Markup {
    html! {
        @for figure in figures.iter().filter(|figure| figure.kind == kind) {
            figure {
                // On a narrow screen a picture scrolls by itself, also with the keyboard.
                div.plot role="region" tabindex="0" aria-label=(figure.title) {
                    (PreEscaped(&figure.svg))
                }
                figcaption { (figure.caption) }
            }
        }
    }
}

/// The body with a note below it, unless there is nothing to note.
fn noted(body: Markup, note: &str) -> Markup {
    html! {
        (body)
        @if !body.0.is_empty() {
            p.note { (note) }
        }
    }
}

/// The body behind a line that opens it, unless there is nothing to open.
fn folded(summary: &str, body: Markup) -> Markup {
    html! {
        @if !body.0.is_empty() {
            details {
                summary { (summary) }
                (body)
            }
        }
    }
}

fn reproduction(results: &Results) -> Markup {
    let environment = &results.environment;
    let facts = [
        ("burn-upcycle", &environment.version),
        ("backend", &environment.backend),
        ("kernels", &environment.kernels.clone().unwrap_or_default()),
        ("processor", &environment.processor),
        ("threads", &environment.threads.to_string()),
        ("system", &environment.system),
        ("date", &environment.date),
    ];
    html! {
        pre { code { (reproduce(results)) } }
        dl {
            @for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
                dt { (name) }
                dd { (fact) }
            }
        }
        (folded("Full configuration", html! { pre { code { (results.config) } } }))
    }
}

/// The command line, below a line on what ran it.
fn reproduce(results: &Results) -> String {
    let environment = &results.environment;
    let commit = environment.commit.as_ref();
    let program = environment.program.as_ref();
    let known = [
        commit.map(|commit| format!(", commit {commit}")),
        program.map(|program| format!(", program {program}")),
    ];
    let known: String = known.into_iter().flatten().collect();
    match known.is_empty() {
        true => results.command.clone(),
        false => format!(
            "# burn-upcycle {}{known}\n{}",
            environment.version, results.command
        ),
    }
}

fn footer(results: &Results) -> String {
    let environment = &results.environment;
    format!(
        "Made by burn-upcycle {} from {} comparisons, {}.",
        environment.version,
        results.cells.len(),
        environment.date
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn html(results: &Results) -> String {
        super::html(results).unwrap()
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
    fn what_ran_is_told_where_it_is_known() {
        let mut results = sample::results();
        let told = "# burn-upcycle 0.1.0, commit 0123456789ab, program sweep (cpu, hub)\ncargo run";
        assert!(html(&results).contains(told));
        results.environment.program = None;
        assert!(html(&results).contains("# burn-upcycle 0.1.0, commit 0123456789ab\ncargo run"));
        results.environment.commit = None;
        assert!(!html(&results).contains("# burn-upcycle"));
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
        assert!(page.contains("names here: 200k tokens of pre-training, a context of 32 tokens."));
    }

    #[test]
    fn recipes_of_unknown_origin_are_told() {
        let mut results = sample::results();
        let page = html(&results);
        assert!(!page.contains("older version") && page.contains("Lead in η over paper"));
        results.recipes.clear();
        results.cells.reverse();
        let page = html(&results);
        assert!(page.contains("do not say which recipes are the paper’s"));
        assert!(page.contains("Lead in η over distinct") && !page.contains("η over paper"));
    }

    #[test]
    fn nothing_finished_is_said() {
        let page = html(&sample::empty());
        assert!(page.contains("No cell of this sweep has finished yet."));
        assert!(!page.contains("id=\"gap-closure\""));
    }
}
