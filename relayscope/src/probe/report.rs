//! What a one-shot probe says: lines for people, or a JSON object per line.

use std::net::SocketAddr;
use std::time::Duration;

use relayscope_dataplane::probe::ProbeEvent;
use serde::Serialize;
use serde_json::json;

/// Ranks of the summary, in percent.
const PERCENTILES: [usize; 3] = [50, 90, 99];

/// Whom, how and how often.
pub(super) struct Subject {
    pub(super) protocol: &'static str,
    pub(super) address: SocketAddr,
    pub(super) count: u32,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

/// Writes down what happens, and counts it.
pub(super) struct Report {
    subject: Subject,
    json: bool,
    counts: Counts,
    rtts: Vec<Duration>,
    /// Where the target last said it sees us.
    mapped: Option<SocketAddr>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    lost: u32,
    discarded: u32,
    late: u32,
    duplicate: u32,
    reordered: u32,
    not_sent: u32,
}

impl Report {
    pub(super) fn new(subject: Subject, json: bool) -> Self {
        Self { subject, json, counts: Counts::default(), rtts: Vec::new(), mapped: None }
    }

    /// Whether any probe was.
    pub(super) fn is_answered(&self) -> bool {
        !self.rtts.is_empty()
    }

    /// What is said before the first probe. As JSON nothing: the first line is of the first probe.
    pub(super) fn beginning(&self) -> String {
        if self.json {
            return String::new();
        }
        let Subject { protocol, address, count, interval, timeout } = &self.subject;
        format!(
            "{} {address}: {count} probes, one every {}, lost after {}\n",
            protocol.to_uppercase(),
            humantime::format_duration(*interval),
            humantime::format_duration(*timeout)
        )
    }

    /// Counts an event. Returns its line.
    pub(super) fn note(&mut self, event: ProbeEvent, mapped: Option<SocketAddr>) -> String {
        self.count(event);
        let seen_at = mapped.filter(|_| matches!(event, ProbeEvent::Answered { .. }));
        let seen_at = seen_at.filter(|mapped| self.mapped.replace(*mapped) != Some(*mapped));
        match self.json {
            true => json_line(event, seen_at),
            false => match seen_at {
                Some(mapped) => format!("{}, seen at {mapped}\n", text_line(event)),
                None => text_line(event) + "\n",
            },
        }
    }

    fn count(&mut self, event: ProbeEvent) {
        let counts = &mut self.counts;
        match event {
            ProbeEvent::Answered { rtt, reordered, .. } => {
                self.rtts.push(rtt);
                counts.reordered += u32::from(reordered);
            }
            ProbeEvent::Lost { .. } | ProbeEvent::Bounced { .. } => counts.lost += 1,
            ProbeEvent::Discarded { .. } => counts.discarded += 1,
            ProbeEvent::Late { .. } => counts.late += 1,
            ProbeEvent::Duplicate { .. } => counts.duplicate += 1,
            ProbeEvent::Unsent { .. } => counts.not_sent += 1,
            ProbeEvent::Dropped { .. }
            | ProbeEvent::Directed { .. }
            | ProbeEvent::Rebound { .. }
            | ProbeEvent::Connected { .. }
            | ProbeEvent::Disconnected { .. } => {}
        }
    }

    /// The summary, once `sent` probes have been sent.
    pub(super) fn end(&mut self, sent: u32) -> String {
        self.rtts.sort_unstable();
        let answered = u32::try_from(self.rtts.len()).unwrap_or(u32::MAX);
        let Counts { lost, discarded, not_sent, .. } = self.counts;
        // Each probe settles once; what has not was in flight when the probing was stopped.
        let in_flight = sent.saturating_sub(answered + lost + discarded + not_sent);
        let settled = answered + lost;
        let loss_pct = (settled > 0).then(|| 100.0 * f64::from(lost) / f64::from(settled));
        let totals = Totals { sent, answered, in_flight, loss_pct, rtt: Rtts::of(&self.rtts) };
        match self.json {
            true => self.json_end(totals),
            false => self.text_end(totals),
        }
    }

