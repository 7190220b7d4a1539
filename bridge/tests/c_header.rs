//! `include/relayscope.h` beside this crate: what C writes Rust reads, and the other way round, both at full
//! speed between two processes; series, claims and damaged files are to both what they are to one.
//!
//! ```text
//! RELAYSCOPE_STRESS_RECORDS=100000000 cargo test -p relayscope-bridge --release --test c_header -- --nocapture
//! RELAYSCOPE_CFLAGS=-fsanitize=address,undefined cargo test -p relayscope-bridge --test c_header
//! ```
//!
//! With clang beside it the tests are run for both. Where there is no C compiler (`CC`, or cc) they are listed
//! as ignored, say so on stderr, and are counted as skipped by the runner.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "c/peer.rs"]
mod peer;

mod families;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use peer::{Compiler, Peer};
use relayscope_bridge::catalogue::{PROBE_RTT_MS, PROBE_UP};
use relayscope_bridge::segment::{SegmentError, SegmentState, offsets};
use relayscope_bridge::{
    Account, Collector, Drained, Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher,
    SeriesRegistry, ShardId, Start, attach, create,
};

use families::{PROBE_RTT_SECONDS, PROBE_SEND_ERRORS, PROBE_SENT};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const SMALL: HubConfig = HubConfig { shards: 2, ring_capacity: 16, cells_per_shard: 16, max_series: 64 };
/// In turn, each for an equal share of the records. In the small ring every chunk is a race with the
/// producer; the larger one can be kept up with, and laps the slow reader.
const CAPACITIES: [usize; 2] = [16, 4096];
/// In every 1024 records the last 256 go out as one batch, in parts of up to 64.
const SINGLE_THEN_BATCH: (u64, u64) = (768, 256);
/// What takes each side a part of a second, C being optimised and Rust perhaps not.
const C_WRITES: u64 = 50_000_000;
const RUST_WRITES: u64 = if cfg!(debug_assertions) { 2_000_000 } else { 20_000_000 };
/// Times that a series is retired while it is looked at.
const RETIREMENTS: u64 = 500;
/// Bounds every wait for the other side.
const PATIENCE: Duration = Duration::from_secs(60);

type Test = fn(&Compiler);

