//! Which targets the shards say they probe, and where the numbers of each lie.
//!
//! A [`Roster`] is read from the series once for each generation of the directory. After that, what a target
//! says now is some cells read by id: no name is looked up.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ptr;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{MetricId, SeriesRef, SeriesView, ShardId};

use crate::clock::Now;
use crate::health::Clocks;
use crate::mesh::{Mesh, MeshRow, MeshState};

/// A target by one of its address families.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The configured name: the `target` label of every series of this target.
    pub name: String,
    /// `None` while the name has no address yet.
    pub endpoint: Option<Endpoint>,
    /// The shard that probes it.
    pub shard: ShardId,
}

/// Where and how a target is probed. IPv4 sorts before IPv6.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// How, as in the label `protocol`.
    pub protocol: String,
    /// The group whose settings it has.
    pub group: String,
}

impl Endpoint {
    /// The address family, as in the label `family`: `ipv4` or `ipv6`.
    pub fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "ipv4" } else { "ipv6" }
    }
}

/// What the cells of a target say of one of its families, however old that is. What is not known is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetReading<'a> {
    /// Whose.
    pub target: &'a Target,
    /// Whether the newest settled probe was answered; `None` before the first.
    pub up: Option<bool>,
    /// Round-trip time of the newest answered probe.
    pub rtt_seconds: Option<f64>,
    /// Loss over the window of settled probes.
    pub loss_ratio: Option<f64>,
    /// Jitter over the window (IPDV).
    pub jitter_seconds: Option<f64>,
    /// When the newest reply came.
    pub last_reply_unix_seconds: Option<f64>,
    /// Probes sent.
    pub sent: Option<u64>,
    /// Probes answered in time.
    pub received: Option<u64>,
    /// Probes not answered in time.
    pub lost: Option<u64>,
    /// The series of `sent`: two totals are of one if both are the same. See [`SeriesRef::incarnation`].
    pub sent_series: Option<(MetricId, u64)>,
}

/// All that a target has counted by now, however old that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Totals {
    /// As [`TargetReading::sent_series`].
    pub(crate) series: (MetricId, u64),
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) lost_forward: Option<u64>,
    pub(crate) lost_reverse: Option<u64>,
    pub(crate) jitter_seconds: Option<f64>,
    /// The histogram of its round-trip times.
    pub(crate) rtt: Option<MetricId>,
}

/// The series that are read of a target, each at its place in [`Numbers::ids`]: the family, and the value of its third
/// label where it has one.
static NUMBERS: [(&Family, &str); 11] = [
    (&catalogue::PROBE_FAMILY_UP, ""),
    (&catalogue::PROBE_FAMILY_RTT, ""),
    (&catalogue::PROBE_WINDOW_LOSS, ""),
    (&catalogue::PROBE_WINDOW_JITTER, "ipdv"),
    (&catalogue::PROBE_LAST_REPLY, ""),
    (&catalogue::PROBE_SENT, ""),
    (&catalogue::PROBE_RECEIVED, ""),
    (&catalogue::PROBE_LOST, ""),
    (&catalogue::PROBE_DIRECTION_LOST, "forward"),
    (&catalogue::PROBE_DIRECTION_LOST, "reverse"),
    (&catalogue::PROBE_RTT_SECONDS, ""),
];

/// The series of a target by one of its families.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    /// In the order of [`NUMBERS`]; absent where there is none.
    ids: [Option<MetricId>; NUMBERS.len()],
    /// The incarnation of the one for [`catalogue::PROBE_SENT`].
    sent_incarnation: u64,
}

/// The targets, as of a generation of the directory.
///
/// ```
/// use relayscope_bridge::{Hub, HubConfig, ShardId, catalogue, hub};
/// use relayscope_controlplane::Roster;
///
/// let Hub { registry, collector, .. } = hub(HubConfig::default())?;
/// let info = ["b", "192.0.2.7:8620", "ipv4", "stamp", "default"];
/// registry.gauge(ShardId(0), &catalogue::TARGET_INFO, &info)?;
/// registry.gauge(ShardId(0), &catalogue::PROBE_FAMILY_UP, &["b", "ipv4"])?.set(1.0);
/// collector.directory().read(|series| {
///     let roster = Roster::read(series);
///     let reading = roster.readings(series).next().unwrap();
///     assert_eq!((reading.target.name.as_str(), reading.up), ("b", Some(true)));
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Roster {
    generation: u64,
    /// Sorted by name, then family.
    entries: Vec<Entry>,
    names: usize,
}

