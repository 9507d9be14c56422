//! Routing measures as metrics of [burn-train](burn::train).

use std::sync::Arc;

use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use crate::{
    sources::ExpertSources,
    statistics::{RoutingCounter, RoutingStats},
};

/// Where the tokens of a batch went in every MoE layer, on the host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RoutedBatch(pub Arc<[RoutedLayer]>);

/// Where the tokens of a batch went in one MoE layer.
#[derive(Debug, Clone)]
pub struct RoutedLayer {
    /// The experts of every token, flat `[T * K]`.
    pub experts: Vec<usize>,
    /// Experts of a token, K.
    pub top_k: usize,
    /// Which experts are replicas of one source.
    pub sources: ExpertSources,
}

/// A routing measure, of batches and of the epoch so far.
#[derive(Debug, Clone)]
pub struct RoutingMetric {
    name: MetricName,
    unit: Option<&'static str>,
    measure: fn(&[RoutingStats]) -> f64,
    epoch: Vec<RoutingCounter>,
    batch: f64,
    running: f64,
    tokens: usize,
}

impl RoutingMetric {
    /// How much more tokens than the mean the busiest expert gets, as a share; the mean over layers. 0 is even.
    pub fn load_imbalance() -> Self {
        Self::new("Load imbalance", None, |layers| {
            mean(layers, |layer| layer.max_violation)
        })
    }

    /// Experts without a token, in all layers together.
    pub fn dead_experts() -> Self {
        Self::new("Dead experts", None, |layers| {
            layers.iter().map(|layer| layer.dead_experts as f64).sum()
        })
    }

    /// Share of tokens with two replicas of one source among their experts, in per cent; the mean over layers.
    pub fn twins_together() -> Self {
        Self::new("Twins together", Some("%"), |layers| {
            100.0 * mean(layers, |layer| layer.twin_coselection)
        })
    }

    fn new(name: &str, unit: Option<&'static str>, measure: fn(&[RoutingStats]) -> f64) -> Self {
        Self {
            name: Arc::new(name.to_owned()),
            unit,
            measure,
            epoch: Vec::new(),
            batch: 0.0,
            running: 0.0,
            tokens: 0,
        }
    }

    fn of(&self, counters: &[RoutingCounter]) -> f64 {
        let stats: Vec<_> = counters.iter().map(RoutingCounter::stats).collect();
        (self.measure)(&stats)
    }
}

/// 0 for a model without MoE layers.
fn mean(layers: &[RoutingStats], measure: impl Fn(&RoutingStats) -> f64) -> f64 {
    layers.iter().map(measure).sum::<f64>() / layers.len().max(1) as f64
}

impl Metric for RoutingMetric {
    type Input = RoutedBatch;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: self.unit.map(str::to_owned),
            higher_is_better: false,
        }
        .into()
    }

    fn update(&mut self, routed: &RoutedBatch, _metadata: &MetricMetadata) -> SerializedEntry {
        let counters = || -> Vec<_> {
            let sources = routed.0.iter().map(|layer| layer.sources.clone());
            sources.map(RoutingCounter::new).collect()
        };
        let mut batch = counters();
        // A model that has been grown meanwhile is another one.
        let known = self.epoch.iter().map(RoutingCounter::sources);
        if !known.eq(routed.0.iter().map(|layer| &layer.sources)) {
            self.epoch = counters();
        }
        let counted = batch.iter_mut().zip(&mut self.epoch);
        for (layer, (batch, epoch)) in routed.0.iter().zip(counted) {
            batch.add(&layer.experts, layer.top_k);
            epoch.add(&layer.experts, layer.top_k);
        }
        self.batch = self.of(&batch);
        self.running = self.of(&self.epoch);
        let first = routed.0.first();
        self.tokens = first.map_or(0, |layer| layer.experts.len() / layer.top_k.max(1));
        let text = format!("epoch {:.3} - batch {:.3}", self.running, self.batch);
        SerializedEntry::new(text, self.value().serialize())
    }

    fn clear(&mut self) {
        self.epoch.clear();
        (self.batch, self.running, self.tokens) = (0.0, 0.0, 0);
    }
}

impl Numeric for RoutingMetric {
    fn value(&self) -> NumericEntry {
        NumericEntry::Aggregated {
            aggregated_value: self.batch,
            count: self.tokens,
        }
    }

    fn running_value(&self) -> NumericEntry {
        NumericEntry::Value(self.running)
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;

    use super::*;

    #[test]
    fn measures_are_those_of_the_statistics() {
        let metadata = MetricMetadata {
            progress: Progress::new(0, 1),
            global_progress: Progress::new(1, 1),
            iteration: None,
            lr: None,
        };
        // Experts 0 and 3 are twins; expert 2 gets nothing, and the first token has both twins.
        let Some(sources) = ExpertSources::new(vec![0, 1, 2, 0]) else {
            unreachable!("every source has an expert");
        };
        let layer = RoutedLayer {
            experts: vec![0, 3, 0, 1],
            top_k: 2,
            sources,
        };
        let routed = RoutedBatch(Arc::new([layer]));
        for (mut metric, expected) in [
            (RoutingMetric::load_imbalance(), 1.0),
            (RoutingMetric::dead_experts(), 1.0),
            (RoutingMetric::twins_together(), 50.0),
        ] {
            metric.update(&routed, &metadata);
            assert_eq!(metric.value().current(), expected, "{}", metric.name());
            assert_eq!(metric.running_value().current(), expected);
            metric.clear();
            assert_eq!(metric.running_value().current(), 0.0);
        }
    }

    #[test]
    fn a_model_that_is_grown_within_an_epoch_is_counted_anew() {
        let metadata = MetricMetadata {
            progress: Progress::new(0, 1),
            global_progress: Progress::new(1, 1),
            iteration: None,
            lr: None,
        };
        let routed = |experts: usize| {
            let layer = RoutedLayer {
                experts: (0..experts).collect(),
                top_k: 1,
                sources: ExpertSources::identity(experts),
            };
            RoutedBatch(Arc::new([layer]))
        };
        let mut metric = RoutingMetric::dead_experts();
        metric.update(&routed(4), &metadata);
        metric.update(&routed(8), &metadata);
        assert_eq!(metric.running_value().current(), 0.0);
    }
}
