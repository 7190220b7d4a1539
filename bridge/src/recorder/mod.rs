//! The `metrics` facade on a shard: `counter!`, `gauge!` and `histogram!` in existing code go to the
//! shard's cells and ring.
//!
//! A facade's handles are shared by design: they may be cloned, kept, and used on any thread. A ring and
//! a cell have one writer. So a handle looks on which thread it is. On the shard's own it writes the cell
//! or the ring, as cheaply as they are. Elsewhere a counter adds to a second cell, which any thread may
//! add to and readers sum; a gauge is set as an atomic; an observation waits in a bounded queue, from
//! which the shard takes it at its next [`beat`](ShardRecorder::beat).
//!
//! Every observation is in the ring or counted as refused, also those made while the recorder ends.

mod handles;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit as FacadeUnit,
};

use crate::catalogue::{self, Family, FamilyText, RECORDER_REFUSED, Unit};
use crate::hub::Publisher;
use crate::sample::{MetricId, MetricKind, MetricSample, MetricValue, ShardId};
use crate::segment::layout::{LABELS_MAX, STRING_MAX};
use crate::series::error::SeriesError;
use crate::series::registry::SeriesRegistry;
use crate::sync::Ordering;

pub(crate) use self::handles::SharedCounterCells;
use self::handles::{CounterHandle, GaugeHandle, HistogramHandle};
use self::waiting::{NotPushed, Pusher, QUEUE_LEN, Taker};

/// Keys remembered as refused, so that asking again costs as little as for any other. Who asks for more has
/// an unbounded label: from then on nothing new is registered.
const REFUSED_MAX: usize = 1024;
/// Names whose unit and help are kept for when they are registered.
const DESCRIBED_MAX: usize = 1024;
/// The label by which the gauges of several shards are told apart.
const SHARD_LABEL: &str = "shard";

thread_local! {
    /// Whose thread this is: the shard recorder's number, 0 for none. Never destroyed: it needs no drop.
    static OWNER: Cell<u64> = const { Cell::new(0) };
    static SEAT: Seat = const { Seat(RefCell::new(None)) };
}

/// Where a shard's thread has its writer.
struct Seat(RefCell<Option<Writer>>);

impl Seat {
    /// From here on the thread is nobody's. The order matters: when the writer is dropped another process
    /// may claim the shard, and this thread must be off the owner's path by then.
    fn vacate(&self) -> Option<Writer> {
        OWNER.set(0);
        self.0.take()
    }
}

/// At the end of the thread, with a recorder that was leaked or is a thread-local's itself.
impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.vacate());
    }
}

/// What the shard's thread alone has: its way out, and the end of the queue from which others' observations
/// go there.
struct Writer {
    publisher: Publisher,
    elsewhere: Arc<Elsewhere>,
    waiting: Taker,
    /// The shard's time, as of its last beat.
    now_ns: u64,
}

/// Why there is no recorder.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The thread has one.
    #[error("this thread records as shard {} already; a shard has a thread of its own", .0.0)]
    ThreadTaken(ShardId),
    /// Its thread-locals are being destroyed.
    #[error("this thread is ending; a shard has a thread that runs")]
    ThreadEnding,
    /// Its own series cannot be had.
    #[error(transparent)]
    Series(#[from] SeriesError),
}

/// Records what this thread measures through the `metrics` facade into one shard's cells and ring.
///
/// It belongs to the thread that made it. Registering the same name and labels again allocates nothing
/// and takes no lock; the first time takes the registry's for a moment.
///
/// It ends when it is dropped, or with its thread if it is leaked. What waits then is recorded; what comes
/// later, or is under way on another thread, is refused. `recorded + refused = observed`, exactly.
///
/// - Counters and histograms of several shards with the same name and labels are one series: readers sum
///   them. A gauge has no sum: each shard's has the label `shard`.
/// - Names and help are as the facade's user gives them, without the configured prefix; characters that
///   Prometheus does not know become underscores.
/// - Observations carry the time of the last [`beat`](Self::beat).
/// - Labels are in order of their names, in whichever they were given. Names that are the same, perhaps only
///   once they are as Prometheus knows them, are refused; so is a gauge's own label `shard`.
/// - What cannot be registered (repeated labels, another kind under the same name, no room, more than 8
///   labels, a text of more than 1024 bytes) goes nowhere and is counted, as is what finds the queue full
///   or closed: `recorder_refused_total{shard,reason}`.
/// - Its memory is bounded: by the series it has, 1024 refused keys, and 1024 descriptions, none longer than a
///   series' may be. A refused key that is remembered is counted once; others each time. After the 1024th,
///   whatever has no series yet is refused at once, without a look at the registry. Further descriptions are
///   not kept.
///
/// ```
/// use relayscope_bridge::{Hub, HubConfig, ShardRecorder, hub};
///
/// let Hub { mut publishers, registry, mut collector, .. } = hub(HubConfig::default())?;
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
/// meanwhile are all on other threads than the shard's. Dropped, it ends as a recorder does.
pub struct ParkedRecorder {
    parts: Parts,
    writer: Writer,
}

