//! One producer at full speed, a slow reader and a tap that drains flat out, on real threads; and a counter
//! that is counted as fast as it can be while it is read as fast as it can be.
//!
//! ```text
//! RELAYSCOPE_STRESS_RECORDS=1000000000 cargo test -p relayscope-bridge --release --test stress -- --nocapture
//! ```

mod families;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use relayscope_bridge::{
    Account, Consumer, CounterCell, Hub, HubConfig, MetricId, MetricSample, MetricValue, Producer, ShardId,
    Start, TelemetryRing, hub,
};

use families::PROBE_SENT;

/// In turn, each for an equal share of the records. In the small ring every chunk is a race with the
/// producer; the larger one can be kept up with, and laps the slow reader thousands of times.
const CAPACITIES: [usize; 2] = [16, 4096];
/// In every 1024 records the last 256 go out as one batch, in parts of up to 64.
const SINGLE_THEN_BATCH: (u64, u64) = (768, 256);

/// Held by the test that runs: threads of another would take its cores, and it would race with nobody.
static CORES: Mutex<()> = Mutex::new(());

fn records() -> u64 {
    const FEW: u64 = if cfg!(debug_assertions) { 1_000_000 } else { 20_000_000 };
    match std::env::var("RELAYSCOPE_STRESS_RECORDS") {
        Ok(text) => text.parse().expect("RELAYSCOPE_STRESS_RECORDS is a number of records"),
        Err(_) => FEW,
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

struct Outcome {
    account: Account,
    drains: u64,
    gaps: u64,
}

/// Drains until the producer is done and once more, checking every sample; `pause` between drains.
fn read(mut consumer: Consumer, done: &AtomicBool, pause: Option<Duration>) -> Outcome {
    let (mut next, mut drains, mut gaps, mut delivered, mut lost) = (0, 0, 0, 0, 0);
    loop {
        // Acquire: with the store after the last record, so that the drain below is the last.
        let last = done.load(Ordering::Acquire);
        let drained = consumer.drain(|sample| {
            let position = sample.timestamp_ns;
            assert!(sample == sample_at(position), "torn: {sample:?} is not of position {position}");
            assert!(position >= next, "position {position} came when {next} was due");
            gaps += u64::from(position > next);
            next = position + 1;
        });
        assert_eq!(drained.malformed, 0, "torn words did not decode");
        drains += 1;
        delivered += drained.delivered;
        lost += drained.lost;
        let account = consumer.account();
        assert_eq!((account.delivered, account.lost), (delivered, lost));
        assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        if last {
            return Outcome { account, drains, gaps };
        }
        match pause {
            Some(pause) => thread::sleep(pause),
            // Where there are fewer cores than threads, the producer must get one.
            None if drained.delivered == 0 => thread::yield_now(),
            None => {}
        }
    }
}

#[test]
fn no_sample_is_torn_and_every_account_is_exact_under_full_speed() {
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    for capacity in CAPACITIES {
        run(capacity, records() / CAPACITIES.len() as u64);
    }
}

fn run(capacity: usize, records: u64) {
    let (mut producer, slow) = TelemetryRing::with_capacity(capacity);
    let tap = slow.tap(Start::Oldest);
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let (elapsed, slow, tap) = thread::scope(|scope| {
        let slow = scope.spawn(|| read(slow, &done, Some(Duration::from_millis(1))));
        let tap = scope.spawn(|| read(tap, &done, None));
        record_all(&mut producer, records);
        let elapsed = began.elapsed();
        done.store(true, Ordering::Release);
        let outcome = |reader: thread::ScopedJoinHandle<'_, Outcome>| match reader.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (elapsed, outcome(slow), outcome(tap))
    });
    assert_eq!(producer.recorded(), records);
    let rate = records as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{capacity} slots: {records} records in {elapsed:.2?}, {rate:.0} M/s");
    for (name, outcome) in [("slow reader", slow), ("flat-out tap", tap)] {
        let Account { recorded, delivered, lost, unread } = outcome.account;
        assert_eq!((recorded, unread), (records, 0), "{name}");
        assert_eq!(delivered + lost, records, "{name}");
        assert!(delivered > 0, "{name} was starved");
        let Outcome { drains, gaps, .. } = outcome;
        println!("  {name}: {delivered} delivered, {lost} lost in {gaps} gaps, {drains} drains");
    }
}

fn record_all(producer: &mut Producer, records: u64) {
    let (single, batch) = SINGLE_THEN_BATCH;
    let mut gathered = Vec::new();
    let mut position = 0;
    while position < records {
        let single_end = records.min(position + single);
        let batch_end = records.min(single_end + batch);
        (position..single_end).for_each(|p| producer.record(sample_at(p)));
        gathered.clear();
        gathered.extend((single_end..batch_end).map(sample_at));
        producer.record_batch(&gathered);
        position = batch_end;
    }
}

/// Of a reader of one counter: how often it looked, and how often it saw another count than before.
struct Looks {
    all: u64,
    moved: u64,
}

#[test]
fn a_counter_never_goes_backwards_and_loses_nothing_under_full_speed() {
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let increments = records();
    let config = HubConfig { shards: 1, ring_capacity: 2, cells_per_shard: 1, max_series: 1 };
    let Hub { registry, collector, .. } = hub(config).expect("the sizes are in range");
    let mut counter = registry.counter(ShardId(0), &PROBE_SENT, &["b"]).expect("there is a cell");
    let (id, done) = (counter.id(), AtomicBool::new(false));
    let began = Instant::now();
    let (elapsed, looks) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut last, mut looks) = (0, Looks { all: 0, moved: 0 });
            loop {
                // Acquire: with the store after the last increment, so that the look below sees all.
                let is_last = done.load(Ordering::Acquire);
                let now = collector.counter(id).expect("nobody retires it");
                assert!(now >= last, "the counter went back from {last} to {now}");
                looks.all += 1;
                looks.moved += u64::from(now > last);
                last = now;
                if is_last {
                    assert_eq!(last, increments);
                    return looks;
                }
            }
        });
        count(&mut counter, increments);
        let elapsed = began.elapsed();
        done.store(true, Ordering::Release);
        match reading.join() {
            Ok(looks) => (elapsed, looks),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let rate = increments as f64 / elapsed.as_secs_f64() / 1e6;
    println!("counter: {increments} increments in {elapsed:.2?}, {rate:.0} M/s");
    println!("  reader: {} looks, {} saw it move", looks.all, looks.moved);
    assert!(looks.moved > 0, "the reader saw no increment");
}

/// One at a time: each is a store of its own, for all that the compiler may know of the cell.
fn count(counter: &mut CounterCell, increments: u64) {
    for _ in 0..increments {
        std::hint::black_box(&mut *counter).add(1);
    }
}
