//! The two threads of history: one reads at its times, whatever the disk does, the other writes.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use relayscope_bridge::catalogue;
use relayscope_sqlite_status::CacheUse;

use super::super::config::HistoryConfig;
use super::super::error::StoreErrorKind;
use super::super::event::{Event, EventKind};
use super::super::tier::Tier;
use super::peers::PeerStates;
use super::queue::Queue;
use super::recorder::Recorder;
use super::writer::{Pauses, Writer};
use crate::ControlPlane;
use crate::alerts::{AlertEvents, EVENTS_MAX};
use crate::clock::Now;

/// Peers and alerts are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What waits for longer is not written: a write takes so long, or fails.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Time for the last writes at the end.
const STOP_MAX: Duration = Duration::from_secs(3);
/// Why something is dropped while nothing is wrong with the disk but its pace.
const SLOW: &str = "slow";
/// Why an event is dropped of those that came at once.
const RATE: &str = "rate";
/// Why intervals of targets that are not there any more are dropped.
const GONE: &str = "gone";
/// Why intervals of targets are dropped that the database has no room for.
pub(super) const TARGETS_MAX: &str = "targets_max";
/// Why intervals are dropped while another process writes the database.
pub(crate) const LOCKED: &str = "locked";

/// History cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// One database is written for a control plane.
    #[error("history is kept by another thread already; expected one per control plane")]
    Running,
    /// There is no thread to be had.
    #[error("the threads of history cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// What all threads know of it, and what waits.
#[derive(Debug)]
pub(crate) struct History {
    config: HistoryConfig,
    queue: Queue,
    status: Mutex<Status>,
}

/// How writing goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    pub(crate) is_open: bool,
    /// What went wrong last, while it stands: the reason as in labels, and all of it.
    pub(crate) failure: Option<(&'static str, String)>,
    pub(crate) intervals_written: u64,
    pub(crate) intervals_dropped: u64,
    pub(crate) events_written: u64,
    pub(crate) events_dropped: u64,
    pub(crate) errors: u64,
    pub(crate) last_write_unix_seconds: Option<f64>,
    /// What the writing connection found in its cache, and what not.
    pub(crate) cache: Option<CacheUse>,
}

impl History {
    pub(super) fn new(config: HistoryConfig) -> Arc<Self> {
        Arc::new(Self { config, queue: Queue::default(), status: Mutex::default() })
    }

