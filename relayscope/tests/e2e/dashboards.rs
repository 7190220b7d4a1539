//! The Grafana dashboard: whole as Grafana wants it, and every query of it has data in a live mesh.
//!
//! Grafana itself is in no Debian release. Its own model of a dashboard, which it publishes as a library, reads
//! the file; its queries run as it would send them, against the real Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use relayscope_bridge::{MetricKind, catalogue};
use relayscope_impairer::{Impairer, Impairment};
use serde_json::{Value, json};

use crate::peers::Peer;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Relay, loopback, run, start_data_plane, wait_for};
use crate::rules::{rules, shortened};

/// Panels that every Grafana has.
const PANEL_TYPES: [&str; 6] = ["row", "stat", "state-timeline", "heatmap", "timeseries", "table"];
const GRID_WIDTH: u64 = 24;

pub(crate) fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(dashboards().join("relayscope.json")).unwrap()).unwrap()
}

/// Rows that a mesh of relays fills, and those of relays that embed relayscope, which are collapsed.
const MESH_ROWS: [&str; 2] = ["Inter-relay mesh", "Pipeline"];
const RELAY_ROWS: [&str; 3] = ["Relay health", "Call quality", "Web bridge"];

/// Panels that are no rows, each with the title of its row: the row before it, or the collapsed one that holds it.
fn panels_by_row(dashboard: &Value) -> Vec<(&str, &Value)> {
    let (mut row, mut found) = ("", Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        match panel["panels"].as_array() {
            Some(inside) => {
                row = text(panel, "title");
                found.extend(inside.iter().map(|panel| (row, panel)));
            }
            None => found.push((row, panel)),
        }
    }
    found
}

/// Panels that are no rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    panels_by_row(dashboard).into_iter().map(|(_, panel)| panel)
}

fn targets(panel: &Value) -> &[Value] {
    panel["targets"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

/// The names of metrics of ours in an expression; recorded ones have a colon and are not.
pub(crate) fn metric_names(expression: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !is_part(c)).filter(|word| !word.contains(':'));
    words.filter(|word| word.starts_with("relay_") || word.starts_with("process_")).collect()
}

/// Whether the catalogue's families have samples of that name under that prefix.
pub(crate) fn is_exposed(name: &str, prefix: &str) -> bool {
    let suffixes = |family: &catalogue::Family| match family.kind {
        // Without one it is a native histogram.
        MetricKind::Histogram => &["", "_bucket", "_sum", "_count"][..],
        MetricKind::Counter | MetricKind::Gauge => &[""],
    };
    let is_of = |family: &&catalogue::Family| {
        suffixes(family).iter().any(|suffix| format!("{}{suffix}", family.full_name(prefix)) == name)
    };
    catalogue::ALL.iter().any(is_of)
}

pub(crate) fn is_whole() {
    let dashboard = dashboard();
    assert_eq!(dashboard["schemaVersion"], 41);
    assert_eq!(dashboard["refresh"], "10s");
    assert_eq!(dashboard["id"], Value::Null, "an import gives it one");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(names, ["datasource", "instance", "target", "room", "session"]);
    assert_eq!((text(&variables[0], "type"), text(&variables[0], "query")), ("datasource", "prometheus"));
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    variables[1..].iter().for_each(|variable| assert_eq!(variable["datasource"], source));

    let outer = dashboard["panels"].as_array().unwrap();
    let (rows, collapsed): (Vec<_>, Vec<_>) = outer
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| (text(row, "title"), row["collapsed"].as_bool().unwrap()))
        .unzip();
    assert_eq!(rows, [&MESH_ROWS[..1], &RELAY_ROWS, &MESH_ROWS[1..]].concat());
    assert_eq!(collapsed, [false, true, true, true, false]);
    let inside = outer.iter().filter_map(|panel| panel["panels"].as_array());
    let all: Vec<_> = inside.clone().flatten().chain(outer).collect();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "ids are unique");
    let titles: BTreeSet<_> = all.iter().map(|panel| text(panel, "title")).collect();
    assert_eq!(titles.len(), all.len(), "titles are unique");
    all.iter().for_each(|panel| assert!(PANEL_TYPES.contains(&text(panel, "type")), "{panel}"));
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(text(panel, "description").ends_with('.'), "{title}");
        let unit = match text(panel, "type") {
            "heatmap" => &panel["options"]["yAxis"]["unit"],
            _ => &panel["fieldConfig"]["defaults"]["unit"],
        };
        assert!(unit.is_string(), "{title} has no unit");
        let references: BTreeSet<_> = targets(panel).iter().map(|target| text(target, "refId")).collect();
        assert!(!references.is_empty() && references.len() == targets(panel).len(), "{title}");
        for target in targets(panel) {
            let expression = text(target, "expr");
            assert_eq!(target["datasource"], source, "{title}");
            assert!(expression.contains("instance=~\"$instance\""), "{title}: {expression}");
            let unknown = metric_names(expression).into_iter().find(|name| !is_exposed(name, "relay"));
            assert_eq!(unknown, None, "{title} asks for what nobody exposes");
        }
    }
    // Who opens a row moves what is below.
    inside.chain([outer]).for_each(|panels| overlap_nowhere(panels));
}

