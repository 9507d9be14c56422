//! The tables of `docs/results.md` are those that the kept rows give.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use upcycle_report::{markdown, read_csv};

/// Stands before a table that was made, with its rows and the recipe that others are compared with, if any.
const BEGIN: &str = "<!-- rows: ";
const END: &str = "<!-- end of rows -->";

/// A table of the log.
struct Table<'a> {
    rows: &'a str,
    less: Option<&'a str>,
    text: &'a str,
}

fn tables(page: &str) -> Vec<Table<'_>> {
    let parts = page.split(BEGIN).skip(1);
    let table = |part| {
        let (head, rest) = str::split_once(part, " -->\n").expect("a marker ends with -->");
        let (text, _) = rest.split_once(END).expect("a table ends with its marker");
        let (rows, less) = match head.split_once(" less ") {
            Some((rows, less)) => (rows, Some(less)),
            None => (head, None),
        };
        Table { rows, less, text }
    };
    parts.map(table).collect()
}

/// `REWRITE=1 cargo test --test results_log` makes the tables anew.
#[test]
fn every_table_follows_from_its_rows() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join("results.md");
    let page = fs::read_to_string(&path).unwrap();
    let (mut made, mut wrong) = (page.clone(), Vec::new());
    let tables = tables(&page);
    for Table { rows, less, text } in &tables {
        let csv = fs::read_to_string(docs.join(rows)).unwrap_or_else(|e| panic!("{rows}: {e}"));
        let results = read_csv(rows, &csv).unwrap();
        let expected = format!("{}\n", markdown(&results, *less).trim_end());
        if *text != expected {
            wrong.push(*rows);
            let head = less.map_or(String::new(), |less| format!(" less {less}"));
            let begin = format!("{BEGIN}{rows}{head} -->\n");
            made = made.replacen(
                &format!("{begin}{text}{END}"),
                &format!("{begin}{expected}{END}"),
                1,
            );
        }
    }
    if std::env::var_os("REWRITE").is_some() {
        fs::write(&path, made).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "not what their rows give: {wrong:?}");
    assert!(tables.len() >= 3, "the log has tables");
}
