//! A line for each request, where that is wanted.

use std::net::SocketAddr;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::auth::User;
use crate::clock::Now;

/// Octets of a request's path and query that are logged.
const URI_LEN_MAX: usize = 256;

/// Where a connection comes from, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client(pub(super) SocketAddr);

/// Says who asked what, and what was answered. The time is until the answer's head was made.
pub(super) async fn apply(request: Request, next: Next) -> Response {
    let began = Now::sample();
    let client = request.extensions().get::<Client>().map_or("-".to_owned(), |client| client.0.to_string());
    let method = request.method().clone();
    // A URI is ASCII without spaces and control characters.
    let mut uri = request.uri().path_and_query().map_or("-", |uri| uri.as_str()).to_owned();
    uri.truncate(URI_LEN_MAX);
    let response = next.run(request).await;
    let user = response.extensions().get::<User>().map_or("-", |user| &user.0);
    let status = response.status().as_u16();
    let took = Now::sample().since(began.monotonic_ns);
    tracing::info!(target: "relayscope::access", client, user, %method, uri, status, ?took, "request");
    response
}
