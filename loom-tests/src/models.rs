//! What must hold in every execution, of rings and of cells.
//!
//! Preemption is unbounded wherever that finishes in seconds; where it does not, the model says how
//! many preemptions it explores and why so few are enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use loom::model::Builder;
use loom::thread;
use relayscope_bridge::catalogue::{PROBE_RTT_MS, PROBE_SENT};
use relayscope_bridge::{Consumer, Hub, HubConfig, Producer, ShardId, Start, TelemetryRing, hub};

use crate::witness::{Witness, require, sample_at, samples_at};

pub(crate) const SHARD: ShardId = ShardId(0);

/// Explores `model`; with `preemptions`, only executions with at most that many forced switches.
pub(crate) fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    let began = Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    // For the record of what was explored: `cargo test ... -- --nocapture`.
    eprintln!(
        "{name}: {} executions in {:.2?}, preemptions {}",
        executions.load(Ordering::Relaxed),
        began.elapsed(),
        preemptions.map_or("unbounded".to_owned(), |n| format!("<= {n}")),
    );
}

/// A ring whose first `recorded` samples were written before any other thread ran.
fn ring_after(capacity: usize, recorded: u64) -> (Producer, Consumer) {
    let (mut producer, consumer) = TelemetryRing::with_capacity(capacity);
    (0..recorded).for_each(|position| producer.record(sample_at(position)));
    (producer, consumer)
}

fn record_on_thread(mut producer: Producer, positions: std::ops::Range<u64>) -> thread::JoinHandle<()> {
    thread::spawn(move || positions.for_each(|position| producer.record(sample_at(position))))
}

/// One reader drains twice while the smallest ring is lapped.
pub(crate) fn one_reader() {
    explore("one_reader", None, || {
        let (producer, consumer) = ring_after(2, 0);
        let mut reader = Witness::new(consumer);
        let writing = record_on_thread(producer, 0..3);
        reader.drain();
        reader.drain();
        writing.join().unwrap();
        reader.finish(3);
    });
}

/// Two readers on threads of their own; neither costs the other a sample.
pub(crate) fn two_readers() {
    explore("two_readers", None, || {
        let (mut producer, consumer) = TelemetryRing::with_capacity(2);
        let readers = [consumer.tap(Start::Oldest), consumer].map(Witness::new).map(|mut reader| {
            thread::spawn(move || {
                reader.drain();
                reader
            })
        });
        (0..2).for_each(|position| producer.record(sample_at(position)));
        for reader in readers {
            reader.join().unwrap().finish(2);
        }
    });
}

/// A reader that begins, while the producer runs, with the oldest record or with the next one.
pub(crate) fn late_reader(start: Start) {
    explore(&format!("late_reader {start:?}"), None, move || {
        let (producer, consumer) = ring_after(2, 1);
        let writing = record_on_thread(producer, 1..3);
        let mut reader = Witness::new(consumer.tap(start));
        reader.drain();
        writing.join().unwrap();
        reader.finish(3);
    });
}

/// The producer laps a reader that is in the middle of copying a chunk.
pub(crate) fn lap_in_a_chunk() {
    explore("lap_in_a_chunk", None, || {
        let (producer, consumer) = ring_after(4, 3);
        let mut reader = Witness::new(consumer);
        let writing = record_on_thread(producer, 3..5);
        reader.drain();
        writing.join().unwrap();
        reader.finish(5);
    });
}

/// A batch overwrites two slots at once next to a reader that copies them.
pub(crate) fn batch() {
    explore("batch", None, || {
        let (mut producer, consumer) = ring_after(4, 4);
        let mut reader = Witness::new(consumer);
        let writing = thread::spawn(move || producer.record_batch(samples_at(4..6)));
        reader.drain();
        writing.join().unwrap();
        reader.finish(6);
    });
}

