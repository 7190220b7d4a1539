//! When a series is gone, when what it held may be used again, and how its samples are told apart from
//! those of whoever has its id next.

mod families;

use relayscope_bridge::catalogue::PROBE_RTT_MS;
use relayscope_bridge::{
    Collector, Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher, Room, SeriesError,
    SeriesRegistry, ShardId, hub,
};

use families::{PROBE_RTT_SECONDS, PROBE_SENT};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const SMALL: HubConfig = HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 4, max_series: 4 };
/// Whatever is interned here uses again what was freed, or is refused.
const ONE: HubConfig = HubConfig { cells_per_shard: 1, max_series: 1, ..SMALL };

fn made(config: HubConfig) -> (Publisher, Publisher, Collector, SeriesRegistry) {
    let Hub { publishers, registry, collector, .. } = hub(config).expect("the sizes are in range");
    let [a, b] = <[Publisher; 2]>::try_from(publishers).ok().expect("there are two shards");
    (a, b, collector, registry)
}

fn stream(registry: &SeriesRegistry, shard: ShardId, target: &str) -> Result<MetricId, SeriesError> {
    registry.stream(shard, &PROBE_RTT_SECONDS, &[target])
}

fn record(publisher: &mut Publisher, metric_id: MetricId) {
    let value = MetricValue::Histogram(0.1);
    publisher.record(MetricSample { metric_id, timestamp_ns: 1, value });
}

fn full<T>() -> Result<T, SeriesError> {
    Err(SeriesError::TableFull { max: 1 })
}

/// Of the one live series of that id: since when, and which of those that had it.
fn holder(collector: &Collector, id: MetricId) -> (u64, u64) {
    collector.directory().read(|series| {
        let found = series.series().find(|s| s.id == id).expect("it is live");
        (found.since, found.incarnation)
    })
}

fn values(collector: &Collector, id: MetricId) -> Vec<String> {
    collector
        .directory()
        .read(|series| series.series().find(|s| s.id == id).map(|s| s.values.to_vec()).expect("it is live"))
}

mod before_the_acknowledgement {
    use super::*;

    #[test]
    fn a_retired_series_is_gone_at_once_and_its_name_is_free() {
        let (_a, _b, collector, registry) = made(SMALL);
        let old = registry.counter(A, &PROBE_SENT, &["b"]).unwrap().id();
        registry.retire(A, &[old]).unwrap();
        assert_eq!(collector.counter(old), None);
        collector.directory().read(|series| {
            assert_eq!(series.find(&PROBE_SENT, &["b"]), []);
            assert_eq!(series.writer(old), None);
            assert_eq!(series.series().count(), 0);
        });
        let again = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        assert_ne!(again.id(), old, "the shard may still write to the old one");
    }

    #[test]
    fn nothing_is_used_again() {
        let (_a, _b, _collector, registry) = made(ONE);
        let rtt = stream(&registry, A, "b").unwrap();
        registry.retire(A, &[rtt]).unwrap();
        assert_eq!(stream(&registry, A, "c"), full());
        assert_eq!(registry.room(A), Ok(Room { cells: 1, series: 0 }));
    }

    #[test]
    fn what_the_shard_still_counts_is_nobodys() {
        let (_a, _b, collector, registry) = made(SMALL);
        let mut old = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        registry.retire(A, &[old.id()]).unwrap();
        let new = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        old.add(9);
        assert_eq!(collector.counter(new.id()), Some(0));
        let total = collector.directory().read(|series| series.total(&PROBE_SENT, &["b"]));
        assert_eq!(total, Some(0));
    }
}

mod after_the_acknowledgement {
    use super::*;

    #[test]
    fn row_and_cell_are_used_again_at_the_next_interning() {
        let (mut a, _b, _collector, registry) = made(ONE);
        let old = registry.counter(A, &PROBE_SENT, &["b"]).unwrap().id();
        a.acknowledge(registry.retire(A, &[old]).unwrap());
        let new = registry.counter(A, &PROBE_SENT, &["c"]).unwrap().id();
        assert_eq!(new, old);
    }

    #[test]
    fn row_and_cell_are_room_at_the_next_look() {
        let (mut a, _b, _collector, registry) = made(ONE);
        let old = registry.counter(A, &PROBE_SENT, &["b"]).unwrap().id();
        let ticket = registry.retire(A, &[old]).unwrap();
        assert_eq!(registry.room(A), Ok(Room { cells: 0, series: 0 }));
        a.acknowledge(ticket);
        assert_eq!(registry.room(A), Ok(Room { cells: 1, series: 1 }));
    }

