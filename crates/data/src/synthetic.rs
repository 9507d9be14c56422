//! A corpus of Markov-chain domains, generated on the fly.

mod categorical;
mod chains;

use rand_chacha::rand_core::RngCore;
use upcycle_digest::Digest;

use self::{categorical::Categorical, chains::Chains};
use crate::{Batch, DataError, Split, SyntheticConfig};

/// The shortest context that scores a position: the domain and the start come first.
const LEAST_CONTEXT: usize = 2;

/// The corpus: chains, and the rule by which documents are drawn from them.
///
/// A row of a split is generated from the corpus seed, the split, the batch seed and the row's
/// number, and so does not depend on how rows are grouped into batches.
pub(crate) struct SyntheticCorpus {
    chains: Chains,
    domains: Categorical,
    document_tokens: usize,
    seed: u64,
}

impl SyntheticCorpus {
    pub(crate) fn new(config: &SyntheticConfig) -> Result<SyntheticCorpus, DataError> {
        config.check()?;
        let popularity =
            (1..=config.domains).map(|domain| (domain as f64).powf(-config.domain_zipf));
        Ok(SyntheticCorpus {
            chains: Chains::new(config),
            domains: Categorical::new(popularity),
            document_tokens: config.document_tokens,
            seed: config.seed,
        })
    }

    pub(crate) fn fingerprint(config: &SyntheticConfig) -> String {
        let mut digest = Digest::new("upcycle-data synthetic corpus 1");
        for count in [
            config.domains,
            config.tokens,
            config.successors,
            config.document_tokens,
        ] {
            digest.number(count as u64);
        }
        digest.real(config.domain_zipf).number(config.seed).hex()
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.chains.tokens() + self.domains.outcomes()
    }

    pub(crate) fn entropy_rate(&self) -> f64 {
        self.chains.entropy()
    }

