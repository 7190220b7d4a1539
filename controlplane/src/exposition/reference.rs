//! `docs/metrics.md`: its tables are the catalogue's, and a test holds them to it.

use std::fmt::Write;
use std::path::Path;

use relayscope_bridge::catalogue::{self, Family, Unit};

use super::{series, state};
use crate::own;

/// Says that the tables are to be written, not compared.
const WRITE: &str = "RELAYSCOPE_WRITE_DOCS";
const BEGIN: &str = "<!-- From the catalogue; do not edit from here -->\n";
const END: &str = "<!-- to here -->\n";
const PREFIX: &str = "relay";

/// Headings, each with how the names of its families begin. The first that fits has a family.
const GROUPS: &[(&str, &[&str])] = &[
    ("Probes, by target", &["probe_"]),
    ("Targets and the mesh", &["target_", "group_", "discovery_", "mesh_"]),
    ("What this relay answers", &["reflector_", "responder_"]),
    ("Alerts", &["alert", "peer_"]),
    ("Shards and their data plane", &["shard_", "dataplane_", "runtime_"]),
    ("Rings and drains", &["ring_", "drain_", "recorder_"]),
    ("Relays that embed it", RELAY),
    ("Scrapes and HTTP", &["scrape_", "exposition_", "http_", "web_"]),
    ("The process", &["config_", "build_", "process_"]),
    ("Everything else", &[""]),
];

const RELAY: &[&str] = &[
    "session",
    "rooms",
    "received_",
    "sent_",
    "dropped_",
    "auth_",
    "refused_sessions_",
    "ended_",
    "handshake_",
    "forward_",
    "web_bridge_",
];

fn group_of(family: &Family) -> &'static str {
    let fits = |starts: &&[&str]| starts.iter().any(|start| family.name.starts_with(start));
    GROUPS.iter().find(|(_, starts)| fits(starts)).expect("the last takes all").0
}

/// Who knows it, which says when it is absent.
fn known_by(family: &Family) -> &'static str {
    let is_it = |other: &&Family| std::ptr::eq(*other, family);
    let rooms = [
        (series::FAMILIES.iter().any(is_it), "shards"),
        (state::FAMILIES.iter().any(|(other, _)| is_it(other)), "control plane"),
        (own::FAMILIES.iter().any(is_it), "process"),
    ];
    rooms.iter().find_map(|(is_here, who)| is_here.then_some(*who)).expect("each has a room")
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::None => "",
        Unit::Seconds => "s",
        Unit::Milliseconds => "ms",
        Unit::Ratio => "0..1",
        Unit::Percent => "%",
        Unit::Bytes => "bytes",
        Unit::Samples => "samples",
    }
}

fn tables() -> String {
    let mut text = String::new();
    for (heading, _) in GROUPS {
        let mut families = catalogue::ALL.iter().filter(|family| group_of(family) == *heading).peekable();
        if families.peek().is_none() {
            continue;
        }
        write!(text, "\n### {heading}\n\n| name | kind | unit | labels | from | what it is |\n").unwrap();
        text.push_str("|---|---|---|---|---|---|\n");
        for family in families {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, labels) = (family.full_name(PREFIX), family.kind.as_str(), labels.join(" "));
            let help = family.help.replace('|', "\\|");
            let (unit, from) = (unit(family.unit), known_by(family));
            writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {from} | {help} |").unwrap();
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_metrics_reference_is_the_catalogue() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the tables begin");
    let (written, after) = rest.split_once(END).expect("where they end");
    let tables = tables();
    if written == tables {
        return;
    }
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, [before, BEGIN, &tables, END, after].concat()).unwrap();
        return;
    }
    let missing = tables.lines().find(|line| !written.lines().any(|other| other == *line));
    let gone = written.lines().find(|line| !tables.lines().any(|other| other == *line));
    panic!(
        "docs/metrics.md is not what the catalogue says: misses {missing:?}, has {gone:?}; write it with\n\
         {WRITE}=1 cargo test -p relayscope-controlplane --lib the_metrics_reference"
    );
}
