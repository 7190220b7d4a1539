//! `relayscope tap`: the samples of a segment as they are recorded, through a reader of its own.
//!
//! The shards do not know that it looks on: it takes nothing from the control plane, and what it is too
//! slow for is lost to it alone. It says so: when it ends, or lets go of a segment, its account of each
//! shard is on stderr, and `recorded = delivered + lost + unread` to the unit. It outlives the data plane:
//! when that ends it says so and waits for the next one, all of whose samples it prints. It waits for a segment
//! that is not there, but not for a shard that a segment does not have: where that is so of all it was asked
//! for, it ends with code 1. It says so once, too, when no series of a segment can be what its filters want.
//! SIGINT, SIGTERM, `-n` and `--duration` end it with code 0, and so, without a word, does a reader of its
//! output that is gone.

mod filter;

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use relayscope_bridge::segment::{SegmentError, SegmentState};
use relayscope_bridge::{Account, Collector, Consumer, MetricKind, ShardId, Start, attach};

use self::filter::Filter;
use crate::cli::{Since, TapArgs};
use crate::failure::Failure;
use crate::moment::{Now, SegmentClock};
use crate::output::{Lines, note};
use crate::series::{NamedSample, Series, SeriesNames};
use crate::stop::Stop;

/// From look to look.
const POLL: Duration = Duration::from_millis(20);
/// From look to look while there is no segment.
const ABSENT_POLL: Duration = Duration::from_millis(100);
/// What a data plane has to make its series in before it is said that none is wanted.
const SERIES_DUE: Duration = Duration::from_secs(1);
/// Output that may wait to be written, in octets.
const WAITING_MAX: usize = 64 << 10;

pub(crate) fn run(args: &TapArgs) -> Result<ExitCode, Failure> {
    let mut stop = Stop::on_signals()?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let mut tap = Tap::new(args);
    loop {
        tap.look(&mut stop)?;
        let poll = if tap.tapped.is_some() { POLL } else { ABSENT_POLL };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if tap.is_done()
            || left.is_some_and(|left| left.is_zero())
            || stop.within(left.unwrap_or(poll).min(poll))
        {
            break;
        }
    }
    tap.end();
    Ok(ExitCode::SUCCESS)
}

struct Tap<'a> {
    args: &'a TapArgs,
    filter: Filter,
    out: Lines,
    printed: u64,
    tapped: Option<Tapped>,
    /// Whether there was a segment before, or none: what comes next is read from its first sample on.
    begun: bool,
    /// What was last said to be wrong, to say it once.
    said: Option<String>,
}

/// A segment and this reader's place in it.
struct Tapped {
    collector: Collector,
    shards: Vec<ShardTap>,
    names: SeriesNames,
    ending: Ending,
    /// Whether it was looked for a series that the filter wants.
    is_searched: bool,
}

/// How a segment ended, as far as that was said.
#[derive(Default)]
struct Ending(Option<SegmentState>);

impl Ending {
    /// What to say of `state`: every end once. That a dead one runs is not believed: the next maker holds it
    /// for the moment in which it gives it another name.
    fn tell(&mut self, state: SegmentState, pid: u32) -> Option<String> {
        let said = how_it_ended(state, pid).filter(|_| self.0 != Some(state))?;
        self.0 = Some(state);
        Some(format!("{said}; waiting for the next one"))
    }
}

struct ShardTap {
    shard: ShardId,
    consumer: Consumer,
    printed: u64,
    unknown: u64,
}

impl<'a> Tap<'a> {
    fn new(args: &'a TapArgs) -> Self {
        let filter =
            Filter { metrics: args.metric.clone(), targets: args.target.clone(), shards: args.shard.clone() };
        Self { args, filter, out: Lines::default(), printed: 0, tapped: None, begun: false, said: None }
    }

    fn is_done(&self) -> bool {
        self.out.is_gone() || self.left() == 0
    }

