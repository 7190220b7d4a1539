//! What was drained, folded into one column per series.
//!
//! Memory is bounded by the registry's `max_series`: a column exists while its series is live, takes
//! what arrives in place and keeps no history, so nothing grows when nobody scrapes.

use relayscope_bridge::{MetricId, MetricKind, MetricSample, MetricValue, SeriesRegistry, ShardId};

use crate::histogram::{ExponentialHistogram, Refusal};

/// The newest reading of a gauge that travels in a ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The value; `None` when the measurement failed (NaN).
    pub(crate) value: Option<f64>,
    /// When it was measured: nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) timestamp_ns: u64,
}

/// Samples drained and not folded, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// No live series has the id: it was never interned, or is retired.
    pub(crate) no_series: u64,
    /// The sample is of another kind than its series.
    pub(crate) wrong_kind: u64,
    /// An observation that is NaN or infinite.
    pub(crate) not_finite: u64,
    /// An observation below zero.
    pub(crate) negative: u64,
}

/// One series' state. What no sample has reached costs no allocation.
enum Column {
    Vacant,
    /// The newest total of each shard that sent one.
    Counter(Vec<(ShardId, u64)>),
    Gauge(Option<Reading>),
    Histogram(Option<Box<ExponentialHistogram>>),
}

impl Column {
    fn of_kind(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter(Vec::new()),
            MetricKind::Gauge => Self::Gauge(None),
            MetricKind::Histogram => Self::Histogram(None),
        }
    }

    fn is(&self, kind: MetricKind) -> bool {
        match self {
            Self::Vacant => false,
            Self::Counter(_) => kind == MetricKind::Counter,
            Self::Gauge(_) => kind == MetricKind::Gauge,
            Self::Histogram(_) => kind == MetricKind::Histogram,
        }
    }
}

/// Dense columns indexed by [`MetricId`].
#[derive(Default)]
pub(crate) struct Aggregate {
    columns: Vec<Column>,
    /// The registry's generation that `columns` reflects.
    generation: Option<u64>,
    refused: Refused,
}

impl Aggregate {
    /// Makes a column for every live series and drops those of retired ones. O(1) while the registry
    /// stands still, O(series) after it changed.
    pub(crate) fn sync(&mut self, registry: &SeriesRegistry) {
        registry.read(|series| {
            if self.generation == Some(series.generation()) {
                return;
            }
            let mut old = std::mem::take(&mut self.columns);
            for (id, family, _) in series.series() {
                self.columns.resize_with(id.index() + 1, || Column::Vacant);
                let kept = old.get_mut(id.index()).map(|c| std::mem::replace(c, Column::Vacant));
                self.columns[id.index()] =
                    kept.filter(|c| c.is(family.kind)).unwrap_or_else(|| Column::of_kind(family.kind));
            }
            self.generation = Some(series.generation());
        });
    }

    /// Folds one sample in, or counts why not. O(1), but for the first sample of a series interned
    /// since the last [`sync`](Self::sync), which syncs again.
    pub(crate) fn fold(&mut self, registry: &SeriesRegistry, shard: ShardId, sample: MetricSample) {
        if self.is_vacant(sample.metric_id) {
            self.sync(registry);
        }
        let Some(column) = self.columns.get_mut(sample.metric_id.index()) else {
            self.refused.no_series += 1;
            return;
        };
        match (column, sample.value) {
            (Column::Vacant, _) => self.refused.no_series += 1,
            (Column::Counter(totals), MetricValue::Counter(total)) => set_total(totals, shard, total),
            (Column::Gauge(reading), MetricValue::Gauge(value)) => {
                let value = (!value.is_nan()).then_some(value);
                *reading = Some(Reading { value, timestamp_ns: sample.timestamp_ns });
            }
            (Column::Histogram(histogram), MetricValue::Histogram(value)) => {
                match histogram.get_or_insert_default().record(value) {
                    Ok(()) => {}
                    Err(Refusal::NotFinite) => self.refused.not_finite += 1,
                    Err(Refusal::Negative) => self.refused.negative += 1,
                }
            }
            _ => self.refused.wrong_kind += 1,
        }
    }

    /// Drops the columns of ids that may be given to other series from now on.
    pub(crate) fn forget(&mut self, ids: &[MetricId]) {
        for id in ids {
            if let Some(column) = self.columns.get_mut(id.index()) {
                *column = Column::Vacant;
            }
        }
    }

    /// The sum of the shards' totals; `None` when no such sample came.
    pub(crate) fn counter(&self, id: MetricId) -> Option<u64> {
        match self.columns.get(id.index())? {
            Column::Counter(totals) if !totals.is_empty() => {
                Some(totals.iter().fold(0, |sum, (_, total)| sum.wrapping_add(*total)))
            }
            _ => None,
        }
    }

    /// The newest reading; `None` when no such sample came.
    pub(crate) fn gauge(&self, id: MetricId) -> Option<Reading> {
        match self.columns.get(id.index())? {
            Column::Gauge(reading) => *reading,
            _ => None,
        }
    }

    /// The distribution; `None` when no such sample came.
    pub(crate) fn histogram(&self, id: MetricId) -> Option<&ExponentialHistogram> {
        match self.columns.get(id.index())? {
            Column::Histogram(histogram) => histogram.as_deref(),
            _ => None,
        }
    }

