//! A single-producer ring that overwrites the oldest and lets any number of readers look on.
//!
//! It is a seqlock over atomic words, one sequence for the whole ring (Boehm, "Can seqlocks get along
//! with programming language memory models?", MSPC 2012, gives the fences). Slots are atomic words,
//! so a race with the producer yields old or new words, never undefined behaviour; the reader finds
//! out which by looking at the head again.
//!
//! **Producer**, at position `h`: release fence; three word stores; `head = h + 1` (release).
//! The fence makes the *previous* head store visible before the payload that clobbers an old record:
//! a release store orders what precedes it, not what follows.
//!
//! **Reader**: load `head`; acquire fence; copy the words; acquire fence; load `head` again as `h2`.
//! The record in flight at `h2` already clobbers position `h2 - capacity`, so a copied position `r`
//! is good only if `r + capacity > h2`: of `capacity` slots, `capacity - 1` can be read.
//!
//! **Batches** widen the window in flight. The producer announces the end of a batch in `claimed`
//! before its fence; readers treat everything up to it as being written.
//!
//! The loads are relaxed with fences because only plain loads are guaranteed to work on a page that
//! is mapped read-only.

use std::borrow::Borrow;

use crate::sample::{MetricSample, SAMPLE_WORDS};
use crate::segment::layout::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use crate::sync::{AtomicU64, Ordering, Site, fence, intact, ordering};
use crate::words::{LINE_WORDS, OfWords, One, Run, Slot};

/// Records copied between two looks at the head. Bounds the stack buffer at 1.5 KiB. Small under
/// loom, so that its small rings are drained in several chunks too.
pub(crate) const CHUNK: usize = if cfg!(loom) { 2 } else { 64 };
/// Records published with one head store. Bounds how much of the ring a batch makes unreadable.
pub(crate) const BATCH_MAX: u64 = 64;
/// After being lapped, a reader resumes this fraction of the ring ahead of what is clobbered next.
pub(crate) const SLACK_DIVISOR: u64 = 8;

/// A ring capacity out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring capacity {0} is invalid; expected {RING_CAPACITY_MIN}..={RING_CAPACITY_MAX}")]
pub struct CapacityError(pub usize);

/// What the producer tells its readers: two words of a line of their own.
type RingHeader = [AtomicU64; 2];
/// Records published since the ring was made. Positions are never reused: u64 does not wrap.
pub(crate) const HEAD: usize = 0;
/// The end of the last batch announced, whether published or in flight.
pub(crate) const CLAIMED: usize = 1;

/// One ring's header and slots. The number of slots is a power of two.
#[derive(Clone)]
pub(crate) struct RingWords {
    header: One<RingHeader>,
    slots: Run<Slot>,
}

impl RingWords {
    /// The ring with its header at word `header` and `capacity` slots, a power of two, from word `slots`
    /// on; `None` where `words` has no such place.
    pub(crate) fn new(words: &Run<AtomicU64>, header: usize, slots: usize, capacity: usize) -> Option<Self> {
        Some(Self { header: One::at(words, header)?, slots: words.part(slots, capacity)? })
    }

    /// Rounds `capacity` up to a power of two and allocates, once.
    fn on_heap(capacity: usize) -> Result<Self, CapacityError> {
        if !(RING_CAPACITY_MIN..=RING_CAPACITY_MAX).contains(&capacity) {
            return Err(CapacityError(capacity));
        }
        let capacity = capacity.next_power_of_two();
        let words = Run::on_heap(LINE_WORDS + capacity * <Slot as OfWords>::WORDS);
        Ok(Self::new(&words, 0, LINE_WORDS, capacity).unwrap_or_else(|| unreachable!("it was just made so")))
    }

    #[inline]
    fn head(&self) -> &AtomicU64 {
        &self.header[HEAD]
    }

    #[inline]
    fn claimed(&self) -> &AtomicU64 {
        &self.header[CLAIMED]
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }
}

