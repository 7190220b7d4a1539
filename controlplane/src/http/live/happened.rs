//! What happened from one look to the next: peers that began or ceased to answer, alerts raised and ended.

use serde::Serialize;

use super::super::history::EventView;
use crate::alerts::{AlertBook, Resolved};
use crate::clock::Now;
use crate::history::{Event, PeerStates};
use crate::mesh::{Mesh, MeshState};

/// Events of one look; of more, the latest are told.
const EVENTS_MAX: usize = 500;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    peers: PeerStates,
    /// Whether there was a look: what is found at the first did not happen then.
    are_peers_known: bool,
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
                events.push(Event::of_alert(alert, None));
            }
        }
        events.extend(ended_now().map(|Resolved { alert, at }| Event::of_alert(alert, Some(*at))));
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

    /// Notes who answers, and gives who began or ceased to. O(targets).
    pub(super) fn note_peers(&mut self, mesh: &Mesh, now: Now) -> Vec<Event> {
        self.peers.begin(now);
        for row in &mesh.rows {
            let up = match row.state {
                MeshState::Up => Some(true),
                MeshState::Down => Some(false),
                MeshState::Pending | MeshState::Stale => None,
            };
            self.peers.see(&row.name, up);
        }
        self.peers.end();
        if !std::mem::replace(&mut self.are_peers_known, true) {
            self.peers.take_as_known();
        }
        // History counts what is too much; who listens sees it in the rows.
        self.peers.take().0
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
        (!events.is_empty()).then(|| Self { events: events.into_iter().map(EventView::of).collect() })
    }
}
