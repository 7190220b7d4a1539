//! N publishers, one per shard, and the one collector that reads them.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::ring::{Account, Consumer, Drained, Producer, Start, TelemetryRing};
use crate::sample::{MetricId, MetricSample, ShardId};
use crate::series::{RetireTicket, SeriesRegistry};
use crate::sync::{AtomicU64, Ordering, Site, ordering};
use crate::words::{CapacityError, CellWords};

/// Most shards a hub takes: more cores than any host has.
const SHARDS_MAX: usize = 1024;
/// Most series or cells: ids are 32 bits wide.
const SERIES_MAX: usize = 1 << 28;

/// Sizes of a hub. All memory is allocated from them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// Shards, each with a publisher of its own: 1..=1024.
    pub shards: usize,
    /// Samples per ring, rounded up to a power of two: 2..=16777216.
    pub ring_capacity: usize,
    /// Cells per shard, 8 bytes each: 1..=268435456.
    pub cells_per_shard: usize,
    /// Series over all shards: 1..=268435456.
    pub max_series: usize,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { shards: 1, ring_capacity: 65_536, cells_per_shard: 65_536, max_series: 1 << 20 }
    }
}

/// A hub size out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// See [`HubConfig::ring_capacity`].
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// Another size.
    #[error("{what} {value} is invalid; expected 1..={max}")]
    Size {
        /// Which.
        what: &'static str,
        /// What was given.
        value: usize,
        /// The most it can be.
        max: usize,
    },
}

/// What a shard says of itself, beside its ring: written by the shard, read by the collector.
struct Pulse {
    /// `CLOCK_MONOTONIC` nanoseconds; 0 before the first beat.
    heartbeat_ns: AtomicU64,
    /// The newest retirement let go of. Stored after `released_at`.
    acknowledged: AtomicU64,
    /// The ring position at that moment.
    released_at: AtomicU64,
}

/// Makes the publishers, in order of shard, and their collector.
///
/// # Errors
/// [`HubError`] names the size that is out of range.
pub fn hub(config: HubConfig) -> Result<(Vec<Publisher>, Collector), HubError> {
    for (what, value, max) in [
        ("shards", config.shards, SHARDS_MAX),
        ("cells_per_shard", config.cells_per_shard, SERIES_MAX),
        ("max_series", config.max_series, SERIES_MAX),
    ] {
        if !(1..=max).contains(&value) {
            return Err(HubError::Size { what, value, max });
        }
    }
    let mut publishers = Vec::with_capacity(config.shards);
    let mut shards = Vec::with_capacity(config.shards);
    let mut cells = Vec::with_capacity(config.shards);
    for shard in (0..=u16::MAX).map(ShardId).take(config.shards) {
        let (producer, consumer) = TelemetryRing::try_with_capacity(config.ring_capacity)?;
        let pulse = Arc::new(CachePadded::new(Pulse {
            heartbeat_ns: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            released_at: AtomicU64::new(0),
        }));
        let acknowledged = RetireTicket(0);
        publishers.push(Publisher { shard, producer, pulse: Arc::clone(&pulse), acknowledged });
        shards.push(ShardReader { consumer, pulse, high_water: 0 });
        cells.push(CellWords::on_heap(config.cells_per_shard));
    }
    let registry = SeriesRegistry::new(cells, config.cells_per_shard, config.max_series);
    Ok((publishers, Collector { shards, registry }))
}

/// A shard's one way out: its ring and its sign of life. Every method is wait-free.
pub struct Publisher {
    shard: ShardId,
    producer: Producer,
    pulse: Arc<CachePadded<Pulse>>,
    /// What `pulse` says. Tickets start at 1.
    acknowledged: RetireTicket,
}

impl Publisher {
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
    pub fn record_batch(&mut self, samples: &[MetricSample]) {
        self.producer.record_batch(samples);
    }

    /// Samples recorded so far.
    pub fn recorded(&self) -> u64 {
        self.producer.recorded()
    }

