//! What the `metrics` facade recorded, read from the text in which its exporter renders it, so that it can be written
//! in any format.
//!
//! The exporter orders families and series as its hash tables do; here they come by name and by labels.

use std::collections::BTreeMap;

use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::Unit;

use super::encoder::{ClassicHistogram, Encoder, Head, Labels};
use super::filter::Filter;
use super::names::{TakenNames, is_label_name};
use super::number::Number;

/// Names and values, in the order in which they are written.
type Pairs = Vec<(String, String)>;

/// Families by name, and how many could not be taken in.
#[derive(Debug, Default)]
pub(crate) struct Facade {
    families: BTreeMap<String, FacadeFamily>,
    /// Families whose name is taken, came before, or that cannot be read.
    pub(crate) left_out: usize,
    /// Series whose labels would spoil the scrape or are another's, and those there was no room for.
    pub(crate) refused_series: usize,
}

#[derive(Debug, PartialEq)]
struct FacadeFamily {
    kind: MetricKind,
    help: String,
    series: BTreeMap<Pairs, Slot>,
    /// Series whose labels would spoil the scrape.
    unsound: usize,
}

/// What has certain labels once they are written out.
#[derive(Debug, PartialEq)]
struct Slot {
    value: Value,
    /// How many series that is: names that differ for an application may be the same when written out. Which of
    /// several comes last is the exporter's hash tables' whim, and none may be shown as now this one, now that.
    series: usize,
}

#[derive(Debug, PartialEq)]
enum Value {
    Number(Number),
    Histogram(ClassicHistogram),
}

impl Facade {
    /// Reads what the exporter rendered, without the families whose names are in `taken`; the others take theirs:
    /// first those that are `ours`, then an application's by name and kind, whatever the exporter's order, with as many
    /// series as there is `room` for.
    pub(crate) fn read(
        text: &str,
        taken: &mut TakenNames,
        ours: impl Fn(&str, MetricKind) -> bool,
        mut room: usize,
    ) -> Self {
        let mut facade = Self::default();
        let blocks: Vec<_> = text.split("\n\n").filter(|block| !block.trim().is_empty()).collect();
        let mut families: Vec<_> = blocks.iter().filter_map(|block| FacadeFamily::read(block)).collect();
        facade.left_out = blocks.len() - families.len();
        families.sort_by_cached_key(|(name, FacadeFamily { kind, .. })| {
            (!ours(name, *kind), name.clone(), kind.as_str())
        });
        for (name, mut family) in families {
            if !taken.take(&name, family.kind) {
                facade.left_out += 1;
                continue;
            }
            facade.refused_series += family.settle();
            if !ours(&name, family.kind) {
                facade.refused_series += family.keep(room);
                room -= family.series.len();
            }
            facade.families.insert(name, family);
        }
        facade
    }

