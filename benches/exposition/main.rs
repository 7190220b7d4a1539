//! What one scrape costs to render, side by side with what a user would pick instead.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench exposition             about a minute
//! cargo bench -p relayscope-benches --bench exposition -- --quick  a few rounds, for a first look
//! ```
//!
//! 100,000 series of 10,000 targets: as many counters as gauges, these with fractional values, labels `target` and
//! `family`. Every value changes between rounds, so that nobody can answer from a cache; ours is drained in between
//! and renders anew. What is timed is rendering: from the values to the whole body.
//!
//! | contender | what is timed |
//! |---|---|
//! | `relayscope` | `ControlPlane::exposition` over the cells that a publisher wrote |
//! | `exporter` | `render` of metrics-exporter-prometheus |
//! | `prometheus` | `gather` and `TextEncoder`, into a buffer that is kept |
//! | `client` | `encode` of prometheus-client, into a buffer that is kept |
//! | `memcpy` | a copy of our body into memory that was written before; `memcpy, fresh` into fresh memory |
//!
//! Each body of the first and the last round is parsed and must say what was set: the same set of samples for all.
//! All contenders take turns in each round, in another order every round. The last lines are `RATIO <name> <value>`:
//! our time over the peer's in the same round, the median of all rounds; `grow_1m_vs_100k` is ours for a million
//! series over ours for 100,000. Lower is better.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::time::{Duration, Instant};

use relayscope_benches::report::Spread;

mod load;
mod ours;
mod peers;

use load::FAMILIES;
use ours::Ours;
use peers::{Client, Exporter, Memcpy, Prometheus};

const SERIES: usize = 100_000;
const SERIES_MANY: usize = 1_000_000;

const ROUNDS: u64 = 41;
const ROUNDS_MANY: u64 = 11;
const ROUNDS_QUICK: u64 = 5;

/// What was rendered.
enum Body {
    /// By ours: all scrapes of a drain epoch share one.
    Shared(bytes::Bytes),
    Own(Vec<u8>),
}

impl Body {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Shared(octets) => octets,
            Self::Own(octets) => octets,
        }
    }
}

/// Something that renders the load's series.
trait Contender {
    /// Sets every value to what the load says in `round`. Not timed.
    fn set(&mut self, round: u64);
    /// Renders them. Timed.
    fn render(&mut self) -> Body;
    /// Is given the memory of its last body, where that was its own. Not timed.
    fn take_back(&mut self, _buffer: Vec<u8>) {}
}

/// A contender and what its rounds took.
struct Measured {
    name: &'static str,
    targets: usize,
    contender: Box<dyn Contender>,
    times: Vec<Duration>,
    body_len: usize,
}

impl Measured {
    fn new(name: &'static str, series: usize, contender: impl Contender + 'static) -> Self {
        let (targets, contender) = (series / FAMILIES.len(), Box::new(contender));
        Self { name, targets, contender, times: Vec::new(), body_len: 0 }
    }

    fn measure(&mut self, round: u64, is_checked: bool) {
        self.contender.set(round);
        let began = Instant::now();
        let body = self.contender.render();
        self.times.push(began.elapsed());
        self.body_len = body.octets().len();
        if is_checked {
            load::check(self.name, body.octets(), self.targets, round);
        }
        if let Body::Own(buffer) = body {
            self.contender.take_back(buffer);
        }
    }

    fn seconds(&self) -> impl Iterator<Item = f64> {
        self.times.iter().map(Duration::as_secs_f64)
    }
}

fn main() {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = |full| if is_quick { ROUNDS_QUICK } else { full };
    let mut all = vec![
        Measured::new("relayscope", SERIES, Ours::new(SERIES / FAMILIES.len())),
        Measured::new("exporter", SERIES, Exporter::new(SERIES / FAMILIES.len())),
        Measured::new("prometheus", SERIES, Prometheus::new(SERIES / FAMILIES.len())),
        Measured::new("client", SERIES, Client::new(SERIES / FAMILIES.len())),
    ];
    let body = warm(&mut all);
    let peers = all.len();
    all.push(Measured::new("memcpy", SERIES, Memcpy::into_the_same(&body)));
    all.push(Measured::new("memcpy, fresh", SERIES, Memcpy::into_fresh(&body)));
    interleave(rounds(ROUNDS), peers, &mut all);
    print("100,000 series", &all);

    let mut grown = vec![
        all.swap_remove(0),
        Measured::new("relayscope, 1 M", SERIES_MANY, Ours::new(SERIES_MANY / FAMILIES.len())),
    ];
    let [ours, many] = &mut grown[..] else { unreachable!("there are two") };
    let small = std::mem::take(&mut ours.times);
    many.measure(0, true);
    many.times.clear();
    let checked = grown.len();
    interleave(rounds(ROUNDS_MANY), checked, &mut grown);
    print("1,000,000 series", &grown);

    println!();
    for (name, peer) in [
        ("render_vs_exporter", "exporter"),
        ("render_vs_prometheus", "prometheus"),
        ("render_vs_client", "client"),
        ("render_vs_memcpy", "memcpy"),
        ("render_vs_memcpy_fresh", "memcpy, fresh"),
    ] {
        let peer = all.iter().find(|measured| measured.name == peer).unwrap();
        let ratios = small.iter().map(Duration::as_secs_f64).zip(peer.seconds());
        print_ratio(name, ratios);
    }
    print_ratio("grow_1m_vs_100k", grown[1].seconds().zip(grown[0].seconds()));
}

/// A first round of each, checked and not counted; gives our body.
fn warm(all: &mut [Measured]) -> Vec<u8> {
    let mut ours = Vec::new();
    for measured in all.iter_mut().rev() {
        measured.contender.set(0);
        let body = measured.contender.render();
        load::check(measured.name, body.octets(), measured.targets, 0);
        ours = body.octets().to_vec();
        if let Body::Own(buffer) = body {
            measured.contender.take_back(buffer);
        }
    }
    ours
}

/// Every contender once per round, each round beginning with another one. Of the first `checked`, the last round's
/// bodies are.
fn interleave(rounds: u64, checked: usize, all: &mut [Measured]) {
    for round in 1..=rounds {
        for turn in 0..all.len() {
            let which = (round as usize + turn) % all.len();
            all[which].measure(round, round == rounds && which < checked);
        }
    }
}

fn print(title: &str, all: &[Measured]) {
    println!("\n{title:<24} {:>9}  {:<22} {:>10} {:>11}", "ms", "[min .. max]", "body", "ns/sample");
    for measured in all {
        let time = Spread::of(measured.seconds().collect());
        let range = format!("[{:.2} .. {:.2}]", time.min * 1e3, time.max * 1e3);
        let samples = (measured.targets * FAMILIES.len()) as f64;
        println!(
            "  {:<22} {:>9.2}  {range:<22} {:>6.1} MB {:>11.0}",
            measured.name,
            time.median * 1e3,
            measured.body_len as f64 / 1e6,
            time.median * 1e9 / samples
        );
    }
}

fn print_ratio(name: &str, rounds: impl Iterator<Item = (f64, f64)>) {
    println!("RATIO {name} {:.4}", Spread::of(rounds.map(|(ours, theirs)| ours / theirs).collect()).median);
}