fn main() {
    let mut arguments = Arguments::from_args();
    // Those at full speed race with nobody where others have taken their cores.
    arguments.test_threads.get_or_insert(1);
    let compilers = Compiler::all();
    let tests: [(&str, Test); 16] = [
        ("the_header_compiles_without_a_warning_in_two_files_of_a_program", compiles_strictly),
        ("its_usage_example_does_what_it_says", usage_example),
        ("both_sides_lay_a_segment_out_alike", same_layout),
        ("both_sides_read_the_same_of_a_sound_segment", same_info),
        ("rust_reads_what_c_writes_at_full_speed_and_every_account_is_exact", c_writes),
        ("c_reads_what_rust_writes_at_full_speed_and_every_account_is_exact", rust_writes),
        ("c_reads_what_c_writes_in_one_process_and_every_account_is_exact", c_alone),
        ("samples_of_every_kind_cross_both_ways_with_their_positions", every_kind),
        ("a_reader_in_c_begins_and_loses_as_one_in_rust", same_edges),
        ("counters_and_gauges_cross_both_ways", cells),
        ("series_are_found_by_family_labels_and_shard", lookup),
        ("a_retired_series_is_stale_and_its_id_another_series_later", reuse),
        ("a_count_is_never_read_as_that_of_another_series", parity),
        ("a_damaged_file_is_the_same_error_to_both_sides", same_errors),
        ("a_shard_has_one_writer", one_writer),
        ("a_dead_writers_shard_is_taken_over_and_its_ring_goes_on", take_over),
    ];
    let mut trials = Vec::new();
    for (name, test) in tests {
        if compilers.is_empty() {
            eprintln!("SKIPPED {name}: no C compiler; set CC, or scripts/test installs gcc");
            trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
        }
        for compiler in &compilers {
            let (called, compiler) = (format!("{}::{name}", compiler.name()), compiler.clone());
            let trial = Trial::test(called, move || {
                test(&compiler);
                Ok(())
            });
            trials.push(trial);
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    compilers.iter().for_each(Compiler::clean);
    conclusion.exit();
}

// What both sides are given.

/// A directory in memory, as a segment should lie in; where there is none, one on disk.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("there is room for a directory")
}

/// A segment in a file, whose shards are the maker's until it drops their publishers.
struct Made {
    publishers: Vec<Publisher>,
    registry: SeriesRegistry,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn made(config: HubConfig) -> Made {
    let directory = directory();
    let path = directory.path().join("segment");
    let Hub { publishers, registry, .. } = create(&path, config).unwrap();
    Made { publishers, registry, path, _directory: directory }
}

impl Made {
    /// Leaves a shard to C: from here on nobody writes it.
    fn leave(&mut self, shard: ShardId) {
        self.publishers.retain(|publisher| publisher.shard() != shard);
    }

    /// Interns one series of each kind for a shard; the ids of counter, gauge and stream.
    fn intern(&self, shard: ShardId) -> [MetricId; 3] {
        let counter = self.registry.counter(shard, &PROBE_SENT, &["c"]).unwrap().id();
        let gauge = self.registry.gauge(shard, &PROBE_RTT_MS, &["c"]).unwrap().id();
        [counter, gauge, self.registry.stream(shard, &PROBE_RTT_SECONDS, &["c"]).unwrap()]
    }
}

/// Records to write at full speed: `few` unless more are asked for.
fn records(few: u64) -> u64 {
    match std::env::var("RELAYSCOPE_STRESS_RECORDS") {
        Ok(text) => text.parse().expect("RELAYSCOPE_STRESS_RECORDS is a number of records"),
        Err(_) => few,
    }
}

/// A number that the position determines and that no other position's words could pass for.
fn mixed(position: u64, salt: u64) -> u64 {
    let x = (position ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 32
}

/// Every word tells the position: the second directly, the others mixed.
fn sample_at(position: u64) -> MetricSample {
    MetricSample {
        metric_id: MetricId((mixed(position, 1) & u64::from(u32::MAX)) as u32),
        timestamp_ns: position,
        value: MetricValue::Counter(mixed(position, 2)),
    }
}

// The header as C is.

fn compiles_strictly(c: &Compiler) {
    let directory = directory();
    let [one, other] = ["one.c", "other.c"].map(|name| directory.path().join(name));
    fs::write(&one, "#include \"relayscope.h\"\nint main(void) { return 0; }\n").unwrap();
    fs::write(
        &other,
        "#include <stdio.h>\n#include \"relayscope.h\"\nint other(void);\nint other(void) { return 1; }\n",
    )
    .unwrap();
    let to = directory.path().join("program");
    for flags in [["-std=c11", "-O0"], ["-std=c17", "-O2"], ["-std=gnu11", "-O3"]] {
        c.compile(&one, &[flags[0], flags[1], "-D_POSIX_C_SOURCE=200809L", other.to_str().unwrap()], &to);
        c.compile(&one, &flags, &to);
    }
}

fn usage_example(c: &Compiler) {
    let header = include_str!("../include/relayscope.h");
    let (_, example) = header.split_once(" * ~~~c\n").expect("there is an example");
    let (example, _) = example.split_once(" * ~~~\n").expect("it ends");
    let example: Vec<&str> = example.lines().map(|line| line.trim_start_matches(" *")).collect();
    let mut made = made(SMALL);
    let source = made.path.with_extension("c");
    fs::write(&source, example.join("\n") + "\n").unwrap();
    let program = made.path.with_extension("program");
    c.compile(&source, &[], &program);
    let counter = made.registry.counter(A, &PROBE_SENT, &["relay-b"]).unwrap().id();
    let rtt = made.registry.stream(A, &PROBE_RTT_SECONDS, &["relay-b"]).unwrap();
    made.leave(A);
    let ran = Command::new(program).arg(&made.path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "sample 0: series 1, 0.00025\n1 sent, 0 samples lost\n");
    let mut collector = attach(&made.path).unwrap();
    assert_eq!((collector.counter(counter), rtt), (Some(1), MetricId(1)));
    assert_eq!(collector.drain(A, |_| {}), Drained { delivered: 1, lost: 0, malformed: 0 });
    assert_eq!(collector.shard(A).unwrap().writer(), None);
    assert!(collector.shard(A).unwrap().heartbeat().last_ns().is_some());
}

fn same_layout(c: &Compiler) {
    let mut peer = c.start();
    for sizes in [
        [1, 2, 1, 1, 1, 1],
        [2, 1024, 100, 300, 64, 1000],
        [3, 16, 16, 512, 512, 512],
        [7, 65_536, 65_537, 65_535, 1024, 294_912],
        [1024, 1 << 24, 1 << 28, 1 << 28, 1 << 12, 1 << 28],
    ] {
        let ours: Vec<String> = offsets(sizes).iter().map(|(name, at)| format!("{name}={at}")).collect();
        let [a, b, c, d, e, f] = sizes;
        assert_eq!(peer.ask(&[&"layout", &a, &b, &c, &d, &e, &f]), ours.join(" "), "{sizes:?}");
    }
}

fn same_info(c: &Compiler) {
    let mut made = made(SMALL);
    let collector = attach(&made.path).unwrap();
    let info = collector.attachment().info();
    let mut peer = c.reading(&made.path);
    let ours = format!(
        "generation={} pid={} unix={} monotonic={} this_boot={} shards={} ring_capacity={} bytes={}",
        info.generation,
        info.pid,
        info.start_unix_ns,
        info.start_monotonic_ns,
        i32::from(info.this_boot),
        info.shards,
        info.ring_capacity,
        info.bytes
    );
    assert_eq!(peer.say("info"), ours);
    assert_eq!(peer.say("state"), "running");

    made.publishers[1].beat(77);
    let pulse = format!("heartbeat=77 writer={}", std::process::id());
    assert_eq!(peer.ask(&[&"pulse", &1]), pulse);
    assert_eq!(peer.ask(&[&"pulse", &2]), "heartbeat=0 writer=0");

    // A copy has no maker, whatever its header says.
    let copy = made.path.with_extension("copy");
    fs::copy(&made.path, &copy).unwrap();
    assert_eq!(c.reading(&copy).say("state"), "dead");
    assert_eq!(attach(&copy).unwrap().attachment().state(), SegmentState::Dead);

    assert_eq!(peer.ask(&[&"is_replaced", &made.path.display()]), "no");
    made.publishers.clear();
    drop(made.registry);
    assert_eq!(peer.say("state"), "closed");
    let replaced = create(&made.path, SMALL).unwrap();
    assert_eq!(peer.ask(&[&"is_replaced", &made.path.display()]), "yes");
    let mut next = c.reading(&made.path);
    assert!(next.say("info").starts_with("generation=2 "));

    let file = File::options().write(true).open(&made.path).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(next.say("state"), "damaged");
    drop(replaced);
}

// At full speed.

/// What a reader in Rust found.
#[derive(Default)]
struct Outcome {
    drains: u64,
    gaps: u64,
    delivered: u64,
    lost: u64,
}

type Deliver<'a> = &'a mut dyn FnMut(u64, MetricSample);

/// Drains until the producer is done and once more, checking every sample; `pause` between drains.
fn read(
    done: &AtomicBool,
    pause: Option<Duration>,
    mut drain: impl FnMut(Deliver<'_>) -> Drained,
) -> Outcome {
    let (mut outcome, mut next) = (Outcome::default(), 0);
    loop {
        // Acquire: with the store after the last record, so that the drain below is the last.
        let last = done.load(Ordering::Acquire);
        let mut gaps = 0;
        let drained = drain(&mut |position, sample| {
            assert!(sample == sample_at(position), "torn: {sample:?} is not of position {position}");
            assert!(position >= next, "position {position} came when {next} was due");
            gaps += u64::from(position > next);
            next = position + 1;
        });
        assert_eq!(drained.malformed, 0, "torn words did not decode");
        outcome.drains += 1;
        outcome.gaps += gaps;
        outcome.delivered += drained.delivered;
        outcome.lost += drained.lost;
        match pause {
            _ if last => return outcome,
            Some(pause) => thread::sleep(pause),
            // Where there are fewer cores than threads, the producer must get one.
            None if drained.delivered == 0 => thread::yield_now(),
            None => {}
        }
    }
}

fn c_writes(c: &Compiler) {
    for capacity in CAPACITIES {
        c_writes_to(c, capacity, records(C_WRITES) / CAPACITIES.len() as u64);
    }
}

fn c_writes_to(c: &Compiler, capacity: usize, records: u64) {
    let mut made = made(HubConfig { ring_capacity: capacity, ..SMALL });
    let [counter, gauge, _] = made.intern(A);
    made.leave(A);
    let mut peer = c.writing(&made.path);
    assert_eq!(peer.ask(&[&"claim", &0]), "OK 0");
    assert!(peer.find(0, PROBE_RTT_MS.name, &["c"]).starts_with("OK"));
    assert_eq!(peer.ask(&[&"hold", &"gauge"]), "OK");
    assert!(peer.find(0, PROBE_SENT.name, &["c"]).starts_with("OK"));
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");

    let mut collector = attach(&made.path).unwrap();
    let mut tap = collector.shard(A).unwrap().tap(Start::First);
    let done = AtomicBool::new(false);
    let (elapsed, moved, slow, flat_out, collector, tap) = thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let (mut count, mut moved) = (0, 0);
            let outcome = read(&done, Some(Duration::from_millis(1)), |deliver| {
                let now = collector.counter(counter).expect("nobody retires it");
                assert!(now >= count, "the counter went back from {count} to {now}");
                moved += u64::from(now > count);
                count = now;
                let mark = collector.mark(A);
                collector.drain_to(A, mark, deliver)
            });
            (outcome, moved, collector)
        });
        let flat_out = scope.spawn(|| {
            let outcome = read(&done, None, |deliver| {
                let mark = tap.mark();
                tap.drain_to(mark, deliver)
            });
            (outcome, tap)
        });
        let began = Instant::now();
        let written = peer.ask(&[&"write", &records]);
        let elapsed = began.elapsed();
        // Release: with the loads in `read`.
        done.store(true, Ordering::Release);
        assert_eq!(written, format!("OK {records}"));
        let (slow, moved, collector) = slow.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (flat_out, tap) = flat_out.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (elapsed, moved, slow, flat_out, collector, tap)
    });

    let rate = records as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{}: C wrote {records} to {capacity} slots in {elapsed:.2?}, {rate:.0} M/s", c.name());
    for (name, outcome, account) in [
        ("slow collector", slow, collector.shard(A).unwrap().account()),
        ("flat-out tap", flat_out, tap.account()),
    ] {
        let Outcome { drains, gaps, delivered, lost } = outcome;
        println!("  {name}: {delivered} delivered, {lost} lost in {gaps} gaps, {drains} drains");
        assert_eq!(account, Account { recorded: records, delivered, lost, unread: 0 }, "{name}");
        assert_eq!(delivered + lost, records, "{name}");
        assert!(delivered > 0, "{name} was starved");
    }
    println!("  counter: seen to move {moved} times");
    assert_eq!(collector.counter(counter), Some(records));
    // The last of those recorded singly: each 1024 begin with 768 of them.
    let single = (0..records).rev().find(|position| position % 1024 < SINGLE_THEN_BATCH.0);
    assert_eq!(collector.gauge(gauge), single.map(|position| position as f64));
    assert_eq!(collector.shard(A).unwrap().writer(), Some(peer.pid()));
    assert_eq!(peer.say("release"), "OK");
    assert_eq!(collector.shard(A).unwrap().writer(), None);
}