struct Parts {
    shard: ShardId,
    registry: SeriesRegistry,
    elsewhere: Arc<Elsewhere>,
    refused_registrations: CounterHandle,
    registered: RefCell<Registered>,
}

/// What handles on other threads share with the shard.
struct Elsewhere {
    owner: u64,
    waiting: Pusher,
    queue_full: CounterHandle,
    closed: CounterHandle,
}

#[derive(Default)]
struct Registered {
    counters: HashMap<Key, Counter>,
    gauges: HashMap<Key, Gauge>,
    histograms: HashMap<Key, Histogram>,
    /// How many of the handles above do nothing.
    refused: usize,
    /// Of every name with a series.
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
            Ok::<_, SeriesError>(CounterHandle { owner, cells })
        };
        let refused_registrations = refused("registration")?;
        let (pusher, waiting) = waiting::queue();
        let (queue_full, closed) = (refused("queue_full")?, refused("closed")?);
        let elsewhere = Arc::new(Elsewhere { owner, waiting: pusher, queue_full, closed });
        let writer = Writer { publisher, elsewhere: Arc::clone(&elsewhere), waiting, now_ns: 0 };
        let (registry, registered) = (registry.clone(), RefCell::default());
        let parts = Parts { shard, registry, elsewhere, refused_registrations, registered };
        Ok(Self::here(parts, writer))
    }

    fn here(parts: Parts, writer: Writer) -> Self {
        SEAT.with(|seat| seat.0.replace(Some(writer)));
        OWNER.set(parts.elsewhere.owner);
        Self { parts, here: Here { _not_send: PhantomData } }
    }

    /// Takes the recorder off this thread, to be [resumed](ParkedRecorder::resume) on another.
    ///
    /// # Panics
    /// In the destructor of a thread-local, where the thread's end was the recorder's already.
    pub fn park(self) -> ParkedRecorder {
        let Self { parts, here } = self;
        let Some(writer) = SEAT.with(Seat::vacate) else {
            unreachable!("the writer is here until the recorder is dropped")
        };
        drop(here);
        ParkedRecorder { parts, writer }
    }

    /// The shard it records for.
    pub fn shard(&self) -> ShardId {
        self.parts.shard
    }

    /// Signs that the shard runs at `now_ns` of `CLOCK_MONOTONIC`, gives that time to what is observed from
    /// now on, and records what other threads observed: at most 1024 observations. Never waits: where a
    /// thread is interrupted while it hands over an observation, that one and those after it come later.
    ///
    /// # Panics
    /// Within [`publisher`](Self::publisher).
    pub fn beat(&self, now_ns: u64) {
        let beat = |seat: &Seat| seat.0.borrow_mut().iter_mut().for_each(|writer| writer.beat(now_ns));
        // In a thread-local's destructor there may be no seat any more: the recorder has ended.
        SEAT.try_with(beat).unwrap_or_default();
    }

    /// The shard's publisher, to record without the facade.
    ///
    /// # Panics
    /// Within itself, and in the destructor of a thread-local, where the thread's end was the recorder's
    /// already.
    pub fn publisher<T>(&self, with: impl FnOnce(&mut Publisher) -> T) -> T {
        SEAT.with(|seat| match &mut *seat.0.borrow_mut() {
            Some(writer) => with(&mut writer.publisher),
            None => unreachable!("the writer is here until the recorder is dropped"),
        })
    }

    /// The handle of a key, which is `new` the first time. One that does nothing where it is refused.
    fn register<H: Clone>(
        &self,
        key: &Key,
        handles: fn(&mut Registered) -> &mut HashMap<Key, H>,
        new: fn(&Self, &mut Registered, &Key) -> Result<H, Refused>,
        noop: fn() -> H,
    ) -> H {
        let mut registered = self.parts.registered.borrow_mut();
        if let Some(known) = handles(&mut registered).get(key) {
            return known.clone();
        }
        let refuse = || {
            self.parts.refused_registrations.increment(1);
            noop()
        };
        if registered.refused >= REFUSED_MAX || !is_short(key) {
            return refuse();
        }
        let handle = new(self, &mut registered, key).unwrap_or_else(|Refused| {
            registered.refused += 1;
            refuse()
        });
        handles(&mut registered).insert(key.clone(), handle.clone());
        handle
    }

    /// The family and label values of a key, as a gauge with the shard's label.
    fn family(
        &self,
        registered: &Registered,
        key: &Key,
        kind: MetricKind,
    ) -> Result<(&'static Family, Vec<String>), Refused> {
        let name = sanitize(key.name(), true);
        if registered.kinds.get(&name).is_some_and(|other| *other != kind) {
            return Err(Refused);
        }
        let (unit, help) = registered.described.get(&name).cloned().unwrap_or_default();
        let mut labels: Vec<_> =
            key.labels().map(|label| (sanitize(label.key(), false), label.value().to_owned())).collect();
        // Given in another order, on another shard, they are the same series.
        labels.sort_unstable();
        if kind == MetricKind::Gauge {
            labels.push((SHARD_LABEL.to_owned(), self.shard().0.to_string()));
        }
        let is_repeated = |n: usize| labels[..n].iter().any(|(before, _)| *before == labels[n].0);
        if (0..labels.len()).any(is_repeated) {
            return Err(Refused);
        }
        let (labels, values) = labels.into_iter().unzip();
        let text = FamilyText { name, kind, unit, help, labels, prefixed: false };
        Ok((catalogue::intern(text).ok_or(Refused)?, values))
    }

    fn new_counter(&self, registered: &mut Registered, key: &Key) -> Result<Counter, Refused> {
        let (family, values) = self.family(registered, key, MetricKind::Counter)?;
        let cells = self.parts.registry.shared_counter(self.shard(), family, &refs(&values))?;
        registered.note_kind(family);
        Ok(Counter::from_arc(Arc::new(CounterHandle { owner: self.parts.elsewhere.owner, cells })))
    }

    fn new_gauge(&self, registered: &mut Registered, key: &Key) -> Result<Gauge, Refused> {
        let (family, values) = self.family(registered, key, MetricKind::Gauge)?;
        let (cells, index) = self.parts.registry.gauge_word(self.shard(), family, &refs(&values))?;
        registered.note_kind(family);
        Ok(Gauge::from_arc(Arc::new(GaugeHandle { cells, index })))
    }

    fn new_histogram(&self, registered: &mut Registered, key: &Key) -> Result<Histogram, Refused> {
        let (family, values) = self.family(registered, key, MetricKind::Histogram)?;
        let id = self.parts.registry.stream(self.shard(), family, &refs(&values))?;
        registered.note_kind(family);
        let elsewhere = Arc::clone(&self.parts.elsewhere);
        Ok(Histogram::from_arc(Arc::new(HistogramHandle { id, elsewhere })))
    }

    fn describe(&self, name: &KeyName, unit: Option<FacadeUnit>, help: &SharedString) {
        let unit = match unit {
            Some(FacadeUnit::Seconds) => Unit::Seconds,
            Some(FacadeUnit::Milliseconds) => Unit::Milliseconds,
            Some(FacadeUnit::Bytes) => Unit::Bytes,
            Some(FacadeUnit::Percent) => Unit::Percent,
            _ => Unit::None,
        };
        // Longer ones would have the registration refused.
        if name.as_str().len() > STRING_MAX || help.len() > STRING_MAX {
            return;
        }
        let name = sanitize(name.as_str(), true);
        let described = &mut self.parts.registered.borrow_mut().described;
        if described.len() < DESCRIBED_MAX || described.contains_key(&name) {
            described.insert(name, (unit, help.to_string()));
        }
    }
}