    /// Samples still to be printed.
    fn left(&self) -> u64 {
        self.args.count.unwrap_or(u64::MAX).saturating_sub(self.printed)
    }

    /// Attaches, prints what was recorded since the last look, and lets go of what is over.
    fn look(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        if self.tapped.is_none() {
            self.attach()?;
        }
        let Some(tapped) = &self.tapped else { return self.out.flush(stop) };
        // Before the samples: of a segment that has ended by now, this look sees the last.
        let attachment = tapped.collector.attachment().clone();
        let (state, is_replaced) = (attachment.state(), attachment.is_replaced());
        self.print(stop)?;
        self.out.flush(stop)?;
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        let is_settled = is_replaced || state != SegmentState::Running || tapped.age() >= SERIES_DUE;
        // What a damaged one lists are no series.
        if is_settled && state != SegmentState::Damaged {
            tapped.tell_unwanted(&self.filter, &self.args.metric_prefix);
        }
        if let Some(how) = tapped.ending.tell(state, attachment.info().pid) {
            note(&how);
        }
        if is_replaced || state == SegmentState::Damaged {
            tapped.tell_account();
            self.tapped = None;
        }
        Ok(())
    }

    fn attach(&mut self) -> Result<(), Failure> {
        let begun = std::mem::replace(&mut self.begun, true);
        let collector = match attach(&self.args.segment) {
            Ok(collector) => collector,
            Err(error) if begun || is_absent(&error) => {
                let why = error.to_string();
                if self.said.as_ref() != Some(&why) {
                    note(&format!("waiting: {why}"));
                    self.said = Some(why);
                }
                return Ok(());
            }
            Err(error) => return Err(Failure::host(error)),
        };
        let start = match self.args.since {
            _ if begun => Start::First,
            Since::Oldest => Start::Oldest,
            Since::Now => Start::Now,
        };
        let info = collector.attachment().info();
        note(&format!(
            "reading {}: generation {}, process {}, shards {}",
            self.args.segment.display(),
            info.generation,
            info.pid,
            info.shards
        ));
        let is_absent = |shard: &&u16| usize::from(**shard) >= info.shards;
        let absent: Vec<_> = self.args.shard.iter().filter(is_absent).collect();
        for shard in &absent {
            let text = format!("--shard {shard}: not in this segment; expected below {}", info.shards);
            // Of none that is there nothing will ever come.
            if absent.len() == self.args.shard.len() {
                return Err(Failure::Host(text));
            }
            note(&text);
        }
        let wanted = collector.shards().filter(|(shard, _)| self.filter.wants_shard(*shard));
        let tap = |(shard, reader): (ShardId, &relayscope_bridge::ShardReader)| ShardTap {
            shard,
            consumer: reader.tap(start),
            printed: 0,
            unknown: 0,
        };
        let shards = wanted.map(tap).collect();
        self.tapped = Some(Tapped {
            collector,
            shards,
            names: SeriesNames::default(),
            ending: Ending::default(),
            is_searched: false,
        });
        self.said = None;
        Ok(())
    }

    /// Prints what every ring holds by now.
    fn print(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        let Self { args, filter, out, printed, tapped, .. } = self;
        let Some(Tapped { collector, shards, names, .. }) = tapped else { return Ok(()) };
        let clock = SegmentClock::new(&collector.attachment().info(), Now::sample());
        let marks: Vec<_> = shards.iter().map(|tap| tap.consumer.mark()).collect();
        // After the marks: of every sample below them, the directory tells whose it is.
        names.follow(collector.directory());
        let (prefix, count) = (args.metric_prefix.as_str(), args.count.unwrap_or(u64::MAX));
        let mut outcome = Ok(());
        for (tap, mark) in shards.iter_mut().zip(marks) {
            let shard = tap.shard;
            tap.consumer.drain_to(mark, |position, sample| {
                let series = names.of(shard, position, sample.metric_id);
                let is_over = *printed >= count || outcome.is_err() || stop.was_asked();
                if is_over || !filter.wants(series, prefix) {
                    return;
                }
                let unix_ns = clock.unix_ns(sample.timestamp_ns);
                let named = NamedSample { series, shard, position, unix_ns, sample };
                let line = match args.json {
                    true => serde_json::to_string(&named.object(prefix)).map_err(Failure::host),
                    false => Ok(named.text(prefix)),
                };
                *printed += 1;
                tap.printed += 1;
                tap.unknown += u64::from(series.is_none());
                outcome = line.map(|line| out.push(&line));
                if out.waiting() >= WAITING_MAX && outcome.is_ok() {
                    outcome = out.flush(stop);
                }
            });
        }
        outcome
    }

