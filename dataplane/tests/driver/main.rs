//! Shards on real cores, sockets and clocks. What they decide is tested without these.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and here it runs on real time"
)]

mod both;
mod mount;
mod paths;
mod quic;
mod shared;

use std::time::{Duration, Instant};

use relayscope_bridge::{Collector, Hub, HubConfig, MetricValue, SeriesRegistry, ShardId, catalogue, hub};
use relayscope_dataplane::driver::control::{Executor, ShardControl, ShardHandle, spawn};
use relayscope_dataplane::driver::listen::Listeners;
use relayscope_dataplane::driver::oneshot::{self, Oneshot};
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::placement::{available_cores, target_hash};
use relayscope_dataplane::probe::ProbeEvent;
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::runtime::Backend;
use relayscope_dataplane::shard::{Command, EndpointId, Shard, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, ShardSeries, TargetSeries};

const SHARD: ShardId = ShardId(0);

fn new_shard() -> (Shard, SeriesRegistry, Collector) {
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    let series = ShardSeries::intern(&registry, SHARD).unwrap();
    let reflector = Reflector::new(ReflectorConfig::default());
    (Shard::new(Duration::from_millis(10), reflector, publishers.remove(0), series), registry, collector)
}

/// Makes each of these a test on each backend.
macro_rules! on_both_backends {
    ($($test:ident,)*) => {
        mod glommio {
            $(#[test] fn $test() { super::$test(relayscope_dataplane::runtime::Backend::Glommio); })*
        }
        mod poll {
            $(#[test] fn $test() { super::$test(relayscope_dataplane::runtime::Backend::Poll); })*
        }
    };
}
use on_both_backends;

on_both_backends! {
    two_shards_measure_each_other_over_both_families,
    a_silent_target_is_down_without_an_rtt_and_a_removed_one_is_acknowledged,
    a_one_shot_probe_reports_replies_and_losses,
}

fn start(reflectors: Vec<UdpPort>) -> (ShardHandle, SeriesRegistry, Collector) {
    start_on(Backend::Glommio, reflectors)
}

fn start_on(backend: Backend, listeners: impl Into<Listeners>) -> (ShardHandle, SeriesRegistry, Collector) {
    let (shard, registry, collector) = new_shard();
    let core = available_cores()[0];
    let executor = Executor { shard: SHARD, core, spin_before_park: Duration::ZERO };
    let handle = spawn(executor, shard, listeners, backend).unwrap();
    assert_eq!(handle.backend(), backend);
    (handle, registry, collector)
}

fn add_target(shard: &mut ShardControl, registry: &SeriesRegistry, id: u64, name: &str, address: &str) {
    let stamp = Protocol::Stamp(Default::default());
    let config = EndpointConfig {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(300),
        phase_hash: target_hash(name),
        ..EndpointConfig::new(address.parse().unwrap(), stamp)
    };
    for command in add_commands(registry, id, name, config) {
        assert!(shard.send(command).is_ok());
    }
}

/// What it takes to have a target probed at one address.
fn add_commands(registry: &SeriesRegistry, id: u64, name: &str, config: EndpointConfig) -> [Command; 2] {
    let mut ids = Vec::new();
    let target = TargetId(id);
    let series = Box::new(TargetSeries::intern(registry, SHARD, name, &mut ids).unwrap());
    let add_target = Command::AddTarget { id: target, series };
    let (protocol, address) = (config.protocol.label(), config.address);
    let labels = EndpointLabels { target: name, address, protocol, group: "default" };
    let series = EndpointSeries::intern(registry, SHARD, &labels, &config.protocol, &mut ids).unwrap();
    let (config, series) = (Box::new(config), Box::new(series));
    [add_target, Command::AddEndpoint { id: EndpointId(id), target, config, series }]
}

fn counter(collector: &Collector, family: &catalogue::Family, values: &[&str]) -> u64 {
    collector
        .directory()
        .read(|series| series.total(family, values))
        .unwrap_or_else(|| panic!("no series {}{values:?}", family.name))
}

fn gauge(collector: &Collector, family: &catalogue::Family, values: &[&str]) -> Option<f64> {
    collector.directory().read(|series| series.gauge(*series.find(family, values).first()?))
}

fn loopback_port() -> UdpPort {
    UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Waits for a condition, bounded; on failure says what it waited for.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn two_shards_measure_each_other_over_both_families(backend: Backend) {
    let v4 = loopback_port();
    let v6 = UdpPort::bind("[::1]:0".parse().unwrap()).unwrap();
    let (to_v4, to_v6) = (v4.local_address().to_string(), v6.local_address().to_string());
    let (reflecting, _, reflected) = start_on(backend, vec![v4, v6]);
    let (mut probing, registry, mut collector) = start_on(backend, vec![]);
    add_target(&mut probing.control, &registry, 4, "four", &to_v4);
    add_target(&mut probing.control, &registry, 6, "six", &to_v6);

    for (target, family) in [("four", "ipv4"), ("six", "ipv6")] {
        wait_for("five replies", || counter(&collector, &catalogue::PROBE_RECEIVED, &[target, family]) >= 5);
        wait_for("the gauges", || gauge(&collector, &catalogue::PROBE_UP, &[target]) == Some(1.0));
        let rtt_ms = gauge(&collector, &catalogue::PROBE_RTT_MS, &[target]).unwrap();
        assert!(rtt_ms > 0.0 && rtt_ms < 300.0, "{target}: {rtt_ms} ms");
    }
    let mut observed = 0;
    collector.drain(SHARD, |sample| {
        assert!(matches!(sample.value, MetricValue::Histogram(rtt) if rtt > 0.0 && rtt < 0.3));
        observed += 1;
    });
    assert!(observed >= 10, "each reply is an observation in the ring");
    probing.join().unwrap();
    let sent: u64 = [["four", "ipv4"], ["six", "ipv6"]]
        .map(|endpoint| counter(&collector, &catalogue::PROBE_SENT, &endpoint))
        .iter()
        .sum();
    wait_for("all probes to be reflected", || {
        counter(&reflected, &catalogue::REFLECTOR_PACKETS, &["reflected"]) == sent
    });
    reflecting.join().unwrap();
}

fn a_silent_target_is_down_without_an_rtt_and_a_removed_one_is_acknowledged(backend: Backend) {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut probing, registry, collector) = start_on(backend, vec![]);
    add_target(&mut probing.control, &registry, 1, "silent", &silent.local_addr().unwrap().to_string());
    wait_for("a loss", || counter(&collector, &catalogue::PROBE_LOST, &["silent", "ipv4"]) >= 2);
    wait_for("down", || gauge(&collector, &catalogue::PROBE_UP, &["silent"]) == Some(0.0));
    assert_eq!(gauge(&collector, &catalogue::PROBE_RTT_MS, &["silent"]), None);
    assert_eq!(gauge(&collector, &catalogue::PROBE_LOSS_PCT, &["silent"]), Some(100.0));

    let id = collector.directory().read(|series| series.find(&catalogue::PROBE_UP, &["silent"])[0]);
    let before = registry.room(SHARD).unwrap();
    let ticket = registry.retire(SHARD, &[id]).unwrap();
    assert!(probing.control.send(Command::RemoveTarget { id: TargetId(1), ticket }).is_ok());
    wait_for("the acknowledgement", || registry.room(SHARD).unwrap().cells == before.cells + 1);
    probing.join().unwrap();
}

#[test]
fn a_busy_port_names_the_port() {
    let holder = loopback_port();
    let error = UdpPort::bind(holder.local_address()).err().unwrap().to_string();
    let port = holder.local_address().port();
    assert!(error.contains(&format!("port {port} is taken")), "{error}");
}

fn a_one_shot_probe_reports_replies_and_losses(backend: Backend) {
    let port = loopback_port();
    let target = port.local_address();
    let endpoint = EndpointConfig {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(250),
        ..EndpointConfig::new(target, Protocol::Stamp(Default::default()))
    };
    let oneshot = Oneshot { endpoint, count: 3 };
    let (reflecting, ..) = start_on(backend, vec![port]);
    let mut events = Vec::new();
    oneshot::run(&oneshot, || false, |event, _| events.push(event)).unwrap();
    reflecting.join().unwrap();
    let answered = events.iter().filter(|event| matches!(event, ProbeEvent::Answered { .. })).count();
    assert_eq!(answered, 3, "{events:?}");

    // Nobody there any more.
    let mut events = Vec::new();
    oneshot::run(&oneshot, || false, |event, _| events.push(event)).unwrap();
    assert!(events.iter().all(|event| !matches!(event, ProbeEvent::Answered { .. })), "{events:?}");
    assert_eq!(events.len(), 3, "{events:?}");
}
