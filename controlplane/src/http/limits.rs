//! The bounds of the HTTP server, and those that apply to a request.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::Limited;

use super::{TEXT, reply};

/// What one HTTP server will bear. Every wait, size and number has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once: 64 by default. One more is answered 503, closed and counted.
    pub connections_max: usize,
    /// Time for a request's header to come, also the time a connection may idle: 10 s by default.
    pub header_timeout: Duration,
    /// Request line and headers: 16 KiB by default. What is larger is answered 431.
    pub header_bytes_max: usize,
    /// Headers of a request: 64 by default. More are answered 431.
    pub headers_max: usize,
    /// A request's body: 64 KiB by default. What is larger is answered 413.
    pub body_bytes_max: usize,
    /// Time to make an answer: 10 s by default, Prometheus's own scrape timeout. Then 503.
    pub request_timeout: Duration,
    /// Time for which a client may leave what was sent to it unread: 30 s by default. Then the
    /// kernel resets the connection.
    pub write_stall_max: Duration,
    /// Time for open requests to end at shutdown: 5 s by default. Then they are cut.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            headers_max: 64,
            body_bytes_max: 64 << 10,
            request_timeout: Duration::from_secs(10),
            write_stall_max: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// Holds one request to its limits.
pub(super) async fn apply(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let max = limits.body_bytes_max;
    if request.body().size_hint().lower() > max as u64 {
        let line = format!("request body is too large; expected at most {max} bytes\n");
        return reply(StatusCode::PAYLOAD_TOO_LARGE, TEXT, line);
    }
    let request = request.map(|body| Body::new(Limited::new(body, max)));
    let answer = tokio::time::timeout(limits.request_timeout, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let line = format!("no answer within {:?}; see /healthz\n", limits.request_timeout);
        reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, line)
    })
}
