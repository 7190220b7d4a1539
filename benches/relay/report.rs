//! Medians for people, `RATIO` lines for scripts.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use relayscope_benches::packet_loop::latencies_ns;
use relayscope_benches::plot;
use relayscope_benches::report::Spread;

use crate::forms::Form;

/// What one form did in one slice.
pub(crate) struct Slice {
    /// In the timed part.
    pub(crate) packets: u64,
    /// The timed part.
    pub(crate) elapsed: Duration,
    /// CPU time of the shard's thread, over all of the slice.
    pub(crate) shard_ns_per_packet: f64,
    /// CPU time of the whole process.
    pub(crate) process_ns_per_packet: f64,
    /// The shard's share of its core.
    pub(crate) busy: f64,
    /// Times the kernel took the core from the shard.
    pub(crate) preemptions: u64,
    /// Of every copy.
    pub(crate) latencies_ns: Histogram<u64>,
}

/// All slices of one form, by rounds.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) saturated: Vec<Slice>,
    pub(crate) paced: Vec<Slice>,
}

impl Slice {
    pub(crate) fn packets_per_second(&self) -> f64 {
        self.packets as f64 / self.elapsed.as_secs_f64()
    }

    fn p999(&self) -> f64 {
        self.latencies_ns.value_at_quantile(0.999) as f64
    }
}

impl Rounds {
    /// Every latency at 70 %.
    pub(crate) fn latencies_ns(&self) -> Histogram<u64> {
        let mut all = latencies_ns();
        self.paced.iter().for_each(|slice| all.add(&slice.latencies_ns).unwrap());
        all
    }
}

/// A table of each of the two loads.
pub(crate) fn print(measured: &[Rounds]) {
    println!("\n  at saturation, per packet of four copies, median [min .. max]");
    println!(
        "  {:<12} {:<26} {:<24} {:<24} {:>6} {:>10}",
        "", "packets/s", "shard CPU, ns", "process CPU, ns", "busy", "preempted"
    );
    for (form, rounds) in Form::ALL.iter().zip(measured) {
        print_slices(form.name(), &rounds.saturated);
    }
    println!("\n  at 70 % of what none forwards");
    for (form, rounds) in Form::ALL.iter().zip(measured) {
        print_slices(form.name(), &rounds.paced);
    }
    println!("\n  from send to a copy's arrival, at 70 %, us");
    println!(
        "  {:<12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "copies", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    for (form, rounds) in Form::ALL.iter().zip(measured) {
        let latencies_ns = rounds.latencies_ns();
        print!("  {:<12} {:>8.1} M", form.name(), latencies_ns.len() as f64 / 1e6);
        for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
            print!(" {:>9.1}", latencies_ns.value_at_quantile(quantile) as f64 / 1e3);
        }
        println!();
    }
}

fn print_slices(name: &str, slices: &[Slice]) {
    let spread = |of: fn(&Slice) -> f64| Spread::of(slices.iter().map(of).collect());
    let text = |of: Spread| format!("{:.0} [{:.0} .. {:.0}]", of.median, of.min, of.max);
    println!(
        "  {name:<12} {:<26} {:<24} {:<24} {:>5.1}% {:>10}",
        text(spread(Slice::packets_per_second)),
        text(spread(|slice| slice.shard_ns_per_packet)),
        text(spread(|slice| slice.process_ns_per_packet)),
        spread(|slice| slice.busy).median * 100.0,
        slices.iter().map(|slice| slice.preemptions).sum::<u64>()
    );
}

/// The distributions at 70 %, as a picture.
pub(crate) fn draw(measured: &[Rounds]) {
    let all: Vec<_> = measured.iter().map(Rounds::latencies_ns).collect();
    let lines: Vec<_> = Form::ALL.iter().map(|form| form.name()).zip(&all).collect();
    let caption = "From a packet's sending to a copy's arrival, through relays with and without telemetry";
    let path =
        plot::draw(Path::new(env!("CARGO_TARGET_TMPDIR")), "relay.svg", caption, "copies", &lines).unwrap();
    println!("\n  the distributions: {}", path.display());
}

/// Each form over the first one.
pub(crate) fn print_ratios(measured: &[Rounds]) {
    let [none, others @ ..] = measured else { return };
    let mut lines = Vec::new();
    println!("\n  {:<34} over none's [min .. max]", "");
    for (form, rounds) in Form::ALL[1..].iter().zip(others) {
        let saturated = (&rounds.saturated, &none.saturated);
        let paced = (&rounds.paced, &none.paced);
        let mut ratio = |name: &str, (ours, nones): (&Vec<Slice>, &Vec<Slice>), of: fn(&Slice) -> f64| {
            let both = ours.iter().zip(nones);
            let spread = Spread::of(both.map(|(form, none)| of(form) / of(none)).collect());
            let name = format!("{}{name}", form.prefix());
            println!("  {name:<34} {:.3} [{:.3} .. {:.3}]", spread.median, spread.min, spread.max);
            lines.push(format!("RATIO {name} {:.3}", spread.median));
        };
        ratio("throughput_vs_none", saturated, Slice::packets_per_second);
        ratio("cpu_vs_none", saturated, |slice| slice.shard_ns_per_packet);
        ratio("p999_vs_none", paced, Slice::p999);
        ratio("p50_vs_none", paced, |slice| slice.latencies_ns.value_at_quantile(0.5) as f64);
        ratio("process_cpu_vs_none", saturated, |slice| slice.process_ns_per_packet);
        ratio("paced_cpu_vs_none", paced, |slice| slice.shard_ns_per_packet);
    }
    println!("\n{}", lines.join("\n"));
}
