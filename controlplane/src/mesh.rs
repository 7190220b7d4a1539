//! The mesh: one row per target, for people and as JSON.

use std::fmt::Write;
use std::net::SocketAddr;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{SeriesRef, SeriesView, ShardId};
use serde::Serialize;

use crate::clock::Now;
use crate::health::Clocks;

/// A target as configured: which peer, where, and which shard probes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshTarget {
    /// The configured name: the `target` label of every series of this target.
    pub name: String,
    /// Where it is probed.
    pub address: SocketAddr,
    /// How it is probed.
    pub protocol: String,
    /// The shard that probes it.
    pub shard: ShardId,
}

/// Whether a target answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshState {
    /// The newest settled probe was answered.
    Up,
    /// The newest settled probe was lost.
    Down,
    /// No probe has settled yet.
    Pending,
    /// The shard that probes it is silent: nothing is known.
    Stale,
}

impl MeshState {
    /// As in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Pending => "PENDING",
            Self::Stale => "STALE",
        }
    }
}

/// One target now. What is not known is absent, never 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeshRow {
    /// See [`MeshTarget::name`].
    pub name: String,
    /// See [`MeshTarget::address`].
    pub address: SocketAddr,
    /// See [`MeshTarget::protocol`].
    pub protocol: String,
    /// See [`MeshTarget::shard`].
    pub shard: u16,
    /// Whether it answers.
    pub state: MeshState,
    /// Round-trip time of the newest answered probe, in milliseconds; absent while down.
    pub rtt_ms: Option<f64>,
    /// Loss over the window of settled probes, in percent.
    pub loss_pct: Option<f64>,
    /// Jitter over the window (IPDV), in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Age of the newest reply.
    pub last_reply_age_seconds: Option<f64>,
    /// Probes sent.
    pub sent: Option<u64>,
    /// Probes answered in time.
    pub received: Option<u64>,
}

/// All targets now. As JSON:
///
/// ```json
/// {"running":true,"reason":null,"targets":1,"up":1,
///  "rows":[{"name":"b","address":"192.0.2.7:8620","protocol":"stamp","shard":0,"state":"up",
///           "rtt_ms":0.182,"loss_pct":0.0,"jitter_ms":0.021,"last_reply_age_seconds":0.4,
///           "sent":120,"received":120}]}
/// ```
///
/// `state` is `up`, `down`, `pending` or `stale`; a number that is not known is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mesh {
    /// Whether every shard runs: tells a mesh that is down from a relay that is.
    pub running: bool,
    /// Why there is no data plane to read from; `null` while there is one.
    pub reason: Option<String>,
    /// Targets configured.
    pub targets: usize,
    /// Targets up.
    pub up: usize,
    /// Sorted by name.
    pub rows: Vec<MeshRow>,
}

impl Mesh {
    /// The table for people: aligned columns, a summary, and what to do where there is nothing.
    pub fn to_text(&self) -> String {
        if let Some(reason) = &self.reason {
            return format!("no data plane: {reason}\n");
        }
        if self.rows.is_empty() {
            return NO_TARGETS.to_owned();
        }
        let mut table = vec![HEADER.map(str::to_owned)];
        table.extend(self.rows.iter().map(MeshRow::cells));
        let mut text = align(&table);
        // Writing to a string does not fail.
        writeln!(text, "{} of {} targets up", self.up, self.targets).unwrap_or_default();
        if !self.running {
            text.push_str("not every shard is running: see /healthz\n");
        }
        text
    }
}

const NO_TARGETS: &str = "no targets are configured\n\
    probe a peer with --probe NAME=ADDR, or with a [[target]] in the configuration file\n";

const COLUMNS: usize = 11;
const HEADER: [&str; COLUMNS] = [
    "TARGET",
    "STATE",
    "RTT",
    "LOSS",
    "JITTER",
    "LAST REPLY",
    "SENT",
    "RECEIVED",
    "ADDRESS",
    "PROTOCOL",
    "SHARD",
];

