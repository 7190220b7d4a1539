//! Publishers, shards and cells, with messages and values written out.

mod families;

use relayscope_bridge::catalogue::PROBE_RTT_MS;
use relayscope_bridge::{
    Account, Collector, Hub, HubConfig, Mark, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry,
    ShardId, Start, hub,
};

use families::{PROBE_RTT_SECONDS, PROBE_SENT};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const SMALL: HubConfig = HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 4, max_series: 4 };

fn small() -> (Publisher, Publisher, Collector, SeriesRegistry) {
    let Hub { publishers, registry, collector, .. } = hub(SMALL).expect("the sizes are in range");
    let [a, b] = <[Publisher; 2]>::try_from(publishers).ok().expect("there are two shards");
    (a, b, collector, registry)
}

fn observation(metric_id: MetricId, value: f64) -> MetricSample {
    MetricSample { metric_id, timestamp_ns: 1, value: MetricValue::Histogram(value) }
}

fn message<T>(refused: Result<T, impl std::error::Error>) -> String {
    refused.err().expect("it was not refused").to_string()
}

fn drain(collector: &mut Collector, shard: ShardId) -> Vec<MetricId> {
    let mut ids = Vec::new();
    collector.drain(shard, |sample| ids.push(sample.metric_id));
    ids
}

mod sizes {
    use super::*;

    #[test]
    fn a_size_out_of_range_is_named_with_value_and_range() {
        let with = |shards, ring_capacity, cells_per_shard, max_series| {
            message(hub(HubConfig { shards, ring_capacity, cells_per_shard, max_series }))
        };
        assert_eq!(with(0, 8, 4, 4), "shards 0 is invalid; expected 1..=1024");
        assert_eq!(with(1025, 8, 4, 4), "shards 1025 is invalid; expected 1..=1024");
        assert_eq!(with(1, 1, 4, 4), "ring capacity 1 is invalid; expected 2..=16777216");
        assert_eq!(with(1, 8, 0, 4), "cells_per_shard 0 is invalid; expected 1..=268435456");
        assert_eq!(with(1, 8, 4, 268_435_457), "max_series 268435457 is invalid; expected 1..=268435456");
    }

    #[test]
    fn publishers_come_in_order_of_shard() {
        let (a, b, collector, _) = small();
        assert_eq!((a.shard(), b.shard()), (A, B));
        assert_eq!(collector.shards().map(|(shard, _)| shard).collect::<Vec<_>>(), [A, B]);
    }
}

mod shards {
    use super::*;

    #[test]
    fn a_shard_is_silent_until_its_first_beat() {
        let (mut a, _b, collector, _) = small();
        let heartbeat =
            || collector.shards().map(|(_, shard)| shard.heartbeat().last_ns()).collect::<Vec<_>>();
        assert_eq!(heartbeat(), [None, None]);
        a.beat(77);
        assert_eq!(heartbeat(), [Some(77), None]);
    }

    #[test]
    fn each_shard_has_a_ring_and_an_account_of_its_own() {
        let (mut a, mut b, mut collector, _) = small();
        a.record(observation(MetricId(1), 0.1));
        b.record_batch([observation(MetricId(2), 0.2), observation(MetricId(3), 0.3)]);
        assert_eq!((a.recorded(), b.recorded()), (1, 2));
        assert_eq!(drain(&mut collector, B), [MetricId(2), MetricId(3)]);
        let unread = collector.shards().map(|(_, shard)| shard.account().unread).collect::<Vec<_>>();
        assert_eq!(unread, [1, 0]);
    }

    #[test]
    fn a_shard_that_does_not_exist_brings_nothing() {
        let (_a, _b, mut collector, _) = small();
        assert_eq!(drain(&mut collector, ShardId(2)), []);
        assert_eq!(collector.mark(ShardId(2)), Mark::default());
        assert!(collector.shard(ShardId(2)).is_none());
        assert!(collector.shard_mut(ShardId(2)).is_none());
    }

    #[test]
    fn high_water_is_the_fullest_before_a_drain_and_starts_over_when_taken() {
        let (mut a, _b, mut collector, _) = small();
        for waiting in [2, 5, 1] {
            (0..waiting).for_each(|_| a.record(observation(MetricId(0), 0.1)));
            drain(&mut collector, A);
        }
        let high_water = |collector: &mut Collector| collector.shard_mut(A).unwrap().take_high_water();
        assert_eq!(high_water(&mut collector), 5);
        assert_eq!(high_water(&mut collector), 0);
        (0..1_000).for_each(|_| a.record(observation(MetricId(0), 0.1)));
        drain(&mut collector, A);
        assert_eq!(high_water(&mut collector), 8, "an overflowing ring is full, not more");
    }

    #[test]
    fn a_tap_takes_nothing_from_the_collector() {
        let (mut a, _b, mut collector, _) = small();
        let mut tap = collector.shard(A).unwrap().tap(Start::Now);
        a.record(observation(MetricId(1), 0.1));
        assert_eq!(tap.drain(|_| {}).delivered, 1);
        assert_eq!(drain(&mut collector, A), [MetricId(1)]);
    }

