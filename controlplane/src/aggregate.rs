//! What was drained, folded into one column per series.
//!
//! Memory is bounded by the segment's rows of series: a column exists while its series is live, takes
//! what arrives in place and keeps no history, so nothing grows when nobody scrapes. Of thirty series of a target
//! all but one are cells and never travel in a ring: such a series has a column once a sample of it came.

use relayscope_bridge::{
    MetricId, MetricKind, MetricSample, MetricValue, SeriesDirectory, SeriesRef, ShardId,
};

use crate::histogram::{ExponentialHistogram, Refusal};
use crate::sources::{SourceId, Tally};

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

/// One series' state, and whose samples may change it.
struct Column {
    /// See [`SeriesRef::incarnation`].
    incarnation: u64,
    shard: ShardId,
    source: SourceId,
    /// Samples at earlier positions were another series'.
    since: u64,
    value: Value,
}

enum Value {
    Counter(Option<u64>),
    Gauge(Option<Reading>),
    /// In place: a hop less on the way to its buckets.
    Histogram(Option<Observed>),
}

#[derive(Default)]
struct Observed {
    histogram: ExponentialHistogram,
    untaken: Extremes,
}

/// The least and the greatest of some observations, which buckets tell within their width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Extremes {
    /// The least; infinite where there is none.
    pub(crate) min: f64,
    /// The greatest; below any where there is none.
    pub(crate) max: f64,
}

