//! The ring's edges, with expectations written out.

use relayscope_bridge::{
    Account, CapacityError, Consumer, Drained, MetricId, MetricSample, MetricValue, Producer,
    RING_CAPACITY_MAX, Start, TelemetryRing,
};

fn sample(n: u64) -> MetricSample {
    MetricSample { metric_id: MetricId(7), timestamp_ns: n, value: MetricValue::Counter(n) }
}

fn record(producer: &mut Producer, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| producer.record(sample(n)));
}

/// The numbers drained, having checked that each came whole.
fn drain(consumer: &mut Consumer) -> (Vec<u64>, Drained) {
    let mut seen = Vec::new();
    let drained = consumer.drain(|s| {
        assert_eq!(s, sample(s.timestamp_ns));
        seen.push(s.timestamp_ns);
    });
    (seen, drained)
}

fn billed(delivered: u64, lost: u64) -> Drained {
    Drained { delivered, lost, malformed: 0 }
}

fn refusal(capacity: usize) -> String {
    match TelemetryRing::try_with_capacity(capacity) {
        Ok((_, consumer)) => panic!("{capacity} was taken, as {}", consumer.capacity()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn capacities_out_of_range_are_refused_with_value_and_range() {
    assert_eq!(refusal(0), "ring capacity 0 is invalid; expected 2..=16777216");
    assert_eq!(refusal(1), "ring capacity 1 is invalid; expected 2..=16777216");
    assert_eq!(refusal(16_777_217), "ring capacity 16777217 is invalid; expected 2..=16777216");
    assert_eq!(refusal(usize::MAX), "ring capacity 18446744073709551615 is invalid; expected 2..=16777216");
    assert_eq!(TelemetryRing::try_with_capacity(0).err(), Some(CapacityError(0)));
}

#[test]
#[should_panic(expected = "ring capacity 1 is invalid; expected 2..=16777216")]
fn a_capacity_out_of_range_panics_where_no_error_can_be_returned() {
    TelemetryRing::with_capacity(1);
}

#[test]
fn capacities_round_up_to_a_power_of_two() {
    for (asked, got) in [(2, 2), (3, 4), (4, 4), (5, 8), (65_535, 65_536), (65_537, 131_072)] {
        assert_eq!(TelemetryRing::with_capacity(asked).1.capacity(), got, "asked for {asked}");
    }
}

#[test]
fn the_largest_capacity_is_to_be_had() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(RING_CAPACITY_MAX);
    record(&mut producer, 0..3);
    assert_eq!(consumer.capacity(), 16_777_216);
    assert_eq!(drain(&mut consumer), (vec![0, 1, 2], billed(3, 0)));
}

#[test]
fn an_empty_ring_brings_nothing() {
    let (_producer, mut consumer) = TelemetryRing::with_capacity(2);
    assert_eq!(drain(&mut consumer), (vec![], billed(0, 0)));
    assert_eq!(consumer.account(), Account::default());
}

#[test]
fn all_slots_but_one_can_be_read() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(8);
    record(&mut producer, 0..7);
    assert_eq!(drain(&mut consumer), (vec![0, 1, 2, 3, 4, 5, 6], billed(7, 0)));
}

#[test]
fn a_full_ring_drops_the_oldest_and_a_slack_of_one_eighth() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(16);
    record(&mut producer, 0..16);
    // 0 is the record in flight's, were there one; 1 and 2 are the slack.
    assert_eq!(drain(&mut consumer), ((3..16).collect(), billed(13, 3)));
    record(&mut producer, 16..18);
    assert_eq!(drain(&mut consumer), (vec![16, 17], billed(2, 0)));
}

#[test]
fn the_smallest_ring_keeps_the_newest_sample() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(2);
    record(&mut producer, 0..5);
    assert_eq!(drain(&mut consumer), (vec![4], billed(1, 4)));
}

#[test]
fn a_lap_many_times_over_is_billed_to_the_unit() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(64);
    record(&mut producer, 0..1_000_000);
    let (seen, drained) = drain(&mut consumer);
    assert_eq!(seen, (999_945..1_000_000).collect::<Vec<_>>());
    assert_eq!(drained, billed(55, 999_945));
    let account = Account { recorded: 1_000_000, delivered: 55, lost: 999_945, unread: 0 };
    assert_eq!(consumer.account(), account);
}

#[test]
fn a_drain_longer_than_a_chunk_comes_whole_and_in_order() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(256);
    record(&mut producer, 0..255);
    assert_eq!(drain(&mut consumer), ((0..255).collect(), billed(255, 0)));
}

#[test]
fn a_batch_larger_than_the_ring_leaves_its_newest() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(8);
    producer.record_batch((0..100).map(sample).collect::<Vec<_>>());
    assert_eq!(producer.recorded(), 100);
    assert_eq!(drain(&mut consumer), ((94..100).collect(), billed(6, 94)));
}

