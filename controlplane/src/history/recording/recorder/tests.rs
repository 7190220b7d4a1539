use proptest::prelude::*;
use relayscope_bridge::catalogue::{
    PROBE_DIRECTION_LOST, PROBE_LOST, PROBE_RECEIVED, PROBE_RTT_SECONDS, PROBE_SENT, PROBE_WINDOW_JITTER,
    TARGET_INFO,
};
use relayscope_bridge::{
    CounterCell, GaugeCell, Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry,
    ShardId, create, hub,
};

use super::super::super::interval::{QUANTILES, RttSummary};
use super::*;
use crate::{ControlPlane, ControlPlaneConfig};

const SHARD: ShardId = ShardId(0);
/// Where the simulated wall clock begins: a whole number of ten minutes.
const EPOCH: u64 = 1_800_000_000;

/// Milliseconds after [`EPOCH`].
fn at(ms: u64) -> Now {
    // Later than any host was booted before, and than the data planes of these tests began.
    Now { monotonic_ns: (100_000_000_000 + ms) * 1_000_000, unix_ns: (EPOCH * 1000 + ms) * 1_000_000 }
}

/// As [`at`], by a wall clock that is so far ahead.
fn stepped(ms: u64, ahead_ms: i64) -> Now {
    let now = at(ms);
    Now { unix_ns: now.unix_ns.checked_add_signed(ahead_ms * 1_000_000).unwrap(), ..now }
}

/// A data plane that says what it is told to, and a recorder of it.
struct Bed {
    publisher: Publisher,
    registry: SeriesRegistry,
    plane: ControlPlane,
    recorder: Recorder,
}

/// One target, of IPv4.
struct Probed {
    ids: Vec<MetricId>,
    received: CounterCell,
    lost: CounterCell,
    forward: CounterCell,
    reverse: CounterCell,
    jitter: GaugeCell,
    rtt: MetricId,
}