    /// Signs that the shard runs at `now_ns` of `CLOCK_MONOTONIC`.
    #[inline]
    pub fn beat(&mut self, now_ns: u64) {
        self.pulse.heartbeat_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Says that every handle of the series retired under `ticket`, and under those before it on this
    /// shard, has been dropped: nothing recorded from now on carries their ids. A ticket older than one
    /// acknowledged already says nothing new.
    pub fn acknowledge(&mut self, ticket: RetireTicket) {
        if ticket <= self.acknowledged {
            return;
        }
        self.acknowledged = ticket;
        self.pulse.released_at.store(self.producer.recorded(), Ordering::Relaxed);
        // Release: with the acquire load in `ShardReader::acknowledged`. Whoever sees the ticket
        // sees a position at or past the one stored above.
        let order = ordering(Site::AcknowledgeStore, Ordering::Release);
        self.pulse.acknowledged.store(ticket.0, order);
    }
}

/// A shard's sign of life, to be read whatever the collector is doing. Wait-free.
#[derive(Clone)]
pub struct Heartbeat(Arc<CachePadded<Pulse>>);

impl Heartbeat {
    /// When the shard last signed life: nanoseconds of `CLOCK_MONOTONIC`; `None` before the first.
    pub fn last_ns(&self) -> Option<u64> {
        let at = self.0.heartbeat_ns.load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }
}

/// The control plane's view of one shard.
pub struct ShardReader {
    consumer: Consumer,
    pulse: Arc<CachePadded<Pulse>>,
    high_water: u64,
}

impl ShardReader {
    /// The shard's sign of life.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat(Arc::clone(&self.pulse))
    }

    /// The collector's account of this shard's ring.
    pub fn account(&self) -> Account {
        self.consumer.account()
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> u64 {
        self.consumer.capacity()
    }

    /// The fullest the ring was found just before a drain, in samples up to its capacity; starts over.
    pub fn take_high_water(&mut self) -> u64 {
        std::mem::take(&mut self.high_water)
    }

    /// A further, passive reader of this shard's ring.
    pub fn tap(&self, start: Start) -> Consumer {
        self.consumer.tap(start)
    }

    fn acknowledged(&self) -> (RetireTicket, u64) {
        // Acquire: with the release store in `Publisher::acknowledge`.
        let order = ordering(Site::AcknowledgeLoad, Ordering::Acquire);
        let ticket = RetireTicket(self.pulse.acknowledged.load(order));
        (ticket, self.pulse.released_at.load(Ordering::Relaxed))
    }
}

/// The control plane's one handle to all shards.
pub struct Collector {
    shards: Vec<ShardReader>,
    registry: SeriesRegistry,
}

impl Collector {
    /// The table of series.
    pub fn registry(&self) -> &SeriesRegistry {
        &self.registry
    }

    /// The shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardReader)> {
        (0..=u16::MAX).map(ShardId).zip(&self.shards)
    }

    /// One shard, to take its high water.
    pub fn shard_mut(&mut self, shard: ShardId) -> Option<&mut ShardReader> {
        self.shards.get_mut(usize::from(shard.0))
    }

    /// Drains one shard's ring; see [`Consumer::drain`]. An unknown shard brings nothing.
    pub fn drain(&mut self, shard: ShardId, deliver: impl FnMut(MetricSample)) -> Drained {
        let Some(reader) = self.shards.get_mut(usize::from(shard.0)) else {
            return Drained::default();
        };
        let waiting = reader.consumer.account().unread.min(reader.consumer.capacity());
        reader.high_water = reader.high_water.max(waiting);
        reader.consumer.drain(deliver)
    }

    /// Frees the ids that `shard` has let go of and whose last samples are drained; returns them, so
    /// that what was folded under them can be dropped. Call it after [`drain`](Self::drain).
    pub fn reclaim(&mut self, shard: ShardId) -> Vec<MetricId> {
        let Some(reader) = self.shards.get(usize::from(shard.0)) else {
            return Vec::new();
        };
        let (acknowledged, released_at) = reader.acknowledged();
        let account = reader.account();
        let drained_to = account.delivered + account.lost;
        self.registry.reclaim(shard, acknowledged, released_at, drained_to)
    }

    /// The sum of a counter's cells over its shards.
    pub fn counter(&self, id: MetricId) -> Option<u64> {
        self.registry.read(|series| series.counter(id))
    }

    /// A gauge's value, unless absent.
    pub fn gauge(&self, id: MetricId) -> Option<f64> {
        self.registry.read(|series| series.gauge(id))
    }
}
