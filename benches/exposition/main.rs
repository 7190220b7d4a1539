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
//! | `relayscope` | `ControlPlane::exposition` over the cells that a publisher wrote; `1 M series` of ten times as many |
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
use relayscope_benches::series::{self, FAMILIES};

mod ours;
mod peers;

use ours::Ours;
use peers::{Client, Exporter, Memcpy, Prometheus};

const SERIES: usize = 100_000;
const SERIES_MANY: usize = 1_000_000;
const OURS: &str = "relayscope";
const OURS_MANY: &str = "relayscope, 1 M series";

const ROUNDS: u64 = 41;
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
            series::check(self.name, body.octets(), self.targets, round);
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
    let rounds = if std::env::args().any(|arg| arg == "--quick") { ROUNDS_QUICK } else { ROUNDS };
    let targets = SERIES / FAMILIES.len();
    let mut all = vec![
        Measured::new(OURS, SERIES, Ours::new(targets)),
        Measured::new("exporter", SERIES, Exporter::new(targets)),
        Measured::new("prometheus", SERIES, Prometheus::new(targets)),
        Measured::new("client", SERIES, Client::new(targets)),
        Measured::new(OURS_MANY, SERIES_MANY, Ours::new(SERIES_MANY / FAMILIES.len())),
    ];
    let body = warm(&mut all);
    let checked = all.len();
    all.push(Measured::new("memcpy", SERIES, Memcpy::into_the_same(&body)));
    all.push(Measured::new("memcpy, fresh", SERIES, Memcpy::into_fresh(&body)));
    interleave(rounds, checked, &mut all);
    print(&all);

    println!();
    for (name, ours, theirs) in [
        ("render_vs_exporter", OURS, "exporter"),
        ("render_vs_prometheus", OURS, "prometheus"),
        ("render_vs_client", OURS, "client"),
        ("render_vs_memcpy", OURS, "memcpy"),
        ("render_vs_memcpy_fresh", OURS, "memcpy, fresh"),
        ("grow_1m_vs_100k", OURS_MANY, OURS),
    ] {
        let rounds = |name| all.iter().find(|measured| measured.name == name).unwrap().seconds();
        let ratios = rounds(ours).zip(rounds(theirs)).map(|(ours, theirs)| ours / theirs);
        println!("RATIO {name} {:.4}", Spread::of(ratios.collect()).median);
    }
}

/// A first round of each, checked and not counted; gives our body of the first.
fn warm(all: &mut [Measured]) -> Vec<u8> {
    let mut ours = Vec::new();
    for measured in all.iter_mut().rev() {
        measured.contender.set(0);
        let body = measured.contender.render();
        series::check(measured.name, body.octets(), measured.targets, 0);
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

fn print(all: &[Measured]) {
    println!(
        "\n  {:<22} {:>9}  {:<22} {:>10} {:>11}",
        "100,000 series", "ms", "[min .. max]", "body", "ns/sample"
    );
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