impl Bed {
    fn new() -> Self {
        let config = HubConfig { ring_capacity: 4096, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let plane = ControlPlane::new_at(collector, ControlPlaneConfig::default(), at(0)).unwrap();
        Self { publisher: publishers.remove(0), registry, plane, recorder: Recorder::default() }
    }

    fn probe(&self, name: &str) -> Probed {
        let (registry, labels) = (&self.registry, [name, "ipv4"]);
        let counter = |family, values: &[&str]| registry.counter(SHARD, family, values).unwrap();
        let info = [name, "192.0.2.7:8620", "ipv4", "stamp", "default"];
        let info = registry.gauge(SHARD, &TARGET_INFO, &info).unwrap();
        let sent = counter(&PROBE_SENT, &labels);
        let probed = Probed {
            ids: vec![info.id(), sent.id()],
            received: counter(&PROBE_RECEIVED, &labels),
            lost: counter(&PROBE_LOST, &labels),
            forward: counter(&PROBE_DIRECTION_LOST, &[name, "ipv4", "forward"]),
            reverse: counter(&PROBE_DIRECTION_LOST, &[name, "ipv4", "reverse"]),
            jitter: registry.gauge(SHARD, &PROBE_WINDOW_JITTER, &[name, "ipv4", "ipdv"]).unwrap(),
            rtt: registry.stream(SHARD, &PROBE_RTT_SECONDS, &labels).unwrap(),
        };
        let Probed { received, lost, forward, reverse, jitter, .. } = &probed;
        let more = [received.id(), lost.id(), forward.id(), reverse.id(), jitter.id(), probed.rtt];
        Probed { ids: [probed.ids.clone(), more.to_vec()].concat(), ..probed }
    }

    fn retire(&mut self, probed: Probed) {
        let ticket = self.registry.retire(SHARD, &probed.ids).unwrap();
        self.publisher.acknowledge(ticket);
    }

    fn answer(&mut self, probed: &mut Probed, rtt_us: u64) {
        probed.received.add(1);
        self.publisher.record(MetricSample {
            metric_id: probed.rtt,
            timestamp_ns: 1,
            value: MetricValue::Histogram(rtt_us as f64 / 1e6),
        });
    }

    fn record(&mut self, now: Now) -> Vec<Batch> {
        self.publisher.beat(now.monotonic_ns);
        self.plane.record_history(&mut self.recorder, || now)
    }

    /// Records at the end of each of `tens`, and gives what was told.
    fn record_tens(&mut self, tens: impl IntoIterator<Item = u64>) -> Vec<Batch> {
        tens.into_iter().flat_map(|ten| self.record(at(ten * 10_000))).collect()
    }
}

type Told = (&'static str, i64, Vec<(u64, u64)>);

/// Tier, begin in seconds after [`EPOCH`], and what each target answered and lost.
fn told(batches: &[Batch]) -> Vec<Told> {
    let of = |batch: &Batch| {
        let begin = batch.start_unix_seconds.cast_signed() - EPOCH.cast_signed();
        let counts = batch.intervals.iter().map(|(_, interval)| (interval.answered, interval.lost));
        (batch.tier.as_str(), begin, counts.collect())
    };
    batches.iter().map(of).collect()
}

#[test]
fn known_samples_are_the_expected_intervals_of_all_three_tiers() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    assert_eq!(bed.record(at(0)), []);
    let mut batches = Vec::new();
    for ten in 1..=60 {
        // In each ten seconds 8 answers of 1..=8 ms, and in the last of each minute of 64 ms; 2 lost.
        for number in 1..=8 {
            let slow = if ten % 6 == 0 { 64_000 } else { number * 1000 };
            bed.answer(&mut b, slow);
        }
        b.lost.add(2);
        b.forward.add(1);
        b.jitter.set(ten as f64 * 1e-6);
        batches.extend(bed.record(at(ten * 10_000)));
    }
    let of = |tier: Tier| batches.iter().filter(|batch| batch.tier == tier).collect::<Vec<_>>();
    let starts: Vec<_> = of(Tier::TenSeconds).iter().map(|batch| batch.start_unix_seconds - EPOCH).collect();
    assert_eq!(starts, (0..60).map(|ten| ten * 10).collect::<Vec<_>>());
    let starts: Vec<_> = of(Tier::Minute).iter().map(|batch| batch.start_unix_seconds - EPOCH).collect();
    assert_eq!(starts, (0..10).map(|minute| minute * 60).collect::<Vec<_>>());
    assert_eq!(of(Tier::TenMinutes).len(), 1);
    assert_eq!(of(Tier::TenMinutes)[0].start_unix_seconds, EPOCH);

    let (key, first) = &of(Tier::TenSeconds)[0].intervals[0];
    assert_eq!((key.name.as_str(), key.family.as_str()), ("b", "ipv4"));
    let rtt = first.rtt.unwrap();
    let expected = Interval {
        answered: 8,
        lost: 2,
        lost_forward: Some(1),
        lost_reverse: Some(0),
        rtt: Some(RttSummary { count: 8, sum_ns: 36_000_000, min_ns: 1_000_000, max_ns: 8_000_000, ..rtt }),
        jitter_ns: Some(1000),
    };
    assert_eq!(*first, expected);
    // The 1st, 2nd, 4th, 6th, 8th and 8th of eight.
    assert_quantiles(&rtt, [1.0, 2.0, 4.0, 6.0, 8.0, 8.0]);

    let minute = of(Tier::Minute)[9].intervals[0].1;
    assert_eq!((minute.answered, minute.lost, minute.lost_forward), (48, 12, Some(6)));
    assert_eq!(minute.jitter_ns, Some(60_000));
    let rtt = minute.rtt.unwrap();
    assert_eq!((rtt.count, rtt.min_ns, rtt.max_ns), (48, 1_000_000, 64_000_000));
    assert_eq!(rtt.sum_ns, 5 * 36_000_000 + 8 * 64_000_000);
    // Of five of each of 1..=8 and eight of 64: the 3rd, 12th, 24th, 36th, 46th and 48th.
    assert_quantiles(&rtt, [1.0, 3.0, 5.0, 8.0, 64.0, 64.0]);

    let ten_minutes = of(Tier::TenMinutes)[0].intervals[0].1;
    assert_eq!((ten_minutes.answered, ten_minutes.lost, ten_minutes.lost_reverse), (480, 120, Some(0)));
    let rtt = ten_minutes.rtt.unwrap();
    assert_eq!((rtt.count, rtt.sum_ns), (480, 10 * (5 * 36_000_000 + 8 * 64_000_000)));
    assert_quantiles(&rtt, [1.0, 3.0, 5.0, 8.0, 64.0, 64.0]);
}

fn assert_quantiles(rtt: &RttSummary, expected_ms: [f64; QUANTILES.len()]) {
    for (is, expected) in rtt.quantiles_ns.into_iter().zip(expected_ms) {
        let is_ms = is as f64 / 1e6;
        assert!((is_ms / expected - 1.0).abs() < 0.011, "{is_ms} ms for {expected} of {rtt:?}");
    }
}

#[test]
fn what_was_counted_before_the_first_reading_is_of_no_interval() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    for _ in 0..5 {
        bed.answer(&mut b, 9_000);
    }
    assert_eq!(bed.record(at(4_000)), []);
    bed.answer(&mut b, 1_000);
    let batches = bed.record(at(10_000));
    assert_eq!(told(&batches), [("10s", 0, vec![(1, 0)])]);
    assert_eq!(batches[0].intervals[0].1.rtt.unwrap().max_ns, 1_000_000);
}

