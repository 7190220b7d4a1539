//! The mesh: one row per target and address family, for people and as JSON.

use std::fmt::Write;
use std::net::SocketAddr;

use serde::Serialize;

use crate::clock::Now;
use crate::health::Clocks;
use crate::roster::{Endpoint, Target, TargetReading};

/// Whether a target answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshState {
    /// The newest settled probe was answered.
    Up,
    /// The newest settled probe was lost.
    Down,
    /// No probe has settled yet, or its name has no address yet.
    Pending,
    /// The shard that probes it is silent: nothing is known.
    Stale,
}

impl MeshState {
    /// Of a target whose newest settled probe was answered or not, or that has none yet.
    pub fn of(up: Option<bool>, is_silent: bool) -> Self {
        match up {
            _ if is_silent => Self::Stale,
            None => Self::Pending,
            Some(true) => Self::Up,
            Some(false) => Self::Down,
        }
    }

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

/// One target by one address family, now. What is not known is absent, never 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeshRow {
    /// The configured name: the `target` label of every series of this target.
    pub name: String,
    /// The address family, as in the label `family`: `ipv4` or `ipv6`. This and the next three are absent while
    /// the name has no address.
    pub family: Option<&'static str>,
    /// Where it is probed.
    pub address: Option<SocketAddr>,
    /// How it is probed.
    pub protocol: Option<String>,
    /// The group whose settings it has.
    pub group: Option<String>,
    /// The shard that probes it.
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
///  "rows":[{"name":"b","family":"ipv4","address":"192.0.2.7:8620","protocol":"stamp","group":"default",
///           "shard":0,"state":"up","rtt_ms":0.182,"loss_pct":0.0,"jitter_ms":0.021,
///           "last_reply_age_seconds":0.4,"sent":120,"received":120}]}
/// ```
///
/// `state` is `up`, `down`, `pending` or `stale`; what is not known is `null`. A target that is probed by both
/// address families has two rows; one whose name has no address yet has one, without family and `pending`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mesh {
    /// Whether every shard runs: tells a mesh that is down from a relay that is.
    pub running: bool,
    /// Why there is no data plane to read from; `null` while there is one.
    pub reason: Option<String>,
    /// Targets configured, by name.
    pub targets: usize,
    /// Targets up, by whichever family.
    pub up: usize,
    /// Sorted by name, then family.
    pub rows: Vec<MeshRow>,
}

/// The mesh in three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshCounts {
    /// Whether every shard runs: tells a mesh that is down from a relay that is.
    pub running: bool,
    /// Targets configured, by name.
    pub targets: usize,
    /// Targets up, by whichever family.
    pub up: usize,
}

impl Mesh {
    /// The table for people: aligned columns, a summary, and what to do where there is nothing. `FAMILY` is
    /// among them where a target is probed by both, and `GROUP` where there is more than one.
    pub fn to_text(&self) -> String {
        if let Some(reason) = &self.reason {
            return format!("no data plane: {reason}\n");
        }
        if self.rows.is_empty() {
            return NO_TARGETS.to_owned();
        }
        let mut table = vec![HEADER.map(str::to_owned)];
        table.extend(self.rows.iter().map(MeshRow::cells));
        let mut text = align(&table, |column| match column {
            FAMILY => self.rows.windows(2).any(|pair| pair[0].name == pair[1].name),
            GROUP => has_two(self.rows.iter().filter_map(|row| row.group.as_deref())),
            _ => true,
        });
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

const COLUMNS: usize = 13;
const FAMILY: usize = 1;
const GROUP: usize = 11;
const HEADER: [&str; COLUMNS] = [
    "TARGET",
    "FAMILY",
    "STATE",
    "RTT",
    "LOSS",
    "JITTER",
    "LAST REPLY",
    "SENT",
    "RECEIVED",
    "ADDRESS",
    "PROTOCOL",
    "GROUP",
    "SHARD",
];

impl MeshRow {
    /// Whether both are of one target at one place, probed the same way by the same shard.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        let of = |row: &Self| (row.family, row.address, row.shard);
        of(self) == of(other)
            && self.name == other.name
            && self.protocol == other.protocol
            && self.group == other.group
    }

    pub(crate) fn now(reading: &TargetReading<'_>, clocks: &Clocks, now: Now) -> Self {
        Self::of(reading, clocks.is_silent(reading.target.shard, now), now)
    }

    /// A silent shard's gauges are not how things are now; what it counted stays.
    fn of(reading: &TargetReading<'_>, is_silent: bool, now: Now) -> Self {
        let Target { name, shard, endpoint } = reading.target;
        let endpoint = endpoint.as_ref();
        let live = |value: Option<f64>| value.filter(|_| !is_silent);
        Self {
            name: name.clone(),
            family: endpoint.map(Endpoint::family),
            address: endpoint.map(|endpoint| endpoint.address),
            protocol: endpoint.map(|endpoint| endpoint.protocol.clone()),
            group: endpoint.map(|endpoint| endpoint.group.clone()),
            shard: shard.0,
            state: MeshState::of(reading.up, is_silent),
            rtt_ms: live(reading.rtt_seconds).map(|seconds| seconds * 1e3),
            loss_pct: live(reading.loss_ratio).map(|ratio| ratio * 100.0),
            jitter_ms: live(reading.jitter_seconds).map(|seconds| seconds * 1e3),
            last_reply_age_seconds: live(reading.last_reply_unix_seconds)
                .map(|at| (now.unix_seconds() - at).max(0.0)),
            sent: reading.sent,
            received: reading.received,
        }
    }

    fn cells(&self) -> [String; COLUMNS] {
        let count = |n: Option<u64>| n.map(|n| n.to_string());
        let cells = [
            Some(self.name.clone()),
            self.family.map(str::to_owned),
            Some(self.state.as_str().to_owned()),
            self.rtt_ms.map(|ms| format!("{ms:.3} ms")),
            self.loss_pct.map(|percent| format!("{percent:.1} %")),
            self.jitter_ms.map(|ms| format!("{ms:.3} ms")),
            self.last_reply_age_seconds.map(|age| format!("{age:.1} s ago")),
            count(self.sent),
            count(self.received),
            self.address.map(|address| address.to_string()),
            self.protocol.clone(),
            self.group.clone(),
            Some(self.shard.to_string()),
        ];
        cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned()))
    }
}

