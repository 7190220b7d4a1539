//! The database as its users see it: what was appended is what is read, whatever happens between.

mod opening;
mod oracle;
mod reading;
mod retention;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Now;

/// A whole number of hours.
const T0: u64 = 1_796_000_400;
const HOUR: u64 = 3600;

fn at(unix_seconds: u64) -> Now {
    Now { monotonic_ns: 0, unix_ns: unix_seconds * 1_000_000_000 }
}

struct House {
    _directory: TempDir,
    path: PathBuf,
}

impl House {
    fn new() -> Self {
        // Where there is one, a file system in memory: what is flushed to a device is not asked here.
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let path = directory.path().join("state/history.db");
        Self { _directory: directory, path }
    }

    fn open(&self) -> Store {
        self.open_with(Retention::default())
    }

    fn open_with(&self, retention: Retention) -> Store {
        Store::open(&self.path, retention, at(T0)).unwrap()
    }

    fn reader(&self) -> Reader {
        Store::reader(&self.path).unwrap()
    }

    fn count(&self, sql: &str) -> i64 {
        rusqlite::Connection::open(&self.path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn target(name: &str) -> TargetKey {
    TargetKey { name: name.into(), family: "ipv4".into() }
}

fn lost(count: u64) -> Interval {
    Interval { lost: count, ..Interval::default() }
}

/// Ten answers, around a time that is exact on the scale.
fn answered(median_ns: u64) -> Interval {
    let quantiles_ns = [median_ns; 6];
    let rtt =
        RttSummary { count: 10, sum_ns: 10 * median_ns, min_ns: median_ns, max_ns: median_ns, quantiles_ns };
    Interval { answered: 10, rtt: Some(rtt), jitter_ns: Some(3), ..Interval::default() }
}

fn append(store: &mut Store, tier: Tier, start: u64, intervals: &[(&TargetKey, Interval)]) {
    let appended = store.append(tier, start, intervals).unwrap();
    assert_eq!((appended.written, appended.refused), (intervals.len(), 0));
}

/// Until nothing is left to do.
fn tidy(store: &mut Store, unix_seconds: u64) -> Tidied {
    let mut total = Tidied::default();
    for _ in 0..10_000 {
        let done = store.tidy(at(unix_seconds)).unwrap();
        total.chunks_folded += done.chunks_folded;
        total.dropped_by_time += done.dropped_by_time;
        total.dropped_by_size += done.dropped_by_size;
        total.events_dropped += done.events_dropped;
        total.targets_forgotten += done.targets_forgotten;
        total.pages_freed += done.pages_freed;
        total.damaged += done.damaged;
        if !done.is_more {
            return total;
        }
    }
    panic!("tidying does not end: {total:?}");
}

fn read(reader: &Reader, name: &str, tier: Tier) -> Vec<(u64, Interval)> {
    reader.intervals(&target(name), tier, 0..u64::MAX, Duration::from_secs(10)).unwrap()
}

fn event(at_unix_ms: u64, name: Option<&str>, summary: &str) -> Event {
    let kind = EventKind::PeerDown;
    Event {
        at_unix_ms,
        kind,
        target: name.map(str::to_owned),
        alertname: None,
        severity: None,
        summary: summary.into(),
    }
}
