//! What the relay itself costs: what it reads and writes, and how long its stages take, as JSON.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{App, json, on_blocking_thread};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/perf/stages", get(stages)).route("/api/perf/io", get(io))
}

async fn io(State(app): State<App>) -> Response {
    match on_blocking_thread(move || app.plane.io_rates()).await {
        Ok(rates) => json(StatusCode::OK, &rates),
        Err(failed) => failed,
    }
}

async fn stages(State(app): State<App>) -> Response {
    json(StatusCode::OK, &app.plane.stage_latencies())
}
