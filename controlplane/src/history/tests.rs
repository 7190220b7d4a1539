//! The database as its users see it: what was appended is what is read, whatever happens between.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::schema::MIGRATIONS;
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
        let directory = tempfile::tempdir().unwrap();
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

#[test]
fn what_was_appended_is_read_back_before_and_after_its_hour_is_folded() {
    let house = House::new();
    let mut store = house.open();
    let (a, b) = (target("a"), target("b"));
    let mut expected = Vec::new();
    for slot in 0..400 {
        let (start, interval) = (T0 + slot * 10, answered(500 + slot));
        append(&mut store, Tier::TenSeconds, start, &[(&a, interval), (&b, lost(slot))]);
        expected.push((start, interval));
    }
    let reader = house.reader();
    assert_eq!(read(&reader, "a", Tier::TenSeconds), expected);

    let done = tidy(&mut store, T0 + HOUR + 200);
    assert_eq!(done.chunks_folded, 2);
    assert_eq!(
        (house.count("SELECT count(*) FROM chunk"), house.count("SELECT count(*) FROM head")),
        (2, 40)
    );
    assert_eq!(read(&reader, "a", Tier::TenSeconds), expected);
    assert_eq!(read(&reader, "b", Tier::TenSeconds)[399], (T0 + 3990, lost(399)));
    assert_eq!(read(&reader, "a", Tier::Minute), []);
    assert_eq!(reader.targets().unwrap(), [a, b]);
}

#[test]
fn an_hour_is_not_folded_before_it_is_over_and_some() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::TenMinutes, T0, &[(&target("a"), lost(1))]);
    assert_eq!(tidy(&mut store, T0 + HOUR + 600 + 119).chunks_folded, 0);
    assert_eq!(tidy(&mut store, T0 + HOUR + 600 + 120).chunks_folded, 1);
}

#[test]
fn an_interval_that_comes_again_replaces_the_first_in_the_head_and_in_a_chunk() {
    let house = House::new();
    let mut store = house.open();
    let (a, b) = (target("a"), target("b"));
    append(&mut store, Tier::Minute, T0, &[(&a, lost(1)), (&b, lost(2))]);
    append(&mut store, Tier::Minute, T0, &[(&a, lost(3))]);
    let reader = house.reader();
    assert_eq!(read(&reader, "a", Tier::Minute), [(T0, lost(3))]);
    assert_eq!(read(&reader, "b", Tier::Minute), [(T0, lost(2))]);

    tidy(&mut store, T0 + 2 * HOUR);
    append(&mut store, Tier::Minute, T0, &[(&a, lost(4))]);
    append(&mut store, Tier::Minute, T0 + 60, &[(&a, lost(5))]);
    assert_eq!(read(&reader, "a", Tier::Minute), [(T0, lost(4)), (T0 + 60, lost(5))]);
    assert_eq!(tidy(&mut store, T0 + 2 * HOUR).chunks_folded, 1);
    assert_eq!(read(&reader, "a", Tier::Minute), [(T0, lost(4)), (T0 + 60, lost(5))]);
    assert_eq!(read(&reader, "b", Tier::Minute), [(T0, lost(2))]);
    assert_eq!(house.count("SELECT sum(intervals) FROM hour"), 3);
    assert_eq!(house.count("SELECT count(*) FROM head"), 0);
}

#[test]
fn what_comes_late_while_its_hour_is_folded_is_in_the_chunk() {
    let house = House::new();
    let mut store = house.open();
    let names: Vec<_> = (0..130).map(|n| target(&format!("t{n:03}"))).collect();
    let all = |count| names.iter().map(move |name| (name, lost(count))).collect::<Vec<_>>();
    append(&mut store, Tier::Minute, T0, &all(1));
    // Three blocks: the first, from target 1 on, is folded, then something comes for all of them.
    assert_eq!(store.tidy(at(T0 + 2 * HOUR)).unwrap().chunks_folded, 63);
    append(&mut store, Tier::Minute, T0 + 60, &all(2));
    let reader = house.reader();
    assert_eq!(read(&reader, "t000", Tier::Minute), [(T0, lost(1)), (T0 + 60, lost(2))]);
    tidy(&mut store, T0 + 2 * HOUR);
    assert_eq!(house.count("SELECT count(*) FROM head"), 0);
    for name in ["t000", "t063", "t064", "t129"] {
        assert_eq!(read(&reader, name, Tier::Minute), [(T0, lost(1)), (T0 + 60, lost(2))], "{name}");
    }
}

