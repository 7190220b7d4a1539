//! The `metrics` facade on a shard: `counter!`, `gauge!` and `histogram!` in existing code go to the
//! shard's cells and ring.
//!
//! A facade's handles are shared by design: they may be cloned, kept, and used on any thread. A ring and
//! a cell have one writer. So a handle looks on which thread it is. On the shard's own it writes the cell
//! or the ring, as cheaply as they are. Elsewhere a counter adds to a second cell, which any thread may
//! add to and readers sum; a gauge is set as an atomic; an observation waits in a bounded queue, from
//! which the shard takes it at its next [`beat`](ShardRecorder::beat).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_queue::ArrayQueue;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit as FacadeUnit,
};

use crate::catalogue::{self, Family, FamilyText, RECORDER_REFUSED, Unit};
use crate::cell::CellWords;
use crate::hub::Publisher;
use crate::sample::{MetricId, MetricKind, MetricSample, MetricValue, ShardId};
use crate::series::registry::{SeriesError, SeriesRegistry};
use crate::sync::{AtomicU64, Ordering};

/// Observations of other threads that may wait for one shard.
const QUEUE_LEN: usize = 1024;
/// The label by which the gauges of several shards are told apart.
const SHARD_LABEL: &str = "shard";

thread_local! {
    /// Whose thread this is: the shard recorder's number, 0 for none.
    static OWNER: Cell<u64> = const { Cell::new(0) };
    /// The shard's time, as of its last beat.
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
    static PUBLISHER: RefCell<Option<Publisher>> = const { RefCell::new(None) };
}

/// Why there is no recorder.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The thread has one.
    #[error("this thread records as shard {} already; a shard has a thread of its own", .0.0)]
    ThreadTaken(ShardId),
    /// Its own series cannot be had.
    #[error(transparent)]
    Series(#[from] SeriesError),
}

/// Records what this thread measures through the `metrics` facade into one shard's cells and ring.
///
/// It belongs to the thread that made it. Registering the same name and labels again allocates nothing
/// and takes no lock; the first time takes the registry's for a moment.
///
/// - Counters and histograms of several shards with the same name and labels are one series: readers sum
///   them. A gauge has no sum: each shard's has the label `shard`.
/// - Names and help are as the facade's user gives them, without the configured prefix; characters that
///   Prometheus does not know become underscores.
/// - Observations carry the time of the last [`beat`](Self::beat).
/// - What cannot be registered (another kind under the same name, no room, more than 8 labels) goes
///   nowhere and is counted, as is what finds the queue full: `recorder_refused_total{shard,reason}`.
///
/// ```
/// use relayscope_bridge::{Hub, HubConfig, ShardRecorder, hub};
///
/// let Hub { mut publishers, registry, mut collector } = hub(HubConfig::default())?;
/// let recorder = ShardRecorder::new(publishers.remove(0), &registry)?;
/// let recording = metrics::set_default_local_recorder(&recorder);
///
/// recorder.beat(1_000);
/// let forwarded = metrics::counter!("forwarded_packets_total", "room" => "lobby");
/// forwarded.increment(3);
/// metrics::histogram!("forward_seconds").record(0.000_004);
/// // Escaped to another thread: counted all the same.
/// std::thread::spawn(move || forwarded.increment(4)).join().unwrap();
///
/// let counted = collector.directory().read(|series| {
///     let forwarded = series.series().find(|s| s.family.name == "forwarded_packets_total");
///     series.counter(forwarded?.id)
/// });
/// assert_eq!(counted, Some(7));
/// assert_eq!(collector.drain(recorder.shard(), |_| {}).delivered, 1);
/// # drop(recording);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It does not leave its thread:
///
/// ```compile_fail
/// fn elsewhere(recorder: relayscope_bridge::ShardRecorder) {
///     std::thread::spawn(move || recorder.beat(1));
/// }
/// ```
pub struct ShardRecorder {
    parts: Parts,
    here: Here,
}

/// While it lives, the thread it was made on is the shard's.
struct Here {
    /// It does not leave that thread.
    _not_send: PhantomData<*const ()>,
}