/// Makes a ring. See the module's words on how it works; in short:
///
/// Recording is wait-free, never allocates and overwrites the oldest sample when full. Readers never
/// slow the producer. For each reader `delivered + lost + not yet read = recorded`, always.
///
/// ```
/// use relayscope_bridge::{MetricId, MetricSample, MetricValue, Start, TelemetryRing};
///
/// let sample = |n| MetricSample {
///     metric_id: MetricId(0),
///     timestamp_ns: n,
///     value: MetricValue::Counter(n),
/// };
/// let (mut producer, mut consumer) = TelemetryRing::with_capacity(4);
/// let mut tap = consumer.tap(Start::Now);
///
/// // Room for three: the fourth slot belongs to the record in flight.
/// for n in 0..3 {
///     producer.record(sample(n));
/// }
/// let mut seen = Vec::new();
/// let drained = consumer.drain(|s| seen.push(s.timestamp_ns));
/// assert_eq!((seen, drained.lost), (vec![0, 1, 2], 0));
///
/// // Overwritten: counted, not silent. The tap never held the producer back.
/// for n in 3..103 {
///     producer.record(sample(n));
/// }
/// let drained = tap.drain(|_| {});
/// assert_eq!(drained.delivered + drained.lost, 103);
/// assert!(drained.delivered <= 3);
/// ```
///
/// A second producer does not compile:
///
/// ```compile_fail
/// # use relayscope_bridge::TelemetryRing;
/// let (producer, _consumer) = TelemetryRing::with_capacity(4);
/// let second = producer.clone();
/// ```
pub struct TelemetryRing;

impl TelemetryRing {
    /// A ring of at least `capacity` samples, rounded up to a power of two. Allocates here and
    /// never again.
    ///
    /// # Panics
    /// When `capacity` is out of range; [`try_with_capacity`](Self::try_with_capacity) returns that
    /// as an error.
    pub fn with_capacity(capacity: usize) -> (Producer, Consumer) {
        match Self::try_with_capacity(capacity) {
            Ok(halves) => halves,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`with_capacity`](Self::with_capacity), for a capacity that comes from outside.
    ///
    /// # Errors
    /// [`CapacityError`] when `capacity` is not in 2..=16777216.
    pub fn try_with_capacity(capacity: usize) -> Result<(Producer, Consumer), CapacityError> {
        let words = RingWords::on_heap(capacity)?;
        let consumer = Consumer::attach(words.clone(), Start::Oldest);
        Ok((Producer::new(words), consumer))
    }
}

/// The writing half: one per ring, moved to the core that records.
pub struct Producer {
    words: RingWords,
    /// The position written next. The header's `head` is its copy for readers.
    head: u64,
    /// Where the furthest batch announced so far ends, as the header says too.
    claimed: u64,
}

impl Producer {
    /// Goes on where the last producer of these words ended.
    pub(crate) fn new(words: RingWords) -> Self {
        let [head, claimed] = [words.head(), words.claimed()].map(|word| word.load(Ordering::Relaxed));
        Self { words, head, claimed }
    }

    /// Records one sample. Wait-free: one fence, four stores, no load of anything shared.
    #[inline]
    pub fn record(&mut self, sample: MetricSample) {
        // Release: with the reader's exit fence. A reader that copied a word stored below also sees,
        // at its second look, the head this thread stored before.
        fence(Site::ProducerFence, Ordering::Release);
        let slots = &*self.words.slots;
        write(&slots[slot_index(self.head, slots.len())], sample);
        self.publish(self.head + 1);
    }

