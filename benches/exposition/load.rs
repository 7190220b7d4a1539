//! The series that every contender renders, and what each of them says in a round.

use std::collections::BTreeMap;

use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::{self, Family};

/// Before each name.
pub(crate) const PREFIX: &str = "relay";

/// What a target has a series of, all with the labels `target` and `family`: as many counters as gauges.
pub(crate) static FAMILIES: [&Family; 10] = [
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
pub(crate) enum Value {
    Counter(u64),
    Gauge(f64),
}

/// The target's values for `family` and `target`.
pub(crate) fn labels(target: usize) -> [String; 2] {
    let family = if target.is_multiple_of(4) { "ipv6" } else { "ipv4" };
    [format!("relay-{target:06}.example.net"), family.to_owned()]
}

/// What the series of `target` in [`FAMILIES`]`[family]` says in `round`: not what it said in the round before.
///
/// Counts of what was probed for minutes or weeks, as many digits as those have; times that were nanoseconds
/// once and such as were averaged, a share of the window, a size.
pub(crate) fn value(target: usize, family: usize, round: u64) -> Value {
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
    let text = std::str::from_utf8(body).unwrap();
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
        let before = samples.insert(format!("{name} {}", labels.join(",")), value.parse().unwrap());
        assert_eq!(before, None, "{line:?} comes twice");
    }
    samples
}

/// That a body says of `targets` what the load said in `round`, that and no more.
pub(crate) fn check(contender: &str, body: &[u8], targets: usize, round: u64) {
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
pub(crate) fn is_counter(family: &Family) -> bool {
    family.kind == MetricKind::Counter
}
