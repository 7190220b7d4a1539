//! Reading the configuration anew at a POST, where that is allowed.

use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tokio::sync::{mpsc, oneshot};

use super::{App, TEXT, reply};

pub(super) const ROUTE: &str = "/-/reload";
/// Requests that wait while one is carried out; a further one waits for its place, up to its time limit.
const WAITING_MAX: usize = 1;

/// Somebody asks for the configuration to be read anew. Dropped unanswered, it is answered 503.
#[derive(Debug)]
pub struct ReloadRequest(oneshot::Sender<Result<String, String>>);

impl ReloadRequest {
    /// Says what is in force now, or why the configuration before stays so. Who asked may be gone.
    pub fn answer(self, outcome: Result<String, String>) {
        if self.0.send(outcome).is_err() {
            tracing::debug!("who asked for the reload did not wait for it");
        }
    }
}

pub(crate) type Requests = mpsc::Sender<ReloadRequest>;

pub(crate) fn channel() -> (Requests, mpsc::Receiver<ReloadRequest>) {
    mpsc::channel(WAITING_MAX)
}

pub(super) async fn answer(State(app): State<App>) -> Response {
    let Some(requests) = app.plane.reloads() else {
        let line = "reload over HTTP is off; set reload = true in [web], or send SIGHUP\n";
        return reply(StatusCode::FORBIDDEN, TEXT, line);
    };
    let (answer, outcome) = oneshot::channel();
    if requests.send(ReloadRequest(answer)).await.is_err() {
        return gone();
    }
    match outcome.await {
        Ok(Ok(said)) => reply(StatusCode::OK, TEXT, format!("{said}\n")),
        Ok(Err(error)) => {
            let line = format!("not reloaded, the configuration before stays in force: {error}\n");
            reply(StatusCode::BAD_REQUEST, TEXT, line)
        }
        Err(_) => gone(),
    }
}

fn gone() -> Response {
    reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "nobody reloads any more; see the log\n")
}

pub(super) async fn method_not_allowed(method: Method) -> Response {
    let line = format!("method {method} is not allowed; expected POST\n");
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, line);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}
