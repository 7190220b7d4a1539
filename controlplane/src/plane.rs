//! The shared state of the control plane: what it owns, and in which order it locks.
//!
//! Locks are taken in this order and never the other way: the rendered body, that of the refreshers' turn, the drain,
//! what alerts are raised from, the directory, the targets. What is attached to is a lock of its own, held for a
//! moment. Health takes none that a drain may hold.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use relayscope_bridge::segment::{Attachment, SegmentState};
use relayscope_bridge::{Account, Collector, ShardId};

use crate::alerts::Watch;
use crate::build::Build;
use crate::clock::Now;
use crate::drain::{Drain, DrainThread, ShardReport};
use crate::exposition::{Detail, Exposition, Filter, Format, Sources, is_metric_name};
use crate::health::{Health, Readiness};
use crate::http::{self, Authentication, ConnectionRefused, ReloadRequest, Requests};
use crate::mesh::{Mesh, MeshCounts};
use crate::own::Own;
use crate::process::Process;
use crate::process_io::{IoRates, Meter, ProcessIo};
use crate::refresh::{Refreshers, TooManyRefreshers};
use crate::scrape::{BODIES_MAX, Bodies, Scrape, TooManyBodies};
use crate::source::Attached;
use crate::sources::SourceAccounts;
use crate::stages::{Stage, StageLatencies, Stages};

/// The exporter's raw samples are folded this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

const DRAIN_INTERVAL_MIN: Duration = Duration::from_millis(1);
const DRAIN_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// How the control plane works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneConfig {
    /// Before each family's name, with an underscore: `relay` by default. May be empty.
    pub metric_prefix: String,
    /// Pause between drains: 1 ms..=10 s, 100 ms by default.
    pub drain_interval: Duration,
    /// After how long without a sign of life a shard counts as silent, and without a drain the
    /// control plane as stuck: at least two drain intervals, 5 s by default.
    pub stale_after: Duration,
    /// The core the drain thread runs on; any by default.
    pub drain_core: Option<usize>,
    /// How much of histograms a scrape shows that does not say: classic buckets by default.
    pub detail: Detail,
    /// The most series exposed, a histogram being one: 1,000,000 by default, from 1 on. What comes beyond is left out
    /// and counted.
    pub series_max: usize,
    /// What `build_info` says: by default this library's version.
    pub build: Build,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        Self {
            metric_prefix: "relay".to_owned(),
            drain_interval: Duration::from_millis(100),
            stale_after: Duration::from_secs(5),
            drain_core: None,
            detail: Detail::default(),
            series_max: 1_000_000,
            build: Build::default(),
        }
    }
}

/// A configuration the control plane cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`ControlPlaneConfig::metric_prefix`].
    #[error("metric prefix {0:?} is invalid; expected letters, digits, _ and :, no digit first")]
    Prefix(String),
    /// See [`ControlPlaneConfig::drain_interval`].
    #[error("drain interval {0:?} is invalid; expected {DRAIN_INTERVAL_MIN:?}..={DRAIN_INTERVAL_MAX:?}")]
    DrainInterval(Duration),
    /// See [`ControlPlaneConfig::series_max`].
    #[error("series maximum 0 is invalid; expected at least 1")]
    SeriesMax,
    /// See [`ControlPlaneConfig::stale_after`].
    #[error("staleness {stale_after:?} is invalid; expected at least two drain intervals of {interval:?}")]
    StaleAfter {
        /// What was given.
        stale_after: Duration,
        /// The drain interval given with it.
        interval: Duration,
    },
}

impl ControlPlaneConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let (prefix, interval, stale_after) = (&self.metric_prefix, self.drain_interval, self.stale_after);
        if !prefix.is_empty() && !is_metric_name(prefix) {
            return Err(ConfigError::Prefix(prefix.clone()));
        }
        if !(DRAIN_INTERVAL_MIN..=DRAIN_INTERVAL_MAX).contains(&interval) {
            return Err(ConfigError::DrainInterval(interval));
        }
        if self.series_max == 0 {
            return Err(ConfigError::SeriesMax);
        }
        if stale_after < 2 * interval {
            return Err(ConfigError::StaleAfter { stale_after, interval });
        }
        Ok(())
    }
}