#[test]
fn a_store_dropped_while_it_folds_goes_on_where_it_was() {
    let house = House::new();
    let names: Vec<_> = (0..130).map(|n| target(&format!("t{n:03}"))).collect();
    let mut store = house.open();
    for minute in 0..60 {
        let all: Vec<_> = names.iter().map(|name| (name, lost(minute))).collect();
        append(&mut store, Tier::Minute, T0 + minute * 60, &all);
    }
    let expected: Vec<_> = (0..60).map(|minute| (T0 + minute * 60, lost(minute))).collect();
    // A portion each time it is opened: three blocks are never done in one life, so this ends only by clearing none twice.
    for portions in 0..6 {
        drop(store);
        store = house.open();
        for _ in 0..portions {
            store.tidy(at(T0 + 2 * HOUR)).unwrap();
        }
        for name in ["t000", "t063", "t129"] {
            assert_eq!(read(&house.reader(), name, Tier::Minute), expected, "{portions} portions");
        }
    }
    assert_eq!(house.count("SELECT count(*) FROM head"), 0);
    assert_eq!(house.count("SELECT sum(intervals) FROM hour"), 60 * 130);
}

#[test]
fn a_start_within_an_interval_is_refused() {
    let house = House::new();
    let error = house.open().append(Tier::Minute, T0 + 1, &[]).unwrap_err();
    assert_eq!(error.reason(), "other");
    let said = error.to_string();
    assert!(
        said.ends_with("an interval begins at 1796000401; expected a multiple of 60 below 68719476736"),
        "{said}"
    );
}

#[test]
fn points_are_made_of_the_coarsest_tier_and_the_newest_of_a_finer_one() {
    let house = House::new();
    let mut store = house.open();
    let a = target("a");
    for slot in 0..12 {
        append(&mut store, Tier::TenSeconds, T0 + slot * 10, &[(&a, answered(100 + slot))]);
    }
    append(&mut store, Tier::Minute, T0, &[(&a, answered(700))]);
    let query = HistoryQuery { step_seconds: Some(60), ..HistoryQuery::new(a, T0, T0 + 180) };
    let points = house.reader().history(&query).unwrap();
    assert_eq!(
        (points.from, points.step_seconds, points.tiers.as_slice()),
        (T0, 60, [Tier::TenSeconds, Tier::Minute].as_slice())
    );
    assert_eq!(points.starts().collect::<Vec<_>>(), [T0, T0 + 60, T0 + 120]);
    assert_eq!(points.intervals[0], Some(answered(700)));
    let second = points.intervals[1].unwrap();
    assert_eq!((second.answered, second.rtt.unwrap().min_ns, second.rtt.unwrap().max_ns), (60, 106, 111));
    assert_eq!(points.intervals[2], None);
}

#[test]
fn old_stretches_come_of_the_tier_that_still_has_them() {
    let house = House::new();
    let mut store = house.open();
    let a = target("a");
    for hour in 0..60 {
        for tier in [Tier::TenMinutes, Tier::Minute, Tier::TenSeconds] {
            append(&mut store, tier, T0 + hour * HOUR, &[(&a, answered(tier.seconds()))]);
        }
    }
    let now = T0 + 60 * HOUR;
    assert_eq!(tidy(&mut store, now).dropped_by_time, 12);
    let reader = house.reader();
    let first = |from, step| {
        let query =
            HistoryQuery { step_seconds: Some(step), ..HistoryQuery::new(target("a"), from, from + HOUR) };
        let points = reader.history(&query).unwrap();
        (points.step_seconds, points.tiers, points.intervals[0].unwrap().rtt.unwrap().min_ns)
    };
    assert_eq!(first(T0 + 50 * HOUR, 10), (10, vec![Tier::TenSeconds], 10));
    assert_eq!(first(T0 + 5 * HOUR, 10), (60, vec![Tier::Minute], 60));
    assert_eq!(first(T0 + 50 * HOUR, HOUR), (HOUR, vec![Tier::TenMinutes], 600));
    assert_eq!(read(&reader, "a", Tier::TenSeconds).len(), 48);
}

