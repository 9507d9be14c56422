//! Facts about made-up persons.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};
use upcycle_digest::Digest;

use super::{CHOICES, Skill, words::Words};
use crate::{
    Split,
    permutation::Permutation,
    random::{below, shuffle},
    skill_config::{KnowledgeConfig, NAMES},
};

/// How words begin. All have two letters, so that no two words of different lists are the same.
const STARTS: [&str; 16] = [
    "Al", "Be", "Co", "Da", "El", "Fi", "Ga", "Ha", "Is", "Jo", "Ka", "Lu", "Ma", "No", "Or", "Pe",
];

/// How words of a list end.
const FIRST_NAMES: [&str; 8] = ["na", "ric", "dia", "len", "mir", "sha", "vin", "zo"];
const MIDDLE_NAMES: [&str; 8] = ["bert", "cia", "dred", "gail", "lyn", "nor", "ris", "thea"];
const LAST_NAMES: [&str; 8] = ["berg", "ford", "kins", "man", "sen", "son", "ston", "wood"];

/// Words of a list of names, in bits; a name has one of each list.
const NAME_BITS: u32 = NAMES.ilog2() / 3;

/// Values of an attribute.
const VALUES: usize = 64;

/// Something that is known of every person. The words of a phrasing stand before the name, and
/// between it and the value.
struct Attribute {
    ends: [&'static str; 4],
    phrasings: [(&'static str, &'static str); 3],
}

static ATTRIBUTES: [Attribute; 5] = [
    Attribute {
        ends: ["burgh", "mouth", "stadt", "ville"],
        phrasings: [
            ("", "was born in"),
            ("", "comes from"),
            ("The birthplace of", "is"),
        ],
    },
    Attribute {
        ends: ["bank", "corp", "tech", "works"],
        phrasings: [
            ("", "works for"),
            ("", "has a desk at"),
            ("The employer of", "is"),
        ],
    },
    Attribute {
        ends: ["graphy", "logy", "metry", "nomy"],
        phrasings: [
            ("", "studied"),
            ("", "has a degree in"),
            ("The subject of", "was"),
        ],
    },
    Attribute {
        ends: ["fern", "leaf", "rose", "weed"],
        phrasings: [
            ("", "likes the plant"),
            ("", "grows"),
            ("The favourite plant of", "is"),
        ],
    },
    Attribute {
        // Years, which are made in another way.
        ends: [""; 4],
        phrasings: [
            ("", "has the birth year"),
            ("", "is of the class of"),
            ("The year of", "is"),
        ],
    },
];

const FIRST_YEAR: usize = 1940;

/// An attribute in ids of words.
struct Fact {
    values: Vec<u32>,
    phrasings: Vec<(Vec<u32>, Vec<u32>)>,
}

/// Persons and what is known of them.
pub(super) struct Knowledge {
    words: Words,
    names: [Vec<u32>; 3],
    facts: Vec<Fact>,
    full_stop: u32,
    /// Which of all names a person has.
    naming: Permutation,
    /// The place of every person's value of every attribute, `[persons, attributes]`.
    known: Vec<u8>,
    /// The values of every attribute that some person has, so that no answer is wrong for having
    /// never been told; all where these are too few to choose from.
    told: Vec<Vec<u32>>,
    /// The order of questions.
    asking: Permutation,
}

impl Knowledge {
    pub(super) fn new(config: &KnowledgeConfig) -> Knowledge {
        let mut words = Words::new();
        let mut list = |ends: &[&str]| -> Vec<u32> {
            let pairs = STARTS
                .iter()
                .flat_map(|start| ends.iter().map(move |end| (start, end)));
            pairs
                .map(|(start, end)| words.add(&format!("{start}{end}")))
                .collect()
        };
        let names = [list(&FIRST_NAMES), list(&MIDDLE_NAMES), list(&LAST_NAMES)];
        let mut values: Vec<Vec<u32>> = ATTRIBUTES
            .iter()
            .filter(|attribute| attribute.ends != [""; 4])
            .map(|attribute| list(&attribute.ends))
            .collect();
        let years = FIRST_YEAR..FIRST_YEAR + VALUES;
        values.push(years.map(|year| words.add(&year.to_string())).collect());
        let facts = ATTRIBUTES.iter().zip(values).map(|(attribute, values)| {
            let phrasings = attribute.phrasings.iter().map(|(before, between)| {
                let before = words.add_all(before);
                (before, words.add_all(between))
            });
            let phrasings = phrasings.collect();
            Fact { values, phrasings }
        });
        let facts: Vec<Fact> = facts.collect();
        let full_stop = words.add(".");
        let key = |purpose: &str| {
            let mut digest = Digest::new("upcycle-data persons 1");
            digest.bytes(purpose.as_bytes()).number(config.seed);
            digest
        };
        let mut rng = key("facts").rng();
        let count = config.persons * facts.len();
        let known = (0..count).map(|_| (rng.next_u32() % VALUES as u32) as u8);
        let known: Vec<u8> = known.collect();
        let told = facts.iter().enumerate().map(|(attribute, fact)| {
            let places = known.iter().skip(attribute).step_by(facts.len());
            let mut told: Vec<u32> = places
                .map(|&place| fact.values[usize::from(place)])
                .collect();
            told.sort_unstable();
            told.dedup();
            match told.len() < CHOICES {
                true => fact.values.clone(),
                false => told,
            }
        });
        let told = told.collect();
        Knowledge {
            known,
            told,
            words,
            names,
            facts,
            full_stop,
            naming: Permutation::new(key("names").key(), NAMES as u64),
            asking: Permutation::new(key("questions").key(), count as u64),
        }
    }

