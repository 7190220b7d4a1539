//! Sends alerts to an Alertmanager, each on a thread of its own: one that hangs holds up no other, no evaluation and no
//! drain.
//!
//! The form is that of Alertmanager's [API v2], `POST /api/v2/alerts`, which it has had since 0.16.
//!
//! [API v2]: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml

mod delivery;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use relayscope_bridge::catalogue;

use self::delivery::{Batch, Delivery};
use super::SubscribeError;
use super::events::{AlertEvents, SubscriberId};
use crate::ControlPlane;
use crate::clock::Now;
use crate::trust;
use crate::url::{is_host_and_port, split_path, without_password, without_user};

/// Time for a request, from the look-up of the name to the answer's last octet.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop waits for a request that is on its way.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// While there is nothing to send.
const IDLE: Duration = Duration::from_secs(3600);
/// What is read of an answer, for its words.
const ANSWER_LEN_MAX: u64 = 64 << 10;
/// And how much of it is put into the log.
const SAID_LEN_MAX: usize = 200;
const PATH: &str = "/api/v2/alerts";

/// Where alerts are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertmanagerConfig {
    /// Its address as for a browser, with its path prefix if it has one: `http://127.0.0.1:9093`. See
    /// [`check_url`].
    pub url: String,
    /// Time until an alert that stands is sent again: 1 min by default. Its end is sent as four times this ahead.
    pub resend_interval: Duration,
    /// What its page links to: where this relay shows its alerts.
    pub generator_url: String,
}

/// Checks where an Alertmanager is to be.
///
/// # Errors
/// A sentence that says what would be right.
pub fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or_default();
    let (authority, path) = split_path(rest);
    // Of a password with a slash the rest would be taken for a path, and shown.
    if path.contains('@') {
        return Err(format!(
            "'{}' with an '@' after the host is invalid; expected none, nor '/', '?' or '#' in a password",
            without_password(url)
        ));
    }
    let is_url = url.parse::<ureq::http::Uri>().is_ok();
    if !is_url || !is_host_and_port(without_user(authority)) || is_beyond_prefix(path) {
        return Err(format!(
            "'{}' is invalid; expected http[s]://HOST[:PORT][/PREFIX]",
            without_password(url)
        ));
    }
    Ok(())
}

fn is_beyond_prefix(path: &str) -> bool {
    path.contains(['?', '#']) || path.ends_with(PATH)
}

/// A running sender. Dropping it stops it too.
#[derive(Debug)]
pub struct AlertmanagerThread {
    plane: ControlPlane,
    subscriber: SubscriberId,
    /// Says nothing; it closes when the thread has ended. Absent once it was waited for.
    ended: Option<Receiver<()>>,
}

impl ControlPlane {
    /// Sends alerts to an Alertmanager from now on, those that stand first.
    ///
    /// # Errors
    /// When alerting is off, there are too many subscribers to alerts, or no thread can be had.
    pub fn spawn_alertmanager(&self, config: &AlertmanagerConfig) -> Result<AlertmanagerThread, SendError> {
        check_url(&config.url).map_err(SendError::Url)?;
        let name = without_password(&config.url);
        let (subscriber, events) = self.subscribe_alerts_as(&name)?;
        let (running, ended) = channel();
        let mut sender = Sender::new(self.clone(), config, name)?;
        // From here on a failure unsubscribes, too.
        let handle = AlertmanagerThread { plane: self.clone(), subscriber, ended: Some(ended) };
        std::thread::Builder::new().name("relayscope-am".to_owned()).spawn(move || {
            sender.run(&events);
            drop(running);
        })?;
        Ok(handle)
    }
}

/// Alerts cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The address makes no sense.
    #[error("alertmanager {0}")]
    Url(String),
    /// There is nothing to be sent.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// There is no thread to be had, or no certificate to trust.
    #[error("alerts cannot be sent: {0}")]
    Host(#[from] io::Error),
}

impl AlertmanagerThread {
    /// Sends no more. Waits a second at most for a request that is on its way; alerts that stand end at the
    /// Alertmanager in their time, as do those of a relay that died.
    pub fn stop(self) {
        drop(self);
    }

    /// Stops all of them, which takes no longer than to stop one.
    pub fn stop_all(mut senders: Vec<Self>) {
        senders.iter().for_each(Self::end);
        let began = Now::sample();
        for sender in &mut senders {
            sender.wait(STOP_PATIENCE.saturating_sub(Now::sample().since(began.monotonic_ns)));
        }
    }

    /// Its events come to an end, and with them the thread.
    fn end(&self) {
        self.plane.unsubscribe_alerts(self.subscriber);
    }

    fn wait(&mut self, patience: Duration) {
        let Some(ended) = self.ended.take() else { return };
        if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("a request to an alertmanager is left behind unanswered");
        }
    }
}

impl Drop for AlertmanagerThread {
    fn drop(&mut self) {
        self.end();
        self.wait(STOP_PATIENCE);
    }
}

