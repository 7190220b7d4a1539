//! Peers that are down, lossy, slow and uneven, and lists, names and an Alertmanager that fail.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use relayscope_impairer::{Impairer, Impairment};

use super::shortened;
use crate::discovery::DnsServer;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Relay, loopback, wait_for};

/// What fires here, with its severity.
pub(super) const FIRE: &[(&str, &str)] = &[
    ("RelayPeerDown", "critical"),
    ("RelayPeerFamilyDown", "warning"),
    ("RelayIsolated", "critical"),
    ("RelayPeerLossHigh", "warning"),
    ("RelayPeerLossHigh", "critical"),
    ("RelayPeerRttHigh", "warning"),
    ("RelayPeerRttHigh", "critical"),
    ("RelayPeerJitterHigh", "warning"),
    ("RelayPeerJitterHigh", "critical"),
    ("RelayTargetUnresolvable", "warning"),
    ("RelayDiscoveryFailing", "warning"),
    ("RelayTargetsLeftOut", "warning"),
    ("RelayAlertmanagerFailing", "critical"),
];

/// Each way, of which 36 % of the probes are lost.
const LOSSY: Impairment = Impairment { loss: 0.2, ..Impairment::NONE };
/// An RTT of 400 ms, above both thresholds.
const SLOW: Impairment = Impairment { delay: Duration::from_millis(200), ..Impairment::NONE };
/// RTTs between 0 and 600 ms, which differ by some 140 ms in the mean.
const UNEVEN: Impairment =
    Impairment { delay: Duration::from_millis(150), jitter: Duration::from_millis(150), ..Impairment::NONE };

fn path(to: IpAddr, impairment: Impairment) -> Impairer {
    let to = SocketAddr::new(to, 8620);
    Impairer::start((loopback(), 0).into(), to, 1, impairment, impairment).unwrap()
}

/// Whole from one moment to the next: it is read at any time.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn list(ip: IpAddr, name: &str) -> String {
    format!(r#"[{{"targets": ["{ip}"], "labels": {{"name": "{name}"}}}}]"#)
}

pub(crate) fn fire() {
    let (a, b, d, alone) = (loopback(), loopback(), loopback(), loopback());
    let reflect = |ip| format!("{ip}:8620");
    let _b = Relay::start(b, &["--reflect", &reflect(b)]);
    let mut d_relay = Relay::start(d, &["--reflect", &reflect(d)]);
    let (lossy, slow, uneven) = (path(b, LOSSY), path(b, SLOW), path(b, UNEVEN));
    let dns = DnsServer::start(loopback());
    // Of IPv6 nobody listens there.
    dns.set("both.test", &[b, "::1".parse().unwrap()]);
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    replace(&at("list.json"), &list(b, "listed"));
    replace(&at("other.json"), &list(b, "other"));
    let targets = [
        ("b", reflect(b)),
        ("d", reflect(d)),
        ("lossy", lossy.address().to_string()),
        ("slow", slow.address().to_string()),
        ("uneven", uneven.address().to_string()),
        ("both", "both.test:8620".to_owned()),
        ("unknown", "unknown.test:8620".to_owned()),
    ];
    let targets: String = targets
        .iter()
        .map(|(name, at)| format!("[[target]]\nname = \"{name}\"\naddress = \"{at}\"\n"))
        .collect();
    let config = format!(
        "watch_interval = \"100ms\"\n[dns]\nresolver = \"{}\"\nttl_min = \"100ms\"\nttl_max = \"200ms\"\n\
         [alerting]\nalertmanagers = [\"http://{a}:9093\"]\n[probe]\ninterval = \"100ms\"\nslot = \"5ms\"\n{targets}\
         [[group]]\nname = \"g\"\nfile_sd = [\"list.json\"]\n[[group]]\nname = \"h\"\nfile_sd = [\"other.json\"]\n",
        dns.address
    );
    replace(&at("relayscope.toml"), &config);
    let a_relay = Relay::start(a, &["--config", at("relayscope.toml").to_str().unwrap()]);
    let nobody = format!("nobody={}", reflect(alone));
    let isolated = Relay::start(alone, &["--reflect", &format!("{alone}:8629"), "--probe", &nobody]);
    a_relay.wait_state("d", "up");
    a_relay.wait_state("other", "up");

    let prometheus = PrometheusServer::start(&[a_relay.http, isolated.http], &shortened());
    let instance = a_relay.http.to_string();
    wait_for("Prometheus to have seen all well", || {
        let seen = prometheus.query("sum(relay_discovery_failures_total{source=\"file\"}) == 0 and on () relay_probe_up{target=\"d\"} == 1")?;
        (!seen.is_empty()).then_some(())
    });
    let fires = |alert: &str, severity: &str, more: &[(&str, &str)]| {
        let wanted = [("alertname", alert), ("severity", severity), ("instance", &instance)];
        prometheus.wait_alert(&[&wanted, more].concat(), true);
    };

    d_relay.process.kill();
    fires("RelayPeerDown", "critical", &[("target", "d")]);
    for severity in ["warning", "critical"] {
        fires("RelayPeerLossHigh", severity, &[("target", "lossy"), ("family", "ipv4")]);
        fires("RelayPeerRttHigh", severity, &[("target", "slow"), ("family", "ipv4")]);
        fires("RelayPeerJitterHigh", severity, &[("target", "uneven"), ("family", "ipv4")]);
    }
    fires("RelayPeerFamilyDown", "warning", &[("target", "both"), ("family", "ipv6")]);
    fires("RelayTargetUnresolvable", "warning", &[("target", "unknown")]);
    // Nobody takes what the relay itself says of all that.
    fires("RelayAlertmanagerFailing", "critical", &[("alertmanager", &format!("http://{a}:9093"))]);
    replace(&at("list.json"), "[{");
    fires("RelayDiscoveryFailing", "warning", &[("source", "file")]);
    replace(&at("other.json"), &list(b, "b"));
    fires("RelayTargetsLeftOut", "warning", &[]);
    let wanted =
        [("alertname", "RelayIsolated"), ("severity", "critical"), ("instance", &isolated.http.to_string())];
    prometheus.wait_alert(&wanted, true);

    // Nobody is accused who does well, and nobody of what another one does.
    for alert in prometheus.firing() {
        assert_ne!(alert.get("target").map(String::as_str), Some("b"), "{alert:?}");
        let expected = |name: &str| {
            match name {
                "RelayPeerDown" => &["d", "nobody", "lossy", "unknown"][..],
                "RelayPeerRttHigh" => &["slow", "uneven"],
                "RelayPeerJitterHigh" => &["uneven"],
                _ => return true,
            }
            .contains(&alert["target"].as_str())
        };
        assert!(expected(&alert["alertname"]), "{alert:?}");
    }
    let _d = Relay::start(d, &["--reflect", &reflect(d)]);
    prometheus.wait_alert(&[("alertname", "RelayPeerDown"), ("target", "d")], false);
    replace(&at("other.json"), &list(b, "other"));
    prometheus.wait_alert(&[("alertname", "RelayTargetsLeftOut")], false);
    dns.set("unknown.test", &[b]);
    prometheus.wait_alert(&[("alertname", "RelayTargetUnresolvable")], false);
}
