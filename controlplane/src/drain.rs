//! The drain: from the rings into the aggregate, and the thread that does it.
//!
//! [`Drain::tick`] is told the time and does all the work; [`DrainThread`] owns the only clock. The
//! thread polls: it never wakes a shard, and a shard never waits for it.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use relayscope_bridge::segment::SegmentState;
use relayscope_bridge::{Account, Collector, ShardId};

use crate::ControlPlane;
use crate::account::KeptAccount;
use crate::aggregate::Aggregate;
use crate::clock::Now;
use crate::health::Clocks;
use crate::pace::Pace;
use crate::source::{Attached, Watch};

/// High water is kept for the current and the previous window, whoever scrapes and however often.
const HIGH_WATER_WINDOW: Duration = Duration::from_secs(60);

/// The collector, where there is one, and what it brought so far.
pub(crate) struct Drain {
    collector: Option<Collector>,
    watch: Option<Watch>,
    /// Of a watched segment.
    account: Option<KeptAccount>,
    aggregate: Aggregate,
    shards: Vec<ShardProgress>,
    epoch: u64,
}

#[derive(Clone, Copy, Default)]
struct ShardProgress {
    last_drain_ns: Option<u64>,
    newest_sample_ns: Option<u64>,
    high_water: HighWater,
}

/// What is known of one shard after a drain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ShardReport {
    pub(crate) shard: ShardId,
    /// As of now, not of the drain.
    pub(crate) heartbeat_ns: Option<u64>,
    pub(crate) last_drain_ns: Option<u64>,
    pub(crate) account: Account,
    pub(crate) capacity: u64,
    /// The fullest the ring was before a drain, in samples.
    pub(crate) high_water: u64,
}

impl Drain {
    /// Drains a hub of this process.
    pub(crate) fn new(collector: Collector) -> Self {
        Self { watch: None, ..Self::of(Some(collector)) }
    }

    /// Drains the segment of another process, whenever there is one at `path`.
    pub(crate) fn watching(path: PathBuf) -> Self {
        Self { watch: Some(Watch::new(path)), ..Self::of(None) }
    }

    fn of(collector: Option<Collector>) -> Self {
        let shards = collector.as_ref().map_or(0, |collector| collector.shards().count());
        Self {
            collector,
            watch: None,
            account: None,
            aggregate: Aggregate::default(),
            shards: vec![ShardProgress::default(); shards],
            epoch: 0,
        }
    }

    /// Follows the watched name: attaches to the segment that has it now, or lets go of one that was
    /// replaced or is damaged. Gives what can be read from now on, where that changed.
    pub(crate) fn follow(&mut self, attached: &Attached, now: Now) -> Option<Result<&Collector, String>> {
        self.watch.as_ref()?;
        if let Some(collector) = &self.collector {
            let sound = attached.attachment().is_some() && attached.is_sound();
            if sound && !collector.attachment().is_replaced() {
                return None;
            }
            if sound {
                // One that was replaced is complete: its last samples are taken into account. Of one that is
                // damaged nothing is noted any more.
                self.fold_all(now, Some(&attached.clocks));
                self.note_account(now);
                self.log_accounts();
            }
            self.let_go();
        }
        let watch = self.watch.as_mut()?;
        match watch.attach() {
            Ok(mut collector) => {
                let account = Some(KeptAccount::resume(&mut collector, watch.path(), now));
                let shards = collector.shards().count();
                *self = Self {
                    watch: self.watch.take(),
                    account,
                    epoch: self.epoch + 1,
                    shards: vec![ShardProgress::default(); shards],
                    ..Self::of(Some(collector))
                };
                self.collector.as_ref().map(Ok)
            }
            Err(why) => Some(Err(why)),
        }
    }

    fn is_sound(&self) -> bool {
        self.collector.as_ref().is_none_or(|c| c.attachment().state() != SegmentState::Damaged)
    }

