//! The ring and the counter cell of this repository.

use std::hint::black_box;

use relayscope_benches::contender::{Broadcast, Contender, Reader, Writer};
use relayscope_bridge::{
    Consumer, CounterCell, HubConfig, MetricId, MetricSample, MetricValue, Producer, ShardId, Start,
    TelemetryRing, catalogue, hub,
};

use crate::{RING_SLOTS, Side};

/// The sample that every contender is given as number `n`: 1024 series in turn.
#[inline]
pub(crate) fn sample(n: u64) -> MetricSample {
    MetricSample {
        metric_id: MetricId((n & 1023) as u32),
        timestamp_ns: n,
        value: MetricValue::Histogram(n as f64),
    }
}

/// `record`, one call per sample.
pub(crate) struct Ours;

impl Writer for Side<Producer> {
    #[inline]
    fn record(&mut self, n: u64) {
        self.0.record(sample(n));
    }
}

impl Reader for Side<Consumer> {
    fn drain(&mut self) -> u64 {
        let (mut next, mut ordered) = (0, true);
        let drained = self.0.drain(|sample| {
            ordered &= sample.timestamp_ns >= next;
            next = sample.timestamp_ns + 1;
        });
        assert!(ordered, "samples came out of order");
        drained.delivered
    }
}

impl Contender for Ours {
    const NAME: &'static str = "relayscope";
    type Writer = Side<Producer>;
    type Reader = Side<Consumer>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (producer, consumer) = TelemetryRing::with_capacity(RING_SLOTS);
        (Side(producer), Side(consumer))
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, reader: Self::Reader) -> u64 {
        assert_eq!(writer.0.recorded(), recorded);
        Self::check_reader(recorded, delivered, reader);
        delivered
    }
}

impl Broadcast for Ours {
    fn fan_out(readers: usize) -> (Self::Writer, Vec<Self::Reader>) {
        let (writer, Side(consumer)) = Self::pair();
        let taps = (0..readers).map(|_| Side(consumer.tap(Start::Oldest))).collect();
        (writer, taps)
    }

    fn check_reader(recorded: u64, delivered: u64, reader: Self::Reader) {
        let account = reader.0.account();
        assert_eq!((account.recorded, account.delivered, account.unread), (recorded, delivered, 0));
        assert_eq!(account.delivered + account.lost, recorded);
    }
}

/// `record_batch`, 64 samples per call, made as they are written.
pub(crate) struct OursBatched;

/// A producer that is given whole batches.
pub(crate) struct BatchWriter(Producer);

impl Writer for BatchWriter {
    fn record(&mut self, n: u64) {
        self.0.record(sample(n));
    }

    #[inline]
    fn record_all(&mut self, from: u64, to: u64) {
        assert!((to - from).is_multiple_of(BATCH as u64));
        for first in (from..to).step_by(BATCH) {
            let first = black_box(first);
            self.0.record_batch((0..BATCH).map(|i| sample(first + i as u64)));
        }
    }
}

impl Contender for OursBatched {
    const NAME: &'static str = "relayscope, batches";
    type Writer = BatchWriter;
    type Reader = Side<Consumer>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (Side(producer), consumer) = Ours::pair();
        (BatchWriter(producer), consumer)
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, reader: Self::Reader) -> u64 {
        Ours::check(recorded, delivered, Side(writer.0), reader)
    }
}

/// `record_batch` of a slice, 64 samples gathered in a buffer of the caller's within the timed loop.
pub(crate) struct OursGathered;

pub(crate) struct GatherWriter {
    producer: Producer,
    gathered: [MetricSample; BATCH],
}

const BATCH: usize = 64;

impl Writer for GatherWriter {
    fn record(&mut self, n: u64) {
        self.producer.record(sample(n));
    }

    #[inline]
    fn record_all(&mut self, from: u64, to: u64) {
        assert!((to - from).is_multiple_of(BATCH as u64));
        for first in (from..to).step_by(BATCH) {
            for (gathered, n) in self.gathered.iter_mut().zip(black_box(first)..) {
                *gathered = sample(n);
            }
            self.producer.record_batch(self.gathered.as_slice());
        }
    }
}

impl Contender for OursGathered {
    const NAME: &'static str = "relayscope, gathered";
    type Writer = GatherWriter;
    type Reader = Side<Consumer>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (Side(producer), consumer) = Ours::pair();
        (GatherWriter { producer, gathered: [sample(0); BATCH] }, consumer)
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, reader: Self::Reader) -> u64 {
        Ours::check(recorded, delivered, Side(writer.producer), reader)
    }
}

/// [`CounterCell::add`].
pub(crate) struct Cell;

impl Writer for Side<CounterCell> {
    #[inline]
    fn record(&mut self, _n: u64) {
        self.0.add(1);
    }
}

/// Cells are alone here: nothing reads them while they are timed.
pub(crate) struct Unread;

impl Reader for Unread {
    fn drain(&mut self) -> u64 {
        0
    }
}

impl Contender for Cell {
    const NAME: &'static str = "CounterCell::add";
    type Writer = Side<CounterCell>;
    type Reader = Unread;

    fn pair() -> (Self::Writer, Unread) {
        let config = HubConfig { ring_capacity: 2, cells_per_shard: 1024, ..HubConfig::default() };
        let cell = hub(config)
            .ok()
            .and_then(|hub| hub.registry.counter(ShardId(0), &catalogue::PROBE_SENT, &["b", "ipv4"]).ok());
        let Some(cell) = cell else { panic!("a hub of one shard and a counter are always to be had") };
        (Side(cell), Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: Self::Writer, _reader: Unread) -> u64 {
        assert_eq!(writer.0.get(), recorded);
        recorded
    }
}
