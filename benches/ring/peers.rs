//! What a user would pick instead, each in the configuration its own documentation recommends for
//! this use, each with the same number of slots and the same 24 bytes per record.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use relayscope_benches::contender::{Broadcast, Contender, Reader, Writer};
use ringbuf::traits::Observer as _;
use ringbuf::{HeapRb, LocalRb, storage::Heap};

use crate::ours::{Unread, sample};
use crate::{RING_SLOTS, Side};

/// A record as the three words that ours writes.
type Record = [u64; 3];

#[inline]
fn record(n: u64) -> Record {
    sample(n).encode()
}

/// The floor: an array no other thread can see.
pub(crate) struct PlainArray;

pub(crate) struct ArrayWriter {
    slots: Vec<Record>,
    next: u64,
}

impl Writer for ArrayWriter {
    #[inline]
    fn record(&mut self, n: u64) {
        let index = (self.next & (self.slots.len() as u64 - 1)) as usize;
        let slot = &mut self.slots[index];
        *slot = record(n);
        // All three words are in memory before the next record begins, as they are for a ring that
        // is read: else the loop becomes a vectorised copy, which is no floor for single calls.
        black_box(slot);
        self.next += 1;
    }
}

impl Contender for PlainArray {
    const NAME: &'static str = "plain";
    type Writer = ArrayWriter;
    type Reader = Unread;

    fn pair() -> (ArrayWriter, Unread) {
        (ArrayWriter { slots: vec![[0; 3]; RING_SLOTS], next: 0 }, Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: ArrayWriter, _reader: Unread) -> u64 {
        for n in recorded - RING_SLOTS as u64..recorded {
            assert_eq!(writer.slots[n as usize % RING_SLOTS], record(n));
        }
        recorded
    }
}

/// photon-ring's lossy channel with its default, sound `atomic-slots`.
pub(crate) struct Photon;

impl Writer for Side<photon_ring::Publisher<Record>> {
    #[inline]
    fn record(&mut self, n: u64) {
        self.0.publish(record(n));
    }
}

impl Reader for Side<photon_ring::Subscriber<Record>> {
    fn drain(&mut self) -> u64 {
        // Like ours, stop after what there was when called: its iterator goes on while records come.
        let waiting = self.0.pending() as usize;
        count_ordered(self.0.drain().take(waiting))
    }
}

impl Contender for Photon {
    const NAME: &'static str = "photon";
    type Writer = Side<photon_ring::Publisher<Record>>;
    type Reader = Side<photon_ring::Subscriber<Record>>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (publisher, subscribable) = photon_ring::channel(RING_SLOTS);
        (Side(publisher), Side(subscribable.subscribe()))
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, reader: Self::Reader) -> u64 {
        assert_eq!(writer.0.published(), recorded);
        Self::check_reader(recorded, delivered, reader);
        delivered
    }
}

impl Broadcast for Photon {
    fn fan_out(readers: usize) -> (Self::Writer, Vec<Self::Reader>) {
        let (publisher, subscribable) = photon_ring::channel(RING_SLOTS);
        let subscribers = (0..readers).map(|_| Side(subscribable.subscribe())).collect();
        (Side(publisher), subscribers)
    }

    fn check_reader(recorded: u64, delivered: u64, reader: Self::Reader) {
        assert_eq!(reader.0.total_received(), delivered);
        assert_eq!(reader.0.total_received() + reader.0.total_lagged(), recorded);
    }
}

/// rtrb. It cannot overwrite: when it is full, the new record is refused and counted. A refusal is
/// cheaper than a record, so read its time together with what went through. Alone, it is drained
/// between laps, untimed, and never full: the kindest form there is.
pub(crate) struct Rtrb;

pub(crate) struct RtrbWriter {
    producer: rtrb::Producer<Record>,
    refused: u64,
}

impl Writer for RtrbWriter {
    #[inline]
    fn record(&mut self, n: u64) {
        if self.producer.push(record(n)).is_err() {
            self.refused += 1;
        }
    }
}

impl Reader for Side<rtrb::Consumer<Record>> {
    fn drain(&mut self) -> u64 {
        let waiting = self.0.slots();
        let Ok(chunk) = self.0.read_chunk(waiting) else { panic!("{waiting} slots were promised") };
        count_ordered(chunk.into_iter())
    }
}

