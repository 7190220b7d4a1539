//! The example as built, from outside.

use example_harness::{Example, dependencies, value, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_example-mount-probes");

#[test]
fn it_measures_itself_beside_its_own_work() {
    let mut example = Example::start(PROGRAM, 60);
    let http = example.address("http");
    let of = |metrics: &str, series| value(metrics, series).unwrap_or(0.0);
    let (received, rounds) =
        ("relay_probe_received_total{target=\"self\",family=\"ipv4\"}", "relay_application_rounds_total");
    let first = wait_for(http, "/metrics", "replies", |metrics| of(metrics, received) >= 3.0);
    let metrics = wait_for(http, "/metrics", "more of both", |metrics| {
        of(metrics, received) >= of(&first, received) + 3.0
            && of(metrics, rounds) >= of(&first, rounds) + 50.0
    });
    assert_eq!(value(&metrics, "relay_probe_up{target=\"self\"}"), Some(1.0));
    let timed = of(&metrics, "relay_probe_rtt_seconds_count{target=\"self\",family=\"ipv4\"}");
    let recorded = of(&metrics, "relay_ring_recorded_samples_total{shard=\"0\"}");
    let overwritten = of(&metrics, "relay_ring_overwritten_samples_total{shard=\"0\"}");
    assert!(timed >= 3.0 && timed + overwritten <= recorded, "{timed} + {overwritten} of {recorded}");
    assert!(of(&metrics, "relay_reflector_packets_total{result=\"reflected\"}") >= of(&metrics, received));
    wait_for(http, "/readyz", "its heartbeat", |ready| ready.contains("\"ready\":true"));
    wait_for(http, "/healthz", "health", |health| health.starts_with("{\"status\":\"ok\""));
}

#[test]
fn it_stops_its_probes_in_time_and_drains_every_sample() {
    let said = Example::start(PROGRAM, 2).finish();
    let number = |name: &str| -> u64 {
        let after = said.split_once(name).map_or("", |(_, after)| after);
        let digits = after.split_once(',').map_or("", |(digits, _)| digits);
        digits.parse().unwrap_or_else(|error| panic!("{name}{digits}: {error} in {said}"))
    };
    assert!(number("recorded: ") >= 3 && number("recorded: ") == number("delivered: "), "{said}");
    assert!(said.contains("lost: 0, unread: 0"), "{said}");
}

#[test]
fn it_is_shorter_than_80_lines() {
    let lines = include_str!("../src/main.rs").lines().count();
    assert!(lines < 80, "{lines} lines");
}

#[test]
fn it_links_both_planes_and_their_bridge_and_not_the_binary() {
    let linked = ["glommio", "relayscope-bridge", "relayscope-controlplane", "relayscope-dataplane"];
    assert_eq!(dependencies(include_str!("../Cargo.toml")), linked);
}
