//! Which series a shard and a target write, and how events become values.

use std::net::SocketAddr;

use relayscope_bridge::catalogue::{self as families, Family};
use relayscope_bridge::{
    CounterCell, GaugeCell, MetricId, MetricSample, MetricValue, Publisher, SeriesError, SeriesRegistry,
    ShardId,
};

use crate::clock::Now;
use crate::endpoint::Protocol;
use crate::probe::quic::{FailureKind, PathStats};
use crate::probe::{ProbeEvent, Refusal as ProbeRefusal, SendError, Session};
use crate::reflector::Refusal as ReflectorRefusal;
use crate::responder::{Outcome, Refusal as ResponderRefusal};
use crate::window::WindowStats;

const JITTER_KINDS: [&str; 4] = ["ipdv", "pdv_p95", "rfc3550", "stddev"];

/// The value of the `family` label: the family of an address.
pub fn family_label(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// Interns series for one shard and keeps their ids, for the caller to retire.
struct Interner<'a> {
    registry: &'a SeriesRegistry,
    shard: ShardId,
    interned: &'a mut Vec<MetricId>,
}

impl Interner<'_> {
    fn counter(&mut self, family: &'static Family, values: &[&str]) -> Result<CounterCell, SeriesError> {
        let cell = self.registry.counter(self.shard, family, values)?;
        self.interned.push(cell.id());
        Ok(cell)
    }

    fn gauge(&mut self, family: &'static Family, values: &[&str]) -> Result<GaugeCell, SeriesError> {
        let cell = self.registry.gauge(self.shard, family, values)?;
        self.interned.push(cell.id());
        Ok(cell)
    }

    fn stream(&mut self, family: &'static Family, values: &[&str]) -> Result<MetricId, SeriesError> {
        let id = self.registry.stream(self.shard, family, values)?;
        self.interned.push(id);
        Ok(id)
    }
}

/// The compatible gauges of one target, whatever its families. No other writer exists.
///
/// They tell of the family that answers; where both do, or neither, of IPv4.
pub struct TargetSeries {
    up: GaugeCell,
    rtt_ms: GaugeCell,
    loss_pct: GaugeCell,
    jitter_ms: GaugeCell,
}

impl TargetSeries {
    /// Cells, and series, one target takes beside those of its endpoints.
    pub const CELLS: usize = 4;

    /// Interns the gauges of `target` for `shard`. Not for a shard: it locks.
    ///
    /// # Errors
    /// [`SeriesError`] when the target has them already or a table is full. What was interned before
    /// that is in `interned`, for the caller to retire; on success, too, all ids are there.
    pub fn intern(
        registry: &SeriesRegistry,
        shard: ShardId,
        target: &str,
        interned: &mut Vec<MetricId>,
    ) -> Result<Self, SeriesError> {
        let mut series = Interner { registry, shard, interned };
        Ok(Self {
            up: series.gauge(&families::PROBE_UP, &[target])?,
            rtt_ms: series.gauge(&families::PROBE_RTT_MS, &[target])?,
            loss_pct: series.gauge(&families::PROBE_LOSS_PCT, &[target])?,
            jitter_ms: series.gauge(&families::PROBE_JITTER_MS, &[target])?,
        })
    }

    /// Brings the gauges up to date with the endpoint that stands for the target.
    pub(crate) fn refresh(&mut self, now: &EndpointState) {
        self.up.set_or_clear(now.up.map(|up| f64::from(u8::from(up))));
        self.rtt_ms.set_or_clear(now.rtt_seconds.map(|seconds| seconds * 1e3));
        self.loss_pct.set_or_clear(now.stats.loss_ratio.map(|ratio| ratio * 100.0));
        self.jitter_ms.set_or_clear(now.stats.ipdv_seconds.map(|seconds| seconds * 1e3));
    }
}

/// An endpoint now. What is not known is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndpointState {
    pub(crate) up: Option<bool>,
    pub(crate) rtt_seconds: Option<f64>,
    pub(crate) stats: WindowStats,
}

/// What the series of an endpoint say it is.
#[derive(Clone, Copy, Debug)]
pub struct EndpointLabels<'a> {
    /// The target's name.
    pub target: &'a str,
    /// Where it is probed.
    pub address: SocketAddr,
    /// How; see [`Protocol::label`].
    pub protocol: &'static str,
    /// The group whose settings it has.
    pub group: &'a str,
}

impl EndpointLabels<'_> {
    /// Interns the gauge that says where the endpoint is; it is never written. Not for a shard: it locks.
    ///
    /// # Errors
    /// As [`EndpointSeries::intern`].
    pub fn intern_info(
        &self,
        registry: &SeriesRegistry,
        shard: ShardId,
        interned: &mut Vec<MetricId>,
    ) -> Result<GaugeCell, SeriesError> {
        let (address, family) = (self.address.to_string(), family_label(self.address));
        let values = [self.target, &address, family, self.protocol, self.group];
        Interner { registry, shard, interned }.gauge(&families::TARGET_INFO, &values)
    }
}

