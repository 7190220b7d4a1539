//! irtt: a process per target, and a server that reflects.

use std::process::{Command, Stdio};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use relayscope_benches::process::Service;

use crate::load::{IRTT_PORT, Load, Outcome, Rtt, per_probe, watch};

/// Most processes at once. For more targets than that each probes so much faster.
const PROCESSES_MAX: u32 = 100;
const WARM: Duration = Duration::from_secs(2);
/// Their starts are spread over this, and take at most that.
const SPREAD_OVER: Duration = Duration::from_secs(1);
const START_MAX: Duration = Duration::from_secs(4);
/// How long it goes on after the window.
const COOL: Duration = Duration::from_secs(1);
const END_MAX: Duration = Duration::from_secs(30);

/// Its server, on every loopback address; `None` where it is not installed.
pub(crate) fn serve() -> Option<Service> {
    let bind = format!("0.0.0.0:{IRTT_PORT}");
    Service::start(Command::new("irtt").args(["server", "-b", &bind, "-i", "0", "-d", "0", "--set-src-ip"]))
}

/// `None` where it is not installed.
pub(crate) fn measure(load: Load) -> Option<Outcome> {
    let processes = load.targets.min(PROCESSES_MAX);
    let interval = Duration::from_secs(1) * processes / load.targets;
    let end = Instant::now() + START_MAX + WARM + load.window + COOL;
    let (mut clients, mut due) = (Vec::new(), 0.0);
    for ip in load.addresses().take(processes as usize) {
        // All end together, whenever they began.
        let duration = end.saturating_duration_since(Instant::now());
        due += duration.as_secs_f64() / interval.as_secs_f64();
        let mut client = Command::new("irtt");
        client.args(["client", "-Q", "-o", "-", "--wait=1s", "-i", &format!("{}us", interval.as_micros())]);
        client.args(["-d", &format!("{}ms", duration.as_millis()), &format!("{ip}:{IRTT_PORT}")]);
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        clients.push(Service::start_with_output(&mut client)?);
        sleep(SPREAD_OVER / processes);
    }
    let outputs: Vec<_> = clients.iter_mut().map(Service::stdout).collect();
    let reports: Vec<String>;
    let (start_cpu, cpu, resident_kib);
    (start_cpu, (cpu, resident_kib), reports) = scope(|scope| {
        // Each report is larger than a pipe.
        let read = |output| scope.spawn(move || std::io::read_to_string(output).unwrap());
        let readers: Vec<_> = outputs.into_iter().map(read).collect();
        sleep(WARM);
        let start_cpu = clients.iter().map(Service::cpu).sum();
        let watched = watch(load, &clients);
        (start_cpu, watched, readers.into_iter().map(|reader| reader.join().unwrap()).collect())
    });
    for client in clients {
        assert!(client.wait(END_MAX).success(), "irtt ends with success");
    }

    let (mut sent, mut received, mut rtts) = (0.0, 0.0, Vec::new());
    for report in &reports {
        let number = |name: &str| numbers(report, name).next().unwrap_or(0.0);
        sent += number("packets_sent");
        received += number("packets_received");
        rtts.extend(single_rtts(report));
    }
    let pace = if load.targets == processes { String::new() } else { format!(" at {interval:?} each") };
    Some(Outcome {
        cpu_us: per_probe(cpu, load.probes() * (sent / due).min(1.0)),
        start_cpu,
        sent,
        lost: sent - received,
        kept_up: sent / due,
        rtt: Rtt::of(rtts),
        resident_kib,
        note: format!("{processes} processes{pace}"),
    })
}

/// Of each round trip, in microseconds. Those of the statistics come before them.
fn single_rtts(report: &str) -> impl Iterator<Item = f64> {
    let trips = report.split("\"round_trips\"").nth(1).unwrap_or_default();
    let delays = trips.split("\"delay\"").skip(1);
    delays.filter_map(|delay| numbers(delay, "rtt").next()).map(|ns| ns / 1000.0)
}

fn numbers<'a>(text: &'a str, name: &str) -> impl Iterator<Item = f64> + 'a {
    let key = format!("\"{name}\":");
    let values: Vec<_> = text.split(key.as_str()).skip(1).collect();
    values.into_iter().filter_map(|rest| rest.split(['\n', ',', '}']).next()?.trim().parse().ok())
}
