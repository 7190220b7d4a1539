//! Basic authentication (RFC 7617) against the users of the web configuration.
//!
//! A name and password that were right before cost microseconds, on the thread that serves. All others cost
//! rounds of bcrypt: these are worked off one at a time on a thread of its own, and few wait for it, fewer of
//! one source. Whoever guesses keeps that thread busy and nobody else waiting.

mod admission;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::watch;

use self::admission::{Admission, Step, source};
use super::access_log::Client;
use super::refusal::Authentication;
use super::web::Web;
use super::web_config::{Credentials, Users};
use super::{TEXT, reply};
use crate::{ControlPlane, Worker};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"relayscope\", charset=\"UTF-8\"");
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// Who asked, as an extension of the answer.
#[derive(Clone, Debug)]
pub(super) struct User(pub(super) Arc<str>);

/// Lets in whom the web configuration knows.
#[derive(Clone)]
pub(super) struct Gate {
    plane: ControlPlane,
    web: Web,
    admission: Arc<Mutex<Admission>>,
    worker: Worker,
}

impl Gate {
    pub(super) fn new(plane: ControlPlane, web: Web) -> Self {
        Self { plane, web, admission: Arc::default(), worker: Worker::new("relayscope-auth") }
    }

    /// Whether these are right, and how that is known.
    async fn check(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        client: Option<IpAddr>,
    ) -> Authentication {
        let digest = users.digest(&credentials);
        let step = lock(&self.admission).step(digest.as_ref(), source(client));
        let verdict = match step {
            Step::Full => return Authentication::Busy,
            Step::Join(verdict) => verdict,
            Step::Begin(place, verdict) => {
                let admission = Arc::clone(&self.admission);
                let leaving = Leaving { admission, place };
                let check = move || {
                    let right = users.check(&credentials);
                    lock(&leaving.admission).tell(leaving.place, right);
                };
                // Whoever waits learns of its end by the verdict.
                if let Err(error) = self.worker.run(check).await {
                    tracing::error!("a password was not checked: {error}");
                }
                verdict
            }
        };
        match awaited(verdict).await {
            Some(true) => Authentication::Verified,
            Some(false) => Authentication::Wrong,
            None => Authentication::Busy,
        }
    }
}

/// Frees the place of a check that came to no end.
struct Leaving {
    admission: Arc<Mutex<Admission>>,
    place: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        lock(&self.admission).leave(self.place);
    }
}

fn lock(admission: &Mutex<Admission>) -> std::sync::MutexGuard<'_, Admission> {
    admission.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None` when the check came to no end.
async fn awaited(mut verdict: watch::Receiver<Option<bool>>) -> Option<bool> {
    verdict.wait_for(Option::is_some).await.ok().and_then(|verdict| *verdict)
}

/// Lets a request pass, or answers 401, or 503 where too many are being looked at.
pub(super) async fn require(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let Some(users) = gate.web.config().and_then(|config| config.users().cloned()) else {
        return next.run(request).await;
    };
    let given = request.headers().get(header::AUTHORIZATION);
    let credentials = match given.map(credentials) {
        None => return gate.refuse(Authentication::Missing),
        Some(None) => return gate.refuse(Authentication::Malformed),
        Some(Some(credentials)) => credentials,
    };
    let client = request.extensions().get::<Client>().map(|client| client.0.ip());
    let (outcome, user) = match users.proven(&credentials) {
        Some(name) => (Authentication::Proven, User(name.into())),
        None => {
            let user = User(credentials.name_shown().into());
            (gate.check(users, credentials, client).await, user)
        }
    };
    let mut response = match outcome {
        Authentication::Proven | Authentication::Verified => {
            gate.plane.authenticated(outcome);
            next.run(request).await
        }
        refused => gate.refuse(refused),
    };
    response.extensions_mut().insert(user);
    response
}

impl Gate {
    fn refuse(&self, why: Authentication) -> Response {
        self.plane.authenticated(why);
        let line = match why {
            Authentication::Busy => {
                let line = "too many passwords are being checked; retry in a second\n";
                let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, line);
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S);
                return response;
            }
            Authentication::Missing => "a user's name and password are required\n",
            Authentication::Malformed => {
                "authorization is malformed; expected Basic, with NAME:PASSWORD in base64\n"
            }
            _ => "the user's name or password is wrong\n",
        };
        let mut response = reply(StatusCode::UNAUTHORIZED, TEXT, line);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
        response
    }
}

fn credentials(value: &HeaderValue) -> Option<Credentials> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    Credentials::new(BASE64_STANDARD.decode(token.trim()).ok()?)
}

#[cfg(test)]
mod tests;