    /// Drops everything that came of the segment, as if it had never been read.
    pub(crate) fn let_go(&mut self) {
        if self.collector.is_none() {
            return;
        }
        *self = Self { watch: self.watch.take(), epoch: self.epoch + 1, ..Self::of(None) };
    }

    /// Drains every ring once, folds what came, and sets the clocks. O(samples), at most one ring's worth
    /// per shard.
    pub(crate) fn tick(&mut self, now: Now, clocks: &Clocks) {
        self.fold_all(now, Some(clocks));
        // What was just drained of a segment that is damaged by now may be anything.
        if self.is_sound() {
            self.note_account(now);
        }
        self.epoch += 1;
    }

    /// Folds what came since the last drain, for who reads totals of cells and of rings at once. It is no drain, and
    /// no clock is set: a drain thread that stands still is seen all the same.
    pub(crate) fn catch_up(&mut self, now: Now) {
        self.fold_all(now, None);
        if self.is_sound() {
            self.note_account(now);
        }
    }

    fn fold_all(&mut self, now: Now, clocks: Option<&Clocks>) {
        let Some(collector) = &mut self.collector else { return };
        let aggregate = &mut self.aggregate;
        let this_boot = collector.attachment().info().this_boot;
        let marks: Vec<_> = shard_ids().zip(&self.shards).map(|(shard, _)| collector.mark(shard)).collect();
        // After the marks: of every sample below them, the directory tells whose it is.
        aggregate.sync(collector.directory());
        for ((shard, progress), mark) in shard_ids().zip(&mut self.shards).zip(marks) {
            let mut newest_ns = 0;
            let drained = collector.drain_to(shard, mark, |position, sample| {
                newest_ns = newest_ns.max(sample.timestamp_ns);
                aggregate.fold(shard, position, sample);
            });
            if this_boot && drained.delivered > 0 {
                progress.newest_sample_ns = progress.newest_sample_ns.max(Some(newest_ns));
            }
            if let Some(reader) = collector.shard_mut(shard) {
                progress.high_water.note(now.monotonic_ns, reader.take_high_water());
            }
            if let Some(clocks) = clocks {
                progress.last_drain_ns = Some(now.monotonic_ns);
                clocks.drained(shard, now.monotonic_ns, progress.newest_sample_ns);
            }
        }
    }

    /// Before anybody can see what the drain brought: a successor must not count less.
    fn note_account(&mut self, now: Now) {
        let (Some(account), Some(collector)) = (&mut self.account, &self.collector) else { return };
        let deliveries: Vec<_> = (collector.shards())
            .map(|(_, reader)| reader.account())
            .map(|account| (account.delivered, account.lost))
            .collect();
        account.note(&collector.attachment().info(), &deliveries, now);
    }

    /// Whether the account is kept for a successor; `None` where there is nothing to keep.
    pub(crate) fn is_account_kept(&self) -> Option<bool> {
        self.account.as_ref().map(KeptAccount::is_kept)
    }

    fn log_accounts(&self) {
        for report in self.shards() {
            let Account { recorded, delivered, lost, .. } = report.account;
            tracing::info!(shard = report.shard.0, recorded, delivered, lost, "let go of the segment");
        }
    }

    /// Drains done.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    pub(crate) fn aggregate_mut(&mut self) -> &mut Aggregate {
        &mut self.aggregate
    }

    /// In order of shard.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardReport> {
        let this_boot = self.collector.as_ref().is_some_and(|c| c.attachment().info().this_boot);
        let readers = self.collector.iter().flat_map(Collector::shards);
        readers.zip(&self.shards).map(move |((shard, reader), progress)| ShardReport {
            shard,
            heartbeat_ns: reader.heartbeat().last_ns().filter(|_| this_boot),
            last_drain_ns: progress.last_drain_ns,
            account: reader.account(),
            capacity: reader.capacity(),
            high_water: progress.high_water.highest(),
        })
    }
}

fn shard_ids() -> impl Iterator<Item = ShardId> {
    (0..=u16::MAX).map(ShardId)
}

