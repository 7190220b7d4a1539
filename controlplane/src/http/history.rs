//! History as JSON, read from the database on a thread of its own: a slow disk holds up no other answer.
//!
//! | route | answer |
//! |---|---|
//! | `/api/v1/history` | what one target said, in equal steps: `?target=`, and where wanted `family=`, `from=`, `to=`, `step=` |
//! | `/api/v1/events` | what happened, the newest last: where wanted `?target=`, `from=`, `to=`, `limit=` |
//! | `/api/perf/sqlite` | what the database is made of, and how it is written and read |
//!
//! Where history is off they are 404, and while the database cannot be read the first two 503.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::renderer::Renderer;
use super::{App, JSON, TEXT, json, reply, to_json};
use crate::ControlPlane;
use crate::clock::Now;
use crate::history::{
    CacheUse, EVENTS_ANSWERED_MAX, Event, Happened, History, HistoryQuery, Interrupt, Interval, LOCKED,
    OpenError, Points, QUANTILES, QueryError, Reader, RttSummary, Statistics, StoreError, TargetKey, Tier,
    TierStatistics, parse_moment, parse_step,
};

/// For how long an answer is made.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Events answered where no limit is asked for.
const EVENTS_DEFAULT: usize = 500;
const FROM_DEFAULT: &str = "-1h";
const TO_DEFAULT: &str = "now";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/history", get(history))
        .route("/api/v1/events", get(events))
        .route("/api/perf/sqlite", get(sqlite))
}

/// Reads the database, one answer at a time.
#[derive(Clone)]
pub(super) struct Archive {
    renderer: Renderer,
    open: Arc<Mutex<Option<Open>>>,
}

struct Open {
    reader: Reader,
    /// Which file it reads.
    file: Option<(u64, u64)>,
}

/// Why there is no answer.
enum Refused {
    /// It was asked wrong.
    Wrong(String),
    /// Of nobody known.
    Unknown(String),
    /// It cannot be read.
    Unreadable(String),
}

impl From<QueryError> for Refused {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::UnknownTarget { .. } => Self::Unknown(error.to_string()),
            QueryError::Store(error) => error.into(),
            error => Self::Wrong(error.to_string()),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Unreadable(format!("history cannot be read: {error}"))
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        Self::Unreadable(format!("history cannot be read: {error}"))
    }
}

impl Refused {
    fn answer(self) -> Response {
        let status = match &self {
            Self::Wrong(_) => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        reply(status, TEXT, self.line() + "\n")
    }

    fn line(self) -> String {
        match self {
            Self::Wrong(line) | Self::Unknown(line) | Self::Unreadable(line) => line,
        }
    }
}

/// Gives up the answer when the request is over, be it that its client is gone or that its time is.
struct WhileWanted(Interrupt);

impl Drop for WhileWanted {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Archive {
    pub(super) fn new() -> Self {
        Self { renderer: Renderer::new("relayscope-past"), open: Arc::default() }
    }

    /// A body made of the database.
    async fn answer(
        &self,
        path: &Path,
        make: impl FnOnce(&Reader) -> Result<Vec<u8>, Refused> + Send + 'static,
    ) -> Response {
        match self.ask(path, make).await {
            Ok(Ok(body)) => reply(StatusCode::OK, JSON, body),
            Ok(Err(refused)) => refused.answer(),
            Err(failed) => failed,
        }
    }

