//! Publishers, collector and the table of series, with messages and values written out.

use relayscope_bridge::catalogue::{
    Family, MESH_PEERS, PROBE_RTT_MS, PROBE_RTT_SECONDS, PROBE_SEND_ERRORS, PROBE_SENT,
};
use relayscope_bridge::{
    Collector, HubConfig, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry, ShardId, Start, hub,
};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const SMALL: HubConfig = HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 4, max_series: 4 };

fn small() -> (Publisher, Publisher, Collector, SeriesRegistry) {
    let (publishers, collector) = hub(SMALL).expect("the sizes are in range");
    let [a, b] = <[Publisher; 2]>::try_from(publishers).ok().expect("there are two shards");
    let registry = collector.registry().clone();
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
        b.record_batch(&[observation(MetricId(2), 0.2), observation(MetricId(3), 0.3)]);
        assert_eq!((a.recorded(), b.recorded()), (1, 2));
        assert_eq!(drain(&mut collector, B), [MetricId(2), MetricId(3)]);
        let unread = collector.shards().map(|(_, shard)| shard.account().unread).collect::<Vec<_>>();
        assert_eq!(unread, [1, 0]);
    }

    #[test]
    fn a_shard_that_does_not_exist_brings_and_frees_nothing() {
        let (_a, _b, mut collector, _) = small();
        assert_eq!(drain(&mut collector, ShardId(2)), []);
        assert_eq!(collector.reclaim(ShardId(2)), []);
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
        let mut tap = collector.shard_mut(A).unwrap().tap(Start::Now);
        a.record(observation(MetricId(1), 0.1));
        assert_eq!(tap.drain(|_| {}).delivered, 1);
        assert_eq!(drain(&mut collector, A), [MetricId(1)]);
    }
}

mod cells {
    use super::*;