fn overlap_nowhere(panels: &[Value]) {
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in panels {
        let at = |key| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= GRID_WIDTH, "{panel}");
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            let before = taken.insert((x, y), text(panel, "title"));
            assert_eq!(before, None, "{} lies over it", text(panel, "title"));
        }
    }
}

/// Value and colour of each step.
fn steps(panel: &Value) -> Vec<(Option<f64>, &str)> {
    let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
    steps.iter().map(|step| (step["value"].as_f64(), text(step, "color"))).collect()
}

pub(crate) fn thresholds() {
    let dashboard = dashboard();
    let panel = |title: &str| panels(&dashboard).find(|panel| panel["title"] == title).unwrap();
    let loss = [(None, "green"), (Some(0.02), "yellow"), (Some(0.05), "red")];
    let rtt = [(None, "green"), (Some(0.1), "yellow"), (Some(0.3), "red")];
    for title in ["Loss", "Worst loss"] {
        assert_eq!(
            (steps(panel(title)), text(&panel(title)["fieldConfig"]["defaults"], "unit")),
            (loss.into(), "percentunit")
        );
    }
    for title in ["RTT quantiles", "Worst RTT"] {
        assert_eq!(
            (steps(panel(title)), text(&panel(title)["fieldConfig"]["defaults"], "unit")),
            (rtt.into(), "s")
        );
    }
    let session = |title: &str, expected: &[(Option<f64>, &str)], unit: &str| {
        assert_eq!(steps(panel(title)), expected, "{title}");
        assert_eq!(text(&panel(title)["fieldConfig"]["defaults"], "unit"), unit, "{title}");
    };
    let drawn = |title: &str| {
        &panel(title)["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "dashed"
    };
    for (title, worst) in
        [("Loss by session", "Worst loss of a session"), ("RTT by session", "Worst RTT of a session")]
    {
        let (expected, unit) = if title.starts_with("Loss") { (&loss, "percentunit") } else { (&rtt, "s") };
        session(title, expected, unit);
        session(worst, expected, unit);
        assert!(drawn(title), "{title}");
    }
    let buffer = [(None, "red"), (Some(1.0), "yellow"), (Some(2.0), "green")];
    ["Buffer depth", "Least buffered"].iter().for_each(|title| session(title, &buffer, "none"));
    session("Underruns", &[(None, "green"), (Some(0.2), "yellow"), (Some(1.0), "red")], "cps");
    assert!(drawn("Buffer depth") && drawn("Underruns"));
    let states = &panel("Up and down")["fieldConfig"]["defaults"]["mappings"][0]["options"];
    assert_eq!((text(&states["0"], "color"), text(&states["1"], "color")), ("red", "green"));
    assert_eq!((text(&states["0"], "text"), text(&states["1"], "text")), ("down", "up"));
}

/// Checks that all names of metrics in an expression, `relay_` replaced, are exposed under another prefix.
fn assert_replaced(expression: &str) {
    assert!(!expression.contains("relay_"), "{expression}");
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("wzp_")) {
        assert!(is_exposed(name, "wzp"), "{name}");
    }
}

