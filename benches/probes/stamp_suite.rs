//! stamp-suite: one process that sends to many reflectors, here to ours; and its own reflector.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{scope, sleep};
use std::time::Duration;

use relayscope_benches::process::Service;

use crate::load::{Load, Outcome, REFLECTOR_PORT, Rtt, per_probe, watch};

const WARM: Duration = Duration::from_secs(2);
const COOL: Duration = Duration::from_secs(1);
const END_MAX: Duration = Duration::from_secs(30);

/// Where it is if it is installed: `RELAYSCOPE_PEERS`, or `target/peers`.
pub(crate) fn program() -> PathBuf {
    let peers = std::env::var_os("RELAYSCOPE_PEERS").map(PathBuf::from);
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    peers.unwrap_or_else(here).join("bin/stamp-suite")
}

/// `None` where it is not installed.
pub(crate) fn measure(load: Load) -> Option<Outcome> {
    let count = (WARM + load.window + COOL).as_secs();
    let addresses: Vec<_> = load.addresses().map(|ip| ip.to_string()).collect();
    let mut sender = Command::new(program());
    sender.args(["--remote-addr", &addresses.join(","), "--remote-port", &REFLECTOR_PORT.to_string()]);
    sender.args(["--count", &count.to_string(), "--send-delay", "1s", "--timeout", "1"]);
    sender.args(["--output-format", "json"]).env("RUST_LOG", "error");
    let sender = sender.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut sender = Service::start_with_output(sender)?;
    let output = sender.stdout();
    let (start_cpu, (cpu, resident_kib), report) = scope(|scope| {
        let reader = scope.spawn(move || std::io::read_to_string(output).unwrap());
        sleep(WARM);
        let start_cpu = sender.cpu();
        (start_cpu, watch(load, std::slice::from_ref(&sender)), reader.join().unwrap())
    });
    assert!(sender.wait(END_MAX).success(), "stamp-suite ends with success");

    let sum = |name| report.lines().filter_map(|line| number(line, name)).sum::<f64>();
    let (sent, lost) = (sum("packets_sent"), sum("packets_lost"));
    let due = f64::from(load.targets) * count as f64;
    // It reports quantiles per target: the median of their medians is one of all, their p99 are not.
    let medians = report.lines().filter_map(|line| number(line, "median_rtt_ms"));
    let rtt = Rtt { p99_us: None, ..Rtt::of(medians.map(|ms| ms * 1000.0).collect()) };
    Some(Outcome {
        cpu_us: per_probe(cpu, load.probes() * (sent / due).min(1.0)),
        start_cpu,
        sent,
        lost,
        kept_up: sent / due,
        rtt,
        resident_kib,
        note: "all in one burst a second; RTT is the median of targets' medians".to_owned(),
    })
}

/// Its reflector on a port of loopback, with the threads it takes by itself; `None` where it is not
/// installed.
pub(crate) fn reflect(port: u16) -> Option<Service> {
    let mut reflector = Command::new(program());
    reflector.args(["--is-reflector", "--local-addr", "127.0.0.1", "--local-port", &port.to_string()]);
    Service::start(reflector.env("RUST_LOG", "error"))
}

fn number(line: &str, name: &str) -> Option<f64> {
    let rest = line.split(&format!("\"{name}\":")).nth(1)?;
    rest.split([',', '}']).next()?.parse().ok()
}
