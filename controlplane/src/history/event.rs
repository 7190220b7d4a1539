//! What happened, beside what was measured.

use std::fmt;

use crate::alerts::{Alert, Subject};
use crate::clock::Now;

/// Something that happened at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unix milliseconds.
    pub at_unix_ms: u64,
    /// What.
    pub kind: EventKind,
    /// The target it is about; absent where it is about the relay.
    pub target: Option<String>,
    /// The alert's name; absent where it is none.
    pub alertname: Option<String>,
    /// The alert's severity; absent where it is none.
    pub severity: Option<String>,
    /// For people, in a line.
    pub summary: String,
}

impl Event {
    /// That `alert` was raised, or that it ended then.
    pub(crate) fn of_alert(alert: &Alert, resolved_at: Option<Now>) -> Self {
        let (kind, at, what) = match resolved_at {
            None => (EventKind::AlertFiring, alert.since, alert.description.as_str()),
            Some(at) => (EventKind::AlertResolved, at, "resolved"),
        };
        Self {
            at_unix_ms: at.unix_ns / 1_000_000,
            kind,
            target: match &alert.subject {
                Subject::Target(name) => Some(name.to_string()),
                Subject::Shard(_) | Subject::Relay => None,
            },
            alertname: Some(alert.name.as_str().to_owned()),
            severity: Some(alert.severity.as_str().to_owned()),
            summary: format!("{} {}: {what}", alert.subject, alert.name.summary()),
        }
    }
}

/// The kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A peer answers again, or for the first time.
    PeerUp,
    /// A peer does not answer any more.
    PeerDown,
    /// An alert was raised.
    AlertFiring,
    /// An alert ended.
    AlertResolved,
    /// The control plane began to keep this history.
    Started,
    /// It stopped, as it was told to. Where it is missing before a `Started`, it ended otherwise.
    Stopped,
}

impl EventKind {
    /// In the order of their numbers in the database.
    pub const ALL: [Self; 6] =
        [Self::PeerUp, Self::PeerDown, Self::AlertFiring, Self::AlertResolved, Self::Started, Self::Stopped];

    /// As in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerUp => "peer_up",
            Self::PeerDown => "peer_down",
            Self::AlertFiring => "alert_firing",
            Self::AlertResolved => "alert_resolved",
            Self::Started => "started",
            Self::Stopped => "stopped",
        }
    }

    /// Its number in the database.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Of [`code`](Self::code); `None` where none has it.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_number_and_a_word_of_its_own() {
        for (number, kind) in (0..).zip(EventKind::ALL) {
            assert_eq!(kind.code(), number);
            assert_eq!(EventKind::from_code(number), Some(kind));
        }
        assert_eq!(EventKind::from_code(6), None);
        assert_eq!(EventKind::PeerDown.to_string(), "peer_down");
    }
}
