//! What was recorded is delivered or billed as lost, to the unit, and `/metrics` says the same.

use std::time::Duration;

use relayscope_bridge::catalogue::PROBE_RTT_SECONDS;
use relayscope_bridge::{
    Account, Collector, Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry,
    ShardId, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits};

use crate::client::get;
use crate::parser;
use crate::server::Server;

const RECORDS: u64 = 10_000_000;
const SHARD: ShardId = ShardId(0);

fn ring_of(ring_capacity: usize) -> (Publisher, SeriesRegistry, Collector) {
    let Hub { mut publishers, registry, collector, .. } =
        hub(HubConfig { ring_capacity, ..HubConfig::default() }).unwrap();
    (publishers.remove(0), registry, collector)
}

fn record_all(publisher: &mut Publisher, metric_id: MetricId) {
    for timestamp_ns in 0..RECORDS {
        let value = MetricValue::Histogram(0.000_25);
        publisher.record(MetricSample { metric_id, timestamp_ns, value });
    }
}

/// The ring's account, and what the histogram made of it, as scraped over HTTP.
fn scrape(plane: &ControlPlane) -> (f64, f64, f64) {
    let server = Server::start(plane, Limits::default());
    let text = get(server.address, "/metrics").body;
    assert_eq!(server.stop(), 0);
    let of = |name, labels: &[_]| parser::value(&text, name, labels).unwrap();
    (
        of("relay_ring_recorded_samples_total", &[("shard", "0")]),
        of("relay_ring_overwritten_samples_total", &[("shard", "0")]),
        of("relay_probe_rtt_seconds_count", &[("target", "b"), ("family", "ipv4")]),
    )
}

#[test]
fn ten_million_records_into_a_ring_of_1024_nobody_reads_are_all_accounted_for() {
    let (mut publisher, registry, collector) = ring_of(1024);
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    record_all(&mut publisher, rtt);

    let accounts = plane.spawn_drain().unwrap().stop().unwrap();
    let Account { delivered, lost, .. } = accounts[0].1;
    assert_eq!(accounts, [(SHARD, Account { recorded: RECORDS, delivered, lost, unread: 0 })]);
    assert_eq!(delivered + lost, RECORDS);
    assert!((512..1024).contains(&delivered), "most of one ring is still good: {delivered}");
    assert_eq!(scrape(&plane), (RECORDS as f64, lost as f64, delivered as f64));
}

#[test]
fn ten_million_records_beside_a_running_drain_are_all_accounted_for() {
    let (mut publisher, registry, collector) = ring_of(1024);
    let drain_interval = Duration::from_millis(1);
    let config = ControlPlaneConfig { drain_interval, ..ControlPlaneConfig::default() };
    let plane = ControlPlane::new(collector, config).unwrap();
    let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    let drain = plane.spawn_drain().unwrap();
    record_all(&mut publisher, rtt);

    let account = drain.stop().unwrap()[0].1;
    assert_eq!((account.recorded, account.unread), (RECORDS, 0));
    assert_eq!(account.delivered + account.lost, RECORDS);
    assert_eq!(scrape(&plane), (RECORDS as f64, account.lost as f64, account.delivered as f64));
}