    pub(crate) fn config(&self) -> &HistoryConfig {
        &self.config
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Intervals recorded and not written yet.
    pub(crate) fn pending(&self) -> usize {
        self.queue.depth(Now::sample()).intervals
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn note<T>(&self, note: impl FnOnce(&mut Status) -> T) -> T {
        note(&mut self.lock())
    }

    pub(super) fn dropped(&self, plane: &ControlPlane, reason: &str, intervals: usize) {
        plane.own().add(&catalogue::HISTORY_DROPPED, &[reason], intervals as u64);
        self.note(|status| status.intervals_dropped += intervals as u64);
    }

    pub(super) fn events_dropped(&self, plane: &ControlPlane, reason: &str, events: usize) {
        plane.own().add(&catalogue::HISTORY_EVENTS_DROPPED, &[reason], events as u64);
        self.note(|status| status.events_dropped += events as u64);
    }

    /// Why what waits does.
    fn reason(&self) -> &'static str {
        self.lock().failure.as_ref().map_or(SLOW, |(reason, _)| reason)
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlPlane {
    /// Keeps history from now on, until the thread is stopped: every ten seconds what each target said, and what happened
    /// to peers and, where [alerts are raised](Self::spawn_alerts) already, to those.
    ///
    /// A database that cannot be opened or written keeps nothing else from running. It is said once, counted, and tried
    /// again; what was recorded meanwhile waits, in a bounded number.
    ///
    /// # Errors
    /// [`HistoryError`]: a second call, or no thread to be had.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
    /// use relayscope_controlplane::history::{HistoryConfig, Retention};
    ///
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("history.db");
    /// let history = plane.spawn_history(HistoryConfig { path, retention: Retention::default() })?;
    /// history.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_history(&self, config: HistoryConfig) -> Result<HistoryThread, HistoryError> {
        let history = History::new(config);
        self.history_slot().set(Arc::clone(&history)).map_err(|_| HistoryError::Running)?;
        self.show_history();
        Ok(HistoryThread::spawn(self.clone(), history)?)
    }

    /// What is known of the history that is kept; `None` where it is off.
    pub(crate) fn history(&self) -> Option<&Arc<History>> {
        self.history_slot().get()
    }

    /// There from the start: of a counter that begins with its first event, that one is no increase.
    fn show_history(&self) {
        let own = self.own();
        own.set(&catalogue::HISTORY_UP, &[], 0.0);
        own.set(&catalogue::HISTORY_PENDING, &[], 0.0);
        own.add(&catalogue::HISTORY_LATE_READINGS, &[], 0);
        for tier in Tier::ALL {
            own.add(&catalogue::HISTORY_WRITTEN, &[tier.as_str()], 0);
        }
        for kind in EventKind::ALL {
            own.add(&catalogue::HISTORY_EVENTS, &[kind.as_str()], 0);
        }
        // A writer takes the time it takes.
        let kinds = StoreErrorKind::ALL.into_iter().filter(|kind| *kind != StoreErrorKind::TooLong);
        for reason in kinds.map(StoreErrorKind::reason) {
            own.add(&catalogue::HISTORY_ERRORS, &[reason], 0);
            own.add(&catalogue::HISTORY_DROPPED, &[reason], 0);
            own.add(&catalogue::HISTORY_EVENTS_DROPPED, &[reason], 0);
        }
        for reason in [SLOW, GONE, TARGETS_MAX, LOCKED] {
            own.add(&catalogue::HISTORY_DROPPED, &[reason], 0);
        }
        for reason in [SLOW, RATE] {
            own.add(&catalogue::HISTORY_EVENTS_DROPPED, &[reason], 0);
        }
    }
}

/// The running threads. Dropping it stops them too.
#[derive(Debug)]
pub struct HistoryThread {
    plane: ControlPlane,
    history: Arc<History>,
    /// Dropped to stop the one that records; nothing is ever sent.
    stop: Option<Sender<()>>,
    recording: Option<JoinHandle<()>>,
    /// Ends with the one that writes.
    writing: Receiver<()>,
}

impl HistoryThread {
    fn spawn(plane: ControlPlane, history: Arc<History>) -> io::Result<Self> {
        // Without alerting there are none to tell of.
        let alerts = plane.subscribe_alerts("history").ok();
        let (stop, stopped) = channel();
        let (written, writing) = channel();
        let writer = Writer::new(plane.clone(), Arc::clone(&history), Pauses::default());
        let sign = Sign { plane: plane.clone(), what: "writes" };
        std::thread::Builder::new().name("relayscope-write".to_owned()).spawn(move || {
            let (_sign, _written) = (sign, written);
            writer.run();
        })?;
        let recording = Recording {
            plane: plane.clone(),
            history: Arc::clone(&history),
            recorder: Recorder::default(),
            peers: PeerStates::default(),
            alerts,
        };
        let sign = Sign { plane: plane.clone(), what: "records" };
        let thread = std::thread::Builder::new().name("relayscope-record".to_owned()).spawn(move || {
            let _sign = sign;
            recording.run(&stopped);
        });
        let recording = thread.inspect_err(|_| history.queue.close())?;
        Ok(Self { plane, history, stop: Some(stop), recording: Some(recording), writing })
    }

    /// Records no more, and lets what was recorded be written, with the event that this is the end. A disk that takes
    /// longer than 3 s for that is not waited for. What came since the last ten seconds ended is of no interval.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for HistoryThread {
    fn drop(&mut self) {
        self.stop = None;
        // Where it panicked, that was told when it did.
        self.recording.take().map(JoinHandle::join);
        let stopped = event_of_relay(EventKind::Stopped, "the relay stopped", Now::sample());
        self.history.push_events(&self.plane, vec![stopped]);
        self.history.queue.close();
        // Nothing is ever sent: the sender ends with its thread.
        let is_stuck = self.writing.recv_timeout(STOP_MAX) == Err(RecvTimeoutError::Timeout);
        let left = self.history.pending();
        if is_stuck || left > 0 {
            let why = if is_stuck { "the disk takes too long" } else { self.history.reason() };
            tracing::warn!("{left} intervals are not in the history: {why}");
        }
    }
}

/// Takes down the sign that history is kept when its thread ends, and tells of a panic at once.
struct Sign {
    plane: ControlPlane,
    what: &'static str,
}

impl Drop for Sign {
    fn drop(&mut self) {
        self.plane.own().set(&catalogue::HISTORY_UP, &[], 0.0);
        if std::thread::panicking() {
            tracing::error!("the thread that {} history panicked; none is kept before a restart", self.what);
        }
    }
}

impl History {
    fn push_events(&self, plane: &ControlPlane, events: Vec<Event>) {
        let dropped = self.queue.push_events(events);
        self.events_dropped(plane, self.reason(), dropped);
    }
}

struct Recording {
    plane: ControlPlane,
    history: Arc<History>,
    recorder: Recorder,
    peers: PeerStates,
    alerts: Option<AlertEvents>,
}

impl Recording {
    fn run(mut self, stopped: &Receiver<()>) {
        let started = event_of_relay(EventKind::Started, "the relay started", Now::sample());
        self.history.push_events(&self.plane, vec![started]);
        loop {
            self.look(Now::sample());
            let pause = self.recorder.due_in(Now::sample()).min(LOOK_INTERVAL);
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look(&mut self, now: Now) {
        let Self { plane, history, recorder, peers, alerts } = self;
        if recorder.due_in(now).is_zero() {
            let batches = plane.record_history(recorder, Now::sample);
            let dropped = history.queue.push(batches, now);
            history.dropped(plane, history.reason(), dropped);
            history.dropped(plane, GONE, usize::try_from(recorder.take_forgotten()).unwrap_or(usize::MAX));
            plane.own().add(&catalogue::HISTORY_LATE_READINGS, &[], recorder.take_late());
        }
        plane.look_at_peers(peers, now);
        let (mut events, too_many) = peers.take();
        history.events_dropped(plane, RATE, usize::try_from(too_many).unwrap_or(usize::MAX));
        let raised =
            alerts.iter().flat_map(|alerts| std::iter::from_fn(|| alerts.try_next()).take(EVENTS_MAX));
        events.extend(raised.map(|event| Event::of_alert(&event.alert, event.resolved_at)));
        history.push_events(plane, events);
        self.show(now);
    }

    fn show(&self, now: Now) {
        let depth = self.history.queue.depth(now);
        let is_up = self.history.lock().is_open && depth.oldest < WAIT_MAX;
        let own = self.plane.own();
        own.set(&catalogue::HISTORY_PENDING, &[], depth.intervals as f64);
        own.set(&catalogue::HISTORY_UP, &[], f64::from(u8::from(is_up)));
    }
}

fn event_of_relay(kind: EventKind, summary: &str, now: Now) -> Event {
    let (target, alertname, severity) = (None, None, None);
    Event {
        at_unix_ms: now.unix_ns / 1_000_000,
        kind,
        target,
        alertname,
        severity,
        summary: summary.to_owned(),
    }
}
