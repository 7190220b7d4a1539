//! The relay's own counts, as it serves them.

use std::collections::BTreeMap;
use std::time::Duration;

use relayscope_bridge::catalogue::{self as family, Family};
use serde::Serialize;

/// Before the names of families.
const PREFIX: &str = "relay_";
const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_MAX: u64 = 64 << 20;

/// Counts that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No answer, or none that is good.
    #[error(
        "cannot read the relay's counts at {url}: {reason}; expected http://ADDRESS/metrics of the relay"
    )]
    Read {
        /// Where.
        url: String,
        /// Why.
        reason: Box<ureq::Error>,
    },
    /// An answer without the counts.
    #[error("{url} says nothing of {missing}; expected the metrics of a relay")]
    Missing {
        /// Where.
        url: String,
        /// The first family that is not there.
        missing: String,
    },
}

/// Of all shards together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RelayCounts {
    /// Packets accepted.
    pub received_packets: u64,
    /// Their octets.
    pub received_bytes: u64,
    /// Copies handed on.
    pub sent_packets: u64,
    /// Their octets.
    pub sent_bytes: u64,
    /// Packets, copies and answers that went nowhere, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl RelayCounts {
    /// Asks for them, within ten seconds.
    ///
    /// # Errors
    /// [`ScrapeError`].
    pub fn read(url: &str) -> Result<Self, ScrapeError> {
        let failed = |reason| ScrapeError::Read { url: url.to_owned(), reason: Box::new(reason) };
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
        let mut answer = agent.get(url).header("accept", "text/plain").call().map_err(failed)?;
        let text = answer.body_mut().with_config().limit(BODY_MAX).read_to_string().map_err(failed)?;
        Self::parse(&text).map_err(|missing| ScrapeError::Missing { url: url.to_owned(), missing })
    }

    /// From a text in Prometheus' format; `Err` names the first family that is not there.
    fn parse(text: &str) -> Result<Self, String> {
        let sum = |family: &Family| {
            let mut values = samples(text, family).map(|(_, value)| value).peekable();
            values.peek().is_some().then(|| values.sum()).ok_or_else(|| name(family))
        };
        let mut dropped = BTreeMap::new();
        for (labels, value) in samples(text, &family::DROPPED_PACKETS) {
            let reason = labels.split_once("reason=\"").and_then(|(_, rest)| rest.split_once('"'));
            *dropped.entry(reason.map_or("", |(reason, _)| reason).to_owned()).or_default() += value;
        }
        if dropped.is_empty() {
            return Err(name(&family::DROPPED_PACKETS));
        }
        Ok(Self {
            received_packets: sum(&family::RECEIVED_PACKETS)?,
            received_bytes: sum(&family::RECEIVED_BYTES)?,
            sent_packets: sum(&family::SENT_PACKETS)?,
            sent_bytes: sum(&family::SENT_BYTES)?,
            dropped,
        })
    }

    /// What was counted since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let dropped = self.dropped.iter().map(|(reason, count)| {
            let earlier = before.dropped.get(reason).copied().unwrap_or(0);
            (reason.clone(), count.saturating_sub(earlier))
        });
        Self {
            received_packets: self.received_packets.saturating_sub(before.received_packets),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            sent_packets: self.sent_packets.saturating_sub(before.sent_packets),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            dropped: dropped.collect(),
        }
    }

    /// Dropped for a reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }
}

fn name(family: &Family) -> String {
    format!("{PREFIX}{}", family.name)
}

/// Labels and value of each series of a family. What is no whole number is none of ours.
fn samples<'a>(text: &'a str, family: &Family) -> impl Iterator<Item = (&'a str, u64)> {
    let name = name(family);
    text.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(&name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE relay_received_packets_total counter
relay_received_packets_total{shard=\"0\"} 7
relay_received_packets_total{shard=\"1\"} 5
relay_received_bytes_total{shard=\"0\"} 1200
relay_sent_packets_total{shard=\"0\"} 48
relay_sent_bytes_total{shard=\"0\"} 4800
relay_dropped_packets_total{shard=\"0\",reason=\"repeated\"} 3
relay_dropped_packets_total{shard=\"1\",reason=\"repeated\"} 1
relay_dropped_packets_total{shard=\"1\",reason=\"send_refused\"} 2
";

    #[test]
    fn shards_are_summed_and_drops_told_by_reason() {
        let counts = RelayCounts::parse(TEXT).unwrap();
        assert_eq!((counts.received_packets, counts.received_bytes), (12, 1200));
        assert_eq!((counts.sent_packets, counts.sent_bytes), (48, 4800));
        assert_eq!(["repeated", "send_refused", "none"].map(|reason| counts.dropped_for(reason)), [4, 2, 0]);
        let later = RelayCounts::parse(&TEXT.replace("\"0\"} 7", "\"0\"} 9")).unwrap();
        assert_eq!(later.since(&counts).received_packets, 2);
        assert_eq!(later.since(&counts).dropped_for("repeated"), 0);
    }

    #[test]
    fn a_family_that_is_not_there_is_named_and_never_zero() {
        let without = TEXT.replace("relay_sent_packets_total", "other");
        assert_eq!(RelayCounts::parse(&without), Err("relay_sent_packets_total".to_owned()));
    }
}