/// A target by one of its families.
#[derive(Debug)]
pub(crate) struct Entry {
    target: Target,
    numbers: Numbers,
}

impl Roster {
    /// The targets of which `series` tell where they are probed, and those of which they do not, because their
    /// names have no address yet. Of two addresses of one target in one family the lesser stands. O(series).
    pub fn read(series: &SeriesView<'_>) -> Self {
        let mut targets: Vec<_> = series.series().filter_map(|series| read_endpoint(&series)).collect();
        targets.extend(read_unresolved(series, &targets));
        targets.sort_unstable();
        targets.dedup_by(|a, b| a.name == b.name && family(a) == family(b));
        let names = targets.chunk_by(|a, b| a.name == b.name).count();
        let numbers = find_numbers(series, &targets);
        let entries = targets.into_iter().zip(numbers);
        let entries = entries.map(|(target, numbers)| Entry { target, numbers }).collect();
        Self { generation: series.generation(), entries, names }
    }

    /// Whether a series came or went since.
    pub fn is_outdated(&self, series: &SeriesView<'_>) -> bool {
        self.generation != series.generation()
    }

    /// Every target by every family it is probed by, sorted by name, then family.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.entries.iter().map(|entry| &entry.target)
    }

    /// Targets, whatever their families.
    pub fn names(&self) -> usize {
        self.names
    }

    /// What every target says, in the order of [`targets`](Self::targets). O(targets). For `series` of which it is
    /// not [outdated](Self::is_outdated): of later ones, a number may be another series'.
    pub fn readings<'a>(&'a self, series: &'a SeriesView<'a>) -> impl Iterator<Item = TargetReading<'a>> {
        self.entries.iter().map(|entry| entry.read(series))
    }

    /// The entries of each target, one or two, in the order of names.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunk_by(|a, b| a.target.name == b.target.name)
    }

    /// Targets of which a family is up. O(targets).
    pub(crate) fn count_up(&self, series: &SeriesView<'_>, clocks: &Clocks, now: Now) -> usize {
        let is_up =
            |entry: &Entry| !clocks.is_silent(entry.target.shard, now) && entry.up(series) == Some(true);
        self.by_name().filter(|entries| entries.iter().any(is_up)).count()
    }

    /// The mesh now. O(targets).
    pub(crate) fn read_mesh(&self, series: &SeriesView<'_>, clocks: &Clocks, now: Now) -> Mesh {
        let rows = self.readings(series).map(|reading| MeshRow::now(&reading, clocks, now)).collect();
        self.mesh(rows, clocks, now)
    }

    /// The mesh of which these are all rows.
    pub(crate) fn mesh(&self, rows: Vec<MeshRow>, clocks: &Clocks, now: Now) -> Mesh {
        let of_one_name = rows.chunk_by(|a, b| a.name == b.name);
        let up = of_one_name.filter(|rows| rows.iter().any(|row| row.state == MeshState::Up)).count();
        Mesh { running: clocks.all_running(now), reason: None, targets: self.names, up, rows }
    }

    /// Targets, each counted by its families.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries after `passed`, which need not be one of these: the place of the first, and `most` of them.
    pub(crate) fn after(&self, passed: Option<(&str, Option<&str>)>, most: usize) -> (usize, &[Entry]) {
        let is_passed = |entry: &Entry| passed.is_some_and(|passed| entry.key() <= passed);
        let from = self.entries.partition_point(is_passed);
        let rest = &self.entries[from..];
        (from, &rest[..rest.len().min(most)])
    }

    /// The entry at a place. Panics if there are not so many.
    pub(crate) fn entry(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// All entries in their order, `most` at a time.
    pub(crate) fn portions(&self, most: usize) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunks(most)
    }
}

