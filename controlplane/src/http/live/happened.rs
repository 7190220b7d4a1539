//! What happened from one look to the next: peers that began or ceased to answer, alerts raised and ended.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::alerts::{Alert, AlertBook, Resolved, Subject};
use crate::clock::Now;
use crate::history::{Event, EventKind};
use crate::mesh::{Mesh, MeshState};

/// Events of one look; of more, the latest are told.
const EVENTS_MAX: usize = 500;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// `None` before the first: what is found then did not happen now.
    peers: Option<BTreeMap<String, bool>>,
    alerts: Option<AlertsSeen>,
}

/// Which alerts there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AlertsSeen {
    standing: Vec<u64>,
    /// Of the one that ended last, and when: an alert ends once.
    ended: Option<u64>,
    /// The highest number of any.
    highest: u64,
    /// What happened since they were seen before.
    events: Vec<Event>,
}

impl Seen {
    /// What is there now, where that is not what was seen. O(alerts).
    pub(super) fn alerts_since(&self, book: &AlertBook) -> Option<AlertsSeen> {
        let standing: Vec<u64> = book.standing().map(|standing| standing.alert.id).collect();
        let ended = book.resolved().next().map(|resolved| resolved.alert.id);
        let Some(before) = &self.alerts else {
            let resolved = book.resolved().map(|resolved| resolved.alert.id);
            let highest = standing.iter().copied().chain(resolved).max().unwrap_or(0);
            return Some(AlertsSeen { standing, ended, highest, events: Vec::new() });
        };
        if (&standing, ended) == (&before.standing, before.ended) {
            return None;
        }
        let ended_now = || book.resolved().take_while(|resolved| Some(resolved.alert.id) != before.ended);
        let mut events = Vec::new();
        let raised = book.standing().map(|standing| &standing.alert);
        for alert in raised.chain(ended_now().map(|resolved| &resolved.alert)) {
            if alert.id > before.highest {
                events.push(of_alert(alert, None));
            }
        }
        events.extend(ended_now().map(|Resolved { alert, at }| of_alert(alert, Some(*at))));
        events.sort_by_key(|event| event.at_unix_ms);
        let ids = standing.iter().copied().chain(ended_now().map(|resolved| resolved.alert.id));
        let highest = ids.max().unwrap_or(0).max(before.highest);
        Some(AlertsSeen { standing, ended, highest, events })
    }

    /// Notes them, and gives what happened.
    pub(super) fn note_alerts(&mut self, mut seen: AlertsSeen) -> Vec<Event> {
        let events = std::mem::take(&mut seen.events);
        self.alerts = Some(seen);
        events
    }

    /// Notes who answers, and gives who began or ceased to. A target is up by either family; what is not known is no
    /// change. O(targets).
    pub(super) fn note_peers(&mut self, mesh: &Mesh, now: Now) -> Vec<Event> {
        let mut up: BTreeMap<&str, Option<bool>> = BTreeMap::new();
        for row in &mesh.rows {
            let of_row = match row.state {
                MeshState::Up => Some(true),
                MeshState::Down => Some(false),
                MeshState::Pending | MeshState::Stale => None,
            };
            let of_target = up.entry(&row.name).or_default();
            *of_target = [*of_target, of_row].into_iter().flatten().reduce(|one, other| one | other);
        }
        let Some(before) = &mut self.peers else {
            let known = up.into_iter().filter_map(|(name, up)| Some((name.to_owned(), up?)));
            self.peers = Some(known.collect());
            return Vec::new();
        };
        before.retain(|name, _| up.contains_key(name.as_str()));
        let mut events = Vec::new();
        for (name, up) in up {
            let Some(up) = up else { continue };
            let was = before.get(name).copied();
            if was != Some(up) {
                before.insert(name.to_owned(), up);
                events.push(of_peer(name, up, was, now));
            }
        }
        events
    }
}

fn of_peer(name: &str, up: bool, was: Option<bool>, now: Now) -> Event {
    let (kind, summary) = match (up, was) {
        (true, None) => (EventKind::PeerUp, format!("{name} answers")),
        (true, Some(_)) => (EventKind::PeerUp, format!("{name} answers again")),
        (false, _) => (EventKind::PeerDown, format!("{name} does not answer")),
    };
    let at_unix_ms = now.unix_ns / 1_000_000;
    Event { at_unix_ms, kind, target: Some(name.to_owned()), alertname: None, severity: None, summary }
}

fn of_alert(alert: &Alert, resolved_at: Option<Now>) -> Event {
    let target = match &alert.subject {
        Subject::Target(name) => Some(name.to_string()),
        Subject::Shard(_) | Subject::Relay => None,
    };
    let [(_, summary), _] = alert.annotations();
    Event {
        at_unix_ms: resolved_at.unwrap_or(alert.since).unix_ns / 1_000_000,
        kind: if resolved_at.is_some() { EventKind::AlertResolved } else { EventKind::AlertFiring },
        target,
        alertname: Some(alert.name.as_str().to_owned()),
        severity: Some(alert.severity.as_str().to_owned()),
        summary,
    }
}

/// As JSON: `{"events":[{"at":1796000000.123,"kind":"peer_down","target":"b","alertname":null,"severity":null,
/// "summary":"b does not answer"}]}`, the latest last.
#[derive(Serialize)]
pub(super) struct Happened {
    events: Vec<EventView>,
}

impl Happened {
    /// `None` where nothing did.
    pub(super) fn new(mut events: Vec<Event>) -> Option<Self> {
        events.drain(..events.len().saturating_sub(EVENTS_MAX));
        (!events.is_empty()).then(|| Self { events: events.into_iter().map(EventView).collect() })
    }
}

struct EventView(Event);

impl Serialize for EventView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let Event { at_unix_ms, kind, target, alertname, severity, summary } = &self.0;
        let mut view = serializer.serialize_struct("Event", 6)?;
        view.serialize_field("at", &(*at_unix_ms as f64 / 1e3))?;
        view.serialize_field("kind", kind.as_str())?;
        view.serialize_field("target", target)?;
        view.serialize_field("alertname", alertname)?;
        view.serialize_field("severity", severity)?;
        view.serialize_field("summary", summary)?;
        view.end()
    }
}
