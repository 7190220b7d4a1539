//! What stands before the value of a series: its name and its labels.

use std::cmp::Ordering;

use relayscope_bridge::catalogue::Family;
use relayscope_bridge::{SeriesRef, Values};

use super::text::escape_into;

/// The name of a family and its labels' names, to be filled with one series' values after the other.
pub(super) struct Template {
    /// What stands before each value, and after the last.
    parts: Box<[Box<str>]>,
}

impl Template {
    /// `name{label="`, `",other="`, `"} `.
    pub(super) fn new(name: &str, labels: &[&str]) -> Self {
        let [first, rest @ ..] = labels else { return Self { parts: [format!("{name} ").into()].into() } };
        let first = format!("{name}{{{first}=\"");
        let rest = rest.iter().map(|label| format!("\",{label}=\""));
        let all = std::iter::once(first).chain(rest).chain(["\"} ".to_owned()]);
        Self { parts: all.map(String::into_boxed_str).collect() }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, values: Values<'_>) {
        let Some((last, parts)) = self.parts.split_last() else { return };
        for (part, value) in parts.iter().zip(values.iter()) {
            out.extend_from_slice(part.as_bytes());
            escape_into(out, value);
        }
        out.extend_from_slice(last.as_bytes());
    }
}

/// Whether shards write the same series: one line, then.
pub(super) fn is_same(a: &SeriesRef<'_>, b: &SeriesRef<'_>) -> bool {
    has_labels_of(a.family, b.family) && a.values == b.values
}

/// Whether series of both have the same labels.
pub(super) fn has_labels_of(a: &Family, b: &Family) -> bool {
    std::ptr::eq(a.labels, b.labels) || a.labels == b.labels
}

/// The order of lines.
pub(super) fn compare(a: &SeriesRef<'_>, b: &SeriesRef<'_>) -> Ordering {
    if has_labels_of(a.family, b.family) {
        a.values.iter().cmp(b.values.iter())
    } else {
        pairs(a).cmp(pairs(b))
    }
}

fn pairs<'a>(series: &SeriesRef<'a>) -> impl Iterator<Item = (&'static str, &'a str)> {
    series.family.labels.iter().copied().zip(series.values.iter())
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_SENT, PROBE_UP, SHARD_STALLS};
    use relayscope_bridge::{Hub, HubConfig, ShardId, hub};

    use super::*;

    #[test]
    fn a_template_is_filled_with_escaped_values() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        registry.counter(ShardId(0), &PROBE_SENT, &["a\"\\\nb", "ipv4"]).unwrap();
        registry.gauge(ShardId(0), &PROBE_UP, &["é"]).unwrap();
        let filled = collector.directory().read(|view| {
            let fill = |series: SeriesRef<'_>| {
                let mut out = Vec::new();
                Template::new(series.family.name, series.family.labels).write(&mut out, series.values);
                String::from_utf8(out).unwrap()
            };
            view.series().map(fill).collect::<Vec<_>>()
        });
        let expected =
            ["probe_sent_total{target=\"a\\\"\\\\\\nb\",family=\"ipv4\"} ", "probe_up{target=\"é\"} "];
        assert_eq!(filled, expected);
        assert_eq!(Template::new(SHARD_STALLS.name, &[]).parts.len(), 1);
    }
}
