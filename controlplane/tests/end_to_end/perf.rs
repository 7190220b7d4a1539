//! What the relay says of its own cost, over HTTP and from a drain thread that runs.

use std::sync::mpsc::channel;
use std::time::Duration;

use relayscope_bridge::catalogue::{PROBE_HANDSHAKE_SECONDS, PROBE_RTT_SECONDS, PROBE_UP};
use relayscope_bridge::{Hub, HubConfig, MetricId, MetricSample, MetricValue, ShardId, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits};
use serde_json::{Value, json};

use crate::client::get;
use crate::parser;
use crate::server::Server;

fn get_json(server: &Server, path: &str) -> Value {
    let reply = get(server.address, path);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json")),
        "{}",
        reply.body
    );
    serde_json::from_str(&reply.body).unwrap()
}

#[test]
fn stages_and_lateness_are_those_of_the_drain_that_runs() {
    let Hub { publishers: _publishers, collector, .. } = hub(HubConfig::default()).unwrap();
    let config =
        ControlPlaneConfig { drain_interval: Duration::from_millis(2), ..ControlPlaneConfig::default() };
    let plane = ControlPlane::new(collector, config).unwrap();
    let server = Server::start(&plane, Limits::default());
    let idle = get_json(&server, "/api/perf/stages");
    assert_eq!(idle["drain_lateness"], Value::Null);
    assert_eq!(idle["stages"][0]["hold"], Value::Null);

    let drain = plane.spawn_drain().unwrap();
    let busy = loop {
        let busy = get_json(&server, "/api/perf/stages");
        if busy["stages"][0]["count"].as_u64() >= Some(20) {
            break busy;
        }
    };
    let text = get(server.address, "/metrics").body;
    drain.stop().unwrap();
    assert_eq!(busy["drain_interval_seconds"], 0.002);
    let [drained, lateness] = [&busy["stages"][0]["hold"], &busy["drain_lateness"]];
    for of in [drained, lateness] {
        let quantiles =
            ["p50_seconds", "p95_seconds", "p99_seconds", "max_seconds"].map(|q| of[q].as_f64().unwrap());
        assert!(quantiles.is_sorted() && quantiles[3] > 0.0, "{of}");
    }
    assert!(parser::value(&text, "relay_drain_lateness_seconds_count", &[]) >= Some(20.0), "{text}");
    let rendered = get_json(&server, "/api/perf/stages");
    assert_eq!(
        (&rendered["stages"][1]["stage"], &rendered["stages"][1]["count"]),
        (&"render".into(), &1.into())
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn each_exposition_gives_each_refresher_one_turn_though_one_hangs_and_another_panics() {
    let Hub { publishers: _publishers, collector, .. } = hub(HubConfig::default()).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let (free, hung) = channel::<()>();
    plane.add_refresher("hangs", move || assert!(hung.recv().is_err())).unwrap();
    plane.add_refresher("panics", || panic!("on purpose")).unwrap();
    plane.add_refresher("good", || {}).unwrap();
    let server = Server::start(&plane, Limits::default());
    let turns = |text: &str, refresher, result| {
        let labels = [("refresher", refresher), ("result", result)];
        parser::value(text, "relay_scrape_refreshes_total", &labels).unwrap_or(0.0)
    };
    let text = loop {
        plane.tick();
        // Of one drain there is one exposition, however often it is asked for.
        let text = [(); 3].map(|()| get(server.address, "/metrics").body)[2].clone();
        let expositions =
            1.0 + parser::value(&text, "relay_scrape_duration_seconds_count", &[]).unwrap_or(0.0);
        for refresher in ["hangs", "panics", "good"] {
            let of = |result| turns(&text, refresher, result);
            assert_eq!(of("done") + of("panicked") + of("overran") + of("skipped"), expositions, "{text}");
        }
        if turns(&text, "good", "done") >= 2.0 && turns(&text, "panics", "panicked") >= 1.0 {
            break text;
        }
    };
    assert_eq!((turns(&text, "hangs", "overran"), turns(&text, "hangs", "done")), (1.0, 0.0));
    let turns_over = || get_json(&server, "/api/perf/stages")["stages"][2]["count"].as_u64().unwrap();
    let before = turns_over();
    drop(free);
    // Its time is measured though nobody waits for it to end.
    while turns_over() == before {
        std::thread::yield_now();
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_a_ring_brought_is_told_by_family_and_adds_up_to_the_unit() {
    let sizes = HubConfig { shards: 2, ring_capacity: 64, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let rtt = registry.stream(ShardId(1), &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    let up = registry.gauge(ShardId(1), &PROBE_UP, &["b"]).unwrap().id();
    let gone = registry.stream(ShardId(1), &PROBE_HANDSHAKE_SECONDS, &["b", "ipv4"]).unwrap();
    let mut record = |metric_id, value, times| {
        let sample = MetricSample { metric_id, timestamp_ns: 1, value };
        (0..times).for_each(|_| publishers[1].record(sample));
    };
    record(rtt, MetricValue::Histogram(0.25), 20);
    record(rtt, MetricValue::Histogram(f64::NAN), 1);
    record(up, MetricValue::Gauge(1.0), 5);
    record(gone, MetricValue::Histogram(0.25), 7);
    plane.tick();
    // What a retired series brought stays counted.
    registry.retire(ShardId(1), &[gone]).unwrap();
    plane.tick();
    record(MetricId(9999), MetricValue::Counter(1), 2);
    record(rtt, MetricValue::Histogram(0.25), 100);
    plane.tick();
    record(rtt, MetricValue::Histogram(0.25), 3);

    let server = Server::start(&plane, Limits::default());
    let said = get_json(&server, "/api/perf/sources");
    let [silent, shard] = [&said["shards"][0], &said["shards"][1]];
    let account = json!({"shard": 0, "recorded": 0, "drained": 0, "lost": 0, "unread": 0, "sources": []});
    assert_eq!(*silent, account);
    let of = |key: &str| shard[key].as_u64().unwrap();
    assert_eq!((of("recorded"), of("unread")), (138, 3));
    assert_eq!(of("drained") + of("lost") + of("unread"), 138);
    // Of the ring's 64 the one in flight, and what is skipped for slack, are not read.
    assert!(of("lost") >= 39, "{shard}");
    let kept = of("drained") - 33;
    let expected = json!([
        {"source": "relay_probe_handshake_seconds", "kind": "histogram", "drained": 7},
        {"source": "relay_probe_rtt_seconds", "kind": "histogram", "drained": 21 + kept},
        {"source": "relay_probe_up", "kind": "gauge", "drained": 5},
    ]);
    assert_eq!(shard["sources"], expected, "those of no series were overwritten");
    record(MetricId(9999), MetricValue::Counter(1), 2);
    plane.tick();
    let unknown = get_json(&server, "/api/perf/sources")["shards"][1]["sources"][3].take();
    assert_eq!(unknown, json!({"source": null, "kind": null, "drained": 2}));
    assert_eq!(server.stop(), 0);
}
