//! The findings, for people and as JSON.

use std::fmt::Write;

use relayscope_bridge::segment::SegmentState;
use serde::Serialize;

use super::findings::{Cell, Findings, ShardFindings};
use crate::moment::{age_text, rfc3339};
use crate::series::{Labels, NamedSample, Number, SampleObject};

/// Counters, and gauges, in the text unless all are asked for.
const CELLS_MAX: usize = 100;

impl Findings {
    /// The report for people.
    pub(crate) fn text(&self, prefix: &str) -> String {
        let mut text = self.head();
        for shard in &self.shards {
            text.push('\n');
            text += &self.shard_text(shard, prefix);
        }
        let what = if self.all { "all" } else { "those that counted" };
        text += &self.cells_text(&format!("counters, {what}"), &self.counters, prefix);
        let what = if self.all { "all" } else { "those with a value" };
        text += &self.cells_text(&format!("gauges, {what}"), &self.gauges, prefix);
        text
    }

    fn head(&self) -> String {
        let pid = self.info.pid;
        let mut text = format!("segment     {}\n", self.path.display());
        let mut line = |what: &str, value: &str| {
            // Writing to a string does not fail.
            writeln!(text, "{what:11} {value}").unwrap_or_default();
        };
        let state = match self.state {
            SegmentState::Running => {
                format!("running: process {pid} lives, and writes on while this is read")
            }
            SegmentState::Closed => format!("closed: process {pid} ended in good order"),
            // That its maker let go of it is all that is known: a copy has no maker that could hold it.
            SegmentState::Dead if self.pid_lives => format!(
                "dead: nobody holds it; process {pid} seems to live, so this is likely a copy of its segment"
            ),
            SegmentState::Dead if self.info.this_boot => {
                format!("dead: nobody holds it; process {pid} died, or this is a copy of its segment")
            }
            SegmentState::Dead => format!("dead: process {pid} ran before the machine was last booted"),
            SegmentState::Damaged => "damaged".to_owned(),
        };
        line("state", &state);
        let start_ns = self.info.start_monotonic_ns;
        line("started", &self.when(start_ns));
        line("generation", &self.info.generation.to_string());
        let (shards, capacity, bytes) = (self.info.shards, self.info.ring_capacity, self.info.bytes);
        line("size", &format!("{bytes} bytes: shards {shards}, ring capacity {capacity} samples"));
        match self.reload {
            None => {}
            Some(true) => line("reload", "the configuration read last was in force"),
            Some(false) => line("reload", "the configuration read last was refused"),
        }
        if self.malformed > 0 {
            line("damage", &format!("{} rows of the series table make no sense", self.malformed));
        }
        if let Some(kept) = &self.predecessor {
            let kept = kept.display();
            line(
                "beside it",
                &format!("{kept}, of an earlier data plane that died: relayscope autopsy {kept}"),
            );
        }
        text
    }

    fn shard_text(&self, shard: &ShardFindings, prefix: &str) -> String {
        let account = shard.account;
        let mut text = format!("shard {}\n", shard.shard.0);
        let mut line = |what: &str, value: &str| {
            writeln!(text, "  {what:9} {value}").unwrap_or_default();
        };
        let what = if self.state == SegmentState::Running { "heartbeat" } else { "silent" };
        let since = |at| match self.state {
            SegmentState::Running => self.when(at),
            _ => format!("since {}", self.when(at)),
        };
        line(what, &shard.heartbeat_ns.map_or("never signed life".to_owned(), since));
        line(
            "writer",
            &shard.writer.map_or("none: the shard had let go".to_owned(), |pid| format!("process {pid}")),
        );
        line(
            "ring",
            &format!(
                "{} recorded = {} readable + {} gone + {} unread, capacity {}",
                account.recorded, account.delivered, account.lost, account.unread, shard.capacity
            ),
        );
        if shard.malformed > 0 {
            line("damage", &format!("{} of those gone are there and are no samples", shard.malformed));
        }
        let in_flight = match shard.in_flight {
            0 => "nothing: no batch was announced".to_owned(),
            count => format!("{count} samples, announced and not published"),
        };
        line("in flight", &in_flight);
        match shard.last.len() {
            0 if account.delivered > 0 => {}
            0 => line("samples", "none"),
            count => line("samples", &format!("the last {count}: time, shard, position, series, value")),
        }
        for sample in self.samples(shard) {
            writeln!(text, "    {}", sample.text(prefix)).unwrap_or_default();
        }
        text
    }