impl Default for Extremes {
    fn default() -> Self {
        Self { min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Extremes {
    #[inline]
    fn note(&mut self, value: f64) {
        // Branches, as a rule foreseen: no sample waits for the one before it.
        if value < self.min {
            self.min = value;
        }
        if value > self.max {
            self.max = value;
        }
    }

    /// Of these and those observations.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

impl Value {
    fn of_kind(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter(None),
            MetricKind::Gauge => Self::Gauge(None),
            MetricKind::Histogram => Self::Histogram(None),
        }
    }

    #[inline]
    fn fold(&mut self, sample: MetricSample, refused: &mut Refused) {
        match (self, sample.value) {
            (Self::Counter(newest), MetricValue::Counter(total)) => *newest = Some(total),
            (Self::Gauge(reading), MetricValue::Gauge(value)) => {
                let value = (!value.is_nan()).then_some(value);
                *reading = Some(Reading { value, timestamp_ns: sample.timestamp_ns });
            }
            (Self::Histogram(observed), MetricValue::Histogram(value)) => {
                let observed = observed.get_or_insert_default();
                match observed.histogram.record(value) {
                    Ok(()) => observed.untaken.note(value),
                    Err(Refusal::NotFinite) => refused.not_finite += 1,
                    Err(Refusal::Negative) => refused.negative += 1,
                }
            }
            _ => refused.wrong_kind += 1,
        }
    }
}

impl Column {
    fn of(series: &SeriesRef<'_>, source: SourceId) -> Self {
        let SeriesRef { incarnation, shard, since, family, .. } = *series;
        Self { incarnation, shard, source, since, value: Value::of_kind(family.kind) }
    }
}

/// No column.
const NONE: u32 = u32::MAX;

/// Columns by [`MetricId`].
#[derive(Default)]
pub(crate) struct Aggregate {
    /// By id, a place in `columns`, or [`NONE`].
    places: Vec<u32>,
    columns: Vec<Option<Column>>,
    /// Places in `columns` that nobody has.
    free: Vec<u32>,
    directory: Option<SeriesDirectory>,
    /// The directory's generation that the columns reflect.
    generation: Option<u64>,
    refused: Refused,
    tally: Tally,
}

impl Aggregate {
    /// Makes a column for every live histogram and drops those of retired series. O(1) while the directory
    /// stands still, O(series) after it changed.
    ///
    /// Call it between marking a ring and draining it to the mark: the series of every sample below the
    /// mark are known then, and each sample's position tells whose it is.
    pub(crate) fn sync(&mut self, directory: &SeriesDirectory) {
        directory.read(|series| {
            if self.generation == Some(series.generation()) {
                return;
            }
            // In order of id. What stands is looked at and not moved: as a rule that is all but a few.
            let mut next = 0;
            for live in series.series() {
                let index = live.id.index();
                if index >= self.places.len() {
                    self.places.resize(index + 1, NONE);
                }
                (next..index).for_each(|passed| self.drop_column(passed));
                next = index + 1;
                if self.column(live.id).is_some_and(|column| column.incarnation != live.incarnation) {
                    self.drop_column(index);
                }
                if live.family.kind == MetricKind::Histogram && self.places[index] == NONE {
                    self.make_column(&live);
                }
            }
            (next..self.places.len()).for_each(|passed| self.drop_column(passed));
            self.places.truncate(next);
            self.generation = Some(series.generation());
        });
        self.directory = Some(directory.clone());
    }

    fn make_column(&mut self, series: &SeriesRef<'_>) {
        let index = series.id.index();
        if index >= self.places.len() {
            self.places.resize(index + 1, NONE);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.columns.push(None);
            // There are no more columns than ids.
            u32::try_from(self.columns.len() - 1).unwrap_or(NONE)
        });
        let source = self.tally.source(series.shard, series.family);
        self.columns[place as usize] = Some(Column::of(series, source));
        self.places[index] = place;
    }

    fn drop_column(&mut self, index: usize) {
        let place = std::mem::replace(&mut self.places[index], NONE);
        if place != NONE {
            self.columns[place as usize] = None;
            self.free.push(place);
        }
    }

    fn column(&self, id: MetricId) -> Option<&Column> {
        self.columns.get(*self.places.get(id.index())? as usize)?.as_ref()
    }

    /// The first sample of a series that has a cell.
    #[cold]
    fn make_first(&mut self, id: MetricId) {
        let Some(directory) = self.directory.clone() else { return };
        directory.read(|series| {
            if let Some(live) = series.get(id) {
                self.make_column(&live);
            }
        });
    }

    /// Folds in the sample at `position` of `shard`'s ring, or counts why not. O(1).
    #[inline]
    pub(crate) fn fold(&mut self, shard: ShardId, position: u64, sample: MetricSample) {
        let id = sample.metric_id;
        if self.places.get(id.index()).is_none_or(|place| *place == NONE) {
            self.make_first(id);
        }
        let refused = &mut self.refused;
        let place = self.places.get(id.index()).map_or(NONE, |place| *place);
        match self.columns.get_mut(place as usize) {
            Some(Some(column)) if column.shard == shard && position >= column.since => {
                self.tally.count(shard, column.source);
                column.value.fold(sample, refused);
            }
            _ => {
                refused.no_series += 1;
                self.tally.count_unknown(shard);
            }
        }
    }

    /// Every counter and gauge of which a sample came, in order of id. O(ids).
    pub(crate) fn readings(&self) -> impl Iterator<Item = (MetricId, ShardId, Option<MetricValue>)> {
        let placed = (0..).map(MetricId).zip(&self.places).filter(|(_, place)| **place != NONE);
        placed.filter_map(|(id, place)| {
            let column = self.columns.get(*place as usize)?.as_ref()?;
            let value = match column.value {
                Value::Counter(newest) => newest.map(|total| Some(MetricValue::Counter(total))),
                Value::Gauge(reading) => reading.map(|reading| reading.value.map(MetricValue::Gauge)),
                Value::Histogram(_) => None,
            };
            value.map(|value| (id, column.shard, value))
        })
    }

    /// The newest total; `None` when no such sample came.
    #[cfg(test)]
    pub(crate) fn counter(&self, id: MetricId) -> Option<u64> {
        match self.column(id)?.value {
            Value::Counter(newest) => newest,
            _ => None,
        }
    }

    /// The newest reading; `None` when no such sample came.
    #[cfg(test)]
    pub(crate) fn gauge(&self, id: MetricId) -> Option<Reading> {
        match self.column(id)?.value {
            Value::Gauge(reading) => reading,
            _ => None,
        }
    }

    /// The distribution; `None` when no such sample came.
    pub(crate) fn histogram(&self, id: MetricId) -> Option<&ExponentialHistogram> {
        match &self.column(id)?.value {
            Value::Histogram(observed) => observed.as_ref().map(|observed| &observed.histogram),
            _ => None,
        }
    }

    /// The distribution, and the extremes of what came since this was last asked: for one who asks.
    pub(crate) fn take(&mut self, id: MetricId) -> Option<(&ExponentialHistogram, Extremes)> {
        let place = *self.places.get(id.index())? as usize;
        match &mut self.columns.get_mut(place)?.as_mut()?.value {
            Value::Histogram(Some(observed)) => {
                Some((&observed.histogram, std::mem::take(&mut observed.untaken)))
            }
            _ => None,
        }
    }

    /// What came of which source.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was not folded.
    pub(crate) fn refused(&self) -> Refused {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_SENT, PROBE_UP};
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;

    const ZERO: ShardId = ShardId(0);
    const ONE: ShardId = ShardId(1);

    fn two_shards() -> Hub {
        let sizes = HubConfig { shards: 2, ring_capacity: 64, cells_per_shard: 16, max_series: 16 };
        hub(sizes).unwrap()
    }

    fn synced(hub: &Hub) -> Aggregate {
        let mut aggregate = Aggregate::default();
        aggregate.sync(hub.collector.directory());
        aggregate
    }

    fn sample(metric_id: MetricId, value: MetricValue) -> MetricSample {
        MetricSample { metric_id, timestamp_ns: 7, value }
    }

    #[test]
    fn the_newest_total_of_a_counter_stands() {
        let hub = two_shards();
        let id = hub.registry.counter(ZERO, &PROBE_SENT, &["b", "ipv4"]).unwrap().id();
        let mut aggregate = synced(&hub);
        assert_eq!(aggregate.counter(id), None);
        for total in [5, 6] {
            aggregate.fold(ZERO, 0, sample(id, MetricValue::Counter(total)));
        }
        assert_eq!(aggregate.counter(id), Some(6));
    }

    #[test]
    fn the_newest_gauge_reading_stands_and_nan_makes_it_absent() {
        let hub = two_shards();
        let id = hub.registry.gauge(ZERO, &PROBE_UP, &["b"]).unwrap().id();
        let mut aggregate = synced(&hub);
        assert_eq!(aggregate.gauge(id), None);
        aggregate.fold(ZERO, 0, sample(id, MetricValue::Gauge(0.5)));
        assert_eq!(aggregate.gauge(id), Some(Reading { value: Some(0.5), timestamp_ns: 7 }));
        aggregate.fold(ZERO, 1, sample(id, MetricValue::Gauge(f64::NAN)));
        assert_eq!(aggregate.gauge(id), Some(Reading { value: None, timestamp_ns: 7 }));
    }

    #[test]
    fn samples_that_fit_no_series_are_counted_by_reason_and_change_nothing() {
        let hub = two_shards();
        let rtt = hub.registry.stream(ZERO, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        let mut aggregate = synced(&hub);
        for (shard, id, value) in [
            (ZERO, MetricId(9), MetricValue::Histogram(1.0)),
            (ZERO, MetricId(u32::MAX), MetricValue::Counter(1)),
            (ONE, rtt, MetricValue::Histogram(1.0)),
            (ZERO, rtt, MetricValue::Gauge(1.0)),
            (ZERO, rtt, MetricValue::Histogram(f64::NAN)),
            (ZERO, rtt, MetricValue::Histogram(-1.0)),
        ] {
            aggregate.fold(shard, 0, sample(id, value));
        }
        let expected = Refused { no_series: 3, wrong_kind: 1, not_finite: 1, negative: 1 };
        assert_eq!(aggregate.refused(), expected);
        assert_eq!(aggregate.histogram(rtt).map(ExponentialHistogram::count), Some(0));
    }

    #[test]
    fn a_retired_series_loses_its_column_and_its_late_samples_are_counted() {
        let hub = two_shards();
        let rtt = hub.registry.stream(ZERO, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        let mut aggregate = synced(&hub);
        aggregate.fold(ZERO, 0, sample(rtt, MetricValue::Histogram(1.0)));
        hub.registry.retire(ZERO, &[rtt]).unwrap();
        aggregate.sync(hub.collector.directory());
        aggregate.fold(ZERO, 1, sample(rtt, MetricValue::Histogram(1.0)));
        assert!(aggregate.histogram(rtt).is_none());
        assert_eq!(aggregate.refused().no_series, 1);
    }

    #[test]
    fn a_reused_id_starts_empty_and_takes_no_sample_of_the_series_before_it() {
        let mut hub = two_shards();
        let old = hub.registry.stream(ZERO, &PROBE_RTT_SECONDS, &["old", "ipv4"]).unwrap();
        let mut aggregate = synced(&hub);
        aggregate.fold(ZERO, 0, sample(old, MetricValue::Histogram(1.0)));
        (0..2).for_each(|_| hub.publishers[0].record(sample(old, MetricValue::Histogram(1.0))));
        let ticket = hub.registry.retire(ZERO, &[old]).unwrap();
        hub.publishers[0].acknowledge(ticket);
        let new = hub.registry.stream(ZERO, &PROBE_RTT_SECONDS, &["new", "ipv4"]).unwrap();
        aggregate.sync(hub.collector.directory());
        assert_eq!(new, old);
        assert!(aggregate.histogram(new).is_none());
        aggregate.fold(ZERO, 1, sample(new, MetricValue::Histogram(1.0)));
        assert_eq!(aggregate.refused().no_series, 1, "recorded before the old series was let go");
        aggregate.fold(ZERO, 2, sample(new, MetricValue::Histogram(1.0)));
        assert_eq!(aggregate.histogram(new).map(ExponentialHistogram::count), Some(1));
    }
}
