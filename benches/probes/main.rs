//! CPU per probe at 1000 targets, one probe a second each, beside fping on the same targets.
//!
//! A relayscope reflects on every loopback address; another probes a thousand of them; fping pings the
//! same thousand. One after the other, in rounds, so that what disturbs the machine disturbs both. CPU
//! is the kernel's own account of the finished process: start, drains, HTTP and all.
//!
//! `RELAYSCOPE_PROBE_SECONDS` and `RELAYSCOPE_PROBE_ROUNDS` make it longer or shorter (60 and 3).
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use relayscope_benches::binary::build_relayscope;
use relayscope_benches::report::Spread;

const TARGETS: u32 = 1000;
const REFLECTOR: &str = "0.0.0.0:18620";
const REFLECTOR_HTTP: &str = "127.0.0.1:19863";
const PROBER_HTTP: &str = "127.0.0.1:19862";
const POLL: Duration = Duration::from_millis(20);

/// What one process did, and what it cost.
struct Run {
    probes: f64,
    lost: f64,
    cpu_us_per_probe: f64,
    note: String,
}

fn main() {
    let seconds = from_env("RELAYSCOPE_PROBE_SECONDS", 60);
    let rounds = from_env("RELAYSCOPE_PROBE_ROUNDS", 3);
    let relayscope = build_relayscope();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("prober.toml");
    std::fs::write(&config, prober_config()).unwrap();
    let list = directory.path().join("targets");
    std::fs::write(&list, addresses().map(|ip| format!("{ip}\n")).collect::<String>()).unwrap();

    let mut reflector = Command::new(&relayscope);
    reflector.args(["run", "--listen", REFLECTOR_HTTP, "--reflect", REFLECTOR, "--cores", "0"]);
    let reflector = start(&mut reflector);
    let (mut ours, mut fping) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        ours.push(run_ours(&relayscope, config.to_str().unwrap(), seconds));
        fping.extend(run_fping(list.to_str().unwrap(), seconds));
        for (name, run) in [("relayscope", ours.last()), ("fping", fping.last())] {
            let Some(run) = run else { continue };
            println!(
                "round {round}: {name:10} {:6.0} probes, {:3.0} lost, {:6.2} us CPU per probe{}",
                run.probes, run.lost, run.cpu_us_per_probe, run.note
            );
        }
    }
    stop(reflector);

    let cpu = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.cpu_us_per_probe).collect());
    let loss = |runs: &[Run]| runs.iter().map(|run| run.lost).sum::<f64>();
    assert_eq!(loss(&ours), 0.0, "a probe of ours on loopback was lost");
    let text = |spread: Spread| format!("{:.2} [{:.2} .. {:.2}]", spread.median, spread.min, spread.max);
    println!("relayscope: {} us CPU per probe, none lost", text(cpu(&ours)));
    if fping.is_empty() {
        eprintln!("SKIPPED fping: not installed (apt-get install fping); no ratio");
        return;
    }
    println!("fping:      {} us CPU per probe, {} lost", text(cpu(&fping)), loss(&fping));
    println!("RATIO probe_cpu_vs_fping_1000 {:.3}", cpu(&ours).median / cpu(&fping).median);
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    (0..TARGETS).map(move |i| Ipv4Addr::from(first + i / 250 * 256 + i % 250))
}

fn prober_config() -> String {
    let port = REFLECTOR.rsplit(':').next().unwrap();
    let mut text = format!("listen = \"{PROBER_HTTP}\"\ncores = \"1\"\n");
    for ip in addresses() {
        write!(text, "[[target]]\nname = \"{ip}\"\naddress = \"{ip}:{port}\"\n").unwrap();
    }
    text
}

fn run_ours(relayscope: &str, config: &str, seconds: u64) -> Run {
    let before = children_cpu();
    let prober = start(Command::new(relayscope).args(["run", "--config", config]));
    sleep(Duration::from_secs(seconds));
    let scrape = scrape(PROBER_HTTP);
    stop(prober);
    let cpu = children_cpu() - before;
    // The scrape is a moment before the end: the few probes after it make our figure the worse one.
    let probes = sum(&scrape, "relay_probe_sent_total{");
    let received = sum(&scrape, "relay_probe_received_total{");
    assert!(probes - received < f64::from(TARGETS), "{probes} sent, {received} received");
    let discarded = sum(&scrape, "relay_probe_discarded_total{");
    let missed = sum(&scrape, "relay_shard_missed_slots_total{");
    let stalls = sum(&scrape, "relay_shard_stalls_total{");
    Run {
        probes,
        lost: sum(&scrape, "relay_probe_lost_total{"),
        cpu_us_per_probe: cpu.as_secs_f64() * 1e6 / probes,
        note: format!(", {missed} slots missed, {discarded} discarded, {stalls} stalls of ours"),
    }
}

/// `None` where fping is not installed.
fn run_fping(list: &str, seconds: u64) -> Option<Run> {
    let before = children_cpu();
    // A gap of 0.9 ms, because each overshoots: with 1 ms a round of 1000 takes longer than its second.
    let output = Command::new("fping")
        .args(["-4", "-q", "-c", &seconds.to_string(), "-p", "1000", "-i", "0.9", "-t", "1000", "-f", list])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .ok()?;
    let cpu = children_cpu() - before;
    let summary = String::from_utf8(output.stderr).unwrap();
    let (mut sent, mut received) = (0.0, 0.0);
    for line in summary.lines() {
        let Some(counts) = line.split("xmt/rcv/%loss = ").nth(1) else { continue };
        let mut counts = counts.split('/').map(|count| count.parse::<f64>().unwrap_or(0.0));
        sent += counts.next().unwrap();
        received += counts.next().unwrap();
    }
    assert_eq!(sent, f64::from(TARGETS) * seconds as f64, "fping sent all it was asked to");
    let note = String::new();
    Some(Run { probes: sent, lost: sent - received, cpu_us_per_probe: cpu.as_secs_f64() * 1e6 / sent, note })
}

/// User and system time of all children that have ended.
fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

/// Starts a relayscope and waits until it says where its health is: the last thing it says.
fn start(command: &mut Command) -> Child {
    let mut child = command.env("RUST_LOG", "warn").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("health")), "relayscope did not start");
    child
}

fn stop(mut child: Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return assert!(status.success(), "relayscope ended with {status}"),
            None if Instant::now() > deadline => child.kill().unwrap(),
            None => sleep(POLL),
        }
    }
}

fn scrape(http: &str) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{}", text.lines().next().unwrap_or_default());
    text
}

/// The sum over a family's series.
fn sum(scrape: &str, family: &str) -> f64 {
    let values = scrape.lines().filter(|line| line.starts_with(family));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
