//! relayscope as a relay uses it: cells and a ring, the control plane draining and serving. All that
//! this bench knows of its interface is in this file.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use relayscope_bridge::catalogue::{Family, Unit};
use relayscope_bridge::{
    Consumer, CounterCell, GaugeCell, Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue,
    Publisher, ShardId, Start, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};

use crate::{Form, RING_SLOTS, SCRAPE_PAUSE};
use relayscope_benches::beside::{Scraper, beside, every};
use relayscope_benches::packet_loop::{PACKET_BYTES, PEERS, Packet, Recorder, Slice};

/// A tap follows closely: it drains, then waits this long.
pub(crate) const TAP_PAUSE: Duration = Duration::from_millis(1);

const SHARD: ShardId = ShardId(0);
/// Packets between two signs of life.
const BEAT_PACKETS: u64 = 4096;

static PACKETS: Family =
    Family::new("forwarded_packets_total", MetricKind::Counter, Unit::None, &["peer"], "Packets forwarded.");
static BYTES: Family =
    Family::new("forwarded_bytes_total", MetricKind::Counter, Unit::Bytes, &["peer"], "Bytes forwarded.");
static FORWARDING: Family = Family::new(
    "forwarding_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    &["peer"],
    "Time to forward a packet.",
);
static QUEUED: Family =
    Family::new("queued_packets", MetricKind::Gauge, Unit::None, &["peer"], "Packets queued.");

/// What the relay's core holds.
struct Relay {
    publisher: Publisher,
    peers: Vec<Peer>,
}

struct Peer {
    packets: CounterCell,
    bytes: CounterCell,
    forwarding: MetricId,
    queued: GaugeCell,
}

impl Recorder for Relay {
    #[inline]
    fn record(&mut self, packet: &Packet) {
        let peer = &mut self.peers[packet.peer];
        peer.packets.add(1);
        peer.bytes.add(packet.bytes);
        peer.queued.set(packet.queued);
        if self.publisher.recorded().is_multiple_of(BEAT_PACKETS) {
            self.publisher.beat(packet.arrived_ns);
        }
        self.publisher.record(MetricSample {
            metric_id: peer.forwarding,
            timestamp_ns: packet.arrived_ns,
            value: MetricValue::Histogram(packet.forwarding_seconds),
        });
    }
}

/// A passive reader of the ring.
struct Tap {
    consumer: Consumer,
    delivered: u64,
    newest_ns: u64,
}

impl Tap {
    fn follow(&mut self) {
        let mut ordered = true;
        let drained = self.consumer.drain(|sample| {
            ordered &= sample.timestamp_ns >= self.newest_ns;
            self.newest_ns = sample.timestamp_ns;
        });
        assert!(ordered, "samples came out of order");
        self.delivered += drained.delivered;
    }
}

/// Ring and cells, drained by the control plane, scraped over its HTTP server, with or without taps.
pub(crate) struct Ours {
    name: &'static str,
    relay: Relay,
    plane: ControlPlane,
    _server: ServerThread,
    scraper: Scraper,
    taps: Vec<Tap>,
}

impl Ours {
    pub(crate) fn new(name: &'static str, taps: usize) -> Self {
        let config = HubConfig {
            ring_capacity: RING_SLOTS,
            cells_per_shard: 4 * PEERS,
            max_series: 4 * PEERS,
            ..HubConfig::default()
        };
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let (_, reader) = collector.shards().next().unwrap();
        let tap = || Tap { consumer: reader.tap(Start::Oldest), delivered: 0, newest_ns: 0 };
        let taps = std::iter::repeat_with(tap).take(taps).collect();
        // As it comes: drained every 100 ms.
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        let peer = |n: usize| {
            let labels: &[&str] = &[&format!("peer-{n}")];
            Peer {
                packets: registry.counter(SHARD, &PACKETS, labels).unwrap(),
                bytes: registry.counter(SHARD, &BYTES, labels).unwrap(),
                forwarding: registry.stream(SHARD, &FORWARDING, labels).unwrap(),
                queued: registry.gauge(SHARD, &QUEUED, labels).unwrap(),
            }
        };
        let relay = Relay { publisher: publishers.remove(0), peers: (0..PEERS).map(peer).collect() };
        let (server, scraper) = serve(&plane);
        Self { name, relay, plane, _server: server, scraper, taps }
    }
}

impl Form for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, slice: &mut Slice<'_>) {
        let drain = self.plane.spawn_drain().unwrap();
        let mut others = vec![every(SCRAPE_PAUSE, || self.scraper.scrape())];
        others.extend(self.taps.iter_mut().map(|tap| every(TAP_PAUSE, || tap.follow())));
        beside(others, || slice.run(&mut self.relay));
        drain.stop().unwrap();
    }

    fn check(&mut self, packets: u64) -> String {
        let lost = check_served(&self.plane, &mut self.scraper, "relay_", packets);
        let mut text = format!("{}; {lost} samples overwritten unread", self.scraper.summary());
        for tap in &self.taps {
            let account = tap.consumer.account();
            assert_eq!((account.recorded, account.unread), (packets, 0));
            assert_eq!((account.delivered, account.delivered + account.lost), (tap.delivered, packets));
            write!(text, "; a tap: {} lost", account.lost).unwrap();
        }
        text
    }
}

/// Serves `plane` for as long as the value lives, and scrapes it there.
pub(crate) fn serve(plane: &ControlPlane) -> (ServerThread, Scraper) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = ServerThread::spawn(listener, plane.clone(), Limits::default()).unwrap();
    let scraper = Scraper::new(server.local_addr());
    (server, scraper)
}

/// That `packets` packets, no more and no fewer, are in the account and in a last scrape, whose families have
/// `prefix` before their names. Gives the samples lost to the control plane.
pub(crate) fn check_served(plane: &ControlPlane, scraper: &mut Scraper, prefix: &str, packets: u64) -> u64 {
    let (_, account) = plane.accounts()[0];
    assert_eq!((account.recorded, account.unread), (packets, 0));
    assert_eq!(account.delivered + account.lost, packets);
    scraper.scrape();
    let sum = |name: &str| scraper.sum(&format!("{prefix}{name}"));
    assert_eq!(sum("forwarded_packets_total"), packets);
    assert_eq!(sum("forwarded_bytes_total"), packets * PACKET_BYTES as u64);
    assert_eq!(sum("forwarding_seconds_count"), account.delivered);
    assert_eq!(scraper.sum("relay_ring_overwritten_samples_total"), account.lost);
    account.lost
}