    /// Says what became of every sample. A reader that is gone has no use for it.
    fn end(&mut self) {
        if self.out.is_gone() {
            return;
        }
        if let lines @ 1.. = self.out.waiting_lines() {
            note(&format!("stdout takes nothing: the last {lines} lines are not written"));
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.tell_unwanted(&self.filter, &self.args.metric_prefix);
            tapped.tell_account();
        }
    }
}

impl Tapped {
    /// How long its maker had to make its series.
    fn age(&self) -> Duration {
        let info = self.collector.attachment().info();
        let age = SegmentClock::new(&info, Now::sample()).age(info.start_monotonic_ns);
        // Of an earlier boot: long enough.
        age.unwrap_or(Duration::MAX)
    }

    /// Says, once, if no series whose samples travel in the rings is wanted: then there may never be a line.
    fn tell_unwanted(&mut self, filter: &Filter, prefix: &str) {
        if std::mem::replace(&mut self.is_searched, true) || filter.wants_all() {
            return;
        }
        let is_wanted = self.collector.directory().read(|view| {
            let mut observed = view.series().filter(|series| series.family.kind == MetricKind::Histogram);
            observed.any(|series| {
                filter.wants_shard(series.shard) && filter.wants(Some(&Series::of(&series)), prefix)
            })
        });
        // A sample that came all the same tells that some do.
        if !is_wanted && self.shards.iter().all(|tap| tap.printed == 0) {
            note(&format!(
                "no series of histogram kind matches {filter}; counters and gauges are in cells, see top or autopsy"
            ));
        }
    }

    fn tell_account(&self) {
        for tap in &self.shards {
            let Account { recorded, delivered, lost, unread } = tap.consumer.account();
            let shard = tap.shard.0;
            let mut text = format!(
                "shard {shard}: {recorded} recorded = {delivered} delivered + {lost} lost + {unread} unread; {} printed",
                tap.printed
            );
            if tap.unknown > 0 {
                text += &format!(", {} of no known series", tap.unknown);
            }
            note(&text);
        }
    }
}

fn is_absent(error: &SegmentError) -> bool {
    matches!(error, SegmentError::File { source, .. } if source.kind() == ErrorKind::NotFound)
}

fn how_it_ended(state: SegmentState, pid: u32) -> Option<String> {
    match state {
        SegmentState::Running => None,
        SegmentState::Closed => Some(format!("data plane process {pid} has ended")),
        SegmentState::Dead => Some(format!("data plane process {pid} died")),
        SegmentState::Damaged => Some("the data plane's segment is damaged".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_though_the_next_maker_holds_the_segment_for_a_moment() {
        use SegmentState::{Damaged, Dead, Running};
        let mut ending = Ending::default();
        let told = [Running, Dead, Dead, Running, Dead, Damaged].map(|state| ending.tell(state, 7));
        let died = Some("data plane process 7 died; waiting for the next one".to_owned());
        let damaged = Some("the data plane's segment is damaged; waiting for the next one".to_owned());
        assert_eq!(told, [None, died, None, None, None, damaged]);
    }
}
