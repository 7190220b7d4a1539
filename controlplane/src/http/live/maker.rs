//! What is told of a look, given what was told before. It is told the time and touches no socket.

use axum::body::Bytes;
use serde::Serialize;
use serde_json::json;

use super::frame;
use super::happened::{Happened, Seen};
use super::look::{AlertsLook, Look, Shards};
use crate::history::Event;
use crate::mesh::{Mesh, MeshRow, MeshState};
use crate::relays::{RelayView, RelaysView};

/// What was told, and what of it is to be told again to who comes later.
#[derive(Default)]
pub(super) struct Maker {
    seen: Seen,
    relays: Option<RelaysView>,
    /// The event with the alerts there are.
    alerts: Vec<u8>,
}

/// What is to be told of one look.
pub(super) struct Told {
    /// To who was told something before; may be nothing.
    pub(super) all: Bytes,
    /// To who was not.
    pub(super) first: Option<Bytes>,
}

/// For whom something is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// For those that listen, now that a second is over.
    pub(super) values: bool,
    /// For those that have come.
    pub(super) first: bool,
}

impl Maker {
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn make(&mut self, look: Look, wanted: Wanted) -> Told {
        let Look { now, relays, shards, alerts } = look;
        let mut all = Vec::new();
        let mut events: Vec<Event> = Vec::new();

        let is_same = self.relays.as_ref().is_some_and(|told| told.has_rows_of(&relays));
        if !is_same {
            frame::push(&mut all, "relays", &relays);
        }
        match alerts {
            AlertsLook::Same => {}
            AlertsLook::Off => {
                // It does not change while it runs.
                if self.alerts.is_empty() {
                    frame::push(&mut self.alerts, "alerts", &json!({"enabled": false}));
                    all.extend_from_slice(&self.alerts);
                }
            }
            AlertsLook::Changed { alerts, seen } => {
                events.extend(self.seen.note_alerts(seen));
                self.alerts.clear();
                frame::push(&mut self.alerts, "alerts", &alerts);
                all.extend_from_slice(&self.alerts);
            }
        }
        if let Some(mesh) = relays.relays.first().and_then(RelayView::mesh) {
            events.extend(self.seen.note_peers(mesh, now));
        }
        if let Some(happened) = Happened::new(events) {
            frame::push(&mut all, "happened", &happened);
        }
        let mut of_shards = Vec::new();
        frame::push(&mut of_shards, "shards", &shards);
        let first = wanted.first.then(|| self.first(&relays, &of_shards));
        if wanted.values {
            frame::push(&mut all, "values", &Values::new(&relays));
            all.extend_from_slice(&of_shards);
        }
        self.relays = Some(relays);
        Told { all: all.into(), first }
    }

    fn first(&self, relays: &RelaysView, of_shards: &[u8]) -> Bytes {
        let mut first = frame::begin();
        frame::push(&mut first, "relays", relays);
        first.extend_from_slice(&self.alerts);
        first.extend_from_slice(of_shards);
        first.into()
    }
}

/// What is told of shards alone, where all else is not to be had in time.
pub(super) fn of_shards(shards: &Shards) -> Bytes {
    let mut frames = Vec::new();
    frame::push(&mut frames, "shards", shards);
    frames.into()
}

/// The numbers of the matrix, in the order of the last event `relays`. As JSON:
///
/// ```json
/// {"at":1796000000.1,"relays":[{"reachable":true,"age_seconds":0.1,"error":null,"running":true,"reason":null,"up":2,
///   "rows":[["up",0.182,0.0,0.021,0.4,120,120]]}]}
/// ```
///
/// A row is its state, RTT in ms, loss in percent, jitter in ms, age of the last reply in seconds, probes sent and
/// received.
#[derive(Serialize)]
struct Values<'a> {
    at: f64,
    relays: Vec<RelayValues<'a>>,
}

#[derive(Serialize)]
struct RelayValues<'a> {
    reachable: bool,
    age_seconds: Option<f64>,
    error: Option<&'a str>,
    running: Option<bool>,
    reason: Option<&'a str>,
    up: Option<usize>,
    rows: Vec<RowValues>,
}

#[derive(Serialize)]
struct RowValues(MeshState, Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<u64>, Option<u64>);

impl<'a> Values<'a> {
    fn new(relays: &'a RelaysView) -> Self {
        Self { at: relays.at, relays: relays.relays.iter().map(RelayValues::new).collect() }
    }
}

impl<'a> RelayValues<'a> {
    fn new(relay: &'a RelayView) -> Self {
        let mesh = relay.mesh();
        let rows = |mesh: &Mesh| mesh.rows.iter().map(RowValues::new).collect();
        Self {
            reachable: mesh.is_some(),
            age_seconds: rounded(relay.age_seconds, MILLI),
            error: relay.error(),
            running: mesh.map(|mesh| mesh.running),
            reason: mesh.and_then(|mesh| mesh.reason.as_deref()),
            up: mesh.map(|mesh| mesh.up),
            rows: mesh.map_or(Vec::new(), rows),
        }
    }
}

/// What is sent each second is sent no more exactly than it can be seen.
const MILLI: f64 = 1e3;
const MICRO: f64 = 1e6;

fn rounded(value: Option<f64>, parts: f64) -> Option<f64> {
    value.map(|value| (value * parts).round() / parts)
}

impl RowValues {
    fn new(row: &MeshRow) -> Self {
        Self(
            row.state,
            rounded(row.rtt_ms, MICRO),
            rounded(row.loss_pct, MILLI),
            rounded(row.jitter_ms, MICRO),
            rounded(row.last_reply_age_seconds, MILLI),
            row.sent,
            row.received,
        )
    }
}