#[test]
fn a_target_that_comes_within_an_interval_has_what_came_of_it_since() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    let mut a = bed.probe("a");
    bed.answer(&mut a, 2_000);
    bed.answer(&mut a, 2_000);
    assert_eq!(told(&bed.record(at(10_000))), [("10s", 0, vec![(2, 0), (1, 0)])], "sorted by name");
}

#[test]
fn an_interval_in_which_nothing_settled_is_a_gap() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    b.jitter.set(0.001);
    assert_eq!(bed.record(at(10_000)), []);
    b.lost.add(1);
    let batches = bed.record(at(20_000));
    assert_eq!(told(&batches), [("10s", 10, vec![(0, 1)])]);
    assert_eq!(batches[0].intervals[0].1.rtt, None);
    // The minute has that one.
    assert_eq!(told(&bed.record_tens(3..=6)), [("1m", 0, vec![(0, 1)])]);
}

#[test]
fn a_series_that_was_born_anew_counts_from_zero_and_its_minute_has_both() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    for _ in 0..7 {
        bed.answer(&mut b, 1_000);
    }
    assert_eq!(told(&bed.record(at(10_000))), [("10s", 0, vec![(7, 0)])]);
    bed.answer(&mut b, 1_000);
    bed.retire(b);
    let mut b = bed.probe("b");
    for _ in 0..9 {
        bed.answer(&mut b, 4_000);
    }
    let batches = bed.record(at(20_000));
    assert_eq!(told(&batches), [("10s", 10, vec![(9, 0)])], "the last of the old series went with it");
    assert_eq!(batches[0].intervals[0].1.rtt.unwrap().min_ns, 4_000_000);
    let batches = bed.record_tens(3..=6);
    assert_eq!(told(&batches), [("1m", 0, vec![(16, 0)])]);
    let rtt = batches[0].intervals[0].1.rtt.unwrap();
    assert_eq!((rtt.count, rtt.min_ns, rtt.max_ns), (16, 1_000_000, 4_000_000));
}

#[test]
fn of_a_target_that_went_the_open_minutes_are_told_and_then_it_is_forgotten() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    bed.record(at(10_000));
    bed.retire(b);
    let batches = bed.record_tens(2..=60);
    assert_eq!(told(&batches), [("1m", 0, vec![(1, 0)]), ("10m", 0, vec![(1, 0)])]);
    assert!(bed.recorder.tracks.is_empty());
}

#[test]
fn a_reading_that_is_late_is_a_gap_in_the_tiers_whose_interval_had_ended() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    // A second late is as good as on time.
    assert_eq!(told(&bed.record(at(11_000))), [("10s", 0, vec![(1, 0)])]);
    bed.answer(&mut b, 1_000);
    assert_eq!(
        told(&bed.record(at(45_000))),
        [],
        "three of ten seconds had ended, and half of the fifth is over"
    );
    bed.answer(&mut b, 1_000);
    assert_eq!(bed.recorder.take_late(), 1);
    assert_eq!(told(&bed.record(at(50_000))), [("10s", 40, vec![(1, 0)])], "of its second half");
    assert_eq!(bed.recorder.take_late(), 0);
    bed.answer(&mut b, 1_000);
    let minute = ("1m", 0, vec![(4, 0)]);
    assert_eq!(told(&bed.record(at(60_000))), [("10s", 50, vec![(1, 0)]), minute], "lacks none");
    bed.answer(&mut b, 1_000);
    assert_eq!(told(&bed.record(at(125_000))), [], "what came is of the second minute and the third");
    assert_eq!(told(&bed.record(at(600_000))), [("10m", 0, vec![(5, 0)])]);
}

