//! What is answered over HTTP: the page, and the upgrade to a WebSocket.

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::record::{Stranger, TurnedAway};
use super::waiting::Waits;
use super::{Shared, connection, origin};
use crate::wire::PACKET_MAX;

/// Octets a connection's buffers begin with, and those that may wait to be written.
const BUFFER_LEN: usize = 4096;
const WRITE_BUFFER_MAX: usize = 65_536;

/// On every answer. The page takes nothing from anywhere else, and talks to this host alone.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// A TCP connection's place among those who wait; its upgrade takes it along, up to its welcome.
#[derive(Clone)]
pub(super) struct Place(#[expect(dead_code, reason = "it is held, not read")] pub(super) Arc<Waits>);

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    let file = |kind: &'static str, text: &'static str| get(([(header::CONTENT_TYPE, kind)], text));
    let script = "text/javascript; charset=utf-8";
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", file(script, include_str!("page/page.js")))
        .route("/wire.js", file(script, include_str!("page/wire.js")))
        .route("/second.js", file(script, include_str!("page/second.js")))
        .route("/join", get(join))
        .layer(from_fn(with_headers))
        .with_state(shared)
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn join(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !origin::may_connect(&headers, &shared.origins) {
        shared.board().recorder_mut().stranger(Stranger::Origin);
        let text = "pages of this origin may not connect; --web-origin names one that may\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    // A seat is for who shows a token. Where none is free, nobody needs to.
    let upgraded = Arc::clone(&shared.upgraded).try_acquire_owned();
    let (Ok(upgraded), true) = (upgraded, shared.seats.available_permits() > 0) else {
        shared.board().recorder_mut().turned_away(TurnedAway::TooMany);
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections; retry later\n").into_response();
    };
    upgrade
        .max_message_size(PACKET_MAX)
        .max_frame_size(PACKET_MAX)
        .read_buffer_size(BUFFER_LEN)
        .write_buffer_size(BUFFER_LEN)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .on_upgrade(async move |socket| {
            connection::serve(socket, place, shared).await;
            drop(upgraded);
        })
}