    /// Records all of `samples` in order, with one head store per 64: a slice, or an iterator that makes
    /// them as they are written. Wait-free, if the iterator is.
    ///
    /// From an iterator it costs what as many calls of [`record`](Self::record) do, from a slice a third
    /// more, and less than either next to a reader that drains without a pause: there the head's cache
    /// line goes to and fro once per store.
    ///
    /// Readers cannot see a part of a batch before it is whole, and treat the slots it is about to
    /// overwrite as gone from the moment it begins. Of an iterator that ends before its length, or panics,
    /// what it gave until the last whole 64 is recorded.
    #[inline]
    pub fn record_batch<I>(&mut self, samples: I)
    where
        I: IntoIterator<IntoIter: ExactSizeIterator, Item: Borrow<MetricSample>>,
    {
        let most = BATCH_MAX.min(self.words.capacity() / 2);
        let mut samples = samples.into_iter();
        while samples.len() > 0 {
            let end = self.head + most.min(samples.len() as u64);
            // Never less than before: what a batch that ended early wrote over stays unreadable.
            self.claimed = self.claimed.max(end);
            if intact(Site::BatchClaim) {
                self.words.claimed().store(self.claimed, Ordering::Relaxed);
            }
            // Release: with the reader's exit fence, as in `record`; it carries `claimed` too.
            fence(Site::ProducerFence, Ordering::Release);
            // Looked up once per batch: the compiler cannot know that the stores leave it alone.
            let slots = &*self.words.slots;
            for position in self.head..end {
                let Some(sample) = samples.next() else { return };
                write(&slots[slot_index(position, slots.len())], *sample.borrow());
            }
            self.publish(end);
        }
    }

    /// Samples recorded since the ring was made.
    pub fn recorded(&self) -> u64 {
        self.head
    }

    #[inline]
    fn publish(&mut self, head: u64) {
        self.head = head;
        // Release: with the reader's entry fence. Whoever sees this head sees the words before it.
        self.words.head().store(head, ordering(Site::HeadStore, Ordering::Release));
    }
}

/// Where a reader that attaches to a ring begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record ever: those overwritten already are lost to this reader.
    First,
    /// With the oldest record that can still be read.
    Oldest,
    /// With the next record.
    Now,
}

/// How far a ring was written when [`Consumer::mark`] looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u64);

/// What one drain brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Samples handed to the caller.
    pub delivered: u64,
    /// Samples overwritten before this reader came, and malformed ones.
    pub lost: u64,
    /// Of the lost: those whose words were whole but no sample (a damaged segment).
    pub malformed: u64,
}

/// A reader's account since it attached: `delivered + lost + unread = recorded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records the producer published since this reader attached.
    pub recorded: u64,
    /// Records handed to the caller.
    pub delivered: u64,
    /// Records lost to this reader.
    pub lost: u64,
    /// Records published and not yet read or billed as lost.
    pub unread: u64,
}

/// A reading half. Passive: the producer does not know that it exists.
///
/// Not `Clone`: an account belongs to one reader. Further readers come from [`tap`](Self::tap).
pub struct Consumer {
    words: RingWords,
    start: u64,
    cursor: u64,
    delivered: u64,
    lost: u64,
}

impl Consumer {
    pub(crate) fn attach(words: RingWords, start: Start) -> Self {
        let head = words.head().load(Ordering::Relaxed);
        let start = match start {
            Start::First => 0,
            Start::Oldest => head.saturating_add(1).saturating_sub(words.capacity()),
            Start::Now => head,
        };
        Self { words, start, cursor: start, delivered: 0, lost: 0 }
    }

    /// A further reader of the same ring, with an account of its own that begins at `start`.
    pub fn tap(&self, start: Start) -> Consumer {
        Self::attach(self.words.clone(), start)
    }

    /// Hands every sample published before this call to `deliver`, oldest first, and bills what was
    /// overwritten. Never waits, never allocates, never retries: O(samples), at most one ring's worth.
    ///
    /// If `deliver` panics, the rest of its chunk (at most 64 samples) counts as delivered.
    #[inline]
    pub fn drain(&mut self, mut deliver: impl FnMut(MetricSample)) -> Drained {
        self.drain_to(self.mark(), |_, sample| deliver(sample))
    }

    /// How far the ring is written now. What the producer's thread did before it recorded a sample below
    /// the mark is visible to this one from here on.
    #[inline]
    pub fn mark(&self) -> Mark {
        let mark = Mark(self.words.head().load(Ordering::Relaxed));
        // Acquire: with the release store of head. The records below the mark are whole, if still there.
        fence(Site::ReaderEntryFence, Ordering::Acquire);
        mark
    }