#[test]
fn a_wall_clock_set_forward_places_what_came_by_the_clock_as_it_is_now() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    bed.record(at(10_000));
    bed.answer(&mut b, 1_000);
    // An hour ahead, on time: the ten seconds before are ten seconds.
    let batches = bed.record(stepped(20_000, 3_600_000));
    assert_eq!(
        told(&batches),
        [("1m", 0, vec![(1, 0)]), ("10m", 0, vec![(1, 0)]), ("10s", 3610, vec![(1, 0)])],
        "and the minutes that were open are told as far as they were known"
    );
    assert_eq!(bed.recorder.due_in(stepped(20_000, 3_600_000)), Duration::from_secs(10));
    bed.answer(&mut b, 1_000);
    let batches = bed.record(stepped(30_000, 3_600_000));
    assert_eq!(told(&batches), [("10s", 3620, vec![(1, 0)])]);
    let batches: Vec<_> = (4..=6).flat_map(|ten| bed.record(stepped(ten * 10_000, 3_600_000))).collect();
    assert_eq!(told(&batches), [("1m", 3600, vec![(2, 0)])]);
}

#[test]
fn a_wall_clock_set_back_is_read_at_once_and_goes_on_from_there() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    bed.record(at(10_000));
    bed.answer(&mut b, 1_000);
    let back = |ms| stepped(ms, -3_600_000);
    assert_eq!(bed.recorder.due_in(back(13_000)), Duration::ZERO);
    let batches = bed.record(back(13_000));
    assert_eq!(told(&batches), [("1m", 0, vec![(1, 0)]), ("10m", 0, vec![(1, 0)])]);
    assert_eq!(bed.recorder.due_in(back(13_000)), Duration::from_secs(7));
    bed.answer(&mut b, 1_000);
    let batches = bed.record(back(20_000));
    assert_eq!(told(&batches), [("10s", -3590, vec![(2, 0)])]);
}

#[test]
fn a_clock_that_is_made_slower_or_faster_a_little_makes_no_gap_and_no_second_reading() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    for (ten, ahead_ms) in [(1, 0), (2, -3), (3, -6), (4, 4), (5, 900), (6, -900)] {
        bed.answer(&mut b, 1_000);
        let due = stepped((ten * 10_000u64).checked_add_signed(-ahead_ms).unwrap(), ahead_ms);
        let batches = bed.record(due);
        assert_eq!(told(&batches)[0], ("10s", ten.cast_signed() * 10 - 10, vec![(1, 0)]), "{ten}");
        let slower = Now { unix_ns: due.unix_ns - 5_000_000, ..due };
        assert_eq!(bed.recorder.due_in(slower), Duration::from_millis(10_005));
    }
}

#[test]
fn a_silent_shard_leaves_a_gap_and_what_it_last_said_of_jitter_is_not_told() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    bed.answer(&mut b, 1_000);
    b.jitter.set(0.002);
    // It beats no more.
    let batches = bed.plane.record_history(&mut bed.recorder, || at(10_000));
    assert_eq!(told(&batches), [("10s", 0, vec![(1, 0)])]);
    assert_eq!(batches[0].intervals[0].1.jitter_ns, None, "nobody knows");
    assert_eq!(bed.plane.record_history(&mut bed.recorder, || at(20_000)), []);
}

#[test]
fn samples_that_a_ring_lost_are_missing_from_the_distribution_alone() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    for _ in 0..5000 {
        bed.answer(&mut b, 1_000);
    }
    let batches = bed.record(at(10_000));
    let interval = batches[0].intervals[0].1;
    assert_eq!(interval.answered, 5000);
    let count = interval.rtt.unwrap().count;
    assert!(count > 0 && count < 4096, "{count}");
}