    #[test]
    fn samples_of_the_old_holder_lie_before_those_of_the_new() {
        let (mut a, _b, mut collector, registry) = made(ONE);
        let old = stream(&registry, A, "b").unwrap();
        record(&mut a, old);
        let ticket = registry.retire(A, &[old]).unwrap();
        record(&mut a, old);
        a.acknowledge(ticket);
        let new = stream(&registry, A, "c").unwrap();
        record(&mut a, new);
        assert_eq!(new, old);

        let mark = collector.mark(A);
        assert_eq!(holder(&collector, new).0, 2);
        let mut seen = Vec::new();
        collector.drain_to(A, mark, |position, sample| seen.push((position, sample.metric_id)));
        assert_eq!(seen, [(0, old), (1, old), (2, new)]);
    }

    #[test]
    fn each_holder_of_an_id_is_another_incarnation_and_begins_no_earlier() {
        let (mut a, _b, collector, registry) = made(ONE);
        let (mut incarnations, mut since) = (Vec::new(), Vec::new());
        for target in ["b", "c", "b"] {
            let id = stream(&registry, A, target).unwrap();
            let (first, incarnation) = holder(&collector, id);
            incarnations.push(incarnation);
            since.push(first);
            (0..3).for_each(|_| record(&mut a, id));
            a.acknowledge(registry.retire(A, &[id]).unwrap());
        }
        assert_eq!(since, [0, 3, 6]);
        assert!(incarnations.is_sorted_by(|one, next| one < next), "{incarnations:?}");
    }

    #[test]
    fn a_row_stays_with_its_shard_whose_ring_its_position_counts() {
        let (mut a, _b, _collector, registry) = made(ONE);
        let old = stream(&registry, A, "b").unwrap();
        a.acknowledge(registry.retire(A, &[old]).unwrap());
        assert_eq!(registry.room(B), Ok(Room { cells: 1, series: 0 }));
        assert_eq!(stream(&registry, B, "c"), full());
        assert_eq!(registry.room(A), Ok(Room { cells: 1, series: 1 }));
        assert_eq!(stream(&registry, A, "c"), Ok(old));
    }

    #[test]
    fn a_cell_starts_over_whatever_it_is_used_for() {
        let (mut a, _b, collector, registry) = made(ONE);
        let mut sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        sent.add(9);
        a.acknowledge(registry.retire(A, &[sent.id()]).unwrap());
        let mut rtt = registry.gauge(A, &PROBE_RTT_MS, &["b"]).unwrap();
        assert_eq!((rtt.get(), collector.gauge(rtt.id())), (None, None));
        rtt.set(0.25);
        a.acknowledge(registry.retire(A, &[rtt.id()]).unwrap());
        let sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        assert_eq!((sent.get(), collector.counter(sent.id())), (0, Some(0)));
    }

    #[test]
    fn texts_are_used_again() {
        let sizes = HubConfig { cells_per_shard: 300, max_series: 300, ..SMALL };
        let (mut a, _b, collector, registry) = made(sizes);
        // 263 texts of 1,024 octets are all that fit, see `refused::one_more_text_...`.
        for round in 0..3 {
            let text = |n: u32| format!("{:01024}", 1000 * round + n);
            let intern = |n| registry.counter(A, &PROBE_SENT, &[&text(n)]).map(|cell| cell.id());
            let ids: Vec<_> = (0..263).map(|n| intern(n).unwrap()).collect();
            assert_eq!(intern(263), Err(SeriesError::TextsFull));
            assert_eq!(values(&collector, ids[262]), [text(262)]);
            a.acknowledge(registry.retire(A, &ids).unwrap());
        }
    }

    #[test]
    fn a_text_that_another_series_names_stays() {
        let (mut a, _b, collector, registry) = made(SMALL);
        let sent = registry.counter(A, &PROBE_SENT, &["kept"]).unwrap().id();
        let rtt = stream(&registry, A, "kept").unwrap();
        a.acknowledge(registry.retire(A, &[sent]).unwrap());
        // As long as the other, so that it would take its place.
        registry.counter(A, &PROBE_SENT, &["over"]).unwrap();
        registry.counter(A, &PROBE_SENT, &["last"]).unwrap();
        assert_eq!(values(&collector, rtt), ["kept"]);
    }
}

