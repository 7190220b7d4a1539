//! What a user would pick instead, and nothing at all.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard};

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::{Form, RING_SLOTS, SCRAPE_PAUSE};
use relayscope_benches::beside::{Scraper, beside, every};
use relayscope_benches::packet_loop::{Nothing, PACKET_BYTES, PEERS, Packet, Recorder, Slice};

/// Upper bounds of histogram buckets in seconds: powers of two from 60 ns to 1 ms, as ours are.
fn bucket_bounds() -> Vec<f64> {
    (-24..=-10).map(|exponent| 2f64.powi(exponent)).collect()
}

/// The loop alone.
pub(crate) struct NoTelemetry(pub(crate) &'static str);

impl Form for NoTelemetry {
    fn name(&self) -> &'static str {
        self.0
    }

    fn run(&mut self, slice: &mut Slice<'_>) {
        slice.run(&mut Nothing);
    }

    fn check(&mut self, _packets: u64) -> String {
        "nothing to check".to_owned()
    }
}

/// Held handles of the `metrics` facade; metrics-exporter-prometheus with its own HTTP listener, and
/// its upkeep every 5 s as by default: a scrape folds what was recorded before it.
pub(crate) struct Exporter {
    relay: FacadeHandles,
    scraper: Scraper,
}

/// Handles of whichever recorder the facade had when they were made.
pub(crate) struct FacadeHandles(Vec<PeerHandles>);

struct PeerHandles {
    packets: metrics::Counter,
    bytes: metrics::Counter,
    forwarding: metrics::Histogram,
    queued: metrics::Gauge,
}

impl Recorder for FacadeHandles {
    #[inline]
    fn record(&mut self, packet: &Packet) {
        let peer = &self.0[packet.peer];
        peer.packets.increment(1);
        peer.bytes.increment(packet.bytes);
        peer.queued.set(packet.queued);
        peer.forwarding.record(packet.forwarding_seconds);
    }
}

impl FacadeHandles {
    pub(crate) fn new() -> Self {
        let peer = |n| {
            let peer = format!("peer-{n}");
            PeerHandles {
                packets: metrics::counter!("forwarded_packets_total", "peer" => peer.clone()),
                bytes: metrics::counter!("forwarded_bytes_total", "peer" => peer.clone()),
                forwarding: metrics::histogram!("forwarding_seconds", "peer" => peer.clone()),
                queued: metrics::gauge!("queued_packets", "peer" => peer),
            }
        };
        Self((0..PEERS).map(peer).collect())
    }
}

impl Exporter {
    pub(crate) fn new() -> Self {
        let address = free_address();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let builder = PrometheusBuilder::new().set_buckets(&bucket_bounds()).unwrap();
        let entered = runtime.enter();
        let (recorder, exporter) = builder.with_http_listener(address).build().unwrap();
        drop(entered);
        let relay = metrics::with_local_recorder(&recorder, FacadeHandles::new);
        std::thread::spawn(move || runtime.block_on(exporter));
        Self { relay, scraper: Scraper::new(address) }
    }
}

/// The exporter binds by itself and does not say where, so port 0 will not do.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Form for Exporter {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn run(&mut self, slice: &mut Slice<'_>) {
        let scraping = every(SCRAPE_PAUSE, || self.scraper.scrape());
        beside(vec![scraping], || slice.run(&mut self.relay));
    }

    fn check(&mut self, packets: u64) -> String {
        self.scraper.scrape();
        assert_eq!(self.scraper.sum("forwarded_packets_total"), packets);
        assert_eq!(self.scraper.sum("forwarded_bytes_total"), packets * PACKET_BYTES as u64);
        // Perhaps not all: a fold that comes between the making of a new block of samples and its linking to
        // the old ones does not find those again.
        let observed = self.scraper.sum("forwarding_seconds_count");
        assert!((1..=packets).contains(&observed), "{observed} of {packets} observed");
        format!("{}; {} samples lost by the exporter", self.scraper.summary(), packets - observed)
    }
}

