//! What one record costs the thread that makes it, side by side with what a user would pick instead.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench ring             a minute and a quarter
//! cargo bench -p relayscope-benches --bench ring -- --quick  a few seconds, for a first look
//! ```
//!
//! Every contender is given the same numbers, makes the same sample of each and stores 24 bytes per
//! record in 65536 slots (those that aggregate instead: counters and histograms, as they come). The
//! last lines are `RATIO <name> <value>`: ours over the peer's in time per record, lower is better,
//! except for `..._delivered_vs_...`: our samples delivered per second over the peer's, higher is
//! better; `four_readers_...` is our `record` beside four readers over a peer beside as many as its name
//! says. A ratio is the median of the rounds' ratios, not the ratio of the medians in the tables.

use std::time::Duration;

use relayscope_benches::contender::Contender;
use relayscope_benches::report::Form;
use relayscope_benches::rounds::{
    Cores, Measured, Measurement, alone, beside_reader, beside_readers, interleave, line_round_trip,
};

mod aggregates;
mod ours;
mod peers;

use aggregates::{MetricsCounter, MetricsHistogram, PrometheusCounter, PrometheusHistogram};
use ours::{Cell, Ours, OursBatched, OursGathered};
use peers::{
    Crossbeam, FetchAdd, MutexDeque, Photon, PlainArray, PlainCounter, RingbufAlone, RingbufLocked, Rtrb,
    RtrbOverwriting,
};

/// Slots of every ring, a power of two.
const RING_SLOTS: usize = 64 * 1024;
/// Timed laps of one round without a reader.
const LAPS: u64 = 8;

/// Passive readers of one ring, where there are many.
const READERS: usize = 4;
/// Ours beside as many readers as have a core of their own, up to [`READERS`].
const OURS_CORE_EACH: &str = "relayscope, core each";
/// rtrb has one consumer and no more.
const RTRB_ONE_READER: &str = "rtrb_one_reader";

/// One side of a contender, where that is another crate's type.
struct Side<T>(T);

/// Rounds of each form, and how long a writer beside a reader records per round.
struct Effort {
    rounds_alone: usize,
    rounds_beside: usize,
    flat_out: Duration,
    every_10ms: Duration,
    /// Longer: where readers share a core, each has its turn for some milliseconds.
    many_flat_out: Duration,
}

const FULL: Effort = Effort {
    rounds_alone: 101,
    rounds_beside: 61,
    flat_out: Duration::from_millis(20),
    every_10ms: Duration::from_millis(45),
    many_flat_out: Duration::from_millis(45),
};
const QUICK: Effort = Effort { rounds_alone: 9, rounds_beside: 5, ..FULL };

fn main() {
    let effort = if std::env::args().any(|arg| arg == "--quick") { QUICK } else { FULL };
    let cores = Cores::pin();
    let mut forms = vec![rings_alone(&effort), cells_alone(&effort)];
    let mut many_readers = None;
    match &cores {
        Some(cores) => {
            let title = "record beside a reader that drains flat out on another core";
            forms.push(beside("reader_", title, &effort, cores, None, effort.flat_out));
            let title = "record beside a reader on another core that drains every 10 ms";
            let pause = Some(Duration::from_millis(10));
            forms.push(beside("reader_10ms_", title, &effort, cores, pause, effort.every_10ms));
            many_readers = Some(beside_many(&effort, cores));
        }
        None => println!("SKIPPED all forms with a reader: they need two cores, and leave to pin to them"),
    }
    for form in forms.iter().chain(&many_readers) {
        form.print();
    }
    println!();
    for form in &forms {
        print_ratios(form);
    }
    if let Some(form) = &many_readers {
        let time = |m: &Measured| m.ns_per_record;
        form.print_ratio("record_vs_rtrb_one_reader", Ours::NAME, RTRB_ONE_READER, time);
        form.print_ratio("core_each_record_vs_rtrb_one_reader", OURS_CORE_EACH, RTRB_ONE_READER, time);
        form.print_ratio("record_vs_photon_four_readers", Ours::NAME, Photon::NAME, time);
    }
}

fn rings_alone(effort: &Effort) -> Form {
    fn measure<C: Contender>() -> Measurement<'static> {
        (C::NAME, Box::new(|| alone::<C>(LAPS)))
    }
    let mut measurements = [
        measure::<Ours>(),
        measure::<OursBatched>(),
        measure::<OursGathered>(),
        measure::<PlainArray>(),
        measure::<Photon>(),
        measure::<RtrbOverwriting>(),
        // Not the same job: drained between laps, untimed, it never has to make room.
        ("rtrb_never_full", Box::new(|| alone::<Rtrb>(LAPS))),
        measure::<RingbufAlone>(),
        measure::<Crossbeam>(),
        measure::<MutexDeque>(),
        measure::<MetricsHistogram>(),
        measure::<MetricsCounter>(),
        measure::<PrometheusCounter>(),
        measure::<PrometheusHistogram>(),
    ];
    let results = interleave(effort.rounds_alone, &mut measurements);
    Form { prefix: "", title: "record, no reader".to_owned(), results }
}

