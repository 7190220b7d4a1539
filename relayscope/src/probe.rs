//! `relayscope probe`: one target, a line per reply and a summary. Exit codes are ping's.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relayscope_dataplane::driver::oneshot::{self, Oneshot};
use relayscope_dataplane::endpoint::EndpointConfig;
use relayscope_dataplane::probe::{IN_FLIGHT_MAX, ProbeEvent};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ProbeArgs;
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::say;
use crate::protocol::protocol;
use crate::target::Protocol;

pub(crate) fn run(args: &ProbeArgs) -> Result<ExitCode, Failure> {
    let limit = args.interval.saturating_mul(u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX));
    if args.timeout >= limit {
        return Err(Failure::Usage(format!(
            "-W {} is invalid; expected less than {IN_FLIGHT_MAX} intervals",
            humantime::format_duration(args.timeout)
        )));
    }
    if args.insecure && args.target.protocol != Protocol::Quic {
        return Err(Failure::Usage("--insecure is of use to quic:// alone".to_owned()));
    }
    let settings = Settings { insecure: args.insecure, ..Settings::default() };
    let settings = settings.with_protocol(args.target.protocol);
    let protocol = protocol(&settings, args.target.address.host()).map_err(Failure::Usage)?;
    let target = args.target.address.resolve().map_err(Failure::Usage)?;
    let endpoint = EndpointConfig {
        interval: args.interval,
        timeout: args.timeout,
        ..EndpointConfig::new(target, protocol)
    };
    let oneshot = Oneshot { endpoint, count: args.count };
    let stop = stop_on_interrupt()?;
    say(&format!(
        "{} {target}: {} probes, one every {}, lost after {}\n",
        args.target.protocol.label().to_uppercase(),
        args.count,
        humantime::format_duration(args.interval),
        humantime::format_duration(args.timeout)
    ))?;
    let mut summary = Summary::default();
    let mut said = Ok(());
    // Relaxed: a flag alone, nothing is published with it.
    let sent = oneshot::run(
        &oneshot,
        || stop.load(Ordering::Relaxed),
        |event, _| {
            summary.note(event);
            if said.is_ok() {
                said = say(&(line(event) + "\n"));
            }
        },
    )
    .map_err(Failure::host)?;
    said?;
    say(&summary.text(&target.to_string(), sent))?;
    Ok(if summary.rtts.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// SIGINT and SIGTERM end the probing; the summary is still printed.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::host)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            // Relaxed: see above.
            seen.store(true, Ordering::Relaxed);
        });
    });
    Ok(stop)
}

fn line(event: ProbeEvent) -> String {
    match event {
        ProbeEvent::Answered { sequence, rtt, reordered } => {
            let note = if reordered { " (reordered)" } else { "" };
            format!("seq={sequence} rtt={} ms{note}", millis(rtt))
        }
        ProbeEvent::Lost { sequence } => format!("seq={sequence} lost"),
        ProbeEvent::Bounced { sequence, reason } => format!("seq={sequence} lost: {}", reason.label()),
        ProbeEvent::Discarded { sequence } => {
            format!("seq={sequence} discarded: this host stalled or its clock stepped")
        }
        ProbeEvent::Late { sequence } => format!("seq={sequence} late"),
        ProbeEvent::Duplicate { sequence } => format!("seq={sequence} duplicate"),
        ProbeEvent::Dropped { sequence } => format!("seq={sequence} dropped by this host on its way out"),
        ProbeEvent::Unsent { sequence, reason } => format!("seq={sequence} not sent: {}", reason.label()),
        ProbeEvent::Directed { forward, reverse } => {
            format!("of the lost {forward} vanished on the way there, {reverse} on the way back")
        }
        ProbeEvent::Rebound { mapped } => format!("seen at {mapped} now"),
        ProbeEvent::Connected { handshake: Some(took) } => format!("connected in {} ms", millis(took)),
        ProbeEvent::Connected { handshake: None } => "connected".to_owned(),
        ProbeEvent::Disconnected { kind } => format!("disconnected: {}", kind.label()),
    }
}

#[derive(Default)]
struct Summary {
    rtts: Vec<Duration>,
    lost: u32,
    discarded: u32,
    late: u32,
    duplicate: u32,
    unsent: u32,
}

impl Summary {
    fn note(&mut self, event: ProbeEvent) {
        match event {
            ProbeEvent::Answered { rtt, .. } => self.rtts.push(rtt),
            ProbeEvent::Lost { .. } | ProbeEvent::Bounced { .. } => self.lost += 1,
            ProbeEvent::Discarded { .. } => self.discarded += 1,
            ProbeEvent::Late { .. } => self.late += 1,
            ProbeEvent::Duplicate { .. } => self.duplicate += 1,
            ProbeEvent::Unsent { .. } => self.unsent += 1,
            ProbeEvent::Dropped { .. }
            | ProbeEvent::Directed { .. }
            | ProbeEvent::Rebound { .. }
            | ProbeEvent::Connected { .. }
            | ProbeEvent::Disconnected { .. } => {}
        }
    }

    fn text(&mut self, target: &str, sent: u32) -> String {
        let received = self.rtts.len();
        let settled = received + self.lost as usize;
        // Each probe settles once; what has not was in flight when the probing was stopped.
        let ended = received + (self.lost + self.discarded + self.unsent) as usize;
        let in_flight = (sent as usize).saturating_sub(ended);
        let mut text = format!("--- {target} ---\n{sent} sent, {received} received, {} lost", self.lost);
        if settled > 0 {
            text += &format!(" ({:.1} % loss)", 100.0 * f64::from(self.lost) / settled as f64);
        }
        for (count, what) in [
            (u32::try_from(in_flight).unwrap_or(u32::MAX), "in flight"),
            (self.discarded, "discarded"),
            (self.late, "late"),
            (self.duplicate, "duplicate"),
            (self.unsent, "not sent"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text.push('\n');
        self.rtts.sort_unstable();
        if let (Some(min), Some(max)) = (self.rtts.first(), self.rtts.last()) {
            let median = self.rtts[received / 2];
            let mean = self.rtts.iter().sum::<Duration>() / u32::try_from(received).unwrap_or(u32::MAX);
            text += &format!(
                "rtt min/median/mean/max = {}/{}/{}/{} ms\n",
                millis(*min),
                millis(median),
                millis(mean),
                millis(*max)
            );
        }
        text
    }
}

fn millis(rtt: Duration) -> String {
    format!("{:.3}", rtt.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_happened_and_says_nothing_of_what_did_not() {
        let mut summary = Summary::default();
        summary.note(ProbeEvent::Answered { sequence: 0, rtt: Duration::from_micros(100), reordered: false });
        summary.note(ProbeEvent::Answered { sequence: 1, rtt: Duration::from_micros(300), reordered: false });
        summary.note(ProbeEvent::Lost { sequence: 2 });
        summary.note(ProbeEvent::Lost { sequence: 3 });
        summary.note(ProbeEvent::Late { sequence: 3 });
        assert_eq!(
            summary.text("h", 5),
            "--- h ---\n5 sent, 2 received, 2 lost (50.0 % loss), 1 in flight, 1 late\n\
             rtt min/median/mean/max = 0.100/0.300/0.200/0.300 ms\n"
        );
    }

    #[test]
    fn without_a_reply_there_is_no_rtt() {
        let mut summary = Summary::default();
        summary.note(ProbeEvent::Lost { sequence: 0 });
        assert_eq!(summary.text("h", 1), "--- h ---\n1 sent, 0 received, 1 lost (100.0 % loss)\n");
    }
}
