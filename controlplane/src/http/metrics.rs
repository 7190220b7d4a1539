//! The scrape.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{App, cannot_render, reply};
use crate::exposition::CONTENT_TYPE;

pub(super) async fn answer(State(app): State<App>) -> Response {
    let turn = app.turn.lock_owned().await;
    let render = move || {
        let body = app.plane.exposition();
        // Held to here even if the client gave up: of requests whose time is over one waits, however long
        // the drain hangs.
        drop(turn);
        body
    };
    match app.renderer.run(render).await {
        Ok(body) => reply(StatusCode::OK, CONTENT_TYPE, body),
        Err(error) => cannot_render(error),
    }
}
