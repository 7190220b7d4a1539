//! `[alerting]`: what is an alert, and who is told of it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use relayscope_controlplane::{AlertRules, Levels, check_alertmanager_url};
use serde::Deserialize;

use super::document::{quoted, texts, time_text};
use super::{HOUR, MS, Source};
use crate::cli::RunArgs;
use crate::failure::Failure;

/// Each has a thread of its own.
const ALERTMANAGERS_MAX: usize = 8;
const INSTANCE_LEN_MAX: usize = 255;
const RESEND_DEFAULT: Duration = Duration::from_secs(60);
const SAMPLES_MAX: usize = 64;
const HYSTERESIS_MAX: f64 = 0.9;
const SECOND: Duration = Duration::from_secs(1);

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertingSection {
    enabled: Option<bool>,
    instance: Option<String>,
    alertmanagers: Option<Vec<String>>,
    resend_interval: Option<String>,
    window: Option<i64>,
    ttl: Option<String>,
    raise_after: Option<i64>,
    resolve_after: Option<i64>,
    hysteresis: Option<f64>,
    hold: Option<String>,
    loss_warning: Option<f64>,
    loss_critical: Option<f64>,
    rtt_warning: Option<String>,
    rtt_critical: Option<String>,
    jitter_warning: Option<String>,
    jitter_critical: Option<String>,
    ring_occupancy: Option<f64>,
}

/// What is an alert, and who is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alerting {
    pub(crate) enabled: bool,
    /// Empty for this host's name and the port served.
    pub(crate) instance: String,
    pub(crate) alertmanagers: Vec<String>,
    pub(crate) resend_interval: Duration,
    /// All that a reload changes.
    pub(crate) rules: AlertRules,
}

impl Alerting {
    /// Which relay says so.
    pub(crate) fn instance_at(&self, listen: SocketAddr) -> String {
        if self.instance.is_empty() { reachable_at(listen) } else { self.instance.clone() }
    }
}

/// How others see what is served at `listen`: several relays may all serve on their own loopback addresses.
pub(crate) fn reachable_at(listen: SocketAddr) -> String {
    let ip = listen.ip();
    if !ip.is_unspecified() && !ip.is_loopback() {
        return listen.to_string();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => listen.to_string(),
        name => format!("{name}:{}", listen.port()),
    }
}

impl Source {
    pub(super) fn alerting(&self, args: &RunArgs) -> Result<Alerting, Failure> {
        let section = &self.file.alerting;
        let resend = section.resend_interval.as_deref();
        Ok(Alerting {
            enabled: section.enabled.unwrap_or(true),
            instance: self.instance()?,
            alertmanagers: self.alertmanagers(args)?,
            resend_interval: self.time("alerting.resend_interval", resend, RESEND_DEFAULT, SECOND, HOUR)?,
            rules: self.rules()?,
        })
    }

    fn instance(&self) -> Result<String, Failure> {
        let instance = self.file.alerting.instance.as_deref().unwrap_or_default();
        if instance.len() > INSTANCE_LEN_MAX {
            let given = format!("a text of {} octets", instance.len());
            return Err(self.wrong("alerting.instance", &given, &format!("at most {INSTANCE_LEN_MAX}")));
        }
        Ok(instance.to_owned())
    }

    fn alertmanagers(&self, args: &RunArgs) -> Result<Vec<String>, Failure> {
        const KEY: &str = "alerting.alertmanagers";
        let in_file = self.file.alerting.alertmanagers.clone().unwrap_or_default();
        in_file.iter().try_for_each(|url| check_alertmanager_url(url)).map_err(|why| self.at(KEY, &why))?;
        // Not while the command line is read: what reads it repeats a value that is wrong, a password included.
        let flags = args.alertmanager.iter().try_for_each(|url| check_alertmanager_url(url));
        flags.map_err(|why| Failure::usage(format_args!("--alertmanager: {why}")))?;
        // A flag outweighs the file.
        let mut urls = if args.alertmanager.is_empty() { in_file } else { args.alertmanager.clone() };
        urls.sort_unstable();
        urls.dedup();
        match urls.len() {
            0..=ALERTMANAGERS_MAX => Ok(urls),
            given => Err(self.wrong(KEY, &given, &format!("at most {ALERTMANAGERS_MAX} of them"))),
        }
    }

    fn rules(&self) -> Result<AlertRules, Failure> {
        let (section, default) = (&self.file.alerting, AlertRules::default());
        let window = self.size("alerting.window", section.window, default.window, 2, SAMPLES_MAX)?;
        let raise_after = default.raise_after.min(window);
        Ok(AlertRules {
            window,
            ttl: self.time("alerting.ttl", section.ttl.as_deref(), default.ttl, 100 * MS, 24 * HOUR)?,
            raise_after: self.size("alerting.raise_after", section.raise_after, raise_after, 1, window)?,
            resolve_after: self.size(
                "alerting.resolve_after",
                section.resolve_after,
                default.resolve_after,
                1,
                SAMPLES_MAX,
            )?,
            hysteresis: self.number(
                "alerting.hysteresis",
                section.hysteresis,
                default.hysteresis,
                0.0,
                HYSTERESIS_MAX,
            )?,
            hold: self.time("alerting.hold", section.hold.as_deref(), default.hold, Duration::ZERO, HOUR)?,
            loss: self.loss(default.loss)?,
            rtt: self.times("rtt", [&section.rtt_warning, &section.rtt_critical], default.rtt)?,
            jitter: self.times(
                "jitter",
                [&section.jitter_warning, &section.jitter_critical],
                default.jitter,
            )?,
            ring_occupancy: self.number(
                "alerting.ring_occupancy",
                section.ring_occupancy,
                default.ring_occupancy,
                0.01,
                1.0,
            )?,
        })
    }