/// A shard's recorder on its way to another thread, as when a worker is started anew. Handles used
/// meanwhile are all on other threads than the shard's.
pub struct ParkedRecorder {
    parts: Parts,
    publisher: Publisher,
}

struct Parts {
    shard: ShardId,
    registry: SeriesRegistry,
    elsewhere: Arc<Elsewhere>,
    refused_registrations: Arc<CounterHandle>,
    registered: RefCell<Registered>,
}

/// What handles on other threads share with the shard.
struct Elsewhere {
    owner: u64,
    waiting: ArrayQueue<(MetricId, f64)>,
    /// The recorder is gone: nobody will take what waits.
    closed: AtomicBool,
    refused: Arc<CounterHandle>,
}

#[derive(Default)]
struct Registered {
    counters: HashMap<Key, Counter>,
    gauges: HashMap<Key, Gauge>,
    histograms: HashMap<Key, Histogram>,
    kinds: HashMap<String, MetricKind>,
    described: HashMap<String, (Unit, String)>,
}

impl ShardRecorder {
    /// Makes this thread the shard's: `publisher` is moved here until the recorder is dropped.
    ///
    /// # Errors
    /// [`RecorderError`]: the thread is another shard's, or there is no room for the recorder's own
    /// counters.
    pub fn new(publisher: Publisher, registry: &SeriesRegistry) -> Result<Self, RecorderError> {
        check_thread()?;
        static OWNERS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let owner = OWNERS.fetch_add(1, Ordering::Relaxed);
        let shard = publisher.shard();
        let label = shard.0.to_string();
        let refused = |reason| {
            let cells = registry.shared_counter(shard, &RECORDER_REFUSED, &[&label, reason])?;
            Ok::<_, SeriesError>(Arc::new(CounterHandle { owner, cells }))
        };
        let (refused_registrations, queue_full) = (refused("registration")?, refused("queue_full")?);
        let elsewhere = Arc::new(Elsewhere {
            owner,
            waiting: ArrayQueue::new(QUEUE_LEN),
            closed: AtomicBool::new(false),
            refused: queue_full,
        });
        let (registry, registered) = (registry.clone(), RefCell::default());
        let parts = Parts { shard, registry, elsewhere, refused_registrations, registered };
        Ok(Self::here(parts, publisher))
    }

    fn here(parts: Parts, publisher: Publisher) -> Self {
        OWNER.set(parts.elsewhere.owner);
        PUBLISHER.set(Some(publisher));
        Self { parts, here: Here { _not_send: PhantomData } }
    }

    /// Takes the recorder off this thread, to be [resumed](ParkedRecorder::resume) on another.
    pub fn park(self) -> ParkedRecorder {
        let Self { parts, here } = self;
        let Some(publisher) = PUBLISHER.take() else {
            unreachable!("the publisher is here until the recorder is dropped")
        };
        drop(here);
        ParkedRecorder { parts, publisher }
    }

    /// The shard it records for.
    pub fn shard(&self) -> ShardId {
        self.parts.shard
    }

    /// Signs that the shard runs at `now_ns` of `CLOCK_MONOTONIC`, gives that time to what is observed from
    /// now on, and records what other threads observed: at most 1024 observations. Never waits.
    pub fn beat(&self, now_ns: u64) {
        NOW_NS.set(now_ns);
        self.publisher(|publisher| {
            publisher.beat(now_ns);
            // Bounded: others may go on adding while it is emptied.
            for _ in 0..QUEUE_LEN {
                let Some((metric_id, value)) = self.parts.elsewhere.waiting.pop() else { return };
                publisher.record(observation(metric_id, now_ns, value));
            }
        });
    }

    /// The shard's publisher, to record without the facade.
    pub fn publisher<T>(&self, with: impl FnOnce(&mut Publisher) -> T) -> T {
        PUBLISHER.with_borrow_mut(|here| match here {
            Some(publisher) => with(publisher),
            None => unreachable!("the publisher is here until the recorder is dropped"),
        })
    }

