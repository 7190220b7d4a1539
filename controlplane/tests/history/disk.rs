//! A disk that is full, and one that cannot be written to.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::MsFlags;
use relayscope_controlplane::Now;
use relayscope_controlplane::history::{
    Event, EventKind, Interval, Retention, RttSummary, Store, StoreError, StoreErrorKind, TargetKey, Tier,
};

use super::mount::SmallDisk;

/// A whole number of hours.
const T0: u64 = 1_796_000_400;
const HOUR: u64 = 3600;
const DISK_BYTES: usize = 2 << 20;
/// Makes room when it is removed.
const BALLAST_BYTES: usize = 1 << 20;
const TARGETS: u64 = 100;

fn at(unix_seconds: u64) -> Now {
    Now { monotonic_ns: 0, unix_ns: unix_seconds * 1_000_000_000 }
}

fn targets() -> Vec<TargetKey> {
    (0..TARGETS).map(|n| TargetKey { name: format!("t{n:02}"), family: "ipv4".into() }).collect()
}

fn interval(start: u64) -> Interval {
    let quantiles_ns = [10, 20, 30, 40, 50, 60].map(|ns| ns + start % 500);
    let rtt = RttSummary { count: 10, sum_ns: 300, min_ns: 5, max_ns: 700, quantiles_ns };
    Interval { answered: 10, rtt: Some(rtt), jitter_ns: Some(start % 900), ..Interval::default() }
}

fn append(store: &mut Store, start: u64) -> Result<(), StoreError> {
    let targets = targets();
    let all: Vec<_> = targets.iter().map(|key| (key, interval(start))).collect();
    store.append(Tier::TenSeconds, start, &all).map(|appended| assert_eq!(appended.written, all.len()))
}

fn expect_all(path: &Path, count: u64) {
    let reader = Store::reader(path).unwrap();
    for key in targets() {
        let found = reader.intervals(&key, Tier::TenSeconds, 0..u64::MAX, Duration::from_secs(10)).unwrap();
        let expected: Vec<_> =
            (0..count).map(|n| T0 + n * 10).map(|start| (start, interval(start))).collect();
        assert_eq!(found, expected, "{}", key.name);
    }
    let connection = rusqlite::Connection::open(path).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

/// How many appends a full disk took.
fn fill(store: &mut Store) -> u64 {
    for n in 0..10_000 {
        if let Err(error) = append(store, T0 + n * 10) {
            assert_eq!((error.kind(), error.reason()), (StoreErrorKind::DiskFull, "disk_full"), "{error}");
            return n;
        }
    }
    panic!("{DISK_BYTES} bytes are never full");
}

pub(crate) fn full() {
    let disk = SmallDisk::new(DISK_BYTES).unwrap();
    let (path, ballast) = (disk.history(), disk.path().join("ballast"));
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let mut store = Store::open(&path, Retention::default(), at(T0)).unwrap();
    let count = fill(&mut store);
    assert!(count > 10, "{count}");
    // It stays full, and says so each time; nothing else is lost by it, and it can be read.
    for _ in 0..3 {
        assert_eq!(append(&mut store, T0 + count * 10).unwrap_err().reason(), "disk_full");
    }
    expect_all(&path, count);

    fs::remove_file(&ballast).unwrap();
    append(&mut store, T0 + count * 10).unwrap();
    let event = Event {
        at_unix_ms: T0 * 1000,
        kind: EventKind::PeerDown,
        target: Some("t00".into()),
        alertname: None,
        severity: None,
        summary: "t00 does not answer".into(),
    };
    store.append_events(&[event]).unwrap();
    expect_all(&path, count + 1);
}

pub(crate) fn full_while_folding() {
    let disk = SmallDisk::new(DISK_BYTES).unwrap();
    let (path, ballast) = (disk.history(), disk.path().join("ballast"));
    let mut store = Store::open(&path, Retention::default(), at(T0)).unwrap();
    let count = 100;
    for n in 0..count {
        append(&mut store, T0 + n * 10).unwrap();
    }
    // All that is left of the disk, to the last page.
    let mut room = DISK_BYTES;
    while room >= 4096 {
        let bytes = [fs::read(&ballast).unwrap_or_default(), vec![1; room]].concat();
        if fs::write(&ballast, bytes).is_err() {
            room /= 2;
        }
    }
    let error = loop {
        match store.tidy(at(T0 + 2 * HOUR)) {
            Ok(done) => assert!(done.is_more, "a full disk folds an hour"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), "disk_full", "{error}");
    expect_all(&path, count);

    fs::remove_file(&ballast).unwrap();
    while store.tidy(at(T0 + 2 * HOUR)).unwrap().is_more {}
    assert_eq!(store.statistics().unwrap().tiers[0].rows, 0);
    assert_eq!(store.statistics().unwrap().tiers[0].chunks, TARGETS);
    expect_all(&path, count);
}

pub(crate) fn read_only() {
    let disk = SmallDisk::new(DISK_BYTES).unwrap();
    let path = disk.history();
    // Not even a directory can be made.
    disk.remount(MsFlags::MS_RDONLY);
    assert_eq!(Store::open(&path, Retention::default(), at(T0)).unwrap_err().reason(), "read_only");
    disk.remount(MsFlags::empty());
    let mut store = Store::open(&path, Retention::default(), at(T0)).unwrap();
    append(&mut store, T0).unwrap();
    drop(store);

    disk.remount(MsFlags::MS_RDONLY);
    let error = Store::open(&path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "read_only", "{error}");
    // It can be read where it lies, as a copy in an archive can.
    let reader = Store::reader(&path).unwrap();
    let found =
        reader.intervals(&targets()[0], Tier::TenSeconds, 0..u64::MAX, Duration::from_secs(10)).unwrap();
    assert_eq!(found, [(T0, interval(T0))]);
    drop(reader);
    disk.remount(MsFlags::empty());
    let mut store = Store::open(&path, Retention::default(), at(T0)).unwrap();
    append(&mut store, T0 + 10).unwrap();
    expect_all(&path, 2);
}