#[test]
fn a_histogram_that_became_coarser_between_two_readings_loses_nothing() {
    let mut bed = Bed::new();
    let mut b = bed.probe("b");
    bed.record(at(0));
    for number in 0..100 {
        bed.answer(&mut b, 1_000 + number * 10);
    }
    bed.record(at(10_000));
    for octave in 0..20 {
        for number in 0..20 {
            bed.answer(&mut b, (1 << octave) * (100 + number * 5));
        }
    }
    let batches = bed.record(at(20_000));
    let rtt = batches[0].intervals[0].1.rtt.unwrap();
    assert_eq!((rtt.count, rtt.min_ns, rtt.max_ns), (400, 100_000, (195 << 19) * 1000));
    // The 200th: the last of octave 9.
    let median_ms = rtt.quantiles_ns[2] as f64 / 1e6;
    assert!((median_ms / (512.0 * 0.195) - 1.0).abs() < 0.1, "{median_ms}");
}

#[test]
fn gone_targets_are_bounded_and_what_is_not_told_of_them_is_counted() {
    let mut bed = Bed::new();
    bed.record(at(0));
    let mut recorder = Recorder::default();
    let source = None;
    let read = |recorder: &mut Recorder, names: std::ops::Range<usize>, second: u64| {
        recorder.begin(source, at(second * 1000));
        for name in names {
            let totals = crate::roster::Totals {
                series: (MetricId(7), name as u64),
                received: second,
                lost: 0,
                lost_forward: None,
                lost_reverse: None,
                jitter_seconds: None,
                rtt: None,
            };
            recorder.read(&format!("{name:05}"), "ipv4", Reading { totals, rtt: None });
        }
        recorder.end(true)
    };
    read(&mut recorder, 0..0, 0);
    assert_eq!(read(&mut recorder, 0..GONE_MAX + 10, 10)[0].intervals.len(), GONE_MAX + 10);
    assert_eq!(read(&mut recorder, 0..0, 20), []);
    assert_eq!((recorder.tracks.len(), recorder.take_forgotten()), (GONE_MAX, 10));
}

/// Names of so many targets that it takes three portions.
const MANY: usize = 600;

#[test]
fn many_targets_are_read_in_portions_each_once() {
    let mut bed = Bed::new();
    let mut many: Vec<_> = (0..MANY).map(|number| bed.probe(&format!("{number:04}"))).collect();
    bed.record(at(0));
    for (number, target) in many.iter_mut().enumerate() {
        target.lost.add(number as u64 + 1);
    }
    let batches = bed.record(at(10_000));
    let expected: Vec<_> = (1..=MANY as u64).map(|lost| (0, lost)).collect();
    assert_eq!(told(&batches), [("10s", 0, expected)]);
}

#[test]
fn a_reading_that_hung_half_way_is_a_gap_of_what_was_not_read() {
    let mut bed = Bed::new();
    let mut many: Vec<_> = (0..MANY).map(|number| bed.probe(&format!("{number:04}"))).collect();
    bed.record(at(0));
    many.iter_mut().for_each(|target| target.lost.add(1));
    // The first portion is read on time, and the second when the drain is let go of.
    let looks = std::cell::Cell::new(0);
    let clock = || {
        looks.set(looks.get() + 1);
        if looks.get() == 1 { at(10_000) } else { at(25_000) }
    };
    let batches = bed.plane.record_history(&mut bed.recorder, clock);
    assert_eq!(told(&batches), [("10s", 0, vec![(0, 1); 256])]);
    many.iter_mut().for_each(|target| target.lost.add(2));
    let batches = bed.record(at(30_000));
    assert_eq!(
        told(&batches),
        [],
        "from 10 s to 30 s is no interval, and the others have their gap until now"
    );
    many.iter_mut().for_each(|target| target.lost.add(3));
    let batches = bed.record(at(40_000));
    assert_eq!(told(&batches), [("10s", 30, vec![(0, 3); MANY])]);
    let batches = bed.record(at(60_000));
    let minute: Vec<_> = (0..MANY).map(|number| (0, if number < 256 { 6 } else { 3 })).collect();
    assert_eq!(told(&batches), [("1m", 0, minute)]);
}

