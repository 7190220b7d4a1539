//! scapy's contrib.stamp as the second opinion on every field, in both roles.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, run};

fn script(name: &str) -> Command {
    let mut command = Command::new(Peer::Scapy.program());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// Our sender against scapy's reflector, in both of its modes and timestamp formats.
pub(crate) fn as_reflector() {
    for (mode, format) in [("stateful", "ntp"), ("stateless", "ptp")] {
        let ip = loopback();
        let listen = format!("{ip}:8621");
        let reflector = Process::start(
            script("scapy_reflector.py").args(["--listen", &listen, "--mode", mode, "--format", format]),
        );
        reflector.line("ready", |line| line.starts_with("ready").then_some(()));
        let relay = Relay::start(ip, &["--probe", &format!("scapy={listen}")]);
        for expected in 0..3u64 {
            let record = reflector.line("a request", |line| serde_json::from_str::<Value>(line).ok());
            let request = &record["request"];
            assert_eq!(record["refused"], Value::Null, "{record}");
            assert_eq!(request["seq"], expected, "{record}");
            assert_eq!(request["ssid"], 1, "{record}");
            assert_eq!(request["err_estimate"], json!({"s": 0, "z": 0, "scale": 22, "multiplier": 1}));
            assert_eq!(request["mbz"], "0".repeat(56), "{record}");
            assert_eq!(request["tlvs"], json!([]), "{record}");
            assert_eq!(record["ttl"], 255, "{record}");
            assert_eq!(record["request_hex"].as_str().unwrap().len(), 88, "{record}");
            // T1 is the wall clock's time, just before the reflector's T2.
            let (t1, t2) = (&request["ts_unix_ns"], &record["reply"]["ts_rx_unix_ns"]);
            let forward_ns = t2.as_i64().unwrap() - t1.as_i64().unwrap();
            assert!((0..1_000_000_000).contains(&forward_ns), "{forward_ns} ns: {record}");
        }
        relay.wait_state("scapy", "up");
        relay.wait_sample("relay_probe_received_total{target=\"scapy\",family=\"ipv4\"}", 3.0);
        assert_eq!(relay.sample("relay_probe_lost_total{target=\"scapy\",family=\"ipv4\"}"), Some(0.0));
        let rtt = relay.sample("relay_probe_rtt_ms{target=\"scapy\"}").unwrap();
        assert!(rtt > 0.0 && rtt < 1000.0, "{mode} {format}: {rtt} ms");
    }
}

/// scapy's sender, with padding and without, against our reflector in both of its modes.
pub(crate) fn as_sender() {
    for mode in ["stateful", "stateless"] {
        let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
        let file = directory.path().join("relayscope.toml");
        let listen = format!("{ip}:8620");
        std::fs::write(&file, format!("[reflector]\nlisten = [\"{listen}\"]\nmode = \"{mode}\"\n")).unwrap();
        let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
        for (format, padding) in [("ntp", None), ("ptp", None), ("ntp", Some("100"))] {
            let mut sender = script("scapy_sender.py");
            sender.args(["--to", &listen, "--count", "3", "--ssid", "4660", "--format", format]);
            sender.args(padding.iter().flat_map(|octets| ["--pad", octets]));
            let (status, stdout, stderr) = run(&mut sender);
            assert!(status.success(), "{stdout}\n{stderr}");
            let exchanges: Vec<Value> =
                stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(exchanges.len(), 3);
            for (sequence, exchange) in (0u64..).zip(&exchanges) {
                check_exchange(exchange, sequence);
            }
        }
        assert_eq!(relay.sample("relay_reflector_packets_total{result=\"reflected\"}"), Some(9.0));
    }
}

fn check_exchange(exchange: &Value, sequence: u64) {
    let (sent, received) = (&exchange["sent"], &exchange["received"]);
    // The reflector counts from 0 as the sender does: with nothing lost both modes agree.
    assert_eq!(received["seq"], sequence, "{exchange}");
    assert_eq!(received["seq_sender"], sent["seq"], "{exchange}");
    assert_eq!(received["ts_sender"], sent["ts"], "{exchange}");
    assert_eq!(received["err_estimate_sender"], sent["err_estimate"], "{exchange}");
    assert_eq!(received["ssid"], 4660, "{exchange}");
    assert_eq!(received["ttl_sender"], 255, "{exchange}");
    assert_eq!((&received["mbz1"], &received["mbz2"]), (&json!(0), &json!(0)), "{exchange}");
    assert_eq!(received["err_estimate"], json!({"s": 0, "z": 0, "scale": 22, "multiplier": 1}));
    let ns = |value: &Value| value.as_i64().unwrap();
    let (t1, t2, t3) = (ns(&sent["ts_unix_ns"]), ns(&received["ts_rx_unix_ns"]), ns(&received["ts_unix_ns"]));
    assert!(t1 <= t2 + 1_000 && t2 <= t3 && t3 - t1 < 2_000_000_000, "T1 {t1}, T2 {t2}, T3 {t3}");
    let octets = |hex: &Value| hex.as_str().unwrap().len();
    assert_eq!(octets(&exchange["received_hex"]), octets(&exchange["sent_hex"]), "never longer: {exchange}");
    let tlvs = |packet: &Value| packet["tlvs"].as_array().unwrap().clone();
    for (ours, theirs) in tlvs(received).iter().zip(tlvs(sent)) {
        assert_eq!((&ours["type"], &ours["value"]), (&theirs["type"], &theirs["value"]), "{exchange}");
        assert_eq!(ours["flags"], 0, "Extra Padding is known to us: {exchange}");
    }
}
