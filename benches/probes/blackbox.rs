//! blackbox_exporter: a probe per HTTP request, ICMP, asked by connections that are kept, as Prometheus
//! asks. What asking takes is not counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use relayscope_benches::http::{Client, sum};
use relayscope_benches::process::Service;

use crate::load::{Load, Outcome, Rtt, per_probe, watch};

const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19_864);
const MODULES: &str =
    "modules:\n  icmp:\n    prober: icmp\n    timeout: 1s\n    icmp:\n      preferred_ip_protocol: ip4\n";
/// Connections that ask, each its share of the targets one after the other.
const ASKERS: usize = 4;
const WARM: Duration = Duration::from_secs(1);
const START_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// What one asker was told.
#[derive(Default)]
struct Told {
    sent: f64,
    lost: f64,
    rtts_us: Vec<f64>,
}

/// `None` where it is not installed.
pub(crate) fn measure(load: Load, directory: &Path) -> Option<Outcome> {
    let config = directory.join("blackbox.yml");
    std::fs::write(&config, MODULES).unwrap();
    let mut command = Command::new("prometheus-blackbox-exporter");
    command.arg(format!("--config.file={}", config.display()));
    let exporter = Service::start(command.arg(format!("--web.listen-address={HTTP}")))?;
    let deadline = Instant::now() + START_MAX;
    while Client::connect(HTTP).is_err() {
        assert!(Instant::now() < deadline, "blackbox_exporter does not listen");
        sleep(POLL);
    }
    let targets: Vec<Ipv4Addr> = load.addresses().collect();
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (start_cpu, (cpu, resident_kib), elapsed, told) = scope(|scope| {
        let start = |i| {
            let (targets, stop) = (&targets, &stop);
            scope.spawn(move || ask(targets, i, began, stop))
        };
        let askers: Vec<_> = (0..ASKERS).map(start).collect();
        sleep(WARM);
        let start_cpu = exporter.cpu();
        let watched = watch(load, std::slice::from_ref(&exporter));
        let elapsed = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        (
            start_cpu,
            watched,
            elapsed,
            askers.into_iter().map(|asker| asker.join().unwrap()).collect::<Vec<_>>(),
        )
    });
    drop(exporter);

    let sent: f64 = told.iter().map(|told| told.sent).sum();
    let in_window = sent / elapsed.as_secs_f64() * load.window.as_secs_f64();
    Some(Outcome {
        cpu_us: per_probe(cpu, in_window),
        start_cpu,
        sent,
        lost: told.iter().map(|told| told.lost).sum(),
        kept_up: in_window / load.probes(),
        rtt: Rtt::of(told.into_iter().flat_map(|told| told.rtts_us).collect()),
        resident_kib,
        note: "ICMP, a request each".to_owned(),
    })
}

/// Asks for every [`ASKERS`]th target, one after the other at its place in the second.
fn ask(targets: &[Ipv4Addr], first: usize, began: Instant, stop: &AtomicBool) -> Told {
    let mut client = Client::connect(HTTP).unwrap();
    let mut told = Told::default();
    let gap = Duration::from_secs(1) / u32::try_from(targets.len()).unwrap();
    for second in 0.. {
        for i in (first..targets.len()).step_by(ASKERS) {
            let due = began + Duration::from_secs(second) + gap * u32::try_from(i).unwrap();
            sleep(due.saturating_duration_since(Instant::now()));
            if stop.load(Ordering::Relaxed) {
                return told;
            }
            let answer = client.get(&format!("/probe?module=icmp&target={}", targets[i])).unwrap();
            told.sent += 1.0;
            if sum(&answer, "probe_success ") == 1.0 {
                told.rtts_us.push(sum(&answer, "probe_icmp_duration_seconds{phase=\"rtt\"}") * 1e6);
            } else {
                told.lost += 1.0;
            }
        }
    }
    told
}
