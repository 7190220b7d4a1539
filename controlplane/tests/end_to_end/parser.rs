//! A parser of the text format that forgives nothing: what it accepts, any scraper does.

use std::collections::{BTreeMap, HashSet};

pub(crate) type Labels = Vec<(String, String)>;

/// Name as written, labels in order, value.
pub(crate) type Sample = (String, Labels, f64);

/// Families by name. Panics, naming the line, at anything doubtful: a family that comes twice or has
/// no HELP, TYPE or sample, a series that comes twice, a value that does not parse, a histogram that
/// does not add up.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Vec<Sample>> {
    assert!(text.ends_with('\n'), "the last line does not end");
    let mut families = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let name = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("expected HELP: {line}"));
        let (name, help) = name.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
        assert!(!help.is_empty(), "no help: {line}");
        let line = lines.next().unwrap_or_else(|| panic!("no TYPE for {name}"));
        let kind = line.strip_prefix(&format!("# TYPE {name} ")).unwrap_or_else(|| panic!("{line}"));
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = parse_sample(line);
            assert!(belongs(&sample.0, name, kind), "{line} does not belong to {name}");
            assert!(seen.insert((sample.0.clone(), sample.1.clone())), "twice: {line}");
            samples.push(sample);
        }
        assert!(!samples.is_empty(), "{name} has a header and no sample");
        if kind == "histogram" {
            check_histogram(name, &samples);
        }
        assert!(families.insert(name.to_owned(), samples).is_none(), "{name} comes twice");
    }
    families
}

/// The value of the one series with these labels.
pub(crate) fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let families = parse(text);
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    let samples = families.get(name).or_else(|| families.get(base?))?;
    let is_meant = |given: &Labels| {
        given.len() == labels.len()
            && labels.iter().all(|(k, v)| given.contains(&((*k).to_owned(), (*v).to_owned())))
    };
    samples.iter().find(|(n, l, _)| n == name && is_meant(l)).map(|sample| sample.2)
}

fn belongs(sample: &str, family: &str, kind: &str) -> bool {
    match kind {
        "counter" | "gauge" => sample == family,
        "histogram" => ["_bucket", "_sum", "_count"].iter().any(|s| sample == format!("{family}{s}")),
        other => panic!("type {other} is not one we write"),
    }
}

fn parse_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "bad name: {line}");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("bad label: {line}"));
            let (value, after) = unescape(after, line);
            labels.push((key.to_owned(), value));
            rest = after;
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("expected comma: {line}"));
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("expected one space: {line}"));
    let number = value.parse().unwrap_or_else(|_| panic!("bad value: {line}"));
    (name.to_owned(), labels, number)
}

fn unescape<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                other => panic!("bad escape {other:?}: {line}"),
            },
            c => value.push(c),
        }
    }
    panic!("label does not end: {line}")
}

fn check_histogram(name: &str, samples: &[Sample]) {
    let mut by_series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    for (sample, labels, value) in samples {
        let (bounds, rest): (Labels, Labels) = labels.iter().cloned().partition(|(key, _)| key == "le");
        if *sample == format!("{name}_bucket") {
            let bound = bounds[0].1.parse().unwrap();
            by_series.entry(rest).or_default().push((bound, *value));
        } else if *sample == format!("{name}_count") {
            counts.insert(rest, *value);
        }
    }
    for (labels, buckets) in by_series {
        let rising = buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        assert!(rising, "{name}{labels:?} does not rise: {buckets:?}");
        let last = buckets[buckets.len() - 1];
        assert_eq!(last.0, f64::INFINITY, "{name}{labels:?} has no +Inf");
        assert_eq!(Some(&last.1), counts.get(&labels), "{name}{labels:?} disagrees with its count");
    }
}
