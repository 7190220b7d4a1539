//! Which series a shard and a target write, and how events become values.

use std::cell::RefCell;
use std::net::SocketAddr;

use relayscope_bridge::catalogue as families;
use relayscope_bridge::{
    CounterCell, GaugeCell, MetricId, MetricSample, MetricValue, Publisher, SeriesError, SeriesRegistry,
    ShardId,
};

use crate::clock::Now;
use crate::probe::stamp::{ProbeEvent, Refusal as ProbeRefusal, SendError, Session};
use crate::reflector::Refusal as ReflectorRefusal;

const JITTER_KINDS: [&str; 4] = ["ipdv", "pdv_p95", "rfc3550", "stddev"];

/// The series of one target, handed to the shard that probes it. No other writer exists.
///
/// What every answered probe writes comes first, here as in the shard's cells: it shares cache lines.
pub struct TargetSeries {
    sent: CounterCell,
    received: CounterCell,
    up: GaugeCell,
    rtt_ms: GaugeCell,
    loss_pct: GaugeCell,
    jitter_ms: GaugeCell,
    window_loss: GaugeCell,
    /// In the order of [`JITTER_KINDS`].
    window_jitter: [GaugeCell; JITTER_KINDS.len()],
    last_reply: GaugeCell,
    rtt_seconds: MetricId,
    reordered: CounterCell,
    lost: CounterCell,
    late: CounterCell,
    duplicate: CounterCell,
    discarded: CounterCell,
    send_errors: Box<[CounterCell]>,
    /// Says whom it is about; never written again.
    _info: GaugeCell,
}

impl TargetSeries {
    /// Cells one target takes.
    pub const CELLS: usize = 14 + SendError::ALL.len() + JITTER_KINDS.len();
    /// Series one target takes: its cells and its histogram.
    pub const SERIES: usize = Self::CELLS + 1;

    /// Interns the series of `target`, probed at `address`, for `shard`. Not for a shard: it locks.
    ///
    /// # Errors
    /// [`SeriesError`] when the target is already probed or a table is full. What was interned before
    /// that is in `interned`, for the caller to retire; on success, too, all ids are there.
    pub fn intern(
        registry: &SeriesRegistry,
        shard: ShardId,
        target: &str,
        address: SocketAddr,
        interned: &mut Vec<MetricId>,
    ) -> Result<Self, SeriesError> {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let info = [target, &address.to_string(), family, "stamp"];
        let interned = RefCell::new(interned);
        let counter = |family, values: &[&str]| {
            let cell = registry.counter(shard, family, values)?;
            interned.borrow_mut().push(cell.id());
            Ok::<_, SeriesError>(cell)
        };
        let gauge = |family, values: &[&str]| {
            let cell = registry.gauge(shard, family, values)?;
            interned.borrow_mut().push(cell.id());
            Ok::<_, SeriesError>(cell)
        };
        let stream = |family, values: &[&str]| {
            let id = registry.stream(shard, family, values)?;
            interned.borrow_mut().push(id);
            Ok::<_, SeriesError>(id)
        };
        let jitter = |kind| gauge(&families::PROBE_WINDOW_JITTER, &[target, kind]);
        let [ipdv, pdv_p95, rfc3550, stddev] = JITTER_KINDS;
        Ok(Self {
            sent: counter(&families::PROBE_SENT, &[target])?,
            received: counter(&families::PROBE_RECEIVED, &[target])?,
            up: gauge(&families::PROBE_UP, &[target])?,
            rtt_ms: gauge(&families::PROBE_RTT_MS, &[target])?,
            loss_pct: gauge(&families::PROBE_LOSS_PCT, &[target])?,
            jitter_ms: gauge(&families::PROBE_JITTER_MS, &[target])?,
            window_loss: gauge(&families::PROBE_WINDOW_LOSS, &[target])?,
            window_jitter: [jitter(ipdv)?, jitter(pdv_p95)?, jitter(rfc3550)?, jitter(stddev)?],
            last_reply: gauge(&families::PROBE_LAST_REPLY, &[target])?,
            rtt_seconds: stream(&families::PROBE_RTT_SECONDS, &[target])?,
            reordered: counter(&families::PROBE_REORDERED, &[target])?,
            lost: counter(&families::PROBE_LOST, &[target])?,
            late: counter(&families::PROBE_LATE, &[target])?,
            duplicate: counter(&families::PROBE_DUPLICATE, &[target])?,
            discarded: counter(&families::PROBE_DISCARDED, &[target])?,
            send_errors: SendError::ALL
                .iter()
                .map(|reason| counter(&families::PROBE_SEND_ERRORS, &[target, reason.label()]))
                .collect::<Result<_, _>>()?,
            _info: gauge(&families::TARGET_INFO, &info)?,
        })
    }

    /// Counts a probe handed to the kernel.
    pub(crate) fn note_sent(&mut self) {
        self.sent.add(1);
    }

