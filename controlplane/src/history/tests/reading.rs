//! What was appended is what is read, whatever happens between.

use super::*;

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
fn statistics_say_what_is_there() {
    let house = House::new();
    let mut store = house.open();
    for minute in 0..90 {
        append(
            &mut store,
            Tier::Minute,
            T0 + minute * 60,
            &[(&target("a"), lost(1)), (&target("b"), lost(1))],
        );
    }
    store.append_events(&[event(T0 * 1000, None, "one")]).unwrap();
    tidy(&mut store, T0 + HOUR + 200);
    let reader = house.reader();
    reader.statistics().unwrap();
    let statistics = reader.statistics().unwrap();
    let bytes = house.count("SELECT sum(length(intervals)) FROM chunk") as u64;
    let minutes = TierStatistics { chunks: 2, intervals: 120, bytes, rows: 30, oldest: Some(T0) };
    assert_eq!(statistics.tiers, [TierStatistics::default(), minutes, TierStatistics::default()]);
    assert_eq!((statistics.targets, statistics.events, statistics.page_bytes), (2, 1, 4096));
    assert!(statistics.log_bytes > 0 && statistics.pages > 5, "{statistics:?}");
    assert!(statistics.cache.unwrap().misses > 0, "{statistics:?}");
    let again = reader.statistics().unwrap();
    assert_eq!(again.cache.unwrap().misses, statistics.cache.unwrap().misses);
    assert!(again.cache.unwrap().hits > statistics.cache.unwrap().hits);
    assert_eq!(store.statistics().unwrap().tiers, statistics.tiers);
}

#[test]
fn a_chunk_and_a_row_that_changed_on_the_disk_are_gaps_that_are_counted() {
    let house = House::new();
    let mut store = house.open();
    let (a, b) = (target("a"), target("b"));
    for minute in 0..120 {
        append(&mut store, Tier::Minute, T0 + minute * 60, &[(&a, lost(1)), (&b, lost(2))]);
    }
    tidy(&mut store, T0 + HOUR + 200);
    let broken = rusqlite::Connection::open(&house.path).unwrap();
    let changed = "UPDATE chunk SET intervals = substr(intervals, 1, length(intervals) - 1) WHERE key = (SELECT min(key) FROM chunk); \
                   UPDATE head SET records = x'0105' WHERE key = (SELECT min(key) FROM head)";
    broken.execute_batch(changed).unwrap();
    let minutes = |name| {
        let query =
            HistoryQuery { step_seconds: Some(60), ..HistoryQuery::new(target(name), T0, T0 + 2 * HOUR) };
        let points = house.reader().history(&query).unwrap();
        (points.damaged, points.intervals.iter().flatten().count())
    };
    assert_eq!(minutes("a"), (2, 59));
    assert_eq!(minutes("b"), (1, 119));
    // What comes late is kept, what cannot be read is not, and it is said.
    append(&mut store, Tier::Minute, T0, &[(&a, lost(3))]);
    assert_eq!(tidy(&mut store, T0 + 2 * HOUR + 200).damaged, 2);
    assert_eq!(minutes("a"), (0, 60));
    assert_eq!(read(&house.reader(), "a", Tier::Minute)[0], (T0, lost(3)));
}