/// What dashboards/README.md says: another prefix is one replacement.
pub(crate) fn another_prefix() {
    for rule in rules() {
        assert_replaced(&text(&rule, "expr").replace("relay_", "wzp_"));
    }
    let replaced =
        std::fs::read_to_string(dashboards().join("relayscope.json")).unwrap().replace("relay_", "wzp_");
    let dashboard: Value = serde_json::from_str(&replaced).unwrap();
    panels(&dashboard).flat_map(targets).for_each(|target| assert_replaced(text(target, "expr")));
}

/// Grafana's own model, which it generates from its schema, takes all of it and knows every unit.
pub(crate) fn model_of_grafana() {
    let mut command = Command::new(Peer::GrafanaModel.program());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/grafana_model.py");
    let (status, stdout, stderr) = run(command.arg(script).arg(dashboards().join("relayscope.json")));
    assert!(status.success(), "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("{} panels", panels(&dashboard()).count())), "{stdout}");
}

/// Values of the dashboard's variables, as one who looks chose them.
pub(crate) struct Choice {
    instance: String,
    target: String,
    room: String,
    session: String,
}

impl Choice {
    /// "All": what the variables give for it.
    pub(crate) fn all() -> Self {
        let all = || ".*".to_owned();
        Self { instance: all(), target: all(), room: all(), session: all() }
    }

    fn some(instances: &[&str], targets: &[&str]) -> Self {
        Self { instance: several(instances), target: several(targets), ..Self::all() }
    }

    pub(crate) fn sessions(instance: &str, room: &str, sessions: &[&str]) -> Self {
        Self { room: room.to_owned(), session: several(sessions), ..Self::some(&[instance], &[]) }
    }

    /// As Grafana interpolates for Prometheus, scraped once a second. Of longest names first: one begins another.
    fn interpolate(&self, expression: &str) -> String {
        expression
            .replace("$__rate_interval", "4s")
            .replace("$__interval", "1s")
            .replace("$__range", "60s")
            .replace("$instance", &self.instance)
            .replace("$target", &self.target)
            .replace("$room", &self.room)
            .replace("$session", &self.session)
    }
}

/// Several values are alternatives; what a regular expression would take for more than a character is escaped,
/// once for it and once for the string that it stands in.
fn several(values: &[&str]) -> String {
    let escape = |value: &&str| {
        let escaped = value.chars().map(|c| match c {
            '\\' => "\\\\\\\\".to_owned(),
            '$' | '^' | '*' | '{' | '}' | '[' | ']' | '\'' | '+' | '?' | '.' | '(' | ')' | '|' => {
                format!("\\\\{c}")
            }
            c => c.to_string(),
        });
        escaped.collect::<String>()
    };
    let escaped: Vec<_> = values.iter().map(escape).collect();
    match &escaped[..] {
        [one] => one.clone(),
        more => format!("({})", more.join("|")),
    }
}

/// Some value of the answer is a number, or a native histogram.
fn has_data(series: &[Value]) -> bool {
    let is_number = |pair: &Value| pair[1].as_str().unwrap().parse::<f64>().unwrap().is_finite();
    series.iter().any(|series| match (&series["values"], &series["value"]) {
        (Value::Array(values), _) => values.iter().any(is_number),
        (_, Value::Array(_)) => is_number(&series["value"]),
        _ => series["histograms"].is_array(),
    })
}

/// What the rules record is there.
fn wait_recorded(prometheus: &PrometheusServer) {
    for rule in rules() {
        let Some(record) = rule["record"].as_str() else { continue };
        wait_for(format_args!("{record}"), || prometheus.query(record).filter(|series| has_data(series)));
    }
}

/// What a panel asks, and what comes of it.
fn ask(prometheus: &PrometheusServer, target: &Value, expression: &str) -> Option<Vec<Value>> {
    match target["instant"].as_bool().unwrap() {
        true => prometheus.query(expression),
        false => prometheus.range(expression),
    }
}

fn run_panels(prometheus: &PrometheusServer, choice: &Choice, rows: &[&str]) {
    let dashboard = dashboard();
    for (_, panel) in panels_by_row(&dashboard).iter().filter(|(row, _)| rows.contains(row)) {
        for target in targets(panel) {
            let expression = choice.interpolate(text(target, "expr"));
            wait_for(format_args!("data of {}: {expression}", text(panel, "title")), || {
                ask(prometheus, target, &expression).filter(|series| has_data(series))
            });
        }
    }
}

/// All panels of a relay that embeds relayscope have data.
pub(crate) fn run_panels_of_relays(prometheus: &PrometheusServer, choice: &Choice) {
    run_panels(prometheus, choice, &RELAY_ROWS);
}

/// Where there is no relay that embeds relayscope, what its rows ask is no error and has no answer.
fn are_empty(prometheus: &PrometheusServer) {
    let dashboard = dashboard();
    for (_, panel) in panels_by_row(&dashboard).iter().filter(|(row, _)| RELAY_ROWS.contains(row)) {
        for target in targets(panel) {
            let expression = Choice::all().interpolate(text(target, "expr"));
            let answer = ask(prometheus, target, &expression);
            assert_eq!(answer, Some(Vec::new()), "{}: {expression}", text(panel, "title"));
        }
    }
}

/// Those of docs/metrics.md under that head; one that asks whether something is wrong may answer no.
pub(crate) fn run_questions(prometheus: &PrometheusServer, head: &str) {
    let file = dashboards().join("../docs/metrics.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, table) = text.split_once(&format!("| {head} | PromQL |\n")).unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let questions: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert!(questions.len() > 5, "{questions:?}");
    for question in questions {
        let series = prometheus.query(question).unwrap();
        assert!(has_data(&series) || question.contains(" > "), "{question} has no answer");
    }
}

/// `label_values(SELECTOR, LABEL)`, as the variables ask.
pub(crate) fn variable_values(prometheus: &PrometheusServer, name: &str, choice: &Choice) -> Vec<String> {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name).unwrap();
    let query = text(&variable["query"], "query");
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
    let (selector, label) = inner.rsplit_once(',').unwrap();
    prometheus.label_values(&choice.interpolate(selector), label.trim()).unwrap()
}

/// A mesh in which something is wrong: a peer that answers, one over a path that loses, one that dies, one that
/// never was; and a relay whose planes are two processes.
pub(crate) fn every_panel_has_data() {
    let (a, b, c, d, nobody) = (loopback(), loopback(), loopback(), loopback(), loopback());
    let reflect = |ip| format!("{ip}:8620");
    let b_relay = Relay::start(b, &["--reflect", &reflect(b), "--probe", &format!("a={}", reflect(a))]);
    let mut d_relay = Relay::start(d, &["--reflect", &reflect(d), "--probe", &format!("a={}", reflect(a))]);
    let lossy = Impairment { loss: 0.2, delay: Duration::from_millis(5), ..Impairment::NONE };
    let path = Impairer::start((loopback(), 0).into(), reflect(b).parse().unwrap(), 1, lossy, lossy).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("relayscope.toml");
    let targets = [
        ("b", reflect(b)),
        ("lossy", path.address().to_string()),
        ("d", reflect(d)),
        ("nobody", reflect(nobody)),
    ];
    let targets: String = targets
        .iter()
        .map(|(name, at)| format!("[[target]]\nname = \"{name}\"\naddress = \"{at}\"\n"))
        .collect();
    let listen = reflect(a);
    std::fs::write(
        &config,
        format!("[reflector]\nlisten = [\"{listen}\"]\n[probe]\ninterval = \"200ms\"\ntimeout = \"500ms\"\n{targets}"),
    )
    .unwrap();
    let a_relay = Relay::start(a, &["--config", config.to_str().unwrap()]);
    let segment = directory.path().join("segment");
    let _data_plane = start_data_plane(c, &segment);
    let c_relay = Relay::start_control_plane(c, &segment);
    a_relay.wait_state("d", "up");

    let relays = [a_relay.http, b_relay.http, c_relay.http, d_relay.http];
    let prometheus = PrometheusServer::start(&relays, &shortened());
    let native = PrometheusServer::start_native(&relays, &shortened());
    let instance = format!("instance=\"{}\"", a_relay.http);
    let up = format!("relay_probe_up{{{instance},target=\"d\"}}");
    wait_for("d to be seen up, and all relays", || {
        let seen = format!("{up} == 1 and on () count(relay_build_info) == {}", relays.len());
        prometheus.query(&seen).filter(|series| !series.is_empty())
    });
    d_relay.process.kill();
    wait_for("d to be seen down", || {
        prometheus.query(&format!("{up} == 0")).filter(|series| !series.is_empty())
    });

    for prometheus in [&prometheus, &native] {
        run_panels(prometheus, &Choice::all(), &MESH_ROWS);
        wait_recorded(prometheus);
        are_empty(prometheus);
    }
    let buckets = native.query("relay_probe_rtt_seconds_bucket").unwrap();
    assert_eq!(buckets, Vec::<Value>::new(), "this one keeps native histograms alone");
    let a_name = a_relay.http.to_string();
    run_panels(&prometheus, &Choice::some(&[&a_name], &["b"]), &MESH_ROWS);
    run_panels(
        &prometheus,
        &Choice::some(&[&a_name, &b_relay.http.to_string()], &["lossy", "a"]),
        &MESH_ROWS,
    );
    shows_what_is_wrong(&prometheus, &a_name);
    run_questions(&prometheus, "question");

    let mut instances: Vec<_> = relays.iter().map(ToString::to_string).collect();
    instances.sort_unstable();
    assert_eq!(variable_values(&prometheus, "instance", &Choice::all()), instances);
    let of_a = Choice::some(&[&a_name], &["b"]);
    assert_eq!(variable_values(&prometheus, "target", &of_a), ["b", "d", "lossy", "nobody"]);
}

/// The values the panels show are those of what was done.
fn shows_what_is_wrong(prometheus: &PrometheusServer, a: &str) {
    let dashboard = dashboard();
    let expression = |title: &str| {
        let panel = panels(&dashboard).find(|panel| panel["title"] == title).unwrap();
        Choice::some(&[a], &["b", "lossy", "d", "nobody"]).interpolate(text(&targets(panel)[0], "expr"))
    };
    let of = |title: &str, target: &str| {
        let series = prometheus.range(&expression(title)).unwrap();
        let series = series.iter().find(|series| series["metric"]["target"] == target).cloned();
        let values = series.map_or(Vec::new(), |series| series["values"].as_array().unwrap().clone());
        values.iter().map(|pair| pair[1].as_str().unwrap().parse().unwrap()).collect::<Vec<f64>>()
    };
    let d = of("Up and down", "d");
    assert!(d.first() == Some(&1.0) && d.last() == Some(&0.0), "{d:?}");
    assert!(of("Up and down", "nobody").iter().all(|up| *up == 0.0));
    assert!(of("Up and down", "b").iter().all(|up| *up == 1.0));
    assert_eq!(of("Loss", "nobody").last(), Some(&1.0));
    assert_eq!(of("RTT", "nobody"), Vec::<f64>::new(), "who never answered has no RTT");
    // 36 % are lost there or back: of a window that is full, more than 5 % and less than all.
    wait_for("the loss of the path", || {
        of("Loss", "lossy").last().filter(|loss| (0.05..0.9).contains(*loss)).copied()
    });
    assert!(of("RTT", "lossy").iter().all(|rtt| (0.01..0.5).contains(rtt)), "there and back, 5 ms each");
}
