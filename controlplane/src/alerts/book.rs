//! The alerts that stand now and those that ended lately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::alert::{Alert, AlertName, Severity, Subject};
use super::judge::Finding;
use crate::clock::Now;

/// Ended alerts that are remembered, the latest.
const RESOLVED_MAX: usize = 256;

/// Whose alert, and which.
type Key = (AlertName, Subject);

/// An alert that stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) alert: Arc<Alert>,
    /// The latest.
    pub(crate) value: f64,
}

/// An alert that ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) alert: Arc<Alert>,
    pub(crate) at: Now,
}

/// What came of a finding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Transition {
    Raised(Arc<Alert>),
    Resolved(Resolved),
}

/// See the module's head. Of one name and subject at most one alert stands: that of the higher severity.
#[derive(Debug)]
pub(crate) struct AlertBook {
    instance: Arc<str>,
    standing: BTreeMap<Key, Standing>,
    resolved: VecDeque<Resolved>,
    raised: u64,
    /// In order, since they were last taken.
    transitions: Vec<Transition>,
}

impl AlertBook {
    pub(super) fn new(instance: &str) -> Self {
        Self {
            instance: instance.into(),
            standing: BTreeMap::new(),
            resolved: VecDeque::new(),
            raised: 0,
            transitions: Vec::new(),
        }
    }

    /// Notes what is found of `subject` now; `describe` is asked when an alert is raised by it. O(log alerts).
    pub(super) fn note(
        &mut self,
        subject: &Subject,
        found: Finding,
        now: Now,
        describe: impl FnOnce() -> String,
    ) {
        let key = (found.name, subject.clone());
        match (self.standing.get_mut(&key), found.severity) {
            (None, None) => {}
            (Some(standing), Some(severity)) if standing.alert.severity == severity => {
                standing.value = found.value;
            }
            (standing, severity) => {
                if standing.is_some() {
                    self.resolve(&key, now);
                }
                if let Some(severity) = severity {
                    self.raise(key, severity, found, now, describe());
                }
            }
        }
    }

    /// Ends all alerts of `subject`: there is no such any more.
    pub(super) fn forget(&mut self, subject: &Subject, now: Now) {
        for name in AlertName::ALL {
            self.resolve(&(name, subject.clone()), now);
        }
    }

    fn raise(&mut self, key: Key, severity: Severity, found: Finding, now: Now, description: String) {
        self.raised += 1;
        let (name, subject) = key.clone();
        let alert = Arc::new(Alert {
            id: self.raised,
            name,
            severity,
            subject,
            instance: Arc::clone(&self.instance),
            value: found.value,
            threshold: found.threshold,
            description,
            since: now,
        });
        self.standing.insert(key, Standing { alert: Arc::clone(&alert), value: found.value });
        self.transitions.push(Transition::Raised(alert));
    }

    fn resolve(&mut self, key: &Key, now: Now) {
        let Some(Standing { alert, .. }) = self.standing.remove(key) else { return };
        if self.resolved.len() == RESOLVED_MAX {
            self.resolved.pop_front();
        }
        let resolved = Resolved { alert, at: now };
        self.resolved.push_back(resolved.clone());
        self.transitions.push(Transition::Resolved(resolved));
    }

