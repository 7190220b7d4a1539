//! What a probe costs, and what it finds, side by side in one run: ours, fping, irtt, stamp-suite,
//! blackbox_exporter, smokeping_prober, and the kernel's own floor.
//!
//! All take turns within a round, and rounds are compared: what disturbs the machine disturbs them all.
//! CPU is the kernel's own account of each process, to the nanosecond, over a window in which it runs
//! evenly; what its start took stands beside it. Everybody's own account of what was sent and lost is
//! checked. A contender that is not installed is skipped, loudly, and no ratio is printed.
//!
//! | variable | default | quick | |
//! |---|---|---|---|
//! | `RELAYSCOPE_PROBE_QUICK=1` | | | a first look in under two minutes |
//! | `RELAYSCOPE_PROBE_ROUNDS` | 3 | 1 | |
//! | `RELAYSCOPE_PROBE_SECONDS` | 8 | 4 | each window |
//! | `RELAYSCOPE_PROBE_SIZES` | 100,1000,10000 | 1000,10000 | numbers of targets; from 2000 on ours and fping alone |
//! | `RELAYSCOPE_PROBE_SLOT` | the default | | our `probe.slot` |
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

mod blackbox;
mod floor;
mod fping;
mod irtt;
mod load;
mod ours;
mod reflections;
mod report;
mod smokeping;
mod stamp_suite;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use relayscope_benches::binary::build_relayscope;
use relayscope_benches::process::Service;

use crate::fping::Fping;
use crate::load::{Load, Outcome, REFLECTOR_PORT};
use crate::ours::Ours;
use crate::reflections::Reflected;
use crate::report::{Table, print_ratio, print_reflections};

/// From so many targets on only ours and fping are measured.
const MANY: u32 = 2000;
/// From so many targets on smokeping_prober is measured once in a run.
const SMOKEPING_SLOW: u32 = 500;
const IDLE_TARGETS: u32 = 10;
const FLOOR_ROUND_TRIPS: u32 = 200_000;
const REFLECTOR_HTTP: &str = "127.0.0.1:19863";

fn main() {
    let quick = std::env::var_os("RELAYSCOPE_PROBE_QUICK").is_some();
    let rounds = number("RELAYSCOPE_PROBE_ROUNDS", if quick { 1 } else { 3 });
    let window = Duration::from_secs(number("RELAYSCOPE_PROBE_SECONDS", if quick { 4 } else { 8 }));
    let sizes = if quick { "1000,10000" } else { "100,1000,10000" };
    let sizes = std::env::var("RELAYSCOPE_PROBE_SIZES").unwrap_or_else(|_| sizes.to_owned());
    let sizes: Vec<u32> =
        sizes.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().unwrap()).collect();
    let relayscope = build_relayscope();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut bench = Bench {
        ours: Ours { relayscope: &relayscope, directory: directory.path() },
        directory: directory.path(),
        skipped: BTreeSet::new(),
        unfit: BTreeSet::new(),
        patience: Duration::from_secs(if quick { 5 } else { 120 }),
    };

    let table = |targets| Table { targets, rows: Vec::new(), floors: Vec::new(), fping: None };
    let mut tables: Vec<_> = sizes.into_iter().map(table).collect();
    let (mut idle, mut reflected) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let reflector = bench.reflector();
        let irtt = irtt::serve();
        for table in &mut tables {
            bench.probe(Load { targets: table.targets, window }, table);
        }
        idle.push(bench.ours.idle(Load { targets: IDLE_TARGETS, window }));
        drop(irtt);
        assert!(reflector.stop().success(), "relayscope ends with success");
        bench.reflect(window / 4, &mut reflected);
    }

    for table in &tables {
        table.print();
        table.print_ratios();
    }
    print_reflections(&reflected);
    println!();
    print_ratio("idle_shard_share_of_a_core", idle.iter().map(|(shard, _)| *shard).collect());
    print_ratio("idle_process_share_of_a_core", idle.iter().map(|(_, process)| *process).collect());
    bench.unfit.iter().for_each(|what| println!("NOTE {what}"));
    for name in &bench.skipped {
        eprintln!("SKIPPED {name}: not installed; no ratio");
    }
    let ours = tables.iter().filter_map(|table| table.rows.first());
    let lost: f64 = ours.flat_map(|(_, rounds)| rounds).map(|outcome| outcome.lost).sum();
    assert_eq!(lost, 0.0, "a probe of ours on loopback was lost");
}

