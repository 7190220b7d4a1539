//! What the relay says of its own cost, over HTTP and from a drain thread that runs.

use std::time::Duration;

use relayscope_bridge::{Hub, HubConfig, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits};
use serde_json::Value;

use crate::client::get;
use crate::parser;
use crate::server::Server;

fn json(server: &Server, path: &str) -> Value {
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
    let idle = json(&server, "/api/perf/stages");
    assert_eq!(idle["drain_lateness"], Value::Null);
    assert_eq!(idle["stages"][0]["hold"], Value::Null);

    let drain = plane.spawn_drain().unwrap();
    let busy = loop {
        let busy = json(&server, "/api/perf/stages");
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
    let rendered = json(&server, "/api/perf/stages");
    assert_eq!(
        (&rendered["stages"][1]["stage"], &rendered["stages"][1]["count"]),
        (&"render".into(), &1.into())
    );
    assert_eq!(server.stop(), 0);
}
