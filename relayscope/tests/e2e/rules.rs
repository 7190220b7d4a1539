//! Prometheus's rules: promtool is content with them and their unit tests, and each alert fires in a real
//! Prometheus that scrapes relays to which its cause is done.
//!
//! Live, [`shortened`] makes every `for` and `keep_firing_for` a second, and Prometheus scrapes and evaluates
//! once a second; all else is as an operator loads it. How long each alert takes is promtool's to test.

pub(crate) mod mesh;
pub(crate) mod pipeline;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod security;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::dashboards::{dashboards, is_exposed, metric_names};
use crate::peers::Peer;
use crate::relay::run;

/// Says that the table is to be written, not compared.
const WRITE: &str = "RELAYSCOPE_WRITE_DOCS";
const BEGIN: &str = "<!-- From the rules; do not edit from here -->\n";
const END: &str = "<!-- to here -->\n";

/// Files of rules, or of their tests, in order of their names.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dashboards().join(directory)).unwrap();
    let mut files: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort_unstable();
    files
}

fn read(file: &PathBuf) -> Value {
    serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// All rules of all files.
pub(crate) fn rules() -> Vec<Value> {
    let of_file = |file: &PathBuf| {
        let groups = read(file)["groups"].as_array().unwrap().clone();
        groups.into_iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect::<Vec<_>>()
    };
    files("rules").iter().flat_map(of_file).collect()
}

/// Name and severity of each alert.
fn alerts() -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rules = rules();
    let alerts = rules.iter().filter(|rule| rule["alert"].is_string());
    alerts.map(|rule| (text(&rule["alert"]), text(&rule["labels"]["severity"]))).collect()
}

/// The rules as they are loaded live: whoever waits for something waits a second.
pub(crate) fn shortened() -> Vec<(String, String)> {
    let shorten = |line: &str| match line.split_once("for: ") {
        Some((key, _)) if key.trim_start().chars().all(|c| c == '_' || c.is_ascii_lowercase()) => {
            format!("{key}for: 1s\n")
        }
        _ => format!("{line}\n"),
    };
    let of_file = |file: &PathBuf| {
        let text: String = std::fs::read_to_string(file).unwrap().lines().map(shorten).collect();
        (file.file_name().unwrap().to_str().unwrap().to_owned(), text)
    };
    files("rules").iter().map(of_file).collect()
}

fn promtool(verb: &str, files: &[PathBuf]) {
    let (status, stdout, stderr) =
        run(Command::new(Peer::Promtool.program()).args([verb, "rules"]).args(files));
    assert!(status.success(), "promtool {verb} rules: {stdout}{stderr}");
    let succeeded = stdout.matches("SUCCESS").count();
    assert_eq!(succeeded, files.len(), "{stdout}{stderr}");
}

pub(crate) fn promtool_is_content() {
    promtool("check", &files("rules"));
    promtool("test", &files("rules/tests"));
}

/// What somebody paged needs: how bad, what, and where to read on. No rule asks for what nobody exposes.
pub(crate) fn are_whole() {
    for rule in rules() {
        let expression = rule["expr"].as_str().unwrap();
        let unknown = metric_names(expression).into_iter().find(|name| !is_exposed(name, "relay"));
        assert_eq!(unknown, None, "{expression}");
        let Some(alert) = rule["alert"].as_str() else {
            assert_eq!(rule["record"].as_str().unwrap().matches(':').count(), 2, "level:metric:operations");
            continue;
        };
        assert!(alert.starts_with("Relay"), "{alert}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{alert}");
        assert!(!rule["annotations"]["summary"].as_str().unwrap().ends_with('.'), "{alert}");
        assert!(
            rule["annotations"]["description"].as_str().unwrap().ends_with(" See docs/alerts.md."),
            "{alert}"
        );
    }
    for (file, text) in shortened() {
        let waits: Vec<_> = text.lines().filter(|line| line.contains("for: ")).collect();
        assert!(waits.iter().all(|line| line.ends_with("for: 1s")), "{file}: {waits:?}");
    }
}

/// The table of dashboards/README.md is the rules'.
pub(crate) fn are_listed() {
    let file = dashboards().join("README.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let rows = rows();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, [before, BEGIN, &rows, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(
        written, rows,
        "write it with {WRITE}=1 cargo test -p relayscope --test e2e -- the_rules_are_listed_in_the_readme"
    );
}

fn rows() -> String {
    let row = |rule: &Value| {
        let words: Vec<_> = rule["expr"].as_str().unwrap().split_whitespace().collect();
        let (expression, wait) = (words.join(" ").replace('|', "\\|"), rule["for"].as_str().unwrap_or("-"));
        let severity = rule["labels"]["severity"].as_str().unwrap();
        format!("| {} | `{expression}` | {wait} | {severity} |\n", rule["alert"].as_str().unwrap())
    };
    let rows: String = rules().iter().filter(|rule| rule["alert"].is_string()).map(row).collect();
    format!("\n| alert | fires where | for | severity |\n|---|---|---|---|\n{rows}\n")
}

/// docs/alerts.md has a section for each alert, which names its severities under its heading.
pub(crate) fn are_in_the_run_book() {
    let book = std::fs::read_to_string(dashboards().join("../docs/alerts.md")).unwrap();
    for (name, severity) in alerts() {
        let (_, section) = book.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no {name}"));
        let under_heading = section.lines().next().unwrap();
        assert!(under_heading.contains(&severity), "{name}, {severity}: {under_heading}");
        assert!(book.contains(&format!("[{name}](#{})", name.to_lowercase())), "{name} is not in the index");
    }
}

/// promtool's tests hold each alert to fire at some time and to be quiet before and after.
pub(crate) fn each_alert_has_unit_tests() {
    // By name: the times at which each severity fires, and at which something of that name was looked at.
    let mut fires: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut quiet: BTreeMap<String, usize> = BTreeMap::new();
    for file in files("rules/tests") {
        for test in read(&file)["tests"].as_array().unwrap() {
            for look in test["alert_rule_test"].as_array().into_iter().flatten() {
                let name = look["alertname"].as_str().unwrap();
                let expected = look["exp_alerts"].as_array().unwrap();
                if expected.is_empty() {
                    *quiet.entry(name.to_owned()).or_default() += 1;
                }
                for alert in expected {
                    let severity = alert["exp_labels"]["severity"].as_str().unwrap();
                    *fires.entry((name.to_owned(), severity.to_owned())).or_default() += 1;
                }
            }
        }
    }
    for alert in alerts() {
        assert!(fires.contains_key(&alert), "{alert:?} is never seen to fire");
        assert!(
            quiet.get(&alert.0).is_some_and(|times| *times >= 2),
            "{} is not quiet before and after",
            alert.0
        );
    }
}

/// The five tests with real causes leave no alert out.
pub(crate) fn each_alert_is_provoked() {
    let provoked: BTreeSet<_> = [mesh::FIRE, pipeline::FIRE, process::FIRE, security::FIRE, relay::FIRE]
        .into_iter()
        .flatten()
        .map(|(name, severity)| ((*name).to_owned(), (*severity).to_owned()))
        .collect();
    assert_eq!(provoked, alerts());
}