    fn persons(&self) -> usize {
        self.known.len() / self.facts.len()
    }

    fn add_name(&self, person: usize, tokens: &mut Vec<u32>) {
        let name = self.naming.apply(person as u64);
        let mask = (1 << NAME_BITS) - 1;
        for (place, list) in (0..).zip(&self.names) {
            let word = (name >> (NAME_BITS * place)) & mask;
            tokens.push(list[word as usize]);
        }
    }

    /// Adds a fact up to its value.
    fn add_claim(&self, person: usize, fact: &Fact, rng: &mut ChaCha8Rng, tokens: &mut Vec<u32>) {
        let (before, between) = &fact.phrasings[below(fact.phrasings.len(), rng) as usize];
        tokens.extend(before);
        self.add_name(person, tokens);
        tokens.extend(between);
    }

    fn value(&self, person: usize, attribute: usize) -> u32 {
        let place = self.known[person * self.facts.len() + attribute];
        self.facts[attribute].values[usize::from(place)]
    }
}

impl Skill for Knowledge {
    fn words(&self) -> &Words {
        &self.words
    }

    fn add_document(&self, _: Split, rng: &mut ChaCha8Rng, tokens: &mut Vec<u32>) {
        let person = below(self.persons(), rng) as usize;
        let mut order: Vec<usize> = (0..self.facts.len()).collect();
        let count = order.len();
        shuffle(&mut order, count, rng);
        for attribute in order {
            self.add_claim(person, &self.facts[attribute], rng, tokens);
            tokens.push(self.value(person, attribute));
            tokens.push(self.full_stop);
        }
    }

    fn question(&self, index: u64, rng: &mut ChaCha8Rng) -> Option<(Vec<u32>, u32, Vec<u32>)> {
        if index >= self.known.len() as u64 {
            return None;
        }
        let place = self.asking.apply(index) as usize;
        let (person, attribute) = (place / self.facts.len(), place % self.facts.len());
        let fact = &self.facts[attribute];
        let mut context = Vec::new();
        self.add_claim(person, fact, rng, &mut context);
        let right = self.value(person, attribute);
        let told = self.told[attribute].iter().copied();
        let wrong = told.filter(|&value| value != right);
        Some((context, right, wrong.collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_many_and_different() {
        let knowledge = Knowledge::new(&KnowledgeConfig::default());
        let lists = knowledge
            .names
            .iter()
            .chain(knowledge.facts.iter().map(|fact| &fact.values));
        let words: Vec<u32> = lists.flatten().copied().collect();
        let different: HashSet<u32> = words.iter().copied().collect();
        assert_eq!(words.len(), 3 * 128 + 5 * VALUES);
        assert_eq!(different.len(), words.len());
    }

    #[test]
    fn a_persons_facts_are_the_same_in_documents_and_questions() {
        let config = KnowledgeConfig {
            persons: 3,
            seed: 9,
        };
        let knowledge = Knowledge::new(&config);
        let mut rng = Digest::new("test").rng();
        let mut told = HashSet::new();
        for _ in 0..300 {
            let mut tokens = Vec::new();
            knowledge.add_document(Split::Pretrain, &mut rng, &mut tokens);
            for sentence in tokens.split(|&id| id == knowledge.full_stop) {
                told.insert(sentence.to_vec());
            }
        }
        for index in 0..15 {
            let question = knowledge.question(index, &mut rng);
            let Some((mut context, right, wrong)) = question else {
                panic!("there are 15 facts")
            };
            assert_eq!(wrong.len(), VALUES - 1);
            context.push(right);
            assert!(told.contains(&context));
        }
        assert!(knowledge.question(15, &mut rng).is_none());
    }

    #[test]
    fn wrong_answers_are_right_for_others() {
        let config = KnowledgeConfig {
            persons: 20,
            seed: 9,
        };
        let knowledge = Knowledge::new(&config);
        let mut rng = Digest::new("test").rng();
        let values: HashSet<u32> = (0..100)
            .map(|fact| knowledge.value(fact / 5, fact % 5))
            .collect();
        for index in 0..100 {
            let Some((_, right, wrong)) = knowledge.question(index, &mut rng) else {
                panic!("there are 100 facts")
            };
            assert!(wrong.len() >= 3 && !wrong.contains(&right));
            assert!(wrong.iter().all(|value| values.contains(value)));
        }
    }
}
