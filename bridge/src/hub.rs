//! N publishers, one per shard, the registry of what they write, and the collector that reads it.

use std::borrow::Borrow;
#[cfg(not(loom))]
use std::path::Path;
use std::sync::Arc;

use crate::ring::{Account, CapacityError, Consumer, Drained, Mark, Producer, Start};
use crate::sample::{MetricId, MetricSample, ShardId};
use crate::segment::layout::{Layout, RING_CAPACITY_MAX, RING_CAPACITY_MIN, Sizes, shard};
use crate::segment::{Attachment, Segment, SegmentError, SegmentOwner};
use crate::series::Table;
use crate::series::directory::SeriesDirectory;
use crate::series::registry::{RetireTicket, SeriesRegistry};
use crate::sync::{AtomicU64, Ordering, Site, ordering};
use crate::words::{LINE_WORDS, One, Run};

/// Words for strings per series: most series share theirs with others of their target.
const STRING_WORDS_PER_SERIES: usize = 4;
/// Words for strings besides: names and helps of families.
const STRING_WORDS_BESIDES: usize = 32_768;
const FAMILY_ROWS: usize = 1024;

/// Sizes of a hub. All memory is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// Shards, each with a publisher of its own: 1..=1024.
    pub shards: usize,
    /// Samples per ring, rounded up to a power of two: 2..=16777216.
    pub ring_capacity: usize,
    /// Cells per shard, 8 bytes each: 1..=268435456.
    pub cells_per_shard: usize,
    /// Series over all shards, some 100 bytes each: 1..=268435456.
    pub max_series: usize,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { shards: 1, ring_capacity: 65_536, cells_per_shard: 65_536, max_series: 65_536 }
    }
}

