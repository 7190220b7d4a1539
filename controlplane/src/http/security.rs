//! Headers that keep browsers from doing more with an answer than to show it.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::web::Web;

/// Nothing is fetched, framed, sent or based elsewhere. Every answer is of this moment.
const ALWAYS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "deny"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];
/// A year, for this host alone. It holds for all ports of it: who serves others without TLS sets it to max-age=0.
const HSTS: &str = "max-age=31536000";

/// Adds what an answer has not set itself; what the web configuration says outweighs both.
pub(super) async fn apply(State(web): State<Web>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    ALWAYS.iter().for_each(|(name, value)| set_if_missing(headers, name, value));
    if let Some(config) = web.config() {
        if config.serves_tls() {
            set_if_missing(headers, &header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        config.headers().apply(headers);
    }
    response
}

fn set_if_missing(headers: &mut HeaderMap, name: &HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}