#[test]
fn who_is_unknown_and_what_takes_too_long_is_told_apart() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    let reader = house.reader();
    let unknown = reader.history(&HistoryQuery::new(target("z"), T0, T0 + 60)).unwrap_err();
    assert_eq!(unknown.to_string(), "no history of target \"z\" by ipv4");
    let hurried = HistoryQuery { time_max: Duration::ZERO, ..HistoryQuery::new(target("a"), T0, T0 + 60) };
    match reader.history(&hurried).unwrap_err() {
        QueryError::Store(error) => assert_eq!(error.kind(), StoreErrorKind::TooLong),
        error => panic!("{error}"),
    }
    // The reader is none the worse.
    assert_eq!(
        reader.history(&HistoryQuery::new(target("a"), T0, T0 + 60)).unwrap().intervals[0],
        Some(lost(1))
    );
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

#[test]
fn events_come_newest_last_and_what_does_not_fit_is_counted() {
    let house = House::new();
    let mut store = house.open();
    let all = [event(2_000, Some("a"), "two"), event(1_000, None, "one"), event(3_000, Some("b"), "three")];
    store.append_events(&all).unwrap();
    let reader = house.reader();
    let [two, one, three] = all;
    let happened = |range, target, limit| reader.events(range, target, limit).unwrap();
    assert_eq!(
        happened(0..u64::MAX, None, 10),
        Happened { events: vec![one.clone(), two.clone(), three.clone()], left_off: 0 }
    );
    assert_eq!(
        happened(0..u64::MAX, None, 2),
        Happened { events: vec![two.clone(), three.clone()], left_off: 1 }
    );
    assert_eq!(happened(1_000..3_000, None, 10).events, [one, two.clone()]);
    assert_eq!(happened(0..u64::MAX, Some("a"), 10).events, [two]);

    store.append_events(&[event(4_000, None, &"ü".repeat(600))]).unwrap();
    assert_eq!(reader.events(4_000..5_000, None, 1).unwrap().events[0].summary, "ü".repeat(512));
}

#[test]
fn old_events_are_dropped_and_so_are_the_oldest_of_too_many() {
    let house = House::new();
    let mut store = house.open_with(Retention { events: Duration::from_secs(100), ..Retention::default() });
    let old = (T0 - 101) * 1000;
    store.append_events(&[event(old, None, "old"), event(T0 * 1000, None, "new")]).unwrap();
    assert_eq!(tidy(&mut store, T0).events_dropped, 1);
    assert_eq!(house.count("SELECT count(*) FROM event"), 1);

    let many: Vec<_> = (0..EVENTS_MAX).map(|n| event(T0 * 1000 + 1 + n, None, "x")).collect();
    store.append_events(&many).unwrap();
    assert_eq!(tidy(&mut store, T0).events_dropped, 1);
    assert_eq!(house.reader().events(0..u64::MAX, None, 1).unwrap().left_off, EVENTS_MAX - 1);
    assert_eq!(house.count("SELECT count(*) FROM event WHERE summary = 'new'"), 0);
}

#[test]
fn targets_of_which_nothing_is_left_are_forgotten_and_others_are_not() {
    let house = House::new();
    let day = Duration::from_secs(24 * HOUR);
    let mut store = house.open_with(Retention { tiers: [day; 3], ..Retention::default() });
    append(&mut store, Tier::Minute, T0, &[(&target("gone"), lost(1)), (&target("here"), lost(1))]);
    tidy(&mut store, T0 + 2 * HOUR);
    // In the head alone, and in the head of a store that was opened anew.
    append(
        &mut store,
        Tier::Minute,
        T0 + 24 * HOUR,
        &[(&target("here"), lost(1)), (&target("new"), lost(1))],
    );
    drop(store);
    let mut store = house.open_with(Retention { tiers: [day; 3], ..Retention::default() });
    let done = tidy(&mut store, T0 + 25 * HOUR);
    assert_eq!((done.dropped_by_time, done.targets_forgotten), (2, 1));
    assert_eq!(house.reader().targets().unwrap(), [target("here"), target("new")]);
    // Who was forgotten is welcome again.
    append(&mut store, Tier::Minute, T0 + 24 * HOUR, &[(&target("gone"), lost(2))]);
    assert_eq!(read(&house.reader(), "gone", Tier::Minute), [(T0 + 24 * HOUR, lost(2))]);
    assert_eq!(read(&house.reader(), "here", Tier::Minute), [(T0 + 24 * HOUR, lost(1))]);
}

#[test]
fn the_files_are_their_owners_alone() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(house.path.parent().unwrap()), 0o700);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&file::beside(&house.path, suffix)), 0o600, "{suffix}");
    }
}

#[test]
fn a_second_writer_is_told_who_has_it() {
    let house = House::new();
    let store = house.open();
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "locked");
    let path = house.path.display();
    assert_eq!(error.to_string(), format!("{path} is written by another process: it holds {path}.lock"));
    drop(store);
    house.open();
}