#[test]
fn a_data_plane_that_began_since_counts_from_zero_and_one_of_before_from_what_it_says() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment = directory.path().join("segment");
    let config = ControlPlaneConfig::default();
    let (plane, mut recorder) = (ControlPlane::watch(segment.clone(), config).unwrap(), Recorder::default());
    let make = |lost| {
        let hub = create(&segment, HubConfig::default()).unwrap();
        let info = ["b", "192.0.2.7:8620", "ipv4", "stamp", "default"];
        let counter = |family| hub.registry.counter(SHARD, family, &["b", "ipv4"]).unwrap();
        let cells = (counter(&PROBE_SENT), counter(&PROBE_RECEIVED), counter(&PROBE_LOST));
        let info = hub.registry.gauge(SHARD, &TARGET_INFO, &info).unwrap();
        let (sent, received, mut of_lost) = cells;
        of_lost.add(lost);
        (hub, (sent, received, of_lost, info))
    };
    let ten = |now: Now| now.unix_ns / 10_000_000_000 * 10;
    let later = |now: Now, seconds: u64| {
        let unix_ns = (ten(now) + seconds) * 1_000_000_000;
        Now { monotonic_ns: now.monotonic_ns + unix_ns - now.unix_ns, unix_ns }
    };
    // It was there before the control plane was.
    let first = make(5);
    plane.tick();
    let now = Now::sample();
    assert_eq!(plane.record_history(&mut recorder, || now), []);
    first.1.2.get();
    drop(first);
    // Another has its place, and began later.
    let _second = make(7);
    plane.tick();
    let batches = plane.record_history(&mut recorder, || later(now, 10));
    let lost: Vec<_> = batches[0].intervals.iter().map(|(_, interval)| interval.lost).collect();
    assert_eq!(lost, [7]);
}

proptest! {
    /// However readings are spread, an hour's tiers count every probe once, or, where a reading was late, not at all;
    /// and a coarser tier never counts less of a minute than the finer one has of it.
    #[test]
    fn nothing_is_counted_twice_and_coarser_tiers_lack_no_more_than_finer_ones(
        lateness in proptest::collection::vec((0u64..400, 1u64..5), 1..80),
    ) {
        let mut bed = Bed::new();
        let mut b = bed.probe("b");
        bed.record(at(0));
        let (mut batches, mut now_ms, mut answered) = (Vec::new(), 0, 0);
        for (late, probes) in lateness {
            // Mostly on time, at times minutes late.
            let late_ms = if late < 300 { late * 5 } else { (late - 300) * 1700 };
            now_ms = (now_ms / 10_000 + 1) * 10_000 + late_ms;
            for _ in 0..probes {
                bed.answer(&mut b, 1_000);
            }
            answered += probes;
            batches.extend(bed.record(at(now_ms)));
        }
        now_ms = (now_ms / 600_000 + 1) * 600_000;
        batches.extend(bed.record(at(now_ms)));
        let sum = |tier: Tier, within: Option<(u64, u64)>| {
            let of = batches.iter().filter(|batch| batch.tier == tier);
            let of = of.filter(|batch| within.is_none_or(|(from, to)| {
                (from..to).contains(&batch.start_unix_seconds)
            }));
            of.map(|batch| batch.intervals[0].1.answered).sum::<u64>()
        };
        let [tens, minutes, ten_minutes] = Tier::ALL.map(|tier| sum(tier, None));
        prop_assert!(tens <= minutes && minutes <= ten_minutes && ten_minutes <= answered);
        for tier in [Tier::Minute, Tier::TenMinutes] {
            let finer = Tier::from_code(tier.code() - 1).unwrap();
            for batch in batches.iter().filter(|batch| batch.tier == tier) {
                let start = batch.start_unix_seconds;
                prop_assert!(sum(finer, Some((start, start + tier.seconds()))) <= batch.intervals[0].1.answered);
            }
        }
        let mut starts: Vec<_> = batches.iter().map(|batch| (batch.tier, batch.start_unix_seconds)).collect();
        starts.sort_unstable();
        starts.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "told twice"));
    }
}
