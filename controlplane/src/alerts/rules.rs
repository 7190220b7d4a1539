//! What is judged by what: thresholds, and how sure an alert has to be.

use std::time::Duration;

use super::alert::{AlertName, Severity};
use crate::peers::{Keeping, WINDOW_MAX};

/// Two thresholds of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// From here on it is a warning.
    pub warning: f64,
    /// From here on it is critical: at least `warning`.
    pub critical: f64,
}

/// When there is an alert. Can be changed while it runs, see [`ControlPlane::set_alert_rules`].
///
/// [`ControlPlane::set_alert_rules`]: crate::ControlPlane::set_alert_rules
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlertRules {
    /// N, the latest samples of a metric of a peer that are kept and judged: 2..=64, 10 by default.
    pub window: usize,
    /// For how long a sample holds after its receipt, or three times as long as samples are apart where that is
    /// longer: 30 s by default.
    pub ttl: Duration,
    /// K, how many of the window's samples beyond a threshold raise an alert: 1..=window, 3 by default.
    pub raise_after: usize,
    /// How many samples in a row well within the threshold end it: 1..=64, 5 by default.
    pub resolve_after: usize,
    /// How far within a threshold is well within, as a part of it: 0..=0.9, 0.2 by default.
    pub hysteresis: f64,
    /// How long an alert of a ring or shard stands after its cause was last seen: 30 s by default.
    pub hold: Duration,
    /// Loss of a peer, as a ratio: 0.02 and 0.05 by default.
    pub loss: Levels,
    /// Round-trip time of a peer in seconds: 0.1 and 0.3 by default.
    pub rtt: Levels,
    /// Jitter of a peer in seconds: 0.03 and 0.1 by default.
    pub jitter: Levels,
    /// High water of a ring, as a ratio of its capacity: 0.8 by default.
    pub ring_occupancy: f64,
}

impl Default for AlertRules {
    fn default() -> Self {
        Self {
            window: 10,
            ttl: Duration::from_secs(30),
            raise_after: 3,
            resolve_after: 5,
            hysteresis: 0.2,
            hold: Duration::from_secs(30),
            loss: Levels { warning: 0.02, critical: 0.05 },
            rtt: Levels { warning: 0.1, critical: 0.3 },
            jitter: Levels { warning: 0.03, critical: 0.1 },
            ring_occupancy: 0.8,
        }
    }
}

/// Rules that cannot be gone by.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// See [`AlertRules::window`].
    #[error("alert window {0} is invalid; expected 2..={WINDOW_MAX} samples")]
    Window(usize),
    /// See [`AlertRules::raise_after`].
    #[error("raise after {raise_after} is invalid; expected 1..={window}, the window")]
    RaiseAfter {
        /// What was given.
        raise_after: usize,
        /// The window given with it.
        window: usize,
    },
    /// See [`AlertRules::resolve_after`].
    #[error("resolve after {0} is invalid; expected 1..={WINDOW_MAX} samples")]
    ResolveAfter(usize),
    /// See [`AlertRules::hysteresis`].
    #[error("hysteresis {0} is invalid; expected 0..=0.9")]
    Hysteresis(f64),
    /// A pair of thresholds the wrong way round, or that are no positive numbers.
    #[error(
        "thresholds {warning} and {critical} of {what} are invalid; expected two positive numbers, the greater one second"
    )]
    Levels {
        /// Whose.
        what: &'static str,
        /// What was given.
        warning: f64,
        /// What was given.
        critical: f64,
    },
    /// See [`AlertRules::ring_occupancy`].
    #[error("ring occupancy {0} is invalid; expected more than 0, at most 1")]
    RingOccupancy(f64),
}

impl AlertRules {
    /// Says what is wrong with them.
    ///
    /// # Errors
    /// [`RulesError`] names the value that is out of range.
    pub fn check(&self) -> Result<(), RulesError> {
        let (window, raise_after, resolve_after) = (self.window, self.raise_after, self.resolve_after);
        if !(2..=WINDOW_MAX).contains(&window) {
            return Err(RulesError::Window(window));
        }
        if !(1..=window).contains(&raise_after) {
            return Err(RulesError::RaiseAfter { raise_after, window });
        }
        if !(1..=WINDOW_MAX).contains(&resolve_after) {
            return Err(RulesError::ResolveAfter(resolve_after));
        }
        if !(0.0..=0.9).contains(&self.hysteresis) {
            return Err(RulesError::Hysteresis(self.hysteresis));
        }
        for (what, Levels { warning, critical }) in
            [("loss", self.loss), ("rtt", self.rtt), ("jitter", self.jitter)]
        {
            if !(warning > 0.0 && critical >= warning && critical.is_finite()) {
                return Err(RulesError::Levels { what, warning, critical });
            }
        }
        match self.ring_occupancy {
            occupancy if occupancy > 0.0 && occupancy <= 1.0 => Ok(()),
            occupancy => Err(RulesError::RingOccupancy(occupancy)),
        }
    }

    pub(crate) fn keeping(&self) -> Keeping {
        Keeping { window: self.window, ttl: self.ttl }
    }

    /// What the value of an alert is compared with.
    pub(super) fn threshold(&self, name: AlertName, severity: Severity) -> f64 {
        let of = |levels: Levels| match severity {
            Severity::Warning => levels.warning,
            Severity::Critical => levels.critical,
        };
        match name {
            AlertName::PeerDown => self.raise_after as f64,
            AlertName::PeerLossHigh => of(self.loss),
            AlertName::PeerRttHigh => of(self.rtt),
            AlertName::PeerJitterHigh => of(self.jitter),
            AlertName::RingNearlyFull => self.ring_occupancy,
            AlertName::PeerSilent
            | AlertName::RingOverflow
            | AlertName::ShardStalled
            | AlertName::ConfigReloadFailed => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_make_no_sense_are_refused_with_the_value_and_what_is_right() {
        let said = |rules: AlertRules| rules.check().unwrap_err().to_string();
        let default = AlertRules::default;
        assert_eq!(default().check(), Ok(()));
        assert_eq!(
            said(AlertRules { window: 1, ..default() }),
            "alert window 1 is invalid; expected 2..=64 samples"
        );
        assert_eq!(
            said(AlertRules { raise_after: 11, ..default() }),
            "raise after 11 is invalid; expected 1..=10, the window"
        );
        assert_eq!(
            said(AlertRules { resolve_after: 0, ..default() }),
            "resolve after 0 is invalid; expected 1..=64 samples"
        );
        assert_eq!(
            said(AlertRules { hysteresis: f64::NAN, ..default() }),
            "hysteresis NaN is invalid; expected 0..=0.9"
        );
        assert_eq!(
            said(AlertRules { rtt: Levels { warning: 0.3, critical: 0.1 }, ..default() }),
            "thresholds 0.3 and 0.1 of rtt are invalid; expected two positive numbers, the greater one second"
        );
        assert_eq!(
            said(AlertRules { ring_occupancy: 1.5, ..default() }),
            "ring occupancy 1.5 is invalid; expected more than 0, at most 1"
        );
    }
}