    fn refuse<T>(&self, result: Result<T, Refused>) -> Option<T> {
        result.inspect_err(|Refused| self.parts.refused_registrations.increment(1)).ok()
    }

    /// The family and label values of a key, as a gauge with the shard's label.
    fn family(&self, key: &Key, kind: MetricKind) -> Result<(&'static Family, Vec<String>), Refused> {
        let mut registered = self.parts.registered.borrow_mut();
        let name = sanitize(key.name(), true);
        if *registered.kinds.entry(name.clone()).or_insert(kind) != kind {
            return Err(Refused);
        }
        let (unit, help) = registered.described.get(&name).cloned().unwrap_or_default();
        let labels = key.labels().map(|label| (sanitize(label.key(), false), label.value().to_owned()));
        let own = (kind == MetricKind::Gauge).then(|| (SHARD_LABEL.to_owned(), self.shard().0.to_string()));
        let (labels, values) = labels.chain(own).unzip();
        let text = FamilyText { name, kind, unit, help, labels, prefixed: false };
        Ok((catalogue::intern(text).ok_or(Refused)?, values))
    }

    fn new_counter(&self, key: &Key) -> Result<Counter, Refused> {
        let (family, values) = self.family(key, MetricKind::Counter)?;
        let cells = self.parts.registry.shared_counter(self.shard(), family, &refs(&values))?;
        Ok(Counter::from_arc(Arc::new(CounterHandle { owner: self.parts.elsewhere.owner, cells })))
    }

    fn new_gauge(&self, key: &Key) -> Result<Gauge, Refused> {
        let (family, values) = self.family(key, MetricKind::Gauge)?;
        let (cells, index) = self.parts.registry.gauge_word(self.shard(), family, &refs(&values))?;
        Ok(Gauge::from_arc(Arc::new(GaugeHandle { cells, index })))
    }

    fn new_histogram(&self, key: &Key) -> Result<Histogram, Refused> {
        let (family, values) = self.family(key, MetricKind::Histogram)?;
        let id = self.parts.registry.stream(self.shard(), family, &refs(&values))?;
        Ok(Histogram::from_arc(Arc::new(HistogramHandle {
            id,
            elsewhere: Arc::clone(&self.parts.elsewhere),
        })))
    }

    fn describe(&self, name: &KeyName, unit: Option<FacadeUnit>, help: &SharedString) {
        let unit = match unit {
            Some(FacadeUnit::Seconds) => Unit::Seconds,
            Some(FacadeUnit::Milliseconds) => Unit::Milliseconds,
            Some(FacadeUnit::Bytes) => Unit::Bytes,
            Some(FacadeUnit::Percent) => Unit::Percent,
            _ => Unit::None,
        };
        let name = sanitize(name.as_str(), true);
        self.parts.registered.borrow_mut().described.insert(name, (unit, help.to_string()));
    }
}

impl ParkedRecorder {
    /// Makes this thread the shard's.
    ///
    /// # Errors
    /// [`RecorderError::ThreadTaken`]: the recorder is lost with it, as the thread is another's.
    pub fn resume(self) -> Result<ShardRecorder, RecorderError> {
        check_thread()?;
        Ok(ShardRecorder::here(self.parts, self.publisher))
    }
}

fn check_thread() -> Result<(), RecorderError> {
    match PUBLISHER.with_borrow(|here| here.as_ref().map(Publisher::shard)) {
        Some(taken) => Err(RecorderError::ThreadTaken(taken)),
        None => Ok(()),
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        OWNER.set(0);
        PUBLISHER.set(None);
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Of what other threads see of the recorder's end, nothing depends on the order.
        self.elsewhere.closed.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for ShardRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardRecorder").field("shard", &self.shard()).finish_non_exhaustive()
    }
}

