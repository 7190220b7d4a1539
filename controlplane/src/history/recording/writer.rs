//! From the queue into the database, on a thread that may wait for the disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::catalogue;
use relayscope_sqlite_status::cache_use;

use super::super::error::{OpenError, StoreError, StoreErrorKind};
use super::super::event::Event;
use super::super::file;
use super::super::interval::{Interval, TargetKey};
use super::super::store::Store;
use super::queue::{Next, Queued};
use super::thread::{History, TARGETS_MAX};
use crate::ControlPlane;
use crate::clock::Now;

/// How long it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pauses {
    /// After a write that failed.
    pub(super) retry: Duration,
    /// After the database could not be opened.
    pub(super) reopen: Duration,
    /// From one look at retention to the next, while nothing is to be written.
    pub(super) tidy: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(10),
            reopen: Duration::from_secs(60),
            tidy: Duration::from_secs(60),
        }
    }
}

pub(super) struct Writer {
    plane: ControlPlane,
    history: Arc<History>,
    pauses: Pauses,
    /// What was said last of opening, writing and tidying, as far as it stands.
    not_opened: Option<&'static str>,
    not_written: Option<&'static str>,
    not_tidied: Option<&'static str>,
    /// When there was nothing left to tidy.
    tidied: Option<Now>,
}

/// What becomes of the database after something failed.
enum Failed {
    /// It can be used on, after a rest.
    Rest,
    /// It is to be opened anew, after a rest.
    RestAndReopen,
    /// It is to be opened anew.
    Reopen,
    /// It is to be moved out of the way.
    SetAside,
}

impl Writer {
    pub(super) fn new(plane: ControlPlane, history: Arc<History>, pauses: Pauses) -> Self {
        Self { plane, history, pauses, not_opened: None, not_written: None, not_tidied: None, tidied: None }
    }