/// Counts the records and looks at each, as the readers of all rings here do.
fn count_ordered(records: impl Iterator<Item = Record>) -> u64 {
    let (mut next, mut delivered, mut ordered) = (0, 0, true);
    for record in records {
        ordered &= record[1] >= next;
        next = record[1] + 1;
        delivered += 1;
    }
    assert!(ordered, "records came out of order");
    delivered
}

impl Contender for Rtrb {
    const NAME: &'static str = "rtrb";
    const NEEDS_DRAINING: bool = true;
    type Writer = RtrbWriter;
    type Reader = Side<rtrb::Consumer<Record>>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (producer, consumer) = rtrb::RingBuffer::new(RING_SLOTS);
        (RtrbWriter { producer, refused: 0 }, Side(consumer))
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(delivered + writer.refused, recorded);
        delivered
    }
}

/// rtrb with both ends in one hand, made to do what every other ring here does without a reader: when
/// full, the oldest has to go.
pub(crate) struct RtrbOverwriting;

pub(crate) struct RtrbBothEnds {
    producer: rtrb::Producer<Record>,
    consumer: rtrb::Consumer<Record>,
    overwritten: u64,
}

impl Writer for RtrbBothEnds {
    #[inline]
    fn record(&mut self, n: u64) {
        if let Err(rtrb::PushError::Full(record)) = self.producer.push(record(n)) {
            self.overwritten += u64::from(self.consumer.pop().is_ok());
            assert!(self.producer.push(record).is_ok(), "a slot was freed for it");
        }
    }
}

impl Contender for RtrbOverwriting {
    const NAME: &'static str = "rtrb";
    type Writer = RtrbBothEnds;
    type Reader = Unread;

    fn pair() -> (Self::Writer, Unread) {
        let (producer, consumer) = rtrb::RingBuffer::new(RING_SLOTS);
        (RtrbBothEnds { producer, consumer, overwritten: 0 }, Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: Self::Writer, _reader: Unread) -> u64 {
        assert_eq!(writer.overwritten + writer.consumer.slots() as u64, recorded);
        recorded
    }
}

/// ringbuf, overwriting. That needs both ends at once, so it cannot be read from another thread as it
/// is: alone it is measured as its single-threaded `LocalRb`.
pub(crate) struct RingbufAlone;

pub(crate) struct LocalWriter {
    ring: LocalRb<Heap<Record>>,
    overwritten: u64,
}

impl Writer for LocalWriter {
    #[inline]
    fn record(&mut self, n: u64) {
        self.overwritten += u64::from(self.ring.push_overwrite(record(n)).is_some());
    }
}

impl Contender for RingbufAlone {
    const NAME: &'static str = "ringbuf";
    type Writer = LocalWriter;
    type Reader = Unread;

    fn pair() -> (LocalWriter, Unread) {
        (LocalWriter { ring: LocalRb::new(RING_SLOTS), overwritten: 0 }, Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: LocalWriter, _reader: Unread) -> u64 {
        assert_eq!(writer.overwritten + writer.ring.occupied_len() as u64, recorded);
        recorded
    }
}

/// What overwrites the oldest but needs a lock to be shared.
pub(crate) trait Overwriting: Send {
    fn new() -> Self;
    /// Whether a record had to go.
    fn overwrite(&mut self, record: Record) -> bool;
    fn pop(&mut self) -> Option<Record>;
}

/// One of them behind a mutex. The reader takes 64 per lock, as many as ours per look at the head.
pub(crate) struct Locked<Q>(Arc<Mutex<Q>>);

pub(crate) struct LockedWriter<Q> {
    queue: Arc<Mutex<Q>>,
    overwritten: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Q: Overwriting> Writer for LockedWriter<Q> {
    #[inline]
    fn record(&mut self, n: u64) {
        self.overwritten += u64::from(lock(&self.queue).overwrite(record(n)));
    }
}

impl<Q: Overwriting> Reader for Locked<Q> {
    fn drain(&mut self) -> u64 {
        // Bounded by one ring, as ours: a busy writer would keep this going.
        let (mut next, mut delivered) = (0, 0);
        while delivered < RING_SLOTS as u64 {
            let mut queue = lock(&self.0);
            for _ in 0..64 {
                let Some(record) = queue.pop() else { return delivered };
                assert!(record[1] >= next, "records came out of order");
                next = record[1] + 1;
                delivered += 1;
            }
        }
        delivered
    }
}

fn locked_pair<Q: Overwriting>() -> (LockedWriter<Q>, Locked<Q>) {
    let queue = Arc::new(Mutex::new(Q::new()));
    (LockedWriter { queue: Arc::clone(&queue), overwritten: 0 }, Locked(queue))
}

impl Overwriting for VecDeque<Record> {
    fn new() -> Self {
        VecDeque::with_capacity(RING_SLOTS)
    }

