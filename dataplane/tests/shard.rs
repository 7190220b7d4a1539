//! A whole shard without sockets or clocks: what its events become in its series.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use relayscope_bridge::catalogue::{Family, PROBE_DISCARDED, PROBE_LOST, PROBE_SENT, SHARD_RECEIVE_OVERFLOW};
use relayscope_bridge::{Collector, Hub, HubConfig, ShardId, hub};
use relayscope_dataplane::clock::{Monotonic, Now, Realtime};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::shard::{Command, EndpointId, Shard, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, ShardSeries, TargetSeries};

const MS: u64 = 1_000_000;
const SHARD: ShardId = ShardId(0);

fn at(ms: u64) -> Now {
    Now { monotonic: Monotonic(ms * MS), realtime: Realtime(ms * MS) }
}

/// A shard that has sent its only target the first probe at one second; half a second is its timeout.
fn one_probe_sent() -> (Shard, Collector) {
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    let series = ShardSeries::intern(&registry, SHARD).unwrap();
    let reflector = Reflector::new(ReflectorConfig::default());
    let mut shard = Shard::new(Duration::from_millis(20), reflector, publishers.remove(0), series);
    let address = "192.0.2.9:862".parse().unwrap();
    let config = EndpointConfig {
        timeout: Duration::from_millis(500),
        ..EndpointConfig::new(address, Protocol::Stamp(Default::default()))
    };
    let mut ids = Vec::new();
    let target = TargetId(1);
    let series = Box::new(TargetSeries::intern(&registry, SHARD, "b", &mut ids).unwrap());
    shard.handle_command(at(0), Command::AddTarget { id: target, series });
    let labels = EndpointLabels { target: "b", address, protocol: "stamp", group: "default" };
    let series = EndpointSeries::intern(&registry, SHARD, &labels, &config.protocol, &mut ids).unwrap();
    let (config, series) = (Box::new(config), Box::new(series));
    shard.handle_command(at(0), Command::AddEndpoint { id: EndpointId(1), target, config, series });
    let transmit = shard.poll_transmit(at(1_000).monotonic, at(1_000)).unwrap();
    shard.handle_sent(at(1_000), transmit.probe, Duration::ZERO, Ok(()));
    (shard, collector)
}

fn counter(collector: &Collector, family: &Family, values: &[&str]) -> Option<u64> {
    collector.directory().read(|series| series.total(family, values))
}

#[test]
fn an_unanswered_probe_is_lost() {
    let (mut shard, collector) = one_probe_sent();
    shard.handle_timeout(at(1_600));
    let counts = [&PROBE_SENT, &PROBE_LOST, &PROBE_DISCARDED]
        .map(|family| counter(&collector, family, &["b", "ipv4"]));
    assert_eq!(counts, [Some(1), Some(1), Some(0)]);
}

#[test]
fn an_unanswered_probe_is_discarded_when_our_own_socket_overflowed_meanwhile() {
    let (mut shard, collector) = one_probe_sent();
    shard.handle_overflow(7);
    shard.handle_blind(at(1_200).monotonic, at(1_220).monotonic);
    shard.handle_timeout(at(1_600));
    let counts = [&PROBE_SENT, &PROBE_LOST, &PROBE_DISCARDED]
        .map(|family| counter(&collector, family, &["b", "ipv4"]));
    assert_eq!(counts, [Some(1), Some(0), Some(1)]);
    assert_eq!(counter(&collector, &SHARD_RECEIVE_OVERFLOW, &["0"]), Some(7));
}
