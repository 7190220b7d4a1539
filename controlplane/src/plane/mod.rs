//! The shared state of the control plane: what it owns, and in which order it locks.
//!
//! Locks are taken in this order and never the other way: the rendered body, that of the refreshers' turn, the drain,
//! what alerts are raised from, the directory, the targets. What is attached to is a lock of its own, held for a
//! moment. Health takes none that a drain may hold.

mod config;
mod history;
mod mesh;
mod render;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use relayscope_bridge::segment::{Attachment, SegmentState};
use relayscope_bridge::{Account, Collector, ShardId};

use crate::alerts::Watch;
use crate::clock::Now;
use crate::drain::{Drain, DrainThread, ShardReport};
use crate::exposition::Exposition;
use crate::health::{Health, Readiness};
use crate::history::History;
use crate::http::{self, Authentication, ConnectionRefused, ReloadRequest, Requests};
use crate::own::Own;
use crate::process::Process;
use crate::process_io::{IoRates, Meter, ProcessIo};
use crate::refresh::{Refreshers, TooManyRefreshers};
use crate::relays::Relays;
use crate::scrape::Bodies;
use crate::source::{Attached, Standing};
use crate::sources::SourceAccounts;
use crate::stages::{Stage, StageLatencies, Stages};

pub use config::{ConfigError, ControlPlaneConfig};

/// The exporter's raw samples are folded this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

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
    /// What is kept on disk, where anything is.
    history: OnceLock<Arc<History>>,
    /// Why there is none, where it was wanted.
    no_history: OnceLock<String>,
    relays: Relays,
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
            history: OnceLock::new(),
            no_history: OnceLock::new(),
            relays: Relays::default(),
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

    /// Shows in `config_last_reload_successful`, and raises an alert, whether the configuration that whoever runs this
    /// read last is in force. The data plane says that of its own; the family is 1 if both are.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// plane.note_reload(false);
    /// let text = String::from_utf8(plane.exposition().to_vec())?;
    /// assert!(text.contains("\nrelay_config_last_reload_successful 0\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn note_reload(&self, successful: bool) {
        self.0.own.note_reload(successful);
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

    /// What is read from, and who of it lives. Never waits for a drain.
    pub(crate) fn standing(&self, now: Now) -> Standing {
        self.attached().standing(now)
    }

    pub(crate) fn attached(&self) -> Arc<Attached> {
        Arc::clone(&lock(&self.0.attached))
    }

    pub(crate) fn watch_slot(&self) -> &OnceLock<Mutex<Watch>> {
        &self.0.watch
    }

    /// Says wherever history is asked for `why` there is none, where it was wanted and could not be had.
    pub fn note_no_history(&self, why: String) {
        self.0.own.set(&relayscope_bridge::catalogue::HISTORY_UP, &[], 0.0);
        if let Err(why) = self.0.no_history.set(why) {
            tracing::error!("why there is no history was said already; now it is: {why}");
        }
    }

    pub(crate) fn no_history(&self) -> Option<&str> {
        self.0.no_history.get().map(String::as_str)
    }

    pub(crate) fn history_slot(&self) -> &OnceLock<Arc<History>> {
        &self.0.history
    }

    pub(crate) fn relays(&self) -> &Relays {
        &self.0.relays
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

    /// What can be read of a segment that turned out to be damaged.
    fn nothing(&self, now: Now) -> Attached {
        let why = "the data plane's segment is damaged: it was cut off while it was read".to_owned();
        Attached::nothing(why, self.0.config.stale_after, now)
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

    /// A write to the history waited for as long, behind another if `was_held_up`, and took as long.
    pub(crate) fn note_history_write(&self, was_held_up: bool, wait: Duration, took: Duration) {
        self.0.stages.note_turn(Stage::History, was_held_up, wait, took);
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
mod tests;
