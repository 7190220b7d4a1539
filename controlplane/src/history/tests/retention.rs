//! What goes, and what stays.

use std::fs;

use super::*;

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

/// Intervals of each hour that have something, by tier.
const FILLED: [u64; 3] = [60, 20, 6];

/// An hour of noisy times of 80 targets in every tier.
fn fill_hour(store: &mut Store, targets: &[TargetKey], hour: u64) {
    let mut state = hour;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1_000_000 + (state >> 43)
    };
    for (tier, filled) in Tier::ALL.into_iter().zip(FILLED) {
        for slot in 0..filled {
            let mut interval = || {
                let quantiles_ns = std::array::from_fn(|_| noise());
                let rtt = RttSummary {
                    count: 10,
                    sum_ns: 10 * noise(),
                    min_ns: noise(),
                    max_ns: noise(),
                    quantiles_ns,
                };
                Interval { answered: 10, rtt: Some(rtt), jitter_ns: Some(noise()), ..Interval::default() }
            };
            let all: Vec<_> = targets.iter().map(|target| (target, interval())).collect();
            append(store, tier, T0 + hour * HOUR + slot * tier.seconds(), &all);
        }
    }
}

fn eighty_targets() -> Vec<TargetKey> {
    (0..80).map(|n| target(&format!("t{n:02}"))).collect()
}

fn size(house: &House) -> u64 {
    fs::metadata(&house.path).unwrap().len() + file::log_bytes(&house.path)
}

#[test]
fn more_than_there_is_room_for_drops_the_oldest_hours_of_the_finest_tier_and_then_of_the_next() {
    let house = House::new();
    let bytes_max = 1 << 20;
    let mut store = house.open_with(Retention { bytes_max, ..Retention::default() });
    let targets = eighty_targets();
    let mut dropped = 0;
    for hour in 0..16 {
        fill_hour(&mut store, &targets, hour);
        let done = tidy(&mut store, T0 + (hour + 1) * HOUR + 1000);
        dropped += done.dropped_by_size;
        assert_eq!(done.dropped_by_time, 0);
        assert!(size(&house) <= bytes_max, "{} bytes after hour {hour}", size(&house));
    }
    let reader = house.reader();
    let hours = |tier| {
        let intervals = read(&reader, "t79", tier);
        let oldest = intervals.first().map(|(start, _)| (start - T0) / HOUR);
        let newest = intervals.last().map(|(start, _)| (start - T0) / HOUR);
        (oldest, newest, intervals.len() as u64 / FILLED[usize::from(tier.code())])
    };
    let (oldest, newest, count) = hours(Tier::TenSeconds);
    assert_eq!(newest, Some(15), "the newest hour stays");
    assert_eq!(oldest, Some(16 - count), "what is left is the newest, without a hole");
    assert!(count < 16);
    assert_eq!(dropped, 80 * (16 - count));
    assert_eq!(hours(Tier::Minute), (Some(0), Some(15), 16));
    assert_eq!(hours(Tier::TenMinutes), (Some(0), Some(15), 16));

    // With less room than the coarser tiers take, they go too, in turn.
    drop(store);
    let mut store = house.open_with(Retention { bytes_max: 512 << 10, ..Retention::default() });
    tidy(&mut store, T0 + 17 * HOUR);
    assert!(size(&house) <= 512 << 10, "{} bytes", size(&house));
    assert_eq!(hours(Tier::TenSeconds), (None, None, 0));
    let (oldest, newest, count) = hours(Tier::Minute);
    assert!(count < 16 && (oldest, newest) == (Some(16 - count), Some(15)), "{count} hours from {oldest:?}");
    assert_eq!(hours(Tier::TenMinutes), (Some(0), Some(15), 16));
}

#[test]
fn the_head_too_is_dropped_where_nothing_else_is_left_but_for_its_newest() {
    let house = House::new();
    let mut store = house.open_with(Retention { bytes_max: 128 << 10, ..Retention::default() });
    let targets: Vec<_> = (0..40).map(|n| target(&format!("t{n:02}"))).collect();
    for slot in 0..300 {
        let all: Vec<_> = targets.iter().map(|target| (target, answered(1_000_000))).collect();
        append(&mut store, Tier::TenSeconds, T0 + slot * 10, &all);
    }
    assert!(tidy(&mut store, T0 + 3000).dropped_by_size > 0);
    let left = read(&house.reader(), "t00", Tier::TenSeconds);
    assert_eq!((left.first().map(|(start, _)| *start), left.len()), (Some(T0 + 2400), 60));
}

#[test]
fn a_file_that_was_large_shrinks_when_what_was_in_it_is_gone() {
    let house = House::new();
    let mut store = house.open();
    let targets = eighty_targets();
    for hour in 0..16 {
        fill_hour(&mut store, &targets, hour);
        tidy(&mut store, T0 + (hour + 1) * HOUR + 1000);
    }
    let before = house.count("PRAGMA page_count");
    let done = tidy(&mut store, T0 + 15 * 24 * HOUR);
    assert_eq!((done.dropped_by_time, done.targets_forgotten), (2 * 80 * 16, 0));
    let after = house.count("PRAGMA page_count");
    assert_eq!(before - after, done.pages_freed as i64);
    assert!(after * 2 < before, "{before} pages became {after}");
    assert_eq!(house.count("SELECT count(*) FROM chunk"), 80 * 16);
}

#[test]
fn each_tier_is_kept_for_as_long_as_it_is_told() {
    let house = House::new();
    let tiers = [1, 2, 3].map(|hours| Duration::from_secs(hours * HOUR));
    let mut store = house.open_with(Retention { tiers, ..Retention::default() });
    let a = target("a");
    for hour in 0..5 {
        for tier in Tier::ALL {
            append(&mut store, tier, T0 + hour * HOUR, &[(&a, lost(1))]);
        }
    }
    // The last second of an hour decides.
    tidy(&mut store, T0 + 6 * HOUR - 1);
    let reader = house.reader();
    let oldest = |tier| (read(&reader, "a", tier)[0].0 - T0) / HOUR;
    assert_eq!(Tier::ALL.map(oldest), [4, 3, 2]);
    tidy(&mut store, T0 + 6 * HOUR);
    assert_eq!(read(&reader, "a", Tier::TenSeconds), []);
    assert_eq!([Tier::Minute, Tier::TenMinutes].map(oldest), [4, 3]);
}
