//! The table of series: what may be interned, what a reader sees of it, and what it refuses.

mod families;

use relayscope_bridge::catalogue::{Family, MESH_PEERS, PROBE_RTT_MS, Unit};
use relayscope_bridge::{
    Collector, Hub, HubConfig, MetricKind, MetricSample, MetricValue, Publisher, Room, SeriesRegistry,
    ShardId, hub,
};

use families::{PROBE_RTT_SECONDS, PROBE_SEND_ERRORS, PROBE_SENT};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const SMALL: HubConfig = HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 4, max_series: 4 };

fn made(config: HubConfig) -> (Vec<Publisher>, Collector, SeriesRegistry) {
    let Hub { publishers, registry, collector, .. } = hub(config).expect("the sizes are in range");
    (publishers, collector, registry)
}

fn message<T>(refused: Result<T, impl std::error::Error>) -> String {
    refused.err().expect("it was not refused").to_string()
}

/// What is interned, as a reader lists it.
fn listed(collector: &Collector) -> Vec<(u32, &'static str, Vec<String>, ShardId)> {
    collector
        .directory()
        .read(|series| series.series().map(|s| (s.id.0, s.family.name, s.values.to_vec(), s.shard)).collect())
}

fn family(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> &'static Family {
    let kind = MetricKind::Counter;
    Box::leak(Box::new(Family { name, kind, unit: Unit::None, help, labels, prefixed: true }))
}

mod readers {
    use super::*;

    #[test]
    fn series_are_found_and_listed_with_family_values_and_shard() {
        let (_publishers, collector, registry) = made(SMALL);
        let peers = registry.gauge(A, &MESH_PEERS, &[]).unwrap();
        let errors = registry.counter(B, &PROBE_SEND_ERRORS, &["relay-b", "refused"]).unwrap();
        let expected = [
            (0, "mesh_peers", vec![], A),
            (1, "probe_send_errors_total", vec!["relay-b".to_owned(), "refused".to_owned()], B),
        ];
        assert_eq!(listed(&collector), expected);
        assert_eq!((peers.id().0, errors.id().0), (0, 1));
        collector.directory().read(|series| {
            assert_eq!(series.find(&PROBE_SEND_ERRORS, &["relay-b", "refused"]), [errors.id()]);
            assert_eq!(series.find(&PROBE_SEND_ERRORS, &["relay-b", "other"]), []);
            assert_eq!(series.find(&PROBE_SENT, &["relay-b"]), []);
            assert_eq!(series.writer(errors.id()), Some(B));
        });
    }

    #[test]
    fn a_family_of_the_catalogue_is_read_as_the_very_same() {
        let (_publishers, collector, registry) = made(SMALL);
        registry.gauge(A, &PROBE_RTT_MS, &["b"]).unwrap();
        collector.directory().read(|series| {
            assert!(series.series().all(|s| std::ptr::eq(s.family, &PROBE_RTT_MS)));
        });
    }

    #[test]
    fn a_family_of_an_application_is_read_as_it_was_declared() {
        static FORWARDED: Family = Family {
            name: "forwarded_bytes_total",
            kind: MetricKind::Counter,
            unit: Unit::Bytes,
            help: "Bytes forwarded; größer is better.",
            labels: &["room", "via", "codec"],
            prefixed: false,
        };
        let (_publishers, collector, registry) = made(SMALL);
        let values = ["Zimmer \u{1f6aa}", "", "a value of seventeen"];
        registry.counter(A, &FORWARDED, &values).unwrap();
        collector.directory().read(|series| {
            let read: Vec<_> = series.series().map(|s| (s.family, s.values.to_vec())).collect();
            assert_eq!(read, [(&FORWARDED, values.map(str::to_owned).to_vec())]);
        });
    }

