//! stamp-suite, an independent STAMP implementation in Rust, in both roles.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, run};

fn stamp_suite() -> Command {
    let mut command = Command::new(Peer::StampSuite.program());
    command.env("NO_COLOR", "1").args(["--output-format", "json"]);
    command
}

pub(crate) fn as_reflector() {
    for extra in [&[][..], &["--stateful-reflector", "--clock-source", "PTP"]] {
        let ip = loopback();
        let mut command = stamp_suite();
        command.args(["-i", "-S", &ip.to_string(), "-o", "8621"]).args(extra).stderr(Stdio::piped());
        let mut reflector = Process::start(&mut command);
        let mut log = BufReader::new(reflector.stderr().unwrap()).lines().map_while(Result::ok);
        assert!(log.any(|line| line.contains("STAMP Reflector listening")));
        let log = std::thread::spawn(move || log.count());

        let relay = Relay::start(ip, &["--probe", &format!("suite={ip}:8621")]);
        relay.wait_state("suite", "up");
        relay.wait_sample("relay_probe_received_total{target=\"suite\",family=\"ipv4\"}", 3.0);
        assert_eq!(relay.sample("relay_probe_lost_total{target=\"suite\",family=\"ipv4\"}"), Some(0.0));
        drop(relay);

        reflector.signal(Signal::SIGTERM);
        assert!(reflector.wait().success());
        let report: Value = serde_json::from_str(&reflector.rest().join("\n")).unwrap();
        assert!(report["total_packets_reflected"].as_u64().unwrap() >= 3, "{report}");
        assert_eq!(report["total_packets_dropped"], 0, "{report}");
        log.join().unwrap();
    }
}

pub(crate) fn as_sender() {
    let ip = loopback();
    let relay = Relay::start(ip, &["--reflect", &format!("{ip}:8620")]);
    let mut reflected = 0.0;
    for extra in [&[][..], &["--ssid", "4660", "--clock-source", "PTP"], &["--extra-padding", "100"]] {
        let mut sender = stamp_suite();
        sender.args(["-r", &ip.to_string(), "-p", "8620", "-c", "10", "-d", "20ms", "-L", "2"]).args(extra);
        let (status, stdout, stderr) = run(&mut sender);
        assert!(status.success(), "{stdout}\n{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["packets_sent"], 10, "{report}");
        assert_eq!(report["packets_received"], 10, "{report}");
        let rtt = report["median_rtt_ms"].as_f64().unwrap();
        assert!(rtt > 0.0 && rtt < 1000.0, "{report}");
        reflected += 10.0;
        assert_eq!(
            relay.sample("relay_reflector_packets_total{result=\"reflected\"}"),
            Some(reflected),
            "{extra:?}"
        );
    }
}