/// A maximum over the last one to two windows.
#[derive(Clone, Copy, Default)]
struct HighWater {
    window_start_ns: u64,
    current: u64,
    previous: u64,
}

impl HighWater {
    fn note(&mut self, now_ns: u64, level: u64) {
        let window = HIGH_WATER_WINDOW.as_nanos() as u64;
        let elapsed = now_ns.saturating_sub(self.window_start_ns);
        if elapsed >= window {
            self.previous = if elapsed < 2 * window { self.current } else { 0 };
            self.current = 0;
            self.window_start_ns = now_ns;
        }
        self.current = self.current.max(level);
    }

    fn highest(self) -> u64 {
        self.current.max(self.previous)
    }
}

/// The drain thread died of a panic; its message is on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the drain thread panicked; samples recorded since are not drained")]
pub struct DrainPanicked;

/// The running drain. Dropping it stops it too, and logs a panic rather than returning it.
pub struct DrainThread {
    plane: ControlPlane,
    /// Dropped to stop the thread; nothing is ever sent.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DrainThread {
    /// Starts the thread, on `plane`'s core if it names one.
    pub(crate) fn spawn(plane: ControlPlane) -> io::Result<Self> {
        let core = plane.config().drain_core.map(find_core).transpose()?;
        let (stop, stopped) = channel();
        let driven = plane.clone();
        let thread = std::thread::Builder::new().name("relayscope-drain".to_owned()).spawn(move || {
            if core.is_some_and(|core| !core_affinity::set_for_current(core)) {
                tracing::warn!(?core, "the drain thread could not be pinned; it runs on any core");
            }
            run(&driven, &stopped);
        })?;
        Ok(Self { plane, stop: Some(stop), thread: Some(thread) })
    }

    /// Drains a last time, joins, and returns the final account of every shard: what was recorded
    /// before this call is delivered or billed as lost.
    ///
    /// # Errors
    /// [`DrainPanicked`] if the thread had died before.
    pub fn stop(mut self) -> Result<Vec<(ShardId, Account)>, DrainPanicked> {
        self.join()?;
        Ok(self.plane.accounts())
    }

    fn join(&mut self) -> Result<(), DrainPanicked> {
        self.stop = None;
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| DrainPanicked))
    }
}

impl Drop for DrainThread {
    fn drop(&mut self) {
        if self.join().is_err() {
            tracing::error!("{DrainPanicked}");
        }
    }
}