/// What is rendered.
type What<'a> = (Format, Detail, &'a Filter);

/// The control plane of one relay. Clones share it.
#[derive(Clone)]
pub struct ControlPlane(Arc<Inner>);

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").finish_non_exhaustive()
    }
}

struct Inner {
    config: ControlPlaneConfig,
    attached: Mutex<Arc<Attached>>,
    bodies: Mutex<Bodies>,
    drain: Mutex<Drain>,
    upkeep_ns: Mutex<u64>,
    /// When the drain last came round; 0 is never.
    drained_ns: AtomicU64,
    own: Own,
    process: Process,
    stages: Arc<Stages>,
    io: Meter,
    /// Of the data plane's process, where that is another one.
    dataplane_io: Meter,
    refreshers: Refreshers,
    reloads: OnceLock<Requests>,
    /// What alerts are raised from, where they are.
    watch: OnceLock<Mutex<Watch>>,
}

impl ControlPlane {
    /// Takes over the collector of a hub in this process. Nothing is drained before
    /// [`spawn_drain`](Self::spawn_drain) or [`tick`](Self::tick).
    ///
    /// # Errors
    /// [`ConfigError`] names the value that is out of range.
    pub fn new(collector: Collector, config: ControlPlaneConfig) -> Result<Self, ConfigError> {
        Self::new_at(collector, config, Now::sample())
    }

    pub(crate) fn new_at(
        collector: Collector,
        config: ControlPlaneConfig,
        now: Now,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let attached = Attached::to(&collector, config.stale_after, now);
        Ok(Self::of(attached, Drain::new(collector), config, now))
    }

    /// Reads the segment of another process, mapped read-only, whenever there is one at `segment`: it may
    /// come later, die, and be replaced. What was delivered and lost is kept in a file beside it, its name
    /// with `.account` appended, for a successor of this control plane to go on with.
    ///
    /// # Errors
    /// [`ConfigError`] names the value that is out of range.
    pub fn watch(segment: PathBuf, config: ControlPlaneConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let now = Now::sample();
        let why = format!("segment {} has not been looked for yet", segment.display());
        let attached = Attached::nothing(why, config.stale_after, now);
        Ok(Self::of(attached, Drain::watching(segment), config, now))
    }

    fn of(attached: Attached, drain: Drain, config: ControlPlaneConfig, now: Now) -> Self {
        let stages = Arc::new(Stages::default());
        let of_refreshers = Arc::clone(&stages);
        Self(Arc::new(Inner {
            attached: Mutex::new(Arc::new(attached)),
            bodies: Mutex::new(Bodies::new(Exposition::new(&config.metric_prefix, config.series_max))),
            drain: Mutex::new(drain),
            upkeep_ns: Mutex::new(now.monotonic_ns),
            drained_ns: AtomicU64::new(0),
            own: Own::new(&config.metric_prefix, &config.build),
            process: Process::new(),
            refreshers: Refreshers::new(Arc::new(move |took| of_refreshers.note_hold(Stage::Refresh, took))),
            stages,
            io: Meter::default(),
            dataplane_io: Meter::default(),
            reloads: OnceLock::new(),
            watch: OnceLock::new(),
            config,
        }))
    }

