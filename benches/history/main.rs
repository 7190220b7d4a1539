//! Thirty days of a thousand targets on disk: how large, how long to write, how long to plot.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench history             some ten minutes, 2 GB of disk
//! cargo bench -p relayscope-benches --bench history -- --quick  100 targets, a minute
//! ```
//!
//! A [fleet](fleet) of targets whose times are noisy, drift over the day and burst, and that lose probes, is appended to a real
//! `Store` in the order in which it would have happened, at full speed and by a clock of its own: every tier for as long as
//! it is kept by default and some hours more, which are dropped on the way. Every transaction is flushed to the device as in
//! service. `tidy` runs once a tier's interval has been written, until nothing is left to do.
//!
//! Then one target after another is plotted over its thirty days, each by a fresh `Reader`: with the file out of the page cache
//! (`cold`), and once more (`warm`). What comes is held against the fleet, figure by figure.
//!
//! Beside it, what a user would pick instead: one table of rows with an index, in the same SQLite, of the first few
//! targets. It is filled without flushes, and its plot aggregates in SQL.
//!
//! The last lines are `RATIO <name> <value>`: lower is better.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

mod fleet;
mod plain;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use relayscope_benches::process::cpu_of_this_thread;
use relayscope_benches::report::Spread;
use relayscope_controlplane::Now;
use relayscope_controlplane::history::{HistoryQuery, Interval, Points, Retention, Store, Tier};

use fleet::Fleet;

const TARGETS: usize = 1_000;
const TARGETS_QUICK: usize = 100;
/// Of the plain table.
const TARGETS_PLAIN: usize = 50;
const TARGETS_PLAIN_QUICK: usize = 10;
const PLOTS: usize = 200;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const DAYS: u64 = 30;
/// A whole number of hours.
const END: u64 = 1_796_000_400;
const BEGIN: u64 = END - DAYS * DAY;
/// Beyond what is kept of a tier: it is written too, and dropped again.
const MORE: [u64; 3] = [6 * HOUR, 12 * HOUR, 0];

const SIZE_MAX: u64 = 2 << 30;
const PLOT_MAX: Duration = Duration::from_millis(200);

/// When a tier begins to be written.
fn begin(tier: Tier) -> u64 {
    let kept = Retention::default().of(tier).as_secs() + MORE[usize::from(tier.code())];
    (END - kept.min(DAYS * DAY)).max(BEGIN)
}

/// Every interval that ends in a step of ten minutes, in the order in which they end.
fn happenings() -> impl Iterator<Item = (Tier, u64)> {
    (BEGIN..END).step_by(10).map(|start| start + 10).flat_map(|end| {
        let ended = Tier::ALL.into_iter().filter(move |tier| end.is_multiple_of(tier.seconds()));
        ended.map(move |tier| (tier, end - tier.seconds())).filter(|(tier, start)| *start >= begin(*tier))
    })
}

fn at(unix_seconds: u64) -> Now {
    Now { monotonic_ns: 0, unix_ns: unix_seconds * 1_000_000_000 }
}

fn main() {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let (targets, plain_targets) =
        if is_quick { (TARGETS_QUICK, TARGETS_PLAIN_QUICK) } else { (TARGETS, TARGETS_PLAIN) };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    let fleet = Fleet::new(targets);
    println!("{targets} targets, {DAYS} days");

    let intervals = write(&path, &fleet);
    let bytes = fs::metadata(&path).unwrap().len();
    let kept = describe(&path, intervals);

    let ours = plots(
        "ours",
        targets,
        |target| {
            let reader = Store::reader(&path).unwrap();
            let (time, points) = timed(|| reader.history(&month_of(&fleet, target)).unwrap());
            let (again, _) = timed(|| reader.history(&month_of(&fleet, target)).unwrap());
            check(&fleet, target, &points);
            (time, again)
        },
        &path,
    );

    let plain_path = directory.path().join("plain.db");
    let plain_intervals = plain::write(&plain_path, &Fleet::new(plain_targets));
    let plain_bytes = fs::metadata(&plain_path).unwrap().len();
    println!(
        "plain table: {plain_targets} targets, {plain_intervals} intervals, {:.1} MB, {:.1} B an interval",
        plain_bytes as f64 / 1e6,
        plain_bytes as f64 / plain_intervals as f64
    );
    let plain = plots(
        "plain table",
        plain_targets,
        |target| {
            let connection = plain::open(&plain_path);
            let (time, answered) = timed(|| plain::month(&connection, target));
            let (again, _) = timed(|| plain::month(&connection, target));
            assert_eq!(answered, fleet.answered(target, BEGIN..END));
            (time, again)
        },
        &plain_path,
    );

    let per_target = |bytes: u64, targets: usize| bytes as f64 / targets as f64;
    println!("RATIO history_size_vs_2gib {:.3}", bytes as f64 / SIZE_MAX as f64);
    println!("RATIO history_plot_vs_200ms {:.3}", ours.cold.max / PLOT_MAX.as_secs_f64());
    println!("RATIO history_plot_median_vs_200ms {:.4}", ours.cold.median / PLOT_MAX.as_secs_f64());
    println!(
        "RATIO history_interval_bytes_vs_plain_table {:.3}",
        (bytes as f64 / kept as f64) / (plain_bytes as f64 / plain_intervals as f64)
    );
    println!(
        "RATIO history_target_bytes_vs_plain_table {:.3}",
        per_target(bytes, targets) / per_target(plain_bytes, plain_targets)
    );
    println!("RATIO history_plot_cold_vs_plain_table {:.3}", ours.cold.median / plain.cold.median);
    println!("RATIO history_plot_warm_vs_plain_table {:.3}", ours.warm.median / plain.warm.median);
}