    #[test]
    fn a_drain_to_a_mark_brings_what_lay_below_it_with_its_positions() {
        let (mut a, _b, mut collector, _) = small();
        (1..=2).for_each(|id| a.record(observation(MetricId(id), 0.1)));
        let mark = collector.mark(A);
        a.record(observation(MetricId(3), 0.1));
        let mut seen = Vec::new();
        collector.drain_to(A, mark, |position, sample| seen.push((position, sample.metric_id.0)));
        assert_eq!(seen, [(0, 1), (1, 2)]);
        let mark = collector.mark(A);
        collector.drain_to(A, mark, |position, sample| seen.push((position, sample.metric_id.0)));
        assert_eq!(seen[2..], [(2, 3)]);
    }

    #[test]
    fn positions_count_what_was_lost_too() {
        let (mut a, _b, mut collector, _) = small();
        (0..20).for_each(|id| a.record(observation(MetricId(id), 0.1)));
        let mut seen = Vec::new();
        let mark = collector.mark(A);
        let drained =
            collector.drain_to(A, mark, |position, sample| seen.push((position, sample.metric_id.0)));
        // Of eight slots one is the record in flight's and one is slack.
        assert_eq!(seen, [(14, 14), (15, 15), (16, 16), (17, 17), (18, 18), (19, 19)]);
        assert_eq!(drained.lost, 14);
    }

    #[test]
    fn an_account_goes_on_where_an_earlier_reader_left_it() {
        let (mut a, _b, mut collector, _) = small();
        (0..7).for_each(|id| a.record(observation(MetricId(id), 0.1)));
        assert!(!collector.shard_mut(A).unwrap().resume(6, 2), "eight were never recorded");
        assert!(!collector.shard_mut(A).unwrap().resume(u64::MAX, 1), "nor that many");
        assert!(collector.shard_mut(A).unwrap().resume(3, 2));
        let account = Account { recorded: 7, delivered: 3, lost: 2, unread: 2 };
        assert_eq!(collector.shard(A).unwrap().account(), account);
        assert_eq!(drain(&mut collector, A), [MetricId(5), MetricId(6)]);
        assert!(!collector.shard_mut(A).unwrap().resume(0, 0), "this reader has begun");
    }

    #[test]
    fn a_shard_names_the_process_that_writes_it_while_one_does() {
        let (a, _b, collector, _) = small();
        assert_eq!(collector.shard(A).unwrap().writer(), Some(std::process::id()));
        drop(a);
        assert_eq!(collector.shard(A).unwrap().writer(), None);
    }
}

mod cells {
    use super::*;

    #[test]
    fn a_counter_held_by_several_shards_has_an_id_each_and_reads_as_their_sum() {
        let (_a, _b, collector, registry) = small();
        let mut on_a = registry.counter(A, &PROBE_SENT, &["relay-b"]).unwrap();
        let mut on_b = registry.counter(B, &PROBE_SENT, &["relay-b"]).unwrap();
        let total = || collector.directory().read(|series| series.total(&PROBE_SENT, &["relay-b"]));
        assert_ne!(on_a.id(), on_b.id());
        assert_eq!(total(), Some(0));
        on_a.add(3);
        on_b.add(40);
        on_b.add(500);
        assert_eq!((on_a.get(), on_b.get()), (3, 540));
        assert_eq!((collector.counter(on_a.id()), collector.counter(on_b.id())), (Some(3), Some(540)));
        assert_eq!(total(), Some(543));
    }

    #[test]
    fn a_counter_nobody_holds_has_no_total() {
        let (_a, _b, collector, _) = small();
        assert_eq!(collector.directory().read(|series| series.total(&PROBE_SENT, &["relay-b"])), None);
    }

    #[test]
    fn a_counter_wraps_alone_and_in_the_total() {
        let (_a, _b, collector, registry) = small();
        let mut on_a = registry.counter(A, &PROBE_SENT, &["relay-b"]).unwrap();
        let mut on_b = registry.counter(B, &PROBE_SENT, &["relay-b"]).unwrap();
        on_a.add(u64::MAX);
        on_b.add(2);
        assert_eq!(collector.directory().read(|series| series.total(&PROBE_SENT, &["relay-b"])), Some(1));
        on_a.add(3);
        assert_eq!(collector.counter(on_a.id()), Some(2));
    }

    #[test]
    fn a_gauge_is_absent_until_set_and_after_a_failed_measurement() {
        let (_a, _b, collector, registry) = small();
        let mut rtt = registry.gauge(A, &PROBE_RTT_MS, &["relay-b"]).unwrap();
        assert_eq!(collector.gauge(rtt.id()), None);
        rtt.set(0.25);
        assert_eq!(collector.gauge(rtt.id()), Some(0.25));
        rtt.set_or_clear(None);
        assert_eq!(collector.gauge(rtt.id()), None);
    }

    #[test]
    fn a_series_of_another_kind_has_no_counter_and_no_gauge() {
        let (_a, _b, collector, registry) = small();
        let sent = registry.counter(A, &PROBE_SENT, &["relay-b"]).unwrap();
        let mut rtt = registry.gauge(A, &PROBE_RTT_MS, &["relay-b"]).unwrap();
        let stream = registry.stream(A, &PROBE_RTT_SECONDS, &["relay-b"]).unwrap();
        rtt.set(1.0);
        assert_eq!((collector.counter(rtt.id()), collector.gauge(sent.id())), (None, None));
        assert_eq!((collector.counter(stream), collector.gauge(stream)), (None, None));
        assert_eq!((collector.counter(MetricId(99)), collector.gauge(MetricId(99))), (None, None));
    }
}