impl Recorder for ShardRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<FacadeUnit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<FacadeUnit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<FacadeUnit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        let known = self.parts.registered.borrow().counters.get(key).cloned();
        known.unwrap_or_else(|| {
            let new = self.refuse(self.new_counter(key)).unwrap_or_else(Counter::noop);
            self.parts.registered.borrow_mut().counters.insert(key.clone(), new.clone());
            new
        })
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        let known = self.parts.registered.borrow().gauges.get(key).cloned();
        known.unwrap_or_else(|| {
            let new = self.refuse(self.new_gauge(key)).unwrap_or_else(Gauge::noop);
            self.parts.registered.borrow_mut().gauges.insert(key.clone(), new.clone());
            new
        })
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        let known = self.parts.registered.borrow().histograms.get(key).cloned();
        known.unwrap_or_else(|| {
            let new = self.refuse(self.new_histogram(key)).unwrap_or_else(Histogram::noop);
            self.parts.registered.borrow_mut().histograms.insert(key.clone(), new.clone());
            new
        })
    }
}

/// It cannot be registered.
struct Refused;

impl From<SeriesError> for Refused {
    fn from(_: SeriesError) -> Self {
        Self
    }
}

/// The cell of the shard and that of all other threads.
pub(crate) struct SharedCounterCells {
    pub(crate) cells: CellWords,
    pub(crate) own: u32,
    pub(crate) shared: u32,
}

struct CounterHandle {
    owner: u64,
    cells: SharedCounterCells,
}

impl CounterHandle {
    fn own(&self) -> &AtomicU64 {
        self.cells.cells.word(self.cells.own)
    }

    fn shared(&self) -> &AtomicU64 {
        self.cells.cells.word(self.cells.shared)
    }
}

impl CounterFn for CounterHandle {
    #[inline]
    fn increment(&self, value: u64) {
        if OWNER.get() == self.owner {
            // One writer, as in `CounterCell::add`.
            let own = self.own();
            own.store(own.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        } else {
            self.shared().fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Raises the sum to `value`, from whichever thread, through the cell that all may change.
    fn absolute(&self, value: u64) {
        let raise = |shared| {
            let own = self.own().load(Ordering::Relaxed);
            (own.wrapping_add(shared) < value).then(|| value - own)
        };
        // Refused by `raise` when it is as high already.
        self.shared().fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).unwrap_or_default();
    }
}

struct GaugeHandle {
    cells: CellWords,
    index: u32,
}

impl GaugeHandle {
    /// Adds as an atomic: any thread may set it meanwhile.
    fn add(&self, delta: f64) {
        let word = self.cells.word(self.index);
        let sum = |bits| {
            let before = f64::from_bits(bits);
            // Absent counts as nothing yet.
            Some((if before.is_nan() { 0.0 } else { before } + delta).to_bits())
        };
        // Never refused: `sum` always gives one.
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).unwrap_or_default();
    }
}

impl GaugeFn for GaugeHandle {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    #[inline]
    fn set(&self, value: f64) {
        self.cells.set_gauge(self.index, value);
    }
}

struct HistogramHandle {
    id: MetricId,
    elsewhere: Arc<Elsewhere>,
}

impl HistogramFn for HistogramHandle {
    #[inline]
    fn record(&self, value: f64) {
        if OWNER.get() != self.elsewhere.owner {
            return self.elsewhere.wait(self.id, value);
        }
        PUBLISHER.with(|here| match here.try_borrow_mut().as_deref_mut() {
            Ok(Some(publisher)) => publisher.record(observation(self.id, NOW_NS.get(), value)),
            // Within `ShardRecorder::publisher`: it waits for the next beat.
            _ => self.elsewhere.wait(self.id, value),
        });
    }
}

impl Elsewhere {
    fn wait(&self, id: MetricId, value: f64) {
        if self.closed.load(Ordering::Relaxed) || self.waiting.push((id, value)).is_err() {
            self.refused.increment(1);
        }
    }
}

fn observation(metric_id: MetricId, timestamp_ns: u64, value: f64) -> MetricSample {
    MetricSample { metric_id, timestamp_ns, value: MetricValue::Histogram(value) }
}

fn refs(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

/// A name of letters, digits and underscores, and colons in a metric's, that does not begin with a digit.
fn sanitize(name: &str, colons: bool) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let mut clean: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if clean.starts_with(|c: char| c.is_ascii_digit()) {
        clean.insert(0, '_');
    }
    clean
}