fn rust_writes(c: &Compiler) {
    for capacity in CAPACITIES {
        rust_writes_to(c, capacity, records(RUST_WRITES) / CAPACITIES.len() as u64);
    }
}

fn rust_writes_to(c: &Compiler, capacity: usize, records: u64) {
    let mut made = made(HubConfig { ring_capacity: capacity, ..SMALL });
    let mut counter = made.registry.counter(A, &PROBE_SENT, &["rust"]).unwrap();
    let mut peer = c.reading(&made.path);
    assert_eq!(peer.find(0, PROBE_SENT.name, &["rust"]), "OK 0 1 0");
    assert_eq!(peer.say("read"), "OK");

    let began = Instant::now();
    let (single, batch) = SINGLE_THEN_BATCH;
    let publisher = &mut made.publishers[0];
    let mut gathered = Vec::new();
    while publisher.recorded() < records {
        let from = publisher.recorded();
        let single_end = records.min(from + single);
        for position in from..single_end {
            publisher.record(sample_at(position));
            counter.add(1);
        }
        let batch_end = records.min(single_end + batch);
        gathered.clear();
        gathered.extend((single_end..batch_end).map(sample_at));
        publisher.record_batch(&gathered);
        counter.add(batch_end - single_end);
    }
    let elapsed = began.elapsed();
    assert_eq!((publisher.recorded(), counter.get()), (records, records));
    let answer = peer.say("stop_reading");

    let rate = records as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{}: Rust wrote {records} to {capacity} slots in {elapsed:.2?}, {rate:.0} M/s", c.name());
    check_readers(&answer, records);
}

