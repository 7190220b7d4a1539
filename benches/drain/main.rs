//! How fast the control plane takes in what shards recorded: ring, collector, columns.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench drain             some ten seconds
//! cargo bench -p relayscope-benches --bench drain -- --quick  a few rounds, for a first look
//! ```
//!
//! A ring of 65,536 slots, as it comes, is filled, untimed, and `ControlPlane::tick` is timed: samples per second of CPU time of the
//! thread that drains, so per core, whatever else the machine does.
//!
//! | form | samples |
//! |---|---|
//! | `counters` | totals of 1,000 series in turn |
//! | `gauges` | readings of 1,000 series in turn |
//! | `observations` | round-trip times of 1,000 series in turn, each from its own least one up to a fifth above, one in a hundred far above |
//! | `observations, one series` | as many of one series |
//! | `mixed` | all three kinds in an order that no branch predictor learns |
//! | `a bare reader` | no control plane: a tap of the same ring that adds up what comes |
//!
//! All forms take turns in each round, in another order every round. At the end every sample must be accounted for, and
//! what is exposed must be what was recorded. The last lines are `RATIO <name> <value>`: millions a second, higher is
//! better, and `..._vs_bare_reader`, time per sample over the bare reader's in the same round.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::time::Duration;

use relayscope_benches::process::cpu_of_this_thread;
use relayscope_benches::report::Spread;

mod forms;

use forms::{Bare, Kind, Plane};

/// Of a ring that is full, this many can be read less one.
const RING_SLOTS: usize = 64 * 1024;
const SERIES: usize = 1_000;

const ROUNDS: usize = 101;
const ROUNDS_QUICK: usize = 9;

/// A ring that is filled and drained.
trait Form {
    /// Records as many samples as can be read. Not timed.
    fn fill(&mut self);
    /// Takes them in. Timed.
    fn drain(&mut self);
    /// That all `samples` came through, and say what was recorded. Panics if not.
    fn check(&mut self, samples: u64);
}

struct Measured {
    name: &'static str,
    form: Box<dyn Form>,
    times: Vec<Duration>,
}

const SAMPLES: u64 = RING_SLOTS as u64 - 1;

impl Measured {
    fn new(name: &'static str, form: impl Form + 'static) -> Self {
        Self { name, form: Box::new(form), times: Vec::new() }
    }

    fn run(&mut self) {
        self.form.fill();
        let began = cpu_of_this_thread();
        self.form.drain();
        self.times.push(cpu_of_this_thread() - began);
    }

    fn ns_per_sample(&self) -> impl Iterator<Item = f64> {
        self.times.iter().map(|time| time.as_nanos() as f64 / SAMPLES as f64)
    }
}

fn main() {
    let rounds = if std::env::args().any(|arg| arg == "--quick") { ROUNDS_QUICK } else { ROUNDS };
    let mut all = [
        Measured::new("counters", Plane::new(Kind::Counters)),
        Measured::new("gauges", Plane::new(Kind::Gauges)),
        Measured::new("observations", Plane::new(Kind::Observations)),
        Measured::new("observations, one series", Plane::new(Kind::ObservationsOfOne)),
        Measured::new("mixed", Plane::new(Kind::Mixed)),
        Measured::new("a bare reader", Bare::new()),
    ];
    // The first comes to pages and columns that nobody has touched.
    for measured in &mut all {
        measured.run();
        measured.times.clear();
    }
    for round in 0..rounds {
        for turn in 0..all.len() {
            let which = (round + turn) % all.len();
            all[which].run();
        }
    }
    for measured in &mut all {
        measured.form.check((rounds as u64 + 1) * SAMPLES);
    }
    print(&all);
}

fn print(all: &[Measured]) {
    println!("\n{SAMPLES} samples a drain           ns/sample  [min .. max]           M/s");
    for measured in all {
        let ns = Spread::of(measured.ns_per_sample().collect());
        let range = format!("[{:.2} .. {:.2}]", ns.min, ns.max);
        println!("  {:<26} {:>11.2}  {range:<20} {:>6.0}", measured.name, ns.median, 1e3 / ns.median);
    }
    println!();
    let [planes @ .., bare] = all else { return };
    for measured in planes {
        let name = measured.name.replace(", ", "_").replace(' ', "_");
        let ns = Spread::of(measured.ns_per_sample().collect()).median;
        println!("RATIO drain_{name}_millions_per_s {:.1}", 1e3 / ns);
        let ratios = measured.ns_per_sample().zip(bare.ns_per_sample()).map(|(ours, bare)| ours / bare);
        println!("RATIO drain_{name}_vs_bare_reader {:.3}", Spread::of(ratios.collect()).median);
    }
}
