//! The three tables: their columns, how their rows are ordered, and which of them are wanted.

use std::cmp::Ordering;

use relayscope_controlplane::MeshState;

use super::model::{CounterRow, PeerRow, ShardRow};
use crate::moment::age_text;

/// One column of a table.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// None for the one that takes what is left.
    pub(crate) width: Option<u16>,
    /// Numbers stand at the right, and the largest come first.
    pub(crate) is_number: bool,
    /// Where there is no room for all, the one that ranks last goes first. 0 is the name's, which stays.
    pub(crate) rank: u8,
    /// Shown only where the name has more room than it must have.
    pub(crate) wide: bool,
}

const fn name(title: &'static str, width: Option<u16>) -> Column {
    Column { title, width, is_number: false, rank: 0, wide: false }
}

const fn text(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width: Some(width), is_number: false, rank, wide: false }
}

const fn number(title: &'static str, width: u16, rank: u8) -> Column {
    Column { is_number: true, ..text(title, width, rank) }
}

const fn wide(column: Column) -> Column {
    Column { wide: true, ..column }
}

/// What a row is ordered by.
#[derive(Debug)]
pub(crate) enum Order<'a> {
    Text(&'a str),
    /// What is not known comes last, whichever way round.
    Number(Option<f64>),
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    /// Not how things are now.
    Stale,
}

/// A row of one of the tables.
pub(crate) trait Row {
    /// The name comes first; it is cut in its middle.
    const COLUMNS: &'static [Column];
    /// Cells that the name has at least, beside any other column.
    const NAME_MIN: u16;
    /// Cells that it has at least beside a wide one.
    const NAME_WIDE: u16;
    /// The column it is ordered by until another is chosen.
    const SORTED: usize;
    /// What the filter looks at.
    fn name(&self) -> &str;
    fn order(&self, column: usize) -> Order<'_>;
    /// One for each column.
    fn cells(&self) -> Vec<(String, Tone)>;
}

/// What was chosen for one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// None is the row's own.
    pub(crate) sorted: Option<usize>,
    pub(crate) reversed: bool,
    /// Part of a name; letters of either case.
    pub(crate) filter: String,
    /// Rows scrolled past.
    pub(crate) skipped: usize,
}

impl Choice {
    pub(crate) fn sorted<R: Row>(&self) -> usize {
        self.sorted.unwrap_or(R::SORTED).min(R::COLUMNS.len() - 1)
    }

    /// Whether the column it is sorted by descends.
    pub(crate) fn descends<R: Row>(&self) -> bool {
        R::COLUMNS[self.sorted::<R>()].is_number != self.reversed
    }

    /// The rows wanted, in order. Rows that are equal stay in the order they came in.
    pub(crate) fn arrange<'a, R: Row>(&self, rows: &'a [R]) -> Vec<&'a R> {
        let filter = self.filter.to_lowercase();
        let is_wanted = |row: &&R| filter.is_empty() || row.name().to_lowercase().contains(&filter);
        let mut wanted: Vec<_> = rows.iter().filter(is_wanted).collect();
        let (column, descends) = (self.sorted::<R>(), self.descends::<R>());
        wanted.sort_by(|a, b| compare(&a.order(column), &b.order(column), descends));
        wanted
    }
}

fn compare(a: &Order<'_>, b: &Order<'_>, descends: bool) -> Ordering {
    let turned = |order: Ordering| if descends { order.reverse() } else { order };
    match (a, b) {
        (Order::Text(a), Order::Text(b)) => turned(a.cmp(b)),
        (Order::Number(Some(a)), Order::Number(Some(b))) => turned(a.total_cmp(b)),
        (Order::Number(a), Order::Number(b)) => b.is_some().cmp(&a.is_some()),
        // A column is of one kind.
        (Order::Text(_), Order::Number(_)) | (Order::Number(_), Order::Text(_)) => Ordering::Equal,
    }
}