/// Writer and readers as threads of one process, where a thread sanitizer sees all of it.
fn c_alone(c: &Compiler) {
    let records = records(RUST_WRITES);
    let mut made = made(SMALL);
    made.intern(A);
    made.leave(A);
    let mut peer = c.writing(&made.path);
    assert_eq!(peer.ask(&[&"claim", &0]), "OK 0");
    assert_eq!(peer.find(0, PROBE_SENT.name, &["c"]), "OK 0 1 0");
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");
    assert_eq!(peer.say("read"), "OK");
    assert_eq!(peer.ask(&[&"write", &records]), format!("OK {records}"));
    println!("{}: C wrote {records} to {} slots, and read them", c.name(), SMALL.ring_capacity);
    check_readers(&peer.say("stop_reading"), records);
}

/// What the two readers in C say of themselves: that each has the producer's count, to the unit.
fn check_readers(answer: &str, records: u64) {
    let readers: Vec<&str> = answer.split('\t').skip(1).collect();
    assert_eq!(readers.len(), 2, "{answer}");
    for (name, reader) in ["slow reader", "flat-out reader"].into_iter().zip(readers) {
        let numbers: Vec<u64> = reader.split(' ').map(|number| number.parse().unwrap()).collect();
        let [recorded, delivered, lost, unread, malformed, drains, gaps, count, moved] = numbers[..] else {
            panic!("{reader:?} is no account");
        };
        println!("  {name}: {delivered} delivered, {lost} lost in {gaps} gaps, {drains} drains");
        println!("  {name}: saw the counter move {moved} times");
        assert_eq!((recorded, unread, malformed, count), (records, 0, 0, records), "{name}");
        assert_eq!(delivered + lost, records, "{name}");
        assert!(delivered > 0, "{name} was starved");
    }
}

// One by one.

fn every_kind(c: &Compiler) {
    let mut made = made(SMALL);
    made.leave(A);
    let mut peer = c.writing(&made.path);
    assert_eq!(peer.ask(&[&"claim", &0]), "OK 0");
    let mut collector = attach(&made.path).unwrap();
    let mut tap = collector.shard(A).unwrap().tap(Start::Oldest);
    assert_eq!(peer.say("record_kinds"), "OK 3");
    let sample = |id, timestamp_ns, value| MetricSample { metric_id: MetricId(id), timestamp_ns, value };
    let samples = [
        sample(u32::MAX, u64::MAX, MetricValue::Counter(u64::MAX)),
        sample(0, 1, MetricValue::Gauge(-0.5)),
        sample(7, 2, MetricValue::Histogram(1e-9)),
    ];
    let mut seen = Vec::new();
    let mark = tap.mark();
    tap.drain_to(mark, |position, sample| seen.push((position, sample)));
    assert_eq!(seen, [(0, samples[0]), (1, samples[1]), (2, samples[2])]);
    assert_eq!(collector.drain(A, |_| {}).delivered, 3);

    assert_eq!(peer.ask(&[&"attach", &1, &"first"]), "OK");
    made.publishers[0].record(samples[2]);
    made.publishers[0].record_batch(&samples[..2]);
    let expected = "OK\t0 7 3 2 1.0000000000000001e-09\
                    \t1 4294967295 1 18446744073709551615 18446744073709551615\
                    \t2 0 2 1 -0.5\t3+0(0)+0=3";
    assert_eq!(peer.say("drain"), expected);
}

