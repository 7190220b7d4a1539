//! The two text formats: Prometheus text 0.0.4 and OpenMetrics 1.0.0.
//!
//! They differ in the head of a family, in the name of a counter's family, and in the last line. Samples are the same
//! to the octet, so that a series is the same whichever was negotiated.

use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::Unit;

use super::Detail;
use super::buckets::Buckets;
use super::encoder::{ClassicHistogram, Encoder, Head, Labels};
use super::number::{Number, le, write_number};
use crate::histogram::ExponentialHistogram;

/// Every counter's sample ends with it; in OpenMetrics its family's name does not.
const TOTAL: &str = "_total";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Prometheus,
    /// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
    OpenMetrics,
}

/// Writes one of the text formats.
pub(crate) struct TextEncoder {
    out: Vec<u8>,
    dialect: Dialect,
    detail: Detail,
    /// The name of the current family's samples.
    name: String,
    /// The labels of a histogram.
    labels: Vec<u8>,
    /// Where the current family begins, and its first sample.
    start: usize,
    opened: usize,
}

impl TextEncoder {
    /// Behind what `out` holds, which is as a rule nothing.
    pub(crate) fn new(dialect: Dialect, detail: Detail, out: Vec<u8>) -> Self {
        Self { out, dialect, detail, name: String::new(), labels: Vec::new(), start: 0, opened: 0 }
    }

    fn head(&mut self, head: Head<'_>, kind: &str) {
        let Head { name, unit, help, .. } = head;
        match self.dialect {
            Dialect::Prometheus => {
                let help = help.replace('\\', "\\\\").replace('\n', "\\n");
                self.write(&["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", kind, "\n"]);
            }
            Dialect::OpenMetrics => {
                self.write(&["# TYPE ", name, " ", kind, "\n"]);
                if let Some(unit) = unit_of(name, unit) {
                    self.write(&["# UNIT ", name, " ", unit, "\n"]);
                }
                let help = help.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
                self.write(&["# HELP ", name, " ", &help, "\n"]);
            }
        }
    }

    fn write(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
    }

    fn sample(&mut self, labels: Labels<'_>, value: Number) {
        self.out.extend_from_slice(self.name.as_bytes());
        match labels {
            Labels::Series { text: [before, last], .. } => {
                self.out.extend_from_slice(before);
                self.out.extend_from_slice(last);
            }
            Labels::Texts { names, values } => {
                write_labels(&mut self.out, names, values.iter().copied());
            }
        }
        write_number(&mut self.out, value);
        self.out.push(b'\n');
    }

    /// The lines of one histogram: its buckets, that of +Inf, sum and count.
    fn histogram<'a>(
        &mut self,
        labels: Labels<'_>,
        buckets: impl Iterator<Item = (&'a str, u64)>,
        count: u64,
        sum: f64,
    ) {
        self.labels.clear();
        match labels {
            Labels::Series { text, .. } => text.iter().for_each(|part| self.labels.extend_from_slice(part)),
            Labels::Texts { names, values } => {
                write_labels(&mut self.labels, names, values.iter().copied());
            }
        }
        let text = self.labels.as_slice();
        let pairs = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"} ")).unwrap_or_default();
        let comma: &[u8] = if pairs.is_empty() { b"" } else { b"," };
        let (out, name) = (&mut self.out, self.name.as_bytes());
        let mut line = |parts: &[&[u8]], number: Number| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            write_number(out, number);
            out.push(b'\n');
        };
        for (le, below) in buckets {
            line(&[name, b"_bucket{", pairs, comma, b"le=\"", le.as_bytes(), b"\"} "], below.into());
        }
        line(&[name, b"_bucket{", pairs, comma, b"le=\"+Inf\"} "], count.into());
        line(&[name, b"_sum", text], sum.into());
        line(&[name, b"_count", text], count.into());
    }
}

impl Encoder for TextEncoder {
    fn begin(&mut self, head: Head<'_>) {
        self.start = self.out.len();
        self.name = head.name.to_owned();
        let counted = match self.dialect {
            Dialect::OpenMetrics if head.kind == MetricKind::Counter => Some(head.name.strip_suffix(TOTAL)),
            _ => None,
        };
        // A counter without its suffix is none in OpenMetrics: rather than to change its name, and with it the series,
        // nothing is said of what it is.
        let (family, kind) = match counted {
            Some(Some(family)) => (family, head.kind.as_str()),
            Some(None) => (head.name, "unknown"),
            None => (head.name, head.kind.as_str()),
        };
        self.head(Head { name: family, ..head }, kind);
        self.opened = self.out.len();
    }

    fn number(&mut self, labels: Labels<'_>, value: Number) {
        self.sample(labels, value);
    }

    fn exponential(&mut self, labels: Labels<'_>, histogram: &ExponentialHistogram, buckets: &Buckets) {
        let shown = if self.detail == Detail::Compact { 0 } else { usize::MAX };
        let below = histogram.cumulative(buckets.iter().map(|bucket| bucket.cut));
        let lines = buckets.iter().map(|bucket| &*bucket.le).zip(below).take(shown);
        self.histogram(labels, lines, histogram.count(), histogram.sum());
    }