/// A batch wider than the ring's share goes out in parts, then a single record follows their claims.
/// Three preemptions, as unbounded takes minutes: one each to go into a batch, out of it and back.
pub(crate) fn batch_in_parts_then_single() {
    explore("batch_in_parts_then_single", Some(3), || {
        let (mut producer, consumer) = ring_after(4, 2);
        let mut reader = Witness::new(consumer);
        let writing = thread::spawn(move || {
            producer.record_batch(samples_at(2..5));
            producer.record(sample_at(5));
        });
        reader.drain();
        writing.join().unwrap();
        reader.finish(6);
    });
}

/// A counter under a concurrent reader never goes backwards and loses nothing.
pub(crate) fn counter_cell() {
    explore("counter_cell", None, || {
        let Hub { registry, collector, .. } = hub(SMALL).unwrap();
        let mut sent = registry.counter(SHARD, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        let id = sent.id();
        // The writer is this thread, which runs first: where it runs second, loom takes its own load
        // for the access its store depends on, and explores one execution.
        let reading = thread::spawn(move || {
            let mut last = 0;
            for _ in 0..3 {
                let now = collector.counter(id).unwrap();
                require!([0, 1, 11, 111].contains(&now), "{now} was never the count");
                require!(now >= last, "the counter went back from {last} to {now}");
                last = now;
            }
            collector
        });
        [1, 10, 100].into_iter().for_each(|n| sent.add(n));
        let collector = reading.join().unwrap();
        require!(collector.counter(id) == Some(111), "increments were lost");
    });
}

/// A gauge shows only values that were set, in their order, and its absence.
pub(crate) fn gauge_cell() {
    const WRITTEN: [Option<f64>; 4] = [None, Some(0.25), None, Some(-3e300)];
    explore("gauge_cell", None, || {
        let Hub { registry, collector, .. } = hub(SMALL).unwrap();
        let mut rtt = registry.gauge(SHARD, &PROBE_RTT_MS, &["b"]).unwrap();
        let id = rtt.id();
        let setting = thread::spawn(move || WRITTEN[1..].iter().for_each(|value| rtt.set_or_clear(*value)));
        let mut at = 0;
        for _ in 0..3 {
            let now = collector.gauge(id);
            let ahead = WRITTEN[at..].iter().position(|value| *value == now);
            require!(ahead.is_some(), "{now:?} was not set after {:?}", WRITTEN[at]);
            at += ahead.unwrap();
        }
        setting.join().unwrap();
        require!(collector.gauge(id) == WRITTEN[3], "the last value was lost");
    });
}

/// One of everything: whatever is interned second uses again what the first had.
pub(crate) const SMALL: HubConfig =
    HubConfig { shards: 1, ring_capacity: 2, cells_per_shard: 1, max_series: 1 };

mod holds {
    use relayscope_bridge::Start;

    #[test]
    fn one_reader_has_an_exact_account_of_whole_samples() {
        super::one_reader();
    }

    #[test]
    fn two_readers_have_an_exact_account_each() {
        super::two_readers();
    }

    #[test]
    fn a_late_reader_from_the_oldest_record_has_an_exact_account() {
        super::late_reader(Start::Oldest);
    }

    #[test]
    fn a_late_reader_from_now_has_an_exact_account() {
        super::late_reader(Start::Now);
    }

    #[test]
    fn a_lap_in_the_middle_of_a_chunk_loses_only_what_was_clobbered() {
        super::lap_in_a_chunk();
    }

    #[test]
    fn a_batch_in_flight_is_never_read_in_part() {
        super::batch();
    }

    #[test]
    fn a_batch_in_parts_and_a_single_record_after_it_keep_the_account() {
        super::batch_in_parts_then_single();
    }

    #[test]
    fn a_counter_never_goes_backwards_under_a_reader() {
        super::counter_cell();
    }

    #[test]
    fn a_gauge_shows_only_what_was_set() {
        super::gauge_cell();
    }
}
