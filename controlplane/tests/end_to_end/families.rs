//! No family appears twice, whoever records it: names are made to meet in every pair of rooms, in every format.

use std::collections::{BTreeMap, BTreeSet};

use relayscope_bridge::catalogue::{Family, PROBE_UP, Unit};
use relayscope_bridge::{Hub, HubConfig, MetricKind, SeriesRegistry, ShardId, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Format, Scrape};

const SHARD: ShardId = ShardId(0);

/// Who records a family by a name that another has, too.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// An application's shard, through the registry.
    Registry,
    /// An application's control-plane thread, through the `metrics` facade.
    Facade,
}

struct World {
    registry: SeriesRegistry,
    plane: ControlPlane,
}

impl World {
    fn new() -> Self {
        let Hub { publishers: _publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        registry.gauge(SHARD, &PROBE_UP, &["b"]).unwrap().set(1.0);
        Self { registry, plane }
    }

    fn record(&self, room: Room, name: &str, kind: MetricKind) {
        match room {
            Room::Registry => {
                let name = name.to_owned().leak();
                let family: &'static Family = Box::leak(Box::new(Family {
                    prefixed: false,
                    ..Family::new(name, kind, Unit::None, &[], "Met.")
                }));
                match kind {
                    MetricKind::Counter => drop(self.registry.counter(SHARD, family, &[]).unwrap()),
                    MetricKind::Gauge => self.registry.gauge(SHARD, family, &[]).unwrap().set(99.0),
                    MetricKind::Histogram => drop(self.registry.stream(SHARD, family, &[]).unwrap()),
                }
            }
            Room::Facade => metrics::with_local_recorder(&self.plane.recorder(), || {
                let name = name.to_owned();
                match kind {
                    MetricKind::Counter => metrics::counter!(name).increment(99),
                    MetricKind::Gauge => metrics::gauge!(name).set(99.0),
                    MetricKind::Histogram => metrics::histogram!(name).record(99.0),
                }
            }),
        }
    }

    fn scrape(&self, format: Format) -> Vec<u8> {
        self.plane.tick();
        self.plane.scrape(&Scrape { format, ..Scrape::default() }).unwrap().to_vec()
    }

    fn text(&self, format: Format) -> String {
        String::from_utf8(self.scrape(format)).unwrap()
    }

    /// Families by name with their kind, each named once and with no sample that is another's.
    fn families(&self) -> BTreeMap<String, String> {
        let text = families_of_text(&self.text(Format::Text));
        let openmetrics = families_of_text(&self.text(Format::OpenMetrics));
        let bare = |name: &String, kind: &String| match kind.as_str() {
            "counter" => name.trim_end_matches("_total").to_owned(),
            _ => name.clone(),
        };
        let by_text: BTreeSet<_> = text.iter().map(|(name, kind)| bare(name, kind)).collect();
        let by_openmetrics: BTreeSet<_> = openmetrics.iter().map(|(name, kind)| bare(name, kind)).collect();
        assert_eq!(by_text, by_openmetrics);
        let names = families_of_protobuf(&self.scrape(Format::Protobuf));
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        assert_eq!(unique, text.keys().collect());
        text
    }

    /// Families left out.
    fn left_out(&self) -> u32 {
        let text = self.text(Format::Text);
        let line = text.lines().find_map(|line| line.strip_prefix("relay_exposition_left_out_families "));
        line.unwrap().parse().unwrap()
    }
}

fn families_of_text(text: &str) -> BTreeMap<String, String> {
    let mut families = BTreeMap::new();
    let mut samples: BTreeMap<String, String> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').unwrap();
            assert_eq!(
                families.insert(name.to_owned(), kind.to_owned()),
                None,
                "{name} is named twice: {text}"
            );
            name.clone_into(&mut current);
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            assert!(lines.insert(series.to_owned()), "{series} is there twice: {text}");
            let name = series.split('{').next().unwrap();
            let owner = samples.entry(name.to_owned()).or_insert_with(|| current.clone());
            assert_eq!(*owner, current, "{name} is of two families: {text}");
        }
    }
    // Whether there is a sample or not.
    for (name, kind) in &families {
        let suffixes: &[&str] = match kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[],
        };
        for suffix in suffixes {
            assert!(!families.contains_key(&format!("{name}{suffix}")), "{name}{suffix} is a sample, too");
        }
    }
    families
}