    fn classic(&mut self, labels: Labels<'_>, histogram: &ClassicHistogram) {
        let shown = if self.detail == Detail::Compact { 0 } else { histogram.buckets.len() };
        let texts: Vec<_> =
            histogram.buckets[..shown].iter().map(|(bound, below)| (le(*bound), *below)).collect();
        let lines = texts.iter().map(|(le, below)| (&**le, *below));
        self.histogram(labels, lines, histogram.count, histogram.sum);
    }

    fn end(&mut self) {
        if self.out.len() == self.opened {
            self.out.truncate(self.start);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.dialect == Dialect::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.out
    }
}

/// A unit may only be told where the name ends with it.
fn unit_of(name: &str, unit: Unit) -> Option<&'static str> {
    let text = match unit {
        Unit::None => return None,
        Unit::Seconds => "seconds",
        Unit::Milliseconds => "milliseconds",
        Unit::Ratio => "ratio",
        Unit::Percent => "percent",
        Unit::Bytes => "bytes",
        Unit::Samples => "samples",
    };
    name.strip_suffix(text)?.ends_with('_').then_some(text)
}

/// What stands between a sample's name and its value: `{name="value",...} `, or a space where there are no labels.
/// Returns where the last label's part begins, counted from what was written before.
pub(crate) fn write_labels<'a>(
    out: &mut Vec<u8>,
    names: &[&str],
    values: impl IntoIterator<Item = &'a str>,
) -> usize {
    let start = out.len();
    let mut last = 0;
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        last = out.len() - start;
        out.push(if index == 0 { b'{' } else { b',' });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape_into(out, value);
        out.push(b'"');
    }
    out.extend_from_slice(if names.is_empty() { b" " } else { b"} " });
    last
}

fn escape_into(out: &mut Vec<u8>, value: &str) {
    // As a rule nothing is to be escaped. None of these is part of another character.
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|octet| matches!(octet, b'\\' | b'"' | b'\n')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\n' => b"\\n",
            b'"' => b"\\\"",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{self, Family};

    use super::*;

    const NO_LABELS: Labels<'static> = Labels::Texts { names: &[], values: &[] };

    fn head(family: &'static Family) -> Head<'static> {
        Head { name: family.name, kind: family.kind, unit: family.unit, help: family.help }
    }

    fn written(dialect: Dialect, write: impl FnOnce(&mut TextEncoder)) -> String {
        let mut encoder = TextEncoder::new(dialect, Detail::Classic, Vec::new());
        write(&mut encoder);
        String::from_utf8(encoder.finish()).unwrap()
    }

    #[test]
    fn quotes_backslashes_and_newlines_are_escaped_in_label_values() {
        let mut text = Vec::new();
        write_labels(&mut text, &["target", "kind"], ["a\"b\\c\nd", "é {}"]);
        assert_eq!(String::from_utf8(text).unwrap(), r#"{target="a\"b\\c\nd",kind="é {}"} "#);
    }

    #[test]
    fn a_family_without_samples_is_not_named() {
        let text = written(Dialect::Prometheus, |out| {
            out.begin(head(&catalogue::MESH_TARGETS));
            out.end();
            out.begin(head(&catalogue::MESH_PEERS));
            out.number(NO_LABELS, 2u64.into());
            out.end();
        });
        let expected = "# HELP mesh_peers Targets up now.\n# TYPE mesh_peers gauge\nmesh_peers 2\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn openmetrics_names_a_counters_family_without_total_and_tells_units_where_the_name_does() {
        static ODD: Family = Family::new("odd", MetricKind::Counter, Unit::Seconds, &[], "Says \"odd\".");
        let text = written(Dialect::OpenMetrics, |out| {
            for family in [&catalogue::PROCESS_CPU, &ODD, &catalogue::PROBE_RTT_MS] {
                out.begin(head(family));
                out.number(NO_LABELS, 0.5.into());
                out.end();
            }
        });
        let expected = "\
# TYPE process_cpu_seconds counter
# UNIT process_cpu_seconds seconds
# HELP process_cpu_seconds User and system CPU time of this process.
process_cpu_seconds_total 0.5
# TYPE odd unknown
# HELP odd Says \\\"odd\\\".
odd 0.5
# TYPE probe_rtt_ms gauge
# HELP probe_rtt_ms Round-trip time of the newest answered probe in milliseconds; absent while the target is down.
probe_rtt_ms 0.5
# EOF
";
        assert_eq!(text, expected);
    }

    #[test]
    fn compact_histograms_keep_sum_and_count_alone() {
        let mut encoder = TextEncoder::new(Dialect::Prometheus, Detail::Compact, Vec::new());
        let histogram = ClassicHistogram { buckets: vec![(1.0, 2)], count: 3, sum: 4.5 };
        encoder.begin(Head { name: "h", kind: MetricKind::Histogram, unit: Unit::None, help: "H." });
        encoder.classic(Labels::Texts { names: &["a"], values: &["b"] }, &histogram);
        encoder.end();
        let expected = "# HELP h H.\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"+Inf\"} 3\nh_sum{a=\"b\"} 4.5\nh_count{a=\"b\"} 3\n";
        assert_eq!(String::from_utf8(encoder.finish()).unwrap(), expected);
    }
}
