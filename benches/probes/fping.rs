//! fping: one process for all targets, a round of them every second.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use relayscope_benches::process::{Finished, run};

use crate::load::{Load, Outcome, Rtt, per_probe};

/// Rounds of the short run that prints every RTT.
const RTT_ROUNDS: u64 = 4;
/// Rounds of a run that only tells whether a gap is short enough.
const TRIAL_ROUNDS: u64 = 3;
/// Of a second's worth of gaps between two pings: every gap overshoots, and a round must fit its second.
const SPREAD: f64 = 0.9;
const SHARES: [f64; 5] = [SPREAD, 0.8, 0.5, 0.2, 0.1];
/// How much longer than its seconds a run that keeps up may take: for its start and its end.
const SLACK: Duration = Duration::from_millis(60);

/// It remembers a sequence number for 10 s, so it ends with an error when it has to send more than so many
/// in that time: 6,553 a second is the most it can go on with.
const SEQUENCE_NUMBERS: u32 = 65_535;

pub(crate) struct Fping<'a> {
    directory: &'a Path,
    load: Load,
    share: f64,
}

impl<'a> Fping<'a> {
    /// As evenly spread over the second as it can be with this load and still send all of it; in a burst
    /// where it cannot at all. `None` where it is not installed.
    pub(crate) fn that_keeps_up(load: Load, directory: &'a Path) -> Option<Self> {
        let keeps_up = |share: &f64| {
            let fping = Self { directory, load, share: *share };
            let trial = fping.ping(&["-q", "-c", &TRIAL_ROUNDS.to_string()])?;
            Some(trial.elapsed < Duration::from_secs(TRIAL_ROUNDS) + SLACK)
        };
        keeps_up(&SPREAD)?;
        let share = SHARES.into_iter().find(|share| keeps_up(share) == Some(true)).unwrap_or(0.0);
        Some(Self { directory, load, share })
    }

    /// Evenly spread, whether it keeps up or not.
    pub(crate) fn spread(load: Load, directory: &'a Path) -> Self {
        Self { directory, load, share: SPREAD }
    }

    /// `None` where it is not installed.
    pub(crate) fn measure(&self) -> Option<Outcome> {
        let rounds = self.load.window.as_secs().min(u64::from(SEQUENCE_NUMBERS / self.load.targets)).max(2);
        let finished = self.ping(&["-q", "-c", &rounds.to_string()])?;
        let rtts = self.ping(&["-q", "-C", &RTT_ROUNDS.to_string()])?;
        let (sent, lost) = counts(&String::from_utf8(finished.output.stderr).unwrap());
        assert_eq!(sent, f64::from(self.load.targets) * rounds as f64, "fping sent all of it");
        let late = finished.elapsed.saturating_sub(SLACK).as_secs_f64() / rounds as f64;
        Some(Outcome {
            cpu_us: per_probe(finished.cpu, sent),
            start_cpu: Duration::ZERO,
            sent,
            lost,
            kept_up: 1.0 / late.max(1.0),
            rtt: rtt(&String::from_utf8(rtts.output.stderr).unwrap()),
            resident_kib: finished.resident_kib,
            note: format!("a ping every {} ms; its whole run", self.gap_ms()),
        })
    }

    fn ping(&self, how: &[&str]) -> Option<Finished> {
        let list = self.directory.join("targets");
        let text: String = self.load.addresses().map(|ip| format!("{ip}\n")).collect();
        std::fs::write(&list, text).unwrap();
        let mut fping = Command::new("fping");
        fping.args(["-4", "-p", "1000", "-t", "1000", "-i", &self.gap_ms()]);
        run(fping.args(how).arg("-f").arg(list))
    }

    fn gap_ms(&self) -> String {
        format!("{:.3}", 1000.0 * self.share / f64::from(self.load.targets))
    }
}

/// Sent and lost, of lines such as `127.1.0.1 : xmt/rcv/%loss = 10/10/0%, ...`.
fn counts(summary: &str) -> (f64, f64) {
    let (mut sent, mut received) = (0.0, 0.0);
    for line in summary.lines() {
        let Some(counts) = line.split("xmt/rcv/%loss = ").nth(1) else { continue };
        let mut counts = counts.split('/').map(|count| count.parse::<f64>().unwrap_or(0.0));
        sent += counts.next().unwrap();
        received += counts.next().unwrap();
    }
    (sent, sent - received)
}

/// Of lines such as `127.1.0.1 : 0.024 - 0.043`, in milliseconds.
fn rtt(text: &str) -> Rtt {
    let values = text.lines().filter_map(|line| line.split(" : ").nth(1)).flat_map(str::split_whitespace);
    Rtt::of(values.filter_map(|ms| ms.parse::<f64>().ok()).map(|ms| ms * 1000.0).collect())
}