/// After every step, drains on both sides what began at the same place.
fn same_edges(c: &Compiler) {
    for capacity in [2_usize, 4, 16, 256] {
        let mut made = made(HubConfig { ring_capacity: capacity, ..SMALL });
        let collector = attach(&made.path).unwrap();
        let publisher = &mut made.publishers[0];
        let size = capacity as u64;
        for steps in
            [vec![0], vec![1], vec![size - 1], vec![size], vec![size + 1], vec![3, size / 2, 5 * size, 1]]
        {
            for (name, start) in [("first", Start::First), ("oldest", Start::Oldest), ("now", Start::Now)] {
                let mut ours = collector.shard(A).unwrap().tap(start);
                let mut peer = c.reading(&made.path);
                assert_eq!(peer.ask(&[&"attach", &0, &name]), "OK");
                assert_eq!(peer.ask(&[&"attach", &2, &name]), "NO_SHARD");
                for &step in &steps {
                    let batch: Vec<_> =
                        (0..step).map(|more| sample_at(publisher.recorded() + more)).collect();
                    publisher.record_batch(&batch);
                    let mut expected = "OK".to_owned();
                    let mark = ours.mark();
                    let drained = ours.drain_to(mark, |position, sample| {
                        let MetricValue::Counter(count) = sample.value else { panic!("{sample:?}") };
                        let (id, at) = (sample.metric_id.0, sample.timestamp_ns);
                        expected += &format!("\t{position} {id} 1 {at} {count}");
                    });
                    let Account { recorded, unread, .. } = ours.account();
                    expected += &format!("\t{}+{}(0)+{unread}={recorded}", drained.delivered, drained.lost);
                    assert_eq!(peer.say("drain"), expected, "{capacity} slots, {name}, {step} of {steps:?}");
                }
            }
        }
    }
}

fn cells(c: &Compiler) {
    let mut made = made(SMALL);
    let [counter, gauge, _] = made.intern(A);
    made.leave(A);
    let collector = attach(&made.path).unwrap();
    let mut peer = c.writing(&made.path);
    assert_eq!(peer.ask(&[&"claim", &0]), "OK 0");

    assert_eq!(peer.find(0, PROBE_SENT.name, &["c"]), "OK 0 1 0");
    assert_eq!(peer.ask(&[&"hold", &"gauge"]), "KIND");
    assert_eq!(peer.say("gauge"), "KIND");
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");
    assert_eq!((collector.counter(counter), peer.say("counter").as_str()), (Some(0), "OK 0"));
    peer.ask(&[&"add", &41]);
    peer.ask(&[&"add", &1]);
    assert_eq!((collector.counter(counter), peer.say("counter").as_str()), (Some(42), "OK 42"));

    assert_eq!(peer.find(0, PROBE_RTT_MS.name, &["c"]), "OK 1 2 0");
    assert_eq!(peer.ask(&[&"hold", &"gauge"]), "OK");
    for (word, rust, said) in [
        (None, None, "ABSENT"),
        (Some("0"), Some(0.0), "OK 0"),
        (Some("-0.1"), Some(-0.1), "OK -0.10000000000000001"),
        (Some("nan"), None, "ABSENT"),
        (Some("inf"), Some(f64::INFINITY), "OK inf"),
        (Some("clear"), None, "ABSENT"),
    ] {
        match word {
            Some("clear") => assert_eq!(peer.say("clear"), "OK"),
            Some(value) => assert_eq!(peer.ask(&[&"set", &value]), "OK"),
            None => {}
        }
        assert_eq!((collector.gauge(gauge), peer.say("gauge").as_str()), (rust, said), "after {word:?}");
    }
    assert_eq!(peer.find(0, PROBE_RTT_SECONDS.name, &["c"]), "OK 2 3 0");
    assert_eq!((peer.say("counter").as_str(), peer.say("gauge").as_str()), ("KIND", "KIND"));

    let mut theirs = made.registry.gauge(B, &PROBE_UP, &["b"]).unwrap();
    assert_eq!(peer.find(1, PROBE_UP.name, &["b"]), "OK 3 2 0");
    assert_eq!(peer.ask(&[&"hold", &"gauge"]), "OTHER_SHARD");
    assert_eq!(peer.say("gauge"), "ABSENT");
    theirs.set(0.5);
    assert_eq!(peer.say("gauge"), "OK 0.5");
    theirs.set_or_clear(None);
    assert_eq!(peer.say("gauge"), "ABSENT");

    assert_eq!(peer.ask(&[&"beat", &123]), "OK");
    assert_eq!(collector.shard(A).unwrap().heartbeat().last_ns(), Some(123));
    rows_by_hand(c, &made);
}

/// What no handle of Rust's does yet, or does for a moment only: the row of the first counter is given a second
/// cell, as a counter that other threads count too; then it is seen while it is being written.
fn rows_by_hand(c: &Compiler, made: &Made) {
    let sizes = [2, 16, 16, 64, 1024, 64 * 4 + 32_768];
    let at = |name| offsets(sizes).iter().find(|(named, _)| *named == name).unwrap().1 as u64;
    assert_eq!(at("words") * 8, fs::metadata(&made.path).unwrap().len(), "the sizes are those of `SMALL`");
    let file = File::options().read(true).write(true).open(&made.path).unwrap();
    let word = |at: u64, value: u64| file.write_all_at(&value.to_ne_bytes(), at * 8).unwrap();
    word(at("series") + 2, 15 << 32);
    word(at("shards") + 32 + 15, 1000);
    let mut peer = c.reading(&made.path);
    assert_eq!(peer.find(0, PROBE_SENT.name, &["c"]), "OK 0 1 0");
    assert_eq!(peer.say("counter"), "OK 1042");
    assert_eq!(attach(&made.path).unwrap().counter(MetricId(0)), Some(1042));

    // As while the row is being written: the first word of the row is odd.
    word(at("series"), 3);
    assert_eq!(peer.say("counter"), "STALE");
    assert_eq!(peer.find(0, PROBE_SENT.name, &["c"]), "BUSY");
    assert_eq!(peer.find(0, PROBE_SENT.name, &["absent"]), "BUSY", "it could be this one");
    assert!(peer.find(0, PROBE_RTT_MS.name, &["c"]).starts_with("OK"), "another row is another's");
    assert_eq!(attach(&made.path).unwrap().counter(MetricId(0)), None);
}