/// Writes all of it. How many intervals that was.
fn write(path: &Path, fleet: &Fleet) -> u64 {
    let mut store = Store::open(path, Retention::default(), at(BEGIN)).unwrap();
    let keys = fleet.keys();
    let (mut intervals, mut rows_time, mut tidy_time) = (0, Duration::ZERO, Duration::ZERO);
    let (mut appends, mut cpu, mut portions, mut log_max) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let began = Instant::now();
    for (tier, start) in happenings() {
        let all: Vec<_> =
            keys.iter().enumerate().map(|(n, key)| (key, fleet.interval(n, tier, start))).collect();
        let cpu_before = cpu_of_this_thread();
        let (time, appended) = timed(|| store.append(tier, start, &all).unwrap());
        assert_eq!(appended.written, all.len());
        rows_time += time;
        intervals += all.len() as u64;
        if tier == Tier::TenSeconds {
            appends.push(time.as_secs_f64() * 1e3);
            cpu.push((cpu_of_this_thread() - cpu_before).as_secs_f64() * 1e3);
        }
        loop {
            let (time, done) = timed(|| store.tidy(at(start + tier.seconds())).unwrap());
            assert_eq!((done.damaged, done.dropped_by_size), (0, 0));
            tidy_time += time;
            if !done.is_more {
                break;
            }
            portions.push(time.as_secs_f64() * 1e3);
        }
        if start.is_multiple_of(HOUR) {
            log_max = log_max.max(store.statistics().unwrap().log_bytes);
        }
    }
    while store.tidy(at(END + 2000)).unwrap().is_more {}
    let elapsed = began.elapsed();
    println!(
        "written: {intervals} intervals in {elapsed:.1?}: appends {rows_time:.1?}, tidying {tidy_time:.1?}, the rest is the fleet's own; \
         {:.0} intervals/s of both; log at most {:.1} MB",
        intervals as f64 / (rows_time + tidy_time).as_secs_f64(),
        log_max as f64 / 1e6
    );
    let print = |what: &str, mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let (p99, count) = (values[values.len() * 99 / 100], values.len());
        let spread = Spread::of(values);
        println!("  {what}: {:.2} ms median, {p99:.2} p99, {:.2} max, of {count}", spread.median, spread.max);
    };
    print("an append of 10 s, flushed", appends);
    print("  of it CPU", cpu);
    print("a portion of tidying, flushed", portions);
    intervals
}

/// Prints what is there. How many intervals that is.
fn describe(path: &Path, written: u64) -> u64 {
    let statistics = Store::reader(path).unwrap().statistics().unwrap();
    let mut kept = 0;
    for (tier, of) in Tier::ALL.into_iter().zip(&statistics.tiers) {
        kept += of.intervals;
        println!(
            "  {}: {} chunks, {} intervals, {:.1} MB, {:.2} B an interval, {:.0} B a chunk; {} rows of the head",
            tier.as_str(),
            of.chunks,
            of.intervals,
            of.bytes as f64 / 1e6,
            of.bytes as f64 / of.intervals as f64,
            of.bytes as f64 / of.chunks as f64,
            of.rows
        );
    }
    let bytes = statistics.file_bytes.unwrap();
    println!(
        "file: {:.1} MB, {} pages of {} B, {} free; {kept} of {written} intervals kept, {:.2} B each with everything",
        bytes as f64 / 1e6,
        statistics.pages,
        statistics.page_bytes,
        statistics.pages_free,
        bytes as f64 / kept as f64
    );
    kept
}

fn month_of(fleet: &Fleet, target: usize) -> HistoryQuery {
    HistoryQuery::new(fleet.keys()[target].clone(), BEGIN, END)
}

/// That a plot has what the fleet said.
fn check(fleet: &Fleet, target: usize, points: &Points) {
    assert_eq!(
        (points.from, points.step_seconds, points.intervals.len(), points.damaged),
        (BEGIN, HOUR, 720, 0)
    );
    for (start, point) in points.starts().zip(&points.intervals) {
        let of_it: Vec<Interval> =
            (0..6).map(|n| fleet.interval(target, Tier::TenMinutes, start + n * 600)).collect();
        let expected = Interval::merged(&of_it).unwrap();
        let point = point.expect("every hour has something");
        assert_eq!((point.answered, point.lost), (expected.answered, expected.lost));
        let (kept, said) = (point.rtt.unwrap(), expected.rtt.unwrap());
        for (kept, said) in kept.quantiles_ns.into_iter().zip(said.quantiles_ns) {
            assert!(kept.abs_diff(said) as f64 <= said as f64 * 0.002, "{kept} of {said} ns");
        }
        assert!(kept.min_ns.abs_diff(said.min_ns) as f64 <= said.min_ns as f64 * 0.001);
    }
}

struct Plots {
    cold: Spread,
    warm: Spread,
}

/// Plots many targets, spread over all of them.
fn plots(
    name: &str,
    targets: usize,
    mut plot: impl FnMut(usize) -> (Duration, Duration),
    path: &Path,
) -> Plots {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for n in 0..PLOTS.min(targets) {
        forget(path);
        let (first, second) = plot(n * 7919 % targets);
        cold.push(first.as_secs_f64());
        warm.push(second.as_secs_f64());
    }
    let plots = Plots { cold: Spread::of(cold), warm: Spread::of(warm) };
    println!(
        "{name}, a plot of 30 days: cold {:.2} ms median, {:.2} worst; warm {:.2} ms median, {:.2} worst",
        plots.cold.median * 1e3,
        plots.cold.max * 1e3,
        plots.warm.median * 1e3,
        plots.warm.max * 1e3
    );
    plots
}

/// Has the kernel drop what it keeps of a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let done = run();
    (began.elapsed(), done)
}
