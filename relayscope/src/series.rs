//! Series by name: whose a sample of a segment is, and how samples and series are written.

use std::collections::HashMap;
use std::fmt::Write;

use relayscope_bridge::catalogue::Family;
use relayscope_bridge::{
    MetricId, MetricKind, MetricSample, MetricValue, SeriesDirectory, SeriesRef, ShardId,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::moment::rfc3339;

/// A series: its family and one value for each of the family's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) family: &'static Family,
    pub(crate) values: Vec<String>,
}

impl Series {
    pub(crate) fn of(series: &SeriesRef<'_>) -> Self {
        Self { family: series.family, values: series.values.to_vec() }
    }

    pub(crate) fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.family.labels.iter().copied().zip(self.values.iter().map(String::as_str))
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels().find(|(label, _)| *label == name).map(|(_, value)| value)
    }

    /// As in a scrape: `relay_probe_sent_total{target="b",family="ipv4"}`.
    pub(crate) fn text(&self, prefix: &str) -> String {
        let mut text = self.family.full_name(prefix);
        for (index, (label, value)) in self.labels().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            escape(value, &mut text);
            text.push('"');
        }
        if !self.values.is_empty() {
            text.push('}');
        }
        text
    }
}

/// As in a scrape; and no control character of a hostile segment reaches the terminal.
fn escape(value: &str, text: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            control if control.is_control() => text.extend(control.escape_default()),
            other => text.push(other),
        }
    }
}

/// What ids mean, and meant: a sample is told by its position whose it is.
///
/// Read it between marking a ring and draining it to the mark: the series of every sample below the mark
/// are known then. A series that is retired keeps its name here for its samples still in the ring, until
/// two others have had its id.
#[derive(Default)]
pub(crate) struct SeriesNames {
    generation: Option<u64>,
    by_id: HashMap<MetricId, Held>,
}

struct Held {
    newest: Owner,
    before: Option<Owner>,
}

struct Owner {
    incarnation: u64,
    shard: ShardId,
    /// Samples at earlier positions were another series'.
    since: u64,
    series: Series,
}

impl SeriesNames {
    /// O(1) while the directory stands still, O(series) after it changed.
    pub(crate) fn follow(&mut self, directory: &SeriesDirectory) {
        directory.read(|view| {
            if self.generation == Some(view.generation()) {
                return;
            }
            for series in view.series() {
                let held = self.by_id.get(&series.id);
                if held.is_some_and(|held| held.newest.incarnation == series.incarnation) {
                    continue;
                }
                let newest = Owner {
                    incarnation: series.incarnation,
                    shard: series.shard,
                    since: series.since,
                    series: Series::of(&series),
                };
                let before = self.by_id.remove(&series.id).map(|held| held.newest);
                self.by_id.insert(series.id, Held { newest, before });
            }
            self.generation = Some(view.generation());
        });
    }

    /// The series of the sample at `position` of `shard`'s ring; `None` when it is not known.
    pub(crate) fn of(&self, shard: ShardId, position: u64, id: MetricId) -> Option<&Series> {
        let held = self.by_id.get(&id)?;
        let owners = std::iter::once(&held.newest).chain(&held.before);
        let mut owners = owners.filter(|owner| owner.shard == shard && position >= owner.since);
        owners.next().map(|owner| &owner.series)
    }
}

/// A sample as it is printed.
pub(crate) struct NamedSample<'a> {
    /// None for a sample of no known series.
    pub(crate) series: Option<&'a Series>,
    pub(crate) shard: ShardId,
    /// Samples ever recorded by the shard before this one.
    pub(crate) position: u64,
    pub(crate) unix_ns: u64,
    pub(crate) sample: MetricSample,
}

impl<'a> NamedSample<'a> {
    /// `2026-11-20T15:47:50.123456789Z  0  17  relay_probe_rtt_seconds{target="b",family="ipv4"}  0.000034283`:
    /// time, shard, position, series and value.
    pub(crate) fn text(&self, prefix: &str) -> String {
        let time = rfc3339(self.unix_ns);
        let id = self.sample.metric_id.0;
        let series = self.series.map_or_else(|| format!("id {id} of no known series"), |s| s.text(prefix));
        let mut text = format!("{time}  {}  {}  {series}  ", self.shard.0, self.position);
        match self.sample.value {
            MetricValue::Counter(total) => write!(text, "{total}"),
            MetricValue::Gauge(value) | MetricValue::Histogram(value) => write!(text, "{value}"),
        }
        // Writing to a string does not fail.
        .unwrap_or_default();
        text
    }

    /// The sample as a JSON object; see [`SampleObject`].
    pub(crate) fn object(&self, prefix: &str) -> SampleObject<'a> {
        let (kind, value) = match self.sample.value {
            MetricValue::Counter(total) => (MetricKind::Counter, Number::Count(total)),
            MetricValue::Gauge(value) => (MetricKind::Gauge, Number::Real(value)),
            MetricValue::Histogram(value) => (MetricKind::Histogram, Number::Real(value)),
        };
        SampleObject {
            time: rfc3339(self.unix_ns),
            shard: self.shard.0,
            position: self.position,
            id: self.sample.metric_id.0,
            metric: self.series.map(|series| series.family.full_name(prefix)),
            kind: kind.as_str(),
            labels: self.series.map(Labels),
            value,
        }
    }
}

