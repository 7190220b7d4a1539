//! Peers and alerts as JSON, as the alert thread last saw them, and the matrix of relays.
//!
//! | route | answer |
//! |---|---|
//! | `/api/v1/alerts` | the alerts that stand and those that ended lately; `?state=firing` or `?state=resolved` for either |
//! | `/api/v1/peers` | each peer with the newest sample of each metric, its age, and for how long it holds |
//! | `/api/v1/last/{metric}` | the newest sample of `rtt`, `loss`, `jitter` or `up` of each peer of which one holds |
//! | `/api/v1/relays` | every relay of the mesh with its rows, as far as it can be asked |
//!
//! Where alerting is off the first three are 404, as there is nobody who looks.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::pages::{self, Page};
use super::{App, TEXT, reply, to_json};
use crate::alerts::{Alert, AlertingOff, Resolved, Standing, Watch, WatchedPeer, rfc3339};
use crate::clock::Now;
use crate::peers::{Keeping, PeerMetric};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/peers", get(peers))
        .route("/api/v1/last/{metric}", get(last))
        .route("/api/v1/relays", get(relays))
}

/// As JSON:
///
/// ```json
/// {"firing":1,"alerts":[{"state":"firing",
///   "labels":{"alertname":"RelayPeerDown","instance":"relay-a:9862","severity":"critical","target":"b"},
///   "annotations":{"description":"...","summary":"..."},
///   "value":10.0,"threshold":3.0,"since":"2026-11-20T16:23:57.123Z","resolved":null}]}
/// ```
#[derive(Serialize)]
pub(super) struct Alerts {
    firing: usize,
    alerts: Vec<AlertView>,
}

#[derive(Serialize)]
struct AlertView {
    state: &'static str,
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
    /// The latest, in base units.
    value: f64,
    threshold: f64,
    since: String,
    resolved: Option<String>,
}

impl Alerts {
    /// Those that stand, those that ended lately, or both.
    pub(super) fn new(watch: &Watch, firing: bool, resolved: bool) -> Self {
        let book = watch.book();
        let standing = |Standing { alert, value }: &Standing| AlertView::new(alert, *value, None);
        let ended = |Resolved { alert, at }: &Resolved| AlertView::new(alert, alert.value, Some(*at));
        let standing = book.standing().filter(|_| firing).map(standing);
        let alerts = standing.chain(book.resolved().filter(|_| resolved).map(ended)).collect();
        Self { firing: book.standing().count(), alerts }
    }
}

impl AlertView {
    fn new(alert: &Alert, value: f64, resolved: Option<Now>) -> Self {
        Self {
            state: if resolved.is_none() { FIRING } else { RESOLVED },
            labels: alert.labels().into_iter().collect(),
            annotations: alert.annotations().into_iter().collect(),
            value,
            threshold: alert.threshold,
            since: rfc3339(alert.since.unix_ns),
            resolved: resolved.map(|at| rfc3339(at.unix_ns)),
        }
    }
}

const FIRING: &str = "firing";
const RESOLVED: &str = "resolved";

#[derive(Deserialize)]
struct AlertsQuery {
    state: Option<String>,
}

async fn alerts(State(app): State<App>, Query(query): Query<AlertsQuery>) -> Response {
    let (firing, resolved) = match query.state.as_deref() {
        None => (true, true),
        Some(FIRING) => (true, false),
        Some(RESOLVED) => (false, true),
        Some(other) => {
            let line = format!("state {other:?} is not known; expected state=firing or state=resolved\n");
            return reply(StatusCode::BAD_REQUEST, TEXT, line);
        }
    };
    answer(app, Page::Alerts { firing, resolved }, move |watch| Alerts::new(watch, firing, resolved)).await
}

/// As JSON:
///
/// ```json
/// {"peers":[{"name":"b","metrics":{
///   "rtt":{"unit":"seconds","value":0.00018,"age_seconds":0.4,"holds_seconds":30.0,"samples":10}}}]}
/// ```
///
/// `value` is `null` where the newest sample holds no longer, and the age where there never was one.
#[derive(Serialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Serialize)]
struct PeerView {
    name: String,
    metrics: BTreeMap<&'static str, MetricView>,
}

#[derive(Serialize)]
struct MetricView {
    unit: &'static str,
    value: Option<f64>,
    age_seconds: Option<f64>,
    holds_seconds: f64,
    samples: usize,
}

impl PeerView {
    fn new(peer: &WatchedPeer, keeping: Keeping, now: Now) -> Self {
        let metric = |metric: PeerMetric| {
            let window = peer.window(metric);
            let view = MetricView {
                unit: metric.unit(),
                value: peer.last(metric, keeping, now).map(|sample| sample.value),
                age_seconds: window.last().map(|sample| now.since(sample.at_ns).as_secs_f64()),
                holds_seconds: window.ttl(keeping).as_secs_f64(),
                samples: window.len(),
            };
            (metric.as_str(), view)
        };
        Self { name: peer.name.to_string(), metrics: PeerMetric::ALL.into_iter().map(metric).collect() }
    }
}

async fn peers(State(app): State<App>) -> Response {
    answer(app, Page::Peers, |watch| {
        let (keeping, now) = (watch.rules().keeping(), Now::sample());
        let peers = watch.monitor().current().map(|peer| PeerView::new(peer, keeping, now)).collect();
        Peers { peers }
    })
    .await
}

/// As JSON: `{"metric":"rtt","unit":"seconds","values":[{"target":"b","value":0.00018,"age_seconds":0.4}]}`.
#[derive(Serialize)]
struct Last {
    metric: &'static str,
    unit: &'static str,
    values: Vec<LastView>,
}

#[derive(Serialize)]
struct LastView {
    target: String,
    value: f64,
    age_seconds: f64,
}

async fn last(State(app): State<App>, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        let line = "metric is malformed; expected rtt, loss, jitter or up\n";
        return reply(StatusCode::NOT_FOUND, TEXT, line);
    };
    let Some(metric) = PeerMetric::from_name(&name) else {
        let line = format!("metric {name:?} is not known; expected rtt, loss, jitter or up\n");
        return reply(StatusCode::NOT_FOUND, TEXT, line);
    };
    answer(app, Page::Last(metric), move |watch| {
        let (keeping, now) = (watch.rules().keeping(), Now::sample());
        let last = |peer: &WatchedPeer| {
            let sample = peer.last(metric, keeping, now)?;
            let (target, age_seconds) = (peer.name.to_string(), now.since(sample.at_ns).as_secs_f64());
            Some(LastView { target, value: sample.value, age_seconds })
        };
        let values = watch.monitor().current().filter_map(last).collect();
        Last { metric: metric.as_str(), unit: metric.unit(), values }
    })
    .await
}

async fn relays(State(app): State<App>) -> Response {
    pages::answer(app, Page::Relays, |plane| Ok(to_json(&plane.relays_at(Now::sample())))).await
}

/// On a thread that may wait for a look to end.
async fn answer<T: Serialize>(
    app: App,
    page: Page,
    view: impl FnOnce(&Watch) -> T + Send + 'static,
) -> Response {
    pages::answer(app, page, move |plane| {
        // Looks go on while it is written.
        let view = plane.alert_watch().map(|watch| view(&watch));
        view.map(|view| to_json(&view)).ok_or(AlertingOff)
    })
    .await
}