/// Whether there are two that differ.
fn has_two<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.next().is_some_and(|first| names.any(|name| name != first))
}

fn align(table: &[[String; COLUMNS]], is_shown: impl Fn(usize) -> bool) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [Option<usize>; COLUMNS] =
        std::array::from_fn(|column| is_shown(column).then(|| width(column)));
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let Some(width) = width else { continue };
            write!(line, "{cell:width$}  ").unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, MetricId, Publisher, SeriesRegistry, ShardId, catalogue, hub};

    use super::*;
    use crate::{ControlPlane, ControlPlaneConfig};

    fn row(name: &str, family: &'static str, group: &str) -> MeshRow {
        let address = if family == "ipv4" { "192.0.2.7:8620" } else { "[2001:db8::7]:8620" };
        MeshRow {
            name: name.to_owned(),
            family: Some(family),
            address: Some(address.parse().unwrap()),
            protocol: Some("stamp".to_owned()),
            group: Some(group.to_owned()),
            shard: 0,
            state: MeshState::Up,
            rtt_ms: Some(0.1824),
            loss_pct: Some(0.0),
            jitter_ms: Some(0.021),
            last_reply_age_seconds: Some(0.5),
            sent: Some(120),
            received: Some(119),
        }
    }

    fn unknown(name: &str) -> MeshRow {
        MeshRow {
            name: name.to_owned(),
            family: None,
            address: None,
            protocol: None,
            group: None,
            shard: 0,
            state: MeshState::Pending,
            rtt_ms: None,
            loss_pct: None,
            jitter_ms: None,
            last_reply_age_seconds: None,
            sent: None,
            received: None,
        }
    }

    fn mesh(targets: usize, up: usize, rows: Vec<MeshRow>) -> Mesh {
        Mesh { running: true, reason: None, targets, up, rows }
    }

    #[test]
    fn the_table_shows_a_dash_for_what_is_not_known() {
        let expected = "\
TARGET  STATE    RTT       LOSS   JITTER    LAST REPLY  SENT  RECEIVED  ADDRESS         PROTOCOL  SHARD
b       UP       0.182 ms  0.0 %  0.021 ms  0.5 s ago   120   119       192.0.2.7:8620  stamp     0
d       PENDING  -         -      -         -           -     -         -               -         0
1 of 2 targets up
";
        assert_eq!(mesh(2, 1, vec![row("b", "ipv4", "default"), unknown("d")]).to_text(), expected);
    }

    #[test]
    fn the_table_tells_families_apart_where_a_target_has_two_and_groups_where_there_are_two() {
        let titles = |rows: Vec<MeshRow>| {
            let text = mesh(rows.len(), 0, rows).to_text();
            ["FAMILY", "GROUP"].map(|title| text.lines().next().unwrap().contains(title))
        };
        let (b, c) = (row("b", "ipv4", "default"), row("c", "ipv6", "default"));
        assert_eq!(titles(vec![b.clone(), c.clone()]), [false, false]);
        assert_eq!(titles(vec![b.clone(), row("b", "ipv6", "default"), c]), [true, false]);
        assert_eq!(titles(vec![b, row("c", "ipv4", "edge"), unknown("d")]), [false, true]);
    }

    #[test]
    fn what_is_not_known_is_null_in_json() {
        let expected = concat!(
            r#"{"running":true,"reason":null,"targets":2,"up":1,"rows":["#,
            r#"{"name":"b","family":"ipv6","address":"[2001:db8::7]:8620","protocol":"stamp","group":"edge","#,
            r#""shard":0,"state":"up","rtt_ms":0.1824,"loss_pct":0.0,"jitter_ms":0.021,"#,
            r#""last_reply_age_seconds":0.5,"sent":120,"received":119},"#,
            r#"{"name":"d","family":null,"address":null,"protocol":null,"group":null,"#,
            r#""shard":0,"state":"pending","rtt_ms":null,"loss_pct":null,"jitter_ms":null,"#,
            r#""last_reply_age_seconds":null,"sent":null,"received":null}]}"#
        );
        let mesh = mesh(2, 1, vec![row("b", "ipv6", "edge"), unknown("d")]);
        assert_eq!(serde_json::to_string(&mesh).unwrap(), expected);
    }

    #[test]
    fn a_relay_that_does_not_run_says_so_below_the_table() {
        let mesh = Mesh { running: false, ..mesh(1, 0, vec![unknown("d")]) };
        assert!(mesh.to_text().ends_with("0 of 1 targets up\nnot every shard is running: see /healthz\n"));
    }

    #[test]
    fn no_targets_says_so_and_how_to_configure_one() {
        assert_eq!(
            mesh(0, 0, Vec::new()).to_text(),
            "no targets are configured\n\
             probe a peer with --probe NAME=ADDR, or with a [[target]] in the configuration file\n"
        );
    }

    const SECOND: u64 = 1_000_000_000;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: milliseconds * 1_000_000, unix_ns: 1_796_000_000 * SECOND }
    }

    /// One shard that beat at 10 s, and a plane that drained it then.
    fn running() -> (Publisher, SeriesRegistry, ControlPlane) {
        let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
        publishers[0].beat(at(10_000).monotonic_ns);
        let plane = ControlPlane::new_at(collector, ControlPlaneConfig::default(), at(9_000)).unwrap();
        plane.tick_at(at(10_000));
        (publishers.remove(0), registry, plane)
    }

    /// Peers, targets, running, as scraped.
    fn gauges(plane: &ControlPlane, now: Now) -> [u32; 3] {
        let text = String::from_utf8(plane.exposition_at(now).to_vec()).unwrap();
        ["peers", "targets", "running"].map(|gauge| {
            let start = format!("relay_mesh_{gauge} ");
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
        })
    }

    fn join(registry: &SeriesRegistry, target: &str) -> [MetricId; 2] {
        let info = [target, "127.0.0.1:1", "ipv4", "stamp", "default"];
        let info = registry.gauge(ShardId(0), &catalogue::TARGET_INFO, &info).unwrap();
        let mut up = registry.gauge(ShardId(0), &catalogue::PROBE_FAMILY_UP, &[target, "ipv4"]).unwrap();
        up.set(1.0);
        [info.id(), up.id()]
    }

    #[test]
    fn the_gauges_follow_the_members_with_the_next_drain_and_within_a_second_without_one() {
        let (_publisher, registry, plane) = running();
        assert_eq!(gauges(&plane, at(10_000)), [0, 0, 1]);
        let b = join(&registry, "b");
        plane.tick_at(at(10_100));
        assert_eq!(gauges(&plane, at(10_100)), [1, 1, 1]);
        join(&registry, "c");
        registry.retire(ShardId(0), &b[..1]).unwrap();
        assert_eq!(gauges(&plane, at(10_200)), [1, 1, 1], "the body of the drain before");
        join(&registry, "d");
        registry.retire(ShardId(0), &b[1..]).unwrap();
        assert_eq!(gauges(&plane, at(11_100)), [2, 2, 1], "no drain came by");
        assert_eq!(plane.mesh_counts_at(at(11_100)), MeshCounts { running: true, targets: 2, up: 2 });
    }

    #[test]
    fn a_silent_shard_takes_its_peers_from_the_gauges_within_a_second_and_gives_them_back() {
        let (mut publisher, registry, plane) = running();
        join(&registry, "b");
        assert_eq!(gauges(&plane, at(15_000)), [1, 1, 1]);
        assert_eq!(gauges(&plane, at(16_000)), [0, 1, 0], "it is silent since 15.0 s, and no drain came by");
        publisher.beat(at(16_500).monotonic_ns);
        assert_eq!(gauges(&plane, at(17_000)), [1, 1, 1]);
    }
}