// Series.

/// What Rust lists, in the words of C.
fn listed(collector: &Collector) -> String {
    collector.directory().read(|view| {
        let series = view.series().map(|series| {
            let labels = series.family.labels.iter().zip(series.values.iter());
            let labels: String = labels.map(|(name, value)| format!(" {name}={value}")).collect();
            format!("\t{} {} {}{labels}", series.id.0, series.shard.0, series.family.name)
        });
        format!("OK{}", series.collect::<String>())
    })
}

fn lookup(c: &Compiler) {
    let made = made(SMALL);
    let longest = "x".repeat(1024);
    let values = ["", "1234567", "12345678", "123456789", "größe \"2\"", &longest];
    for value in values {
        made.registry.counter(A, &PROBE_SENT, &[value]).unwrap();
    }
    made.registry.counter(B, &PROBE_SENT, &["12345678"]).unwrap();
    made.registry.counter(B, &PROBE_SEND_ERRORS, &["b", "refused"]).unwrap();
    made.registry.stream(B, &PROBE_RTT_SECONDS, &["b"]).unwrap();
    let collector = attach(&made.path).unwrap();
    let mut peer = c.reading(&made.path);
    for (id, value) in values.into_iter().enumerate() {
        assert_eq!(peer.find(0, "probe_sent_total", &[value]), format!("OK {id} 1 0"), "{value:?}");
    }
    assert_eq!(peer.find(1, "probe_sent_total", &["12345678"]), "OK 6 1 0");
    assert_eq!(peer.find(1, "probe_send_errors_total", &["b", "refused"]), "OK 7 1 0");
    assert_eq!(peer.say("help"), format!("OK {}", PROBE_SEND_ERRORS.help));
    assert_eq!(peer.find(1, "probe_rtt_seconds", &["b"]), "OK 8 3 0");
    for (shard, family, values) in [
        (0, "probe_sent_total", &["123456"][..]),
        (0, "probe_sent_total", &["1234567\u{1}"]),
        (1, "probe_sent_total", &["123456789"]),
        (2, "probe_sent_total", &["12345678"]),
        (0, "probe_sent_total", &[]),
        (0, "probe_sent_total", &["12345678", ""]),
        (0, "probe_sent_totals", &["12345678"]),
        (0, "probe_sent_tota", &["12345678"]),
        (0, "relay_probe_sent_total", &["12345678"]),
        (1, "probe_send_errors_total", &["refused", "b"]),
    ] {
        assert_eq!(peer.find(shard, family, values), "NOT_FOUND", "{family}{values:?} of shard {shard}");
    }
    let list = peer.say("list");
    assert_eq!(list, listed(&collector));
    assert_eq!(list.split('\t').count(), 10);
}

fn reuse(c: &Compiler) {
    let mut made = made(HubConfig { max_series: 2, cells_per_shard: 1, ..SMALL });
    made.leave(A);
    let first = made.registry.counter(A, &PROBE_SENT, &["old"]).unwrap().id();
    let mut peer = c.writing(&made.path);
    assert_eq!(peer.ask(&[&"claim", &0]), "OK 0");
    assert_eq!(peer.find(0, PROBE_SENT.name, &["old"]), "OK 0 1 0");
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");
    assert_eq!(peer.ask(&[&"write", &5]), "OK 5");
    let mut reader = c.reading(&made.path);
    assert_eq!(reader.find(0, PROBE_SENT.name, &["old"]), "OK 0 1 0");
    assert_eq!(reader.say("counter"), "OK 5");

    let ticket = made.registry.retire(A, &[first]).unwrap();
    assert_eq!((reader.say("counter").as_str(), reader.say("help").as_str()), ("STALE", "STALE "));
    assert_eq!(reader.find(0, PROBE_SENT.name, &["old"]), "NOT_FOUND");
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "STALE");
    assert_eq!(reader.say("list"), "OK");
    // The one cell is the retired series' until its writer has said that it let go.
    assert!(made.registry.counter(A, &PROBE_SENT, &["new"]).is_err());
    assert_eq!(peer.ask(&[&"acknowledge", &ticket.number()]), "OK 5");
    assert_eq!(made.registry.counter(A, &PROBE_SENT, &["new"]).unwrap().id(), first);

    // The cell found with the old series is the new one's: the old one's reader is not told its count.
    assert_eq!(peer.find(0, PROBE_SENT.name, &["new"]), "OK 0 1 5");
    assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");
    assert_eq!(peer.ask(&[&"add", &3]), "OK");
    assert_eq!(reader.find(0, PROBE_SENT.name, &["old"]), "NOT_FOUND");
    assert_eq!(reader.find(0, PROBE_SENT.name, &["new"]), "OK 0 1 5");
    assert_eq!(reader.say("counter"), "OK 3");
    let collector = attach(&made.path).unwrap();
    assert_eq!((collector.counter(first), listed(&collector)), (Some(3), reader.say("list")));
    // A ticket told again, or an older one, changes nothing.
    assert_eq!(peer.ask(&[&"write", &1]), "OK 6");
    assert_eq!(peer.ask(&[&"acknowledge", &ticket.number()]), "OK 6");
    let second = made.registry.retire(A, &[first]).unwrap();
    assert_eq!(peer.ask(&[&"acknowledge", &second.number()]), "OK 6");
    made.registry.counter(A, &PROBE_SENT, &["third"]).unwrap();
    assert_eq!(reader.find(0, PROBE_SENT.name, &["third"]), "OK 0 1 6");
}

