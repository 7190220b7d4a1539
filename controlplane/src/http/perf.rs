//! The relay's own performance, as JSON: how long its stages take, what it reads and writes, and what its rings brought.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::{App, JSON, json, on_blocking_thread, reply, to_json};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/perf/stages", get(stages))
        .route("/api/perf/io", get(io))
        .route("/api/perf/sources", get(sources))
}

async fn sources(State(app): State<App>) -> Response {
    // It waits for the drain, as a scrape does.
    let turn = app.renderer.turn().await;
    match app.renderer.run(turn, move || to_json(&app.plane.sources())).await {
        Ok(body) => reply(StatusCode::OK, JSON, body),
        Err(failed) => failed,
    }
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
