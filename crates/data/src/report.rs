//! What was found in text files.

use std::path::PathBuf;

/// How the documents of a source are shared among the splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splitting {
    /// All of them are one split's.
    HeldOut,
    /// Each is cut into a part for every split, as was asked for.
    Cut,
    /// Each is cut, as there are too few.
    TooFew,
    /// Each is one split's.
    Whole,
    /// Each is one split's but for those of more bytes than this, which are cut.
    WholeUpTo(u64),
}

impl Splitting {
    /// Bytes of the longest document that may stay whole.
    pub(crate) fn longest_whole(self) -> u64 {
        match self {
            Splitting::HeldOut | Splitting::Cut | Splitting::TooFew => 0,
            Splitting::WholeUpTo(bytes) => bytes,
            Splitting::Whole => u64::MAX,
        }
    }
}

/// What was found in the files of a source of text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TextReport {
    /// The paths, folders and patterns as configured.
    pub paths: Vec<PathBuf>,
    /// The source's share of all tokens, from 0 to 1, where there is a mixture.
    pub share: Option<f64>,
    /// Files that were read.
    pub files: usize,
    /// All files of the data set of the hub that they are a part of; none for files of one's own.
    pub of_files: Option<usize>,
    /// Files that were not, as their names say nothing known of their contents.
    pub skipped: Vec<PathBuf>,
    /// Documents, without those that are blank.
    pub documents: u64,
    /// Rows that are null, which are skipped.
    pub nulls: u64,
    /// How documents are shared among the splits.
    pub splitting: Splitting,
    /// Tokens of each split, in the order of [`Split::ALL`](crate::Split::ALL).
    pub tokens: [u64; 4],
    /// What has changed since the same files were packed before.
    pub change: Option<TextChange>,
    /// The tokens that a tokenizer was to be trained to and those that it has, where the text gave no more.
    pub vocab: Option<[usize; 2]>,
}

/// Why files that were packed before are packed again, as other data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextChange {
    /// Their contents are others.
    Contents,
    /// Their text was read from another field or column.
    Column {
        /// That it was read from before.
        before: String,
        /// That it is read from now.
        now: String,
    },
}

impl TextReport {
    /// The paths, for messages.
    pub fn label(&self) -> String {
        let names = self.paths.iter().map(|path| path.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    /// How much is held of a data set of the hub, as a sentence; none for files of one's own.
    pub fn part(&self) -> Option<String> {
        let [pretrain, cpt, validation, test] = self.tokens;
        let all = self.of_files?;
        let rest = match all - self.files.min(all) {
            0 => "",
            _ => "; the others were not needed",
        };
        Some(format!(
            "of {} {} of {all} files are held, with {} documents: {pretrain} tokens for pre-training, {cpt} for CPT, {validation} for validation and {test} for testing{rest}",
            self.label(),
            self.files,
            self.documents
        ))
    }

    /// Which documents are cut, with parts in several splits; none if all are whole.
    pub fn cut_documents(&self) -> Option<String> {
        let label = self.label();
        let part = match self.of_files {
            Some(_) => "a tenth of what",
            None => "as many as",
        };
        match self.splitting {
            Splitting::HeldOut | Splitting::Whole => None,
            Splitting::Cut => Some(format!(
                "each document of {label} is cut into a part for every split, as was asked for"
            )),
            Splitting::TooFew => Some(format!(
                "the documents of {label} ({}) are too few to stay whole: each is cut into a part for every split",
                self.documents
            )),
            Splitting::WholeUpTo(bytes) => Some(format!(
                "documents of {label} with more than {bytes} bytes, {part} the smallest split has, are cut into a part for every split"
            )),
        }
    }

    /// What a user should know before training, as sentences.
    pub fn notes(&self) -> Vec<String> {
        let label = self.label();
        let mut notes: Vec<String> = self.part().into_iter().collect();
        match &self.change {
            Some(TextChange::Contents) => notes.push(format!(
                "{label} has changed since it was packed; it is packed again, and counts as other data"
            )),
            Some(TextChange::Column { before, now }) => notes.push(format!(
                "{label} was packed with the text of \"{before}\" before, and is packed with that of \"{now}\", which counts as other data"
            )),
            None => {}
        }
        if let Some([asked, found]) = self.vocab {
            notes.push(format!(
                "the text gives a tokenizer of {found} tokens and not the {asked} that were asked for: no other pair of tokens occurs twice"
            ));
        }
        if let Some(first) = self.skipped.first() {
            let others = match self.skipped.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            notes.push(format!(
                "skipped in {label}, as the kind of file is unknown: {}{others}",
                first.display()
            ));
        }
        if self.nulls > 0 {
            notes.push(format!(
                "rows that are null and so skipped in {label}: {}",
                self.nulls
            ));
        }
        // What was asked for is known.
        let is_news = self.splitting != Splitting::Cut;
        notes.extend(self.cut_documents().filter(|_| is_news));
        if let Some(share) = self.share {
            let [pretrain, cpt, ..] = self.tokens.map(|tokens| tokens as f64 / share);
            notes.push(format!(
                "{:.2} % of the tokens are from {label}; it is used up after {pretrain:.0} tokens of pre-training and {cpt:.0} of CPT, and then comes again in another order",
                100.0 * share
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_told() {
        let plain = TextReport {
            paths: vec!["a".into()],
            share: None,
            files: 1,
            of_files: None,
            skipped: Vec::new(),
            documents: 3,
            nulls: 0,
            splitting: Splitting::Whole,
            tokens: [500, 400, 50, 50],
            change: None,
            vocab: None,
        };
        assert!(plain.notes().is_empty());
        let report = TextReport {
            share: Some(0.25),
            of_files: Some(41),
            skipped: vec!["a/x.md".into(), "a/y.md".into()],
            nulls: 2,
            splitting: Splitting::WholeUpTo(20),
            change: Some(TextChange::Contents),
            vocab: Some([4096, 300]),
            ..plain
        };
        let notes = report.notes();
        assert_eq!(notes.len(), 7);
        for (note, part) in notes.iter().zip([
            "of a 1 of 41 files are held, with 3 documents: 500 tokens for pre-training",
            "a has changed since it was packed",
            "300 tokens and not the 4096",
            "a/x.md and 1 more",
            "skipped in a: 2",
            "with more than 20 bytes, a tenth of what the smallest split has",
            "25.00 % of the tokens are from a; it is used up after 2000 tokens of pre-training and 1600 of CPT",
        ]) {
            assert!(note.contains(part), "no {part:?} in {note:?}");
        }
        let columns = TextReport {
            change: Some(TextChange::Column {
                before: "text".into(),
                now: "body".into(),
            }),
            ..report
        };
        let note = columns.notes().remove(1);
        assert!(note.contains("\"text\" before"), "{note}");
    }
}