    /// Counts an event and records its RTT. Wait-free.
    pub(crate) fn note(&mut self, now: Now, event: ProbeEvent, publisher: &mut Publisher) {
        match event {
            ProbeEvent::Answered { rtt, reordered, .. } => {
                self.received.add(1);
                if reordered {
                    self.reordered.add(1);
                }
                self.rtt_ms.set(rtt.as_nanos() as f64 / 1e6);
                self.last_reply.set(now.realtime.0 as f64 / 1e9);
                publisher.record(MetricSample {
                    metric_id: self.rtt_seconds,
                    timestamp_ns: now.monotonic.0,
                    value: MetricValue::Histogram(rtt.as_secs_f64()),
                });
            }
            ProbeEvent::Lost { .. } => self.lost.add(1),
            ProbeEvent::Discarded { .. } => self.discarded.add(1),
            ProbeEvent::Late { .. } => self.late.add(1),
            ProbeEvent::Duplicate { .. } => self.duplicate.add(1),
            ProbeEvent::Unsent { reason, .. } => {
                count(&SendError::ALL, reason, &mut self.send_errors);
            }
        }
    }

    /// Brings the gauges up to date with the session.
    pub(crate) fn refresh(&mut self, session: &Session) {
        let up = session.up();
        self.up.set_or_clear(up.map(|up| f64::from(u8::from(up))));
        if up != Some(true) {
            // The last RTT of a target that is down is no measurement of now.
            self.rtt_ms.set_or_clear(None);
        }
        let stats = session.stats();
        self.loss_pct.set_or_clear(stats.loss_ratio.map(|ratio| ratio * 100.0));
        self.window_loss.set_or_clear(stats.loss_ratio);
        self.jitter_ms.set_or_clear(stats.ipdv_seconds.map(|seconds| seconds * 1e3));
        let by_kind =
            [stats.ipdv_seconds, stats.pdv_p95_seconds, stats.rfc3550_seconds, stats.stddev_seconds];
        for (cell, value) in self.window_jitter.iter_mut().zip(by_kind) {
            cell.set_or_clear(value);
        }
    }
}

/// The series of one shard.
pub struct ShardSeries {
    pub(crate) lag: GaugeCell,
    pub(crate) missed: CounterCell,
    pub(crate) stalls: CounterCell,
    pub(crate) overflow: CounterCell,
    reflected: CounterCell,
    reflected_uncounted: CounterCell,
    reflector_refused: Box<[CounterCell]>,
    probe_refused: Box<[CounterCell]>,
}

impl ShardSeries {
    /// Cells one shard takes for itself.
    pub const CELLS: usize = 6 + ReflectorRefusal::ALL.len() + ProbeRefusal::ALL.len();

    /// Interns the series of `shard`. For the control plane: it locks.
    ///
    /// # Errors
    /// [`SeriesError`] when the shard has them already or a table is full.
    pub fn intern(registry: &SeriesRegistry, shard: ShardId) -> Result<Self, SeriesError> {
        let label = shard.0.to_string();
        let counter = |family, values: &[&str]| registry.counter(shard, family, values);
        Ok(Self {
            lag: registry.gauge(shard, &families::SHARD_SCHEDULE_LAG, &[&label])?,
            missed: counter(&families::SHARD_MISSED_SLOTS, &[&label])?,
            stalls: counter(&families::SHARD_STALLS, &[&label])?,
            overflow: counter(&families::SHARD_RECEIVE_OVERFLOW, &[&label])?,
            reflected: counter(&families::REFLECTOR_PACKETS, &["reflected"])?,
            reflected_uncounted: counter(&families::REFLECTOR_PACKETS, &["reflected_stateless"])?,
            reflector_refused: ReflectorRefusal::ALL
                .iter()
                .map(|reason| counter(&families::REFLECTOR_PACKETS, &[reason.label()]))
                .collect::<Result<_, _>>()?,
            probe_refused: ProbeRefusal::ALL
                .iter()
                .map(|reason| counter(&families::PROBE_REFUSED, &[reason.label()]))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Counts a request: reflected, with or without a session to count in, or refused.
    pub(crate) fn note_reflected(&mut self, result: Result<bool, ReflectorRefusal>) {
        match result {
            Ok(true) => self.reflected.add(1),
            Ok(false) => self.reflected_uncounted.add(1),
            Err(refusal) => count(&ReflectorRefusal::ALL, refusal, &mut self.reflector_refused),
        }
    }

    pub(crate) fn note_refused(&mut self, refusal: ProbeRefusal) {
        count(&ProbeRefusal::ALL, refusal, &mut self.probe_refused);
    }
}

/// Adds one to the cell that stands where `one` stands in `all`.
fn count<T: PartialEq>(all: &[T], one: T, cells: &mut [CounterCell]) {
    for (candidate, cell) in all.iter().zip(cells) {
        cell.add(u64::from(*candidate == one));
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;

    #[test]
    fn a_shard_and_a_target_take_as_many_cells_and_series_as_they_say() {
        let cells_per_shard = ShardSeries::CELLS + TargetSeries::CELLS;
        let max_series = ShardSeries::CELLS + TargetSeries::SERIES;
        let sizes = HubConfig { cells_per_shard, max_series, ..HubConfig::default() };
        let Hub { registry, .. } = hub(sizes).unwrap();
        let mut interned = Vec::new();
        let address = "192.0.2.9:862".parse().unwrap();
        let shard = ShardSeries::intern(&registry, ShardId(0));
        let target = TargetSeries::intern(&registry, ShardId(0), "b", address, &mut interned);
        assert!(shard.is_ok() && target.is_ok());
        assert_eq!(interned.len(), TargetSeries::SERIES, "all ids are there to be retired");
        let room = registry.room(ShardId(0)).unwrap();
        assert_eq!((room.cells, room.series), (0, 0));
    }
}