fn find_core(core: usize) -> io::Result<core_affinity::CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(found) = cores.iter().find(|c| c.id == core) {
        return Ok(*found);
    }
    let ids: Vec<_> = cores.iter().map(|c| c.id.to_string()).collect();
    let text = format!("drain core {core} is not available to this process; there are {}", ids.join(", "));
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn run(plane: &ControlPlane, stopped: &Receiver<()>) {
    let mut pace = Pace::new(plane.config().drain_interval);
    loop {
        plane.note_drain_lateness(pace.begin(Now::sample()));
        plane.tick();
        if stopped.recv_timeout(pace.pause(Now::sample())) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    plane.tick();
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::PROBE_RTT_SECONDS;
    use relayscope_bridge::{
        Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry, hub,
    };

    use super::*;
    use crate::ControlPlaneConfig;

    const SECOND: u64 = 1_000_000_000;
    const SHARD: ShardId = ShardId(0);

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * SECOND, unix_ns: seconds * SECOND }
    }

    fn one_shard() -> (Publisher, SeriesRegistry, Drain, Clocks) {
        let sizes =
            HubConfig { ring_capacity: 16, cells_per_shard: 16, max_series: 4, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
        let clocks = Clocks::new(1, Duration::from_secs(5), at(1));
        (publishers.remove(0), registry, Drain::new(collector), clocks)
    }

    fn observation(metric_id: MetricId, timestamp_ns: u64) -> MetricSample {
        MetricSample { metric_id, timestamp_ns, value: MetricValue::Histogram(0.25) }
    }

    #[test]
    fn a_tick_reports_what_was_recorded_delivered_and_when() {
        let (mut publisher, registry, mut drain, clocks) = one_shard();
        let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        publisher.beat(3 * SECOND);
        publisher.record(observation(rtt, 3 * SECOND));
        publisher.record(observation(rtt, 2 * SECOND));
        drain.tick(at(4), &clocks);
        let expected = ShardReport {
            shard: SHARD,
            heartbeat_ns: Some(3 * SECOND),
            last_drain_ns: Some(4 * SECOND),
            account: Account { recorded: 2, delivered: 2, lost: 0, unread: 0 },
            capacity: 16,
            high_water: 2,
        };
        assert_eq!(drain.shards().collect::<Vec<_>>(), [expected]);
        assert_eq!(drain.aggregate().histogram(rtt).unwrap().count(), 2);
        assert_eq!(drain.epoch(), 1);
        assert_eq!(clocks.health(at(4)).shards[0].newest_sample_age_seconds, Some(1.0));
    }

    #[test]
    fn high_water_lasts_one_to_two_minutes() {
        let (mut publisher, _registry, mut drain, clocks) = one_shard();
        let high_water = |drain: &Drain| drain.shards().next().unwrap().high_water;
        drain.tick(at(100), &clocks);
        for n in 0..9 {
            publisher.record(observation(MetricId(0), n));
        }
        drain.tick(at(130), &clocks);
        drain.tick(at(161), &clocks);
        assert_eq!(high_water(&drain), 9);
        drain.tick(at(220), &clocks);
        assert_eq!(high_water(&drain), 9);
        drain.tick(at(221), &clocks);
        assert_eq!(high_water(&drain), 0);
    }

    #[test]
    fn high_water_does_not_outlive_a_long_pause() {
        let mut water = HighWater::default();
        water.note(100 * SECOND, 9);
        water.note(100 * SECOND + 500 * SECOND, 1);
        assert_eq!(water.highest(), 1);
    }

    #[test]
    fn an_id_reused_between_two_drains_parts_the_samples_of_both_series() {
        let (mut publisher, registry, mut drain, clocks) = one_shard();
        let old = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["old", "ipv4"]).unwrap();
        publisher.record(observation(old, 1));
        drain.tick(at(2), &clocks);
        publisher.record(observation(old, 2));
        let ticket = registry.retire(SHARD, &[old]).unwrap();
        publisher.acknowledge(ticket);
        let new = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["new", "ipv4"]).unwrap();
        publisher.record(observation(new, 3));
        drain.tick(at(3), &clocks);
        assert_eq!(new, old);
        assert_eq!(drain.aggregate().histogram(new).unwrap().count(), 1);
        assert_eq!(drain.aggregate().refused().no_series, 1, "the last of the old series");
    }

    #[test]
    fn stopping_drains_what_was_recorded_before_it() {
        let Hub { mut publishers, collector, .. } = hub(HubConfig::default()).unwrap();
        // So long an interval that only the first and the final drain happen.
        let drain_interval = Duration::from_secs(2);
        let config = ControlPlaneConfig { drain_interval, ..ControlPlaneConfig::default() };
        let plane = ControlPlane::new(collector, config).unwrap();
        let thread = plane.spawn_drain().unwrap();
        while plane.readiness().reason.is_some_and(|reason| reason.contains("not been drained")) {
            std::thread::yield_now();
        }
        for n in 0..1000 {
            publishers[0].record(observation(MetricId(0), n));
        }
        let accounts = thread.stop().unwrap();
        assert_eq!(accounts, [(SHARD, Account { recorded: 1000, delivered: 1000, lost: 0, unread: 0 })]);
    }

    #[test]
    fn a_core_that_is_not_there_is_named_with_those_that_are() {
        let error = find_core(99_999).unwrap_err().to_string();
        assert!(error.starts_with("drain core 99999 is not available to this process; there are "));
    }
}
