//! The process's own metrics, and whatever an application records through the `metrics` facade.
//!
//! They live in a `metrics-exporter-prometheus` recorder. The library holds its own handles to it and
//! installs nothing: the binary makes it global with [`ControlPlane::recorder`], so that the
//! application's metrics come to the same exposition.
//!
//! [`ControlPlane::recorder`]: crate::ControlPlane::recorder

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::{self, Family, Unit};

use crate::build::Build;
use crate::histogram::{classic_exponents, power_of_two};
use crate::http::{Authentication, ConnectionRefused};
use crate::refresh::Turn;

/// The families of the catalogue that this recorder renders.
pub(crate) static FAMILIES: &[&Family] = &[
    &catalogue::DRAIN_DURATION,
    &catalogue::DRAIN_LATENESS,
    &catalogue::SCRAPE_DURATION,
    &catalogue::SCRAPE_REFRESHES,
    &catalogue::ALERTS_FIRING,
    &catalogue::ALERT_TRANSITIONS,
    &catalogue::ALERT_EVENTS_LOST,
    &catalogue::ALERT_EVALUATION_DURATION,
    &catalogue::ALERT_THREAD_UP,
    &catalogue::ALERTMANAGER_REQUESTS,
    &catalogue::ALERTMANAGER_DROPPED,
    &catalogue::HISTORY_UP,
    &catalogue::HISTORY_WRITTEN,
    &catalogue::HISTORY_DROPPED,
    &catalogue::HISTORY_LATE_READINGS,
    &catalogue::HISTORY_EVENTS,
    &catalogue::HISTORY_EVENTS_DROPPED,
    &catalogue::HISTORY_ERRORS,
    &catalogue::HISTORY_PENDING,
    &catalogue::HISTORY_LAST_WRITE,
    &catalogue::HISTORY_BYTES,
    &catalogue::HISTORY_WRITE_DURATION,
    &catalogue::HTTP_REQUESTS,
    &catalogue::HTTP_CONNECTIONS,
    &catalogue::HTTP_CONNECTIONS_REFUSED,
    &catalogue::MESH_POLLS,
    &catalogue::HTTP_LIVE_CLIENTS,
    &catalogue::HTTP_LIVE_CUT,
    &catalogue::HTTP_AUTHENTICATIONS,
    &catalogue::WEB_CONFIG_RELOADS,
    &catalogue::WEB_CONFIG_LAST_RELOAD_SUCCESSFUL,
    &catalogue::WEB_CERTIFICATE_NOT_AFTER,
    &catalogue::BUILD_INFO,
];

const METADATA: Metadata<'static> = Metadata::new("relayscope", Level::INFO, Some(module_path!()));

/// The recorder and the handles held to it.
pub(crate) struct Own {
    recorder: Arc<PrometheusRecorder>,
    exposition: PrometheusHandle,
    prefix: String,
    drain_duration: Histogram,
    drain_lateness: Histogram,
    scrape_duration: Histogram,
    /// Whether the configuration that the control plane's process itself read last is in force.
    reloaded: Mutex<Option<bool>>,
}

impl Own {
    pub(crate) fn new(prefix: &str, build: &Build) -> Self {
        let bounds: Vec<f64> = classic_exponents(Unit::Seconds).map(power_of_two).collect();
        // Without bounds the exporter would keep raw samples and render summaries.
        let builder = PrometheusBuilder::new().set_buckets(&bounds).expect("the bounds are not empty");
        let recorder = Arc::new(builder.build_recorder());
        for family in FAMILIES {
            describe(&recorder, family, prefix);
        }
        let key = |family: &Family| Key::from_name(family.full_name(prefix));
        let own = Self {
            exposition: recorder.handle(),
            drain_duration: recorder.register_histogram(&key(&catalogue::DRAIN_DURATION), &METADATA),
            drain_lateness: recorder.register_histogram(&key(&catalogue::DRAIN_LATENESS), &METADATA),
            scrape_duration: recorder.register_histogram(&key(&catalogue::SCRAPE_DURATION), &METADATA),
            prefix: prefix.to_owned(),
            recorder,
            reloaded: Mutex::default(),
        };
        let Build { version, revision, rustc } = *build;
        let values = [version, revision.unwrap_or_default(), rustc.unwrap_or_default()];
        let build_info = own.key(&catalogue::BUILD_INFO, &values);
        own.recorder.register_gauge(&build_info, &METADATA).set(1.0);
        // There from the start: of a counter that begins with its first event, that one is no increase.
        for reason in ConnectionRefused::ALL {
            let refused = own.key(&catalogue::HTTP_CONNECTIONS_REFUSED, &[reason.as_str()]);
            own.recorder.register_counter(&refused, &METADATA).increment(0);
        }
        own
    }

    pub(crate) fn recorder(&self) -> Arc<PrometheusRecorder> {
        Arc::clone(&self.recorder)
    }

    pub(crate) fn drained(&self, took: Duration) {
        self.drain_duration.record(took.as_secs_f64());
    }

    pub(crate) fn drain_began(&self, late: Duration) {
        self.drain_lateness.record(late.as_secs_f64());
    }

    pub(crate) fn rendered(&self, took: Duration) {
        self.scrape_duration.record(took.as_secs_f64());
    }

