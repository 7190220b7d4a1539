//! `docs/http-api.md`: its examples have the keys that the routes answer with.

use std::path::Path;

use relayscope_bridge::catalogue::{PROBE_FAMILY_UP, PROBE_RTT_SECONDS, TARGET_INFO};
use relayscope_bridge::{Hub, HubConfig, MetricId, MetricSample, MetricValue, ShardId, hub};
use relayscope_controlplane::history::{
    Event, EventKind, HistoryConfig, HistoryThread, Interval, Retention, RttSummary, Store, TargetKey, Tier,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, Now};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::get;
use crate::live::Listener;
use crate::server::Server;

/// Every route that is documented, with the example of its answer.
fn examples(text: &str) -> Vec<(&str, Value)> {
    text.split("\n## `GET ")
        .skip(1)
        .map(|section| {
            let (route, rest) = section.split_once('`').unwrap();
            let (_, rest) = rest.split_once("```json\n").unwrap_or_else(|| panic!("{route} has no example"));
            let (json, _) = rest.split_once("```").unwrap();
            (route, serde_json::from_str(json).unwrap_or_else(|error| panic!("{route}: {error}")))
        })
        .collect()
}

/// Every event that is documented with an example.
fn event_examples(text: &str) -> Vec<(&str, Value)> {
    let sections = text.split("\n### `event: ").skip(1).map(|of| of.split("\n#").next().unwrap());
    fn example(of: &str) -> Option<&str> {
        Some(of.split_once("```json\n")?.1.split_once("```")?.0)
    }
    sections
        .filter_map(|of| Some((of.split_once('`')?.0, serde_json::from_str(example(of)?).unwrap())))
        .collect()
}

/// Whether both have the same keys, as deep as both go.
fn is_alike(example: &Value, live: &Value) -> bool {
    match (example, live) {
        (Value::Object(example), Value::Object(live)) => {
            example.keys().eq(live.keys()) && example.iter().all(|(key, value)| is_alike(value, &live[key]))
        }
        (Value::Array(example), Value::Array(live)) => match (example.first(), live.first()) {
            (Some(example), Some(live)) => is_alike(example, live),
            (example, live) => example.is_none() == live.is_none(),
        },
        (Value::Null, _) | (_, Value::Null) => true,
        (example, live) => std::mem::discriminant(example) == std::mem::discriminant(live),
    }
}

/// With something of `b` in it, and an event.
fn keep_history(plane: &ControlPlane) -> (TempDir, HistoryThread) {
    let directory = tempfile::tempdir().unwrap();
    let (path, retention) = (directory.path().join("history.db"), Retention::default());
    let now = Now::sample();
    let key = TargetKey { name: "b".to_owned(), family: "ipv4".to_owned() };
    let rtt = RttSummary { count: 1, sum_ns: 7, min_ns: 7, max_ns: 7, quantiles_ns: [7; 6] };
    let interval = Interval {
        answered: 1,
        lost: 0,
        lost_forward: Some(0),
        lost_reverse: Some(0),
        rtt: Some(rtt),
        jitter_ns: Some(7),
    };
    let event = Event {
        at_unix_ms: now.unix_ns / 1_000_000 - 1000,
        kind: EventKind::PeerUp,
        target: Some("b".to_owned()),
        alertname: None,
        severity: None,
        summary: "b answers".to_owned(),
    };
    let start = Tier::TenSeconds.floor(now.unix_ns / 1_000_000_000 - 3600);
    let mut store = Store::open(&path, retention, now).unwrap();
    let written = store.append(Tier::TenSeconds, start + 10, &[(&key, interval)]).unwrap();
    assert_eq!(written.written, 1);
    store.append_events(&[event]).unwrap();
    drop(store);
    let history = plane.spawn_history(HistoryConfig { path, retention }).unwrap();
    (directory, history)
}

#[test]
fn the_examples_of_the_documentation_have_the_keys_of_the_answers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http-api.md");
    let text = std::fs::read_to_string(file).unwrap();
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    registry.gauge(ShardId(0), &TARGET_INFO, &["b", "127.0.0.1:1", "ipv4", "stamp", "default"]).unwrap();
    let rtt = registry.stream(ShardId(0), &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    for metric_id in [rtt, MetricId(9999)] {
        publishers[0].record(MetricSample {
            metric_id,
            timestamp_ns: 1,
            value: MetricValue::Histogram(0.25),
        });
    }
    // Ahead of any clock reading: the shard counts as alive.
    publishers[0].beat(u64::MAX);
    let drain = plane.spawn_drain().unwrap();
    drain.stop().unwrap();
    let (_directory, history) = keep_history(&plane);
    let server = Server::start(&plane, Limits::default());
    let examples = examples(&text);
    for (route, example) in &examples {
        let live = serde_json::from_str(&get(server.address, route).body).unwrap();
        assert!(is_alike(example, &live), "{route}: {example}\nis not like {live}");
    }
    let mut routes: Vec<_> = examples.iter().map(|(route, _)| *route).collect();
    routes.sort_unstable();
    let expected = [
        "/api/perf/io",
        "/api/perf/sources",
        "/api/perf/sqlite",
        "/api/perf/stages",
        "/api/v1/events",
        "/api/v1/history?target=b",
        "/api/v1/relays",
        "/healthz",
        "/mesh?format=json",
        "/readyz",
    ];
    assert_eq!(routes, expected);
    let mut listener = Listener::join(server.address, "");
    listener.wait("event: values\n", 1);
    listener.wait("event: shards\n", 2);
    let up = registry.gauge(ShardId(0), &PROBE_FAMILY_UP, &["b", "ipv4"]);
    up.unwrap().set(1.0);
    listener.wait("event: happened\n", 1);
    listener.wait("event: shards\n", 3);
    let examples = event_examples(&text);
    for (event, example) in &examples {
        let told = listener.told.split_once(&format!("event: {event}\ndata: ")).unwrap().1;
        let live = serde_json::from_str(told.split_once('\n').unwrap().0).unwrap();
        assert!(is_alike(example, &live), "{event}: {example}\nis not like {live}");
    }
    let events: Vec<_> = examples.iter().map(|(event, _)| *event).collect();
    assert_eq!(events, ["values", "shards", "happened"]);
    assert_eq!(server.stop(), 0);
    history.stop();
}
