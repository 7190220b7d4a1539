//! Tables for people, `RATIO` lines for scripts.

use relayscope_benches::report::Spread;

use crate::fping::Fping;
use crate::load::Outcome;
use crate::reflections::{OUTSTANDING, Reflected};

/// What was measured at one number of targets: per contender, its rounds.
pub(crate) struct Table<'a> {
    pub(crate) targets: u32,
    pub(crate) rows: Vec<(&'static str, Vec<Outcome>)>,
    /// The kernel's floor flat out, and at the pace of this load, by round.
    pub(crate) floors: Vec<(f64, f64)>,
    /// As it keeps up with so many, once that was found out.
    pub(crate) fping: Option<Fping<'a>>,
}

impl Table<'_> {
    pub(crate) fn print(&self) {
        println!("\n{} targets, one probe a second each", self.targets);
        println!(
            "  {:<18} {:>10} {:<22} {:>9} {:>9} {:>6} {:>8} {:>8} {:>8}  ",
            "", "us/probe", "[min .. max]", "start ms", "sent", "lost", "RTT p50", "p99 us", "RSS MiB"
        );
        for (name, rounds) in self.rows.iter().filter(|(_, rounds)| !rounds.is_empty()) {
            let spread = |value: &dyn Fn(&Outcome) -> f64| Spread::of(rounds.iter().map(value).collect());
            let optional = |value: &dyn Fn(&Outcome) -> Option<f64>| {
                let values: Vec<_> = rounds.iter().filter_map(value).collect();
                let text = |values| format!("{:.1}", Spread::of(values).median);
                if values.is_empty() { "-".to_owned() } else { text(values) }
            };
            let cpu = spread(&|outcome| outcome.cpu_us);
            println!(
                "  {name:<18} {:>10.2} {:<22} {:>9.1} {:>9.0} {:>6.0} {:>8} {:>8} {:>8.1}  {}",
                cpu.median,
                format!("[{:.2} .. {:.2}]", cpu.min, cpu.max),
                spread(&|outcome| outcome.start_cpu.as_secs_f64() * 1e3).median,
                rounds.iter().map(|outcome| outcome.sent).sum::<f64>(),
                rounds.iter().map(|outcome| outcome.lost).sum::<f64>(),
                optional(&|outcome| outcome.rtt.median_us),
                optional(&|outcome| outcome.rtt.p99_us),
                spread(&|outcome| outcome.resident_kib as f64 / 1024.0).median,
                rounds.last().map_or("", |outcome| &outcome.note),
            );
            let kept_up = spread(&|outcome| outcome.kept_up).min;
            if kept_up < 0.97 {
                println!(
                    "  {name:<18} DID NOT KEEP UP: it sent {:.1} % of what was asked for",
                    kept_up * 100.0
                );
            }
        }
        let floor = |pick: fn(&(f64, f64)) -> f64| Spread::of(self.floors.iter().map(pick).collect());
        for (name, spread) in [("floor, flat out", floor(|f| f.0)), ("floor, paced", floor(|f| f.1))] {
            println!("  {name:<18} {:>10.2} [{:.2} .. {:.2}]", spread.median, spread.min, spread.max);
        }
    }

    /// Ours over every other: CPU per probe, the tail of the RTT, memory.
    pub(crate) fn print_ratios(&self) {
        let n = self.targets;
        let Some((_, ours)) = self.rows.first() else { return };
        for (name, others) in self.rows.iter().skip(1).filter(|(_, rounds)| !rounds.is_empty()) {
            let name = name.replace('-', "_");
            let ratio = |measure: &str, value: &dyn Fn(&Outcome) -> Option<f64>| {
                let rounds = ours.iter().zip(others).filter_map(|(a, b)| Some(value(a)? / value(b)?));
                print_ratio(&format!("{measure}_vs_{name}_{n}"), rounds.collect());
            };
            ratio("probe_cpu", &|outcome| Some(outcome.cpu_us));
            ratio("probe_cpu_over_a_minute", &|outcome| Some(outcome.cpu_us_over_a_minute(n)));
            ratio("probe_rtt_p99", &|outcome| outcome.rtt.p99_us);
            ratio("probe_memory", &|outcome| Some(outcome.resident_kib as f64));
        }
        let rounds = || ours.iter().zip(&self.floors);
        let over = |pick: fn(&(f64, f64)) -> f64| rounds().map(|(o, f)| o.cpu_us / pick(f)).collect();
        print_ratio(&format!("probe_cpu_vs_floor_{n}"), over(|floors| floors.0));
        print_ratio(&format!("probe_cpu_vs_paced_floor_{n}"), over(|floors| floors.1));
        let value = |name: &str, value: &dyn Fn(&Outcome) -> Option<f64>| {
            print_ratio(&format!("{name}_{n}"), ours.iter().filter_map(value).collect());
        };
        value("probe_rtt_median_us", &|outcome| outcome.rtt.median_us);
        value("probe_rtt_p99_us", &|outcome| outcome.rtt.p99_us);
        let lost: f64 = ours.iter().map(|outcome| outcome.lost).sum();
        print_ratio(&format!("probe_false_loss_{n}"), vec![lost / ours.iter().map(|o| o.sent).sum::<f64>()]);
    }
}

pub(crate) fn print_reflections(rows: &[(&'static str, Vec<Reflected>)]) {
    println!("\nreflections under a flood, {OUTSTANDING} requests outstanding");
    println!("  {:<18} {:>10} {:>8} {:>10} {:>6}", "", "per second", "us each", "core busy", "lost");
    for (name, rounds) in rows.iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let median = |pick: fn(&Reflected) -> f64| Spread::of(rounds.iter().map(pick).collect()).median;
        println!(
            "  {name:<18} {:>10.0} {:>8.2} {:>8.0} % {:>6}  {}",
            median(|r| r.per_second),
            median(|r| r.cpu_us),
            median(|r| r.busy) * 100.0,
            rounds.iter().map(|r| r.lost).sum::<u64>(),
            rounds[0].note,
        );
    }
    let Some((_, ours)) = rows.first() else { return };
    for (name, others) in rows.iter().skip(1) {
        let name = name.replace('-', "_");
        let ratio = |value: fn(&Reflected) -> f64| {
            ours.iter().zip(others).map(|(a, b)| value(a) / value(b)).collect()
        };
        print_ratio(&format!("reflections_per_second_vs_{name}"), ratio(|r| r.per_second));
        print_ratio(&format!("reflection_cpu_vs_{name}"), ratio(|r| r.cpu_us));
    }
}

/// The median of the rounds' ratios; nothing where there is none.
pub(crate) fn print_ratio(name: &str, rounds: Vec<f64>) {
    if !rounds.is_empty() {
        println!("RATIO {name} {:.4}", Spread::of(rounds).median);
    }
}
