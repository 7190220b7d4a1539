//! fping: one process for all targets, a round of them every second.

use std::path::Path;
use std::process::Command;

use relayscope_benches::process::{Finished, run};

use crate::load::{Load, Outcome, Rtt, per_probe};

/// Rounds of the short run that prints every RTT.
const RTT_ROUNDS: u64 = 4;
/// Of a second's worth of gaps between two pings: each overshoots, and a round must fit its second.
const GAP_SHARE: f64 = 0.9;

/// `None` where it is not installed.
pub(crate) fn measure(load: Load, directory: &Path) -> Option<Outcome> {
    let list = directory.join("targets");
    let text: String = load.addresses().map(|ip| format!("{ip}\n")).collect();
    std::fs::write(&list, text).unwrap();
    let rounds = load.window.as_secs().max(2);
    let finished = ping(load, &list, &["-q", "-c", &rounds.to_string()])?;
    let rtts = ping(load, &list, &["-q", "-C", &RTT_ROUNDS.to_string()])?;

    let summary = String::from_utf8(finished.output.stderr).unwrap();
    let (mut sent, mut received) = (0.0, 0.0);
    for line in summary.lines() {
        let Some(counts) = line.split("xmt/rcv/%loss = ").nth(1) else { continue };
        let mut counts = counts.split('/').map(|count| count.parse::<f64>().unwrap_or(0.0));
        sent += counts.next().unwrap();
        received += counts.next().unwrap();
    }
    Some(Outcome {
        cpu_us: per_probe(finished.cpu, sent),
        start_cpu: std::time::Duration::ZERO,
        sent,
        lost: sent - received,
        // The last round takes the second of its gaps, and what the replies take.
        kept_up: sent / f64::from(load.targets) / finished.elapsed.as_secs_f64().max(rounds as f64),
        rtt: rtt(&String::from_utf8(rtts.output.stderr).unwrap()),
        resident_kib: finished.resident_kib,
        note: "its whole run, start and end".to_owned(),
    })
}

fn ping(load: Load, list: &Path, how: &[&str]) -> Option<Finished> {
    let gap = format!("{:.3}", 1000.0 * GAP_SHARE / f64::from(load.targets));
    let mut fping = Command::new("fping");
    run(fping.args(["-4", "-p", "1000", "-t", "1000", "-i", &gap]).args(how).arg("-f").arg(list))
}

/// Of lines such as `127.1.0.1 : 0.024 - 0.043`, in milliseconds.
fn rtt(text: &str) -> Rtt {
    let values = text.lines().filter_map(|line| line.split(" : ").nth(1)).flat_map(str::split_whitespace);
    Rtt::of(values.filter_map(|ms| ms.parse::<f64>().ok()).map(|ms| ms * 1000.0).collect())
}
