//! Asks one relay, once.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::http::StatusCode;

use super::config::RelayConfig;
use super::reading::{self, BODY_LEN_MAX, line};
use crate::mesh::Mesh;
use crate::trust;

/// Time for an answer, from the look-up of the name to its last octet, and of that for a connection.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are kept for the next question, and for how long.
const IDLE_MAX: usize = 1;
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);
const PATH: &str = "/mesh?format=json";

/// How it went, as in the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// It said what its targets are.
    Ok,
    /// There was no answer in time.
    Unanswered,
    /// It answered, with another status than 200.
    Refused,
    /// What it answered makes no sense, or is too much.
    Malformed,
}

impl Polled {
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::Unanswered, Self::Refused, Self::Malformed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
        }
    }
}

/// No mesh, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) polled: Polled,
    pub(super) why: String,
}

/// Who asks the relay of `config`.
///
/// # Errors
/// Where there is nobody to trust.
pub(super) fn agent(config: &RelayConfig) -> Result<ureq::Agent, String> {
    agent_within(config, TIMEOUT)
}

pub(super) fn agent_within(config: &RelayConfig, timeout: Duration) -> Result<ureq::Agent, String> {
    // A redirection could lead anywhere, with the password.
    let settings = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections_per_host(IDLE_MAX)
        .max_idle_age(IDLE_AGE_MAX)
        .user_agent(concat!("relayscope/", env!("CARGO_PKG_VERSION")));
    if !config.url.starts_with("https://") {
        return Ok(settings.build().into());
    }
    let tls = match config.trusted()? {
        Some(tls) => tls,
        None => trust::this_host().map_err(|error| error.to_string())?,
    };
    Ok(settings.tls_config(tls).build().into())
}

/// Asks for its mesh. Blocks.
pub(super) fn ask(agent: &ureq::Agent, config: &RelayConfig) -> Result<Mesh, Failed> {
    let failed = |polled, why: &str| Failed { polled, why: line(why) };
    let url = format!("{}{PATH}", config.url.trim_end_matches('/'));
    let mut request = agent.get(url).header("accept", "application/json");
    if let Some(user) = &config.user {
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", user.name, user.password));
        request = request.header("authorization", format!("Basic {credentials}"));
    }
    let mut response = request.call().map_err(|error| failed(Polled::Unanswered, &error.to_string()))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => {
            let why = "answers 401 Unauthorized; expected a user it knows, with user and password_file";
            return Err(failed(Polled::Refused, why));
        }
        status => return Err(failed(Polled::Refused, &format!("answers {status}; expected its mesh"))),
    }
    let mut body = Vec::new();
    let read = response.body_mut().as_reader().take(BODY_LEN_MAX + 1).read_to_end(&mut body);
    match read {
        Err(error) => Err(failed(Polled::Unanswered, &format!("the answer broke off: {error}"))),
        Ok(length) if length as u64 > BODY_LEN_MAX => {
            Err(failed(Polled::Malformed, &format!("the answer is larger than {BODY_LEN_MAX} bytes")))
        }
        Ok(_) => {
            reading::read(&body).map_err(|why| failed(Polled::Malformed, &format!("what it answers {why}")))
        }
    }
}