    /// Asks the database on the thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        make: impl FnOnce(&Reader) -> Result<T, Refused> + Send + 'static,
    ) -> Result<Result<T, Refused>, Response> {
        let turn = self.renderer.turn().await;
        let interrupt = Interrupt::default();
        let _while_wanted = WhileWanted(interrupt.clone());
        let (open, path) = (Arc::clone(&self.open), path.to_owned());
        let made = self.renderer.run(turn, move || {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let file = identity(&path);
            // Another file has its place.
            let kept = open.take().filter(|open| open.file.is_some() && open.file == file);
            let kept = match kept {
                Some(kept) => kept,
                None => Open { reader: Reader::open(&path)?, file },
            };
            let unwanted = || Err(Refused::Unreadable("nobody waits for it".to_owned()));
            let made = interrupt.unless_given_up(&kept.reader, make).unwrap_or_else(unwanted);
            if !matches!(made, Err(Refused::Unreadable(_))) {
                *open = Some(kept);
            }
            made
        });
        made.await
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

#[derive(Deserialize)]
struct HistoryParameters {
    target: Option<String>,
    family: Option<String>,
    from: Option<String>,
    to: Option<String>,
    step: Option<String>,
}

/// As JSON, a regular grid from `from` to before `to`; RTT and jitter in seconds, and what was not measured `null`:
///
/// ```json
/// {"target":"b","family":"ipv4","families":["ipv4"],"from":1796000000,"to":1796000020,"step":10,"tier":"10s",
///  "tiers":["10s"],"points":{"time":[1796000000,1796000010],"answered":[10,null],"lost":[0,null],
///   "lost_forward":[0,null],"lost_reverse":[0,null],"rtt_min":[0.00018,null],"rtt_mean":[0.0002,null],
///   "rtt_max":[0.00031,null],"rtt_p05":[0.00018,null],"rtt_p25":[0.00019,null],"rtt_p50":[0.0002,null],
///   "rtt_p75":[0.00021,null],"rtt_p95":[0.0003,null],"rtt_p99":[0.00031,null],"jitter":[0.00002,null]}}
/// ```
#[derive(Serialize)]
struct HistoryView {
    target: String,
    family: String,
    /// By which it is known.
    families: Vec<String>,
    from: u64,
    to: u64,
    step: u64,
    /// The finest resolution of `tiers`; `null` where nothing was measured.
    tier: Option<&'static str>,
    /// All resolutions that the points are made of.
    tiers: Vec<&'static str>,
    points: PointsView,
}

#[derive(Serialize)]
struct PointsView {
    time: Vec<u64>,
    answered: Vec<Option<u64>>,
    lost: Vec<Option<u64>>,
    lost_forward: Vec<Option<u64>>,
    lost_reverse: Vec<Option<u64>>,
    rtt_min: Vec<Option<f64>>,
    rtt_mean: Vec<Option<f64>>,
    rtt_max: Vec<Option<f64>>,
    rtt_p05: Vec<Option<f64>>,
    rtt_p25: Vec<Option<f64>>,
    rtt_p50: Vec<Option<f64>>,
    rtt_p75: Vec<Option<f64>>,
    rtt_p95: Vec<Option<f64>>,
    rtt_p99: Vec<Option<f64>>,
    jitter: Vec<Option<f64>>,
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl PointsView {
    fn of(points: &Points) -> Self {
        let counts = |count: fn(&Interval) -> Option<u64>| -> Vec<Option<u64>> {
            points.intervals.iter().map(|interval| count(interval.as_ref()?)).collect()
        };
        let times = |ns: &dyn Fn(&RttSummary) -> f64| -> Vec<Option<f64>> {
            points.intervals.iter().map(|interval| Some(ns(interval.as_ref()?.rtt.as_ref()?) / 1e9)).collect()
        };
        let quantile = |at: usize| times(&|rtt| rtt.quantiles_ns[at] as f64);
        const { assert!(QUANTILES.len() == 6, "as there are columns") };
        Self {
            time: points.starts().collect(),
            answered: counts(|interval| Some(interval.answered)),
            lost: counts(|interval| Some(interval.lost)),
            lost_forward: counts(|interval| interval.lost_forward),
            lost_reverse: counts(|interval| interval.lost_reverse),
            rtt_min: times(&|rtt| rtt.min_ns as f64),
            rtt_mean: times(&|rtt| rtt.sum_ns as f64 / rtt.count as f64),
            rtt_max: times(&|rtt| rtt.max_ns as f64),
            rtt_p05: quantile(0),
            rtt_p25: quantile(1),
            rtt_p50: quantile(2),
            rtt_p75: quantile(3),
            rtt_p95: quantile(4),
            rtt_p99: quantile(5),
            jitter: points
                .intervals
                .iter()
                .map(|interval| interval.as_ref()?.jitter_ns.map(seconds))
                .collect(),
        }
    }
}

async fn history(State(app): State<App>, Query(asked): Query<HistoryParameters>) -> Response {
    let history = match kept(&app.plane) {
        Ok(history) => history,
        Err(refused) => return refused.answer(),
    };
    let now_unix_ms = Now::sample().unix_ns / 1_000_000;
    let read = || -> Result<_, Refused> {
        let target = asked
            .target
            .ok_or_else(|| Refused::Wrong("no target is given; expected target=NAME".to_owned()))?;
        let range = range_of(asked.from.as_deref(), asked.to.as_deref(), now_unix_ms)?;
        let step = asked.step.as_deref().map(parse_step).transpose();
        let step = step.map_err(|error| Refused::Wrong(format!("step: {error}")))?;
        Ok((target, range, step))
    };
    let (target, range, step_seconds) = match read() {
        Ok(read) => read,
        Err(refused) => return refused.answer(),
    };
    let (from, to) = (range.start / 1000, range.end.div_ceil(1000));
    let make = move |reader: &Reader| {
        let of_target = reader.targets()?.into_iter().filter(|key| key.name == target);
        let families: Vec<_> = of_target.map(|key| key.family).collect();
        let family = match (asked.family, families.first()) {
            (_, None) => return Err(Refused::Unknown(format!("no history of target {target:?}"))),
            (Some(family), Some(_)) if !families.contains(&family) => {
                let line = format!(
                    "no history of target {target:?} by {family:?}; expected {}",
                    families.join(" or ")
                );
                return Err(Refused::Unknown(line));
            }
            (Some(family), Some(_)) => family,
            (None, Some(first)) => first.clone(),
        };
        let key = TargetKey { name: target.clone(), family: family.clone() };
        let query = HistoryQuery { step_seconds, time_max: TIME_MAX, ..HistoryQuery::new(key, from, to) };
        let points = reader.history(&query)?;
        let tiers: Vec<_> = points.tiers.iter().map(|tier| tier.as_str()).collect();
        let view = HistoryView {
            target,
            family,
            families,
            from: points.from,
            to: points.from + points.intervals.len() as u64 * points.step_seconds,
            step: points.step_seconds,
            tier: tiers.first().copied(),
            tiers,
            points: PointsView::of(&points),
        };
        Ok(to_json(&view))
    };
    app.archive.answer(&history.config().path, make).await
}

#[derive(Deserialize)]
struct EventsParameters {
    target: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
}

/// As JSON, the newest last, and how many earlier ones there was no room for:
///
/// ```json
/// {"events":[{"at":1796000000.123,"kind":"peer_down","target":"b","alertname":null,"severity":null,
///             "summary":"b does not answer"}],"left_off":0}
/// ```
#[derive(Serialize)]
struct EventsView {
    events: Vec<EventView>,
    left_off: u64,
}

#[derive(Serialize)]
pub(super) struct EventView {
    /// Unix seconds, to the millisecond.
    at: f64,
    kind: &'static str,
    target: Option<String>,
    alertname: Option<String>,
    severity: Option<String>,
    summary: String,
}

impl EventView {
    pub(super) fn of(event: Event) -> Self {
        let Event { at_unix_ms, kind, target, alertname, severity, summary } = event;
        Self { at: at_unix_ms as f64 / 1e3, kind: kind.as_str(), target, alertname, severity, summary }
    }
}

async fn events(State(app): State<App>, Query(asked): Query<EventsParameters>) -> Response {
    let history = match kept(&app.plane) {
        Ok(history) => history,
        Err(refused) => return refused.answer(),
    };
    let now_unix_ms = Now::sample().unix_ns / 1_000_000;
    let read = || -> Result<_, Refused> {
        // What happens in this millisecond is before now.
        let range = range_of(asked.from.as_deref(), asked.to.as_deref(), now_unix_ms + 1)?;
        let limit = match asked.limit.as_deref() {
            None => EVENTS_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=EVENTS_ANSWERED_MAX).contains(limit))
                .ok_or_else(|| {
                    Refused::Wrong(format!("limit {text:?} is invalid; expected 1..={EVENTS_ANSWERED_MAX}"))
                })?,
        };
        Ok((range, limit))
    };
    let (range, limit) = match read() {
        Ok(read) => read,
        Err(refused) => return refused.answer(),
    };
    let make = move |reader: &Reader| {
        let Happened { events, left_off } = reader.events(range, asked.target.as_deref(), limit)?;
        Ok(to_json(&EventsView { events: events.into_iter().map(EventView::of).collect(), left_off }))
    };
    app.archive.answer(&history.config().path, make).await
}

/// Unix milliseconds.
fn range_of(from: Option<&str>, to: Option<&str>, now_unix_ms: u64) -> Result<Range<u64>, Refused> {
    let moment = |name: &str, text: &str| {
        parse_moment(text, now_unix_ms).map_err(|error| Refused::Wrong(format!("{name}: {error}")))
    };
    let from = moment("from", from.unwrap_or(FROM_DEFAULT))?;
    let to = moment("to", to.unwrap_or(TO_DEFAULT))?;
    if from >= to {
        let (from, to) = (from as f64 / 1e3, to as f64 / 1e3);
        return Err(Refused::Wrong(format!("from {from} is not before to {to}; expected an earlier from")));
    }
    Ok(from..to)
}

/// As JSON; what is not known is `null`, as of a database that cannot be read, whose `reason` says why:
///
/// ```json
/// {"path":"/var/lib/relayscope/history.db","reason":null,
///  "database":{"page_bytes":4096,"pages":512,"pages_free":3,"file_bytes":2097152,"log_bytes":131072,"targets":2,
///   "events":7,"tiers":[{"tier":"10s","chunks":4,"intervals":1440,"bytes":31000,"rows":96,"oldest":1796000000}]},
///  "reader":{"cache_bytes_max":8388608,"cache_hits":90,"cache_misses":10,"cache_hit_ratio":0.9},
///  "writer":{"open":true,"failure":null,"cache_hits":900,"cache_misses":100,"cache_hit_ratio":0.9,
///   "intervals_written":1440,"intervals_pending":0,"intervals_dropped":0,"events_written":7,"events_dropped":0,
///   "errors":0,"last_write_unix_seconds":1796000010.01}}
/// ```
#[derive(Serialize)]
struct SqliteView {
    path: String,
    /// Why it cannot be read; `null` while it can.
    reason: Option<String>,
    database: Option<DatabaseView>,
    reader: Option<CacheView>,
    writer: WriterView,
}

#[derive(Serialize)]
struct DatabaseView {
    page_bytes: u64,
    pages: u64,
    pages_free: u64,
    file_bytes: Option<u64>,
    log_bytes: u64,
    targets: u64,
    events: u64,
    tiers: Vec<TierView>,
}

#[derive(Serialize)]
struct TierView {
    tier: &'static str,
    chunks: u64,
    intervals: u64,
    bytes: u64,
    rows: u64,
    oldest: Option<u64>,
}

#[derive(Serialize)]
struct CacheView {
    cache_bytes_max: u64,
    #[serde(flatten)]
    found: FoundView,
}

#[derive(Serialize)]
struct FoundView {
    cache_hits: Option<u64>,
    cache_misses: Option<u64>,
    cache_hit_ratio: Option<f64>,
}

#[derive(Serialize)]
struct WriterView {
    open: bool,
    failure: Option<String>,
    #[serde(flatten)]
    found: FoundView,
    intervals_written: u64,
    intervals_pending: usize,
    intervals_dropped: u64,
    events_written: u64,
    events_dropped: u64,
    errors: u64,
    last_write_unix_seconds: Option<f64>,
}

impl FoundView {
    fn of(cache: Option<CacheUse>) -> Self {
        Self {
            cache_hits: cache.map(|cache| cache.hits),
            cache_misses: cache.map(|cache| cache.misses),
            cache_hit_ratio: cache.and_then(CacheUse::hit_ratio),
        }
    }
}

impl DatabaseView {
    fn of(statistics: &Statistics) -> Self {
        let Statistics { page_bytes, pages, pages_free, file_bytes, log_bytes, targets, events, .. } =
            *statistics;
        let of_tier = |(tier, of): (Tier, TierStatistics)| {
            let TierStatistics { chunks, intervals, bytes, rows, oldest } = of;
            TierView { tier: tier.as_str(), chunks, intervals, bytes, rows, oldest }
        };
        let tiers = Tier::ALL.into_iter().zip(statistics.tiers).map(of_tier).collect();
        Self { page_bytes, pages, pages_free, file_bytes, log_bytes, targets, events, tiers }
    }
}

impl WriterView {
    fn of(history: &History) -> Self {
        let status = history.status();
        Self {
            open: status.is_open,
            failure: status.failure.map(|(_, what)| what),
            found: FoundView::of(status.cache),
            intervals_written: status.intervals_written,
            intervals_pending: history.pending(),
            intervals_dropped: status.intervals_dropped,
            events_written: status.events_written,
            events_dropped: status.events_dropped,
            errors: status.errors,
            last_write_unix_seconds: status.last_write_unix_seconds,
        }
    }
}

async fn sqlite(State(app): State<App>) -> Response {
    let Some(history) = app.plane.history() else { return off(&app.plane).answer() };
    let path = &history.config().path;
    let (database, reader, reason) = match app.archive.ask(path, |reader| Ok(reader.statistics()?)).await {
        Ok(Ok(read)) => {
            let (cache_bytes_max, found) = (read.cache_bytes_max, FoundView::of(read.cache));
            (Some(DatabaseView::of(&read)), Some(CacheView { cache_bytes_max, found }), None)
        }
        Ok(Err(refused)) => (None, None, Some(refused.line())),
        Err(failed) => return failed,
    };
    let (path, writer) = (path.display().to_string(), WriterView::of(history));
    json(StatusCode::OK, &SqliteView { path, reason, database, reader, writer })
}

/// The history that is this relay's own. What lies at its path is another's while that one writes it.
fn kept(plane: &ControlPlane) -> Result<&Arc<History>, Refused> {
    let history = plane.history().ok_or_else(|| off(plane))?;
    match history.status().failure {
        Some((LOCKED, why)) => {
            let line = format!("no history of this relay: {why}; give it a path of its own in [history]");
            Err(Refused::Unreadable(line))
        }
        _ => Ok(history),
    }
}

fn off(plane: &ControlPlane) -> Refused {
    let why = plane.no_history().unwrap_or("set enabled = true in [history]");
    Refused::Unknown(format!("history is off; {why}"))
}
