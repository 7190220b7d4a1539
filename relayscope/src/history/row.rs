//! One row of an export, as RFC 4180 and as JSON have it, under the same names.

use relayscope_controlplane::history::{Event, Interval, QUANTILES, RttSummary, TargetKey};

/// What intervals are told in. Times are seconds.
pub(super) const INTERVAL_COLUMNS: [&str; 20] = [
    "start_unix_seconds",
    "length_seconds",
    "target",
    "family",
    "answered",
    "lost",
    "lost_forward",
    "lost_reverse",
    "rtt_count",
    "rtt_sum_seconds",
    "rtt_min_seconds",
    "rtt_mean_seconds",
    "rtt_max_seconds",
    "rtt_p05_seconds",
    "rtt_p25_seconds",
    "rtt_p50_seconds",
    "rtt_p75_seconds",
    "rtt_p95_seconds",
    "rtt_p99_seconds",
    "jitter_seconds",
];
const _: () = assert!(QUANTILES.len() == 6, "as there are columns");

/// What events are told in.
pub(super) const EVENT_COLUMNS: [&str; 6] =
    ["at_unix_seconds", "kind", "target", "alertname", "severity", "summary"];

/// What is not known is empty in CSV and `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Unknown,
    Count(u64),
    Number(f64),
    Text(&'a str),
}

pub(super) struct Row<'a, const N: usize>([Cell<'a>; N]);

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Unknown, Self::Text)
    }
}

impl From<Option<u64>> for Cell<'_> {
    fn from(count: Option<u64>) -> Self {
        count.map_or(Self::Unknown, Self::Count)
    }
}

fn seconds<'a>(ns: u64) -> Cell<'a> {
    Cell::Number(ns as f64 / 1e9)
}

pub(super) fn interval_row<'a>(
    start: u64,
    length: u64,
    key: &'a TargetKey,
    interval: &Interval,
) -> Row<'a, { INTERVAL_COLUMNS.len() }> {
    let rtt = |of: &dyn Fn(&RttSummary) -> Cell<'a>| interval.rtt.as_ref().map_or(Cell::Unknown, of);
    let quantile = |at: usize| rtt(&|rtt| seconds(rtt.quantiles_ns[at]));
    Row([
        Cell::Count(start),
        Cell::Count(length),
        Cell::Text(&key.name),
        Cell::Text(&key.family),
        Cell::Count(interval.answered),
        Cell::Count(interval.lost),
        interval.lost_forward.into(),
        interval.lost_reverse.into(),
        rtt(&|rtt| Cell::Count(rtt.count)),
        rtt(&|rtt| seconds(rtt.sum_ns)),
        rtt(&|rtt| seconds(rtt.min_ns)),
        rtt(&|rtt| Cell::Number(rtt.sum_ns as f64 / rtt.count as f64 / 1e9)),
        rtt(&|rtt| seconds(rtt.max_ns)),
        quantile(0),
        quantile(1),
        quantile(2),
        quantile(3),
        quantile(4),
        quantile(5),
        interval.jitter_ns.map_or(Cell::Unknown, seconds),
    ])
}

pub(super) fn event_row(event: &Event) -> Row<'_, { EVENT_COLUMNS.len() }> {
    Row([
        Cell::Number(event.at_unix_ms as f64 / 1e3),
        Cell::Text(event.kind.as_str()),
        event.target.as_deref().into(),
        event.alertname.as_deref().into(),
        event.severity.as_deref().into(),
        Cell::Text(&event.summary),
    ])
}

impl<const N: usize> Row<'_, N> {
    /// With the end of the line.
    pub(super) fn csv(&self) -> String {
        let cells: Vec<_> = self.0.iter().map(Cell::csv).collect();
        cells.join(",") + "\r\n"
    }

    /// With the end of the line.
    pub(super) fn json(&self, columns: &[&str; N]) -> String {
        let member = |(name, cell): (&&str, &Cell<'_>)| format!("\"{name}\":{}", cell.json());
        let members: Vec<_> = columns.iter().zip(&self.0).map(member).collect();
        format!("{{{}}}\n", members.join(","))
    }
}

impl Cell<'_> {
    fn csv(&self) -> String {
        match self {
            Self::Unknown => String::new(),
            Self::Count(count) => count.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) if text.contains([',', '"', '\r', '\n']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            Self::Text(text) => (*text).to_owned(),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Unknown => "null".to_owned(),
            Self::Text(text) => serde_json::Value::from(*text).to_string(),
            Self::Count(_) | Self::Number(_) => self.csv(),
        }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_controlplane::history::EventKind;

    use super::*;

    fn key(name: &str) -> TargetKey {
        TargetKey { name: name.to_owned(), family: "ipv4".to_owned() }
    }

    #[test]
    fn a_row_is_the_same_in_csv_and_json() {
        let rtt = RttSummary {
            count: 4,
            sum_ns: 1_000_000,
            min_ns: 200_000,
            max_ns: 300_000,
            quantiles_ns: [200_000, 210_000, 250_000, 260_000, 300_000, 300_000],
        };
        let interval = Interval {
            answered: 4,
            lost: 1,
            lost_forward: Some(1),
            lost_reverse: None,
            rtt: Some(rtt),
            jitter_ns: Some(9_000),
        };
        let (key, columns) = (key("b"), INTERVAL_COLUMNS);
        let row = interval_row(1_796_000_000, 10, &key, &interval);
        assert_eq!(
            row.csv(),
            "1796000000,10,b,ipv4,4,1,1,,4,0.001,0.0002,0.00025,0.0003,0.0002,0.00021,0.00025,0.00026,0.0003,0.0003,0.000009\r\n"
        );
        let json: serde_json::Value = serde_json::from_str(&row.json(&columns)).unwrap();
        assert_eq!((&json["start_unix_seconds"], &json["lost_reverse"]), (&1_796_000_000.into(), &().into()));
        assert_eq!(
            (&json["rtt_mean_seconds"], &json["jitter_seconds"]),
            (&0.000_25.into(), &0.000_009.into())
        );
        let silent = Interval { lost: 5, ..Interval::default() };
        assert_eq!(interval_row(10, 60, &key, &silent).csv(), "10,60,b,ipv4,0,5,,,,,,,,,,,,,,\r\n");
    }

    #[test]
    fn what_csv_would_take_apart_is_quoted() {
        let event = Event {
            at_unix_ms: 1_796_000_000_123,
            kind: EventKind::PeerDown,
            target: Some("a,b \"c\"\n".to_owned()),
            alertname: None,
            severity: None,
            summary: "a does not answer".to_owned(),
        };
        let row = event_row(&event);
        assert_eq!(row.csv(), "1796000000.123,peer_down,\"a,b \"\"c\"\"\n\",,,a does not answer\r\n");
        assert_eq!(
            row.json(&EVENT_COLUMNS),
            "{\"at_unix_seconds\":1796000000.123,\"kind\":\"peer_down\",\"target\":\"a,b \\\"c\\\"\\n\",\
             \"alertname\":null,\"severity\":null,\"summary\":\"a does not answer\"}\n"
        );
    }
}
