//! The words of the Prometheus text format 0.0.4: names, labels, numbers, families.

use relayscope_bridge::catalogue::Family;

/// The `Content-Type` of what this module writes.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Floats of this size and above may not be integers exactly; they print as floats.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// A sample's value. Counters stay integers to the last unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(u64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Integer(u64::from(value))
    }
}

/// Writes a number as Prometheus reads it; an integral float without a fraction.
pub(crate) fn write_number(out: &mut Vec<u8>, number: Number) {
    match number {
        Number::Integer(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Number::Float(value) if value.fract() == 0.0 && value.abs() < EXACT_INTEGERS => {
            // Integral and below 2^53, so the cast drops nothing.
            out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        }
        Number::Float(value) if value.is_finite() => {
            out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
        }
        Number::Float(value) if value.is_nan() => out.extend_from_slice(b"NaN"),
        Number::Float(value) => out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" }),
    }
}

/// Writes `name="value",...` without braces, values escaped.
pub(crate) fn label_pairs<'a>(out: &mut Vec<u8>, names: &[&str], values: impl IntoIterator<Item = &'a str>) {
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape_into(out, value);
        out.push(b'"');
    }
}

/// Writes a label's value.
pub(crate) fn escape_into(out: &mut Vec<u8>, value: &str) {
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

/// Whether `name` is a metric name; one that is not would spoil the whole scrape.
pub(crate) fn is_metric_name(name: &str) -> bool {
    is_name(name, |c| c == '_' || c == ':')
}

/// Whether `name` is a label name that an application may use.
pub(crate) fn is_label_name(name: &str) -> bool {
    is_name(name, |c| c == '_') && !name.starts_with("__")
}

fn is_name(name: &str, punctuation: impl Fn(char) -> bool) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || punctuation(c));
    starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || punctuation(c))
}

/// The two lines that open a family.
pub(crate) fn header(name: &str, family: &Family) -> String {
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    format!("# HELP {name} {help}\n# TYPE {name} {}\n", family.kind.as_str())
}

/// Writes one family. Its header comes with its first sample: a family with nothing to show is not
/// named.
pub(crate) struct FamilyText<'a> {
    out: &'a mut Vec<u8>,
    family: &'static Family,
    name: String,
    opened: bool,
}

impl<'a> FamilyText<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, family: &'static Family, prefix: &str) -> Self {
        Self { out, family, name: family.full_name(prefix), opened: false }
    }

    /// Writes a sample with one value for each of the family's labels.
    pub(crate) fn sample(&mut self, values: &[&str], number: impl Into<Number>) {
        if !self.opened {
            self.out.extend_from_slice(header(&self.name, self.family).as_bytes());
            self.opened = true;
        }
        self.out.extend_from_slice(self.name.as_bytes());
        if !values.is_empty() {
            self.out.push(b'{');
            label_pairs(self.out, self.family.labels, values.iter().copied());
            self.out.push(b'}');
        }
        self.out.push(b' ');
        write_number(self.out, number.into());
        self.out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::MESH_PEERS;

    use super::*;

    fn number(number: impl Into<Number>) -> String {
        let mut out = Vec::new();
        write_number(&mut out, number.into());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integral_floats_have_no_fraction() {
        assert_eq!(number(1.0), "1");
        assert_eq!(number(-3.0), "-3");
        assert_eq!(number(-0.0), "0");
        assert_eq!(number(1_763_641_531.0), "1763641531");
    }

    #[test]
    fn other_floats_survive_the_round_trip() {
        assert_eq!(number(0.000_25), "0.00025");
        for value in [1e300, 2f64.powi(-17), 0.1, f64::MIN_POSITIVE, 9_007_199_254_740_993.0] {
            assert_eq!(number(value).parse(), Ok(value));
        }
        assert_eq!(number(f64::INFINITY), "+Inf");
        assert_eq!(number(f64::NEG_INFINITY), "-Inf");
    }

    #[test]
    fn counters_are_exact_to_the_last_unit() {
        assert_eq!(number(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn quotes_backslashes_and_newlines_are_escaped_in_label_values() {
        let mut pairs = Vec::new();
        label_pairs(&mut pairs, &["target", "kind"], ["a\"b\\c\nd", "é {}"]);
        assert_eq!(pairs, r#"target="a\"b\\c\nd",kind="é {}""#.as_bytes());
    }

    #[test]
    fn names_that_would_spoil_a_scrape_are_told() {
        for good in ["relay", "relay_probe:up", "_x9"] {
            assert!(is_metric_name(good), "{good}");
        }
        for bad in ["", "9relay", "relay-probe", "relay probe", "é"] {
            assert!(!is_metric_name(bad), "{bad}");
        }
        assert!(is_label_name("target"));
        assert!(!is_label_name("a:b"));
        assert!(!is_label_name("__name__"));
    }

    #[test]
    fn a_family_without_samples_is_not_named() {
        let mut out = Vec::new();
        FamilyText::new(&mut out, &MESH_PEERS, "relay");
        assert_eq!(out, b"");
        let mut family = FamilyText::new(&mut out, &MESH_PEERS, "relay");
        family.sample(&[], 2u64);
        family.sample(&[], 3u64);
        let expected = "\
# HELP relay_mesh_peers Targets up now.
# TYPE relay_mesh_peers gauge
relay_mesh_peers 2
relay_mesh_peers 3
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