impl MeshRow {
    fn cells(&self) -> [String; COLUMNS] {
        let count = |n: Option<u64>| n.map(|n| n.to_string());
        let cells = [
            Some(self.name.clone()),
            Some(self.state.as_str().to_owned()),
            self.rtt_ms.map(|ms| format!("{ms:.3} ms")),
            self.loss_pct.map(|percent| format!("{percent:.1} %")),
            self.jitter_ms.map(|ms| format!("{ms:.3} ms")),
            self.last_reply_age_seconds.map(|age| format!("{age:.1} s ago")),
            count(self.sent),
            count(self.received),
            Some(self.address.to_string()),
            Some(self.protocol.clone()),
            Some(self.shard.to_string()),
        ];
        cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned()))
    }
}

fn align(table: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The targets that shards say they probe, sorted by name: of two of one name the first stays.
pub(crate) fn read_targets(series: &SeriesView<'_>) -> Vec<MeshTarget> {
    let mut targets: Vec<_> = series.series().filter_map(|series| read_target(&series)).collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    targets.dedup_by(|a, b| a.name == b.name);
    targets
}

fn read_target(series: &SeriesRef<'_>) -> Option<MeshTarget> {
    if *series.family != catalogue::TARGET_INFO {
        return None;
    }
    let [name, address, _, protocol] = series.values else { return None };
    Some(MeshTarget {
        name: name.clone(),
        address: address.parse().ok()?,
        protocol: protocol.clone(),
        shard: series.shard,
    })
}

/// Reads the mesh from the cells of `series`. `targets` are sorted by name.
pub(crate) fn read(targets: &[MeshTarget], series: &SeriesView<'_>, clocks: &Clocks, now: Now) -> Mesh {
    let rows: Vec<_> = targets.iter().map(|target| read_row(target, series, clocks, now)).collect();
    let up = rows.iter().filter(|row| row.state == MeshState::Up).count();
    Mesh { running: clocks.all_running(now), reason: None, targets: rows.len(), up, rows }
}

/// Whether `target` answers now.
pub(crate) fn read_state(
    target: &MeshTarget,
    series: &SeriesView<'_>,
    clocks: &Clocks,
    now: Now,
) -> MeshState {
    if clocks.is_silent(target.shard, now) {
        return MeshState::Stale;
    }
    match gauge(series, &catalogue::PROBE_UP, &target.name) {
        None => MeshState::Pending,
        Some(up) if up > 0.0 => MeshState::Up,
        Some(_) => MeshState::Down,
    }
}

fn read_row(target: &MeshTarget, series: &SeriesView<'_>, clocks: &Clocks, now: Now) -> MeshRow {
    let state = read_state(target, series, clocks, now);
    let live = |family| gauge(series, family, &target.name).filter(|_| state != MeshState::Stale);
    let count = |family| series.total(family, &[&target.name]);
    MeshRow {
        name: target.name.clone(),
        address: target.address,
        protocol: target.protocol.clone(),
        shard: target.shard.0,
        state,
        rtt_ms: live(&catalogue::PROBE_RTT_MS),
        loss_pct: live(&catalogue::PROBE_LOSS_PCT),
        jitter_ms: live(&catalogue::PROBE_JITTER_MS),
        last_reply_age_seconds: live(&catalogue::PROBE_LAST_REPLY)
            .map(|at| (now.unix_seconds() - at).max(0.0)),
        sent: count(&catalogue::PROBE_SENT),
        received: count(&catalogue::PROBE_RECEIVED),
    }
}

fn gauge(series: &SeriesView<'_>, family: &Family, target: &str) -> Option<f64> {
    series.gauge(*series.find(family, &[target]).first()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relayscope_bridge::{GaugeCell, Hub, HubConfig, SeriesDirectory, SeriesRegistry, hub};

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: (1000 + seconds) * 1_000_000_000 }
    }

    fn target(name: &str, port: u16) -> MeshTarget {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        MeshTarget { name: name.to_owned(), address, protocol: "stamp".to_owned(), shard: SHARD }
    }

    fn set(registry: &SeriesRegistry, family: &'static Family, target: &str, value: f64) -> GaugeCell {
        let mut cell = registry.gauge(SHARD, family, &[target]).unwrap();
        cell.set(value);
        cell
    }

    /// `b` answers, `c` is lost, `d` has no settled probe; the shard beat at 10 s.
    fn three_targets() -> (SeriesDirectory, Clocks, Vec<MeshTarget>) {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        set(&registry, &catalogue::PROBE_UP, "b", 1.0);
        set(&registry, &catalogue::PROBE_RTT_MS, "b", 0.1824);
        set(&registry, &catalogue::PROBE_LOSS_PCT, "b", 0.0);
        set(&registry, &catalogue::PROBE_JITTER_MS, "b", 0.021);
        set(&registry, &catalogue::PROBE_LAST_REPLY, "b", 1009.5);
        registry.counter(SHARD, &catalogue::PROBE_SENT, &["b"]).unwrap().add(120);
        registry.counter(SHARD, &catalogue::PROBE_RECEIVED, &["b"]).unwrap().add(119);
        set(&registry, &catalogue::PROBE_UP, "c", 0.0);
        set(&registry, &catalogue::PROBE_LOSS_PCT, "c", 100.0);
        let clocks = Clocks::new(1, Duration::from_secs(5), at(1));
        clocks.recorded(SHARD, Some(at(10).monotonic_ns));
        (collector.directory().clone(), clocks, vec![target("b", 8621), target("c", 8622), target("d", 8623)])
    }

    #[test]
    fn the_table_shows_a_dash_for_what_is_not_known() {
        let (directory, clocks, targets) = three_targets();
        let mesh = directory.read(|series| read(&targets, series, &clocks, at(10)));
        let expected = "\
TARGET  STATE    RTT       LOSS     JITTER    LAST REPLY  SENT  RECEIVED  ADDRESS         PROTOCOL  SHARD
b       UP       0.182 ms  0.0 %    0.021 ms  0.5 s ago   120   119       127.0.0.1:8621  stamp     0
c       DOWN     -         100.0 %  -         -           -     -         127.0.0.1:8622  stamp     0
d       PENDING  -         -        -         -           -     -         127.0.0.1:8623  stamp     0
1 of 3 targets up
";
        assert_eq!(mesh.to_text(), expected);
    }

    #[test]
    fn a_silent_shard_makes_its_targets_stale_and_their_gauges_absent() {
        let (directory, clocks, targets) = three_targets();
        let mesh = directory.read(|series| read(&targets[..1], series, &clocks, at(16)));
        let row = &mesh.rows[0];
        assert_eq!(row.state, MeshState::Stale);
        assert_eq!((row.rtt_ms, row.loss_pct, row.jitter_ms), (None, None, None));
        assert_eq!(row.last_reply_age_seconds, None);
        assert_eq!((row.sent, row.received), (Some(120), Some(119)));
        assert_eq!((mesh.running, mesh.up), (false, 0));
        assert!(mesh.to_text().ends_with("0 of 1 targets up\nnot every shard is running: see /healthz\n"));
    }

    #[test]
    fn targets_are_those_that_shards_say_they_probe() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let info = |values: [&str; 4]| registry.gauge(SHARD, &catalogue::TARGET_INFO, &values).unwrap();
        let _cells = [
            info(["c", "[::1]:8622", "ipv6", "stamp"]),
            info(["b", "127.0.0.1:8621", "ipv4", "stamp"]),
            info(["no address", "nowhere", "ipv4", "stamp"]),
        ];
        let targets = collector.directory().read(read_targets);
        let c = MeshTarget { address: "[::1]:8622".parse().unwrap(), ..target("c", 0) };
        assert_eq!(targets, [target("b", 8621), c]);
    }

    #[test]
    fn absent_is_null_in_json() {
        let (directory, clocks, targets) = three_targets();
        let mesh = directory.read(|series| read(&targets[2..], series, &clocks, at(10)));
        let expected = concat!(
            r#"{"running":true,"reason":null,"targets":1,"up":0,"rows":[{"name":"d","address":"127.0.0.1:8623","#,
            r#""protocol":"stamp","shard":0,"state":"pending","rtt_ms":null,"loss_pct":null,"#,
            r#""jitter_ms":null,"last_reply_age_seconds":null,"sent":null,"received":null}]}"#
        );
        assert_eq!(serde_json::to_string(&mesh).unwrap(), expected);
    }

    #[test]
    fn no_targets_says_so_and_how_to_configure_one() {
        let mesh = Mesh { running: true, reason: None, targets: 0, up: 0, rows: Vec::new() };
        assert_eq!(
            mesh.to_text(),
            "no targets are configured\n\
             probe a peer with --probe NAME=ADDR, or with a [[target]] in the configuration file\n"
        );
    }
}