/// The names in a sequence of length-delimited `MetricFamily` messages, whose field 1 they are.
fn families_of_protobuf(mut octets: &[u8]) -> Vec<String> {
    fn varint(octets: &mut &[u8]) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = octets.split_first().unwrap();
            *octets = rest;
            value |= usize::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut names = Vec::new();
    while !octets.is_empty() {
        let len = varint(&mut octets);
        let (mut message, rest) = octets.split_at(len);
        octets = rest;
        assert_eq!(message[0], 0x0a, "a name comes first");
        message = &message[1..];
        let len = varint(&mut message);
        names.push(String::from_utf8(message[..len].to_vec()).unwrap());
    }
    names
}

type Met = &'static [(&'static str, MetricKind)];

/// A name of each of our rooms, and the kind it has there: what the control plane knows, what the registry holds, what
/// the process records itself. With each the names that meet its own in some format.
const OURS: [(&str, &str, Met); 5] = [
    (
        "relay_mesh_peers",
        "gauge",
        &[
            ("relay_mesh_peers", MetricKind::Gauge),
            ("relay_mesh_peers", MetricKind::Counter),
            ("relay_mesh_peers", MetricKind::Histogram),
            ("relay_mesh_peers_total", MetricKind::Counter),
        ],
    ),
    (
        "relay_ring_recorded_samples_total",
        "counter",
        &[
            ("relay_ring_recorded_samples", MetricKind::Gauge),
            ("relay_ring_recorded_samples_total", MetricKind::Gauge),
            ("relay_ring_recorded_samples_total", MetricKind::Counter),
        ],
    ),
    (
        "relay_probe_up",
        "gauge",
        &[
            ("relay_probe_up", MetricKind::Gauge),
            ("relay_probe_up", MetricKind::Counter),
            ("relay_probe_up_total", MetricKind::Counter),
        ],
    ),
    (
        "relay_drain_duration_seconds",
        "histogram",
        &[
            ("relay_drain_duration_seconds", MetricKind::Gauge),
            ("relay_drain_duration_seconds_count", MetricKind::Gauge),
            ("relay_drain_duration_seconds_sum", MetricKind::Gauge),
            ("relay_drain_duration_seconds_bucket", MetricKind::Gauge),
            ("relay_drain_duration_seconds_count", MetricKind::Counter),
        ],
    ),
    (
        "relay_build_info",
        "gauge",
        &[
            ("relay_build_info", MetricKind::Counter),
            ("relay_build_info", MetricKind::Histogram),
            ("relay_build_info_total", MetricKind::Counter),
        ],
    ),
];

#[test]
fn an_application_takes_no_name_of_ours_in_any_format_from_any_room() {
    // Which of two is rendered first, the exporter's hash tables say: not always the same.
    for round in 0..4 {
        for (ours, kind, names) in OURS {
            for (name, theirs) in names {
                for room in [Room::Registry, Room::Facade] {
                    let world = World::new();
                    let before = world.families();
                    assert_eq!(before.get(ours).map(String::as_str), Some(kind), "{ours} is there");
                    world.record(room, name, *theirs);
                    let what = format!("{name} as a {theirs:?} by the {room:?} beside {ours}, round {round}");
                    assert_eq!(world.families(), before, "{what}");
                    assert_eq!(world.left_out(), 1, "{what}");
                }
            }
        }
    }
}

#[test]
fn of_two_of_an_applications_own_that_meet_one_is_left_out_in_every_format() {
    for (first, second) in [
        (("app_x", MetricKind::Gauge), ("app_x", MetricKind::Counter)),
        (("app_x", MetricKind::Gauge), ("app_x", MetricKind::Histogram)),
        (("app_x_total", MetricKind::Counter), ("app_x", MetricKind::Gauge)),
        (("app_x", MetricKind::Histogram), ("app_x_count", MetricKind::Counter)),
        (("app_x", MetricKind::Histogram), ("app_x_sum", MetricKind::Gauge)),
        (("app_x", MetricKind::Histogram), ("app_x_bucket", MetricKind::Gauge)),
    ] {
        for rooms in [
            [Room::Registry, Room::Registry],
            [Room::Registry, Room::Facade],
            [Room::Facade, Room::Registry],
            [Room::Facade, Room::Facade],
        ] {
            let world = World::new();
            let before = world.families().len();
            for ((name, kind), room) in [first, second].into_iter().zip(rooms) {
                world.record(room, name, kind);
            }
            let what = format!("{first:?} and {second:?} by {rooms:?}");
            assert_eq!(world.families().len(), before + 1, "{what}");
            assert_eq!(world.left_out(), 1, "{what}");
        }
    }
    // The same family by both, too: a name is one room's.
    let world = World::new();
    let before = world.families().len();
    world.record(Room::Registry, "app_x", MetricKind::Gauge);
    world.record(Room::Facade, "app_x", MetricKind::Gauge);
    assert_eq!((world.families().len(), world.left_out()), (before + 1, 1));
}