    #[test]
    fn shards_that_share_a_series_are_all_found_under_its_name() {
        let (_publishers, collector, registry) = made(SMALL);
        let on_a = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        let on_b = registry.stream(B, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        collector.directory().read(|series| {
            assert_eq!(series.find(&PROBE_RTT_SECONDS, &["b"]), [on_a, on_b]);
            assert_eq!((series.writer(on_a), series.writer(on_b)), (Some(A), Some(B)));
        });
    }

    #[test]
    fn the_generation_changes_with_every_series_added_or_retired_and_not_otherwise() {
        let (mut publishers, mut collector, registry) = made(SMALL);
        let directory = collector.directory().clone();
        let generation = || directory.read(|series| series.generation());
        let mut seen = vec![generation()];
        let mut sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        seen.push(generation());
        let rtt = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        seen.push(generation());
        sent.add(1);
        let value = MetricValue::Histogram(0.1);
        publishers[0].record(MetricSample { metric_id: rtt, timestamp_ns: 1, value });
        collector.drain(A, |_| {});
        assert!(registry.counter(A, &PROBE_SENT, &["b"]).is_err());
        seen.push(generation());
        registry.retire(A, &[rtt]).unwrap();
        seen.push(generation());
        let changes: Vec<bool> = seen.windows(2).map(|pair| pair[0] != pair[1]).collect();
        assert_eq!(changes, [true, true, false, true]);
    }

    #[test]
    fn a_series_that_came_and_went_between_two_looks_leaves_nothing() {
        let (mut publishers, collector, registry) = made(SMALL);
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        assert_eq!(listed(&collector).len(), 1);
        let brief = registry.counter(A, &PROBE_SENT, &["c"]).unwrap().id();
        publishers[0].acknowledge(registry.retire(A, &[brief]).unwrap());
        registry.counter(A, &PROBE_SENT, &["d"]).unwrap();
        let names: Vec<_> = listed(&collector).into_iter().map(|(id, _, values, _)| (id, values)).collect();
        assert_eq!(names, [(0, vec!["b".to_owned()]), (1, vec!["d".to_owned()])]);
        collector.directory().read(|series| assert_eq!(series.find(&PROBE_SENT, &["c"]), []));
    }
}

mod refused {
    use super::*;

    #[test]
    fn a_second_writer_on_the_same_shard_or_of_a_gauge_on_any() {
        let (_publishers, _collector, registry) = made(HubConfig { max_series: 8, ..SMALL });
        registry.gauge(A, &PROBE_RTT_MS, &["b"]).unwrap();
        registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let taken = |name: &str| format!("series {name}[\"b\"] already has a writer; retire it first");
        assert_eq!(message(registry.gauge(A, &PROBE_RTT_MS, &["b"])), taken("probe_rtt_ms"));
        assert_eq!(message(registry.gauge(B, &PROBE_RTT_MS, &["b"])), taken("probe_rtt_ms"));
        assert_eq!(message(registry.stream(A, &PROBE_RTT_SECONDS, &["b"])), taken("probe_rtt_seconds"));
        assert_eq!(message(registry.counter(A, &PROBE_SENT, &["b"])), taken("probe_sent_total"));
        assert!(registry.stream(B, &PROBE_RTT_SECONDS, &["b"]).is_ok());
        assert!(registry.counter(B, &PROBE_SENT, &["b"]).is_ok());
    }

