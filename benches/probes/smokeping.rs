//! smokeping_prober: one process, ICMP, a histogram per target.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use relayscope_benches::http::{get, sum};
use relayscope_benches::process::Service;

use crate::load::{Load, Outcome, Rtt, per_probe, watch};

const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19_865);
const POLL: Duration = Duration::from_millis(50);
const WARM: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_millis(300);
/// Bounds of its buckets grow by this, from 4 us to 4 s: as fine as its quantiles are read.
const BUCKET_GROWTH: f64 = 1.25;

/// `None` where it is not installed; what is wrong where it does not serve within `patience`: it does so
/// once all its pingers are started, and those already slow it down.
pub(crate) fn measure(load: Load, directory: &Path, patience: Duration) -> Option<Result<Outcome, String>> {
    let config = directory.join("smokeping.yml");
    let mut text = "targets:\n- interval: 1s\n  network: ip4\n  protocol: icmp\n  hosts:\n".to_owned();
    load.addresses().for_each(|ip| writeln!(text, "  - {ip}").unwrap());
    std::fs::write(&config, text).unwrap();
    let bounds = std::iter::successors(Some(4e-6), |bound| Some(bound * BUCKET_GROWTH));
    let buckets: Vec<_> =
        bounds.take_while(|bound| *bound < 4.0).map(|bound| format!("{bound:.9}")).collect();
    let mut command = Command::new("prometheus-smokeping-prober");
    command.arg(format!("--config.file={}", config.display())).arg("--privileged");
    command.arg(format!("--buckets={}", buckets.join(",")));
    let prober = Service::start(command.arg(format!("--web.listen-address={HTTP}")))?;
    let deadline = Instant::now() + patience;
    while TcpStream::connect(HTTP).is_err() {
        if Instant::now() > deadline {
            return Some(Err(format!(
                "did not serve within {patience:?} of its start, {:?} of CPU",
                prober.cpu()
            )));
        }
        sleep(POLL);
    }
    sleep(WARM);
    let start_cpu = prober.cpu();
    let (first, asked_at) = (get(HTTP, "/metrics").unwrap(), Instant::now());
    sleep(REST);
    let (cpu, resident_kib) = watch(load, std::slice::from_ref(&prober));
    let elapsed = asked_at.elapsed();
    let last = get(HTTP, "/metrics").unwrap();
    drop(prober);

    let of = |scrape, family| sum(scrape, family);
    let sent = of(&last, "smokeping_requests_total{");
    let answered = of(&last, "smokeping_response_duration_seconds_count{");
    let in_window = sent - of(&first, "smokeping_requests_total{");
    let in_window = in_window / elapsed.as_secs_f64() * load.window.as_secs_f64();
    // One per target may be in flight.
    let lost = (sent - answered - f64::from(load.targets)).max(0.0);
    Some(Ok(Outcome {
        cpu_us: per_probe(cpu, in_window),
        start_cpu,
        sent,
        lost,
        kept_up: in_window / load.probes(),
        rtt: rtt(&last),
        resident_kib,
        note: "ICMP; one per target taken as in flight".to_owned(),
    }))
}

/// From all targets' histograms added up, interpolated within a bucket.
fn rtt(scrape: &str) -> Rtt {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for line in scrape.lines().filter(|line| line.starts_with("smokeping_response_duration_seconds_bucket{"))
    {
        let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()?.parse::<f64>().ok());
        let (Some(bound), Some(count)) = (bound, line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()))
        else {
            continue;
        };
        match buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => buckets.push((bound, count)),
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let quantile = |share: f64| {
        let rank = total * share;
        let above = buckets.iter().position(|(_, count)| *count >= rank).filter(|_| total > 0.0)?;
        let (bound, count) = buckets[above];
        let (under_bound, under) = if above == 0 { (0.0, 0.0) } else { buckets[above - 1] };
        bound
            .is_finite()
            .then(|| (under_bound + (bound - under_bound) * (rank - under) / (count - under)) * 1e6)
    };
    Rtt { median_us: quantile(0.5), p99_us: quantile(0.99) }
}