    pub(crate) fn check_shape(&self, context: usize) -> Result<(), DataError> {
        if context < LEAST_CONTEXT {
            return Err(DataError::ContextTooShort {
                context,
                least: LEAST_CONTEXT,
            });
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
        self.for_each_row(split, seed, first_row, &mut batch, |batch, at, tokens| {
            for position in 0..context {
                batch.targets[at + position] = tokens[position + 1];
                if self.is_scored(position) {
                    batch.weights[at + position] = 1.0;
                }
            }
        });
        Ok(batch)
    }

    /// Rows of a split in a fixed order, scored against the exact distribution of the next token: the mean loss is
    /// then free of the noise of the tokens that happened to follow.
    pub(crate) fn evaluation_batch(
        &self,
        split: Split,
        first_row: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        self.check_shape(context)?;
        let choices = self.chains.probabilities().len();
        let mut batch = Batch::zeros(rows, context, choices)?;
        self.for_each_row(split, 0, first_row, &mut batch, |batch, at, tokens| {
            for position in (0..context).filter(|&position| self.is_scored(position)) {
                let start = position - position % self.document_tokens;
                let domain = tokens[start] as usize - self.chains.tokens();
                let entry = (at + position) * choices;
                batch.targets[entry..entry + choices]
                    .copy_from_slice(self.chains.successors(domain, tokens[position]));
                batch.weights[entry..entry + choices].copy_from_slice(self.chains.probabilities());
            }
        });
        Ok(batch)
    }

    /// Whether the token after `position` follows from the chain: it is neither a new document's
    /// domain nor its random start.
    fn is_scored(&self, position: usize) -> bool {
        (position + 1) % self.document_tokens >= 2
    }

    /// Fills in the inputs, and calls `visit` with each row's first position in the batch and its
    /// `context + 1` tokens.
    fn for_each_row(
        &self,
        split: Split,
        seed: u64,
        first_row: u64,
        batch: &mut Batch,
        mut visit: impl FnMut(&mut Batch, usize, &[u32]),
    ) {
        let context = batch.context;
        let mut tokens = vec![0; context + 1];
        for row in 0..batch.rows {
            let number = first_row.wrapping_add(row as u64);
            self.generate(split, seed, number, &mut tokens);
            let at = row * context;
            batch.inputs[at..at + context].copy_from_slice(&tokens[..context]);
            visit(batch, at, &tokens);
        }
    }

    /// Fills a row with documents; the last one is cut off where the row ends.
    fn generate(&self, split: Split, seed: u64, row: u64, tokens: &mut [u32]) {
        let mut rng = Digest::new("upcycle-data synthetic row 1")
            .number(self.seed)
            .bytes(split.name().as_bytes())
            .number(seed)
            .number(row)
            .rng();
        for document in tokens.chunks_mut(self.document_tokens) {
            let domain = self.domains.sample(rng.next_u32());
            document[0] = (self.chains.tokens() + domain) as u32;
            self.chains.walk(domain, &mut rng, &mut document[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn corpus(change: impl FnOnce(&mut SyntheticConfig)) -> SyntheticCorpus {
        let mut config = SyntheticConfig::default();
        change(&mut config);
        SyntheticCorpus::new(&config).unwrap()
    }

    #[test]
    fn a_row_of_one_document_scores_all_but_the_start() {
        let corpus = corpus(|_| ());
        let batch = corpus.batch(Split::Pretrain, 1, 0, 3, 64).unwrap();
        for row in 0..3 {
            let inputs = &batch.inputs[row * 64..][..64];
            assert!(inputs[0] >= 128, "a row begins with a domain");
            assert!(inputs[1..].iter().all(|&token| token < 128));
            let weights = &batch.weights[row * 64..][..64];
            assert_eq!(weights[0], 0.0);
            assert!(weights[1..].iter().all(|&weight| weight == 1.0));
            let targets = &batch.targets[row * 64..][..64];
            assert_eq!(targets[..63], inputs[1..]);
        }
        assert_eq!(batch.scored(), 3.0 * 63.0);
    }

    #[test]
    fn rows_hold_several_documents_and_score_neither_domain_nor_start() {
        let corpus = corpus(|config| config.document_tokens = 5);
        let batch = corpus.batch(Split::Pretrain, 1, 0, 1, 12).unwrap();
        let domains: Vec<usize> = (0..12).filter(|&p| batch.inputs[p] >= 128).collect();
        assert_eq!(domains, [0, 5, 10]);
        let unscored: Vec<usize> = (0..12).filter(|&p| batch.weights[p] == 0.0).collect();
        assert_eq!(unscored, [0, 4, 5, 9, 10]);
    }

    #[test]
    fn validation_targets_are_the_successors_and_hold_the_token_that_came() {
        let corpus = corpus(|config| config.document_tokens = 9);
        let exact = corpus
            .evaluation_batch(Split::Validation, 4, 6, 40)
            .unwrap();
        let sampled = corpus.batch(Split::Validation, 0, 4, 6, 40).unwrap();
        assert_eq!(exact.choices, 4);
        assert_eq!(exact.inputs, sampled.inputs);
        assert_eq!(exact.scored(), sampled.scored());
        for position in 0..6 * 40 {
            let targets = &exact.targets[position * 4..][..4];
            let weights = &exact.weights[position * 4..][..4];
            if sampled.weights[position] > 0.0 {
                assert!(targets.contains(&sampled.targets[position]));
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            } else {
                assert_eq!(weights, [0.0; 4]);
            }
        }
    }

    #[test]
    fn transitions_have_the_entropy_of_the_closed_form() {
        let corpus = corpus(|config| {
            config.domains = 2;
            config.tokens = 8;
        });
        let batch = corpus.batch(Split::Pretrain, 0, 0, 4000, 64).unwrap();
        let mut counts = vec![0_u32; 2 * 8 * 8];
        for position in (0..batch.inputs.len()).filter(|&p| batch.weights[p] > 0.0) {
            let domain = batch.inputs[position - position % 64] as usize - 8;
            let (from, to) = (batch.inputs[position], batch.targets[position]);
            counts[(domain * 8 + from as usize) * 8 + to as usize] += 1;
        }
        let total: u32 = counts.iter().sum();
        let empirical: f64 = counts
            .chunks(8)
            .map(|row| {
                let visits = f64::from(row.iter().sum::<u32>());
                row.iter()
                    .filter(|&&count| count > 0)
                    .map(|&count| -f64::from(count) * (f64::from(count) / visits).ln())
                    .sum::<f64>()
            })
            .sum::<f64>()
            / f64::from(total);
        let exact = corpus.entropy_rate();
        assert!((exact - 1.242).abs() < 1e-3, "{exact}");
        assert!((empirical - exact).abs() < 5e-3, "{empirical} for {exact}");
    }

    #[test]
    fn zipf_makes_the_first_domains_common() {
        let corpus = corpus(|config| config.domain_zipf = 1.0);
        let batch = corpus.batch(Split::Pretrain, 0, 0, 8000, 64).unwrap();
        let share = |domain: u32| {
            let hits = batch.inputs.chunks(64).filter(|row| row[0] == 128 + domain);
            hits.count() as f64 / 8000.0
        };
        let first: f64 = (1..=16)
            .map(|rank| 1.0 / f64::from(rank))
            .sum::<f64>()
            .recip();
        assert!((share(0) - first).abs() < 0.02);
        assert!((share(1) - first / 2.0).abs() < 0.02);
    }

    #[test]
    fn rows_depend_on_seed_split_and_number_but_not_on_batching() {
        let corpus = corpus(|_| ());
        let batch =
            |split, seed, row, rows| corpus.batch(split, seed, row, rows, 64).unwrap().inputs;
        let row = batch(Split::Pretrain, 1, 5, 1);
        assert_eq!(row, batch(Split::Pretrain, 1, 4, 2)[64..]);
        for other in [
            batch(Split::Cpt, 1, 5, 1),
            batch(Split::Validation, 1, 5, 1),
            batch(Split::Pretrain, 2, 5, 1),
            batch(Split::Pretrain, 1, 6, 1),
        ] {
            assert_ne!(row, other);
        }
        batch(Split::Pretrain, 1, u64::MAX, 2);
    }

    #[test]
    fn tokens_are_the_same_on_every_platform_and_in_every_version() {
        let corpus = corpus(|_| ());
        let batch = corpus.batch(Split::Pretrain, 7, 3, 1, 8).unwrap();
        assert_eq!(batch.inputs, [138, 92, 31, 8, 112, 15, 37, 22]);
    }

    #[test]
    fn a_context_that_scores_nothing_is_an_error() {
        let error = corpus(|_| ()).check_shape(1).unwrap_err().to_string();
        assert!(error.contains("context of 1 tokens"), "{error}");
    }
}