impl Row for ShardRow {
    const COLUMNS: &'static [Column] = &[
        name("SHARD", Some(7)),
        number("HEARTBEAT", 11, 1),
        number("SAMPLES/S", 11, 2),
        number("RING", 15, 4),
        number("LOST", 8, 3),
        number("LAG", 10, 5),
        number("MISSED", 8, 6),
        wide(number("RECORDED", 16, 7)),
        wide(number("CAPACITY", 10, 8)),
    ];
    const NAME_MIN: u16 = 7;
    const NAME_WIDE: u16 = 7;
    const SORTED: usize = 0;

    fn name(&self) -> &str {
        &self.name
    }

    fn order(&self, column: usize) -> Order<'_> {
        Order::Number(match column {
            // Not as text: 10 comes after 9.
            0 => Some(f64::from(self.shard)),
            1 => self.heartbeat_age.map(|age| age.as_secs_f64()),
            2 => self.samples_per_second,
            3 => self.ring_ratio,
            4 => Some(self.lost as f64),
            5 => self.lag_seconds,
            6 => self.missed.map(|missed| missed as f64),
            7 => Some(self.recorded as f64),
            _ => Some(self.capacity as f64),
        })
    }

    fn cells(&self) -> Vec<(String, Tone)> {
        let plain = if self.stale { Tone::Stale } else { Tone::Plain };
        let wrong = |is_wrong: bool, tone| if is_wrong && !self.stale { tone } else { plain };
        let ring = match self.ring_ratio {
            Some(ratio) if ratio >= 0.9 => Tone::Bad,
            Some(ratio) if ratio >= 0.5 => Tone::Warning,
            Some(_) => Tone::Good,
            None => plain,
        };
        vec![
            (self.name.clone(), plain),
            (known(self.heartbeat_age.map(age_text)), if self.stale { Tone::Bad } else { Tone::Good }),
            (known(self.samples_per_second.map(rate_text)), plain),
            (known(self.ring_ratio.map(bar)), ring),
            (count_text(self.lost), wrong(self.lost > 0, Tone::Warning)),
            (known(self.lag_seconds.map(|lag| millis_text(lag * 1e3, 1))), plain),
            (known(self.missed.map(count_text)), wrong(self.missed.unwrap_or(0) > 0, Tone::Warning)),
            (self.recorded.to_string(), plain),
            (self.capacity.to_string(), plain),
        ]
    }
}

impl Row for PeerRow {
    const COLUMNS: &'static [Column] = &[
        name("TARGET", None),
        text("STATE", 7, 1),
        number("RTT", 11, 2),
        number("LOSS", 8, 3),
        number("JITTER", 11, 5),
        number("SENT/S", 8, 6),
        number("LAST REPLY", 11, 4),
        wide(number("SENT", 12, 8)),
        wide(number("LOST", 10, 7)),
        wide(text("ADDRESS", 26, 9)),
    ];
    const NAME_MIN: u16 = 12;
    const NAME_WIDE: u16 = 24;
    const SORTED: usize = 0;

    fn name(&self) -> &str {
        &self.name
    }

    fn order(&self, column: usize) -> Order<'_> {
        match column {
            0 => Order::Text(&self.name),
            1 => Order::Text(self.state.as_str()),
            2 => Order::Number(self.rtt_ms),
            3 => Order::Number(self.loss_pct),
            4 => Order::Number(self.jitter_ms),
            5 => Order::Number(self.sent_per_second),
            6 => Order::Number(self.last_reply_age.map(|age| age.as_secs_f64())),
            7 => Order::Number(self.sent.map(|sent| sent as f64)),
            8 => Order::Number(self.lost.map(|lost| lost as f64)),
            _ => Order::Text(&self.address),
        }
    }

    fn cells(&self) -> Vec<(String, Tone)> {
        let plain = if self.state == MeshState::Stale { Tone::Stale } else { Tone::Plain };
        let state = match self.state {
            MeshState::Up => Tone::Good,
            MeshState::Down => Tone::Bad,
            MeshState::Pending => Tone::Warning,
            MeshState::Stale => Tone::Stale,
        };
        let loss = match self.loss_pct {
            Some(percent) if percent >= 50.0 => Tone::Bad,
            Some(percent) if percent > 0.0 => Tone::Warning,
            _ => plain,
        };
        let millis = |ms: f64| millis_text(ms, 3);
        let count = |count: Option<u64>| known(count.map(|count| count.to_string()));
        vec![
            (self.name.to_string(), plain),
            (self.state.as_str().to_owned(), state),
            (known(self.rtt_ms.map(millis)), plain),
            (known(self.loss_pct.map(|percent| format!("{percent:.1} %"))), loss),
            (known(self.jitter_ms.map(millis)), plain),
            (known(self.sent_per_second.map(rate_text)), plain),
            (known(self.last_reply_age.map(age_text)), plain),
            (count(self.sent), plain),
            (count(self.lost), plain),
            (known(Some(self.address.to_string()).filter(|address| !address.is_empty())), plain),
        ]
    }
}