    /// What came of the findings since, in order.
    pub(super) fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// Those that stand, by name, then subject.
    pub(crate) fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.standing.values()
    }

    /// The latest that ended, the latest first.
    pub(crate) fn resolved(&self) -> impl Iterator<Item = &Resolved> {
        self.resolved.iter().rev()
    }

    /// Shards of which an alert stands.
    pub(super) fn shards(&self) -> Vec<u16> {
        let mut shards: Vec<u16> = (self.standing.keys())
            .filter_map(|(_, subject)| match subject {
                Subject::Shard(shard) => Some(*shard),
                Subject::Target(_) | Subject::Relay => None,
            })
            .collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// How many stand of this name and severity.
    pub(super) fn count(&self, name: AlertName, severity: Severity) -> usize {
        let of_name = self.standing.range((name, Subject::Target("".into()))..);
        let of_name = of_name.take_while(|((other, _), _)| *other == name);
        of_name.filter(|(_, standing)| standing.alert.severity == severity).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: seconds * 1_000_000_000 }
    }

    fn found(severity: Option<Severity>, value: f64) -> Finding {
        Finding { name: AlertName::PeerLossHigh, severity, value, threshold: 0.02 }
    }

    fn target(name: &str) -> Subject {
        Subject::Target(name.into())
    }

    /// `+` raised or `-` resolved, and the severity's first letter.
    fn said(book: &mut AlertBook) -> Vec<String> {
        let say = |sign: &str, alert: &Alert| format!("{sign}{}{}", &alert.severity.as_str()[..1], alert.id);
        let said = |transition: Transition| match transition {
            Transition::Raised(alert) => say("+", &alert),
            Transition::Resolved(resolved) => say("-", &resolved.alert),
        };
        book.take_transitions().into_iter().map(said).collect()
    }

    #[test]
    fn of_two_severities_the_higher_stands_alone() {
        let mut book = AlertBook::new("relay-a");
        let b = target("b");
        let mut note = |severity, value| book.note(&b, found(severity, value), at(1), String::new);
        note(None, 0.0);
        note(Some(Severity::Warning), 0.03);
        note(Some(Severity::Warning), 0.04);
        note(Some(Severity::Critical), 0.06);
        note(Some(Severity::Warning), 0.03);
        note(None, 0.0);
        note(None, 0.0);
        assert_eq!(said(&mut book), ["+w1", "-w1", "+c2", "-c2", "+w3", "-w3"]);
        assert_eq!(book.standing().count(), 0);
        let ended: Vec<_> = book.resolved().map(|resolved| resolved.alert.id).collect();
        assert_eq!(ended, [3, 2, 1]);
    }

    #[test]
    fn an_alert_keeps_what_raised_it_and_tells_the_latest_value() {
        let mut book = AlertBook::new("relay-a");
        let b = target("b");
        book.note(&b, found(Some(Severity::Warning), 0.03), at(1), || "first".to_owned());
        book.note(&b, found(Some(Severity::Warning), 0.04), at(2), || "second".to_owned());
        let standing = book.standing().next().unwrap();
        assert_eq!((standing.alert.value, standing.value), (0.03, 0.04));
        assert_eq!((standing.alert.description.as_str(), standing.alert.since), ("first", at(1)));
    }

    #[test]
    fn alerts_are_counted_by_name_and_severity() {
        let mut book = AlertBook::new("relay-a");
        for (name, severity) in [("", Severity::Warning), ("b", Severity::Critical), ("c", Severity::Warning)]
        {
            book.note(&target(name), found(Some(severity), 1.0), at(1), String::new);
        }
        let down = Finding { name: AlertName::PeerDown, ..found(Some(Severity::Critical), 3.0) };
        book.note(&target("b"), down, at(1), String::new);
        assert_eq!(book.count(AlertName::PeerLossHigh, Severity::Warning), 2);
        assert_eq!(book.count(AlertName::PeerLossHigh, Severity::Critical), 1);
        assert_eq!(book.count(AlertName::PeerDown, Severity::Critical), 1);
        assert_eq!(book.count(AlertName::RingOverflow, Severity::Critical), 0);
    }

    #[test]
    fn what_is_gone_has_no_alerts() {
        let mut book = AlertBook::new("relay-a");
        for name in ["b", "c"] {
            book.note(&target(name), found(Some(Severity::Warning), 1.0), at(1), String::new);
        }
        book.forget(&target("b"), at(2));
        assert_eq!(said(&mut book), ["+w1", "+w2", "-w1"]);
        let left: Vec<_> = book.standing().map(|standing| standing.alert.subject.clone()).collect();
        assert_eq!(left, [target("c")]);
    }

    #[test]
    fn no_more_than_the_latest_that_ended_are_remembered() {
        let mut book = AlertBook::new("relay-a");
        for _ in 0..RESOLVED_MAX + 3 {
            book.note(&target("b"), found(Some(Severity::Warning), 1.0), at(1), String::new);
            book.note(&target("b"), found(None, 0.0), at(1), String::new);
        }
        assert_eq!(book.resolved().count(), RESOLVED_MAX);
        assert_eq!(book.resolved().next().unwrap().alert.id, RESOLVED_MAX as u64 + 3);
    }
}
