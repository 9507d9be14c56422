//! Corpora that teach one thing each, and the questions that ask for it.

mod arithmetic;
mod knowledge;
mod lookup;
mod words;

use rand_chacha::ChaCha8Rng;
use upcycle_digest::Digest;

use self::{
    arithmetic::Arithmetic,
    knowledge::Knowledge,
    lookup::Lookup,
    words::{SEPARATOR, Words},
};
use crate::{
    Batch, DataError, Split,
    random::{below, shuffle},
    skill_config::{ArithmeticConfig, KnowledgeConfig, LookupConfig},
};

/// Answers to choose from.
const CHOICES: usize = 4;

/// A question with answers to choose from, of which one is right. Who guesses is right once in
/// [`choices`](Self::choices) times exactly, as the place of the right one is uniformly random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What comes before the answer.
    pub context: String,
    /// The answers, all different.
    pub choices: Vec<String>,
    /// The place of the right one among them, from 0.
    pub answer: usize,
}

/// What can be learned from a corpus, in ids of words.
trait Skill: Send + Sync {
    fn words(&self) -> &Words;

    /// Adds a random document of a split, without the separator behind it.
    fn add_document(&self, split: Split, rng: &mut ChaCha8Rng, tokens: &mut Vec<u32>);

    /// Context, right answer and all wrong ones that may stand beside it, at least three; none if
    /// there are fewer questions.
    fn question(&self, index: u64, rng: &mut ChaCha8Rng) -> Option<(Vec<u32>, u32, Vec<u32>)>;
}

/// The documents of a skill, generated on the fly.
///
/// A row of a split is generated from the corpus seed, the split, the batch seed and the row's
/// number, and so does not depend on how rows are grouped into batches.
pub(crate) struct SkillCorpus {
    skill: Box<dyn Skill>,
    name: &'static str,
    fingerprint: String,
}

impl SkillCorpus {
    pub(crate) fn knowledge(config: &KnowledgeConfig) -> Result<SkillCorpus, DataError> {
        config.check()?;
        let sizes = [config.persons as u64, config.seed];
        let skill = Box::new(Knowledge::new(config));
        Ok(SkillCorpus::new(skill, "knowledge", &sizes))
    }

    pub(crate) fn arithmetic(config: &ArithmeticConfig) -> Result<SkillCorpus, DataError> {
        config.check()?;
        let sizes = [config.modulus as u64, config.seed];
        let skill = Box::new(Arithmetic::new(config));
        Ok(SkillCorpus::new(skill, "arithmetic", &sizes))
    }

    pub(crate) fn lookup(config: &LookupConfig) -> Result<SkillCorpus, DataError> {
        config.check()?;
        let sizes = [config.hops as u64, config.symbols as u64, config.seed];
        let skill = Box::new(Lookup::new(config));
        Ok(SkillCorpus::new(skill, "lookup", &sizes))
    }