impl Row for CounterRow {
    const COLUMNS: &'static [Column] = &[
        name("COUNTER", None),
        number("RATE/S", 11, 1),
        number("TOTAL", 16, 2),
        wide(number("SHARD", 6, 3)),
    ];
    // A name with its labels is long.
    const NAME_MIN: u16 = 20;
    const NAME_WIDE: u16 = 64;
    const SORTED: usize = 1;

    fn name(&self) -> &str {
        &self.series
    }

    fn order(&self, column: usize) -> Order<'_> {
        match column {
            0 => Order::Text(&self.series),
            1 => Order::Number(self.per_second),
            2 => Order::Number(Some(self.total as f64)),
            _ => Order::Number(Some(f64::from(self.shard))),
        }
    }

    fn cells(&self) -> Vec<(String, Tone)> {
        let plain = if self.stale { Tone::Stale } else { Tone::Plain };
        vec![
            (self.series.to_string(), plain),
            (known(self.per_second.map(rate_text)), plain),
            (self.total.to_string(), plain),
            (self.shard.to_string(), plain),
        ]
    }
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// Three or four figures, as a terminal has room for.
pub(crate) fn rate_text(rate: f64) -> String {
    match rate {
        ..1e4 => format!("{rate:.1}"),
        1e4..1e6 => format!("{:.1} k", rate / 1e3),
        1e6..1e9 => format!("{:.2} M", rate / 1e6),
        _ => format!("{:.2} G", rate / 1e9),
    }
}

/// Every unit of it, until nobody counts them.
fn count_text(count: u64) -> String {
    match count {
        0..100_000_000 => count.to_string(),
        _ => rate_text(count as f64),
    }
}

/// With so many decimals, until they say nothing.
fn millis_text(ms: f64, decimals: usize) -> String {
    match ms {
        ..9_999.0 => format!("{ms:.decimals$} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// `▕████    ▏ 52 %`: how full a ring is.
fn bar(ratio: f64) -> String {
    const CELLS: usize = 8;
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let percent = (ratio.clamp(0.0, 1.0) * 100.0).round();
    // What is not empty shows at least the thinnest line.
    let eighths = (ratio.clamp(0.0, 1.0) * (CELLS * 8) as f64).ceil() as usize;
    let bar = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
    format!("▕{bar:CELLS$}▏{percent:3} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(series: &str, per_second: Option<f64>, total: u64) -> CounterRow {
        CounterRow { series: series.into(), shard: 0, per_second, total, stale: false }
    }

    fn names(choice: &Choice, rows: &[CounterRow]) -> Vec<String> {
        choice.arrange(rows).iter().map(|row| row.series.to_string()).collect()
    }

    #[test]
    fn the_fastest_come_first_and_the_unknown_last_whichever_way_round() {
        let rows = [
            counter("slow", Some(1.0), 9),
            counter("unknown", None, 5),
            counter("fast", Some(30.0), 1),
            counter("as slow", Some(1.0), 2),
        ];
        let choice = Choice::default();
        assert_eq!(names(&choice, &rows), ["fast", "slow", "as slow", "unknown"]);
        let reversed = Choice { reversed: true, ..choice.clone() };
        assert_eq!(names(&reversed, &rows), ["slow", "as slow", "fast", "unknown"]);
        let by_name = Choice { sorted: Some(0), ..choice.clone() };
        assert_eq!(names(&by_name, &rows), ["as slow", "fast", "slow", "unknown"]);
        let filtered = Choice { filter: "SLOW".to_owned(), ..choice };
        assert_eq!(names(&filtered, &rows), ["slow", "as slow"]);
    }

    #[test]
    fn rates_have_few_figures_and_a_bar_shows_what_is_nearly_empty() {
        let rates = [0.0, 9.96, 9_999.0, 12_345.0, 2_500_000.0, 3e9].map(rate_text);
        assert_eq!(rates, ["0.0", "10.0", "9999.0", "12.3 k", "2.50 M", "3.00 G"]);
        assert_eq!([99_999_999, 123_456_789].map(count_text), ["99999999", "123.46 M"]);
        let millis = [0.061, 9_998.9, 12_345.6].map(|ms| millis_text(ms, 3));
        assert_eq!(millis, ["0.061 ms", "9998.900 ms", "12.3 s"]);
        let bars = [0.0, 0.001, 0.5, 1.0].map(bar);
        assert_eq!(bars, ["▕        ▏  0 %", "▕▏       ▏  0 %", "▕████    ▏ 50 %", "▕████████▏100 %"]);
    }
}