    #[inline]
    fn overwrite(&mut self, record: Record) -> bool {
        let full = self.len() == RING_SLOTS;
        if full {
            self.pop_front();
        }
        self.push_back(record);
        full
    }

    #[inline]
    fn pop(&mut self) -> Option<Record> {
        self.pop_front()
    }
}

impl Overwriting for HeapRb<Record> {
    fn new() -> Self {
        HeapRb::new(RING_SLOTS)
    }

    #[inline]
    fn overwrite(&mut self, record: Record) -> bool {
        self.push_overwrite(record).is_some()
    }

    #[inline]
    fn pop(&mut self) -> Option<Record> {
        self.try_pop()
    }
}

/// `Mutex<VecDeque>` that drops the oldest.
pub(crate) struct MutexDeque;

impl Contender for MutexDeque {
    const NAME: &'static str = "mutex";
    type Writer = LockedWriter<VecDeque<Record>>;
    type Reader = Locked<VecDeque<Record>>;

    fn pair() -> (Self::Writer, Self::Reader) {
        locked_pair()
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(delivered + writer.overwritten, recorded);
        delivered
    }
}

/// ringbuf, overwriting, beside a reader: behind a mutex.
pub(crate) struct RingbufLocked;

impl Contender for RingbufLocked {
    const NAME: &'static str = "ringbuf";
    type Writer = LockedWriter<HeapRb<Record>>;
    type Reader = Locked<HeapRb<Record>>;

    fn pair() -> (Self::Writer, Self::Reader) {
        locked_pair()
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(delivered + writer.overwritten, recorded);
        delivered
    }
}

/// crossbeam's `ArrayQueue::force_push`.
pub(crate) struct Crossbeam;

pub(crate) struct CrossbeamWriter {
    queue: Arc<ArrayQueue<Record>>,
    overwritten: u64,
}

impl Writer for CrossbeamWriter {
    #[inline]
    fn record(&mut self, n: u64) {
        self.overwritten += u64::from(self.queue.force_push(record(n)).is_some());
    }
}

impl Reader for Side<Arc<ArrayQueue<Record>>> {
    fn drain(&mut self) -> u64 {
        count_ordered(std::iter::from_fn(|| self.0.pop()).take(RING_SLOTS))
    }
}

impl Contender for Crossbeam {
    const NAME: &'static str = "crossbeam";
    type Writer = CrossbeamWriter;
    type Reader = Side<Arc<ArrayQueue<Record>>>;

    fn pair() -> (Self::Writer, Self::Reader) {
        let queue = Arc::new(ArrayQueue::new(RING_SLOTS));
        (CrossbeamWriter { queue: Arc::clone(&queue), overwritten: 0 }, Side(queue))
    }

    fn check(recorded: u64, delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(delivered + writer.overwritten, recorded);
        delivered
    }
}

/// A counter no other thread can see.
pub(crate) struct PlainCounter;

pub(crate) struct PlainCount(u64);

impl Writer for PlainCount {
    #[inline]
    fn record(&mut self, _n: u64) {
        self.0 += 1;
        // In memory before the next one, as a counter that is read has to be.
        black_box(&mut self.0);
    }
}

impl Contender for PlainCounter {
    const NAME: &'static str = "plain u64";
    type Writer = PlainCount;
    type Reader = Unread;

    fn pair() -> (PlainCount, Unread) {
        (PlainCount(0), Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: PlainCount, _reader: Unread) -> u64 {
        assert_eq!(writer.0, recorded);
        recorded
    }
}

/// A counter that any thread may add to: a locked instruction.
pub(crate) struct FetchAdd;

impl Writer for Side<Arc<AtomicU64>> {
    #[inline]
    fn record(&mut self, _n: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Contender for FetchAdd {
    const NAME: &'static str = "AtomicU64::fetch_add";
    type Writer = Side<Arc<AtomicU64>>;
    type Reader = Unread;

    fn pair() -> (Self::Writer, Unread) {
        (Side(Arc::default()), Unread)
    }

    fn check(recorded: u64, _delivered: u64, writer: Self::Writer, _reader: Unread) -> u64 {
        assert_eq!(writer.0.load(Ordering::Relaxed), recorded);
        recorded
    }
}
