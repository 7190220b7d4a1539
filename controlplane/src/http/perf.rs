//! What the relay itself costs: how long its stages take, as JSON.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{App, json};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/perf/stages", get(stages))
}

async fn stages(State(app): State<App>) -> Response {
    json(StatusCode::OK, &app.plane.stage_latencies())
}