/// The series of one endpoint, handed to the shard that probes it. No other writer exists.
///
/// What every answered probe writes comes first, here as in the shard's cells: it shares cache lines.
pub struct EndpointSeries {
    sent: CounterCell,
    received: CounterCell,
    up: GaugeCell,
    rtt: GaugeCell,
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
    own: Own,
    /// The newest RTT, until a probe goes unanswered.
    newest_rtt_seconds: Option<f64>,
    /// Says where it is; never written.
    info: GaugeCell,
}

/// What only some protocols can tell.
enum Own {
    Stamp { forward: CounterCell, reverse: CounterCell },
    Stun { rebinds: CounterCell },
    Tcp,
    Quic(Box<QuicSeries>),
}

struct QuicSeries {
    connected: GaugeCell,
    handshake_seconds: MetricId,
    /// In the order of [`FailureKind::ALL`].
    disconnects: Box<[CounterCell]>,
    path_rtt: GaugeCell,
    path_lost: CounterCell,
    path_congestion: CounterCell,
    path_mtu: GaugeCell,
    /// Of the connection there is, as counted before.
    path: PathStats,
}

impl EndpointSeries {
    /// Most cells one endpoint takes.
    pub const CELLS: usize = 12 + SendError::ALL.len() + JITTER_KINDS.len() + OWN_CELLS_MAX;
    /// Most series one endpoint takes: its cells and its histograms.
    pub const SERIES: usize = Self::CELLS + 2;

    /// Interns the series of an endpoint for `shard`. Not for a shard: it locks.
    ///
    /// # Errors
    /// [`SeriesError`] when the target is already probed by that family or a table is full. What was interned
    /// before that is in `interned`, for the caller to retire; on success, too, all ids are there.
    pub fn intern(
        registry: &SeriesRegistry,
        shard: ShardId,
        labels: &EndpointLabels<'_>,
        protocol: &Protocol,
        interned: &mut Vec<MetricId>,
    ) -> Result<Self, SeriesError> {
        let endpoint = [labels.target, family_label(labels.address)];
        let [target, family] = endpoint;
        let mut series = Interner { registry, shard, interned };
        let sent = series.counter(&families::PROBE_SENT, &endpoint)?;
        let received = series.counter(&families::PROBE_RECEIVED, &endpoint)?;
        let up = series.gauge(&families::PROBE_FAMILY_UP, &endpoint)?;
        let rtt = series.gauge(&families::PROBE_FAMILY_RTT, &endpoint)?;
        let window_loss = series.gauge(&families::PROBE_WINDOW_LOSS, &endpoint)?;
        let mut jitter = |kind| series.gauge(&families::PROBE_WINDOW_JITTER, &[target, family, kind]);
        let [ipdv, pdv_p95, rfc3550, stddev] = JITTER_KINDS;
        let window_jitter = [jitter(ipdv)?, jitter(pdv_p95)?, jitter(rfc3550)?, jitter(stddev)?];
        let mut error = |reason: &SendError| {
            series.counter(&families::PROBE_SEND_ERRORS, &[target, family, reason.label()])
        };
        let send_errors = SendError::ALL.iter().map(&mut error).collect::<Result<_, _>>()?;
        Ok(Self {
            sent,
            received,
            up,
            rtt,
            window_loss,
            window_jitter,
            send_errors,
            last_reply: series.gauge(&families::PROBE_LAST_REPLY, &endpoint)?,
            rtt_seconds: series.stream(&families::PROBE_RTT_SECONDS, &endpoint)?,
            reordered: series.counter(&families::PROBE_REORDERED, &endpoint)?,
            lost: series.counter(&families::PROBE_LOST, &endpoint)?,
            late: series.counter(&families::PROBE_LATE, &endpoint)?,
            duplicate: series.counter(&families::PROBE_DUPLICATE, &endpoint)?,
            discarded: series.counter(&families::PROBE_DISCARDED, &endpoint)?,
            own: Own::intern(&mut series, &endpoint, protocol)?,
            newest_rtt_seconds: None,
            info: labels.intern_info(registry, shard, interned)?,
        })
    }

    /// Counts a probe handed to the kernel.
    pub(crate) fn note_sent(&mut self) {
        self.sent.add(1);
    }

    /// The endpoint is somewhere else now, and this gauge says where.
    pub(crate) fn note_moved(&mut self, info: GaugeCell) {
        self.info = info;
    }

