//! Which experts are replicas of the same source.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

/// For every expert of a layer, the source (a pre-training expert) that it was copied from.
///
/// Sources are numbered `0..G`; a layer that was never upcycled has every expert as its own source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>")]
pub struct ExpertSources(Vec<usize>);

impl TryFrom<Vec<usize>> for ExpertSources {
    type Error = &'static str;

    fn try_from(source_of: Vec<usize>) -> Result<Self, Self::Error> {
        Self::new(source_of).ok_or("a source of experts is missing")
    }
}

impl ExpertSources {
    /// Every expert is its own source.
    pub fn identity(experts: usize) -> Self {
        Self((0..experts).collect())
    }

    /// From the source of every expert; none if a source in `0..=max` has no expert.
    pub fn new(source_of: Vec<usize>) -> Option<Self> {
        let count = source_of.iter().max()?.checked_add(1)?;
        let complete = count <= source_of.len() && (0..count).all(|s| source_of.contains(&s));
        complete.then_some(Self(source_of))
    }

    /// From the number of experts that each source becomes; a source always keeps itself.
    ///
    /// The sources come first. Replicas follow set by set: first the second copy of every source that has one, then the
    /// third, so that with equal counts each set is a complete copy of the layer.
    pub fn of_counts(counts: &[usize]) -> Self {
        let sets = counts.iter().copied().max().unwrap_or(0);
        let mut source_of: Vec<usize> = (0..counts.len()).collect();
        for set in 1..sets {
            source_of.extend((0..counts.len()).filter(|&source| counts[source] > set));
        }
        Self(source_of)
    }

    /// The sources of the sources: what every expert comes from, given what its source comes from.
    ///
    /// # Panics
    /// If `before` has fewer experts than there are sources here.
    pub fn through(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|&source| before.0[source]).collect())
    }

    /// The source of every expert, `[E]`.
    pub fn source_of(&self) -> &[usize] {
        &self.0
    }

    /// Number of experts, E.
    pub fn experts(&self) -> usize {
        self.0.len()
    }

    /// Number of sources, G.
    pub fn count(&self) -> usize {
        self.0.iter().max().map_or(0, |max| max + 1)
    }

    /// Number of replicas of every source, `[G]`.
    pub fn replicas(&self) -> Vec<usize> {
        let mut replicas = vec![0; self.count()];
        for &source in &self.0 {
            replicas[source] += 1;
        }
        replicas
    }

    /// Experts of every source as a flat `[G * R]` table and `R`, the largest number of replicas; shorter rows
    /// repeat their first expert, which changes no maximum.
    pub fn members(&self) -> (Vec<usize>, usize) {
        let mut rows = vec![Vec::new(); self.count()];
        for (expert, &source) in self.0.iter().enumerate() {
            rows[source].push(expert);
        }
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        for row in &mut rows {
            row.resize(width, row[0]);
        }
        (rows.concat(), width)
    }

    /// For the table of [`members`](Self::members), 1 for an expert and 0 where a shorter row repeats one.
    pub(crate) fn members_mask(&self) -> Vec<usize> {
        let replicas = self.replicas();
        let width = replicas.iter().copied().max().unwrap_or(0);
        let row = |count: usize| (0..width).map(move |place| usize::from(place < count));
        replicas.into_iter().flat_map(row).collect()
    }

    /// The source of every expert on `device`, `[E]`.
    pub fn source_of_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        index_tensor(&self.0, device)
    }

    /// One-hot membership, `[E, G]`.
    pub fn membership<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2> {
        let (experts, count) = (self.experts(), self.count());
        let mut table = vec![0.0_f32; experts * count];
        for (expert, &source) in self.0.iter().enumerate() {
            table[expert * count + source] = 1.0;
        }
        Tensor::from_data(TensorData::new(table, [experts, count]), device)
    }
}

/// Indices as an integer tensor, `[n]`.
pub fn index_tensor<B: Backend>(indices: &[usize], device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
    Tensor::from_data(TensorData::new(values, [indices.len()]), device)
}
