//! What the `metrics` facade recorded, read from the text in which its exporter renders it, so that it can be written
//! in any format.
//!
//! The exporter orders families and series as its hash tables do; here they come by name and by labels.

use std::collections::BTreeMap;

use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::Unit;

use super::encoder::{ClassicHistogram, Encoder, Head, Labels};
use super::filter::Filter;
use super::names::TakenNames;
use super::number::Number;

/// Names and values, in the order in which they are written.
type Pairs = Vec<(String, String)>;

/// Families by name, and how many could not be taken in.
#[derive(Debug, Default)]
pub(crate) struct Facade {
    families: BTreeMap<String, FacadeFamily>,
    /// Families whose name is taken, came before, or that cannot be read.
    pub(crate) left_out: usize,
}

#[derive(Debug, PartialEq)]
struct FacadeFamily {
    kind: MetricKind,
    help: String,
    series: BTreeMap<Pairs, Value>,
}

#[derive(Debug, PartialEq)]
enum Value {
    Number(Number),
    Histogram(ClassicHistogram),
}

impl Facade {
    /// Reads what the exporter rendered, without the families whose names are in `taken`; the others take theirs:
    /// first those that are `ours`, then an application's by name and kind, whatever the exporter's order.
    pub(crate) fn read(text: &str, taken: &mut TakenNames, ours: impl Fn(&str, MetricKind) -> bool) -> Self {
        let mut facade = Self::default();
        let blocks: Vec<_> = text.split("\n\n").filter(|block| !block.trim().is_empty()).collect();
        let mut families: Vec<_> = blocks.iter().filter_map(|block| FacadeFamily::read(block)).collect();
        facade.left_out = blocks.len() - families.len();
        families.sort_by_cached_key(|(name, FacadeFamily { kind, .. })| {
            (!ours(name, *kind), name.clone(), kind.as_str())
        });
        for (name, family) in families {
            if taken.take(&name, family.kind) {
                facade.families.insert(name, family);
            } else {
                facade.left_out += 1;
            }
        }
        facade
    }

    /// Writes all of it that is wanted.
    pub(crate) fn write<E: Encoder>(&self, out: &mut E, filter: &Filter) {
        for (name, family) in &self.families {
            let head = Head { name, kind: family.kind, unit: Unit::None, help: &family.help };
            if filter.wants_family(&head) {
                out.begin(head);
                family.series.iter().for_each(|(pairs, value)| write(out, pairs, value, filter));
                out.end();
            }
        }
    }
}

fn write<E: Encoder>(out: &mut E, pairs: &Pairs, value: &Value, filter: &Filter) {
    let (names, values): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).unzip();
    if !filter.wants_labels(names.iter().copied().zip(values.iter().copied())) {
        return;
    }
    let labels = Labels::Texts { names: &names, values: &values };
    match value {
        Value::Number(number) => out.number(labels, *number),
        Value::Histogram(histogram) => out.classic(labels, histogram),
    }
}