    /// Counts an event and records its RTT. Wait-free.
    pub(crate) fn note(&mut self, now: Now, event: ProbeEvent, publisher: &mut Publisher) {
        match event {
            ProbeEvent::Answered { rtt, reordered, .. } => {
                self.received.add(1);
                if reordered {
                    self.reordered.add(1);
                }
                let seconds = rtt.as_secs_f64();
                self.newest_rtt_seconds = Some(seconds);
                self.last_reply.set(now.realtime.0 as f64 / 1e9);
                publisher.record(MetricSample {
                    metric_id: self.rtt_seconds,
                    timestamp_ns: now.monotonic.0,
                    value: MetricValue::Histogram(seconds),
                });
            }
            ProbeEvent::Lost { .. } => self.lost.add(1),
            ProbeEvent::Bounced { reason, .. } => {
                self.lost.add(1);
                count(&SendError::ALL, reason, &mut self.send_errors);
            }
            ProbeEvent::Discarded { .. } => self.discarded.add(1),
            ProbeEvent::Late { .. } => self.late.add(1),
            ProbeEvent::Duplicate { .. } => self.duplicate.add(1),
            ProbeEvent::Dropped { .. } => {
                count(&SendError::ALL, SendError::Dropped, &mut self.send_errors);
            }
            ProbeEvent::Unsent { reason, .. } => {
                count(&SendError::ALL, reason, &mut self.send_errors);
            }
            ProbeEvent::Directed { .. }
            | ProbeEvent::Rebound { .. }
            | ProbeEvent::Connected { .. }
            | ProbeEvent::Disconnected { .. } => self.own.note(now, event, publisher),
        }
    }

    /// Brings what the connection says of its path up to date.
    pub(crate) fn refresh_path(&mut self, path: PathStats) {
        if let Own::Quic(quic) = &mut self.own {
            quic.refresh(path);
        }
    }

    /// Brings the gauges up to date with the session. Returns what they say.
    pub(crate) fn refresh(&mut self, session: &Session) -> EndpointState {
        let up = session.up();
        if up != Some(true) {
            // The last RTT of a target that is down is no measurement of now.
            self.newest_rtt_seconds = None;
        }
        let stats = session.stats();
        self.up.set_or_clear(up.map(|up| f64::from(u8::from(up))));
        self.rtt.set_or_clear(self.newest_rtt_seconds);
        self.window_loss.set_or_clear(stats.loss_ratio);
        let by_kind =
            [stats.ipdv_seconds, stats.pdv_p95_seconds, stats.rfc3550_seconds, stats.stddev_seconds];
        for (cell, value) in self.window_jitter.iter_mut().zip(by_kind) {
            cell.set_or_clear(value);
        }
        EndpointState { up, rtt_seconds: self.newest_rtt_seconds, stats }
    }
}

/// Most cells a protocol has for itself.
const OWN_CELLS_MAX: usize = 5 + FailureKind::ALL.len();

impl Own {
    fn intern(
        series: &mut Interner<'_>,
        endpoint: &[&str; 2],
        protocol: &Protocol,
    ) -> Result<Self, SeriesError> {
        let [target, family] = *endpoint;
        Ok(match protocol {
            Protocol::Stamp(_) => {
                let mut lost =
                    |direction| series.counter(&families::PROBE_DIRECTION_LOST, &[target, family, direction]);
                Self::Stamp { forward: lost("forward")?, reverse: lost("reverse")? }
            }
            Protocol::Stun => Self::Stun { rebinds: series.counter(&families::PROBE_NAT_REBINDS, endpoint)? },
            Protocol::Tcp => Self::Tcp,
            Protocol::Quic(_) => Self::Quic(Box::new(QuicSeries::intern(series, endpoint)?)),
        })
    }

    fn note(&mut self, now: Now, event: ProbeEvent, publisher: &mut Publisher) {
        match (self, event) {
            (Self::Stamp { forward, reverse }, ProbeEvent::Directed { forward: there, reverse: back }) => {
                forward.add(there.into());
                reverse.add(back.into());
            }
            (Self::Stun { rebinds }, ProbeEvent::Rebound { .. }) => rebinds.add(1),
            (Self::Quic(quic), ProbeEvent::Connected { handshake }) => {
                quic.connected.set(1.0);
                quic.path = PathStats::default();
                let Some(handshake) = handshake else { return };
                publisher.record(MetricSample {
                    metric_id: quic.handshake_seconds,
                    timestamp_ns: now.monotonic.0,
                    value: MetricValue::Histogram(handshake.as_secs_f64()),
                });
            }
            (Self::Quic(quic), ProbeEvent::Disconnected { kind }) => {
                quic.connected.set(0.0);
                quic.path_rtt.set_or_clear(None);
                quic.path_mtu.set_or_clear(None);
                count(&FailureKind::ALL, kind, &mut quic.disconnects);
            }
            _ => {}
        }
    }
}