impl HubConfig {
    fn sizes(&self) -> Result<Sizes, HubError> {
        if !(RING_CAPACITY_MIN..=RING_CAPACITY_MAX).contains(&self.ring_capacity) {
            return Err(CapacityError(self.ring_capacity).into());
        }
        let string_words = self.max_series.saturating_mul(STRING_WORDS_PER_SERIES);
        let besides = if cfg!(loom) { 64 } else { STRING_WORDS_BESIDES };
        let sizes = Sizes {
            shards: self.shards,
            ring_slots: self.ring_capacity.next_power_of_two(),
            cells_per_shard: self.cells_per_shard,
            series_rows: self.max_series,
            family_rows: if cfg!(loom) { 2 } else { FAMILY_ROWS },
            string_words: string_words.min(1 << 27) + besides,
        };
        let wrong = |error: crate::segment::layout::SizeError| HubError::Size {
            what: error.what,
            value: error.value,
            max: error.max,
        };
        sizes.check().map_err(wrong)?;
        Ok(sizes)
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// See [`HubConfig::ring_capacity`].
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// Another size is out of range.
    #[error("{what} {value} is invalid; expected 1..={max}")]
    Size {
        /// Which.
        what: &'static str,
        /// What was given.
        value: usize,
        /// The most it can be.
        max: usize,
    },
    /// No memory, or no file, to hold it.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// All that belongs to one segment in the process that made it.
pub struct Hub {
    /// In order of shard.
    pub publishers: Vec<Publisher>,
    /// Gives shards what they write.
    pub registry: SeriesRegistry,
    /// Reads it.
    pub collector: Collector,
    /// Where the segment of a data plane that died under this name is kept, or why it could not be; `None`
    /// where none died.
    pub predecessor: Option<std::io::Result<std::path::PathBuf>>,
}

/// Makes a hub in memory of this process.
///
/// # Errors
/// [`HubError`] names the size that is out of range, or says why there is no memory.
pub fn hub(config: HubConfig) -> Result<Hub, HubError> {
    Ok(Hub::new(Segment::in_memory(config.sizes()?)?))
}

/// Makes a hub in the file `path`, which other processes may [`attach`] to. It replaces the segment of a
/// process that is gone; one that crashed is kept beside it, as `path` with `.crashed` appended.
///
/// The file should lie in memory (tmpfs, such as `/run` or `/dev/shm`): where a disk writes it back, the
/// kernel makes the shards wait for their pages.
///
/// # Errors
/// [`HubError`]: a size out of range, a file that is in use or no segment, no room for it.
#[cfg(not(loom))]
pub fn create(path: &Path, config: HubConfig) -> Result<Hub, HubError> {
    Ok(Hub::new(Segment::create(path, config.sizes()?)?))
}

/// Maps the segment at `path` read-only. The collector's account begins with the first sample ever
/// recorded: what is overwritten already is lost to it.
///
/// # Errors
/// [`SegmentError`] says what is wrong with the file.
#[cfg(not(loom))]
pub fn attach(path: &Path) -> Result<Collector, SegmentError> {
    let (words, layout, attachment) = crate::segment::attach(path)?;
    Ok(Collector::new(&words, &layout, attachment))
}

impl Hub {
    fn new(segment: Segment) -> Self {
        let Segment { words, layout, owner, attachment, predecessor } = segment;
        let owner = Arc::new(owner);
        let publisher = |shard| Publisher::new(&words, &layout, shard, Arc::clone(&owner));
        let publishers = shard_ids().take(layout.sizes.shards).map(publisher).collect();
        let registry = SeriesRegistry::new(Table::new(&words, &layout), Arc::clone(&owner));
        let collector = Collector::new(&words, &layout, attachment);
        Self { publishers, registry, collector, predecessor }
    }
}

fn shard_ids() -> impl Iterator<Item = ShardId> {
    (0..=u16::MAX).map(ShardId)
}

/// What a shard says of itself, beside its ring: written by the shard, read by everyone.
pub(crate) type Pulse = One<[AtomicU64; LINE_WORDS]>;

pub(crate) fn pulse(words: &Run<AtomicU64>, layout: &Layout, shard: ShardId) -> Pulse {
    let at = layout.shard(usize::from(shard.0));
    One::at(words, at).unwrap_or_else(|| unreachable!("the layout has every shard it is asked for"))
}

fn ring(words: &Run<AtomicU64>, layout: &Layout, shard: ShardId) -> crate::ring::RingWords {
    let at = layout.shard(usize::from(shard.0));
    crate::ring::RingWords::new(words, at + shard::RING, at + layout.slots, layout.sizes.ring_slots)
        .unwrap_or_else(|| unreachable!("the layout has room for every ring"))
}

/// A shard's one way out: its ring and its sign of life. Every method is wait-free.
pub struct Publisher {
    shard: ShardId,
    producer: Producer,
    pulse: Pulse,
    /// What `pulse` says. Tickets start at 1.
    acknowledged: u64,
    owner: Arc<SegmentOwner>,
}

impl Publisher {
    fn new(words: &Run<AtomicU64>, layout: &Layout, shard: ShardId, owner: Arc<SegmentOwner>) -> Self {
        let pulse = pulse(words, layout, shard);
        let producer = Producer::new(ring(words, layout, shard));
        Self { shard, producer, pulse, acknowledged: 0, owner }
    }

    /// The shard this publisher belongs to.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Records one sample; see [`Producer::record`].
    #[inline]
    pub fn record(&mut self, sample: MetricSample) {
        self.producer.record(sample);
    }

    /// Records samples in order; see [`Producer::record_batch`].
    #[inline]
    pub fn record_batch<I>(&mut self, samples: I)
    where
        I: IntoIterator<IntoIter: ExactSizeIterator, Item: Borrow<MetricSample>>,
    {
        self.producer.record_batch(samples);
    }

    /// Samples recorded so far.
    pub fn recorded(&self) -> u64 {
        self.producer.recorded()
    }

    /// Signs that the shard runs at `now_ns` of `CLOCK_MONOTONIC`.
    #[inline]
    pub fn beat(&mut self, now_ns: u64) {
        self.pulse[shard::HEARTBEAT_NS].store(now_ns, Ordering::Relaxed);
    }

    /// Says that every handle of the series retired under `ticket`, and under those before it on this
    /// shard, has been dropped: nothing recorded from now on carries their ids. A ticket of another
    /// shard, or older than one acknowledged already, says nothing new.
    pub fn acknowledge(&mut self, ticket: RetireTicket) {
        if ticket.shard != self.shard || ticket.number <= self.acknowledged {
            return;
        }
        self.acknowledged = ticket.number;
        self.pulse[shard::RELEASED_AT].store(self.producer.recorded(), Ordering::Relaxed);
        // Release: with the acquire load in `SeriesRegistry`'s reclaim. Whoever sees the ticket sees a
        // position at or past the one stored above.
        let order = ordering(Site::AcknowledgeStore, Ordering::Release);
        self.pulse[shard::ACKNOWLEDGED].store(ticket.number, order);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.owner.note_panic();
        // Another writer may claim the shard from here on.
        self.pulse[shard::WRITER].store(0, Ordering::Release);
    }
}

/// A shard's sign of life, to be read whatever the collector is doing. Wait-free.
#[derive(Clone)]
pub struct Heartbeat(Pulse);

impl Heartbeat {
    /// When the shard last signed life: nanoseconds of `CLOCK_MONOTONIC`; `None` before the first.
    pub fn last_ns(&self) -> Option<u64> {
        let at = self.0[shard::HEARTBEAT_NS].load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }
}

/// A collector's view of one shard.
pub struct ShardReader {
    consumer: Consumer,
    pulse: Pulse,
    high_water: u64,
}

impl ShardReader {
    /// The shard's sign of life.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat(self.pulse.clone())
    }

    /// The process that writes this shard; `None` while none does.
    pub fn writer(&self) -> Option<u32> {
        u32::try_from(self.pulse[shard::WRITER].load(Ordering::Relaxed)).ok().filter(|pid| *pid != 0)
    }

    /// The collector's account of this shard's ring.
    pub fn account(&self) -> Account {
        self.consumer.account()
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> u64 {
        self.consumer.capacity()
    }

    /// Records that were announced and not published: what was in flight when a dead shard died.
    pub fn in_flight(&self) -> u64 {
        self.consumer.in_flight()
    }

    /// The fullest the ring was found just before a drain, in samples up to its capacity; starts over.
    pub fn take_high_water(&mut self) -> u64 {
        std::mem::take(&mut self.high_water)
    }

    /// A further, passive reader of this shard's ring.
    pub fn tap(&self, start: Start) -> Consumer {
        self.consumer.tap(start)
    }

    /// Goes on with the account of a reader that ended: what it had delivered and lost.
    ///
    /// `false`, and nothing changes, if the ring has not recorded as much or this reader has begun.
    pub fn resume(&mut self, delivered: u64, lost: u64) -> bool {
        self.consumer.resume(delivered, lost)
    }
}

/// Reads all shards of one segment.
pub struct Collector {
    shards: Vec<ShardReader>,
    directory: SeriesDirectory,
    attachment: Attachment,
}

impl Collector {
    fn new(words: &Run<AtomicU64>, layout: &Layout, attachment: Attachment) -> Self {
        let reader = |shard| ShardReader {
            consumer: Consumer::attach(ring(words, layout, shard), Start::First),
            pulse: pulse(words, layout, shard),
            high_water: 0,
        };
        let shards = shard_ids().take(layout.sizes.shards).map(reader).collect();
        let directory = SeriesDirectory::new(Table::new(words, layout));
        Self { shards, directory, attachment }
    }

    /// Which series there are, and their cells.
    pub fn directory(&self) -> &SeriesDirectory {
        &self.directory
    }

    /// The segment behind it.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardReader)> {
        shard_ids().zip(&self.shards)
    }

    /// One shard.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardReader> {
        self.shards.get(usize::from(shard.0))
    }