/// `{"time":"2026-11-20T15:47:50.123456789Z","shard":0,"position":17,"id":4,"metric":"relay_probe_rtt_seconds",
/// "kind":"histogram","labels":{"target":"b","family":"ipv4"},"value":0.000034283}`. `metric` and `labels` are null for a
/// sample of no known series; `value` is null where it is no finite number.
#[derive(Serialize)]
pub(crate) struct SampleObject<'a> {
    time: String,
    shard: u16,
    position: u64,
    id: u32,
    metric: Option<String>,
    kind: &'static str,
    labels: Option<Labels<'a>>,
    value: Number,
}

/// A value in JSON, which has no word for NaN and the infinities: null.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Count(u64),
    Real(f64),
}

/// A series' labels as a JSON object.
pub(crate) struct Labels<'a>(pub(crate) &'a Series);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.values.len()))?;
        for (label, value) in self.0.labels() {
            map.serialize_entry(label, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_SEND_ERRORS};
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn rtt(id: MetricId) -> MetricSample {
        MetricSample { metric_id: id, timestamp_ns: 1, value: MetricValue::Histogram(0.5) }
    }

    #[test]
    fn an_id_that_was_reused_names_each_sample_by_its_position() {
        let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let mut names = SeriesNames::default();
        let id = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["old", "ipv4"]).unwrap();
        names.follow(collector.directory());
        publishers[0].record(rtt(id));
        let ticket = registry.retire(SHARD, &[id]).unwrap();
        names.follow(collector.directory());
        let name = |names: &SeriesNames, position| {
            names.of(SHARD, position, id).map(|series| series.values[0].clone())
        };
        assert_eq!(name(&names, 0).as_deref(), Some("old"), "retired, and its sample still in the ring");

        publishers[0].acknowledge(ticket);
        assert_eq!(registry.stream(SHARD, &PROBE_RTT_SECONDS, &["new", "ipv4"]).unwrap(), id);
        names.follow(collector.directory());
        assert_eq!(name(&names, 0).as_deref(), Some("old"));
        assert_eq!(name(&names, 1).as_deref(), Some("new"));
        assert_eq!(names.of(ShardId(1), 1, id), None, "an id is of one shard");

        let mut late = SeriesNames::default();
        late.follow(collector.directory());
        assert_eq!(name(&late, 0), None, "who came late knows no name, and tells no wrong one");
    }

    #[test]
    fn labels_are_written_as_in_a_scrape_and_nothing_reaches_the_terminal_raw() {
        let values = vec!["a\"\\\x1b[2J".to_owned(), "ipv4".to_owned(), "other".to_owned()];
        let series = Series { family: &PROBE_SEND_ERRORS, values };
        let expected =
            r#"relay_probe_send_errors_total{target="a\"\\\u{1b}[2J",family="ipv4",reason="other"}"#;
        assert_eq!(series.text("relay"), expected);
    }

    #[test]
    fn a_sample_is_a_line_of_text_or_a_json_object() {
        let series = Series { family: &PROBE_RTT_SECONDS, values: vec!["b".to_owned(), "ipv4".to_owned()] };
        let named = |series, value| NamedSample {
            series,
            shard: ShardId(2),
            position: 17,
            unix_ns: 1_000_000_001,
            sample: MetricSample { metric_id: MetricId(4), timestamp_ns: 0, value },
        };
        let known = named(Some(&series), MetricValue::Histogram(0.000_25));
        assert_eq!(
            known.text("relay"),
            "1970-01-01T00:00:01.000000001Z  2  17  relay_probe_rtt_seconds{target=\"b\",family=\"ipv4\"}  0.00025"
        );
        assert_eq!(
            serde_json::to_string(&known.object("relay")).unwrap(),
            concat!(
                r#"{"time":"1970-01-01T00:00:01.000000001Z","shard":2,"position":17,"id":4,"#,
                r#""metric":"relay_probe_rtt_seconds","kind":"histogram","labels":{"target":"b","family":"ipv4"},"value":0.00025}"#
            )
        );
        let unknown = named(None, MetricValue::Gauge(f64::NAN));
        assert_eq!(unknown.text(""), "1970-01-01T00:00:01.000000001Z  2  17  id 4 of no known series  NaN");
        assert_eq!(
            serde_json::to_string(&unknown.object("relay")).unwrap(),
            concat!(
                r#"{"time":"1970-01-01T00:00:01.000000001Z","shard":2,"position":17,"id":4,"#,
                r#""metric":null,"kind":"gauge","labels":null,"value":null}"#
            )
        );
    }
}