    fn loss(&self, default: Levels) -> Result<Levels, Failure> {
        let section = &self.file.alerting;
        let key = "alerting.loss_critical";
        let warning =
            self.number("alerting.loss_warning", section.loss_warning, default.warning, 0.001, 1.0)?;
        let critical = self.number(key, section.loss_critical, default.critical.max(warning), 0.001, 1.0)?;
        if critical < warning {
            return Err(self.wrong(key, &critical, &format!("at least loss_warning, {warning}")));
        }
        Ok(Levels { warning, critical })
    }

    fn times(&self, what: &str, given: [&Option<String>; 2], default: Levels) -> Result<Levels, Failure> {
        let (least, most) = (MS / 1000, HOUR);
        let [warning_key, key] = ["warning", "critical"].map(|level| format!("alerting.{what}_{level}"));
        let [warning, critical] = given.map(|given| given.as_deref());
        let warning = self.time(&warning_key, warning, time(default.warning), least, most)?;
        let critical = self.time(&key, critical, time(default.critical).max(warning), least, most)?;
        if critical < warning {
            let right = format!("at least {what}_warning, {}", time_text(warning));
            return Err(self.wrong(&key, &time_text(critical), &right));
        }
        Ok(Levels { warning: warning.as_secs_f64(), critical: critical.as_secs_f64() })
    }

    fn number(
        &self,
        key: &str,
        given: Option<f64>,
        default: f64,
        min: f64,
        max: f64,
    ) -> Result<f64, Failure> {
        let number = given.unwrap_or(default);
        if !(min..=max).contains(&number) {
            return Err(self.wrong(key, &number, &format!("{min}..={max}")));
        }
        Ok(number)
    }
}

fn time(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Alerting {
    /// Every key with unit, default and range.
    pub(super) fn write(&self, text: &mut String) {
        let rules = &self.rules;
        let times = |levels: Levels| {
            [levels.warning, levels.critical].map(|seconds| quoted(&time_text(time(seconds))))
        };
        let ([rtt_warning, rtt_critical], [jitter_warning, jitter_critical]) =
            (times(rules.rtt), times(rules.jitter));
        // Writing to a string does not fail.
        writeln!(
            text,
            "
# Alerts: to the log, to /api/v1/alerts and to Alertmanager. From window on, what changes is in force after a reload.
[alerting]
# Whether peers are watched and alerts raised. Default true.
enabled = {enabled}
# Which relay says so, the label `instance`: up to {INSTANCE_LEN_MAX} octets. Default \"\": the address served, or for a
# loopback address this host's name with the port.
instance = {instance}
# Alertmanagers that are sent every alert: up to {ALERTMANAGERS_MAX} of http[s]://HOST[:PORT][/PREFIX]. Default [].
alertmanagers = {alertmanagers}
# Time until an alert that stands is sent again; it is sent as lasting four times as long, so that it ends there
# should this relay be gone: 1s to 1h. Default 1m.
resend_interval = {resend}
# Latest samples of each metric of a peer that are kept and judged: 2..={SAMPLES_MAX}. Default 10.
window = {window}
# For how long a sample holds, or three times as long as samples are apart where that is longer. A peer of which
# nothing is heard any more is silent then: 100ms to 1day. Default 30s.
ttl = {ttl}
# How many of the window's samples beyond a threshold raise an alert: 1..=window. Default 3.
raise_after = {raise_after}
# How many samples in a row well within the threshold end it: 1..={SAMPLES_MAX}. Default 5.
resolve_after = {resolve_after}
# How far within the threshold is well within, as a part of it: 0..={HYSTERESIS_MAX}. Default 0.2.
hysteresis = {hysteresis}
# How long an alert of a ring or shard stands after its cause was last seen: 0s to 1h. Default 30s.
hold = {hold}
# Loss of a peer that answers, as a ratio: 0.001..=1. Default 0.02 and 0.05.
loss_warning = {loss_warning}
loss_critical = {loss_critical}
# Round-trip time of a peer: 1us to 1h. Default 100ms and 300ms.
rtt_warning = {rtt_warning}
rtt_critical = {rtt_critical}
# Jitter of a peer: 1us to 1h. Default 30ms and 100ms.
jitter_warning = {jitter_warning}
jitter_critical = {jitter_critical}
# High water of a ring before a drain, as a ratio of its capacity: 0.01..=1. Default 0.8.
ring_occupancy = {ring_occupancy}",
            enabled = self.enabled,
            instance = quoted(&self.instance),
            alertmanagers = texts(&self.alertmanagers),
            resend = quoted(&time_text(self.resend_interval)),
            window = rules.window,
            ttl = quoted(&time_text(rules.ttl)),
            raise_after = rules.raise_after,
            resolve_after = rules.resolve_after,
            hysteresis = float(rules.hysteresis),
            hold = quoted(&time_text(rules.hold)),
            loss_warning = float(rules.loss.warning),
            loss_critical = float(rules.loss.critical),
            ring_occupancy = float(rules.ring_occupancy),
        )
        .unwrap_or_default();
    }
}

/// As TOML has it: `1` is no float there.
fn float(number: f64) -> String {
    toml::Value::Float(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_serves_on_loopback_is_known_by_its_host() {
        assert_eq!(reachable_at("192.0.2.7:9862".parse().unwrap()), "192.0.2.7:9862");
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let expected = format!("{}:9862", name.trim());
        for listen in ["127.0.0.1:9862", "0.0.0.0:9862", "[::]:9862"] {
            assert_eq!(reachable_at(listen.parse().unwrap()), expected);
        }
    }
}
