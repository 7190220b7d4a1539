//! What the control plane reads from: its own process's hub, or the segment of another process, which
//! comes, dies, is replaced, and may be damaged.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relayscope_bridge::segment::{Attachment, SegmentState};
use relayscope_bridge::{Collector, Heartbeat, SeriesDirectory, SeriesView, ShardId, attach};

use crate::clock::Now;
use crate::health::{Clocks, Health, Readiness, Status, Verdict};
use crate::roster::Roster;

/// Of what is read, and who of it lives: what was shown under another is true no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Where it lies.
    pub(crate) attached: usize,
    /// Whether every shard signs life.
    pub(crate) running: bool,
    /// Whether the segment is whole.
    pub(crate) sound: bool,
}

/// What can be read from now: a segment's series and clocks, or nothing, and why.
pub(crate) struct Attached {
    pub(crate) directory: SeriesDirectory,
    pub(crate) clocks: Clocks,
    heartbeats: Box<[(ShardId, Heartbeat)]>,
    /// None while there is no segment.
    attachment: Option<Attachment>,
    /// Why there is none.
    missing: Option<String>,
    roster: Mutex<Option<Arc<Roster>>>,
    /// By shard, what was last logged.
    said: Mutex<Vec<Verdict>>,
}

impl Attached {
    pub(crate) fn to(collector: &Collector, stale_after: Duration, now: Now) -> Self {
        let shards = collector.shards().count();
        // Signs of life of another boot are times of another clock.
        let this_boot = collector.attachment().info().this_boot;
        let heartbeats = collector.shards().filter(|_| this_boot);
        Self {
            directory: collector.directory().clone(),
            clocks: Clocks::new(shards, stale_after, now),
            heartbeats: heartbeats.map(|(shard, reader)| (shard, reader.heartbeat())).collect(),
            attachment: Some(collector.attachment().clone()),
            missing: None,
            roster: Mutex::default(),
            said: Mutex::new(vec![Verdict::Ok; shards]),
        }
    }

    pub(crate) fn nothing(why: String, stale_after: Duration, now: Now) -> Self {
        Self {
            directory: SeriesDirectory::empty(),
            clocks: Clocks::new(0, stale_after, now),
            heartbeats: Box::new([]),
            attachment: None,
            missing: Some(why),
            roster: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Why there is no segment.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Whether there is no segment for this very reason.
    pub(crate) fn is_missing(&self, why: &str) -> bool {
        self.missing.as_deref() == Some(why)
    }

    pub(crate) fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// Whether the configuration that was read last is in force, in the data plane and, where it has one of its
    /// own, as `own` says in the control plane. `None` where neither is known.
    pub(crate) fn is_reload_in_force(&self, own: Option<bool>) -> Option<bool> {
        let of_data_plane =
            self.attachment.as_ref().map(|attachment| attachment.last_reload_successful() != Some(false));
        of_data_plane.into_iter().chain(own).reduce(|one, other| one && other)
    }

    /// Reads the heartbeats and the segment's state afresh, whatever the drain is doing: a drain that
    /// hangs must not make a live shard look silent, nor a dead one live.
    pub(crate) fn look(&self) {
        for (shard, heartbeat) in &self.heartbeats {
            self.clocks.recorded(*shard, heartbeat.last_ns());
        }
        let Some(attachment) = &self.attachment else { return };
        let pid = attachment.info().pid;
        match attachment.state() {
            SegmentState::Running => {}
            SegmentState::Closed => self.clocks.end(format!("data plane process {pid} has ended")),
            SegmentState::Dead => self.clocks.end(format!("data plane process {pid} died")),
            SegmentState::Damaged => self.clocks.end("the data plane's segment is damaged".to_owned()),
        }
    }

    /// Whether what was read until now can be shown.
    pub(crate) fn is_sound(&self) -> bool {
        self.attachment.as_ref().is_none_or(|attachment| attachment.state() != SegmentState::Damaged)
    }

    /// Whether there is a segment whose maker lives.
    pub(crate) fn is_running(&self) -> bool {
        self.attachment.as_ref().is_some_and(|attachment| attachment.state() == SegmentState::Running)
    }

    /// Who lives of it, looked at now.
    pub(crate) fn standing(self: &Arc<Self>, now: Now) -> Standing {
        self.look();
        let attached = Arc::as_ptr(self).addr();
        Standing { attached, running: self.clocks.all_running(now), sound: self.is_sound() }
    }

    /// The targets that the data plane says it probes. O(1) while the directory stands still.
    pub(crate) fn roster(&self, series: &SeriesView<'_>) -> Arc<Roster> {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let current = roster.take().filter(|roster| !roster.is_outdated(series));
        Arc::clone(roster.insert(current.unwrap_or_else(|| Arc::new(Roster::read(series)))))
    }

    pub(crate) fn health(&self, now: Now) -> Health {
        let mut health = self.clocks.health(now);
        if self.missing.is_some() {
            health.status = Status::Failing;
            health.reason.clone_from(&self.missing);
        }
        health
    }

    /// Logs each shard whose verdict changed since the last time.
    pub(crate) fn log_changes(&self, now: Now) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, said) in self.clocks.health(now).shards.iter().zip(said.iter_mut()) {
            if shard.verdict == *said {
                continue;
            }
            *said = shard.verdict;
            match &shard.reason {
                Some(reason) => tracing::warn!("{reason}"),
                None => tracing::info!("shard {}: is well again", shard.shard),
            }
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match &self.missing {
            Some(why) => Readiness { ready: false, reason: Some(why.clone()) },
            None => self.clocks.readiness(),
        }
    }
}

/// Another process's segment, by its name.
pub(crate) struct Watch {
    path: PathBuf,
    /// What was last said to be wrong, to say it once.
    said: Option<String>,
}

impl Watch {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, said: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The segment that has the name now.
    ///
    /// # Errors
    /// Why there is none to read. Logged when it changes.
    pub(crate) fn attach(&mut self) -> Result<Collector, String> {
        match attach(&self.path) {
            Ok(collector) => {
                let info = collector.attachment().info();
                tracing::info!(
                    segment = %self.path.display(),
                    generation = info.generation,
                    pid = info.pid,
                    shards = info.shards,
                    "attached"
                );
                self.said = None;
                Ok(collector)
            }
            Err(error) => {
                let why = error.to_string();
                if self.said.as_ref() != Some(&why) {
                    tracing::warn!("no data plane to read from: {why}");
                    self.said = Some(why.clone());
                }
                Err(why)
            }
        }
    }
}