    /// Writes all of it that is wanted.
    pub(crate) fn write<E: Encoder>(&self, out: &mut E, filter: &Filter) {
        for (name, family) in &self.families {
            let head = Head { name, kind: family.kind, unit: Unit::None, help: &family.help };
            if filter.wants_family(&head) {
                out.begin(head);
                family.series.iter().for_each(|(pairs, slot)| write(out, pairs, &slot.value, filter));
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
        let mut family = Self { kind, help, series: BTreeMap::new(), unsound: 0 };
        for line in block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            family.take(name, line)?;
        }
        Some((name.to_owned(), family))
    }

    fn take(&mut self, name: &str, line: &str) -> Option<()> {
        let (sample, mut pairs, value) = read_sample(line)?;
        let part = sample.strip_prefix(name)?;
        let is_histogram = self.kind == MetricKind::Histogram;
        let bound = pairs.iter().rposition(|(name, _)| part == "_bucket" && name == "le");
        let le = bound.filter(|_| is_histogram).map(|at| pairs.remove(at).1);
        // Each series has one of these lines.
        let is_whole = if is_histogram { part == "_count" } else { part.is_empty() };
        if !are_sound(&pairs, self.kind) {
            self.unsound += usize::from(is_whole);
            return Some(());
        }
        let empty = match self.kind {
            MetricKind::Histogram => Value::Histogram(ClassicHistogram::default()),
            MetricKind::Counter | MetricKind::Gauge => Value::Number(read_number(value)?),
        };
        let slot = self.series.entry(pairs).or_insert(Slot { value: empty, series: 0 });
        slot.series += usize::from(is_whole);
        let Value::Histogram(histogram) = &mut slot.value else { return part.is_empty().then_some(()) };
        match (part, le.as_deref()) {
            ("_bucket", Some("+Inf")) => {}
            ("_bucket", Some(bound)) => histogram.buckets.push((bound.parse().ok()?, value.parse().ok()?)),
            ("_sum", None) => histogram.sum = value.parse().ok()?,
            ("_count", None) => histogram.count = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// Keeps what is one series, and returns how many others there were.
    fn settle(&mut self) -> usize {
        let of_several: usize =
            self.series.values().map(|slot| slot.series).filter(|series| *series != 1).sum();
        self.series.retain(|_, slot| slot.series == 1);
        of_several + self.unsound
    }

    /// Keeps so many series, the first by their labels, and returns how many others there were.
    fn keep(&mut self, most: usize) -> usize {
        let others = self.series.len().saturating_sub(most);
        if let Some(first) = self.series.keys().nth(most).cloned() {
            self.series.split_off(&first);
        }
        others
    }
}

/// Whether labels do not spoil the scrape: each name is one that an application may use, and comes once.
fn are_sound(pairs: &Pairs, kind: MetricKind) -> bool {
    let is_reserved = |name: &str| kind == MetricKind::Histogram && name == "le";
    let comes_again = |at: usize| pairs[..at].iter().any(|(before, _)| *before == pairs[at].0);
    (0..pairs.len()).all(|at| {
        let name = &pairs[at].0;
        is_label_name(name) && !is_reserved(name) && !comes_again(at)
    })
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
        Facade::read(text, &mut TakenNames::of(std::iter::empty(), ""), |_, _| false, 100)
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
    fn series_whose_labels_would_spoil_the_scrape_are_left_out_alone_and_counted() {
        let facade = read(
            "# TYPE x counter\nx{a=\"1\",a=\"2\"} 1\nx{__name__=\"y\"} 2\nx{a=\"1\"} 3\n\n\
             # TYPE h histogram\nh_bucket{le=\"x\",le=\"0.5\"} 1\nh_bucket{le=\"x\",le=\"+Inf\"} 1\nh_sum{le=\"x\"} 1\n\
             h_count{le=\"x\"} 1\n\n",
        );
        assert_eq!((facade.refused_series, facade.left_out), (3, 0));
        assert!(written(&facade, &Filter::default()).ends_with("x{a=\"1\"} 3\n# EOF\n"));
    }

    #[test]
    fn of_series_that_are_the_same_once_written_none_is_shown_for_they_are_not_one() {
        let facade = read(
            "# TYPE x counter\nx{a=\"1\"} 500\nx{a=\"1\"} 7\nx{a=\"1\"} 8\nx{a=\"2\"} 3\n\n\
             # TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n\
             h_bucket{le=\"0.5\"} 2\nh_bucket{le=\"+Inf\"} 2\nh_sum 2\nh_count 2\n\n",
        );
        assert_eq!(facade.refused_series, 5);
        let text = written(&facade, &Filter::default());
        assert!(text.ends_with("x{a=\"2\"} 3\n# EOF\n") && !text.contains("a=\"1\"") && !text.contains("h_"));
    }

    #[test]
    fn an_applications_series_take_the_room_there_is_in_order_and_ours_need_none() {
        let text = "# TYPE b counter\nb{n=\"2\"} 2\nb{n=\"1\"} 1\n\n# TYPE c gauge\nc 1\n\n# TYPE ours gauge\nours 4\n\n";
        let mut taken = TakenNames::of(std::iter::empty(), "");
        let facade = Facade::read(text, &mut taken, |name, _| name == "ours", 1);
        assert_eq!(facade.refused_series, 2);
        let samples: Vec<_> = facade.families.values().flat_map(|family| family.series.keys()).collect();
        assert_eq!(samples, [&vec![("n".to_owned(), "1".to_owned())], &vec![]]);
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