    /// What was not folded.
    pub(crate) fn refused(&self) -> Refused {
        self.refused
    }

    fn is_vacant(&self, id: MetricId) -> bool {
        matches!(self.columns.get(id.index()), None | Some(Column::Vacant))
    }
}

fn set_total(totals: &mut Vec<(ShardId, u64)>, shard: ShardId, total: u64) {
    match totals.iter_mut().find(|(of, _)| *of == shard) {
        Some((_, old)) => *old = total,
        None => totals.push((shard, total)),
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_SENT, PROBE_UP};
    use relayscope_bridge::{Collector, HubConfig, Publisher, hub};

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn two_shards() -> (Vec<Publisher>, Collector) {
        let sizes = HubConfig { shards: 2, ring_capacity: 64, cells_per_shard: 16, max_series: 16 };
        hub(sizes).unwrap()
    }

    fn sample(metric_id: MetricId, value: MetricValue) -> MetricSample {
        MetricSample { metric_id, timestamp_ns: 7, value }
    }

    #[test]
    fn totals_of_one_counter_from_two_shards_add_up() {
        let (_publishers, collector) = two_shards();
        let registry = collector.registry();
        let id = registry.counter(SHARD, &PROBE_SENT, &["b"]).unwrap().id();
        let mut aggregate = Aggregate::default();
        for (shard, total) in [(0, 5), (1, 7), (0, 6)] {
            aggregate.fold(registry, ShardId(shard), sample(id, MetricValue::Counter(total)));
        }
        assert_eq!(aggregate.counter(id), Some(13));
    }

    #[test]
    fn the_newest_gauge_reading_stands_and_nan_makes_it_absent() {
        let (_publishers, collector) = two_shards();
        let registry = collector.registry();
        let id = registry.gauge(SHARD, &PROBE_UP, &["b"]).unwrap().id();
        let mut aggregate = Aggregate::default();
        assert_eq!(aggregate.gauge(id), None);
        aggregate.fold(registry, SHARD, sample(id, MetricValue::Gauge(0.5)));
        assert_eq!(aggregate.gauge(id), Some(Reading { value: Some(0.5), timestamp_ns: 7 }));
        aggregate.fold(registry, SHARD, sample(id, MetricValue::Gauge(f64::NAN)));
        assert_eq!(aggregate.gauge(id), Some(Reading { value: None, timestamp_ns: 7 }));
    }

    #[test]
    fn samples_that_fit_no_series_are_counted_by_reason_and_change_nothing() {
        let (_publishers, collector) = two_shards();
        let registry = collector.registry();
        let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let mut aggregate = Aggregate::default();
        for (id, value) in [
            (MetricId(9), MetricValue::Histogram(1.0)),
            (MetricId(u32::MAX), MetricValue::Counter(1)),
            (rtt, MetricValue::Gauge(1.0)),
            (rtt, MetricValue::Histogram(f64::NAN)),
            (rtt, MetricValue::Histogram(-1.0)),
        ] {
            aggregate.fold(registry, SHARD, sample(id, value));
        }
        let expected = Refused { no_series: 2, wrong_kind: 1, not_finite: 1, negative: 1 };
        assert_eq!(aggregate.refused(), expected);
        assert_eq!(aggregate.histogram(rtt).map(ExponentialHistogram::count), Some(0));
    }

    #[test]
    fn a_series_interned_after_the_sync_is_known_at_its_first_sample() {
        let (_publishers, collector) = two_shards();
        let registry = collector.registry();
        let mut aggregate = Aggregate::default();
        aggregate.sync(registry);
        let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        aggregate.fold(registry, SHARD, sample(rtt, MetricValue::Histogram(1.0)));
        assert_eq!(aggregate.histogram(rtt).map(ExponentialHistogram::count), Some(1));
    }

    #[test]
    fn a_retired_series_loses_its_column_and_its_late_samples_are_counted() {
        let (_publishers, collector) = two_shards();
        let registry = collector.registry();
        let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let mut aggregate = Aggregate::default();
        aggregate.fold(registry, SHARD, sample(rtt, MetricValue::Histogram(1.0)));
        registry.retire(SHARD, &[rtt]).unwrap();
        aggregate.sync(registry);
        aggregate.fold(registry, SHARD, sample(rtt, MetricValue::Histogram(1.0)));
        assert!(aggregate.histogram(rtt).is_none());
        assert_eq!(aggregate.refused().no_series, 1);
    }

    #[test]
    fn a_reused_id_starts_empty() {
        let (mut publishers, mut collector) = two_shards();
        let registry = collector.registry().clone();
        let old = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["old"]).unwrap();
        let mut aggregate = Aggregate::default();
        aggregate.fold(&registry, SHARD, sample(old, MetricValue::Histogram(1.0)));
        let ticket = registry.retire(SHARD, &[old]).unwrap();
        publishers[0].acknowledge(ticket);
        aggregate.forget(&collector.reclaim(SHARD));
        let new = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["new"]).unwrap();
        aggregate.sync(&registry);
        assert_eq!(new, old);
        assert!(aggregate.histogram(new).is_none());
    }
}
