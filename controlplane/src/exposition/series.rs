//! The samples of families whose series the registry holds, an application's own among them.

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{MetricId, MetricKind, MetricValue, SeriesView, ShardId};

use super::encoder::{Encoder, Labels};
use super::filter::Filter;
use super::number::Number;
use super::plan::{Line, Plan, PlannedFamily, is_in_catalogue};
use crate::aggregate::Aggregate;
use crate::histogram::ExponentialHistogram;

/// The families of the catalogue rendered here. An application's own are all rendered here.
pub(crate) static FAMILIES: &[&Family] = &[
    &catalogue::PROBE_UP,
    &catalogue::PROBE_RTT_MS,
    &catalogue::PROBE_LOSS_PCT,
    &catalogue::PROBE_JITTER_MS,
    &catalogue::PROBE_RTT_SECONDS,
    &catalogue::PROBE_SENT,
    &catalogue::PROBE_RECEIVED,
    &catalogue::PROBE_LOST,
    &catalogue::PROBE_DIRECTION_LOST,
    &catalogue::PROBE_LATE,
    &catalogue::PROBE_DUPLICATE,
    &catalogue::PROBE_REORDERED,
    &catalogue::PROBE_DISCARDED,
    &catalogue::PROBE_SEND_ERRORS,
    &catalogue::PROBE_WINDOW_LOSS,
    &catalogue::PROBE_WINDOW_JITTER,
    &catalogue::PROBE_LAST_REPLY,
    &catalogue::PROBE_FAMILY_UP,
    &catalogue::PROBE_FAMILY_RTT,
    &catalogue::PROBE_NAT_REBINDS,
    &catalogue::PROBE_CONNECTED,
    &catalogue::PROBE_HANDSHAKE_SECONDS,
    &catalogue::PROBE_DISCONNECTS,
    &catalogue::PROBE_PATH_RTT,
    &catalogue::PROBE_PATH_LOST,
    &catalogue::PROBE_PATH_CONGESTION,
    &catalogue::PROBE_PATH_MTU,
    &catalogue::TARGET_RESOLVABLE,
    &catalogue::DISCOVERY_FAILURES,
    &catalogue::DISCOVERY_LEFT_OUT,
    &catalogue::GROUP_INFO,
    &catalogue::RUNTIME_INFO,
    &catalogue::PROBE_REFUSED,
    &catalogue::REFLECTOR_PACKETS,
    &catalogue::RESPONDER_PACKETS,
    &catalogue::RECORDER_REFUSED,
    &catalogue::SHARD_SCHEDULE_LAG,
    &catalogue::SHARD_MISSED_SLOTS,
    &catalogue::SHARD_STALLS,
    &catalogue::SHARD_RECEIVE_OVERFLOW,
    &catalogue::SESSIONS,
    &catalogue::ROOMS,
    &catalogue::RECEIVED_PACKETS,
    &catalogue::RECEIVED_BYTES,
    &catalogue::RECEIVED_REPORTS,
    &catalogue::SENT_PACKETS,
    &catalogue::SENT_BYTES,
    &catalogue::DROPPED_PACKETS,
    &catalogue::AUTH_FAILURES,
    &catalogue::REFUSED_SESSIONS,
    &catalogue::ENDED_SESSIONS,
    &catalogue::HANDSHAKE_DURATION,
    &catalogue::FORWARD_DURATION,
    &catalogue::SESSIONS_WITHOUT_SERIES,
    &catalogue::SESSION_BUFFER,
    &catalogue::SESSION_LOSS,
    &catalogue::SESSION_RTT,
    &catalogue::SESSION_UNDERRUNS,
    &catalogue::WEB_BRIDGE_CONNECTIONS,
    &catalogue::WEB_BRIDGE_FRAMES,
    &catalogue::WEB_BRIDGE_AUTH_FAILURES,
    &catalogue::WEB_BRIDGE_REFUSED,
    &catalogue::WEB_BRIDGE_ENDED,
    &catalogue::WEB_BRIDGE_DROPPED,
    &catalogue::WEB_BRIDGE_DURATION,
];

/// What every counter and gauge says at one moment, by id: read in the order in which they lie in memory, for it is
/// waiting for memory that a scrape of many series takes its time with.
pub(crate) struct Values {
    bits: Vec<u64>,
    /// A bit for each id: whether there is a value.
    known: Vec<u64>,
}

impl Values {
    /// Reads all of them. A shard reports by cell or by ring; the ring's newest reading, if one ever came, is it. The
    /// gauges of a silent shard are not shown as live. O(series).
    pub(crate) fn read(
        series: &SeriesView<'_>,
        aggregate: &Aggregate,
        is_silent: impl Fn(ShardId) -> bool,
    ) -> Self {
        let silent: Vec<bool> = (0..series.shards()).map(|shard| is_silent(ShardId(shard))).collect();
        let is_silent = |shard: ShardId| silent.get(usize::from(shard.0)).is_none_or(|silent| *silent);
        let ids = series.ids();
        let mut values = Self { bits: vec![0; ids], known: vec![0; ids.div_ceil(64)] };
        for (id, shard, value) in series.cells() {
            values.take(id, value, || is_silent(shard));
        }
        for (id, shard, reading) in aggregate.readings() {
            match reading {
                Some(value) => values.take(id, value, || is_silent(shard)),
                None => values.forget(id),
            }
        }
        values
    }

