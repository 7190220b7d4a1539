//! Series as many targets have them, what each of them says in a round, and cells that say it.

use std::collections::BTreeMap;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{
    Collector, CounterCell, GaugeCell, Hub, HubConfig, MetricKind, Publisher, SeriesRegistry, ShardId, hub,
};

use crate::process::monotonic_ns;

/// Before each name.
pub const PREFIX: &str = "relay";

/// What a target has a series of, all with the labels `target` and `family`: as many counters as gauges.
pub static FAMILIES: [&Family; 10] = [
    &catalogue::PROBE_SENT,
    &catalogue::PROBE_RECEIVED,
    &catalogue::PROBE_LOST,
    &catalogue::PROBE_LATE,
    &catalogue::PROBE_REORDERED,
    &catalogue::PROBE_WINDOW_LOSS,
    &catalogue::PROBE_LAST_REPLY,
    &catalogue::PROBE_FAMILY_RTT,
    &catalogue::PROBE_PATH_RTT,
    &catalogue::PROBE_PATH_MTU,
];

/// Between two rounds the targets are probed so often.
const PROBES_PER_ROUND: u64 = 10;
const BEGAN_UNIX_NS: u64 = 1_796_000_000_000_000_000;
const WINDOW: u64 = 60;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A total.
    Counter(u64),
    /// A reading.
    Gauge(f64),
}

/// The target's values for `family` and `target`.
pub fn labels(target: usize) -> [String; 2] {
    let family = if target.is_multiple_of(4) { "ipv6" } else { "ipv4" };
    [format!("relay-{target:06}.example.net"), family.to_owned()]
}

/// What the series of `target` in [`FAMILIES`]`[family]` says in `round`: not what it said in the round before.
///
/// Counts of what was probed for minutes or weeks, as many digits as those have; times that were nanoseconds
/// once and such as were averaged, a share of the window, a size.
pub fn value(target: usize, family: usize, round: u64) -> Value {
    let noise = scrambled(target as u64);
    let sent = noise % 5_000_000 + round * PROBES_PER_ROUND;
    let rtt_ns = 180_000 + (noise + round * 791_993) % 90_000_000;
    let gauge = |value: f64| Value::Gauge(value);
    match family {
        0 => Value::Counter(sent),
        1 => Value::Counter(sent - sent / 128),
        2 => Value::Counter(sent / 128 + round),
        3 => Value::Counter(noise % 7 + round),
        4 => Value::Counter(noise % 100 + round),
        5 => gauge(((noise + round) % WINDOW) as f64 / WINDOW as f64),
        6 => gauge((BEGAN_UNIX_NS + noise % 1_000_000_000 + round * 100_000_000) as f64 / 1e9),
        7 => gauge(rtt_ns as f64 / 1e9),
        8 => gauge((rtt_ns as f64 * 0.875 + 181_318.7) / 1e9),
        _ => gauge((1_200 + (noise + round) % 253) as f64),
    }
}

/// Spreads the bits of a number (splitmix64).
fn scrambled(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ bits >> 31) >> 8
}

/// The samples of the load's families in a body: by name and labels, these in order of their names.
///
/// Panics where a line is no sample, or one comes twice.
fn samples(body: &[u8]) -> BTreeMap<String, f64> {
    let names: Vec<_> = FAMILIES.iter().map(|family| family.full_name(PREFIX)).collect();
    let text = std::str::from_utf8(body).expect("a body is text");
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let Some((series, value)) = line.rsplit_once(' ') else { panic!("{line:?} has no value") };
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        if !names.iter().any(|own| own == name) {
            continue;
        }
        // No value has a comma or a quote in it.
        let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        labels.sort_unstable();
        let before = samples.insert(format!("{name} {}", labels.join(",")), number(value));
        assert_eq!(before, None, "{line:?} comes twice");
    }
    samples
}

fn number(text: &str) -> f64 {
    text.parse().expect("a sample's value is a number")
}

/// That a body says of `targets` what the load said in `round`, that and no more.
///
/// # Panics
/// When it does not.
pub fn check(contender: &str, body: &[u8], targets: usize, round: u64) {
    let mut samples = samples(body);
    for target in 0..targets {
        let [name, family] = labels(target);
        for (number, of) in FAMILIES.iter().enumerate() {
            let key = format!("{} family=\"{family}\",target=\"{name}\"", of.full_name(PREFIX));
            let said = samples.remove(&key);
            let expected = match value(target, number, round) {
                Value::Counter(total) => total as f64,
                Value::Gauge(reading) => reading,
            };
            assert_eq!(said, Some(expected), "{contender}: {key} in round {round}");
        }
    }
    assert!(samples.is_empty(), "{contender}: {:?} is of no series", samples.first_key_value());
}

/// Whether a family's series are counters.
pub fn is_counter(family: &Family) -> bool {
    family.kind == MetricKind::Counter
}

const SHARD: ShardId = ShardId(0);

enum Cell {
    Counter(CounterCell),
    Gauge(GaugeCell),
}

/// The series as a shard writes them: into cells.
pub struct Cells {
    publisher: Publisher,
    /// Whoever gave the cells out lives as long as they do.
    _registry: SeriesRegistry,
    targets: Vec<Vec<Cell>>,
}

impl Cells {
    /// Those of so many targets, and who reads them.
    ///
    /// # Panics
    /// When there is not the memory for that.
    pub fn new(targets: usize) -> (Self, Collector) {
        let series = targets * FAMILIES.len();
        let config = HubConfig { cells_per_shard: series, max_series: series, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(config).expect("there is memory for it");
        let target = |target: usize| {
            let [name, by] = labels(target);
            let values: &[&str] = &[&name, &by];
            let cell = |of| match is_counter(of) {
                true => Cell::Counter(registry.counter(SHARD, of, values).expect("there is room")),
                false => Cell::Gauge(registry.gauge(SHARD, of, values).expect("there is room")),
            };
            FAMILIES.into_iter().map(cell).collect()
        };
        let targets = (0..targets).map(target).collect();
        (Self { publisher: publishers.remove(0), _registry: registry, targets }, collector)
    }

    /// Sets every value to what the load says in `round`, and signs that the shard lives: gauges of one that is
    /// silent are not shown.
    pub fn set(&mut self, round: u64) {
        for (number, target) in self.targets.iter_mut().enumerate() {
            for (family, cell) in target.iter_mut().enumerate() {
                match (cell, value(number, family, round)) {
                    (Cell::Counter(cell), Value::Counter(total)) => cell.add(total - cell.get()),
                    (Cell::Gauge(cell), Value::Gauge(reading)) => cell.set(reading),
                    _ => unreachable!("a family's values are of its kind"),
                }
            }
        }
        self.publisher.beat(monotonic_ns());
    }
}
