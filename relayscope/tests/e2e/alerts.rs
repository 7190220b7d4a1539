//! Each alert by its real cause, as the relay itself shows it.

mod alertmanager;
pub(crate) mod peer;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use relayscope_bridge::catalogue::{self, PROBE_FAMILY_UP, PROBE_LOST, PROBE_RECEIVED, PROBE_RTT_SECONDS};
use relayscope_bridge::{
    Hub, HubConfig, MetricId, MetricSample, MetricValue, Publisher, SeriesRegistry, ShardId, create,
};
use relayscope_impairer::{Direction, Impairer, Impairment};
use serde_json::Value;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) use self::alertmanager::{
    killed_peers, over_https, restarted_and_forgetful, trembling_rtt, unreachable_at_stop,
};
use self::peer::Reflector;
use crate::relay::{Process, Relay, get, loopback, start_data_plane, wait_for};

const SHARD: ShardId = ShardId(0);
/// Probes are many, so that alerts are soon.
const PROBING: &str = "[probe]\ninterval = \"50ms\"\ntimeout = \"150ms\"\nslot = \"5ms\"\n";

/// A relay with a configuration file of its own.
struct Bed {
    relay: Relay,
    file: PathBuf,
    _directory: TempDir,
}

impl Bed {
    /// `alerting` are keys of `[alerting]`; `targets` are names and where they are.
    fn start(ip: IpAddr, alerting: &str, targets: &[(&str, SocketAddr)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("relayscope.toml");
        let mut text = format!("{PROBING}[alerting]\ninstance = \"relay-{ip}\"\n{alerting}\n");
        for (name, address) in targets {
            text += &format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        std::fs::write(&file, text).unwrap();
        let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
        Self { relay, file, _directory: directory }
    }
}

/// `alertname subject severity` of those that stand.
fn firing(relay: &Relay) -> Vec<String> {
    of_state(relay, "firing")
}

fn of_state(relay: &Relay, state: &str) -> Vec<String> {
    let (code, answer) = relay.status(&format!("/api/v1/alerts?state={state}"));
    assert_eq!(code, 200);
    let text = |value: &Value| value.as_str().map_or(String::new(), |text| format!(" {text}"));
    let alert = |alert: &Value| {
        let labels = &alert["labels"];
        let (name, severity) = (labels["alertname"].as_str().unwrap(), &labels["severity"]);
        format!("{name}{}{}{}", text(&labels["target"]), text(&labels["shard"]), text(severity))
    };
    answer["alerts"].as_array().unwrap().iter().map(alert).collect()
}

fn wait_firing(relay: &Relay, alert: &str) {
    wait_for(format_args!("{alert} to stand"), || firing(relay).iter().any(|a| a == alert).then_some(()));
}

fn wait_resolved(relay: &Relay, alert: &str) {
    wait_for(format_args!("{alert} to end"), || (!firing(relay).iter().any(|a| a == alert)).then_some(()));
    assert!(of_state(relay, "resolved").iter().any(|a| a == alert), "and it is remembered");
}

/// Paths that delay, lose and disturb, and the three alerts of that; then they heal.
pub(crate) fn of_paths() {
    let reflector = Reflector::start();
    let path = |seed, impairment| {
        Impairer::start(
            SocketAddr::new(loopback(), 0),
            reflector.address(),
            seed,
            impairment,
            Impairment::NONE,
        )
        .unwrap()
    };
    let ms = Duration::from_millis;
    let paths = [
        ("lossy", path(1, Impairment { loss: 0.3, ..Impairment::NONE })),
        ("slow", path(2, Impairment { delay: ms(60), ..Impairment::NONE })),
        ("unsteady", path(3, Impairment { delay: ms(20), jitter: ms(20), ..Impairment::NONE })),
    ];
    let targets: Vec<_> = paths.iter().map(|(name, path)| (*name, path.address())).collect();
    let alerting =
        "rtt_warning = \"50ms\"\nrtt_critical = \"10s\"\njitter_warning = \"5ms\"\njitter_critical = \"10s\"";
    // Three of ten in a row are lost now and then: more of them make it down.
    let alerting = format!("{alerting}\nraise_after = 6\nwindow = 10\nloss_critical = 0.1");
    let bed = Bed::start(loopback(), &alerting, &targets);
    for alert in [
        "RelayPeerLossHigh lossy critical",
        "RelayPeerRttHigh slow warning",
        "RelayPeerJitterHigh unsteady warning",
    ] {
        wait_firing(&bed.relay, alert);
    }
    for (_, path) in &paths {
        path.set_impairment(Direction::Forward, Impairment::NONE);
    }
    wait_for("all to end", || firing(&bed.relay).is_empty().then_some(()));

    let (_, last) = bed.relay.status("/api/v1/last/rtt");
    assert_eq!(last["unit"], "seconds");
    let of: Vec<_> = last["values"].as_array().unwrap().iter().map(|value| &value["target"]).collect();
    assert_eq!(of, ["lossy", "slow", "unsteady"]);
    let rtt = last["values"][0]["value"].as_f64().unwrap();
    assert!(rtt > 0.0 && rtt < 0.05, "{last}");
    let (_, peers) = bed.relay.status("/api/v1/peers");
    let loss = &peers["peers"][0]["metrics"]["loss"];
    assert_eq!((loss["unit"].as_str(), loss["samples"].as_u64()), (Some("ratio"), Some(10)), "{peers}");
}

/// Routes say what would be right; and where nobody looks, that.
pub(crate) fn wrong_questions() {
    let ip = loopback();
    let relay = Relay::start(ip, &["--reflect", &format!("{ip}:8620")]);
    let said = |path: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://{}{path}", relay.http)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    let line = |code: u16, line: &str| (code, format!("{line}\n"));
    assert_eq!(
        said("/api/v1/last/rtt_ms"),
        line(404, "metric \"rtt_ms\" is not known; expected rtt, loss, jitter or up")
    );
    assert_eq!(
        said("/api/v1/alerts?state=pending"),
        line(400, "state \"pending\" is not known; expected state=firing or state=resolved")
    );
    drop(relay);
    let bed = Bed::start(loopback(), "enabled = false", &[]);
    let off = get(&format!("http://{}/api/v1/alerts", bed.relay.http));
    assert!(off.unwrap_err().contains("404"));
}

pub(crate) fn reload_fails() {
    let bed = Bed::start(loopback(), "", &[]);
    let good = std::fs::read_to_string(&bed.file).unwrap();
    std::fs::write(&bed.file, "[probe]\ninterval = \"never\"\n").unwrap();
    bed.relay.process.signal(Signal::SIGHUP);
    wait_firing(&bed.relay, "RelayConfigReloadFailed warning");
    std::fs::write(&bed.file, good).unwrap();
    bed.relay.process.signal(Signal::SIGHUP);
    wait_resolved(&bed.relay, "RelayConfigReloadFailed warning");
}

/// Thresholds are in force after a reload.
pub(crate) fn rules_are_reloaded() {
    let reflector = Reflector::start();
    let bed = Bed::start(loopback(), "", &[("b", reflector.address())]);
    bed.relay.wait_state("b", "up");
    let text = std::fs::read_to_string(&bed.file).unwrap();
    std::fs::write(&bed.file, text.replace("[alerting]\n", "[alerting]\nrtt_warning = \"1us\"\n")).unwrap();
    bed.relay.process.signal(Signal::SIGHUP);
    wait_firing(&bed.relay, "RelayPeerRttHigh b warning");
}

/// As well in a control plane of its own process.
pub(crate) fn rules_of_a_control_plane_are_reloaded() {
    let ((directory, segment), ip) = (place(), loopback());
    let _data = start_data_plane(ip, &segment);
    let config = directory.path().join("relayscope.toml");
    std::fs::write(&config, "").unwrap();
    let control = Relay::start_control_plane_with(ip, &segment, &["--config", config.to_str().unwrap()]);
    control.wait_state("self", "up");
    std::fs::write(&config, "[alerting]\nraise_after = 1\nrtt_warning = \"1us\"\n").unwrap();
    control.process.signal(Signal::SIGHUP);
    wait_firing(&control, "RelayPeerRttHigh self warning");
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment = directory.path().join("segment");
    (directory, segment)
}

/// The data plane does not run for a while: one alert for its shard and none for each of its peers.
pub(crate) fn stopped_data_plane() {
    let ((_directory, segment), ip) = (place(), loopback());
    let data: Process = start_data_plane(ip, &segment);
    let control = Relay::start_control_plane(ip, &segment);
    control.wait_state("self", "up");
    data.signal(Signal::SIGSTOP);
    wait_firing(&control, "RelayShardStalled 0 critical");
    let (code, health) = control.status("/healthz");
    assert_eq!(code, 503, "{health}");
    assert_eq!(firing(&control), ["RelayShardStalled 0 critical"]);
    data.signal(Signal::SIGCONT);
    control.wait_state("self", "up");
    // It stands for the 30 s of `hold`, by default, after that.
    let alerts = control.status("/api/v1/alerts").1;
    assert!(alerts["alerts"][0]["annotations"]["description"].as_str().unwrap().contains("silent for"));
}

/// A relay of another make, which records what it is told to.
struct OtherRelay {
    publisher: Publisher,
    registry: SeriesRegistry,
}

impl OtherRelay {
    fn start(segment: &Path, ring_capacity: usize) -> Self {
        let Hub { mut publishers, registry, .. } =
            create(segment, HubConfig { ring_capacity, ..HubConfig::default() }).unwrap();
        Self { publisher: publishers.remove(0), registry }
    }

    fn beat(&mut self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        self.publisher.beat(u64::try_from(Duration::from(now).as_nanos()).unwrap());
    }

    fn burst(&mut self, metric_id: MetricId, samples: u64) {
        for timestamp_ns in 1..=samples {
            let value = MetricValue::Histogram(0.25);
            self.publisher.record(MetricSample { metric_id, timestamp_ns, value });
        }
    }
}

/// A burst that almost fills the ring between two drains, and one that more than fills it.
pub(crate) fn bursts() {
    const CAPACITY: u64 = 65_536;
    let ((_directory, segment), ip) = (place(), loopback());
    let mut other = OtherRelay::start(&segment, CAPACITY as usize);
    let id = other.registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    other.beat();
    let control = Relay::start_control_plane(ip, &segment);
    control.wait_sample("relay_ring_capacity_samples{shard=\"0\"}", 1.0);
    other.burst(id, CAPACITY / 10 * 9);
    wait_for("the ring to be nearly full", || {
        other.beat();
        firing(&control).iter().any(|alert| alert == "RelayRingNearlyFull 0 warning").then_some(())
    });
    other.burst(id, 3 * CAPACITY);
    wait_for("the overflow", || {
        other.beat();
        firing(&control).iter().any(|alert| alert == "RelayRingOverflow 0 critical").then_some(())
    });
    let overwritten = control.sample("relay_ring_overwritten_samples_total{shard=\"0\"}").unwrap();
    let (_, alerts) = control.status("/api/v1/alerts?state=firing");
    let mut standing = alerts["alerts"].as_array().unwrap().iter();
    let overflow = standing.find(|alert| alert["labels"]["alertname"] == "RelayRingOverflow").unwrap();
    assert_eq!(overflow["value"].as_f64(), Some(overwritten), "to the unit");
}

/// Its shard beats on, but of a peer nothing is heard any more.
pub(crate) fn silent_peer() {
    let ((directory, segment), ip) = (place(), loopback());
    let mut other = OtherRelay::start(&segment, 1024);
    let registry = other.registry.clone();
    let info = ["b", "192.0.2.1:8620", "ipv4", "stamp", "default"];
    registry.gauge(SHARD, &catalogue::TARGET_INFO, &info).unwrap();
    registry.gauge(SHARD, &PROBE_FAMILY_UP, &["b", "ipv4"]).unwrap().set(1.0);
    let mut received = registry.counter(SHARD, &PROBE_RECEIVED, &["b", "ipv4"]).unwrap();
    registry.counter(SHARD, &PROBE_LOST, &["b", "ipv4"]).unwrap();
    other.beat();
    let config = directory.path().join("relayscope.toml");
    std::fs::write(&config, "[alerting]\nttl = \"1s\"\n").unwrap();
    let control = Relay::start_control_plane_with(ip, &segment, &["--config", config.to_str().unwrap()]);

    let began = Instant::now();
    let mut live = |is_answered: bool| {
        other.beat();
        if is_answered {
            received.add(1);
        }
    };
    let metrics = || control.status("/api/v1/last/up").1["values"].as_array().map_or(0, Vec::len);
    wait_for("samples of b", || {
        live(true);
        (metrics() == 1 && began.elapsed() > Duration::from_secs(2)).then_some(())
    });
    wait_for("its silence", || {
        live(false);
        firing(&control).iter().any(|alert| alert == "RelayPeerSilent b warning").then_some(())
    });
    assert_eq!(metrics(), 0, "what it said last holds no longer");
    wait_for("its return", || {
        live(true);
        firing(&control).is_empty().then_some(())
    });
    assert_eq!(of_state(&control, "resolved"), ["RelayPeerSilent b warning"]);
}