    /// Counts an answered request. `route` and `code` come from bounded sets: a client cannot make
    /// series.
    pub(crate) fn answered(&self, route: &str, code: &str) {
        self.count(&catalogue::HTTP_REQUESTS, &[route, code]);
    }

    pub(crate) fn refreshed(&self, refresher: &str, turn: Turn) {
        self.count(&catalogue::SCRAPE_REFRESHES, &[refresher, turn.as_str()]);
    }

    pub(crate) fn refused(&self, reason: ConnectionRefused) {
        self.count(&catalogue::HTTP_CONNECTIONS_REFUSED, &[reason.as_str()]);
    }

    pub(crate) fn authenticated(&self, outcome: Authentication) {
        self.count(&catalogue::HTTP_AUTHENTICATIONS, &[outcome.as_str()]);
    }

    pub(crate) fn connections(&self, open: usize) {
        self.gauge(&catalogue::HTTP_CONNECTIONS, open as f64);
    }

    pub(crate) fn note_reload(&self, successful: bool) {
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(successful);
    }

    /// `None` before the first.
    pub(crate) fn last_reload_successful(&self) -> Option<bool> {
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn web_config_read(&self, is_in_force: bool) {
        let result = if is_in_force { "in_force" } else { "refused" };
        self.count(&catalogue::WEB_CONFIG_RELOADS, &[result]);
        self.gauge(&catalogue::WEB_CONFIG_LAST_RELOAD_SUCCESSFUL, f64::from(u8::from(is_in_force)));
    }

    pub(crate) fn certificate_ends(&self, unix_seconds: i64) {
        self.gauge(&catalogue::WEB_CERTIFICATE_NOT_AFTER, unix_seconds as f64);
    }

    /// Folds the raw samples that the exporter's histograms hold. They grow until it is called.
    pub(crate) fn run_upkeep(&self) {
        self.exposition.run_upkeep();
    }

    /// Whether a family is one of ours, and not an application's that has taken its name.
    pub(crate) fn is_own(&self, name: &str, kind: MetricKind) -> bool {
        FAMILIES.iter().any(|family| family.kind == kind && family.full_name(&self.prefix) == name)
    }

    /// All families as the exporter writes them, a blank line after each.
    pub(crate) fn render(&self) -> String {
        let mut text = Vec::new();
        self.exposition.render_to_write(&mut text).expect("writing to memory does not fail");
        String::from_utf8_lossy(&text).into_owned()
    }

    fn count(&self, family: &Family, values: &[&str]) {
        self.add(family, values, 1);
    }

    /// Adds to a counter of [`FAMILIES`]. Label values must come from bounded sets.
    pub(crate) fn add(&self, family: &Family, values: &[&str], more: u64) {
        let counter: Counter = self.recorder.register_counter(&self.key(family, values), &METADATA);
        counter.increment(more);
    }

    /// Sets a gauge of [`FAMILIES`].
    pub(crate) fn set(&self, family: &Family, values: &[&str], value: f64) {
        self.recorder.register_gauge(&self.key(family, values), &METADATA).set(value);
    }

    /// Records a time in a histogram of [`FAMILIES`] without labels.
    pub(crate) fn observe(&self, family: &Family, took: Duration) {
        self.recorder.register_histogram(&self.key(family, &[]), &METADATA).record(took.as_secs_f64());
    }

    fn gauge(&self, family: &Family, value: f64) {
        self.recorder.register_gauge(&self.key(family, &[]), &METADATA).set(value);
    }

    fn key(&self, family: &Family, values: &[&str]) -> Key {
        let label = |(name, value): (&&'static str, &&str)| Label::new(*name, (*value).to_owned());
        // An empty label is none.
        let given = family.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let labels: Vec<Label> = given.map(label).collect();
        Key::from_parts(family.full_name(&self.prefix), labels)
    }
}

fn describe(recorder: &PrometheusRecorder, family: &Family, prefix: &str) {
    let name = KeyName::from(family.full_name(prefix));
    match family.kind {
        MetricKind::Counter => recorder.describe_counter(name, None, family.help.into()),
        MetricKind::Gauge => recorder.describe_gauge(name, None, family.help.into()),
        MetricKind::Histogram => recorder.describe_histogram(name, None, family.help.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build { version: "1.2.3", revision: None, rustc: Some("1.95.0") }
    }

    #[test]
    fn families_have_their_help_from_the_catalogue() {
        let own = Own::new("relay", &build());
        own.answered("/metrics", "200");
        let text = own.render();
        let expected = "\
# HELP relay_build_info 1, with the version that runs, of which revision and by which compiler it was made, where that is known.
# TYPE relay_build_info gauge
relay_build_info{version=\"1.2.3\",rustc=\"1.95.0\"} 1
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("relay_http_requests_total{route=\"/metrics\",code=\"200\"} 1\n"), "{text}");
    }

    #[test]
    fn durations_are_histograms_with_bounds_not_summaries() {
        let own = Own::new("relay", &build());
        own.drained(Duration::from_millis(250));
        let text = own.render();
        assert!(text.contains("# TYPE relay_drain_duration_seconds histogram\n"), "{text}");
        assert!(text.contains("relay_drain_duration_seconds_bucket{le=\"0.125\"} 0\n"), "{text}");
        assert!(text.contains("relay_drain_duration_seconds_bucket{le=\"0.25\"} 1\n"), "{text}");
        assert!(text.contains("relay_drain_duration_seconds_sum 0.25\n"), "{text}");
    }
}
