//! The bounds of the HTTP server, and those that apply to a request.

use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::{TEXT, reply};

/// What one HTTP server will bear. Every wait, size and number has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once: 512 by default. Beyond that one that does nothing makes room for the new one; if
    /// all are being served, that is answered 503, closed and counted.
    pub connections_max: usize,
    /// Time for a TLS handshake: 5 s by default.
    pub handshake_timeout: Duration,
    /// Time for a request's header to come, from the first octet or, for the first one, from the connection's
    /// begin: 10 s by default. Then it is closed and counted.
    pub header_timeout: Duration,
    /// Time a connection may idle between requests: 2 min by default.
    pub idle_timeout: Duration,
    /// Request line and headers: 16 KiB by default. What is larger is answered 431.
    pub header_bytes_max: usize,
    /// Headers of a request: 64 by default. More are answered 431.
    pub headers_max: usize,
    /// A request's body: 64 KiB by default. What is larger is answered 413.
    pub body_bytes_max: usize,
    /// Time for a request's body to come: 10 s by default. Then it is answered 408.
    pub body_timeout: Duration,
    /// Time to make an answer: 10 s by default, Prometheus's own scrape timeout. Then 503.
    pub request_timeout: Duration,
    /// Time for a client to take an answer: 60 s by default. Then it is closed and counted.
    pub send_timeout: Duration,
    /// Time for which a client may leave what was sent to it unread: 30 s by default. Then the
    /// kernel resets the connection.
    pub write_stall_max: Duration,
    /// Time for open requests to end at shutdown: 5 s by default. Then they are cut.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            header_bytes_max: 16 << 10,
            headers_max: 64,
            body_bytes_max: 64 << 10,
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(60),
            write_stall_max: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// Holds the making of an answer to its time.
pub(super) async fn in_time(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(limits.request_timeout, next.run(request)).await;
    answer.unwrap_or_else(|_| too_late(limits.request_timeout))
}

pub(super) fn too_late(most: Duration) -> Response {
    let line = format!("no answer within {most:?}; see /healthz\n");
    reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, line)
}

/// Reads the body there may be, within its size and time, before anybody looks at it.
pub(super) async fn read_body(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let max = limits.body_bytes_max;
    if request.body().size_hint().lower() > max as u64 {
        return too_large(max);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(limits.body_timeout, to_bytes(body, max)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(error)) if is_over_limit(&error) => too_large(max),
        Ok(Err(error)) => {
            reply(StatusCode::BAD_REQUEST, TEXT, format!("the request's body broke off: {error}\n"))
        }
        Err(_) => {
            let line = format!("the request's body did not come within {:?}\n", limits.body_timeout);
            reply(StatusCode::REQUEST_TIMEOUT, TEXT, line)
        }
    }
}

fn is_over_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

fn too_large(max: usize) -> Response {
    let line = format!("request body is too large; expected at most {max} bytes\n");
    reply(StatusCode::PAYLOAD_TOO_LARGE, TEXT, line)
}
