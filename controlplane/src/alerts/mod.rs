//! Alerts: raised from what the peers and the shards say, told to whoever asks.
//!
//! ```text
//! cells, clocks, rings -> PeerMonitor -> judges -> AlertBook -> subscribers -> log, /api/v1/alerts, Alertmanager
//! ```
//!
//! A [`AlertThread`] looks every 200 ms, on a thread of its own, so that no drain waits for it. All but that thread and
//! those that send to Alertmanager is told the time and touches no socket.

mod alert;
pub(crate) mod alertmanager;
mod book;
mod events;
mod judge;
mod rules;
mod thread;
mod watch;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relayscope_bridge::catalogue;

use crate::ControlPlane;
use crate::clock::Now;

pub use alert::{Alert, AlertName, Severity, Subject};
pub use alertmanager::{
    AlertmanagerConfig, AlertmanagerThread, SendError, check_url as check_alertmanager_url,
};
pub use events::{AlertEvent, AlertEvents, EVENTS_MAX, SUBSCRIBERS_MAX, TooManySubscribers};
pub use rules::{AlertRules, Levels, RulesError};
pub use thread::AlertThread;

pub(crate) use alert::rfc3339;
pub(crate) use book::{AlertBook, Resolved, Standing};
pub(crate) use watch::{Look, Watch, WatchedPeer};

use book::Transition;
use events::{Lost, SubscriberId};
use watch::Outcome;

/// Lines that one look writes to the log at most; of more alerts the number is told.
const LOGGED_MAX: usize = 20;

/// How alerts are raised.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertingConfig {
    /// The label `instance`: which relay says so.
    pub instance: String,
    /// When there is an alert.
    pub rules: AlertRules,
}

/// Alerts cannot be raised.
#[derive(Debug, thiserror::Error)]
pub enum AlertingError {
    /// They make no sense.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// One thread raises the alerts of a control plane.
    #[error("alerts are raised by another thread already; expected one per control plane")]
    Running,
    /// There is no thread to be had.
    #[error("the alert thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Nobody raises alerts: [`ControlPlane::spawn_alerts`] was not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("alerting is off")]
pub struct AlertingOff;

impl ControlPlane {
    /// Raises alerts from now on, until the thread is stopped.
    ///
    /// # Errors
    /// [`AlertingError`]: rules that make no sense, a second call, or no thread to be had.
    pub fn spawn_alerts(&self, config: &AlertingConfig) -> Result<AlertThread, AlertingError> {
        config.rules.check()?;
        let watch = Mutex::new(Watch::new(config.rules, &config.instance));
        self.watch_slot().set(watch).map_err(|_| AlertingError::Running)?;
        self.show_firing();
        Ok(AlertThread::spawn(self.clone())?)
    }

    /// Goes by other rules from the next look on. Alerts that stand do so until the new ones say otherwise.
    ///
    /// # Errors
    /// [`RulesError`] names the value that is out of range; the rules before stay in force.
    pub fn set_alert_rules(&self, rules: AlertRules) -> Result<(), RulesError> {
        rules.check()?;
        if let Some(mut watch) = self.alert_watch() {
            watch.set_rules(rules);
        }
        Ok(())
    }

    /// Every alert that is raised and that ends from now on, those that stand first. `name` is the label of
    /// `alert_events_lost_total` for what this subscriber does not take in time.
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{AlertRules, AlertingConfig, ControlPlane, ControlPlaneConfig};
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// let config = AlertingConfig { instance: "relay-a".to_owned(), rules: AlertRules::default() };
    /// let alerts = plane.spawn_alerts(&config)?;
    /// let events = plane.subscribe_alerts("history")?;
    /// assert!(events.try_next().is_none());
    /// alerts.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When alerting is off, or there are [`SUBSCRIBERS_MAX`] already.
    pub fn subscribe_alerts(&self, name: &str) -> Result<AlertEvents, SubscribeError> {
        self.subscribe_alerts_as(name).map(|(_, events)| events)
    }

    fn subscribe_alerts_as(&self, name: &str) -> Result<(SubscriberId, AlertEvents), SubscribeError> {
        let mut watch = self.alert_watch().ok_or(AlertingOff)?;
        Ok(watch.subscribe(name)?)
    }

    fn unsubscribe_alerts(&self, id: SubscriberId) {
        if let Some(mut watch) = self.alert_watch() {
            watch.unsubscribe(id);
        }
    }

    /// The peers and the alerts as last looked at; `None` where alerting is off.
    pub(crate) fn alert_watch(&self) -> Option<MutexGuard<'_, Watch>> {
        self.watch_slot().get().map(|watch| watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks once.
    pub(crate) fn evaluate_alerts(&self, now: Now) {
        let attached = self.attached();
        attached.look();
        let look = Look {
            now,
            attached: &attached,
            stale_after: self.config().stale_after,
            shards: self.try_shards(),
            reload: attached.is_reload_in_force(self.own().last_reload_successful()),
        };
        let Some(mut watch) = self.alert_watch() else { return };
        let outcome = watch.evaluate(&look);
        drop(watch);
        self.tell_alerts(&outcome);
        self.own().observe(&catalogue::ALERT_EVALUATION_DURATION, Now::sample().since(now.monotonic_ns));
    }

    /// To the log and the scrape.
    fn tell_alerts(&self, outcome: &Outcome) {
        log(&outcome.transitions);
        let own = self.own();
        for transition in &outcome.transitions {
            let (name, event) = match transition {
                Transition::Raised(alert) => (alert.name, "raised"),
                Transition::Resolved(resolved) => (resolved.alert.name, "resolved"),
            };
            own.add(&catalogue::ALERT_TRANSITIONS, &[name.as_str(), event], 1);
        }
        for Lost { subscriber, events } in &outcome.lost {
            own.add(&catalogue::ALERT_EVENTS_LOST, &[subscriber], *events);
        }
        if !outcome.transitions.is_empty() {
            self.show_firing();
        }
    }

    fn show_firing(&self) {
        let Some(watch) = self.alert_watch() else { return };
        for name in AlertName::ALL {
            // There from the start: of a counter that begins with its first event, that one is no increase.
            for event in ["raised", "resolved"] {
                self.own().add(&catalogue::ALERT_TRANSITIONS, &[name.as_str(), event], 0);
            }
            for severity in Severity::ALL {
                let firing = watch.book().count(name, severity) as f64;
                self.own().set(&catalogue::ALERTS_FIRING, &[name.as_str(), severity.as_str()], firing);
            }
        }
    }
}

/// There is no subscription to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// See [`AlertingOff`].
    #[error(transparent)]
    Off(#[from] AlertingOff),
    /// See [`TooManySubscribers`].
    #[error(transparent)]
    TooMany(#[from] TooManySubscribers),
}

fn log(transitions: &[Transition]) {
    for transition in transitions.iter().take(LOGGED_MAX) {
        match transition {
            Transition::Raised(alert) => {
                let (name, severity) = (alert.name.as_str(), alert.severity.as_str());
                tracing::warn!(severity, "{name}: {}: {}", alert.subject, alert.description);
            }
            Transition::Resolved(Resolved { alert, .. }) => {
                tracing::info!("{} resolved: {}", alert.name.as_str(), alert.subject);
            }
        }
    }
    if let Some(more @ 1..) = transitions.len().checked_sub(LOGGED_MAX) {
        tracing::warn!("and {more} more alerts raised or resolved; see /api/v1/alerts");
    }
}