    fn text_end(&self, totals: Totals) -> String {
        let Totals { sent, answered, in_flight, loss_pct, rtt } = totals;
        let Counts { lost, discarded, late, duplicate, reordered, not_sent } = self.counts;
        let mut text =
            format!("--- {} ---\n{sent} sent, {answered} received, {lost} lost", self.subject.address);
        if let Some(percent) = loss_pct {
            text += &format!(" ({percent:.1} % loss)");
        }
        for (count, what) in [
            (in_flight, "in flight"),
            (discarded, "discarded"),
            (late, "late"),
            (duplicate, "duplicate"),
            (reordered, "reordered"),
            (not_sent, "not sent"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text.push('\n');
        if let Some(Rtts { min, mean, max, percentiles: [p50, p90, p99] }) = rtt {
            text += &format!("rtt min/mean/max = {min:.3}/{mean:.3}/{max:.3} ms, ");
            text += &format!("p50/p90/p99 = {p50:.3}/{p90:.3}/{p99:.3} ms\n");
        }
        text
    }

    fn json_end(&self, totals: Totals) -> String {
        let Totals { sent, answered, in_flight, loss_pct, rtt } = totals;
        let Subject { protocol, address, .. } = &self.subject;
        let rtt = rtt.map(|Rtts { min, mean, max, percentiles: [p50, p90, p99] }| {
            json!({"min": min, "mean": mean, "max": max, "p50": p50, "p90": p90, "p99": p99})
        });
        let counts = json!(self.counts);
        let mut summary = json!({
            "event": "summary", "protocol": protocol, "address": address, "sent": sent, "received": answered,
            "in_flight": in_flight, "loss_pct": loss_pct, "rtt_ms": rtt,
        });
        if let (Some(summary), serde_json::Value::Object(counts)) = (summary.as_object_mut(), counts) {
            summary.extend(counts);
        }
        format!("{summary}\n")
    }
}

/// What is summed up once all is over.
struct Totals {
    sent: u32,
    answered: u32,
    in_flight: u32,
    /// Of probes that were answered or lost; `None` of none.
    loss_pct: Option<f64>,
    rtt: Option<Rtts>,
}

/// In milliseconds.
struct Rtts {
    min: f64,
    mean: f64,
    max: f64,
    /// By nearest rank, in the order of [`PERCENTILES`].
    percentiles: [f64; PERCENTILES.len()],
}

impl Rtts {
    /// Of RTTs in ascending order; `None` of none.
    fn of(rtts: &[Duration]) -> Option<Self> {
        let (min, max) = (millis(*rtts.first()?), millis(*rtts.last()?));
        let mean = rtts.iter().map(|rtt| millis(*rtt)).sum::<f64>() / rtts.len() as f64;
        let percentiles =
            PERCENTILES.map(|percent| millis(rtts[(rtts.len() * percent).div_ceil(100).max(1) - 1]));
        Some(Self { min, mean, max, percentiles })
    }
}

fn text_line(event: ProbeEvent) -> String {
    match event {
        ProbeEvent::Answered { sequence, rtt, reordered } => {
            let note = if reordered { " (reordered)" } else { "" };
            format!("seq={sequence} rtt={:.3} ms{note}", millis(rtt))
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
        ProbeEvent::Rebound { mapped } => format!("a NAT rebound us: now seen at {mapped}"),
        ProbeEvent::Connected { handshake: Some(took) } => format!("connected in {:.3} ms", millis(took)),
        ProbeEvent::Connected { handshake: None } => "connected".to_owned(),
        ProbeEvent::Disconnected { kind } => format!("disconnected: {}", kind.label()),
    }
}

/// `{"event":"answered","sequence":0,"rtt_ms":0.043,"reordered":false,"seen_at":null}`: what the event is,
/// and what belongs to it.
fn json_line(event: ProbeEvent, seen_at: Option<SocketAddr>) -> String {
    let object = match event {
        ProbeEvent::Answered { sequence, rtt, reordered } => json!({
            "event": "answered", "sequence": sequence, "rtt_ms": millis(rtt), "reordered": reordered,
            "seen_at": seen_at,
        }),
        ProbeEvent::Lost { sequence } => json!({"event": "lost", "sequence": sequence, "reason": null}),
        ProbeEvent::Bounced { sequence, reason } => {
            json!({"event": "lost", "sequence": sequence, "reason": reason.label()})
        }
        ProbeEvent::Discarded { sequence } => json!({"event": "discarded", "sequence": sequence}),
        ProbeEvent::Late { sequence } => json!({"event": "late", "sequence": sequence}),
        ProbeEvent::Duplicate { sequence } => json!({"event": "duplicate", "sequence": sequence}),
        ProbeEvent::Dropped { sequence } => json!({"event": "dropped", "sequence": sequence}),
        ProbeEvent::Unsent { sequence, reason } => {
            json!({"event": "not_sent", "sequence": sequence, "reason": reason.label()})
        }
        ProbeEvent::Directed { forward, reverse } => {
            json!({"event": "directed", "forward": forward, "reverse": reverse})
        }
        ProbeEvent::Rebound { mapped } => json!({"event": "rebound", "seen_at": mapped}),
        ProbeEvent::Connected { handshake } => {
            json!({"event": "connected", "handshake_ms": handshake.map(millis)})
        }
        ProbeEvent::Disconnected { kind } => json!({"event": "disconnected", "reason": kind.label()}),
    };
    format!("{object}\n")
}

fn millis(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(json: bool) -> Report {
        let second = Duration::from_secs(1);
        let address = "192.0.2.1:8620".parse().unwrap();
        let subject = Subject { protocol: "stamp", address, count: 5, interval: second, timeout: second };
        Report::new(subject, json)
    }

    fn answered(micros: u64) -> ProbeEvent {
        ProbeEvent::Answered { sequence: 0, rtt: Duration::from_micros(micros), reordered: false }
    }

    #[test]
    fn the_summary_counts_what_happened_and_says_nothing_of_what_did_not() {
        let mut report = report(false);
        for event in [
            answered(100),
            answered(300),
            ProbeEvent::Lost { sequence: 2 },
            ProbeEvent::Lost { sequence: 3 },
            ProbeEvent::Late { sequence: 3 },
        ] {
            report.note(event, None);
        }
        assert_eq!(
            report.end(5),
            "--- 192.0.2.1:8620 ---\n5 sent, 2 received, 2 lost (50.0 % loss), 1 in flight, 1 late\n\
             rtt min/mean/max = 0.100/0.200/0.300 ms, p50/p90/p99 = 0.100/0.300/0.300 ms\n"
        );
    }

    #[test]
    fn without_a_reply_there_is_no_rtt() {
        let mut report = report(false);
        report.note(ProbeEvent::Lost { sequence: 0 }, None);
        assert_eq!(report.end(1), "--- 192.0.2.1:8620 ---\n1 sent, 0 received, 1 lost (100.0 % loss)\n");
        assert!(!report.is_answered());
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut report = report(false);
        for micros in (1..=100).rev() {
            report.note(answered(micros * 1000), None);
        }
        assert!(report.end(100).ends_with("p50/p90/p99 = 50.000/90.000/99.000 ms\n"));
    }

    #[test]
    fn where_we_are_seen_is_said_when_it_is_news() {
        let mut report = report(false);
        let mapped = |port: u16| Some(SocketAddr::from(([192, 0, 2, 9], port)));
        assert_eq!(report.note(answered(100), mapped(1)), "seq=0 rtt=0.100 ms, seen at 192.0.2.9:1\n");
        assert_eq!(report.note(answered(100), mapped(1)), "seq=0 rtt=0.100 ms\n");
        assert_eq!(report.note(answered(100), mapped(2)), "seq=0 rtt=0.100 ms, seen at 192.0.2.9:2\n");
    }

    #[test]
    fn each_line_of_json_is_an_object_and_the_last_one_sums_up() {
        let mut report = report(true);
        assert_eq!(report.beginning(), "");
        assert_eq!(
            report.note(answered(100), None),
            "{\"event\":\"answered\",\"reordered\":false,\"rtt_ms\":0.1,\"seen_at\":null,\"sequence\":0}\n"
        );
        report.note(ProbeEvent::Lost { sequence: 1 }, None);
        let summary: serde_json::Value = serde_json::from_str(&report.end(2)).unwrap();
        assert_eq!(summary["event"], "summary");
        assert_eq!((&summary["received"], &summary["lost"]), (&json!(1), &json!(1)));
        assert_eq!((&summary["loss_pct"], &summary["rtt_ms"]["p99"]), (&json!(50.0), &json!(0.1)));
    }
}
