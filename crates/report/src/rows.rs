//! Rows of a `results.csv`, read back: what is kept of a sweep in a repository, and enough for every table of figures.

use std::str::FromStr;

use csv::{Reader, StringRecord};

use crate::error::ReportError;
use crate::results::{Cell, Results, Setting};

/// The cells of a CSV file as [`csv`](crate::csv) writes it, also by older versions: columns that these did not have are
/// nothing. Curves, routing and the sweep's configuration are not in it.
///
/// # Errors
/// The first line that has no value, or another kind of value, in a column that every version has.
pub fn read_csv(name: &str, text: &str) -> Result<Results, ReportError> {
    let mut reader = Reader::from_reader(text.as_bytes());
    let fail = |error: csv::Error| ReportError::Rows(error.to_string());
    let header = reader.headers().map_err(fail)?.clone();
    let mut results = Results {
        name: name.to_owned(),
        ..Results::default()
    };
    for (index, record) in reader.records().enumerate() {
        let row = Row {
            header: &header,
            record: record.map_err(fail)?,
            line: index + 2,
        };
        results.cells.push(row.cell()?);
    }
    Ok(results)
}

struct Row<'a> {
    header: &'a StringRecord,
    record: StringRecord,
    /// In the file, from 1.
    line: usize,
}

impl Row<'_> {
    fn cell(&self) -> Result<Cell, ReportError> {
        Ok(Cell {
            setting: Setting {
                scale: self.value("scale")?,
                data: self.value("data")?,
                protocol: self.value("protocol")?,
                experts: self.value("experts")?,
                multiplier: self.value("multiplier")?,
                target_experts: self.value("target_experts")?,
                top_k: self.value("top_k")?,
                cpt_fraction: self.value("cpt_fraction")?,
                transition: self.optional("transition")?,
                length: self.optional("length")?,
                cpt_lr: self.optional("cpt_lr")?,
                grows: self.optional("grows")?,
            },
            recipe: self.value("recipe")?,
            seed: self.value("seed")?,
            backend: self.value("backend")?,
            kernels: self.optional("kernels")?,
            pretrain_tokens: self.value("pretrain_tokens")?,
            cpt_tokens: self.value("cpt_tokens")?,
            loss_fixed_e: self.value("loss_fixed_e")?,
            loss_upcycled: self.value("loss_upcycled")?,
            loss_fixed_me: self.value("loss_fixed_me")?,
            test_loss_fixed_e: self.optional("test_loss_fixed_e")?,
            test_loss_upcycled: self.optional("test_loss_upcycled")?,
            test_loss_fixed_me: self.optional("test_loss_fixed_me")?,
            loss_before: self.value("loss_before")?,
            loss_after: self.value("loss_after")?,
            logit_difference: self.value("logit_difference")?,
            largest_logit_difference: self.value("largest_logit_difference")?,
            changed_sources: self.value("changed_sources")?,
            twin_coselection: self.value("twin_coselection")?,
            gap_closure: self.optional("gap_closure")?,
            wall_seconds_fixed_e: self.value("wall_seconds_fixed_e")?,
            wall_seconds: self.value("wall_seconds")?,
            wall_seconds_fixed_me: self.value("wall_seconds_fixed_me")?,
            train_flops_fixed_e: self.value("train_flops_fixed_e")?,
            train_flops: self.value("train_flops")?,
            train_flops_fixed_me: self.value("train_flops_fixed_me")?,
        })
    }

    fn value<T: FromStr>(&self, column: &str) -> Result<T, ReportError> {
        let missing = || ReportError::Rows(format!("line {} has no `{column}`", self.line));
        self.optional(column)?.ok_or_else(missing)
    }

    fn optional<T: FromStr>(&self, column: &str) -> Result<Option<T>, ReportError> {
        let place = self.header.iter().position(|name| name == column);
        let field = place.and_then(|place| self.record.get(place));
        let Some(text) = field.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let odd = |_| {
            let line = self.line;
            ReportError::Rows(format!("line {line} has a `{column}` of `{text}`"))
        };
        text.parse().map(Some).map_err(odd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv;
    use crate::sample;

    #[test]
    fn rows_come_back_as_they_were() {
        for results in [sample::results(), sample::lengths()] {
            let text = csv(&results);
            let read = read_csv("again", &text).unwrap();
            assert_eq!(read.cells.len(), results.cells.len());
            assert_eq!(csv(&read), text);
        }
    }

    #[test]
    fn older_files_have_no_test_split() {
        let text = csv(&sample::results());
        let older: String = text
            .lines()
            .map(|line| line.rsplitn(8, ',').last().unwrap_or(line).to_owned() + "\n")
            .collect();
        let read = read_csv("older", &older).unwrap();
        assert!(
            read.cells
                .iter()
                .all(|cell| cell.test_loss_upcycled.is_none())
        );
    }

    #[test]
    fn errors_name_line_and_column() {
        let text = csv(&sample::results());
        let error = read_csv("x", &text.replacen("tiny,flex", ",flex", 1)).unwrap_err();
        assert_eq!(error.to_string(), "line 2 has no `scale`");
        let error = read_csv("x", &text.replacen(",8,2,16,", ",8,two,16,", 1)).unwrap_err();
        assert_eq!(error.to_string(), "line 2 has a `multiplier` of `two`");
        assert!(read_csv("x", "scale\n\"a").is_err());
    }
}
