//! What the death of the control plane does to the core that records: nothing.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench restarts     about half a minute
//! ```
//!
//! A pinned loop of fixed work, about a million packets a second, records each of them into a segment. A
//! real `relayscope controlplane` process on the other cores reads it and is scraped ten times a second.
//! Slices in which it lives alternate with slices in which it is killed with SIGKILL and started again;
//! twenty times. At the end what was recorded must be what all of them together delivered and lost, to the
//! unit, as the last one tells over HTTP, and the same for a passive tap that was never disturbed.
//!
//! `RATIO restarts_p999_vs_undisturbed` is the p99.9 of the disturbed slice over that of the undisturbed
//! one beside it, the median of all rounds; `..._control` the same of two undisturbed slices.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use hdrhistogram::Histogram;
use relayscope_benches::beside::{Scraper, beside, every};
use relayscope_benches::binary::build_relayscope;
use relayscope_benches::packet_loop::{
    LARGE_PACKET_BYTES, Packet, Recorder, Slice, latencies_ns, leave_last_core,
};
use relayscope_benches::report::Spread;
use relayscope_bridge::catalogue::{Family, Unit};
use relayscope_bridge::{
    Consumer, CounterCell, Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue, Publisher,
    ShardId, Start, create,
};

const ROUNDS: usize = 20;
const TIMED: Duration = Duration::from_millis(400);
/// Into a disturbed slice, past its warming up.
const KILL_AFTER: Duration = Duration::from_millis(150);
const SCRAPE_PAUSE: Duration = Duration::from_millis(100);
const TAP_PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// A quarter of a second of packets: while nobody drains, some are lost, and must be counted.
const RING_SLOTS: usize = 256 * 1024;

static PACKETS: Family =
    Family::new("forwarded_packets_total", MetricKind::Counter, Unit::None, &[], "Packets forwarded.");
static FORWARDING: Family =
    Family::new("forwarding_seconds", MetricKind::Histogram, Unit::Seconds, &[], "Time to forward a packet.");

/// What the relay's core holds.
struct Relay {
    publisher: Publisher,
    packets: CounterCell,
    forwarding: MetricId,
}

impl Recorder for Relay {
    #[inline]
    fn record(&mut self, packet: &Packet) {
        self.packets.add(1);
        self.publisher.beat(packet.arrived_ns);
        self.publisher.record(MetricSample {
            metric_id: self.forwarding,
            timestamp_ns: packet.arrived_ns,
            value: MetricValue::Histogram(packet.forwarding_seconds),
        });
    }
}

/// A control plane in a process of its own.
struct ControlPlane {
    binary: String,
    segment: String,
    http: SocketAddr,
    child: Child,
}

impl ControlPlane {
    fn start(binary: &str, segment: &Path) -> Self {
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (binary, segment) = (binary.to_owned(), segment.to_str().unwrap().to_owned());
        let child = spawn(&binary, &segment, http);
        Self { binary, segment, http, child }
    }

    /// SIGKILL, and a successor at once.
    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.binary, &self.segment, self.http);
    }

    /// Drained up to `recorded`, as its scrape tells: what it and those before it drained and lost.
    fn wait_drained(&self, recorded: u64) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut scraper = Scraper::new(self.http);
        loop {
            let answered = scraper.try_scrape().is_ok();
            let of = |family: &str| scraper.sum(family);
            let (drained, lost) =
                (of("relay_ring_drained_samples_total"), of("relay_ring_overwritten_samples_total"));
            if answered && drained + lost == recorded {
                assert_eq!(of("relay_ring_recorded_samples_total"), recorded);
                assert_eq!(of("relay_forwarded_packets_total"), recorded);
                return (drained, lost);
            }
            assert!(Instant::now() < deadline, "{drained} drained and {lost} lost are not {recorded}");
            std::thread::sleep(TAP_PAUSE);
        }
    }
}