    #[test]
    fn a_family_of_another_kind() {
        let (_publishers, _collector, registry) = made(SMALL);
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
    fn values_that_do_not_fit_the_labels() {
        let (_publishers, _collector, registry) = made(SMALL);
        let got = |values: &[&str]| message(registry.counter(A, &PROBE_SENT, values));
        assert_eq!(got(&[]), "family probe_sent_total has 1 labels; got 0 values");
        assert_eq!(got(&["b", "c"]), "family probe_sent_total has 1 labels; got 2 values");
    }

    #[test]
    fn a_shard_that_does_not_exist() {
        let (_publishers, _collector, registry) = made(SMALL);
        let expected = "shard 2 does not exist; there are 2";
        assert_eq!(message(registry.counter(ShardId(2), &PROBE_SENT, &["b"])), expected);
        assert_eq!(message(registry.retire(ShardId(2), &[])), expected);
        assert_eq!(message(registry.room(ShardId(2))), expected);
    }

    #[test]
    fn texts_longer_than_a_row_can_name() {
        let (_publishers, collector, registry) = made(HubConfig { max_series: 300, ..SMALL });
        let long: &'static str = "x".repeat(1025).leak();
        let refused = |family, values: &[&str]| message(registry.counter(A, family, values));
        assert_eq!(
            refused(&PROBE_SENT, &[long]),
            "family probe_sent_total: a label's value is 1025 long; at most 1024 fit"
        );
        assert_eq!(refused(family("f", long, &[]), &[]), "family f: the help is 1025 long; at most 1024 fit");
        assert_eq!(
            refused(family(long, "Help.", &[]), &[]),
            format!("family {long}: the name is 1025 long; at most 1024 fit")
        );
        let labels = vec![long].leak();
        assert_eq!(
            refused(family("f", "Help.", labels), &["v"]),
            "family f: a label's name is 1025 long; at most 1024 fit"
        );
        let nine = family("f", "Help.", &["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        assert_eq!(refused(nine, &["v"; 9]), "family f: the list of labels is 9 long; at most 8 fit");
        assert_eq!(listed(&collector), []);

        let (longest, eight) =
            (&long[1..], family("f", long[1..].as_ref(), &["a", "b", "c", "d", "e", "f", "g", "h"]));
        registry.counter(A, eight, &[longest; 8]).unwrap();
        assert_eq!(listed(&collector), [(0, "f", vec![longest.to_owned(); 8], A)]);
    }

    #[test]
    fn one_more_series_than_the_table_holds_and_it_keeps_no_cell() {
        let (_publishers, _collector, registry) = made(SMALL);
        for target in ["b", "c", "d", "e"] {
            registry.stream(A, &PROBE_RTT_SECONDS, &[target]).unwrap();
        }
        let expected = "series table is full at 4; raise max_series or probe fewer targets";
        assert_eq!(message(registry.counter(A, &PROBE_SENT, &["b"])), expected);
        assert_eq!(message(registry.stream(B, &PROBE_RTT_SECONDS, &["f"])), expected);
        assert_eq!(registry.room(A), Ok(Room { cells: 4, series: 0 }));
    }

    #[test]
    fn one_more_cell_than_the_shard_has_and_it_keeps_no_row() {
        let (_publishers, collector, registry) = made(HubConfig { cells_per_shard: 1, ..SMALL });
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let refused = message(registry.counter(A, &PROBE_SENT, &["c"]));
        assert_eq!(refused, "shard 0 has all its 1 cells in use; raise cells_per_shard");
        assert_eq!(registry.room(A), Ok(Room { cells: 0, series: 3 }));
        registry.counter(B, &PROBE_SENT, &["c"]).unwrap();
        registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
        assert_eq!(listed(&collector).len(), 3);
    }

    #[test]
    fn one_more_text_than_the_segment_holds_and_it_keeps_neither_row_nor_cell() {
        let (_publishers, _collector, registry) =
            made(HubConfig { cells_per_shard: 400, max_series: 300, ..SMALL });
        // 33,968 words for strings; a text of 1,024 octets takes 129 of them, the family a few.
        let text = |n: u32| format!("{n:01024}");
        for n in 0..263 {
            registry.counter(A, &PROBE_SENT, &[&text(n)]).unwrap();
        }
        let refused = message(registry.counter(A, &PROBE_SENT, &[&text(263)]));
        assert_eq!(refused, "no room for another text in the segment; raise max_series");
        assert_eq!(registry.room(A), Ok(Room { cells: 137, series: 37 }));
        registry.counter(B, &PROBE_SENT, &[&text(7)]).expect("a text that is there takes no room");
        // The first of two texts is given back when the second does not fit.
        for _ in 0..100 {
            let refused = message(registry.counter(A, &PROBE_SEND_ERRORS, &["short", &text(263)]));
            assert_eq!(refused, "no room for another text in the segment; raise max_series");
        }
        registry.counter(A, &PROBE_SENT, &["short"]).expect("there are words left for a short one");
    }

    #[test]
    fn one_more_family_than_the_segment_holds() {
        let (_publishers, _collector, registry) =
            made(HubConfig { cells_per_shard: 1100, max_series: 1100, ..SMALL });
        let numbered = |n: u32| family(format!("family_{n}_total").leak(), "Help.", &[]);
        for n in 0..1024 {
            registry.counter(A, numbered(n), &[]).unwrap();
        }
        let refused = message(registry.counter(A, numbered(1024), &[]));
        assert_eq!(refused, "family table is full at 1024; declare fewer families");
        assert_eq!(registry.room(A), Ok(Room { cells: 76, series: 76 }));
    }
}