impl FacadeFamily {
    /// A family and its name. The exporter has no summaries here, as all histograms have bounds.
    fn read(block: &str) -> Option<(String, Self)> {
        let (name, kind) = block.lines().find_map(|line| line.strip_prefix("# TYPE "))?.split_once(' ')?;
        let kind = match kind {
            "counter" => MetricKind::Counter,
            "gauge" => MetricKind::Gauge,
            "histogram" => MetricKind::Histogram,
            _ => return None,
        };
        let help = block.lines().find_map(|line| line.strip_prefix("# HELP ")?.strip_prefix(name));
        let help = unescape(help.unwrap_or_default().trim_start());
        let mut family = Self { kind, help, series: BTreeMap::new() };
        for line in block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            family.take(name, line)?;
        }
        Some((name.to_owned(), family))
    }

    fn take(&mut self, name: &str, line: &str) -> Option<()> {
        let (sample, mut pairs, value) = read_sample(line)?;
        let part = sample.strip_prefix(name)?;
        if self.kind != MetricKind::Histogram {
            self.series.insert(pairs, Value::Number(read_number(value)?));
            return part.is_empty().then_some(());
        }
        let le = pairs.iter().position(|(name, _)| name == "le").map(|at| pairs.remove(at).1);
        let series =
            self.series.entry(pairs).or_insert_with(|| Value::Histogram(ClassicHistogram::default()));
        let Value::Histogram(histogram) = series else { return None };
        match (part, le.as_deref()) {
            ("_bucket", Some("+Inf")) => {}
            ("_bucket", Some(bound)) => histogram.buckets.push((bound.parse().ok()?, value.parse().ok()?)),
            ("_sum", None) => histogram.sum = value.parse().ok()?,
            ("_count", None) => histogram.count = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

fn read_number(text: &str) -> Option<Number> {
    text.parse().map(Number::Integer).or_else(|_| text.parse().map(Number::Float)).ok()
}

/// The name, the labels and the value of a line.
fn read_sample(line: &str) -> Option<(&str, Pairs, &str)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut pairs = Pairs::new();
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
            let end = closing_quote(quoted)?;
            pairs.push((label.to_owned(), unescape(&quoted[..end])));
            rest = &quoted[end + 1..];
        }
        rest = &rest[1..];
    }
    Some((name, pairs, rest.trim()))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|octet| {
        let closes = octet == b'"' && !escaped;
        escaped = octet == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (other, false) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Detail;
    use super::super::text::{Dialect, TextEncoder};
    use super::*;

    fn read(text: &str) -> Facade {
        Facade::read(text, &mut TakenNames::of(std::iter::empty(), ""), |_, _| false)
    }

    fn written(facade: &Facade, filter: &Filter) -> String {
        let mut out = TextEncoder::new(Dialect::OpenMetrics, Detail::Classic, Vec::new());
        facade.write(&mut out, filter);
        String::from_utf8(out.finish()).unwrap()
    }

    const TEXT: &str = "\
# HELP rooms Rooms \\\\ opened.
# TYPE rooms counter
rooms{kind=\"b\\\"\\\\\\n,}\"} 18446744073709551615
rooms{kind=\"a\"} 1

# TYPE latency histogram
latency_bucket{path=\"/\",le=\"0.5\"} 1
latency_bucket{path=\"/\",le=\"1\"} 2
latency_bucket{path=\"/\",le=\"+Inf\"} 3
latency_sum{path=\"/\"} 4.5
latency_count{path=\"/\"} 3

# TYPE load gauge
load 0.25

";

    #[test]
    fn what_the_exporter_renders_can_be_written_in_another_format() {
        let expected = "\
# TYPE latency histogram
# HELP latency \n\
latency_bucket{path=\"/\",le=\"0.5\"} 1
latency_bucket{path=\"/\",le=\"1.0\"} 2
latency_bucket{path=\"/\",le=\"+Inf\"} 3
latency_sum{path=\"/\"} 4.5
latency_count{path=\"/\"} 3
# TYPE load gauge
# HELP load \n\
load 0.25
# TYPE rooms unknown
# HELP rooms Rooms \\\\ opened.
rooms{kind=\"a\"} 1
rooms{kind=\"b\\\"\\\\\\n,}\"} 18446744073709551615
# EOF
";
        assert_eq!(written(&read(TEXT), &Filter::default()), expected);
    }

    #[test]
    fn families_that_are_taken_come_twice_or_make_no_sense_are_left_out_and_counted() {
        let text = "# TYPE a counter\na 1\n\n# TYPE a gauge\na 2\n\n# TYPE b summary\nb{quantile=\"0.5\"} 1\n\n\
                    # TYPE c gauge\nc{x=\"unclosed} 1\n\n# TYPE d gauge\ndd 1\n\n# TYPE e gauge\ne x\n\n";
        let facade = read(text);
        assert_eq!(facade.left_out, 5);
        assert_eq!(facade.families.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_filter_leaves_only_what_is_named() {
        let filter = Filter { names: ["load".to_owned()].into(), ..Filter::default() };
        assert!(written(&read(TEXT), &filter).ends_with("load 0.25\n# EOF\n"));
        assert!(!written(&read(TEXT), &filter).contains("rooms"));
        let filter = Filter { targets: ["b".to_owned()].into(), ..Filter::default() };
        assert_eq!(written(&read(TEXT), &filter), "# EOF\n", "none of them has a target");
    }
}