    /// The recorder behind the process's own metrics. Once it is installed, what the application
    /// records through the `metrics` facade appears in [`exposition`](Self::exposition) as well.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// metrics::set_global_recorder(plane.recorder()).map_err(|_| "a recorder is installed already")?;
    /// metrics::counter!("rooms_opened_total").increment(1);
    /// let text = String::from_utf8(plane.exposition().to_vec())?;
    /// assert!(text.contains("\nrooms_opened_total 1\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recorder(&self) -> impl metrics::Recorder + Send + Sync + use<> {
        self.0.own.recorder()
    }

    /// Has `refresh` run once for each exposition rendered, to bring values up to date that are cheaper read than
    /// pushed; `name` is what its turns are counted under. Scrapes of one drain epoch share a body, and its turn.
    ///
    /// Those without context run first, then those with one, each in order of registration, on a thread that is
    /// not the caller's. A scrape waits for each 100 ms at most. One that panics or takes longer is counted in
    /// `scrape_refreshes_total` and rests for a second, twice as long each further time, up to 64 s; it is not
    /// begun again while it runs. To ask this plane for an exposition in it is to wait for oneself.
    ///
    /// # Errors
    /// [`TooManyRefreshers`]: there are 16, those with context among them. None is replaced.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// metrics::set_global_recorder(plane.recorder()).map_err(|_| "a recorder is installed already")?;
    /// let rooms = Arc::new(AtomicU32::new(0));
    /// let read = Arc::clone(&rooms);
    /// plane.add_refresher("rooms", move || metrics::gauge!("rooms").set(read.load(Ordering::Relaxed)))?;
    ///
    /// rooms.store(7, Ordering::Relaxed);
    /// let text = String::from_utf8(plane.exposition().to_vec())?;
    /// assert!(text.contains("\nrooms 7\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_refresher(
        &self,
        name: &'static str,
        refresh: impl FnMut() + Send + 'static,
    ) -> Result<(), TooManyRefreshers> {
        self.0.refreshers.add(name, refresh)
    }

    /// As [`add_refresher`](Self::add_refresher), for what is read of a `context`. It is not kept alive by this:
    /// when it is gone, so is the refresher, and its place is free.
    ///
    /// # Errors
    /// [`TooManyRefreshers`], as there.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// use std::sync::{Arc, Mutex};
    ///
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// let queue = Arc::new(Mutex::new(vec!["a", "b"]));
    /// let depth = metrics::with_local_recorder(&plane.recorder(), || metrics::gauge!("queue_depth"));
    /// plane.add_refresher_with("queue", &queue, move |queue: &Mutex<Vec<&str>>| {
    ///     depth.set(queue.lock().map_or(f64::NAN, |queue| queue.len() as f64));
    /// })?;
    /// let text = String::from_utf8(plane.exposition().to_vec())?;
    /// assert!(text.contains("\nqueue_depth 2\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_refresher_with<C: Send + Sync + 'static>(
        &self,
        name: &'static str,
        context: &Arc<C>,
        refresh: impl FnMut(&C) + Send + 'static,
    ) -> Result<(), TooManyRefreshers> {
        self.0.refreshers.add_with(name, context, refresh)
    }

    /// Lets `POST /-/reload` ask whoever receives here to read the configuration anew; without, it is answered
    /// 403. For one receiver: a later one is asked nothing.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// let mut requests = plane.allow_reload();
    /// # drop(async move {
    /// while let Some(request) = requests.recv().await {
    ///     request.answer(Err("relayscope.toml: line 3: expected a time".to_owned()));
    /// }
    /// # });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_reload(&self) -> tokio::sync::mpsc::Receiver<ReloadRequest> {
        let (requests, received) = http::reload_channel();
        if self.0.reloads.set(requests).is_err() {
            tracing::error!("reloads are asked of another receiver already");
        }
        received
    }

    /// Whom to ask for a reload; `None` where that is not allowed.
    pub(crate) fn reloads(&self) -> Option<&Requests> {
        self.0.reloads.get()
    }

    /// Starts the thread that drains every interval. One per control plane is enough; a second one
    /// would do half the work.
    ///
    /// # Errors
    /// When the configured core is not available, or no thread can be had.
    pub fn spawn_drain(&self) -> io::Result<DrainThread> {
        DrainThread::spawn(self.clone())
    }

    /// Drains every ring once, now: what the drain thread does each interval.
    pub fn tick(&self) {
        let began = Now::sample();
        self.tick_at(began);
        self.0.own.drained(Now::sample().since(began.monotonic_ns));
    }

    pub(crate) fn tick_at(&self, now: Now) {
        let epoch = self.0.stages.with(Stage::Drain, &self.0.drain, |drain| {
            let attached = self.follow(drain, now);
            drain.tick(now, &attached.clocks);
            attached.look();
            attached.log_changes(now);
            drain.epoch()
        });
        // Relaxed: it stands alone.
        self.0.drained_ns.store(now.monotonic_ns, Ordering::Relaxed);
        // What nobody shares any more is half of what a target takes. Whoever renders now will see to it.
        if let Ok(mut bodies) = self.0.bodies.try_lock() {
            bodies.forget(epoch, now);
        }
        let mut upkeep_ns = lock(&self.0.upkeep_ns);
        if now.since(*upkeep_ns) >= UPKEEP_INTERVAL {
            *upkeep_ns = now.monotonic_ns;
            self.0.own.run_upkeep();
        }
    }

    /// What is attached to from now on.
    fn follow(&self, drain: &mut Drain, now: Now) -> Arc<Attached> {
        let attached = self.attached();
        let stale_after = self.0.config.stale_after;
        let changed = match drain.follow(&attached, now) {
            None => return attached,
            Some(Ok(collector)) => Attached::to(collector, stale_after, now),
            Some(Err(why)) if attached.is_missing(&why) => return attached,
            Some(Err(why)) => Attached::nothing(why, stale_after, now),
        };
        let changed = Arc::new(changed);
        *lock(&self.0.attached) = Arc::clone(&changed);
        changed
    }

    pub(crate) fn attached(&self) -> Arc<Attached> {
        Arc::clone(&lock(&self.0.attached))
    }

    pub(crate) fn watch_slot(&self) -> &OnceLock<Mutex<Watch>> {
        &self.0.watch
    }

    pub(crate) fn own(&self) -> &Own {
        &self.0.own
    }

    /// Every shard's rings now; `None` while a drain or a render is at work, or hangs.
    pub(crate) fn try_shards(&self) -> Option<Vec<ShardReport>> {
        self.0.drain.try_lock().ok().map(|drain| drain.shards().collect())
    }

    /// Every shard's account now, in order of shard.
    pub fn accounts(&self) -> Vec<(ShardId, Account)> {
        lock(&self.0.drain).shards().map(|report| (report.shard, report.account)).collect()
    }

    /// What every shard recorded, drained and lost, and what of it came from which family. O(families).
    pub fn sources(&self) -> SourceAccounts {
        let drain = lock(&self.0.drain);
        let (tally, prefix) = (drain.aggregate().tally(), &self.0.config.metric_prefix);
        let of_shard = |report: ShardReport| tally.read(report.shard, report.account, prefix);
        SourceAccounts { shards: drain.shards().map(of_shard).collect() }
    }

    /// Everything held, in the Prometheus text format 0.0.4. Scrapes of one drain epoch share a body.
    ///
    /// Blocks while a drain or another render runs: in an async task, call it on a blocking thread.
    pub fn exposition(&self) -> Bytes {
        self.exposition_at(Now::sample())
    }

    pub(crate) fn exposition_at(&self, now: Now) -> Bytes {
        self.scrape_within(usize::MAX, &Scrape::default(), now).unwrap_or_default()
    }

    /// What is asked for. Scrapes of one drain epoch that ask for the same, without a filter, share a body, and one
    /// compressed body.
    ///
    /// Blocks while a drain or another render runs: in an async task, call it on a blocking thread.
    ///
    /// # Errors
    /// [`TooManyBodies`] while sixteen bodies of before are still held.
    pub fn scrape(&self, scrape: &Scrape) -> Result<Bytes, TooManyBodies> {
        self.scrape_within(BODIES_MAX, scrape, Now::sample())
    }

    pub(crate) fn scrape_within(
        &self,
        bodies_max: usize,
        scrape: &Scrape,
        now: Now,
    ) -> Result<Bytes, TooManyBodies> {
        let detail = scrape.detail.unwrap_or(self.0.config.detail);
        let mut bodies = lock(&self.0.bodies);
        if !self.attached().is_sound() {
            bodies.clear();
        }
        let epoch = lock(&self.0.drain).epoch();
        if let Some(body) = bodies.find(scrape, detail, epoch, now) {
            return Ok(body);
        }
        if bodies.len() >= bodies_max {
            return Err(TooManyBodies);
        }
        self.0.refreshers.run(now, |refresher, turn| self.0.own.refreshed(refresher, turn));
        let exposition = &mut bodies.exposition;
        let (plain, epoch) = self.0.stages.with(Stage::Render, &self.0.drain, |drain| {
            (
                self.render_sound(exposition, drain, now, (scrape.format, detail, &scrape.filter)),
                drain.epoch(),
            )
        });
        self.0.own.rendered(Now::sample().since(now.monotonic_ns));
        Ok(bodies.take(scrape, detail, plain, epoch, now))
    }

    /// Renders what is attached to. If that turns out to be damaged, nothing of it is shown: what was read
    /// may not be what was written.
    fn render_sound(
        &self,
        exposition: &mut Exposition,
        drain: &mut Drain,
        now: Now,
        what: What<'_>,
    ) -> Vec<u8> {
        let attached = self.attached();
        attached.look();
        // Without a segment to read from, nothing that came of one is shown either.
        if attached.attachment().is_none() {
            drain.let_go();
        }
        let body = self.render(exposition, drain, &attached, now, what);
        if attached.is_sound() {
            return body;
        }
        drain.let_go();
        let nothing = Arc::new(self.nothing(now));
        *lock(&self.0.attached) = Arc::clone(&nothing);
        self.render(exposition, drain, &nothing, now, what)
    }

    fn render(
        &self,
        exposition: &mut Exposition,
        drain: &Drain,
        attached: &Attached,
        now: Now,
        (format, detail, filter): What<'_>,
    ) -> Vec<u8> {
        let (own, process) = (&self.0.own, self.0.process.read());
        exposition.render(&Sources { now, drain, attached, own, process }, format, detail, filter)
    }

    /// What can be read of a segment that turned out to be damaged.
    fn nothing(&self, now: Now) -> Attached {
        let why = "the data plane's segment is damaged: it was cut off while it was read".to_owned();
        Attached::nothing(why, self.0.config.stale_after, now)
    }

    /// The mesh now. O(targets).
    pub fn mesh(&self) -> Mesh {
        self.mesh_at(Now::sample())
    }

    pub(crate) fn mesh_at(&self, now: Now) -> Mesh {
        let attached = self.attached();
        attached.look();
        let read = |attached: &Attached| {
            let mesh = attached
                .directory
                .read(|series| attached.roster(series).read_mesh(series, &attached.clocks, now));
            Mesh { reason: attached.missing().map(str::to_owned), ..mesh }
        };
        let mesh = read(&attached);
        if attached.is_sound() { mesh } else { read(&self.nothing(now)) }
    }

    /// The health of every shard now. Never waits for a drain: a drain that hangs is what it tells.
    pub fn health(&self) -> Health {
        self.health_at(Now::sample())
    }

    pub(crate) fn health_at(&self, now: Now) -> Health {
        let attached = self.attached();
        attached.look();
        attached.health(now)
    }

    /// Whether the first drain is done and every shard has signed life. Never waits.
    pub fn readiness(&self) -> Readiness {
        let attached = self.attached();
        attached.look();
        attached.readiness()
    }

    /// Age of the last drain that came to its end, whatever there was to drain: there may be no data plane. `None`
    /// before the first. Never waits.
    pub fn drain_age(&self) -> Option<Duration> {
        let at = self.0.drained_ns.load(Ordering::Relaxed);
        (at != 0).then(|| Now::sample().since(at))
    }

    /// How many targets there are now, and how many are up. O(targets), though it reads one cell of each.
    pub fn mesh_counts(&self) -> MeshCounts {
        self.mesh_counts_at(Now::sample())
    }

    pub(crate) fn mesh_counts_at(&self, now: Now) -> MeshCounts {
        let attached = self.attached();
        attached.look();
        let clocks = &attached.clocks;
        let counts = attached.directory.read(|series| {
            let roster = attached.roster(series);
            let up = roster.count_up(series, clocks, now);
            MeshCounts { running: clocks.all_running(now), targets: roster.names(), up }
        });
        if attached.is_sound() { counts } else { MeshCounts::default() }
    }

    /// See [`ControlPlaneConfig::stale_after`].
    pub fn stale_after(&self) -> Duration {
        self.0.config.stale_after
    }

    /// How long our own stages waited and took, and how late drains began. Never waits.
    pub fn stage_latencies(&self) -> StageLatencies {
        self.0.stages.read(self.0.config.drain_interval)
    }

    /// What this process and the data plane's read and write. A reading stands for a second, whoever asks; then it
    /// takes some system calls.
    pub fn io_rates(&self) -> IoRates {
        self.io_rates_at(Now::sample())
    }

    pub(crate) fn io_rates_at(&self, now: Now) -> IoRates {
        let own = self.0.io.read_own(now);
        let attached = self.attached();
        let data_plane = match (attached.attachment(), attached.missing()) {
            (Some(attachment), _) => self.dataplane_io(attachment, &own, now),
            (None, why) => ProcessIo::absent(None, why.unwrap_or("there is no data plane").to_owned()),
        };
        IoRates { own, data_plane }
    }

    fn dataplane_io(&self, attachment: &Attachment, own: &ProcessIo, now: Now) -> ProcessIo {
        let pid = attachment.info().pid;
        // Without a file, maker and reader are one process.
        let Some(path) = attachment.path() else { return own.clone() };
        let read = self.0.dataplane_io.read_other(now, pid, path);
        // Its number is another's as soon as it has ended.
        match attachment.state() {
            SegmentState::Running => read,
            state => {
                ProcessIo::absent(Some(pid), format!("data plane process {pid}: its segment is {state}"))
            }
        }
    }

    /// A drain began this late.
    pub(crate) fn note_drain_lateness(&self, late: Duration) {
        self.0.own.drain_began(late);
        self.0.stages.note_drain_lateness(late);
    }

    pub(crate) fn config(&self) -> &ControlPlaneConfig {
        &self.0.config
    }

    pub(crate) fn request_answered(&self, route: &str, code: &str) {
        self.0.own.answered(route, code);
    }

    pub(crate) fn connection_refused(&self, reason: ConnectionRefused) {
        self.0.own.refused(reason);
    }

    pub(crate) fn authenticated(&self, outcome: Authentication) {
        self.0.own.authenticated(outcome);
    }

    pub(crate) fn connections_open(&self, open: usize) {
        self.0.own.connections(open);
    }

    pub(crate) fn web_config_read(&self, is_in_force: bool) {
        self.0.own.web_config_read(is_in_force);
    }

    pub(crate) fn certificate_ends(&self, unix_seconds: i64) {
        self.0.own.certificate_ends(unix_seconds);
    }

    #[cfg(test)]
    pub(crate) fn hang_drain(&self) -> MutexGuard<'_, Drain> {
        lock(&self.0.drain)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked in a drain left counts, no broken invariant: better shown than hidden.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use relayscope_bridge::catalogue::PROBE_SENT;
    use relayscope_bridge::{Hub, HubConfig, ShardId, create, hub};

    use super::*;

    fn refuse(config: ControlPlaneConfig) -> String {
        let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
        ControlPlane::new(collector, config).err().unwrap().to_string()
    }

    #[test]
    fn a_bad_configuration_is_refused_with_the_value_and_what_is_right() {
        let default = ControlPlaneConfig::default;
        assert_eq!(
            refuse(ControlPlaneConfig { metric_prefix: "my-relay".to_owned(), ..default() }),
            "metric prefix \"my-relay\" is invalid; expected letters, digits, _ and :, no digit first"
        );
        assert_eq!(
            refuse(ControlPlaneConfig { drain_interval: Duration::ZERO, ..default() }),
            "drain interval 0ns is invalid; expected 1ms..=10s"
        );
        assert_eq!(
            refuse(ControlPlaneConfig { stale_after: Duration::from_millis(199), ..default() }),
            "staleness 199ms is invalid; expected at least two drain intervals of 100ms"
        );
    }

    /// A segment with one shard that beat and one counter at 7, and a plane that watches it.
    fn watched() -> (tempfile::TempDir, Hub, std::fs::File, ControlPlane) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let mut hub = create(&path, HubConfig { ring_capacity: 64, ..HubConfig::default() }).unwrap();
        hub.publishers[0].beat(1_000_000_000);
        hub.registry.counter(ShardId(0), &PROBE_SENT, &["b", "ipv4"]).unwrap().add(7);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        (directory, hub, file, ControlPlane::watch(path, ControlPlaneConfig::default()).unwrap())
    }

    fn scrape(plane: &ControlPlane) -> String {
        String::from_utf8(plane.exposition().to_vec()).unwrap()
    }

    #[test]
    fn nothing_of_a_damaged_segment_is_shown_whoever_looks_first() {
        let (_directory, _hub, file, plane) = watched();
        plane.tick();
        assert!(scrape(&plane).contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 7\n"));
        // Its header goes, and no drain comes by before it is looked at.
        file.write_all_at(&[0; 8], 0).unwrap();
        assert!(!plane.mesh().running);
        let text = scrape(&plane);
        assert!(!text.contains("relay_ring_recorded") && !text.contains("relay_probe_sent_total{"), "{text}");
    }

    #[test]
    fn times_of_another_boot_are_not_shown() {
        const BOOT_ID_BYTES: u64 = 56;
        let (_directory, _hub, file, plane) = watched();
        file.write_all_at(&[1; 16], BOOT_ID_BYTES).unwrap();
        plane.tick();
        let reason = plane.health().shards[0].reason.clone().unwrap();
        assert_eq!(reason, format!("shard 0: data plane process {} died", std::process::id()));
        let text = scrape(&plane);
        assert!(!text.contains("relay_shard_heartbeat_timestamp_seconds{"), "{text}");
        assert!(
            text.contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 7\n"),
            "counts are true of any boot"
        );
    }

    #[test]
    fn an_account_that_cannot_be_kept_is_shown_and_kept_as_soon_as_it_can() {
        let (directory, _hub, _file, plane) = watched();
        let ledger = directory.path().join("segment.account");
        std::fs::create_dir(&ledger).unwrap();
        plane.tick();
        assert!(scrape(&plane).contains("relay_dataplane_account_kept 0\n"));
        std::fs::remove_dir(&ledger).unwrap();
        let now = Now::sample();
        let later = Now { monotonic_ns: now.monotonic_ns + 2_000_000_000, ..now };
        plane.tick_at(later);
        assert!(scrape(&plane).contains("relay_dataplane_account_kept 1\n"));
    }

    #[test]
    fn without_a_data_plane_the_mesh_says_so_and_not_that_no_targets_are_configured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let plane = ControlPlane::watch(path.clone(), ControlPlaneConfig::default()).unwrap();
        plane.tick();
        let mesh = plane.mesh();
        let reason = format!("cannot open segment {}: No such file or directory", path.display());
        assert!(mesh.reason.as_ref().unwrap().starts_with(&reason));
        assert!(mesh.to_text().starts_with(&format!("no data plane: {reason}")));
    }
}