    fn new(skill: Box<dyn Skill>, name: &'static str, sizes: &[u64]) -> SkillCorpus {
        let mut digest = Digest::new("upcycle-data skill corpus 1");
        digest.bytes(name.as_bytes());
        for &size in sizes {
            digest.number(size);
        }
        SkillCorpus {
            skill,
            name,
            fingerprint: digest.hex(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.skill.words().len()
    }

    pub(crate) fn tokenizer_json(&self) -> String {
        self.skill.words().tokenizer_json()
    }

    pub(crate) fn check_shape(&self, context: usize) -> Result<(), DataError> {
        if context == 0 {
            return Err(DataError::ContextTooShort { context, least: 1 });
        }
        Ok(())
    }

    pub(crate) fn batch(
        &self,
        split: Split,
        seed: u64,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        self.check_shape(context)?;
        let mut batch = Batch::zeros(rows, context, 1)?;
        batch.weights.fill(1.0);
        let inputs = batch.inputs.chunks_exact_mut(context);
        let targets = batch.targets.chunks_exact_mut(context);
        for ((row, inputs), targets) in (0..rows as u64).zip(inputs).zip(targets) {
            let tokens = self.row(split, seed, first_row.wrapping_add(row), context + 1);
            inputs.copy_from_slice(&tokens[..context]);
            targets.copy_from_slice(&tokens[1..]);
        }
        Ok(batch)
    }

    /// Documents until a row is full; the last one is cut off where it ends.
    fn row(&self, split: Split, seed: u64, row: u64, length: usize) -> Vec<u32> {
        let mut rng = self
            .digest("row")
            .bytes(split.name().as_bytes())
            .number(seed)
            .number(row)
            .rng();
        let mut tokens = Vec::with_capacity(length);
        while tokens.len() < length {
            self.skill.add_document(split, &mut rng, &mut tokens);
            tokens.push(SEPARATOR);
        }
        tokens.truncate(length);
        tokens
    }

    /// The first `count` questions, or as many as there are. A question does not depend on how
    /// many are asked.
    pub(crate) fn questions(&self, count: usize) -> Vec<Question> {
        let questions = (0..count as u64).map_while(|index| {
            let mut rng = self.digest("question").number(index).rng();
            let (context, right, mut wrong) = self.skill.question(index, &mut rng)?;
            shuffle(&mut wrong, CHOICES - 1, &mut rng);
            wrong.truncate(CHOICES - 1);
            let answer = below(CHOICES, &mut rng) as usize;
            wrong.insert(answer, right);
            let words = self.skill.words();
            Some(Question {
                context: words.text(&context),
                choices: wrong.iter().map(|&id| words.text(&[id])).collect(),
                answer,
            })
        });
        questions.collect()
    }

    fn digest(&self, purpose: &str) -> Digest {
        let mut digest = Digest::new("upcycle-data skill 1");
        digest
            .bytes(purpose.as_bytes())
            .bytes(self.fingerprint.as_bytes());
        digest
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{collections::HashSet, fs};

    use super::*;
    use crate::TextTokenizer;

    fn all() -> [SkillCorpus; 3] {
        [
            SkillCorpus::knowledge(&KnowledgeConfig {
                persons: 20,
                seed: 1,
            })
            .unwrap(),
            SkillCorpus::arithmetic(&ArithmeticConfig::default()).unwrap(),
            SkillCorpus::lookup(&LookupConfig::default()).unwrap(),
        ]
    }

    #[test]
    fn rows_depend_on_seed_split_and_number_but_not_on_batching() {
        for corpus in all() {
            let batch =
                |split, seed, row, rows| corpus.batch(split, seed, row, rows, 64).unwrap().inputs;
            let row = batch(Split::Pretrain, 1, 5, 1);
            assert_eq!(row, batch(Split::Pretrain, 1, 4, 2)[64..]);
            for other in [
                batch(Split::Cpt, 1, 5, 1),
                batch(Split::Pretrain, 2, 5, 1),
                batch(Split::Pretrain, 1, 6, 1),
            ] {
                assert_ne!(row, other);
            }
            assert!(row.iter().all(|&id| (id as usize) < corpus.vocab_size()));
            assert!(row.contains(&SEPARATOR));
            batch(Split::Pretrain, 1, u64::MAX, 2);
            assert!(corpus.check_shape(0).is_err());
        }
    }

    #[test]
    fn the_tokenizer_reads_documents_and_questions_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        for corpus in all() {
            fs::write(&path, corpus.tokenizer_json()).unwrap();
            let tokenizer = TextTokenizer::read(&path).unwrap();
            assert_eq!(tokenizer.vocab_size(), corpus.vocab_size());
            assert_eq!(tokenizer.separator(), Some(SEPARATOR));
            let row = corpus.row(Split::Validation, 3, 4, 200);
            for document in row.split(|&id| id == SEPARATOR) {
                let text = corpus.skill.words().text(document);
                assert_eq!(tokenizer.encode_input(&text).unwrap(), document);
            }
            for question in corpus.questions(20) {
                let known = corpus.vocab_size() as u32;
                let ids = tokenizer.encode(&question.context).unwrap();
                assert!(ids.iter().all(|&id| (2..known).contains(&id)));
                for choice in &question.choices {
                    assert_eq!(tokenizer.encode(choice).unwrap().len(), 1);
                }
            }
        }
    }

    #[test]
    fn who_guesses_is_right_once_in_four_times() {
        for corpus in all() {
            let questions = corpus.questions(100);
            assert_eq!(questions[..10], corpus.questions(10));
            let mut places = [0; CHOICES];
            for question in &questions {
                let different: HashSet<&String> = question.choices.iter().collect();
                assert_eq!(different.len(), CHOICES);
                places[question.answer] += 1;
            }
            assert!(places.iter().all(|&count| count > 10), "{places:?}");
        }
    }

    #[test]
    fn corpora_are_told_apart() {
        let fingerprints = all().map(|corpus| corpus.fingerprint().to_owned());
        let different: HashSet<&String> = fingerprints.iter().collect();
        assert_eq!(different.len(), 3);
    }
}