fn cells_alone(effort: &Effort) -> Form {
    fn measure<C: Contender>() -> Measurement<'static> {
        (C::NAME, Box::new(|| alone::<C>(LAPS)))
    }
    let mut measurements = [measure::<Cell>(), measure::<PlainCounter>(), measure::<FetchAdd>()];
    let results = interleave(effort.rounds_alone, &mut measurements);
    Form { prefix: "cell_", title: "count one".to_owned(), results }
}

fn beside(
    prefix: &'static str,
    title: &'static str,
    effort: &Effort,
    cores: &Cores,
    pause: Option<Duration>,
    time: Duration,
) -> Form {
    fn measure<C: Contender>(cores: &Cores, pause: Option<Duration>, time: Duration) -> Measurement<'_> {
        (C::NAME, Box::new(move || beside_reader::<C>(cores, pause, time)))
    }
    let mut measurements = [
        measure::<Ours>(cores, pause, time),
        measure::<OursBatched>(cores, pause, time),
        measure::<Photon>(cores, pause, time),
        measure::<Rtrb>(cores, pause, time),
        measure::<RingbufLocked>(cores, pause, time),
        measure::<Crossbeam>(cores, pause, time),
        measure::<MutexDeque>(cores, pause, time),
        measure::<MetricsHistogram>(cores, pause, time),
        measure::<MetricsCounter>(cores, pause, time),
        measure::<PrometheusCounter>(cores, pause, time),
        measure::<PrometheusHistogram>(cores, pause, time),
    ];
    interleave_beside(prefix, title, effort, cores, &mut measurements)
}

fn beside_many(effort: &Effort, cores: &Cores) -> Form {
    let time = effort.many_flat_out;
    let core_each = READERS.min(cores.readers.len());
    let mut measurements: [Measurement<'_>; 4] = [
        (Ours::NAME, Box::new(|| beside_readers::<Ours>(cores, READERS, time))),
        (OURS_CORE_EACH, Box::new(|| beside_readers::<Ours>(cores, core_each, time))),
        (Photon::NAME, Box::new(|| beside_readers::<Photon>(cores, READERS, time))),
        (RTRB_ONE_READER, Box::new(|| beside_reader::<Rtrb>(cores, None, time))),
    ];
    let title = format!(
        "record beside {READERS} readers that drain flat out, other cores for them: {core_each}\n  \
         (core each: {core_each} readers; rtrb: one)"
    );
    interleave_beside("four_readers_", &title, effort, cores, &mut measurements)
}

fn interleave_beside(
    prefix: &'static str,
    title: &str,
    effort: &Effort,
    cores: &Cores,
    measurements: &mut [Measurement<'_>],
) -> Form {
    let before = line_round_trip(cores);
    let results = interleave(effort.rounds_beside, measurements);
    let after = line_round_trip(cores);
    let title = format!("{title}\n  (a cache line's round trip: {before:?} before, {after:?} after)");
    Form { prefix, title, results }
}

fn print_ratios(form: &Form) {
    let time = |m: &Measured| m.ns_per_record;
    if form.prefix == "cell_" {
        form.print_ratio("add_vs_plain", Cell::NAME, PlainCounter::NAME, time);
        form.print_ratio("add_vs_fetch_add", Cell::NAME, FetchAdd::NAME, time);
        return;
    }
    for (peer, _) in &form.results {
        if ![Ours::NAME, OursBatched::NAME, OursGathered::NAME].contains(peer) {
            form.print_ratio(&format!("record_vs_{peer}"), Ours::NAME, peer, time);
        }
    }
    if form.prefix.is_empty() {
        form.print_ratio("record_batch_vs_plain", OursBatched::NAME, PlainArray::NAME, time);
        form.print_ratio("record_gathered_vs_plain", OursGathered::NAME, PlainArray::NAME, time);
    }
    // Not with a reader that comes every 10 ms: lapped, photon-ring's resumes at the very oldest
    // record, which a writer at full speed has overwritten again, and delivers next to nothing.
    if form.prefix == "reader_" {
        let delivered = |m: &Measured| m.delivered_per_s;
        form.print_ratio("delivered_vs_photon", Ours::NAME, Photon::NAME, delivered);
    }
}