/// How a request went, as in the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It was taken.
    Ok,
    /// It was understood and refused (4xx).
    Refused,
    /// It could not be taken in (any other answer).
    Failed,
    /// There was no answer in time.
    Unanswered,
}

impl Sent {
    const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Failed, Self::Unanswered];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unanswered => "unanswered",
        }
    }
}

struct Sender {
    plane: ControlPlane,
    name: String,
    endpoint: String,
    agent: ureq::Agent,
    delivery: Delivery,
}

impl Sender {
    fn new(plane: ControlPlane, config: &AlertmanagerConfig, name: String) -> io::Result<Self> {
        let settings = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("relayscope/", env!("CARGO_PKG_VERSION")));
        let settings = match config.url.starts_with("https://") {
            true => settings.tls_config(trust::this_host()?),
            false => settings,
        };
        // At 0 from the first scrape on: what never failed is told from what was never counted.
        for result in Sent::ALL {
            plane.own().add(&catalogue::ALERTMANAGER_REQUESTS, &[&name, result.as_str()], 0);
        }
        plane.own().add(&catalogue::ALERTMANAGER_DROPPED, &[&name], 0);
        Ok(Self {
            plane,
            name,
            endpoint: format!("{}{PATH}", config.url.trim_end_matches('/')),
            agent: settings.build().into(),
            delivery: Delivery::new(config.resend_interval, &config.generator_url),
        })
    }

    /// Until nobody tells of alerts any more.
    fn run(&mut self, events: &AlertEvents) {
        loop {
            let pause = self.delivery.next_in(Now::sample()).unwrap_or(IDLE);
            match events.next_within(pause) {
                Ok(event) => {
                    self.delivery.note(event);
                    // What came with it goes into the same request.
                    std::iter::from_fn(|| events.try_next()).for_each(|event| self.delivery.note(event));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let dropped = self.delivery.take_dropped();
            self.plane.own().add(&catalogue::ALERTMANAGER_DROPPED, &[&self.name], dropped);
            // One at a time: whether to stop is seen before the next.
            if let Some(batch) = self.delivery.next_batch(Now::sample()) {
                self.send(&batch);
            }
        }
    }

    fn send(&mut self, batch: &Batch) {
        let (sent, said) = self.post(&batch.body);
        self.plane.own().add(&catalogue::ALERTMANAGER_REQUESTS, &[&self.name, sent.as_str()], 1);
        let is_news = self.delivery.settle(batch, sent, Now::sample());
        let (name, alerts) = (&self.name, batch.alerts());
        match sent {
            Sent::Ok if is_news => {
                tracing::info!("alertmanager {name} takes alerts again, all of them")
            }
            Sent::Ok => tracing::debug!("alertmanager {name} took {alerts} alerts"),
            _ if is_news => tracing::warn!(
                "alertmanager {name} did not take {alerts} alerts, which is tried again: {said}"
            ),
            _ => tracing::debug!("alertmanager {name} did not take {alerts} alerts: {said}"),
        }
    }

    fn post(&self, body: &str) -> (Sent, String) {
        let request = self.agent.post(&self.endpoint).header("content-type", "application/json");
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return (Sent::Unanswered, error.to_string()),
        };
        let status = response.status();
        let said = response.body_mut().with_config().limit(ANSWER_LEN_MAX).read_to_string();
        let said: String = said.unwrap_or_default().chars().take(SAID_LEN_MAX).collect();
        let sent = match status.as_u16() {
            200..=299 => Sent::Ok,
            400..=499 => Sent::Refused,
            _ => Sent::Failed,
        };
        (sent, format!("{status}: {}", said.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_with_what_is_right_and_without_its_password() {
        for url in [
            "http://127.0.0.1:9093",
            "https://alertmanager.example.net/prefix/",
            "http://[::1]:9093",
            "http://u:p@am.example.net:9093",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "127.0.0.1:9093",
            "http://",
            "http://:9093",
            "ftp://a",
            "http://a b",
            "http://a/?x",
            "http://a/api/v2/alerts",
            "http://h:99999",
            "http://h:0",
            "http://h:+80",
            "http://h:",
            "http://[::1]:x",
        ] {
            let expected = format!("'{url}' is invalid; expected http[s]://HOST[:PORT][/PREFIX]");
            assert_eq!(check_url(url), Err(expected));
        }
        for secret in ["http://u:secret@a/?x", "http://u:secret@a:0", "u:secret@a", "http://u:secret?x@a"] {
            assert!(!check_url(secret).unwrap_err().contains("secret"), "{secret}");
        }
        assert_eq!(
            check_url("http://u:s3cret/w@127.0.9.3:29093").unwrap_err(),
            "'http://127.0.9.3:29093' with an '@' after the host is invalid; expected none, nor '/', '?' or \
             '#' in a password"
        );
        assert_eq!(without_password("http://u:p@a:1/b"), "http://a:1/b");
    }
}
