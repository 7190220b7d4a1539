//! Relays that are gone, start again and again, or run with an old configuration.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use nix::sys::signal::Signal;

use super::shortened;
use crate::prometheus_server::{Alert, PrometheusServer};
use crate::relay::{Process, Relay, loopback, wait_for, with_own_state};

/// What fires here, with its severity.
pub(super) const FIRE: &[(&str, &str)] = &[
    ("RelayScrapeAbsent", "critical"),
    ("RelayConfigReloadFailed", "warning"),
    ("RelayRestarting", "warning"),
    ("RelayFileDescriptorsScarce", "warning"),
    ("RelaySeriesRefused", "warning"),
    ("RelayHistoryNotWritten", "warning"),
];

/// The least with which a relay of one shard starts.
const DESCRIPTORS_MAX: usize = 160;
/// Each of which takes two descriptors, beside some 24.
const REFLECTORS: u16 = 55;

/// A relay that may have few descriptors, and listens at many ports.
fn crowded(ip: IpAddr) -> Relay {
    let http = SocketAddr::new(ip, 9862);
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {DESCRIPTORS_MAX}; exec \"$@\"");
    command.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_relayscope"), "run"]);
    with_own_state(&mut command).args(["--listen", &http.to_string()]);
    (0..REFLECTORS).for_each(|i| {
        command.args(["--reflect", &format!("{ip}:{}", 8620 + i)]);
    });
    let relay = Relay { process: Process::start(&mut command), http };
    relay.wait_ready();
    relay
}

pub(crate) fn fire() {
    let (ip, other, directory) = (loopback(), loopback(), tempfile::tempdir().unwrap());
    let config = directory.path().join("relayscope.toml");
    let good = format!(
        "[[target]]\nname = \"self\"\naddress = \"{ip}:8620\"\n[reflector]\nlisten = [\"{ip}:8620\"]\n"
    );
    std::fs::write(&config, &good).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let mut relay = Relay::start(ip, &arguments);
    let well = Relay::start(
        other,
        &["--reflect", &format!("{other}:8620"), "--probe", &format!("self={other}:8620")],
    );
    let crowded = crowded(loopback());
    let capped_config = directory.path().join("capped.toml");
    // With more series than it shows, and a history that there is no place for.
    let text = "[exposition]\nseries_max = 10\n[history]\npath = \"/dev/null/history.db\"\n";
    std::fs::write(&capped_config, text).unwrap();
    let capped = Relay::start(loopback(), &["--config", capped_config.to_str().unwrap()]);
    let prometheus =
        PrometheusServer::start(&[relay.http, well.http, crowded.http, capped.http], &shortened());
    let instance = relay.http.to_string();
    let wait = |alert: &str, severity: &str, fires: bool| {
        prometheus
            .wait_alert(&[("alertname", alert), ("severity", severity), ("instance", &instance)], fires);
    };

    let others = [
        ("RelayFileDescriptorsScarce", crowded.http),
        ("RelaySeriesRefused", capped.http),
        ("RelayHistoryNotWritten", capped.http),
    ];
    let others = others.map(|(alert, relay)| (alert, relay.to_string()));
    for (alert, relay) in &others {
        let wanted = [("alertname", *alert), ("severity", "warning"), ("instance", relay)];
        prometheus.wait_alert(&wanted, true);
    }

    std::fs::write(&config, "[[target]]\nname = \"self\"\n").unwrap();
    relay.process.signal(Signal::SIGHUP);
    wait("RelayConfigReloadFailed", "warning", true);
    std::fs::write(&config, &good).unwrap();
    relay.process.signal(Signal::SIGHUP);
    wait("RelayConfigReloadFailed", "warning", false);

    relay.process.kill();
    wait("RelayScrapeAbsent", "critical", true);
    let starts = || {
        let changes = format!("changes(process_start_time_seconds{{instance=\"{instance}\"}}[15m])");
        let series = prometheus.query(&changes)?;
        series.first()?["value"][1].as_str()?.parse::<f64>().ok()
    };
    for start in 1..=3 {
        relay.process.kill();
        relay = Relay::start(ip, &arguments);
        wait_for(format_args!("Prometheus to have seen start {start}"), || {
            starts().filter(|starts| *starts >= f64::from(start))
        });
    }
    wait("RelayScrapeAbsent", "critical", false);
    wait("RelayRestarting", "warning", true);
    let accused = prometheus.firing();
    let of_whom = |alert: &Alert| {
        let own = |(name, relay): &(&str, String)| alert["alertname"] == *name && alert["instance"] == *relay;
        // On a busy host drains may truly be late.
        alert["instance"] == instance || alert["alertname"] == "RelayDrainLate" || others.iter().any(own)
    };
    assert!(accused.iter().all(of_whom), "{accused:?}");
}