impl QuicSeries {
    fn intern(series: &mut Interner<'_>, endpoint: &[&str; 2]) -> Result<Self, SeriesError> {
        let [target, family] = *endpoint;
        let mut disconnects = |kind: &FailureKind| {
            series.counter(&families::PROBE_DISCONNECTS, &[target, family, kind.label()])
        };
        let disconnects = FailureKind::ALL.iter().map(&mut disconnects).collect::<Result<_, _>>()?;
        Ok(Self {
            connected: series.gauge(&families::PROBE_CONNECTED, endpoint)?,
            handshake_seconds: series.stream(&families::PROBE_HANDSHAKE_SECONDS, endpoint)?,
            disconnects,
            path_rtt: series.gauge(&families::PROBE_PATH_RTT, endpoint)?,
            path_lost: series.counter(&families::PROBE_PATH_LOST, endpoint)?,
            path_congestion: series.counter(&families::PROBE_PATH_CONGESTION, endpoint)?,
            path_mtu: series.gauge(&families::PROBE_PATH_MTU, endpoint)?,
            path: PathStats::default(),
        })
    }

    /// The connection counts from its beginning, the series over all of them.
    fn refresh(&mut self, path: PathStats) {
        let before = std::mem::replace(&mut self.path, path);
        self.path_rtt.set(path.rtt.as_secs_f64());
        self.path_mtu.set(path.mtu.into());
        self.path_lost.add(path.lost_packets.saturating_sub(before.lost_packets));
        self.path_congestion.add(path.congestion_events.saturating_sub(before.congestion_events));
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
    responder_outcomes: Box<[CounterCell]>,
    responder_refused: Box<[CounterCell]>,
    responder_oversized: CounterCell,
}

impl ShardSeries {
    /// Cells one shard takes for itself.
    pub const CELLS: usize = 7
        + ReflectorRefusal::ALL.len()
        + ProbeRefusal::ALL.len()
        + Outcome::ALL.len()
        + ResponderRefusal::ALL.len();

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
            responder_outcomes: Outcome::ALL
                .iter()
                .map(|outcome| counter(&families::RESPONDER_PACKETS, &[outcome.label()]))
                .collect::<Result<_, _>>()?,
            responder_refused: ResponderRefusal::ALL
                .iter()
                .map(|reason| counter(&families::RESPONDER_PACKETS, &[reason.label()]))
                .collect::<Result<_, _>>()?,
            responder_oversized: counter(&families::RESPONDER_PACKETS, &["oversized"])?,
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

    /// Counts a datagram at a QUIC responder: of use, refused, or, with `None`, too long.
    pub(crate) fn note_responded(&mut self, result: Option<Result<Outcome, ResponderRefusal>>) {
        match result {
            Some(Ok(outcome)) => count(&Outcome::ALL, outcome, &mut self.responder_outcomes),
            Some(Err(refusal)) => count(&ResponderRefusal::ALL, refusal, &mut self.responder_refused),
            None => self.responder_oversized.add(1),
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
    use std::sync::Arc;

    use crate::probe::quic::{Client, ClientOptions, IDLE_DEFAULT, Verification};

    #[test]
    fn a_shard_and_a_target_take_at_most_as_many_cells_and_series_as_they_say() {
        let cells_per_shard = ShardSeries::CELLS + TargetSeries::CELLS + EndpointSeries::CELLS;
        let max_series = ShardSeries::CELLS + TargetSeries::CELLS + EndpointSeries::SERIES;
        let sizes = HubConfig { cells_per_shard, max_series, ..HubConfig::default() };
        let Hub { registry, .. } = hub(sizes).unwrap();
        let mut interned = Vec::new();
        let address = "192.0.2.9:862".parse().unwrap();
        // QUIC has most to tell.
        let client = Client::new(ClientOptions {
            server_name: "b.example".to_owned(),
            alpn: Vec::new(),
            verification: Verification::Insecure,
            idle: IDLE_DEFAULT,
        });
        let quic = Protocol::Quic(Arc::new(client.unwrap()));
        let labels = EndpointLabels { target: "b", address, protocol: quic.label(), group: "default" };
        let shard = ShardSeries::intern(&registry, ShardId(0));
        let target = TargetSeries::intern(&registry, ShardId(0), "b", &mut interned);
        let endpoint = EndpointSeries::intern(&registry, ShardId(0), &labels, &quic, &mut interned);
        assert!(shard.is_ok() && target.is_ok() && endpoint.is_ok());
        let all = TargetSeries::CELLS + EndpointSeries::SERIES;
        assert_eq!(interned.len(), all, "all ids are there to be retired");
        let room = registry.room(ShardId(0)).unwrap();
        assert_eq!((room.cells, room.series), (0, 0));
    }
}