#[test]
fn an_empty_batch_records_nothing() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(8);
    record(&mut producer, 0..7);
    producer.record_batch(std::iter::empty::<MetricSample>());
    assert_eq!(producer.recorded(), 7);
    assert_eq!(drain(&mut consumer), ((0..7).collect(), billed(7, 0)));
}

#[test]
fn a_finished_batch_costs_a_reader_no_more_than_single_records() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(8);
    producer.record_batch([sample(0), sample(1), sample(2), sample(3)]);
    record(&mut producer, 4..7);
    assert_eq!(drain(&mut consumer), ((0..7).collect(), billed(7, 0)));
}

#[test]
fn a_tap_from_the_oldest_begins_with_what_the_ring_still_holds() {
    let (mut producer, consumer) = TelemetryRing::with_capacity(4);
    record(&mut producer, 0..10);
    let mut tap = consumer.tap(Start::Oldest);
    assert_eq!(tap.account(), Account { recorded: 3, delivered: 0, lost: 0, unread: 3 });
    assert_eq!(drain(&mut tap), (vec![7, 8, 9], billed(3, 0)));
}

#[test]
fn a_tap_from_now_begins_with_the_next_record() {
    let (mut producer, consumer) = TelemetryRing::with_capacity(4);
    record(&mut producer, 0..10);
    let mut tap = consumer.tap(Start::Now);
    assert_eq!(drain(&mut tap), (vec![], billed(0, 0)));
    record(&mut producer, 10..12);
    assert_eq!(drain(&mut tap), (vec![10, 11], billed(2, 0)));
}

#[test]
fn what_one_reader_drains_another_still_gets() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(4);
    let mut tap = consumer.tap(Start::Oldest);
    record(&mut producer, 0..3);
    assert_eq!(drain(&mut consumer), (vec![0, 1, 2], billed(3, 0)));
    assert_eq!(drain(&mut tap), (vec![0, 1, 2], billed(3, 0)));
}

#[test]
fn a_ring_outlives_its_producer() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(4);
    record(&mut producer, 0..2);
    drop(producer);
    assert_eq!(drain(&mut consumer), (vec![0, 1], billed(2, 0)));
}

#[test]
fn a_drain_ends_where_the_ring_ended_when_it_began() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(8);
    record(&mut producer, 0..2);
    let mut seen = Vec::new();
    let drained = consumer.drain(|s| {
        seen.push(s.timestamp_ns);
        producer.record(sample(100 + s.timestamp_ns));
    });
    assert_eq!((seen, drained), (vec![0, 1], billed(2, 0)));
    assert_eq!(consumer.account().unread, 2, "100 and 101 are left for the next drain");
}

#[test]
fn records_overwritten_by_the_callers_own_recording_are_billed() {
    // 200 waiting; while the first chunk of 64 is delivered, each delivery records four more.
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(256);
    record(&mut producer, 0..200);
    let mut next = 200;
    let mut seen = Vec::new();
    let drained = consumer.drain(|s| {
        seen.push(s.timestamp_ns);
        if s.timestamp_ns < 64 {
            record(&mut producer, next..next + 4);
            next += 4;
        }
    });
    // Head is 456 now. 201 is the oldest left and the slack is 32, so 64..233 are gone.
    assert_eq!(seen, (0..64).collect::<Vec<_>>());
    assert_eq!(drained, billed(64, 169));
    let account = Account { recorded: 456, delivered: 64, lost: 169, unread: 223 };
    assert_eq!(consumer.account(), account);
    assert_eq!(drain(&mut consumer), ((233..456).collect(), billed(223, 0)));
}

#[test]
fn a_panicking_caller_leaves_an_account_that_adds_up() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(256);
    record(&mut producer, 0..100);
    let drained = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        consumer.drain(|s| assert!(s.timestamp_ns < 3, "the caller's own trouble"));
    }));
    assert!(drained.is_err());
    // The chunk of 64 it happened in counts as delivered; the rest is still to come.
    let account = Account { recorded: 100, delivered: 64, lost: 0, unread: 36 };
    assert_eq!(consumer.account(), account);
    assert_eq!(drain(&mut consumer), ((64..100).collect(), billed(36, 0)));
}

/// Says that it has eight samples, and has five.
struct Short(u64);

impl Iterator for Short {
    type Item = MetricSample;

    fn next(&mut self) -> Option<MetricSample> {
        self.0 += 1;
        (self.0 <= 5).then(|| sample(100 + self.0))
    }
}

impl ExactSizeIterator for Short {
    fn len(&self) -> usize {
        8
    }
}

#[test]
fn what_a_batch_that_ended_early_wrote_over_is_never_read() {
    let (mut producer, mut consumer) = TelemetryRing::with_capacity(16);
    record(&mut producer, 0..16);
    producer.record_batch(Short(0));
    assert_eq!(producer.recorded(), 16);
    // A shorter batch does not take back what was announced: 16..24, over 0..8.
    producer.record_batch([sample(16)]);
    assert_eq!(drain(&mut consumer), ((8..17).collect(), billed(9, 8)));
}