mod tickets {
    use super::*;

    #[test]
    fn a_ticket_acknowledges_those_before_it_and_no_later_one() {
        let (mut a, _b, _collector, registry) = made(SMALL);
        let ids = ["b", "c", "d"].map(|target| stream(&registry, A, target).unwrap());
        let tickets = ids.map(|id| registry.retire(A, &[id]).unwrap());
        let room = || registry.room(A).unwrap().series;
        assert_eq!(room(), 1);
        a.acknowledge(tickets[1]);
        assert_eq!(room(), 3);
        a.acknowledge(tickets[2]);
        assert_eq!(room(), 4);
    }

    #[test]
    fn an_older_ticket_takes_nothing_back() {
        let (mut a, _b, collector, registry) = made(ONE);
        let first = stream(&registry, A, "b").unwrap();
        let older = registry.retire(A, &[first]).unwrap();
        a.acknowledge(older);
        let second = stream(&registry, A, "c").unwrap();
        record(&mut a, second);
        a.acknowledge(registry.retire(A, &[second]).unwrap());
        record(&mut a, MetricId(9));
        a.acknowledge(older);
        let third = stream(&registry, A, "d").unwrap();
        assert_eq!(holder(&collector, third).0, 1, "where the newer one was acknowledged");
    }

    #[test]
    fn a_ticket_of_another_shard_says_nothing() {
        let (mut a, mut b, _collector, registry) = made(SMALL);
        let on_a = stream(&registry, A, "b").unwrap();
        let on_b = stream(&registry, B, "c").unwrap();
        let ticket_of_a = registry.retire(A, &[on_a]).unwrap();
        registry.retire(B, &[on_b]).unwrap();
        b.acknowledge(ticket_of_a);
        let room = |shard| registry.room(shard).unwrap().series;
        assert_eq!((room(A), room(B)), (2, 2));
        a.acknowledge(ticket_of_a);
        assert_eq!((room(A), room(B)), (3, 2));
    }

    #[test]
    fn an_id_named_twice_is_freed_once() {
        let (mut a, _b, _collector, registry) = made(SMALL);
        let sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap().id();
        a.acknowledge(registry.retire(A, &[sent, sent]).unwrap());
        assert_eq!(registry.room(A), Ok(Room { cells: 4, series: 4 }));
        let ids = ["b", "c"].map(|target| registry.counter(A, &PROBE_SENT, &[target]).unwrap().id());
        assert_eq!(ids, [MetricId(0), MetricId(1)]);
    }

    #[test]
    fn a_series_that_several_shards_write_is_not_retired_for_their_sum_would_fall() {
        let (_a, _b, collector, registry) = made(SMALL);
        let mut on_a = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let mut on_b = registry.counter(B, &PROBE_SENT, &["b"]).unwrap();
        on_a.add(3);
        on_b.add(40);
        let refused = registry.retire(A, &[on_a.id()]).unwrap_err().to_string();
        assert_eq!(refused, "series 0 is not held by shard 0 alone; it cannot be retired there");
        collector.directory().read(|series| assert_eq!(series.total(&PROBE_SENT, &["b"]), Some(43)));
    }

    #[test]
    fn an_id_not_held_there_is_refused_and_none_is_retired() {
        let (_a, _b, collector, registry) = made(SMALL);
        let on_a = registry.counter(A, &PROBE_SENT, &["b"]).unwrap().id();
        let on_b = registry.counter(B, &PROBE_SENT, &["c"]).unwrap().id();
        let refused = |shard, ids: &[MetricId]| registry.retire(shard, ids).unwrap_err().to_string();
        assert_eq!(
            refused(A, &[on_a, on_b]),
            "series 1 is not held by shard 0 alone; it cannot be retired there"
        );
        assert_eq!(refused(B, &[on_a]), "series 0 is not held by shard 1 alone; it cannot be retired there");
        assert_eq!(
            refused(A, &[MetricId(99)]),
            "series 99 is not held by shard 0 alone; it cannot be retired there"
        );
        assert_eq!(collector.counter(on_a), Some(0), "all or none");
        registry.retire(A, &[on_a]).unwrap();
        assert_eq!(
            refused(A, &[on_a]),
            "series 0 is not held by shard 0 alone; it cannot be retired there",
            "not twice"
        );
    }
}