impl Entry {
    /// What entries are sorted by.
    pub(crate) fn key(&self) -> (&str, Option<&str>) {
        (&self.target.name, family(&self.target))
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn up(&self, series: &SeriesView<'_>) -> Option<bool> {
        let [up, ..] = self.numbers.ids;
        series.gauge(up?).map(|up| up > 0.0)
    }

    /// Probes answered and lost. It moves with each that settles; of a damaged segment they may be any numbers.
    pub(crate) fn settled(&self, series: &SeriesView<'_>) -> Option<u64> {
        let [_, _, _, _, _, _, received, lost, ..] = self.numbers.ids;
        Some(series.counter(received?)?.saturating_add(series.counter(lost?)?))
    }

    pub(crate) fn read(&self, series: &SeriesView<'_>) -> TargetReading<'_> {
        let [_, rtt, loss, jitter, last_reply, sent, received, lost, ..] = self.numbers.ids;
        let gauge = |number: Option<MetricId>| series.gauge(number?);
        let count = |number: Option<MetricId>| series.counter(number?);
        TargetReading {
            target: &self.target,
            up: self.up(series),
            rtt_seconds: gauge(rtt),
            loss_ratio: gauge(loss),
            jitter_seconds: gauge(jitter),
            last_reply_unix_seconds: gauge(last_reply),
            sent: count(sent),
            received: count(received),
            lost: count(lost),
            sent_series: sent.map(|id| (id, self.numbers.sent_incarnation)),
        }
    }

    /// `None` for a target that counts nothing, as one without an address.
    pub(crate) fn totals(&self, series: &SeriesView<'_>) -> Option<Totals> {
        let [_, _, _, jitter, _, sent, received, lost, forward, reverse, rtt] = self.numbers.ids;
        Some(Totals {
            series: (sent?, self.numbers.sent_incarnation),
            received: series.counter(received?)?,
            lost: series.counter(lost?)?,
            lost_forward: forward.and_then(|id| series.counter(id)),
            lost_reverse: reverse.and_then(|id| series.counter(id)),
            jitter_seconds: jitter.and_then(|id| series.gauge(id)),
            rtt,
        })
    }
}

fn family(target: &Target) -> Option<&'static str> {
    target.endpoint.as_ref().map(Endpoint::family)
}

fn read_endpoint(series: &SeriesRef<'_>) -> Option<Target> {
    if !ptr::eq(series.family, &catalogue::TARGET_INFO) {
        return None;
    }
    let [name, address, _, protocol, group] = series.values.array()?;
    let address = address.parse().ok()?;
    let endpoint = Endpoint { address, protocol: protocol.to_owned(), group: group.to_owned() };
    Some(Target { name: name.to_owned(), endpoint: Some(endpoint), shard: series.shard })
}

/// The targets of which no endpoint says where they are: their names have no address yet.
fn read_unresolved(series: &SeriesView<'_>, resolved: &[Target]) -> Vec<Target> {
    let mut known: HashSet<&str> = resolved.iter().map(|target| target.name.as_str()).collect();
    let mut unresolved = Vec::new();
    let of_targets: [&Family; 2] = [&catalogue::PROBE_UP, &catalogue::TARGET_RESOLVABLE];
    for SeriesRef { family, values, shard, .. } in series.series() {
        let Some([name]) = values.array() else { continue };
        if of_targets.iter().any(|of_target| ptr::eq(*of_target, family)) && known.insert(name) {
            unresolved.push(Target { name: name.to_owned(), endpoint: None, shard });
        }
    }
    unresolved
}

/// Where the numbers of `targets` lie, by one look at every series: to look up those of thousands of targets by
/// name takes longer.
fn find_numbers(series: &SeriesView<'_>, targets: &[Target]) -> Vec<Numbers> {
    let by_labels: HashMap<(&str, &str), usize> = (targets.iter().enumerate())
        .filter_map(|(index, target)| Some(((target.name.as_str(), family(target)?), index)))
        .collect();
    let mut found = vec![Numbers::default(); targets.len()];
    for SeriesRef { id, family, values, shard, incarnation, .. } in series.series() {
        let labels = match values.array() {
            Some([name, family, third]) => Some((name, family, third)),
            None => values.array().map(|[name, family]| (name, family, "")),
        };
        let Some((name, of_family, third)) = labels else { continue };
        let is_it = |(wanted, of): &(&Family, &str)| ptr::eq(*wanted, family) && *of == third;
        let Some(number) = NUMBERS.iter().position(is_it) else { continue };
        let Some(index) = by_labels.get(&(name, of_family)) else { continue };
        // What another shard says is of no probe of this target's.
        if targets[*index].shard == shard {
            found[*index].ids[number] = Some(id);
            if ptr::eq(family, &catalogue::PROBE_SENT) {
                found[*index].sent_incarnation = incarnation;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relayscope_bridge::{Collector, GaugeCell, Hub, HubConfig, SeriesRegistry, hub};

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: (1000 + seconds) * 1_000_000_000 }
    }

    fn set(registry: &SeriesRegistry, family: &'static Family, values: &[&str], value: f64) -> GaugeCell {
        let mut cell = registry.gauge(SHARD, family, values).unwrap();
        cell.set(value);
        cell
    }

    fn info(registry: &SeriesRegistry, values: [&str; 5]) -> GaugeCell {
        registry.gauge(SHARD, &catalogue::TARGET_INFO, &values).unwrap()
    }

    /// `b` answers by IPv4 and not by IPv6, `c` has no settled probe; the shard beat at 10 s.
    fn two_targets() -> (SeriesRegistry, Collector, Clocks) {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        info(&registry, ["c", "127.0.0.1:8623", "ipv4", "stun", "edge"]);
        info(&registry, ["b", "[::1]:8622", "ipv6", "stamp", "default"]);
        info(&registry, ["b", "127.0.0.1:8621", "ipv4", "stamp", "default"]);
        let four = ["b", "ipv4"];
        set(&registry, &catalogue::PROBE_UP, &["b"], 1.0);
        set(&registry, &catalogue::PROBE_FAMILY_UP, &four, 1.0);
        set(&registry, &catalogue::PROBE_FAMILY_RTT, &four, 0.000_25);
        set(&registry, &catalogue::PROBE_WINDOW_LOSS, &four, 0.125);
        set(&registry, &catalogue::PROBE_WINDOW_JITTER, &["b", "ipv4", "pdv_p95"], 0.5);
        set(&registry, &catalogue::PROBE_WINDOW_JITTER, &["b", "ipv4", "ipdv"], 0.000_5);
        set(&registry, &catalogue::PROBE_LAST_REPLY, &four, 1009.5);
        registry.counter(SHARD, &catalogue::PROBE_SENT, &four).unwrap().add(120);
        registry.counter(SHARD, &catalogue::PROBE_RECEIVED, &four).unwrap().add(119);
        set(&registry, &catalogue::PROBE_FAMILY_UP, &["b", "ipv6"], 0.0);
        set(&registry, &catalogue::PROBE_WINDOW_LOSS, &["b", "ipv6"], 1.0);
        let clocks = Clocks::new(1, Duration::from_secs(5), at(1));
        clocks.recorded(SHARD, Some(at(10).monotonic_ns));
        (registry, collector, clocks)
    }

    fn mesh(collector: &Collector, clocks: &Clocks, now: Now) -> Mesh {
        collector.directory().read(|series| Roster::read(series).read_mesh(series, clocks, now))
    }

    fn states(mesh: &Mesh) -> Vec<(&str, Option<&str>, MeshState)> {
        mesh.rows.iter().map(|row| (row.name.as_str(), row.family, row.state)).collect()
    }

    #[test]
    fn a_row_is_what_one_family_of_a_target_says() {
        let (_registry, collector, clocks) = two_targets();
        let mesh = mesh(&collector, &clocks, at(10));
        let b = MeshRow {
            name: "b".to_owned(),
            family: Some("ipv4"),
            address: Some("127.0.0.1:8621".parse().unwrap()),
            protocol: Some("stamp".to_owned()),
            group: Some("default".to_owned()),
            shard: 0,
            state: MeshState::Up,
            rtt_ms: Some(0.25),
            loss_pct: Some(12.5),
            jitter_ms: Some(0.5),
            last_reply_age_seconds: Some(0.5),
            sent: Some(120),
            received: Some(119),
        };
        assert_eq!(mesh.rows[0], b);
        let six = MeshRow {
            family: Some("ipv6"),
            address: Some("[::1]:8622".parse().unwrap()),
            state: MeshState::Down,
            rtt_ms: None,
            loss_pct: Some(100.0),
            jitter_ms: None,
            last_reply_age_seconds: None,
            sent: None,
            received: None,
            ..b
        };
        assert_eq!(mesh.rows[1], six);
        assert_eq!(states(&mesh)[2], ("c", Some("ipv4"), MeshState::Pending));
        assert_eq!(
            (mesh.rows[2].group.as_deref(), mesh.rows[2].protocol.as_deref()),
            (Some("edge"), Some("stun"))
        );
    }

    #[test]
    fn a_target_is_one_whatever_its_families_and_up_by_any_of_them() {
        let (registry, collector, clocks) = two_targets();
        let count_up = || collector.directory().read(|s| Roster::read(s).count_up(s, &clocks, at(10)));
        let counts = |mesh: &Mesh| (mesh.targets, mesh.up, mesh.rows.len());
        assert_eq!(counts(&mesh(&collector, &clocks, at(10))), (2, 1, 3));
        assert_eq!(count_up(), 1);
        set(&registry, &catalogue::PROBE_FAMILY_UP, &["c", "ipv4"], 1.0);
        assert_eq!(counts(&mesh(&collector, &clocks, at(10))), (2, 2, 3));
        assert_eq!(count_up(), 2);
    }

    #[test]
    fn a_name_without_an_address_is_pending() {
        let (registry, collector, clocks) = two_targets();
        set(&registry, &catalogue::TARGET_RESOLVABLE, &["a"], 0.0);
        set(&registry, &catalogue::TARGET_RESOLVABLE, &["b"], 1.0);
        registry.gauge(SHARD, &catalogue::PROBE_UP, &["a"]).unwrap();
        registry.gauge(SHARD, &catalogue::PROBE_UP, &["d"]).unwrap();
        let mesh = mesh(&collector, &clocks, at(10));
        let expected = [
            ("a", None, MeshState::Pending),
            ("b", Some("ipv4"), MeshState::Up),
            ("b", Some("ipv6"), MeshState::Down),
            ("c", Some("ipv4"), MeshState::Pending),
            ("d", None, MeshState::Pending),
        ];
        assert_eq!(states(&mesh), expected);
        assert_eq!((mesh.targets, mesh.up), (4, 1));
    }

    #[test]
    fn a_silent_shard_makes_its_targets_stale_and_their_gauges_absent() {
        let (_registry, collector, clocks) = two_targets();
        let mesh = mesh(&collector, &clocks, at(16));
        let row = &mesh.rows[0];
        assert_eq!(row.state, MeshState::Stale);
        assert_eq!((row.rtt_ms, row.loss_pct, row.jitter_ms), (None, None, None));
        assert_eq!(row.last_reply_age_seconds, None);
        assert_eq!((row.sent, row.received), (Some(120), Some(119)));
        assert_eq!((mesh.running, mesh.up), (false, 0));
    }

    #[test]
    fn what_makes_no_sense_is_no_endpoint() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        info(&registry, ["b", "nowhere", "ipv4", "stamp", "default"]);
        info(&registry, ["c", "127.0.0.1:1", "ipv6", "stamp", "default"]);
        info(&registry, ["c", "127.0.0.1:2", "ipv4", "stamp", "default"]);
        let targets: Vec<_> =
            collector.directory().read(|series| Roster::read(series).targets().cloned().collect());
        assert_eq!(targets.len(), 1, "{targets:?}");
        assert_eq!(targets[0].endpoint.as_ref().unwrap().address, "127.0.0.1:1".parse().unwrap());
    }
}
