//! What is answered over HTTP. GET and HEAD only, but for `/-/reload`.
//!
//! | route | answer |
//! |---|---|
//! | `/`, `/assets/{file}` | the page, to who accepts HTML; to others these routes, as text |
//! | `/api` | these routes, as text, or as HTML to who accepts that |
//! | `/metrics` | everything held, in the Prometheus text format 0.0.4 |
//! | `/mesh` | one row per target: a table, or JSON by `?format=json` or `Accept: application/json` |
//! | `/healthz` | 200 or 503, with both clocks of every shard as JSON |
//! | `/readyz` | 200 once drained and every shard has beaten, else 503 with the reason, as JSON |
//! | `/api/perf/io` | what this process and the data plane's read and write a second, as JSON |
//! | `/api/perf/sources` | what every shard recorded, and what of it was drained of which family, and lost, as JSON |
//! | `/api/perf/sqlite` | what the history's database is made of, and how it is written and read, as JSON, 404 where history is off |
//! | `/api/perf/stages` | how late drains began, and how long our own stages waited and took, as JSON |
//! | `/api/v1/alerts`, `/api/v1/peers`, `/api/v1/last/{metric}` | alerts and peers as JSON, 404 where alerting is off |
//! | `/api/v1/history`, `/api/v1/events` | what is kept on disk of a target, and what happened, as JSON, 404 where history is off |
//! | `/api/v1/relays` | every relay of the mesh with its rows, as JSON |
//! | `/api/v1/live` | what happens, as server-sent events without end |
//! | `/-/reload` | POST alone: 200 once the configuration read anew is in force, 400 with what is wrong with it, 403 where that is not allowed |
//!
//! Anything else is 404, any other method 405, a parameter that a route does not take 400; all say in a line what
//! would be right. No client can make a series: requests are counted by the routes above and `other`.
//!
//! Where a [`WebConfig`] has users, who is none of them is answered 401 on every route.

mod access_log;
mod api;
mod auth;
mod config;
mod handshake;
mod history;
mod landing;
mod limits;
mod live;
mod metrics;
mod negotiation;
mod page;
mod pages;
mod perf;
mod pulse;
mod query;
mod refusal;
mod reload;
mod renderer;
mod scrape_timeout;
mod security;
mod server;
mod stream;
mod thread;
mod web;
mod web_config;

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use self::live::Live;
use self::pages::{Page, Pages};
use self::renderer::Renderer;
use self::web::Web;
use crate::ControlPlane;

pub use config::HttpConfig;
pub use limits::Limits;
pub(crate) use refusal::{Authentication, ConnectionRefused};
pub use reload::ReloadRequest;
pub(crate) use reload::{Requests, channel as reload_channel};
pub use server::serve;
pub use thread::{ServerPanicked, ServerThread};
pub use web_config::{WebConfig, WebConfigError};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

#[derive(Clone)]
struct App {
    plane: ControlPlane,
    /// Makes what waits for the drain: scrapes, and the accounts of sources.
    renderer: Renderer,
    /// Makes the rest that grows with the fleet, also while the drain hangs.
    viewer: Renderer,
    /// Makes what is read from disk.
    archive: history::Archive,
    pages: Pages,
    site: page::Site,
    /// Who listens.
    live: Live,
}

/// The routes of `plane`, each request within `limits.request_timeout` and `limits.body_bytes_max`.
///
/// [`serve`] serves it with all limits and whatever a [`WebConfig`] asks for; mount it in a server of your own if
/// you have one, and connections, TLS and users are that server's.
pub fn router(plane: ControlPlane, limits: &Limits) -> Router {
    routes(plane, limits, Web::new(None), false)
}

/// A request goes through the layers from the last to the first: it is logged and counted whatever becomes of it,
/// and its body is read of nobody who may not ask.
fn routes(plane: ControlPlane, limits: &Limits, web: Web, access_log: bool) -> Router {
    let live = Live::new(plane.clone());
    routes_with(live, plane, limits, web, access_log)
}