    fn take(&mut self, id: MetricId, value: MetricValue, is_silent: impl Fn() -> bool) {
        let bits = match value {
            MetricValue::Counter(total) => total,
            MetricValue::Gauge(_) if is_silent() => return self.forget(id),
            MetricValue::Gauge(value) => value.to_bits(),
            MetricValue::Histogram(_) => return,
        };
        if let (Some(place), Some(known)) =
            (self.bits.get_mut(id.index()), self.known.get_mut(id.index() / 64))
        {
            *place = bits;
            *known |= 1 << (id.index() % 64);
        }
    }

    fn forget(&mut self, id: MetricId) {
        if let Some(known) = self.known.get_mut(id.index() / 64) {
            *known &= !(1 << (id.index() % 64));
        }
    }

    fn bits(&self, id: MetricId) -> Option<u64> {
        let is_known = self.known.get(id.index() / 64)? >> (id.index() % 64) & 1 == 1;
        is_known.then(|| self.bits[id.index()])
    }
}

/// Lines looked up before any of them is written: what waits for memory waits together.
const AHEAD: usize = 16;

/// A line looked up, with a value.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    line: &'a Line,
    bits: u64,
    text: [&'a [u8]; 2],
}

/// Writes planned families in one format, as far as they are wanted.
pub(crate) struct SeriesWriter<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) series: &'a SeriesView<'a>,
    pub(crate) values: &'a Values,
    pub(crate) aggregate: &'a Aggregate,
    pub(crate) filter: &'a Filter,
}

impl SeriesWriter<'_> {
    /// Writes `family`, if it has series.
    pub(crate) fn write<E: Encoder>(&self, out: &mut E, family: &Family) {
        if let Some(planned) = self.plan.families().find(|planned| *planned.family == *family) {
            self.write_family(out, planned);
        }
    }

    /// Writes the families that are not in the catalogue, by name.
    pub(crate) fn write_others<E: Encoder>(&self, out: &mut E) {
        let others = self.plan.families().filter(|planned| !is_in_catalogue(planned.family));
        others.for_each(|planned| self.write_family(out, planned));
    }

    fn write_family<E: Encoder>(&self, out: &mut E, planned: &PlannedFamily) {
        let head = planned.head();
        if !self.filter.wants_family(&head) {
            return;
        }
        out.begin(head);
        match head.kind {
            MetricKind::Counter | MetricKind::Gauge => self.write_numbers(out, planned),
            MetricKind::Histogram => self.write_histograms(out, planned),
        }
        out.end();
    }

    /// A counter is the sum over the shards that write it; a gauge has one writer.
    fn write_numbers<E: Encoder>(&self, out: &mut E, planned: &PlannedFamily) {
        let is_counter = planned.family.kind == MetricKind::Counter;
        let mut held: Option<Ahead<'_>> = None;
        for lines in planned.lines.chunks(AHEAD) {
            let ahead: [_; AHEAD] = std::array::from_fn(|at| self.look_up(lines.get(at)?));
            for next in ahead.into_iter().flatten() {
                match &mut held {
                    Some(held) if is_counter && held.line.labels == next.line.labels => {
                        held.bits = held.bits.wrapping_add(next.bits);
                    }
                    _ => {
                        if let Some(whole) = held.replace(next) {
                            self.write_number(out, whole, is_counter);
                        }
                    }
                }
            }
        }
        if let Some(last) = held {
            self.write_number(out, last, is_counter);
        }
    }

    fn look_up<'a>(&'a self, line: &'a Line) -> Option<Ahead<'a>> {
        Some(Ahead { line, bits: self.values.bits(line.id)?, text: self.plan.label_text(line) })
    }

    fn write_number<E: Encoder>(&self, out: &mut E, ahead: Ahead<'_>, is_counter: bool) {
        let Ahead { line, bits, text } = ahead;
        if self.filter.wants_series(self.series, line.id) {
            let number = if is_counter { Number::Integer(bits) } else { Number::Float(f64::from_bits(bits)) };
            out.number(Labels::Series { view: self.series, id: line.id, text }, number);
        }
    }

    /// Each is what all the shards that write it counted.
    fn write_histograms<E: Encoder>(&self, out: &mut E, planned: &PlannedFamily) {
        let empty = ExponentialHistogram::default();
        let of_one_series = planned.lines.chunk_by(|a, b| a.labels == b.labels);
        for lines in of_one_series.filter(|lines| self.filter.wants_series(self.series, lines[0].id)) {
            let Some(buckets) = self.plan.buckets(planned, lines[0].id) else { continue };
            let (view, text) = (self.series, self.plan.label_text(&lines[0]));
            let labels = Labels::Series { view, id: lines[0].id, text };
            let mut shards = lines.iter().filter_map(|line| self.aggregate.histogram(line.id));
            let first = shards.next().unwrap_or(&empty);
            match shards.next() {
                None => out.exponential(labels, first, buckets),
                Some(second) => {
                    let mut merged = first.clone();
                    [second].into_iter().chain(shards).for_each(|other| merged.merge(other));
                    out.exponential(labels, &merged, buckets);
                }
            }
        }
    }
}