/// What all rounds share.
struct Bench<'a> {
    ours: Ours<'a>,
    directory: &'a Path,
    skipped: BTreeSet<&'static str>,
    /// What could not be measured, or not as often as the others.
    unfit: BTreeSet<String>,
    /// With smokeping_prober's start.
    patience: Duration,
}

impl<'a> Bench<'a> {
    /// Answers STAMP on every loopback address, from core 0.
    fn reflector(&self) -> Service {
        let listen = format!("0.0.0.0:{REFLECTOR_PORT}");
        let mut command = Command::new(self.ours.relayscope);
        command.args(["run", "--listen", REFLECTOR_HTTP, "--reflect", &listen, "--cores", "0"]);
        Service::start_relayscope(&mut command)
    }

    /// One round at one number of targets.
    fn probe(&mut self, load: Load, table: &mut Table<'a>) {
        table.floors.push((floor::flat_out(FLOOR_ROUND_TRIPS), floor::paced(load.targets, load.window / 2)));
        self.note(&mut table.rows, "relayscope", Some(self.ours.run(load)));
        self.fping(load, table);
        if load.targets < MANY {
            self.note(&mut table.rows, "irtt", irtt::measure(load));
            self.note(&mut table.rows, "stamp-suite", stamp_suite::measure(load));
            self.note(&mut table.rows, "blackbox_exporter", blackbox::measure(load, self.directory));
            self.smokeping(load, table);
        }
        for (name, rounds) in &table.rows {
            let Some(Outcome { cpu_us, lost, .. }) = rounds.last() else { continue };
            eprintln!("  {:5} {name:<18} {cpu_us:8.2} us per probe, {lost:.0} lost", load.targets);
        }
    }

    /// As it keeps up, and where that is not evenly spread, that too.
    fn fping(&mut self, load: Load, table: &mut Table<'a>) {
        if table.fping.is_none() {
            table.fping = Fping::that_keeps_up(load, self.directory);
        }
        self.note(&mut table.rows, "fping", table.fping.as_ref().and_then(Fping::measure));
        if load.targets >= MANY {
            self.note(&mut table.rows, "fping-spread", Fping::spread(load, self.directory).measure());
        }
    }

    /// With hundreds of targets it takes most of a minute to start: once is enough then, and in a quick run
    /// it is given up soon.
    fn smokeping(&mut self, load: Load, table: &mut Table<'a>) {
        const NAME: &str = "smokeping_prober";
        if load.targets >= SMOKEPING_SLOW && !self.unfit.is_empty() {
            return;
        }
        match smokeping::measure(load, self.directory, self.patience) {
            Some(Err(why)) => {
                self.unfit.insert(format!("{NAME} with {} targets {why}", load.targets));
            }
            Some(Ok(outcome)) => {
                if load.targets >= SMOKEPING_SLOW {
                    self.unfit.insert(format!(
                        "{NAME} with {} targets was measured once, not in every round",
                        load.targets
                    ));
                }
                self.note(&mut table.rows, NAME, Some(outcome));
            }
            None => self.note::<Outcome>(&mut table.rows, NAME, None),
        }
    }

    fn reflect(&mut self, time: Duration, rows: &mut Vec<(&'static str, Vec<Reflected>)>) {
        self.note(rows, "relayscope", Some(reflections::ours(self.ours.relayscope, time)));
        self.note(rows, "stamp-suite", reflections::stamp_suite(time));
        self.note(rows, "irtt", reflections::irtt(time));
    }

    fn note<T>(&mut self, rows: &mut Vec<(&'static str, Vec<T>)>, name: &'static str, outcome: Option<T>) {
        let Some(outcome) = outcome else {
            self.skipped.insert(name);
            return;
        };
        match rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rounds)) => rounds.push(outcome),
            None => rows.push((name, vec![outcome])),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