impl Registered {
    fn note_kind(&mut self, family: &'static Family) {
        if !self.kinds.contains_key(family.name) {
            self.kinds.insert(family.name.to_owned(), family.kind);
        }
    }
}

impl ParkedRecorder {
    /// Makes this thread the shard's.
    ///
    /// # Errors
    /// [`RecorderError::ThreadTaken`], [`RecorderError::ThreadEnding`]: the recorder ends with it, as when it
    /// is dropped.
    pub fn resume(self) -> Result<ShardRecorder, RecorderError> {
        check_thread()?;
        let Self { parts, writer } = self;
        Ok(ShardRecorder::here(parts, writer))
    }
}

fn check_thread() -> Result<(), RecorderError> {
    let taken = |seat: &Seat| seat.0.borrow().as_ref().map(|writer| writer.publisher.shard());
    match SEAT.try_with(taken) {
        Ok(None) => Ok(()),
        Ok(Some(taken)) => Err(RecorderError::ThreadTaken(taken)),
        Err(_) => Err(RecorderError::ThreadEnding),
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // Where the seat is gone, the thread's end has vacated it.
        drop(SEAT.try_with(Seat::vacate));
    }
}

impl Writer {
    fn beat(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.publisher.beat(now_ns);
        // Bounded: others may go on adding while it is emptied.
        for _ in 0..QUEUE_LEN {
            let Some((id, value)) = self.waiting.take() else { return };
            self.publisher.record(observation(id, now_ns, value));
        }
    }
}

