//! What fills the ring, and who drains it.

use std::hint::black_box;

use relayscope_benches::process::monotonic_ns;
use relayscope_bridge::catalogue::{PROBE_FAMILY_RTT, PROBE_RTT_SECONDS, PROBE_SENT};
use relayscope_bridge::{
    Consumer, Hub, HubConfig, MetricId, MetricSample, MetricValue, Producer, Publisher, SeriesRegistry,
    ShardId, TelemetryRing, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};

use crate::{Form, RING_SLOTS, SAMPLES, SERIES};

const SHARD: ShardId = ShardId(0);
/// One of so many round-trip times is up to five times the others'.
const WAITED: u64 = 100;

/// What is recorded.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Counters,
    Gauges,
    Observations,
    ObservationsOfOne,
    Mixed,
}

/// Spreads the bits of a number (splitmix64).
fn scrambled(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A round-trip time in seconds: of each series from a least one of its own up to a fifth above; of a hundred one
/// that waited.
fn rtt(series: usize, noise: u64) -> f64 {
    let least_ns = 200_000 + scrambled(series as u64) % 80_000_000;
    let waited_ns = if noise.is_multiple_of(WAITED) { noise % (4 * least_ns) } else { 0 };
    (least_ns + (noise >> 32) % (least_ns / 5) + waited_ns) as f64 / 1e9
}

/// Sample number `n` of `kind`, of the series in `ids`: those of counters, of gauges and of histograms.
fn sample(kind: Kind, ids: &[Vec<MetricId>; 3], n: u64) -> MetricSample {
    let series = (n % SERIES as u64) as usize;
    let noise = scrambled(n);
    let (of, series) = match kind {
        Kind::Counters => (0, series),
        Kind::Gauges => (1, series),
        Kind::Observations => (2, series),
        Kind::ObservationsOfOne => (2, 0),
        Kind::Mixed => ((noise >> 8) as usize % 3, series),
    };
    let value = match of {
        0 => MetricValue::Counter(n),
        1 => MetricValue::Gauge(rtt(series, noise)),
        _ => MetricValue::Histogram(rtt(series, noise)),
    };
    MetricSample { metric_id: ids[of][series], timestamp_ns: n, value }
}

/// A control plane over a hub of one shard.
pub(crate) struct Plane {
    kind: Kind,
    publisher: Publisher,
    _registry: SeriesRegistry,
    ids: [Vec<MetricId>; 3],
    plane: ControlPlane,
}

impl Plane {
    pub(crate) fn new(kind: Kind) -> Self {
        let config = HubConfig { ring_capacity: RING_SLOTS, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let mut ids = [Vec::new(), Vec::new(), Vec::new()];
        for target in (0..SERIES).map(|n| format!("relay-{n}")) {
            let labels: &[&str] = &[&target, "ipv4"];
            ids[0].push(registry.counter(SHARD, &PROBE_SENT, labels).unwrap().id());
            ids[1].push(registry.gauge(SHARD, &PROBE_FAMILY_RTT, labels).unwrap().id());
            ids[2].push(registry.stream(SHARD, &PROBE_RTT_SECONDS, labels).unwrap());
        }
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        Self { kind, publisher: publishers.remove(0), _registry: registry, ids, plane }
    }
}

impl Form for Plane {
    fn fill(&mut self) {
        let from = self.publisher.recorded();
        for n in from..from + SAMPLES {
            self.publisher.record(sample(self.kind, &self.ids, n));
        }
    }

    fn drain(&mut self) {
        self.plane.tick();
    }

    fn check(&mut self, samples: u64) {
        let [(_, account)] = self.plane.accounts()[..] else { panic!("there is one shard") };
        assert_eq!((account.recorded, account.delivered, account.unread), (samples, samples, 0));
        // Gauges of a silent shard are not shown.
        self.publisher.beat(monotonic_ns());
        let body = self.plane.exposition();
        let text = std::str::from_utf8(&body).unwrap();
        let sum = |family: &str| {
            let lines = text.lines().filter(|line| line.starts_with(family));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        let mut expected = [0.0; 3];
        let mut newest = [vec![0.0; SERIES], vec![0.0; SERIES]];
        for n in 0..samples {
            let sample = sample(self.kind, &self.ids, n);
            let series = (n % SERIES as u64) as usize;
            match sample.value {
                MetricValue::Counter(total) => newest[0][series] = total as f64,
                MetricValue::Gauge(value) => newest[1][series] = value,
                MetricValue::Histogram(_) => expected[2] += 1.0,
            }
        }
        expected[0] = newest[0].iter().sum();
        expected[1] = newest[1].iter().sum();
        let said = [
            sum("relay_probe_sent_total{"),
            sum("relay_probe_family_rtt_seconds{"),
            sum("relay_probe_rtt_seconds_count{"),
        ];
        for (said, expected) in said.iter().zip(expected) {
            assert!((said - expected).abs() <= expected * 1e-9, "{said} is said, {expected} were recorded");
        }
        assert_eq!(sum("relay_drain_refused_samples_total"), 0.0);
    }
}

/// A reader that does nothing but read.
pub(crate) struct Bare {
    producer: Producer,
    consumer: Consumer,
    sum: u64,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let (producer, consumer) = TelemetryRing::with_capacity(RING_SLOTS);
        Self { producer, consumer, sum: 0 }
    }
}

impl Form for Bare {
    fn fill(&mut self) {
        let from = self.producer.recorded();
        for n in from..from + SAMPLES {
            let value = MetricValue::Counter(n);
            self.producer.record(MetricSample { metric_id: MetricId(0), timestamp_ns: n, value });
        }
    }

    fn drain(&mut self) {
        let mut sum = 0;
        self.consumer.drain(|sample| sum += sample.timestamp_ns);
        self.sum += black_box(sum);
    }

    fn check(&mut self, samples: u64) {
        let account = self.consumer.account();
        assert_eq!((account.recorded, account.delivered), (samples, samples));
        assert_eq!(self.sum, samples * (samples - 1) / 2);
    }
}
