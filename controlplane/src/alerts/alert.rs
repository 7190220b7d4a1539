//! What an alert is: its name, whose it is, how bad it is, and the words for it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::clock::Now;

/// The alerts there are. Prometheus rules of ours have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertName {
    /// K of a peer's latest samples were of a probe that was lost.
    PeerDown,
    /// Nothing has been heard of a peer for longer than a sample holds, neither that it answers nor that it does not.
    PeerSilent,
    /// Loss of a peer that answers.
    PeerLossHigh,
    /// Round-trip time of a peer.
    PeerRttHigh,
    /// Jitter of a peer.
    PeerJitterHigh,
    /// A ring came close to overwriting what was not drained.
    RingNearlyFull,
    /// Samples were overwritten before they were drained.
    RingOverflow,
    /// A shard gives no sign of life, or is not drained.
    ShardStalled,
    /// The configuration was read anew and is wrong.
    ConfigReloadFailed,
}

impl AlertName {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::PeerDown,
        Self::PeerSilent,
        Self::PeerLossHigh,
        Self::PeerRttHigh,
        Self::PeerJitterHigh,
        Self::RingNearlyFull,
        Self::RingOverflow,
        Self::ShardStalled,
        Self::ConfigReloadFailed,
    ];

    /// As in the label `alertname`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerDown => "RelayPeerDown",
            Self::PeerSilent => "RelayPeerSilent",
            Self::PeerLossHigh => "RelayPeerLossHigh",
            Self::PeerRttHigh => "RelayPeerRttHigh",
            Self::PeerJitterHigh => "RelayPeerJitterHigh",
            Self::RingNearlyFull => "RelayRingNearlyFull",
            Self::RingOverflow => "RelayRingOverflow",
            Self::ShardStalled => "RelayShardStalled",
            Self::ConfigReloadFailed => "RelayConfigReloadFailed",
        }
    }

    /// What is the matter, in a few words.
    pub(crate) fn summary(self) -> &'static str {
        match self {
            Self::PeerDown => "does not answer",
            Self::PeerSilent => "is not heard of any more",
            Self::PeerLossHigh => "loses probes",
            Self::PeerRttHigh => "answers slowly",
            Self::PeerJitterHigh => "answers unsteadily",
            Self::RingNearlyFull => "fills its ring faster than it is drained",
            Self::RingOverflow => "overwrote samples that were not drained",
            Self::ShardStalled => "gives no sign of life",
            Self::ConfigReloadFailed => "could not read its configuration again",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl Severity {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];

    /// As in the label `severity`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Whose an alert is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A peer, by the name of its target.
    Target(Arc<str>),
    /// A shard of the data plane, by its number.
    Shard(u16),
    /// The relay itself.
    Relay,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(name) => write!(f, "target {name}"),
            Self::Shard(shard) => write!(f, "shard {shard}"),
            Self::Relay => f.write_str("the relay"),
        }
    }
}

/// An alert as it was raised.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Unlike that of any alert before, also of the same name and subject.
    pub id: u64,
    /// Which.
    pub name: AlertName,
    /// How bad.
    pub severity: Severity,
    /// Whose.
    pub subject: Subject,
    /// The relay that raised it.
    pub instance: Arc<str>,
    /// The value that raised it, in base units.
    pub value: f64,
    /// What the value was compared with.
    pub threshold: f64,
    /// What is the matter, with numbers.
    pub description: String,
    /// When it was raised.
    pub since: Now,
}

impl Alert {
    /// What tells it from any other that is raised at the same time.
    pub fn labels(&self) -> Vec<(&'static str, String)> {
        let mut labels = vec![
            ("alertname", self.name.as_str().to_owned()),
            ("instance", self.instance.to_string()),
            ("severity", self.severity.as_str().to_owned()),
        ];
        match &self.subject {
            Subject::Target(name) => labels.push(("target", name.to_string())),
            Subject::Shard(shard) => labels.push(("shard", shard.to_string())),
            Subject::Relay => {}
        }
        labels
    }

    /// What it says to people.
    pub fn annotations(&self) -> [(&'static str, String); 2] {
        let summary = format!("{} {} (seen by {})", self.subject, self.name.summary(), self.instance);
        [("summary", summary), ("description", self.description.clone())]
    }
}

/// A moment as Alertmanager and people read it.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

#[cfg(test)]
pub(super) fn example(id: u64, target: &str, severity: Severity) -> Arc<Alert> {
    Arc::new(Alert {
        id,
        name: AlertName::PeerLossHigh,
        severity,
        subject: Subject::Target(target.into()),
        instance: "relay-a:9862".into(),
        value: 0.125,
        threshold: 0.05,
        description: "loss is 12.5 %, at least 5.0 %".to_owned(),
        since: Now { monotonic_ns: 0, unix_ns: 1_700_000_000_250_000_000 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_the_alert_its_severity_its_subject_and_who_says_so() {
        let alert = example(1, "b", Severity::Critical);
        let expected = [
            ("alertname", "RelayPeerLossHigh"),
            ("instance", "relay-a:9862"),
            ("severity", "critical"),
            ("target", "b"),
        ];
        assert_eq!(alert.labels(), expected.map(|(name, value)| (name, value.to_owned())));
        let [summary, description] = alert.annotations();
        assert_eq!(summary, ("summary", "target b loses probes (seen by relay-a:9862)".to_owned()));
        assert_eq!(description, ("description", "loss is 12.5 %, at least 5.0 %".to_owned()));
        let of_shard = Alert { subject: Subject::Shard(3), ..(*alert).clone() };
        assert_eq!(of_shard.labels()[3], ("shard", "3".to_owned()));
        let of_relay = Alert { subject: Subject::Relay, ..(*alert).clone() };
        assert_eq!(of_relay.labels().len(), 3);
    }

    #[test]
    fn the_run_book_has_a_section_for_each_alert_and_each_is_one_of_the_rules_too() {
        const RUN_BOOK: &str = include_str!("../../../docs/alerts.md");
        const RULES: [&str; 2] = [
            include_str!("../../../dashboards/rules/mesh.yml"),
            include_str!("../../../dashboards/rules/pipeline.yml"),
        ];
        let lines = RULES.into_iter().flat_map(str::lines);
        let rules: Vec<_> = lines.filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        let ours = AlertName::ALL.map(AlertName::as_str);
        for name in ours {
            assert!(rules.contains(&name), "{name} is no rule of Prometheus");
        }
        for name in rules.iter().chain(&ours) {
            let by = if ours.contains(name) { "*both*" } else { "rules" };
            let section = RUN_BOOK.split(&format!("\n## {name}\n")).nth(1);
            let section = section.unwrap_or_else(|| panic!("docs/alerts.md has no section {name}"));
            assert!(section.starts_with(by), "{name} is raised by {by}");
        }
    }

    #[test]
    fn moments_are_written_with_milliseconds_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_250_000_000), "2023-11-14T22:13:20.250Z");
    }
}
