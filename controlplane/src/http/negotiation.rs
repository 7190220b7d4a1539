//! What a client accepts, weighed as RFC 9110 section 12 has it.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING};
use axum::http::{HeaderMap, HeaderName};

use crate::exposition::Format;

/// Elements of a header that are looked at; who sends more means no good.
const ELEMENTS_MAX: usize = 64;
const OPENMETRICS: &str = "application/openmetrics-text";
const PROTOBUF: &str = "application/vnd.google.protobuf";
const PLAIN: &str = "text/plain";

/// A weight in thousandths: 0 is "not acceptable".
type Weight = u16;
const WEIGHT_MAX: Weight = 1000;

/// The format a client prefers, by its weights; where they are equal what it names more closely, then what it names
/// first, then ours. A client that accepts none of them gets text all the same, as Prometheus' own libraries do.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let ranges: Vec<Range<'_>> = elements(headers, &ACCEPT).map(Range::read).collect();
    let rank = |format: &Format| {
        // Of several ranges that a format is within, the closest says its weight.
        let within =
            ranges.iter().enumerate().filter_map(|(at, range)| Some((range.closeness(*format)?, at)));
        let (closeness, at) = within.max_by_key(|(closeness, at)| (*closeness, std::cmp::Reverse(*at)))?;
        let weight = ranges[at].weight;
        (weight > 0).then_some((weight, closeness, std::cmp::Reverse(at)))
    };
    // The last of equals is what max_by_key gives: ours is to be the first.
    let ranked = Format::ALL.into_iter().rev().filter_map(|format| Some((rank(&format)?, format)));
    ranked.max_by_key(|(rank, _)| *rank).map_or(Format::Text, |(_, format)| format)
}

/// Whether a client takes gzip, and likes it no less than no coding at all.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    let weigh = |coding: &str| {
        let named = |element: &Range<'_>| element.name.eq_ignore_ascii_case(coding);
        elements(headers, &ACCEPT_ENCODING).map(Range::read).find(named).map(|element| element.weight)
    };
    let any = weigh("*");
    let gzip = weigh("gzip").or_else(|| weigh("x-gzip")).or(any).unwrap_or(0);
    gzip > 0 && gzip >= weigh("identity").unwrap_or(0)
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).take(ELEMENTS_MAX)
}

/// One element of `Accept` or `Accept-Encoding`.
struct Range<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    weight: Weight,
}

impl<'a> Range<'a> {
    fn read(element: &'a str) -> Self {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let mut range = Self { name, parameters: Vec::new(), weight: WEIGHT_MAX };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                range.weight = weight(value);
            } else {
                range.parameters.push((name, value));
            }
        }
        range
    }

    fn parameter(&self, wanted: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
    }

    /// How closely it names a format it takes in: all, a type, a subtype, or the subtype with its version.
    fn closeness(&self, format: Format) -> Option<u8> {
        let (name, wildcard, fits) = match format {
            Format::Text => (PLAIN, "text/*", self.is_or_unsaid("version", "0.0.4")),
            Format::OpenMetrics => (OPENMETRICS, "application/*", self.is_or_unsaid("version", "1.0.0")),
            Format::Protobuf => {
                let fits = self.is_or_unsaid("proto", "io.prometheus.client.MetricFamily")
                    && self.is_or_unsaid("encoding", "delimited");
                (PROTOBUF, "application/*", fits)
            }
        };
        let named = self.name.eq_ignore_ascii_case(name);
        match self.name {
            "*/*" | "*" => Some(0),
            range if range.eq_ignore_ascii_case(wildcard) => Some(1),
            _ if named && fits => Some(if self.parameters.is_empty() { 2 } else { 3 }),
            _ => None,
        }
    }

    fn is_or_unsaid(&self, name: &str, value: &str) -> bool {
        self.parameter(name).is_none_or(|given| given == value)
    }
}

/// `0.8` as thousandths. What makes no sense weighs nothing.
fn weight(text: &str) -> Weight {
    let weight = text.parse::<f64>().ok().filter(|weight| (0.0..=1.0).contains(weight));
    // At most 1000.
    weight.map_or(0, |weight| (weight * f64::from(WEIGHT_MAX)).round() as Weight)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn chosen(accept: &[&str]) -> Format {
        format(&headers(ACCEPT, accept))
    }

    #[test]
    fn what_prometheus_sends_is_answered_as_it_prefers() {
        let with_native_histograms = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
            encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(chosen(&[with_native_histograms]), Format::Protobuf);
        let without = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(chosen(&[without]), Format::OpenMetrics);
        let of_version_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.6,*/*;q=0.1";
        assert_eq!(chosen(&[of_version_3]), Format::Text);
    }

    #[test]
    fn who_says_nothing_or_takes_anything_gets_text() {
        for accept in [&[][..], &["*/*"], &["text/html,*/*;q=0.8"], &["image/png"], &["text/*"], &[""]] {
            assert_eq!(chosen(accept), Format::Text, "{accept:?}");
        }
    }

    #[test]
    fn weights_decide_and_zero_refuses() {
        assert_eq!(chosen(&["text/plain;q=0.3", "application/openmetrics-text;q=0.31"]), Format::OpenMetrics);
        assert_eq!(chosen(&["text/plain;q=0, */*"]), Format::OpenMetrics);
        assert_eq!(chosen(&["application/*"]), Format::OpenMetrics);
        assert_eq!(
            chosen(&["text/plain;q=nonsense, application/vnd.google.protobuf;q=0.1"]),
            Format::Protobuf
        );
        assert_eq!(chosen(&["TEXT/PLAIN; Q=0.5, application/openmetrics-text; q=0.4"]), Format::Text);
    }

    #[test]
    fn of_equal_weights_the_closer_then_the_first_named_stands() {
        assert_eq!(chosen(&["text/plain, application/openmetrics-text;version=1.0.0"]), Format::OpenMetrics);
        assert_eq!(chosen(&["application/openmetrics-text, text/plain"]), Format::OpenMetrics);
        assert_eq!(chosen(&["text/plain, application/openmetrics-text"]), Format::Text);
    }

    #[test]
    fn versions_and_encodings_that_are_not_ours_are_not_taken_for_ours() {
        let text = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text";
        assert_eq!(chosen(&[text, "text/plain;q=0.1"]), Format::Text);
        assert_eq!(chosen(&["application/openmetrics-text;version=0.0.1, text/plain;q=0.1"]), Format::Text);
    }

    #[test]
    fn gzip_is_for_who_takes_it_and_likes_it_no_less_than_none() {
        let takes = |values: &[&str]| gzip(&headers(ACCEPT_ENCODING, values));
        for yes in [&["gzip"][..], &["deflate, gzip;q=0.5"], &["*"], &["br", "x-gzip"], &["gzip, identity"]] {
            assert!(takes(yes), "{yes:?}");
        }
        for no in [
            &[][..],
            &["identity"],
            &["gzip;q=0"],
            &["*;q=0"],
            &["gzip;q=0, *"],
            &["gzip;q=0.4, identity;q=0.5"],
        ] {
            assert!(!takes(no), "{no:?}");
        }
    }
}