/// One row and one cell, which are "odd" and "even" in turn as fast as can be, while C looks.
fn parity(c: &Compiler) {
    let mut made = made(HubConfig { shards: 1, cells_per_shard: 1, max_series: 1, ..SMALL });
    let mut peer = c.reading(&made.path);
    let done = AtomicBool::new(false);
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            let publisher = &mut made.publishers[0];
            while !done.load(Ordering::Relaxed) {
                for (value, first) in [("odd", 1), ("even", 2)] {
                    let mut counter = made.registry.counter(A, &PROBE_SENT, &[value]).unwrap();
                    counter.add(first);
                    for _ in 0..100 {
                        counter.add(2);
                    }
                    let ticket = made.registry.retire(A, &[counter.id()]).unwrap();
                    drop(counter);
                    publisher.acknowledge(ticket);
                }
            }
        });
        let (word, family) = ("watch", PROBE_SENT.name);
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            peer.ask(&[&word, &RETIREMENTS, &family])
        }));
        done.store(true, Ordering::Relaxed);
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let numbers: Vec<u64> = answer.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
    println!("{}: {answer} (counts read, found stale, not found)", c.name());
    assert!(numbers[0] > 0 && numbers[1] >= RETIREMENTS, "{answer}: the race did not happen");
}

// Damage.

/// The error of Rust in the words of C.
fn class(path: &Path) -> String {
    match attach(path) {
        Ok(_) => "OK".to_owned(),
        Err(SegmentError::File { .. }) => "SYSTEM".to_owned(),
        Err(SegmentError::NotAFile { .. }) => "NOT_A_FILE".to_owned(),
        Err(SegmentError::NotASegment { .. }) => "NOT_A_SEGMENT".to_owned(),
        Err(SegmentError::ForeignEndian { .. }) => "FOREIGN_ENDIAN".to_owned(),
        Err(SegmentError::Unfinished { .. }) => "UNFINISHED".to_owned(),
        Err(SegmentError::Version { .. }) => "VERSION".to_owned(),
        Err(SegmentError::Header { what, .. }) => format!("HEADER {what}"),
        Err(SegmentError::Length { .. }) => "LENGTH".to_owned(),
        Err(error) => panic!("{error}: attach does not say this"),
    }
}

