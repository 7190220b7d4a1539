//! What telemetry does to the time of each packet on a pinned core, side by side with none and with
//! what a user would pick instead.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench jitter             about a minute
//! cargo bench -p relayscope-benches --bench jitter -- --quick  a few seconds: too few rounds for p99.9 on a machine that is shared
//! ```
//!
//! The loop runs alone on the last core: fixed work, then two counters, one observation and one gauge
//! per packet, 64 peers in turn. Everything else runs on the other cores: control plane, taps, servers,
//! scrapers.
//!
//! | form | beside the loop |
//! |---|---|
//! | `none`, `none again` | nothing; the second is the control: what the machine itself does to a ratio |
//! | `relayscope` | the control plane drains every 100 ms and is scraped over HTTP ten times a second |
//! | `relayscope, 4 taps` | the same, and four more readers of the ring that follow it, each 1 ms behind |
//! | `relayscope, facade` | as `relayscope`, recorded through held handles of the `metrics` facade |
//! | `metrics` | metrics-exporter-prometheus is scraped over its own HTTP ten times a second |
//! | `mutex` | a thread locks the state, folds and renders it ten times a second |
//!
//! All forms take turns in slices of 0.2 s, in another order every round. The last lines are
//! `RATIO <name> <value>`: a percentile over that of `none` in the same round, the median of all
//! rounds; lower is better.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::path::Path;
use std::time::Duration;

use core_affinity::CoreId;
use hdrhistogram::Histogram;
use relayscope_benches::packet_loop::{Slice, latencies_ns, leave_last_core};
use relayscope_benches::plot;
use relayscope_benches::report::Spread;

mod facade;
mod ours;
mod peers;

use facade::Facade;
use ours::Ours;
use peers::{Exporter, Locked, NoTelemetry};

/// Observations that our ring and the mutex's queue hold: what comes in a drain interval of 100 ms at
/// half a microsecond per packet, and some.
const RING_SLOTS: usize = 256 * 1024;
/// Between two scrapes.
const SCRAPE_PAUSE: Duration = Duration::from_millis(100);

/// With taps: four of them, the drain, the server and the thread it renders on, the scraper.
const THREADS_BESIDE: usize = 8;
const ROUNDS: usize = 34;
const ROUNDS_QUICK: usize = 3;

/// One way to run the loop.
trait Form {
    /// Its name in the table.
    fn name(&self) -> &'static str;
    /// Runs `slice` with all that belongs beside it, which ends with it.
    fn run(&mut self, slice: &mut Slice<'_>);
    /// Checks that `packets` packets, no more and no fewer, were recorded; panics if not. Says what
    /// else there is to say.
    fn check(&mut self, packets: u64) -> String;
}

/// A form and what was measured of it.
struct Measured {
    form: Box<dyn Form>,
    packets: u64,
    preemptions: u64,
    total_ns: Histogram<u64>,
    rounds: Vec<Percentiles>,
}

#[derive(Clone, Copy)]
struct Percentiles {
    p50_ns: f64,
    p999_ns: f64,
}

fn main() {
    let rounds = if std::env::args().any(|arg| arg == "--quick") { ROUNDS_QUICK } else { ROUNDS };
    let Some((core, others)) = leave_last_core() else {
        println!("SKIPPED jitter: it needs two cores, and leave to pin to them");
        return;
    };
    let others: Vec<_> = others.iter().map(|core| core.id.to_string()).collect();
    println!(
        "the loop is pinned to core {}, alone; all else, up to {THREADS_BESIDE} threads, shares core {}",
        core.id,
        others.join(", ")
    );
    let forms: [Box<dyn Form>; 7] = [
        Box::new(NoTelemetry("none")),
        Box::new(NoTelemetry("none again")),
        Box::new(Ours::new("relayscope", 0)),
        Box::new(Ours::new("relayscope, 4 taps", 4)),
        Box::new(Facade::new()),
        Box::new(Exporter::new()),
        Box::new(Locked::new()),
    ];
    let mut measured = forms.map(Measured::new);
    for round in 0..rounds {
        for turn in 0..measured.len() {
            let which = (round + turn) % measured.len();
            measured[which].run(core);
        }
    }
    print_latencies(&measured);
    println!();
    for form in &mut measured {
        println!("  {:<20} {}", form.form.name(), form.form.check(form.packets));
    }
    draw(&measured);
    print_ratios(&measured);
}

impl Measured {
    fn new(form: Box<dyn Form>) -> Self {
        Self { form, packets: 0, preemptions: 0, total_ns: latencies_ns(), rounds: Vec::new() }
    }

    fn run(&mut self, core: CoreId) {
        let mut slice_ns = latencies_ns();
        let mut slice = Slice::new(core, &mut slice_ns);
        self.form.run(&mut slice);
        self.packets += slice.packets();
        self.preemptions += slice.preemptions();
        self.total_ns.add(&slice_ns).unwrap();
        let at = |quantile| slice_ns.value_at_quantile(quantile) as f64;
        self.rounds.push(Percentiles { p50_ns: at(0.5), p999_ns: at(0.999) });
    }
}

fn print_latencies(measured: &[Measured]) {
    println!(
        "\n  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "ns per iteration", "timed", "p50", "p99", "p99.9", "p99.99", "max", "preempted"
    );
    for form in measured {
        print!("  {:<20} {:>7.1} M", form.form.name(), form.total_ns.len() as f64 / 1e6);
        for quantile in [0.5, 0.99, 0.999, 0.9999, 1.0] {
            print!(" {:>9}", form.total_ns.value_at_quantile(quantile));
        }
        println!(" {:>10}", form.preemptions);
    }
}

fn draw(measured: &[Measured]) {
    let tmpdir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lines: Vec<_> = measured.iter().map(|form| (form.form.name(), &form.total_ns)).collect();
    let caption = "Time per packet with and without telemetry";
    let path = plot::draw(tmpdir, "jitter.svg", caption, "iterations", &lines).unwrap();
    println!("\n  the distributions: {}\n", path.display());
}

fn print_ratios(measured: &[Measured]) {
    let [none, others @ ..] = measured else { return };
    let mut lines = Vec::new();
    println!("  {:<20} {:<24} {:<24}", "over none's", "p50 [min .. max]", "p99.9 [min .. max]");
    let names = [
        ("none_vs_none", "none_p50_vs_none"),
        ("p999_vs_none", "p50_vs_none"),
        ("taps_p999_vs_none", "taps_p50_vs_none"),
        ("facade_p999_vs_none", "facade_p50_vs_none"),
        ("metrics_p999_vs_none", "metrics_p50_vs_none"),
        ("mutex_p999_vs_none", "mutex_p50_vs_none"),
    ];
    for (form, (p999_name, p50_name)) in others.iter().zip(names) {
        let ratio = |of: fn(&Percentiles) -> f64| {
            let rounds = form.rounds.iter().zip(&none.rounds);
            Spread::of(rounds.map(|(form, none)| of(form) / of(none)).collect())
        };
        let (p50, p999) = (ratio(|round| round.p50_ns), ratio(|round| round.p999_ns));
        let text = |of: Spread| format!("{:.3} [{:.3} .. {:.3}]", of.median, of.min, of.max);
        println!("  {:<20} {:<24} {:<24}", form.form.name(), text(p50), text(p999));
        lines.push(format!("RATIO jitter_{p999_name} {:.3}", p999.median));
        lines.push(format!("RATIO jitter_{p50_name} {:.3}", p50.median));
    }
    println!("\n{}", lines.join("\n"));
}
