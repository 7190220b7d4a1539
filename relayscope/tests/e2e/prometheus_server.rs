//! A Prometheus of its own for a test, what it scrapes and evaluates, and what it answers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::peers::Peer;
use crate::relay::{Process, loopback, wait_for};

/// Scrapes and evaluates once a second, where an operator's would every 15 or so.
const INTERVAL: &str = "1s";

pub(crate) struct PrometheusServer {
    address: String,
    // Before the directory it writes to.
    _process: Process,
    _directory: TempDir,
}

/// One job, as README.md has it.
fn plain(relays: &[SocketAddr]) -> String {
    let targets: Vec<_> = relays.iter().map(|relay| format!("'{relay}'")).collect();
    format!("- job_name: relayscope\n  static_configs: [{{targets: [{}]}}]\n", targets.join(", "))
}

/// Labels of an alert that fires, `alertname` and `severity` among them.
pub(crate) type Alert = BTreeMap<String, String>;

impl PrometheusServer {
    /// Scrapes `relays` as job `relayscope` and evaluates `rules`, each a file's name and text. Gives itself
    /// back once it answers.
    pub(crate) fn start(relays: &[SocketAddr], rules: &[(String, String)]) -> Self {
        Self::start_with(&plain(relays), rules, &[])
    }

    /// One that asks for native histograms, and keeps no other.
    pub(crate) fn start_native(relays: &[SocketAddr], rules: &[(String, String)]) -> Self {
        Self::start_with(&plain(relays), rules, &["--enable-feature=native-histograms"])
    }

    /// Scrapes what `jobs`, entries of `scrape_configs`, say.
    pub(crate) fn start_with(jobs: &str, rules: &[(String, String)], flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut configuration = format!(
            "global: {{scrape_interval: {INTERVAL}, evaluation_interval: {INTERVAL}}}\n\
             scrape_configs:\n{jobs}rule_files:\n"
        );
        for (name, text) in rules {
            let file = directory.path().join(name);
            std::fs::write(&file, text).unwrap();
            writeln!(configuration, "- {}", file.display()).unwrap();
        }
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let address = SocketAddr::new(loopback(), 9090).to_string();
        let mut command = Command::new(Peer::Prometheus.program());
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(flags)
            .stderr(Stdio::null());
        let server = Self { address, _process: Process::start(&mut command), _directory: directory };
        wait_for("Prometheus to answer", || server.query("vector(1)"));
        server
    }

    /// What the API answers; `None` while Prometheus starts.
    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let encode = |text: &str| text.bytes().map(|octet| format!("%{octet:02X}")).collect::<String>();
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let url = format!("http://{}/api/v1/{path}?{}", self.address, parameters.join("&"));
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build()
            .into();
        let body = agent.get(url).call().ok()?.body_mut().read_to_string().ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// The vector, or the scalar, an expression is now.
    pub(crate) fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let data = self.api("query", &[("query", expression)])?;
        Some(data["result"].as_array().unwrap().clone())
    }

    /// The series an expression was over the last minute, second by second.
    pub(crate) fn range(&self, expression: &str) -> Option<Vec<Value>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (start, end) = ((now - 60).to_string(), now.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", "1")];
        let data = self.api("query_range", &parameters)?;
        Some(data["result"].as_array().unwrap().clone())
    }

    /// The values a label has among the series of a selector.
    pub(crate) fn label_values(&self, selector: &str, label: &str) -> Option<Vec<String>> {
        let data = self.api(&format!("label/{label}/values"), &[("match[]", selector)])?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Some(data.as_array().unwrap().iter().map(text).collect())
    }

    /// Alerts that fire now.
    pub(crate) fn firing(&self) -> Vec<Alert> {
        let Some(data) = self.api("alerts", &[]) else { return Vec::new() };
        let fires = |alert: &&Value| alert["state"] == "firing";
        let labels = |alert: &Value| serde_json::from_value(alert["labels"].clone()).unwrap();
        data["alerts"].as_array().unwrap().iter().filter(fires).map(labels).collect()
    }

    /// Waits until an alert with these labels, the name among them, fires, or does no more.
    pub(crate) fn wait_alert(&self, wanted: &[(&str, &str)], fires: bool) {
        let is_it = |alert: &Alert| {
            wanted.iter().all(|(name, value)| alert.get(*name).is_some_and(|found| found == value))
        };
        let what = if fires { "to fire" } else { "to be over" };
        wait_for(format_args!("{wanted:?} {what}"), || {
            (self.firing().iter().any(is_it) == fires).then_some(())
        });
    }
}