fn spawn(binary: &str, segment: &str, http: SocketAddr) -> Child {
    let mut command = Command::new(binary);
    command.args(["controlplane", "--segment", segment, "--listen", &http.to_string()]);
    command.env("XDG_STATE_HOME", std::env::temp_dir().join("relayscope-benches"));
    command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

fn main() {
    let Some((core, _)) = leave_last_core() else {
        println!("SKIPPED restarts: it needs two cores, and leave to pin to them");
        return;
    };
    let binary = build_relayscope();
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment = directory.path().join("segment");
    let config = HubConfig { ring_capacity: RING_SLOTS, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = create(&segment, config).unwrap();
    let mut relay = Relay {
        publisher: publishers.remove(0),
        packets: registry.counter(ShardId(0), &PACKETS, &[]).unwrap(),
        forwarding: registry.stream(ShardId(0), &FORWARDING, &[]).unwrap(),
    };
    let mut tap = collector.shard(ShardId(0)).unwrap().tap(Start::First);
    let mut plane = ControlPlane::start(&binary, &segment);
    plane.wait_drained(0);

    let (mut ratios, mut controls) = (Vec::new(), Vec::new());
    let mut totals = [latencies_ns(), latencies_ns(), latencies_ns()];
    for round in 0..ROUNDS {
        let mut p999 = [0.0; 3];
        // In turn first, second and last.
        for turn in 0..3 {
            let which = (round + turn) % 3;
            let mut slice_ns = latencies_ns();
            run(core, &mut relay, &mut tap, &mut plane, which == 2, &mut slice_ns);
            p999[which] = slice_ns.value_at_quantile(0.999) as f64;
            totals[which].add(&slice_ns).unwrap();
        }
        ratios.push(p999[2] / p999[0]);
        controls.push(p999[1] / p999[0]);
    }

    let recorded = relay.publisher.recorded();
    let (drained, lost) = plane.wait_drained(recorded);
    tap.drain(|_| {});
    let account = tap.account();
    assert_eq!((account.recorded, account.unread), (recorded, 0));
    assert_eq!(account.delivered + account.lost, recorded);

    println!(
        "\n  {:<24} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ns per iteration", "p50", "p99", "p99.9", "p99.99", "max"
    );
    for (name, total) in ["undisturbed", "undisturbed again", "killed and restarted"].iter().zip(&totals) {
        print!("  {name:<24}");
        for quantile in [0.5, 0.99, 0.999, 0.9999, 1.0] {
            print!(" {:>9}", total.value_at_quantile(quantile));
        }
        println!();
    }
    let timed = totals.iter().map(Histogram::len).sum::<u64>() as f64;
    let seconds = TIMED.as_secs_f64() * (3 * ROUNDS) as f64;
    println!("\n  {:.2} M samples/s; {ROUNDS} times killed and restarted", timed / seconds / 1e6);
    println!("  control planes: {recorded} recorded = {drained} delivered + {lost} lost");
    println!(
        "  a tap:          {recorded} recorded = {} delivered + {} lost\n",
        account.delivered, account.lost
    );
    let (ratio, control) = (Spread::of(ratios), Spread::of(controls));
    println!(
        "  disturbed over undisturbed p99.9: {:.3} [{:.3} .. {:.3}]",
        ratio.median, ratio.min, ratio.max
    );
    println!(
        "  the control:                      {:.3} [{:.3} .. {:.3}]\n",
        control.median, control.min, control.max
    );
    println!("RATIO restarts_p999_vs_undisturbed {:.3}", ratio.median);
    println!("RATIO restarts_control {:.3}", control.median);
}

/// One slice beside a control plane that is scraped, and killed in the slice's midst or not.
fn run(
    core: CoreId,
    relay: &mut Relay,
    tap: &mut Consumer,
    plane: &mut ControlPlane,
    kill: bool,
    slice_ns: &mut Histogram<u64>,
) {
    let mut scraper = Scraper::new(plane.http);
    let follow = every(TAP_PAUSE, || {
        tap.drain(|_| {});
    });
    // While nobody is there, nobody answers.
    let scrape = every(SCRAPE_PAUSE, || scraper.try_scrape().unwrap_or_default());
    let mut slice = Slice::of(LARGE_PACKET_BYTES, TIMED, core, slice_ns);
    std::thread::scope(|scope| {
        if kill {
            scope.spawn(|| {
                std::thread::sleep(KILL_AFTER);
                plane.kill_and_restart();
            });
        }
        beside(vec![follow, scrape], || slice.run(relay));
    });
}