    /// Until the queue is closed and all of it is written, or cannot be.
    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.history);
        let queue = queue.queue();
        let mut kept: Option<Store> = None;
        loop {
            let Some(mut store) = kept.take().or_else(|| self.open()) else {
                if queue.rest(self.pauses.reopen) {
                    return;
                }
                continue;
            };
            let worked = match queue.take(Now::sample()) {
                Some(next) => self.write(&mut store, next),
                None if queue.is_closed() => return,
                None => self.tidy(&mut store),
            };
            let rests = matches!(worked, Err(Failed::Rest | Failed::RestAndReopen | Failed::SetAside));
            match worked {
                Ok(()) | Err(Failed::Rest) => kept = Some(store),
                Err(Failed::Reopen | Failed::RestAndReopen) => drop(store),
                Err(Failed::SetAside) => {
                    drop(store);
                    self.set_aside();
                }
            }
            if rests && queue.rest(self.pauses.retry) {
                return;
            }
        }
    }

    fn set_aside(&self) {
        let path = &self.history.config().path;
        match Store::move_damaged(path, Now::sample()) {
            Ok(aside) => say_set_aside(path, &aside),
            Err(error) => tracing::warn!("the damaged history could not be moved out of the way: {error}"),
        }
    }

    fn open(&mut self) -> Option<Store> {
        let config = self.history.config();
        match Store::open(&config.path, config.retention, Now::sample()) {
            Ok(store) => {
                if self.not_opened.take().is_some() {
                    tracing::info!("history is kept again in {}", config.path.display());
                }
                if let Some(aside) = store.set_aside() {
                    say_set_aside(&config.path, aside);
                }
                self.history.note(|status| (status.is_open, status.failure) = (true, None));
                self.plane.own().set(&catalogue::HISTORY_UP, &[], 1.0);
                Some(store)
            }
            Err(error) => {
                let reason = error.reason();
                self.plane.own().add(&catalogue::HISTORY_ERRORS, &[reason], 1);
                let text = error.to_string();
                if self.not_opened.replace(reason) != Some(reason) {
                    tracing::warn!(
                        "history is not kept, which is tried again every {:?}: {text}",
                        self.pauses.reopen
                    );
                }
                self.history.note(|status| {
                    status.errors += 1;
                    (status.is_open, status.failure) = (false, Some((reason, text)));
                });
                if matches!(error, OpenError::Locked { .. }) {
                    // Of this time it has the intervals of another relay: ours would go over them.
                    let dropped = self.history.queue().drop_intervals();
                    self.history.dropped(&self.plane, reason, dropped);
                }
                None
            }
        }
    }

    fn write(&mut self, store: &mut Store, next: Next) -> Result<(), Failed> {
        let began = Now::sample();
        let written = match &next {
            Next::Batch(queued) => self.write_batch(store, queued, began),
            Next::Events(events) => self.write_events(store, events),
        };
        match written {
            Ok(()) => {
                self.history.queue().written();
                if self.not_written.take().is_some() {
                    let dropped = self.history.status().intervals_dropped;
                    tracing::info!("history is written again; {dropped} intervals were dropped so far");
                }
                let now = Now::sample();
                self.plane.own().observe(&catalogue::HISTORY_WRITE_DURATION, now.since(began.monotonic_ns));
                self.plane.own().set(&catalogue::HISTORY_LAST_WRITE, &[], now.unix_seconds());
                self.history.note(|status| {
                    status.failure = None;
                    status.last_write_unix_seconds = Some(now.unix_seconds());
                });
                self.show_size(store);
                Ok(())
            }
            Err(error) => {
                let reason = error.reason();
                if self.not_written.replace(reason) != Some(reason) {
                    tracing::warn!(
                        "history is not written, which is tried again every {:?}; what is recorded waits: {error}",
                        self.pauses.retry
                    );
                }
                let failed = self.note_failure(&error);
                let (intervals, events) = self.history.queue().give_back(next);
                self.history.dropped(&self.plane, reason, intervals);
                self.history.events_dropped(&self.plane, reason, events);
                Err(failed)
            }
        }
    }

    fn write_batch(&self, store: &mut Store, queued: &Queued, began: Now) -> Result<(), StoreError> {
        let Queued { batch, at, was_held_up } = queued;
        let intervals: Vec<(&TargetKey, Interval)> =
            batch.intervals.iter().map(|(key, interval)| (&**key, *interval)).collect();
        let appended = store.append(batch.tier, batch.start_unix_seconds, &intervals)?;
        let took = Now::sample().since(began.monotonic_ns);
        self.plane.note_history_write(*was_held_up, began.since(at.monotonic_ns), took);
        let own = self.plane.own();
        own.add(&catalogue::HISTORY_WRITTEN, &[batch.tier.as_str()], appended.written as u64);
        self.history.dropped(&self.plane, TARGETS_MAX, appended.refused);
        self.history.note(|status| status.intervals_written += appended.written as u64);
        Ok(())
    }

    fn write_events(&self, store: &mut Store, events: &[Event]) -> Result<(), StoreError> {
        store.append_events(events)?;
        for event in events {
            self.plane.own().add(&catalogue::HISTORY_EVENTS, &[event.kind.as_str()], 1);
        }
        self.history.note(|status| status.events_written += events.len() as u64);
        Ok(())
    }

    /// A portion of what there is to tidy, or a rest until there is something to write.
    fn tidy(&mut self, store: &mut Store) -> Result<(), Failed> {
        let now = Now::sample();
        let since = self.tidied.map(|tidied| now.since(tidied.monotonic_ns));
        if let Some(rest) =
            since.and_then(|since| self.pauses.tidy.checked_sub(since)).filter(|rest| !rest.is_zero())
        {
            self.history.queue().wait_for_work(rest);
            return Ok(());
        }
        match store.tidy(now) {
            Ok(tidied) => {
                if self.not_tidied.take().is_some() {
                    tracing::info!("history is tidied again");
                }
                if tidied.damaged > 0 {
                    tracing::warn!("{} damaged pieces of history were dropped", tidied.damaged);
                }
                self.tidied = (!tidied.is_more).then_some(now);
                self.show_size(store);
                Ok(())
            }
            Err(error) => {
                let reason = error.reason();
                if self.not_tidied.replace(reason) != Some(reason) {
                    tracing::warn!(
                        "history is not tidied, which is tried again every {:?}; it may take more room than it is to: {error}",
                        self.pauses.tidy
                    );
                }
                self.tidied = Some(now);
                match self.note_failure(&error) {
                    // Writing goes on meanwhile.
                    Failed::Rest => Ok(()),
                    failed => Err(failed),
                }
            }
        }
    }

    /// Counts it, and sees to what is to be done before the database is opened anew.
    fn note_failure(&self, error: &StoreError) -> Failed {
        let reason = error.reason();
        self.plane.own().add(&catalogue::HISTORY_ERRORS, &[reason], 1);
        let text = error.to_string();
        self.history.note(|status| {
            status.errors += 1;
            status.failure = Some((reason, text));
        });
        match error.kind() {
            StoreErrorKind::Moved => Failed::Reopen,
            StoreErrorKind::Io => Failed::RestAndReopen,
            StoreErrorKind::Damaged => Failed::SetAside,
            _ => Failed::Rest,
        }
    }

    /// Of the database and its log, as far as they are there.
    fn show_size(&self, store: &Store) {
        let cache = cache_use(&store.connection);
        self.history.note(|status| status.cache = cache);
        let path = &self.history.config().path;
        let Ok(of_file) = std::fs::metadata(path) else { return };
        let bytes = of_file.len() + file::log_bytes(path);
        self.plane.own().set(&catalogue::HISTORY_BYTES, &[], bytes as f64);
    }
}

fn say_set_aside(path: &Path, aside: &Path) {
    tracing::warn!(
        "the history in {} was damaged; it is kept as {} and a new one is begun",
        path.display(),
        aside.display()
    );
}

#[cfg(test)]
mod tests;