    #[test]
    fn a_counter_held_by_several_shards_reads_as_their_sum() {
        let (_a, _b, collector, registry) = small();
        let mut on_a = registry.counter(A, &PROBE_SENT, &["relay-b"]).unwrap();
        let mut on_b = registry.counter(B, &PROBE_SENT, &["relay-b"]).unwrap();
        assert_eq!(on_a.id(), on_b.id());
        assert_eq!(collector.counter(on_a.id()), Some(0));
        on_a.add(3);
        on_b.add(40);
        on_b.add(500);
        assert_eq!((on_a.get(), on_b.get()), (3, 540));
        assert_eq!(collector.counter(on_a.id()), Some(543));
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

mod series {
    use super::*;

    #[test]
    fn series_are_found_and_listed_with_family_and_values() {
        let (_a, _b, _collector, registry) = small();
        let peers = registry.gauge(A, &MESH_PEERS, &[]).unwrap();
        let errors = registry.counter(B, &PROBE_SEND_ERRORS, &["relay-b", "refused"]).unwrap();
        registry.read(|series| {
            assert_eq!(series.find(&PROBE_SEND_ERRORS, &["relay-b", "refused"]), Some(errors.id()));
            assert_eq!(series.find(&PROBE_SEND_ERRORS, &["relay-b", "other"]), None);
            assert_eq!(series.writer(errors.id()), Some(B));
            let listed: Vec<_> =
                series.series().map(|(id, family, values)| (id, family.name, values.to_vec())).collect();
            let expected = [
                (peers.id(), "mesh_peers", vec![]),
                (errors.id(), "probe_send_errors_total", vec!["relay-b".to_owned(), "refused".to_owned()]),
            ];
            assert_eq!(listed, expected);
        });
    }

    #[test]
    fn a_second_writer_is_refused_on_any_shard_but_for_counters_of_another() {
        let (_a, _b, _collector, registry) = small();
        registry.gauge(A, &PROBE_RTT_MS, &["b"]).unwrap();
        registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let taken = |name: &str| format!("series {name}[\"b\"] already has a writer; retire it first");
        assert_eq!(message(registry.gauge(B, &PROBE_RTT_MS, &["b"])), taken("probe_rtt_ms"));
        assert_eq!(message(registry.stream(B, &PROBE_RTT_SECONDS, &["b"])), taken("probe_rtt_seconds"));
        assert_eq!(message(registry.counter(A, &PROBE_SENT, &["b"])), taken("probe_sent_total"));
        assert!(registry.counter(B, &PROBE_SENT, &["b"]).is_ok());
    }

    #[test]
    fn a_family_of_another_kind_is_refused() {
        let (_a, _b, _collector, registry) = small();
        let refused = [
            (message(registry.counter(A, &PROBE_RTT_MS, &["b"])), "probe_rtt_ms is a gauge", "counter"),
            (
                message(registry.gauge(A, &PROBE_RTT_SECONDS, &["b"])),
                "probe_rtt_seconds is a histogram",
                "gauge",
            ),
            (message(registry.stream(A, &PROBE_SENT, &["b"])), "probe_sent_total is a counter", "histogram"),
        ];
        for (message, is, asked) in refused {
            assert_eq!(message, format!("family {is}; asked for a {asked}"));
        }
    }

    #[test]
    fn values_must_fit_the_labels() {
        let (_a, _b, _collector, registry) = small();
        let got = |family: &'static Family, values: &[&str]| message(registry.counter(A, family, values));
        assert_eq!(got(&PROBE_SENT, &[]), "family probe_sent_total has 1 labels; got 0 values");
        assert_eq!(got(&PROBE_SENT, &["b", "c"]), "family probe_sent_total has 1 labels; got 2 values");
    }

    #[test]
    fn a_shard_that_does_not_exist_is_refused() {
        let (_a, _b, _collector, registry) = small();
        let expected = "shard 2 does not exist; there are 2";
        assert_eq!(message(registry.counter(ShardId(2), &PROBE_SENT, &["b"])), expected);
        assert_eq!(message(registry.retire(ShardId(2), &[])), expected);
    }

    #[test]
    fn a_full_table_is_refused_and_keeps_no_cell() {
        let (_a, _b, _collector, registry) = small();
        for target in ["b", "c", "d", "e"] {
            registry.stream(A, &PROBE_RTT_SECONDS, &[target]).unwrap();
        }
        let expected = "series table is full at 4; raise max_series or probe fewer targets";
        // Five times, on a shard of four cells: had a refusal kept its cell, the fifth would say so.
        for _ in 0..5 {
            assert_eq!(message(registry.counter(A, &PROBE_SENT, &["b"])), expected);
        }
        assert_eq!(message(registry.stream(B, &PROBE_RTT_SECONDS, &["f"])), expected);
    }

    #[test]
    fn a_shard_without_a_free_cell_is_refused_while_others_have_theirs() {
        let config = HubConfig { cells_per_shard: 1, ..SMALL };
        let (_publishers, collector) = hub(config).unwrap();
        let registry = collector.registry();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let refused = message(registry.counter(A, &PROBE_SENT, &["c"]));
        assert_eq!(refused, "shard 0 has all its 1 cells in use; raise cells_per_shard");
        assert!(registry.counter(B, &PROBE_SENT, &["c"]).is_ok());
    }

    #[test]
    fn the_generation_changes_with_every_series_added_or_retired_and_not_otherwise() {
        let (mut a, _b, mut collector, registry) = small();
        let mut seen = vec![registry.generation()];
        let mut sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        seen.push(registry.generation());
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        seen.push(registry.generation());
        sent.add(1);
        a.record(observation(rtt, 0.1));
        drain(&mut collector, A);
        assert!(registry.counter(A, &PROBE_SENT, &["b"]).is_err());
        seen.push(registry.generation());
        registry.retire(A, &[rtt]).unwrap();
        seen.push(registry.generation());
        assert_eq!(seen, [0, 1, 2, 2, 3]);
        assert_eq!(registry.read(|series| series.generation()), 3);
    }
}

mod retirement {
    use super::*;

    #[test]
    fn a_retired_series_vanishes_at_once_and_its_name_is_free() {
        let (_a, _b, collector, registry) = small();
        let sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let old = sent.id();
        registry.retire(A, &[old]).unwrap();
        assert_eq!(collector.counter(old), None);
        registry.read(|series| {
            assert_eq!(series.find(&PROBE_SENT, &["b"]), None);
            assert_eq!(series.series().count(), 0);
        });
        let again = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        assert_ne!(again.id(), old, "the old id is still on its way");
    }

    #[test]
    fn an_id_is_not_freed_before_the_shard_acknowledges() {
        let (_a, _b, mut collector, registry) = small();
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        registry.retire(A, &[rtt]).unwrap();
        drain(&mut collector, A);
        assert_eq!(collector.reclaim(A), []);
    }

    #[test]
    fn an_id_is_not_freed_before_the_ring_is_drained_past_the_acknowledgement() {
        let (mut a, _b, mut collector, registry) = small();
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        a.record(observation(rtt, 0.1));
        let ticket = registry.retire(A, &[rtt]).unwrap();
        a.record(observation(rtt, 0.2));
        a.acknowledge(ticket);
        assert_eq!(collector.reclaim(A), []);
        assert_eq!(drain(&mut collector, A), [rtt, rtt]);
        assert_eq!(collector.reclaim(A), [rtt]);
        assert_eq!(collector.reclaim(A), [], "freed once");
        assert_eq!(registry.stream(A, &PROBE_RTT_SECONDS, &["c"]), Ok(rtt), "and used again");
    }

    #[test]
    fn what_the_ring_lost_counts_as_drained() {
        let (mut a, _b, mut collector, registry) = small();
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let ticket = registry.retire(A, &[rtt]).unwrap();
        (0..100).for_each(|_| a.record(observation(rtt, 0.1)));
        a.acknowledge(ticket);
        drain(&mut collector, A);
        assert_eq!(collector.reclaim(A), [rtt]);
    }

    #[test]
    fn records_after_the_acknowledgement_do_not_hold_an_id_back() {
        let (mut a, _b, mut collector, registry) = small();
        let [old, kept] = ["b", "c"].map(|t| registry.stream(A, &PROBE_RTT_SECONDS, &[t]).unwrap());
        let ticket = registry.retire(A, &[old]).unwrap();
        a.acknowledge(ticket);
        a.record(observation(kept, 0.1));
        assert_eq!(collector.reclaim(A), [old]);
    }

    #[test]
    fn a_ticket_acknowledges_those_before_it_and_no_later_one() {
        let (mut a, _b, mut collector, registry) = small();
        let ids = ["b", "c", "d"].map(|t| registry.stream(A, &PROBE_RTT_SECONDS, &[t]).unwrap());
        let tickets = ids.map(|id| registry.retire(A, &[id]).unwrap());
        a.acknowledge(tickets[1]);
        assert_eq!(collector.reclaim(A), ids[..2]);
        a.acknowledge(tickets[2]);
        assert_eq!(collector.reclaim(A), ids[2..]);
    }

    #[test]
    fn an_older_ticket_takes_nothing_back() {
        let (mut a, _b, mut collector, registry) = small();
        let ids = ["b", "c"].map(|t| registry.stream(A, &PROBE_RTT_SECONDS, &[t]).unwrap());
        let tickets = ids.map(|id| registry.retire(A, &[id]).unwrap());
        a.acknowledge(tickets[1]);
        a.acknowledge(tickets[0]);
        assert_eq!(collector.reclaim(A), ids);
    }

    #[test]
    fn one_shards_acknowledgement_frees_nothing_of_another() {
        let (mut a, _b, mut collector, registry) = small();
        let on_a = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let on_b = registry.stream(B, &PROBE_RTT_SECONDS, &["c"]).unwrap();
        let ticket = registry.retire(A, &[on_a]).unwrap();
        registry.retire(B, &[on_b]).unwrap();
        a.acknowledge(ticket);
        assert_eq!((collector.reclaim(B), collector.reclaim(A)), (vec![], vec![on_a]));
    }

    #[test]
    fn a_freed_cell_starts_again_at_zero() {
        let config = HubConfig { cells_per_shard: 1, ..SMALL };
        let (mut publishers, mut collector) = hub(config).unwrap();
        let registry = collector.registry().clone();
        let mut sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        sent.add(9);
        let ticket = registry.retire(A, &[sent.id()]).unwrap();
        assert!(registry.counter(A, &PROBE_SENT, &["c"]).is_err(), "the cell is not free yet");
        drop(sent);
        publishers[0].acknowledge(ticket);
        collector.reclaim(A);
        let next = registry.counter(A, &PROBE_SENT, &["c"]).unwrap();
        assert_eq!(collector.counter(next.id()), Some(0));
    }

    #[test]
    fn an_id_not_held_there_alone_is_refused_and_none_is_retired() {
        let (_a, _b, collector, registry) = small();
        let mine = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let shared = registry.counter(A, &PROBE_SENT, &["c"]).unwrap();
        registry.counter(B, &PROBE_SENT, &["c"]).unwrap();
        let refused = |shard, ids: &[MetricId]| message(registry.retire(shard, ids));
        let both = [mine.id(), shared.id()];
        assert_eq!(refused(A, &both), "series 1 is not held by shard 0 alone; it cannot be retired there");
        assert_eq!(
            refused(B, &[mine.id()]),
            "series 0 is not held by shard 1 alone; it cannot be retired there"
        );
        assert_eq!(
            refused(A, &[MetricId(99)]),
            "series 99 is not held by shard 0 alone; it cannot be retired there"
        );
        assert_eq!(collector.counter(mine.id()), Some(0), "all or none");
        registry.retire(A, &[mine.id()]).unwrap();
        assert_eq!(
            refused(A, &[mine.id()]),
            "series 0 is not held by shard 0 alone; it cannot be retired there",
            "not twice"
        );
    }

    #[test]
    fn an_id_named_twice_is_freed_once() {
        let (mut a, _b, mut collector, registry) = small();
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let ticket = registry.retire(A, &[rtt, rtt]).unwrap();
        a.acknowledge(ticket);
        assert_eq!(collector.reclaim(A), [rtt]);
    }
}