    /// One shard, to take its high water.
    pub fn shard_mut(&mut self, shard: ShardId) -> Option<&mut ShardReader> {
        self.shards.get_mut(usize::from(shard.0))
    }

    /// How far one shard's ring is written now. Every series of the samples up to there is in the
    /// directory from here on. An unknown shard has nothing.
    pub fn mark(&self, shard: ShardId) -> Mark {
        self.shard(shard).map_or(Mark::default(), |reader| reader.consumer.mark())
    }

    /// Drains one shard's ring up to `mark`, handing on each sample with its position; see
    /// [`Consumer::drain_to`]. An unknown shard brings nothing.
    pub fn drain_to(
        &mut self,
        shard: ShardId,
        mark: Mark,
        deliver: impl FnMut(u64, MetricSample),
    ) -> Drained {
        let Some(reader) = self.shards.get_mut(usize::from(shard.0)) else {
            return Drained::default();
        };
        let waiting = reader.consumer.account().unread.min(reader.consumer.capacity());
        reader.high_water = reader.high_water.max(waiting);
        reader.consumer.drain_to(mark, deliver)
    }

    /// Drains one shard's ring; see [`Consumer::drain`]. An unknown shard brings nothing.
    pub fn drain(&mut self, shard: ShardId, mut deliver: impl FnMut(MetricSample)) -> Drained {
        let mark = self.mark(shard);
        self.drain_to(shard, mark, |_, sample| deliver(sample))
    }

    /// The value of one shard's counter cell; see [`SeriesView::counter`](crate::SeriesView::counter).
    pub fn counter(&self, id: MetricId) -> Option<u64> {
        self.directory.read(|series| series.counter(id))
    }

    /// A gauge's value, unless absent.
    pub fn gauge(&self, id: MetricId) -> Option<f64> {
        self.directory.read(|series| series.gauge(id))
    }
}