#[test]
fn a_reader_of_nothing_makes_nothing() {
    let house = House::new();
    assert_eq!(Store::reader(&house.path).unwrap_err().reason(), "missing");
    assert!(!house.path.exists());
}

#[test]
fn a_file_that_is_no_database_is_set_aside_with_what_lies_beside_it() {
    let house = House::new();
    drop(house.open());
    fs::write(&house.path, "not a database at all, but long enough to have a header of one: ".repeat(40))
        .unwrap();
    fs::write(file::beside(&house.path, "-wal"), "a log").unwrap();
    let mut store = house.open();
    let aside = PathBuf::from(format!("{}.damaged-{T0}", house.path.display()));
    assert_eq!(store.set_aside(), Some(aside.as_path()));
    assert!(fs::read_to_string(&aside).unwrap().starts_with("not a database"));
    assert_eq!(fs::read_to_string(file::beside(&aside, "-wal")).unwrap(), "a log");
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    drop(store);
    assert_eq!(house.open().set_aside(), None);
    assert_eq!(read(&house.reader(), "a", Tier::Minute), [(T0, lost(1))]);
}

#[test]
fn a_malformed_database_is_set_aside() {
    let house = House::new();
    let mut store = house.open();
    let names: Vec<_> = (0..200).map(|n| target(&format!("t{n}"))).collect();
    for minute in 0..60 {
        let all: Vec<_> = names.iter().map(|name| (name, lost(minute))).collect();
        append(&mut store, Tier::Minute, T0 + minute * 60, &all);
    }
    drop(store);
    let mut bytes = fs::read(&house.path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0x5A);
    fs::write(&house.path, &bytes).unwrap();
    let store = house.open();
    let aside = store.set_aside().expect("damage is found").to_owned();
    assert_eq!(fs::read(&aside).unwrap(), bytes);
    drop(store);
    // A second one within the same second does not go over the first.
    fs::write(&house.path, "again").unwrap();
    let again = house.open().set_aside().unwrap().to_owned();
    assert_eq!((again == aside, fs::read_to_string(again).unwrap()), (false, "again".to_owned()));
}

#[test]
fn a_database_of_another_application_is_left_alone() {
    let house = House::new();
    drop(house.open());
    fs::remove_file(&house.path).unwrap();
    rusqlite::Connection::open(&house.path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&house.path).unwrap();
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "foreign");
    assert_eq!(fs::read(&house.path).unwrap(), before);
}

#[test]
fn a_file_that_was_moved_away_is_noticed() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    fs::rename(&house.path, house.path.with_extension("old")).unwrap();
    assert_eq!(store.append(Tier::Minute, T0, &[(&target("a"), lost(1))]).unwrap_err().reason(), "moved");
    assert_eq!(store.append_events(&[]).unwrap_err().reason(), "moved");
    assert_eq!(store.tidy(at(T0)).unwrap_err().reason(), "moved");
}

/// What a later version might do.
const NEXT: &str =
    "ALTER TABLE target ADD COLUMN colour TEXT NOT NULL DEFAULT 'none'; UPDATE target SET colour = name;";

#[test]
fn an_older_database_is_brought_up_to_date_with_all_it_has() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), answered(700))]);
    drop(store);
    let next = [MIGRATIONS, &[NEXT]].concat();
    let store = Store::open_with(&house.path, Retention::default(), at(T0), &next).unwrap();
    assert_eq!(house.count("SELECT count(*) FROM target WHERE colour = 'a'"), 1);
    assert_eq!(house.count("PRAGMA user_version"), MIGRATIONS.len() as i64 + 1);
    drop(store);
    // And this version refuses what the next one wrote.
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    let path = house.path.display();
    let expected = format!(
        "{path} has schema version 2; this relayscope knows versions up to 1: use a later one, or another path"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(Store::reader(&house.path).unwrap_err().to_string(), expected);
}

#[test]
fn a_migration_that_fails_leaves_the_version_it_began_with() {
    let house = House::new();
    drop(house.open());
    let broken = [MIGRATIONS, &["CREATE TABLE extra (x); INSERT INTO nowhere VALUES (1)"]].concat();
    assert_eq!(
        Store::open_with(&house.path, Retention::default(), at(T0), &broken).unwrap_err().reason(),
        "other"
    );
    assert_eq!(house.count("PRAGMA user_version"), 1);
    assert_eq!(house.count("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'"), 0);
    house.open();
}