    /// As [`drain`](Self::drain), but only what lies below `mark`, and with each sample's position: the
    /// number of samples ever recorded before it.
    #[inline]
    pub fn drain_to(&mut self, mark: Mark, mut deliver: impl FnMut(u64, MetricSample)) -> Drained {
        // Bounded by the earlier look: a busy producer cannot keep us here.
        let Mark(end) = mark;
        let mut total = Drained::default();
        // One look at the head per chunk, and no more: each takes its cache line from the producer.
        let mut oldest = self.oldest_readable(end, 0);
        while self.cursor < end {
            total.lost += self.skip_if_lapped(oldest);
            let (chunk, seen) = self.drain_chunk(end, &mut deliver);
            total.delivered += chunk.delivered;
            total.lost += chunk.lost;
            total.malformed += chunk.malformed;
            oldest = seen;
        }
        total
    }

    /// Copies up to [`CHUNK`] records, discards those clobbered meanwhile, delivers the rest. Returns
    /// also the oldest position that could still be read after the copy.
    #[inline]
    fn drain_chunk(&mut self, end: u64, deliver: &mut impl FnMut(u64, MetricSample)) -> (Drained, u64) {
        let count = CHUNK.min(usize::try_from(end.saturating_sub(self.cursor)).unwrap_or(CHUNK));
        let first = self.cursor;

        let mut copy = [[0u64; SAMPLE_WORDS]; CHUNK];
        let slots = &*self.words.slots;
        // The positions come second: behind the last of all there is none to look ahead to.
        for (record, position) in copy[..count].iter_mut().zip(first..) {
            let slot = &slots[slot_index(position, slots.len())];
            for (word, shared) in record.iter_mut().zip(slot) {
                *word = shared.load(Ordering::Relaxed);
            }
        }
        // Acquire: with the producer's release fence. If a word above was clobbered, the look below
        // sees the head (or the claim) that the producer stored before it clobbered.
        fence(Site::ReaderExitFence, Ordering::Acquire);
        let head = self.words.head().load(Ordering::Relaxed);
        let oldest = self.oldest_readable(head, self.words.claimed().load(Ordering::Relaxed));
        let clobbered = usize::try_from(oldest.saturating_sub(first)).unwrap_or(count).min(count);

        let mut malformed = 0;
        let good = &copy[clobbered..count];
        // Billed before anything is delivered: the cursor and the account never disagree.
        self.cursor += count as u64;
        self.delivered += good.len() as u64;
        self.lost += clobbered as u64;
        for (words, position) in good.iter().zip(first + clobbered as u64..) {
            match MetricSample::decode(*words) {
                Ok(sample) => deliver(position, sample),
                Err(_) => malformed += 1,
            }
        }
        self.delivered -= malformed;
        self.lost += malformed;
        let delivered = good.len() as u64 - malformed;
        (Drained { delivered, lost: clobbered as u64 + malformed, malformed }, oldest)
    }

    /// If the record at the cursor is gone, jumps ahead and returns how many that lost.
    ///
    /// It lands neither on the oldest record, which goes next, nor at the head, which would throw
    /// away a ring that is still good. (In a ring of 2 or 4 the oldest is all the slack there is.)
    fn skip_if_lapped(&mut self, oldest: u64) -> u64 {
        if self.cursor >= oldest {
            return 0;
        }
        let resume = oldest + self.words.capacity() / SLACK_DIVISOR;
        let lost = resume - self.cursor;
        self.cursor = resume;
        self.lost += lost;
        lost
    }

    /// The oldest position that no write, finished or in flight, has touched.
    #[inline]
    fn oldest_readable(&self, head: u64, claimed: u64) -> u64 {
        let in_flight = if intact(Site::DiscardBound) { head.saturating_add(1) } else { head };
        in_flight.max(claimed).saturating_sub(self.words.capacity())
    }

    /// The account since this reader attached.
    pub fn account(&self) -> Account {
        let head = self.words.head().load(Ordering::Relaxed).max(self.cursor);
        Account {
            recorded: head - self.start,
            delivered: self.delivered,
            lost: self.lost,
            unread: head - self.cursor,
        }
    }

