//! `relayscope history export`: what is kept on disk, to stdout, read from the database itself. A relay may write it
//! meanwhile, or may have died.
//!
//! Intervals come target by target, each from the oldest to the newest; events from the oldest to the newest. A reader
//! of the output that is gone ends it without a word.

mod row;

use std::io::{BufWriter, ErrorKind, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use relayscope_controlplane::Now;
use relayscope_controlplane::history::{
    EVENTS_ANSWERED_MAX, Event, HistoryQuery, Interval, Points, Reader, TargetKey, Tier, parse_moment,
    parse_step,
};

use self::row::{EVENT_COLUMNS, INTERVAL_COLUMNS, Row, event_row, interval_row};
use crate::cli::{ExportFormat, HistoryExportArgs, RunArgs};
use crate::config;
use crate::failure::Failure;

/// Of one look into the database; there are as many as it takes.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Intervals read at a time.
const INTERVALS_AT_A_TIME: u64 = 100_000;
/// Steps asked for at a time, and seconds of intervals of the finest resolution at most.
const STEPS_AT_A_TIME: u64 = 4000;
const STEPPED_SECONDS_MAX: u64 = 2_000_000;
/// Targets named to who asks for another.
const NAMED_MAX: usize = 10;

pub(crate) fn export(args: &HistoryExportArgs) -> Result<ExitCode, Failure> {
    let reader = Reader::open(&path(args)?).map_err(Failure::host)?;
    let now = Now::sample();
    let moment = |flag: &str, text: &Option<String>, default: u64| match text {
        None => Ok(default),
        Some(text) => parse_moment(text, now.unix_ns / 1_000_000)
            .map_err(|error| Failure::usage(format_args!("--{flag}: {error}"))),
    };
    // What happens in this second is before now.
    let range = moment("from", &args.from, 0)?..moment("to", &args.to, now.unix_ns / 1_000_000 + 1000)?;
    if range.is_empty() {
        return Err(Failure::Usage("--from is not before --to; expected an earlier one".to_owned()));
    }
    let step = args.step.as_deref().map(parse_step).transpose();
    let step = step.map_err(|error| Failure::usage(format_args!("--step: {error}")))?;
    let mut out = Out::new(args.format);
    let seconds = range.start.div_ceil(1000)..range.end.div_ceil(1000);
    let written = match (args.events, step) {
        (true, _) => events(&reader, range, &args.target, &mut out),
        (false, Some(step)) => stepped(&reader, seconds, step, &wanted(&reader, &args.target)?, &mut out),
        (false, None) => kept(&reader, seconds, args.tier.into(), &wanted(&reader, &args.target)?, &mut out),
    };
    match written.and_then(|()| out.end()) {
        Ok(()) | Err(Stop::Gone) => Ok(ExitCode::SUCCESS),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

fn path(args: &HistoryExportArgs) -> Result<PathBuf, Failure> {
    match &args.path {
        Some(path) => Ok(path.clone()),
        None => {
            let config = config::load(args.config.as_deref())?.resolve(&RunArgs::default())?;
            config.history.place().map_err(Failure::usage)
        }
    }
}

/// The targets of those names, or all.
fn wanted(reader: &Reader, names: &[String]) -> Result<Vec<TargetKey>, Failure> {
    let mut targets = reader.targets().map_err(Failure::host)?;
    for name in names {
        if targets.iter().all(|key| key.name != *name) {
            let mut known: Vec<_> = targets.iter().map(|key| key.name.as_str()).collect();
            known.dedup();
            let more = if known.len() > NAMED_MAX { ", …" } else { "" };
            known.truncate(NAMED_MAX);
            let line =
                format!("--target {name:?}: no history of it; there is one of {}{more}", known.join(", "));
            return Err(Failure::Usage(line));
        }
    }
    if !names.is_empty() {
        targets.retain(|key| names.contains(&key.name));
    }
    Ok(targets)
}

/// Why writing ended early.
enum Stop {
    /// Nobody reads any more.
    Gone,
    Failed(Failure),
}

impl Stop {
    fn host(error: impl ToString) -> Self {
        Self::Failed(Failure::host(error))
    }
}

/// As they are kept.
fn kept(
    reader: &Reader,
    seconds: Range<u64>,
    tier: Tier,
    targets: &[TargetKey],
    out: &mut Out,
) -> Result<(), Stop> {
    out.begin(&INTERVAL_COLUMNS)?;
    let oldest = reader.statistics().map_err(Stop::host)?.tiers[usize::from(tier.code())].oldest;
    let begin = seconds.start.max(oldest.unwrap_or(seconds.end));
    let at_a_time = INTERVALS_AT_A_TIME * tier.seconds();
    for key in targets {
        for from in (begin..seconds.end).step_by(usize::try_from(at_a_time).unwrap_or(usize::MAX)) {
            let slice = from..seconds.end.min(from.saturating_add(at_a_time));
            let found = reader.intervals(key, tier, slice, TIME_MAX).map_err(Stop::host)?;
            for (start, interval) in found {
                out.interval(start, tier.seconds(), key, &interval)?;
            }
        }
    }
    Ok(())
}

/// In equal steps, as over HTTP. Those that nothing is known of are left out.
fn stepped(
    reader: &Reader,
    seconds: Range<u64>,
    step: u64,
    targets: &[TargetKey],
    out: &mut Out,
) -> Result<(), Stop> {
    out.begin(&INTERVAL_COLUMNS)?;
    let tiers = reader.statistics().map_err(Stop::host)?.tiers;
    let oldest = tiers.iter().filter_map(|tier| tier.oldest).min().unwrap_or(seconds.end);
    let begin = seconds.start.max(oldest);
    let at_a_time = step.saturating_mul(STEPS_AT_A_TIME.min(STEPPED_SECONDS_MAX / step).max(1));
    for key in targets {
        let mut from = begin - begin % step;
        // Steps are longer where only coarser resolutions reach.
        let mut told = begin.min(from);
        while from < seconds.end {
            let to = seconds.end.min(from.saturating_add(at_a_time));
            let query = HistoryQuery {
                step_seconds: Some(step),
                time_max: TIME_MAX,
                ..HistoryQuery::new(key.clone(), from, to)
            };
            let points: Points = reader.history(&query).map_err(Stop::host)?;
            for (start, interval) in points.starts().zip(&points.intervals) {
                if let Some(interval) = interval.as_ref().filter(|_| start >= told) {
                    out.interval(start, points.step_seconds, key, interval)?;
                    told = start + points.step_seconds;
                }
            }
            from = to;
        }
    }
    Ok(())
}

/// From the newest back in as many looks as it takes, then told from the oldest on: there are a bounded number.
fn events(reader: &Reader, unix_ms: Range<u64>, names: &[String], out: &mut Out) -> Result<(), Stop> {
    out.begin(&EVENT_COLUMNS)?;
    let name = match names {
        [name] => Some(name.as_str()),
        _ => None,
    };
    let (mut looks, mut end) = (Vec::new(), unix_ms.end);
    loop {
        let found = reader.events(unix_ms.start..end, name, EVENTS_ANSWERED_MAX).map_err(Stop::host)?;
        let mut events = found.events;
        let oldest = events.first().map(|event| event.at_unix_ms);
        let Some(oldest) = oldest.filter(|_| found.left_off > 0) else {
            looks.push(events);
            break;
        };
        // Of that millisecond there may be more: they come with the next look, unless it is all there is in this one.
        if events.last().is_some_and(|newest| newest.at_unix_ms > oldest) {
            events.retain(|event| event.at_unix_ms > oldest);
            end = oldest + 1;
        } else {
            end = oldest;
        }
        looks.push(events);
    }
    let is_wanted =
        |event: &&Event| names.is_empty() || event.target.as_ref().is_some_and(|of| names.contains(of));
    for event in looks.iter().rev().flatten().filter(is_wanted) {
        out.row(&EVENT_COLUMNS, &event_row(event))?;
    }
    Ok(())
}

/// Rows on stdout.
struct Out {
    out: BufWriter<std::io::StdoutLock<'static>>,
    format: ExportFormat,
}

impl Out {
    fn new(format: ExportFormat) -> Self {
        Self { out: BufWriter::new(std::io::stdout().lock()), format }
    }

    fn begin(&mut self, columns: &[&str]) -> Result<(), Stop> {
        match self.format {
            ExportFormat::Csv => self.write(&format!("{}\r\n", columns.join(","))),
            ExportFormat::Jsonl => Ok(()),
        }
    }

    fn interval(
        &mut self,
        start: u64,
        length: u64,
        key: &TargetKey,
        interval: &Interval,
    ) -> Result<(), Stop> {
        self.row(&INTERVAL_COLUMNS, &interval_row(start, length, key, interval))
    }

    fn row<const N: usize>(&mut self, columns: &[&str; N], row: &Row<'_, N>) -> Result<(), Stop> {
        match self.format {
            ExportFormat::Csv => self.write(&row.csv()),
            ExportFormat::Jsonl => self.write(&row.json(columns)),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Stop> {
        self.out.write_all(text.as_bytes()).map_err(stopped)
    }

    fn end(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(stopped)
    }
}

fn stopped(error: std::io::Error) -> Stop {
    match error.kind() {
        ErrorKind::BrokenPipe => Stop::Gone,
        _ => Stop::host(format_args!("cannot write to stdout: {error}")),
    }
}
