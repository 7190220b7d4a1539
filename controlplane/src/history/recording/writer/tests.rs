use std::path::PathBuf;
use std::thread::JoinHandle;

use relayscope_bridge::{Hub, HubConfig, hub};
use tempfile::TempDir;

use super::super::super::event::EventKind;
use super::super::super::retention::Retention;
use super::super::super::tier::Tier;
use super::super::super::{HistoryConfig, HistoryQuery, Reader};
use super::super::queue::INTERVALS_MAX;
use super::super::recorder::Batch;
use super::*;
use crate::ControlPlaneConfig;

const PAUSE: Duration = Duration::from_millis(20);
const START: u64 = 1_796_000_000;

/// A writer on a thread of its own, and a directory for its database.
struct Bed {
    directory: TempDir,
    plane: ControlPlane,
    history: Arc<History>,
    thread: Option<JoinHandle<()>>,
}

impl Bed {
    /// The database is at `path` in the directory, where it can be; `prepare` sees the directory before that.
    fn start(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        let (path, retention) = (directory.path().join(path), Retention::default());
        let history = History::new(HistoryConfig { path, retention });
        let pauses = Pauses { retry: PAUSE, reopen: PAUSE, tidy: PAUSE };
        let writer = Writer::new(plane.clone(), Arc::clone(&history), pauses);
        let thread = Some(std::thread::spawn(move || writer.run()));
        Self { directory, plane, history, thread }
    }

    fn path(&self) -> PathBuf {
        self.history.config().path.clone()
    }

    /// One interval of `b`, with as many answers as its number.
    fn push(&self, number: u64) {
        self.push_many(number, 1);
    }

    fn push_many(&self, number: u64, targets: usize) {
        let interval = Interval { answered: number, ..Interval::default() };
        let key = |n: usize| {
            let name = if n == 0 { "b".to_owned() } else { format!("b{n}") };
            Arc::new(TargetKey { name, family: "ipv4".to_owned() })
        };
        let intervals = (0..targets).map(|n| (key(n), interval)).collect();
        let batch = Batch { tier: Tier::TenSeconds, start_unix_seconds: START + 10 * number, intervals };
        let dropped = self.history.queue().push(vec![batch], Now::sample());
        self.history.dropped(&self.plane, "slow", dropped);
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Now::sample();
        while !is_so() {
            assert!(Now::sample().since(began.monotonic_ns) < Duration::from_secs(30), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn count(&self, series: &str) -> u64 {
        let text = self.plane.own().render();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("relay_history_{series} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    fn wait_count(&self, series: &str, least: u64) {
        self.wait(series, || self.count(series) >= least);
    }

    /// Answers of `b`, by number; to its end.
    fn end(mut self, numbers: u64) -> Vec<Option<u64>> {
        self.history.queue().close();
        self.thread.take().unwrap().join().unwrap();
        let key = TargetKey { name: "b".to_owned(), family: "ipv4".to_owned() };
        let query = HistoryQuery::new(key, START, START + 10 * numbers);
        let points = Reader::open(&self.path()).unwrap().history(&query).unwrap();
        points.intervals.iter().map(|interval| interval.map(|interval| interval.answered)).collect()
    }
}

#[test]
fn what_waited_for_the_database_to_open_is_written_in_order() {
    let bed = Bed::start("file/history.db", |directory| std::fs::write(directory.join("file"), "").unwrap());
    bed.push(1);
    bed.push(2);
    bed.wait("an error", || bed.history.status().errors >= 2);
    let status = bed.history.status();
    assert!(!status.is_open && status.failure.is_some(), "{status:?}");
    assert_eq!(bed.history.pending(), 2);
    std::fs::remove_file(bed.directory.path().join("file")).unwrap();
    bed.wait_count("written_intervals_total{tier=\"10s\"}", 2);
    let status = bed.history.status();
    assert!(
        status.is_open && status.failure.is_none() && status.last_write_unix_seconds.is_some(),
        "{status:?}"
    );
    assert_eq!(bed.end(3), [None, Some(1), Some(2)]);
}

#[test]
fn while_another_holds_the_database_writes_wait_and_are_counted_as_busy() {
    let bed = Bed::start("history.db", |_| {});
    bed.push(1);
    bed.wait_count("written_intervals_total{tier=\"10s\"}", 1);
    let other = rusqlite::Connection::open(bed.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    bed.push(2);
    bed.wait_count("errors_total{reason=\"busy\"}", 1);
    assert_eq!((bed.history.pending(), bed.history.status().intervals_dropped), (1, 0));
    other.execute_batch("ROLLBACK").unwrap();
    bed.wait_count("written_intervals_total{tier=\"10s\"}", 2);
    assert_eq!(bed.end(3), [None, Some(1), Some(2)]);
}

#[test]
fn of_what_waits_too_much_the_oldest_is_dropped_and_the_rest_is_written() {
    let bed = Bed::start("file/history.db", |directory| std::fs::write(directory.join("file"), "").unwrap());
    let third = INTERVALS_MAX / 3;
    for number in 1..=4 {
        bed.push_many(number, third);
    }
    bed.wait_count("dropped_intervals_total{reason=\"slow\"}", third as u64);
    std::fs::remove_file(bed.directory.path().join("file")).unwrap();
    bed.wait("all to be written", || bed.history.pending() == 0);
    assert_eq!(bed.count("dropped_intervals_total{reason=\"slow\"}"), third as u64);
    assert_eq!(bed.end(5), [None, None, Some(2), Some(3), Some(4)]);
}

#[test]
fn a_database_that_was_taken_away_is_begun_anew_with_what_was_in_hand() {
    let bed = Bed::start("history.db", |_| {});
    bed.push(1);
    bed.wait_count("written_intervals_total{tier=\"10s\"}", 1);
    let away = bed.directory.path().join("away");
    std::fs::create_dir(&away).unwrap();
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        // The log may not be there.
        std::fs::rename(bed.directory.path().join(name), away.join(name)).ok();
    }
    bed.push(2);
    bed.wait_count("written_intervals_total{tier=\"10s\"}", 2);
    assert_eq!(bed.count("errors_total{reason=\"moved\"}"), 1);
    assert_eq!(bed.end(3), [None, None, Some(2)]);
}

#[test]
fn events_are_written_and_what_is_left_when_it_ends() {
    let bed = Bed::start("history.db", |_| {});
    let event = |kind, at_unix_ms| Event {
        at_unix_ms,
        kind,
        target: None,
        alertname: None,
        severity: None,
        summary: "as it was".to_owned(),
    };
    let all = [event(EventKind::Started, 1000), event(EventKind::Stopped, 2000)];
    assert_eq!(bed.history.queue().push_events(all.to_vec()), 0);
    assert_eq!(bed.count("written_events_total{kind=\"peer_up\"}"), 0);
    // All of it before it ends; the directory goes with the bed.
    let path = bed.path();
    let Bed { directory, history, thread, plane } = bed;
    history.queue().close();
    thread.unwrap().join().unwrap();
    let happened = Reader::open(&path).unwrap().events(0..u64::MAX, None, 10).unwrap();
    assert_eq!((happened.events, happened.left_off), (all.to_vec(), 0));
    assert!(plane.own().render().contains("relay_history_written_events_total{kind=\"started\"} 1\n"));
    drop(directory);
}