    /// Goes on with another reader's account; see [`ShardReader::resume`](crate::ShardReader::resume).
    pub(crate) fn resume(&mut self, delivered: u64, lost: u64) -> bool {
        let head = self.words.head().load(Ordering::Relaxed);
        let cursor = delivered.checked_add(lost).filter(|cursor| *cursor <= head);
        let (Some(cursor), true) = (cursor, self.cursor == self.start) else { return false };
        (self.start, self.cursor, self.delivered, self.lost) = (0, cursor, delivered, lost);
        true
    }

    /// Records announced by a batch and not published.
    pub(crate) fn in_flight(&self) -> u64 {
        let claimed = self.words.claimed().load(Ordering::Relaxed);
        claimed.saturating_sub(self.words.head().load(Ordering::Relaxed))
    }

    /// Slots of the ring; one fewer can be read at any time.
    pub fn capacity(&self) -> u64 {
        self.words.capacity()
    }
}

#[inline]
fn write(slot: &Slot, sample: MetricSample) {
    for (word, value) in slot.iter().zip(sample.encode()) {
        word.store(value, Ordering::Relaxed);
    }
}

#[inline]
fn slot_index(position: u64, slots: usize) -> usize {
    // `slots` is a power of two; the mask keeps the result below it, so the cast drops nothing.
    (position & (slots as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{MetricId, MetricValue};

    #[test]
    fn malformed_words_count_as_lost_and_hide_no_neighbour() {
        let words = RingWords::on_heap(8).unwrap();
        let mut consumer = Consumer::attach(words.clone(), Start::Oldest);
        // As a damaged or hostile segment may hold them: kinds 0, 1 (a counter), 4 and all bits.
        for (slot, first_word) in words.slots.iter().zip([0, 1 << 32 | 7, 4 << 32, u64::MAX]) {
            slot[0].store(first_word, Ordering::Relaxed);
        }
        words.head().store(4, Ordering::Relaxed);
        let mut ids = Vec::new();
        let drained = consumer.drain(|sample| ids.push(sample.metric_id.0));
        assert_eq!(ids, [7]);
        assert_eq!(drained, Drained { delivered: 1, lost: 3, malformed: 3 });
        assert_eq!(consumer.account(), Account { recorded: 4, delivered: 1, lost: 3, unread: 0 });
    }

    #[test]
    fn a_batch_in_flight_takes_its_whole_reach_from_readers() {
        let words = RingWords::on_heap(8).unwrap();
        let mut consumer = Consumer::attach(words.clone(), Start::Oldest);
        let mut producer = Producer::new(words.clone());
        let sample =
            |n| MetricSample { metric_id: MetricId(n), timestamp_ns: 0, value: MetricValue::Counter(0) };
        (0..7).for_each(|n| producer.record(sample(n)));
        // Announced, as `record_batch` does before it writes: positions 7..11 go over -1, 0, 1 and 2.
        words.claimed().store(11, Ordering::Relaxed);
        let mut ids = Vec::new();
        let drained = consumer.drain(|sample| ids.push(sample.metric_id.0));
        assert_eq!((ids, drained.lost), (vec![3, 4, 5, 6], 3));
    }

    #[test]
    fn a_head_that_moves_back_ends_no_drain_in_a_loop_and_breaks_no_account() {
        let words = RingWords::on_heap(4).unwrap();
        let mut consumer = Consumer::attach(words.clone(), Start::Oldest);
        // Only a hostile segment does this.
        words.head().store(1_000, Ordering::Relaxed);
        consumer.drain(|_| {});
        words.head().store(5, Ordering::Relaxed);
        assert_eq!(consumer.drain(|_| {}), Drained::default());
        let account = consumer.account();
        assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
    }

    #[test]
    fn a_head_at_the_end_of_all_positions_ends_the_drain() {
        let words = RingWords::on_heap(4).unwrap();
        let mut consumer = Consumer::attach(words.clone(), Start::First);
        // Only a hostile segment does this.
        words.head().store(u64::MAX, Ordering::Relaxed);
        words.claimed().store(u64::MAX, Ordering::Relaxed);
        let drained = consumer.drain(|_| {});
        assert_eq!((drained.delivered, drained.lost), (0, u64::MAX));
        let account = Account { recorded: u64::MAX, delivered: 0, lost: u64::MAX, unread: 0 };
        assert_eq!(consumer.account(), account);
    }
}