/// The recorder's end: what waits is recorded while the publisher is still there.
impl Drop for Writer {
    fn drop(&mut self) {
        let Self { publisher, elsewhere, waiting, now_ns } = self;
        let unfinished = waiting.close(|id, value| publisher.record(observation(id, *now_ns, value)));
        elsewhere.closed.increment(unfinished);
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
        self.register(key, |registered| &mut registered.counters, Self::new_counter, Counter::noop)
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        self.register(key, |registered| &mut registered.gauges, Self::new_gauge, Gauge::noop)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        self.register(key, |registered| &mut registered.histograms, Self::new_histogram, Histogram::noop)
    }
}

/// It cannot be registered.
struct Refused;

impl From<SeriesError> for Refused {
    fn from(_: SeriesError) -> Self {
        Self
    }
}

impl Elsewhere {
    fn wait(&self, id: MetricId, value: f64) {
        match self.waiting.push(id, value) {
            Ok(()) => {}
            Err(NotPushed::Full) => self.queue_full.increment(1),
            Err(NotPushed::Closed) => self.closed.increment(1),
        }
    }
}

fn observation(metric_id: MetricId, timestamp_ns: u64, value: f64) -> MetricSample {
    MetricSample { metric_id, timestamp_ns, value: MetricValue::Histogram(value) }
}

/// Whether its texts and labels can be a series': what cannot is not kept either.
fn is_short(key: &Key) -> bool {
    key.name().len() <= STRING_MAX
        && key.labels().len() <= LABELS_MAX
        && key.labels().all(|label| label.key().len().max(label.value().len()) <= STRING_MAX)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collector, Hub, HubConfig, hub};
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    fn one_shard() -> (ShardRecorder, Collector) {
        let sizes = HubConfig { ring_capacity: 64, cells_per_shard: 64, max_series: 64, shards: 1 };
        let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
        (ShardRecorder::new(publishers.remove(0), &registry).unwrap(), collector)
    }

    fn refused_as_closed(collector: &Collector) -> Option<u64> {
        collector.directory().read(|view| view.total(&RECORDER_REFUSED, &["0", "closed"]))
    }

    #[test]
    fn a_thread_interrupted_while_it_hands_over_does_not_make_the_shard_wait() {
        let (recorder, mut collector) = one_shard();
        let waiting = recorder.parts.elsewhere.waiting.clone();
        let claimed = waiting.claim().unwrap();
        waiting.push(MetricId(0), 2.0).unwrap();
        recorder.beat(1);
        assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 0);
        waiting.fill(claimed, MetricId(0), 1.0);
        recorder.beat(2);
        let mut values = Vec::new();
        collector.drain(ShardId(0), |sample| values.push(sample.value));
        assert_eq!(values, [MetricValue::Histogram(1.0), MetricValue::Histogram(2.0)]);
    }

    #[test]
    fn what_is_under_way_when_the_recorder_ends_is_refused_and_what_waits_is_recorded() {
        let (recorder, mut collector) = one_shard();
        let waiting = recorder.parts.elsewhere.waiting.clone();
        let claimed = waiting.claim().unwrap();
        waiting.push(MetricId(0), 2.0).unwrap();
        drop(recorder);
        waiting.fill(claimed, MetricId(0), 1.0);
        assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 1);
        assert_eq!(refused_as_closed(&collector), Some(1));
    }

    /// Tells at the end of its thread whose that was.
    struct TellOwner(Sender<u64>);

    impl Drop for TellOwner {
        fn drop(&mut self) {
            self.0.send(OWNER.get()).unwrap();
        }
    }

    #[test]
    fn a_thread_that_ends_with_a_leaked_recorder_is_off_the_owners_path_before_the_shard_is_free() {
        thread_local! {
            static LAST: RefCell<Option<TellOwner>> = const { RefCell::new(None) };
        }
        let (owners, told) = channel();
        let ends = move || {
            // The first to be used is the last to be destroyed.
            LAST.set(Some(TellOwner(owners)));
            let (recorder, collector) = one_shard();
            assert_ne!(OWNER.get(), 0);
            std::mem::forget(recorder);
            collector
        };
        let collector = thread::spawn(ends).join().unwrap();
        assert_eq!(told.recv(), Ok(0));
        assert_eq!(refused_as_closed(&collector), Some(0));
    }
}