fn same_errors(c: &Compiler) {
    let made = made(SMALL);
    let sound = fs::read(&made.path).unwrap();
    let path = made.path.with_extension("damaged");
    let mut peer = c.start();
    let mut check = |bytes: &[u8], expected: Option<&str>, how: &str| {
        let mut file = File::create(&path).unwrap();
        file.write_all(bytes).unwrap();
        let rust = class(&path);
        for access in ["read", "write"] {
            assert_eq!(peer.open(access, &path), rust, "{how}, to {access}");
        }
        if let Some(expected) = expected {
            assert_eq!(rust, expected, "{how}");
        }
    };
    check(&sound, Some("OK"), "sound");
    check(b"", Some("NOT_A_SEGMENT"), "empty");
    check(b"garbage", Some("NOT_A_SEGMENT"), "shorter than a word");
    check(&[0xa5; 10_000], Some("NOT_A_SEGMENT"), "garbage");
    check(&sound[..7], Some("NOT_A_SEGMENT"), "cut in the magic");
    check(&sound[..8], Some("LENGTH"), "cut after the magic");
    check(&sound[..4095], Some("LENGTH"), "cut in the header");
    check(&sound[..4096], Some("LENGTH"), "cut after the header");
    check(&sound[..sound.len() - 1], Some("LENGTH"), "cut at the end");
    check(&[&sound[..], b"x"].concat(), Some("LENGTH"), "grown");
    let swapped: Vec<u8> = sound.chunks(8).flat_map(|word| word.iter().rev().copied()).collect();
    check(&swapped, Some("FOREIGN_ENDIAN"), "byte-swapped");
    check(&swapped[..8], Some("FOREIGN_ENDIAN"), "byte-swapped and cut");

    let with = |word: usize, value: u64| {
        let mut bytes = sound.clone();
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    check(&with(1, 0), Some("UNFINISHED"), "without a version");
    check(&with(1, 2), Some("VERSION"), "version 2");
    check(&with(1, u64::MAX), Some("VERSION"), "version 2^64 - 1");
    check(&with(10, 17), Some("HEADER ring_capacity"), "17 slots");
    check(&with(10, 1024), Some("HEADER length"), "1024 slots");
    for (word, what) in [
        (2, "length"),
        (9, "shards"),
        (10, "ring_capacity"),
        (11, "cells_per_shard"),
        (12, "max_series"),
        (13, "max_families"),
        (14, "string_words"),
    ] {
        for value in [0, 1 << 29, 1 << 32, 1 << 63, u64::MAX] {
            check(&with(word, value), Some(&format!("HEADER {what}")), &format!("word {word} = {value:#x}"));
        }
    }
    // Each bit of what is believed: whatever it does, it does it to both sides.
    for word in 0..16 {
        for bit in 0..64 {
            let value = u64::from_ne_bytes(sound[word * 8..word * 8 + 8].try_into().unwrap()) ^ 1 << bit;
            check(&with(word, value), None, &format!("word {word} = {value:#x}"));
        }
    }

    let directory = made.path.parent().unwrap();
    let pipe = made.path.with_extension("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, expected) in
        [(directory, "NOT_A_FILE"), (&pipe, "NOT_A_FILE"), (&directory.join("absent"), "SYSTEM")]
    {
        assert_eq!(class(path), expected);
        for access in ["read", "write"] {
            assert_eq!(peer.open(access, path), expected, "{} to {access}", path.display());
        }
    }
}

// Claims.

fn one_writer(c: &Compiler) {
    let mut made = made(SMALL);
    let [mut one, mut other] = [c.writing(&made.path), c.writing(&made.path)];
    assert_eq!(one.ask(&[&"claim", &0]), "TAKEN", "by its maker");
    made.leave(A);
    assert_eq!(one.ask(&[&"claim", &0]), "OK 0");
    assert_eq!(other.ask(&[&"claim", &0]), "TAKEN");
    assert_eq!(one.ask(&[&"claim", &0]), "TAKEN", "by itself");
    assert_eq!(other.ask(&[&"take_over", &0, &0]), "TAKEN");
    assert_eq!(other.ask(&[&"claim", &1]), "TAKEN");
    assert_eq!(other.ask(&[&"claim", &2]), "NO_SHARD");
    assert_eq!(c.reading(&made.path).ask(&[&"claim", &0]), "READ_ONLY");

    assert_eq!(one.ask(&[&"write", &10]), "OK 10");
    assert_eq!(one.say("release"), "OK");
    assert_eq!(other.ask(&[&"claim", &0]), "OK 10");
    let collector = attach(&made.path).unwrap();
    assert_eq!(collector.shard(A).unwrap().writer(), Some(other.pid()));
    // Somebody who knows better than the kernel; the one who lost the shard cannot let go of it.
    assert_eq!(one.ask(&[&"take_over", &0, &other.pid()]), "OK 10");
    assert_eq!(other.say("release"), "OK");
    assert_eq!(collector.shard(A).unwrap().writer(), Some(one.pid()));
    assert_eq!(one.say("release"), "OK");

    let copy = made.path.with_extension("copy");
    fs::copy(&made.path, &copy).unwrap();
    assert_eq!(c.writing(&copy).ask(&[&"claim", &0]), "ENDED", "its maker is not there");
    made.publishers.clear();
    drop(made.registry);
    assert_eq!(one.ask(&[&"claim", &0]), "ENDED", "it is closed");
}

/// Writers at full speed, each killed in the midst of it; then one that dies in the middle of a batch.
fn take_over(c: &Compiler) {
    let mut made = made(HubConfig { ring_capacity: 1024, ..SMALL });
    let [counter, ..] = made.intern(A);
    made.leave(A);
    let mut collector = attach(&made.path).unwrap();
    let (mut next, mut counted) = (0, 0);
    let mut drain = |collector: &mut Collector| {
        let mark = collector.mark(A);
        collector.drain_to(A, mark, |position, sample| {
            assert!(sample == sample_at(position) && position >= next, "{sample:?} at position {position}");
            next = position + 1;
        });
        let count = collector.counter(counter).expect("nobody retires it");
        assert!(count >= counted, "the counter went back from {counted} to {count}");
        counted = count;
        let account = collector.shard(A).unwrap().account();
        assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        account
    };
    let claimed = |c: &Compiler, head: u64| -> Peer {
        let mut peer = c.writing(&made.path);
        assert_eq!(peer.ask(&[&"claim", &0]), format!("OK {head}"));
        assert!(peer.find(0, PROBE_SENT.name, &["c"]).starts_with("OK"));
        assert_eq!(peer.ask(&[&"hold", &"counter"]), "OK");
        peer
    };

    let mut recorded = 0;
    for round in 0..5 {
        let mut peer = claimed(c, recorded);
        peer.tell(&[&"write", &(1_u64 << 60)]);
        let began = Instant::now();
        while drain(&mut collector).recorded < recorded + 100_000 {
            assert!(began.elapsed() < PATIENCE, "round {round}: the writer records nothing");
        }
        peer.kill();
        // Dead, but not yet waited for: its process id could still be its own.
        assert_eq!(c.writing(&made.path).ask(&[&"claim", &0]), "TAKEN");
        peer.wait();
        let account = drain(&mut collector);
        recorded = account.recorded;
        assert_eq!((account.delivered + account.lost, account.unread), (recorded, 0));
        assert!(collector.shard(A).unwrap().in_flight() <= 64);
    }

    let mut peer = claimed(c, recorded);
    assert_eq!(peer.ask(&[&"begin_batch", &64]), format!("OK {recorded}"));
    peer.kill();
    peer.wait();
    assert_eq!(collector.shard(A).unwrap().in_flight(), 64);
    assert_eq!(drain(&mut collector).recorded, recorded);
    let mut peer = claimed(c, recorded);
    // A shorter batch does not take back what the dead one announced, and wrote.
    assert_eq!(peer.ask(&[&"batch", &1]), format!("OK {}", recorded + 1));
    assert_eq!(drain(&mut collector).unread, 0);
    let mut late = collector.shard(A).unwrap().tap(Start::Oldest);
    late.drain_to(late.mark(), |position, sample| assert_eq!(sample, sample_at(position)));
    let written = recorded + 1 + 5000;
    assert_eq!(peer.ask(&[&"write", &5000]), format!("OK {written}"));
    let account = drain(&mut collector);
    assert_eq!((account.recorded, account.delivered + account.lost), (written, written));
    assert_eq!(collector.shard(A).unwrap().in_flight(), 0);
    assert_eq!(next, written);
}