fn routes_with(live: Live, plane: ControlPlane, limits: &Limits, web: Web, access_log: bool) -> Router {
    let gate = auth::Gate::new(plane.clone(), web.clone());
    let (renderer, viewer) = (Renderer::new("relayscope-page"), Renderer::new("relayscope-view"));
    let (archive, pages, site) = (history::Archive::new(), Pages::default(), page::Site::default());
    let app = App { plane, renderer, viewer, archive, pages, site, live };
    let routes = Router::new()
        .route("/", get(landing::landing))
        .route("/api", get(landing::routes))
        .route(page::FILES, get(page::file))
        .route("/metrics", get(metrics::answer).layer(middleware::from_fn(scrape_timeout::apply)))
        .route("/mesh", get(mesh))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(perf::routes())
        .merge(api::routes())
        .merge(history::routes())
        .merge(live::routes())
        .route(reload::ROUTE, post(reload::answer).fallback(reload::method_not_allowed))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(query::apply))
        .layer(middleware::from_fn_with_state(*limits, limits::read_body))
        .layer(middleware::from_fn_with_state(gate, auth::require))
        .layer(middleware::from_fn_with_state(*limits, limits::in_time))
        .layer(middleware::from_fn_with_state(web, security::apply))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app);
    if access_log { routes.layer(middleware::from_fn(access_log::apply)) } else { routes }
}

#[derive(Deserialize)]
struct MeshQuery {
    format: Option<String>,
}

async fn mesh(State(app): State<App>, Query(query): Query<MeshQuery>, headers: HeaderMap) -> Response {
    let as_json = match query.format.as_deref() {
        Some("json") => true,
        Some("text") => false,
        None => accepts_json(&headers),
        Some(other) => {
            let line = format!("format {other:?} is not known; expected format=json or format=text\n");
            return reply(StatusCode::BAD_REQUEST, TEXT, line);
        }
    };
    pages::answer(app, Page::Mesh { as_json }, move |plane| {
        let mesh = plane.mesh();
        Ok(if as_json { to_json(&mesh) } else { mesh.to_text().into_bytes() })
    })
    .await
}

async fn healthz(State(app): State<App>) -> Response {
    let health = app.plane.health();
    json(status_if(health.status == crate::Status::Ok), &health)
}

async fn readyz(State(app): State<App>) -> Response {
    let readiness = app.plane.readiness();
    json(status_if(readiness.ready), &readiness)
}

async fn not_found(uri: Uri) -> Response {
    let known: Vec<_> = landing::ROUTES.iter().map(|(path, _)| *path).collect();
    let line = format!("no route {}; there are / and {}\n", uri.path(), known.join(", "));
    reply(StatusCode::NOT_FOUND, TEXT, line)
}

async fn method_not_allowed(method: Method) -> Response {
    let line = format!("method {method} is not allowed; expected GET or HEAD\n");
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, line);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
    response
}

/// Counts the answer by its route as declared, never by what the client sent.
async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    app.plane.request_answered(route, response.status().as_str());
    response
}

/// Runs what may wait for a lock where it stalls no other request.
async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    tokio::task::spawn_blocking(work).await.map_err(cannot_render)
}

fn cannot_render(error: impl std::fmt::Display) -> Response {
    tracing::error!(%error, "an answer could not be rendered");
    reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the answer could not be rendered; see the log\n")
}

/// Whether `application/json` is among the media types asked for.
fn accepts_json(headers: &HeaderMap) -> bool {
    let is_json = |range: &str| range.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(JSON));
    let values = headers.get_all(header::ACCEPT).iter();
    values.filter_map(|value| value.to_str().ok()).any(|value| value.split(',').any(is_json))
}

fn status_if(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    reply(status, JSON, to_json(value))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut body = serde_json::to_vec(value).expect("plain structs with string keys serialize");
    body.push(b'\n');
    body
}

fn reply(status: StatusCode, content_type: &'static str, body: impl IntoResponse) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests;
