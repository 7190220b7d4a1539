//! The real Prometheus scrapes two relays; promtool reads a live scrape.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::peers::Peer;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Relay, loopback, wait_for};

pub(crate) fn scrapes_two_relays() {
    let (a_ip, b_ip) = (loopback(), loopback());
    let (a_addr, b_addr) = (format!("{a_ip}:8620"), format!("{b_ip}:8621"));
    let a = Relay::start(a_ip, &["--reflect", &a_addr, "--probe", &format!("b={b_addr}")]);
    let b = Relay::start(b_ip, &["--reflect", &b_addr, "--probe", &format!("a={a_addr}")]);

    let prometheus = PrometheusServer::start(&[a.http, b.http], &[]);
    wait_for("relay_probe_up == 1 for both", || {
        let up = prometheus.query("relay_probe_up == 1")?;
        let mut targets: Vec<_> = up.iter().map(|series| series["metric"]["target"].clone()).collect();
        targets.sort_by_key(Value::to_string);
        (targets == ["a", "b"]).then_some(())
    });
    let median = "histogram_quantile(0.5, sum by (le, target) (rate(relay_probe_rtt_seconds_bucket[10s])))";
    wait_for("a median RTT for both", || {
        let medians = prometheus.query(median)?;
        let sensible = |series: &Value| {
            let seconds: f64 = series["value"][1].as_str().unwrap().parse().unwrap();
            // A NaN while there are too few scrapes is not sensible yet.
            seconds > 0.000_001 && seconds < 0.1
        };
        (medians.len() == 2 && medians.iter().all(sensible)).then_some(())
    });
    assert_eq!(prometheus.query("up{job=\"relayscope\"} == 1").unwrap().len(), 2);
}

pub(crate) fn promtool_is_content() {
    let ip = loopback();
    let arguments = ["--reflect", &format!("{ip}:8620"), "--probe", &format!("self={ip}:8620")];
    let relay = Relay::start(ip, &arguments);
    // Until every gauge is there, and the scrape's own metrics.
    relay.wait_sample("relay_probe_jitter_ms{target=\"self\"}", 0.0);
    relay.wait_sample("relay_scrape_duration_seconds_count", 1.0);
    let scrape = relay.get("/metrics");
    let mut promtool = Command::new(Peer::Promtool.program())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let mut complaints: Vec<_> = said.lines().collect();
    complaints.sort_unstable();
    assert_eq!(
        complaints,
        [
            "relay_probe_jitter_ms metric names should not contain abbreviated units",
            "relay_probe_rtt_ms metric names should not contain abbreviated units",
        ]
    );
}