/// The telemetry behind one `Mutex`: counters, gauges, and observations queued in as many slots as our
/// ring has. Ten times a second a control thread locks it, folds what is queued and renders the text,
/// without HTTP.
pub(crate) struct Locked {
    shared: Mutex<State>,
}

struct State {
    peers: Vec<LockedPeer>,
    queue: VecDeque<(usize, f64)>,
    overwritten: u64,
    bounds: Vec<f64>,
    text: String,
}

#[derive(Clone)]
struct LockedPeer {
    packets: u64,
    bytes: u64,
    queued: f64,
    /// One more than there are bounds: the last is for what exceeds them.
    buckets: Vec<u64>,
    sum_seconds: f64,
}

struct LockedRelay<'a>(&'a Mutex<State>);

impl Recorder for LockedRelay<'_> {
    #[inline]
    fn record(&mut self, packet: &Packet) {
        let mut state = lock(self.0);
        let peer = &mut state.peers[packet.peer];
        peer.packets += 1;
        peer.bytes += packet.bytes;
        peer.queued = packet.queued;
        if state.queue.len() == RING_SLOTS {
            state.queue.pop_front();
            state.overwritten += 1;
        }
        state.queue.push_back((packet.peer, packet.forwarding_seconds));
    }
}

impl State {
    fn fold_and_render(&mut self) {
        while let Some((peer, seconds)) = self.queue.pop_front() {
            let peer = &mut self.peers[peer];
            peer.buckets[self.bounds.partition_point(|bound| *bound < seconds)] += 1;
            peer.sum_seconds += seconds;
        }
        self.text.clear();
        for (n, peer) in self.peers.iter().enumerate() {
            writeln!(self.text, "forwarded_packets_total{{peer=\"peer-{n}\"}} {}", peer.packets).unwrap();
            writeln!(self.text, "forwarded_bytes_total{{peer=\"peer-{n}\"}} {}", peer.bytes).unwrap();
            writeln!(self.text, "queued_packets{{peer=\"peer-{n}\"}} {}", peer.queued).unwrap();
            let mut count = 0;
            for (bound, observed) in self.bounds.iter().chain([&f64::INFINITY]).zip(&peer.buckets) {
                count += observed;
                let labels = format_args!("{{peer=\"peer-{n}\",le=\"{bound}\"}}");
                writeln!(self.text, "forwarding_seconds_bucket{labels} {count}").unwrap();
            }
            writeln!(self.text, "forwarding_seconds_sum{{peer=\"peer-{n}\"}} {}", peer.sum_seconds).unwrap();
            writeln!(self.text, "forwarding_seconds_count{{peer=\"peer-{n}\"}} {count}").unwrap();
        }
        black_box(&self.text);
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap()
}

impl Locked {
    pub(crate) fn new() -> Self {
        let bounds = bucket_bounds();
        let buckets = vec![0; bounds.len() + 1];
        let peer = LockedPeer { packets: 0, bytes: 0, queued: 0.0, buckets, sum_seconds: 0.0 };
        let queue = VecDeque::with_capacity(RING_SLOTS);
        let peers = vec![peer; PEERS];
        Self { shared: Mutex::new(State { peers, queue, overwritten: 0, bounds, text: String::new() }) }
    }
}

impl Form for Locked {
    fn name(&self) -> &'static str {
        "mutex"
    }

    fn run(&mut self, slice: &mut Slice<'_>) {
        let control = every(SCRAPE_PAUSE, || lock(&self.shared).fold_and_render());
        beside(vec![control], || slice.run(&mut LockedRelay(&self.shared)));
    }

    fn check(&mut self, packets: u64) -> String {
        let state = lock(&self.shared);
        let total = |of: fn(&LockedPeer) -> u64| state.peers.iter().map(of).sum::<u64>();
        assert_eq!(total(|peer| peer.packets), packets);
        assert_eq!(total(|peer| peer.bytes), packets * PACKET_BYTES as u64);
        let folded = total(|peer| peer.buckets.iter().sum());
        assert_eq!(folded + state.overwritten, packets);
        let size_kib = state.text.len().div_ceil(1024);
        format!("text of {size_kib} KiB; {} samples overwritten unread", state.overwritten)
    }
}