    fn cells_text(&self, what: &str, cells: &[Cell], prefix: &str) -> String {
        if cells.is_empty() {
            return String::new();
        }
        let most = if self.all { cells.len() } else { CELLS_MAX };
        let shown: Vec<_> = cells.iter().take(most).map(|cell| (cell, cell.series.text(prefix))).collect();
        let width = shown.iter().map(|(_, series)| series.chars().count()).max().unwrap_or(0);
        let mut text = format!("\n{what}\n");
        for (cell, series) in shown {
            let value = match cell.value {
                None => "-".to_owned(),
                Some(Number::Count(value)) => value.to_string(),
                Some(Number::Real(value)) => value.to_string(),
            };
            writeln!(text, "  {series:width$}  shard {}  {value}", cell.shard.0).unwrap_or_default();
        }
        if let more @ 1.. = cells.len().saturating_sub(most) {
            writeln!(text, "  and {more} more: --all prints them").unwrap_or_default();
        }
        text
    }

    /// The wall clock's time and how long ago that is.
    fn when(&self, then_ns: u64) -> String {
        let time = rfc3339(self.clock.unix_ns(then_ns));
        match self.clock.age(then_ns) {
            Some(age) => format!("{time}, {} ago", age_text(age)),
            None if self.info.this_boot => format!("{time}, which is yet to come: damaged"),
            None => format!("{time} by the clock of an earlier boot, age unknown"),
        }
    }

    fn samples<'a>(&'a self, shard: &'a ShardFindings) -> impl Iterator<Item = NamedSample<'a>> {
        shard.last.iter().map(|(position, sample)| NamedSample {
            series: self.names.of(shard.shard, *position, sample.metric_id),
            shard: shard.shard,
            position: *position,
            unix_ns: self.clock.unix_ns(sample.timestamp_ns),
            sample: *sample,
        })
    }

    /// The report as JSON; see [`Report`].
    pub(crate) fn object(&self, prefix: &str) -> Report<'_> {
        Report {
            segment: self.path.display().to_string(),
            state: self.state.to_string(),
            pid: self.info.pid,
            generation: self.info.generation,
            started: rfc3339(self.clock.unix_ns(self.info.start_monotonic_ns)),
            this_boot: self.info.this_boot,
            bytes: self.info.bytes,
            last_reload_successful: self.reload,
            malformed_series: self.malformed,
            crashed_predecessor: self.predecessor.as_ref().map(|kept| kept.display().to_string()),
            shards: self.shards.iter().map(|shard| self.shard_object(shard, prefix)).collect(),
            counters: self.counters.iter().map(|cell| cell_object(cell, prefix)).collect(),
            gauges: self.gauges.iter().map(|cell| cell_object(cell, prefix)).collect(),
        }
    }
    fn shard_object<'a>(&'a self, shard: &'a ShardFindings, prefix: &str) -> ShardReport<'a> {
        ShardReport {
            shard: shard.shard.0,
            writer: shard.writer,
            last_heartbeat: shard.heartbeat_ns.map(|at| rfc3339(self.clock.unix_ns(at))),
            silent_seconds: shard.heartbeat_ns.and_then(|at| self.clock.age(at)).map(|age| age.as_secs_f64()),
            capacity: shard.capacity,
            recorded: shard.account.recorded,
            readable: shard.account.delivered,
            gone: shard.account.lost,
            unread: shard.account.unread,
            malformed: shard.malformed,
            in_flight: shard.in_flight,
            samples: self.samples(shard).map(|sample| sample.object(prefix)).collect(),
        }
    }
}

fn cell_object<'a>(cell: &'a Cell, prefix: &str) -> CellReport<'a> {
    CellReport {
        metric: cell.series.family.full_name(prefix),
        labels: Labels(&cell.series),
        shard: cell.shard.0,
        value: cell.value,
    }
}

/// One object. `state` is `running`, `closed` or `dead`; times are RFC 3339; `silent_seconds` is null where
/// the shard never signed life, or did so before the machine was last booted.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    segment: String,
    state: String,
    pid: u32,
    generation: u64,
    started: String,
    this_boot: bool,
    bytes: u64,
    last_reload_successful: Option<bool>,
    malformed_series: usize,
    crashed_predecessor: Option<String>,
    shards: Vec<ShardReport<'a>>,
    counters: Vec<CellReport<'a>>,
    gauges: Vec<CellReport<'a>>,
}

#[derive(Serialize)]
struct ShardReport<'a> {
    shard: u16,
    writer: Option<u32>,
    last_heartbeat: Option<String>,
    silent_seconds: Option<f64>,
    capacity: u64,
    recorded: u64,
    readable: u64,
    gone: u64,
    unread: u64,
    malformed: u64,
    in_flight: u64,
    samples: Vec<SampleObject<'a>>,
}

#[derive(Serialize)]
struct CellReport<'a> {
    metric: String,
    labels: Labels<'a>,
    shard: u16,
    value: Option<Number>,
}
