//! What a segment says at one moment.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::segment::{SegmentError, SegmentInfo, SegmentState};
use relayscope_bridge::{Collector, Consumer, MetricId, MetricKind, SeriesView, Start, attach};

use crate::moment::Now;
use crate::series::Series;

/// All that is shown comes from one of these and those before it. What is not known is absent.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) now: Now,
    pub(crate) source: Source,
    /// In order of shard.
    pub(crate) shards: Vec<ShardReading>,
    /// Sorted by name.
    pub(crate) targets: Vec<TargetReading>,
    /// Sorted by name, then shard.
    pub(crate) counters: Vec<CounterReading>,
}

/// Where it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// There is no such file.
    Absent(String),
    /// There is one that is cut off, or makes no sense.
    Damaged(String),
    /// There is one that is not for this reader.
    Unreadable(String),
    /// There is one; never [`SegmentState::Damaged`].
    Segment(SegmentInfo, SegmentState),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ShardReading {
    pub(crate) shard: u16,
    pub(crate) heartbeat_ns: Option<u64>,
    /// Samples ever.
    pub(crate) recorded: u64,
    pub(crate) capacity: u64,
    /// Samples recorded since the look before, up to the ring's capacity.
    pub(crate) waiting: u64,
    /// Samples overwritten before this reader saw them.
    pub(crate) lost: u64,
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) missed: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct TargetReading {
    pub(crate) name: Rc<str>,
    pub(crate) address: Rc<str>,
    pub(crate) shard: u16,
    pub(crate) up: Option<bool>,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) loss_pct: Option<f64>,
    pub(crate) jitter_ms: Option<f64>,
    pub(crate) last_reply_unix_seconds: Option<f64>,
    pub(crate) sent: Option<Count>,
    pub(crate) lost: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct CounterReading {
    /// As in a scrape, without prefix.
    pub(crate) series: Rc<str>,
    pub(crate) shard: u16,
    pub(crate) count: Count,
}

/// A counter's total, and which series' it is: rates are of two totals of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Id and incarnation.
    pub(crate) series: (u32, u64),
    pub(crate) total: u64,
}

impl Reading {
    pub(crate) fn of_nothing(now: Now, source: Source) -> Self {
        Self { now, source, shards: Vec::new(), targets: Vec::new(), counters: Vec::new() }
    }
}

/// Reads the segment that has a name, and after it the next one.
pub(crate) struct Reader {
    path: PathBuf,
    watched: Option<Watched>,
}

struct Watched {
    collector: Collector,
    /// Passive readers from the first look on, in order of shard.
    taps: Vec<Consumer>,
    known: Known,
}

/// Which series there are, as of a generation of the directory: names are made once.
#[derive(Default)]
struct Known {
    generation: Option<u64>,
    counters: Vec<KnownCounter>,
    targets: Vec<KnownTarget>,
    /// In order of shard: lag and missed slots.
    shards: Vec<(Option<MetricId>, Option<MetricId>)>,
}

struct KnownCounter {
    id: MetricId,
    incarnation: u64,
    text: Rc<str>,
    shard: u16,
}

struct KnownTarget {
    name: Rc<str>,
    address: Rc<str>,
    shard: u16,
    up: Option<MetricId>,
    rtt_ms: Option<MetricId>,
    loss_pct: Option<MetricId>,
    jitter_ms: Option<MetricId>,
    last_reply: Option<MetricId>,
    sent: Option<(MetricId, u64)>,
    lost: Option<MetricId>,
}

impl Reader {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), watched: None }
    }

    /// What the segment of that name says now, or why there is none to read.
    pub(crate) fn read(&mut self, now: Now) -> Reading {
        let is_over = |watched: &mut Watched| {
            let attachment = watched.collector.attachment();
            attachment.is_replaced() || attachment.state() == SegmentState::Damaged
        };
        self.watched.take_if(is_over);
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => match attach(&self.path) {
                Ok(collector) => Watched::new(collector),
                Err(error) => return Reading::of_nothing(now, why_not(&error)),
            },
        };
        self.watched.insert(watched).read(now)
    }
}

fn why_not(error: &SegmentError) -> Source {
    match error {
        SegmentError::File { source, .. } if source.kind() == ErrorKind::NotFound => {
            Source::Absent(error.to_string())
        }
        SegmentError::Header { .. }
        | SegmentError::Length { .. }
        | SegmentError::EndMark { .. }
        | SegmentError::Unfinished { .. } => Source::Damaged(error.to_string()),
        _ => Source::Unreadable(error.to_string()),
    }
}

impl Watched {
    fn new(collector: Collector) -> Self {
        let taps = collector.shards().map(|(_, reader)| reader.tap(Start::Now)).collect();
        Self { collector, taps, known: Known::default() }
    }

    fn read(&mut self, now: Now) -> Reading {
        let Self { collector, taps, known } = self;
        let mut reading = collector.directory().read(|view| {
            known.follow(view, taps.len());
            Reading {
                counters: known.counters.iter().filter_map(|counter| counter.read(view)).collect(),
                targets: known.targets.iter().map(|target| target.read(view)).collect(),
                shards: known.shards.iter().map(|ids| read_cells(*ids, view)).collect(),
                ..Reading::of_nothing(now, Source::Absent(String::new()))
            }
        });
        for ((cells, tap), (shard, reader)) in reading.shards.iter_mut().zip(taps).zip(collector.shards()) {
            cells.shard = shard.0;
            cells.heartbeat_ns = reader.heartbeat().last_ns();
            cells.recorded = reader.account().recorded;
            cells.capacity = reader.capacity();
            cells.waiting = tap.account().unread.min(reader.capacity());
            tap.drain(|_| {});
            cells.lost = tap.account().lost;
        }
        // Last: what was read before was the maker's if it is not damaged now.
        let attachment = collector.attachment();
        match attachment.state() {
            SegmentState::Damaged => {
                let why = "the segment shrank or lost its header while it was read";
                Reading::of_nothing(now, Source::Damaged(why.to_owned()))
            }
            state => Reading { source: Source::Segment(attachment.info(), state), ..reading },
        }
    }
}

fn read_cells((lag, missed): (Option<MetricId>, Option<MetricId>), view: &SeriesView<'_>) -> ShardReading {
    ShardReading {
        lag_seconds: lag.and_then(|id| view.gauge(id)),
        missed: missed.and_then(|id| view.counter(id)),
        ..ShardReading::default()
    }
}

impl Known {
    /// O(1) while the directory stands still, O(series) after it changed.
    fn follow(&mut self, view: &SeriesView<'_>, shards: usize) {
        if self.generation == Some(view.generation()) {
            return;
        }
        let mut counters: Vec<_> = view
            .series()
            .filter(|series| series.family.kind == MetricKind::Counter)
            .map(|series| KnownCounter {
                id: series.id,
                incarnation: series.incarnation,
                text: Series::of(&series).text("").into(),
                shard: series.shard.0,
            })
            .collect();
        counters.sort_by(|a, b| (&a.text, a.shard).cmp(&(&b.text, b.shard)));
        let incarnations = counters.iter().map(|counter| (counter.id, counter.incarnation)).collect();
        let info = view.series().filter(|series| *series.family == catalogue::TARGET_INFO);
        let mut targets: Vec<_> = info
            .filter_map(|series| {
                let [name, address, ..] = series.values else { return None };
                Some(KnownTarget::find(name, address, series.shard.0, view, &incarnations))
            })
            .collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        let of_shard = |family: &Family, shard: usize| find(view, family, &shard.to_string());
        self.shards = (0..shards)
            .map(|shard| {
                (
                    of_shard(&catalogue::SHARD_SCHEDULE_LAG, shard),
                    of_shard(&catalogue::SHARD_MISSED_SLOTS, shard),
                )
            })
            .collect();
        (self.counters, self.targets) = (counters, targets);
        self.generation = Some(view.generation());
    }
}

fn find(view: &SeriesView<'_>, family: &Family, value: &str) -> Option<MetricId> {
    view.find(family, &[value]).first().copied()
}

impl KnownCounter {
    fn read(&self, view: &SeriesView<'_>) -> Option<CounterReading> {
        let count = Count { series: (self.id.0, self.incarnation), total: view.counter(self.id)? };
        Some(CounterReading { series: Rc::clone(&self.text), shard: self.shard, count })
    }
}

impl KnownTarget {
    fn find(
        name: &str,
        address: &str,
        shard: u16,
        view: &SeriesView<'_>,
        incarnations: &HashMap<MetricId, u64>,
    ) -> Self {
        let id = |family| find(view, family, name);
        let sent = id(&catalogue::PROBE_SENT).and_then(|id| Some((id, *incarnations.get(&id)?)));
        Self {
            name: name.into(),
            address: address.into(),
            shard,
            up: id(&catalogue::PROBE_UP),
            rtt_ms: id(&catalogue::PROBE_RTT_MS),
            loss_pct: id(&catalogue::PROBE_LOSS_PCT),
            jitter_ms: id(&catalogue::PROBE_JITTER_MS),
            last_reply: id(&catalogue::PROBE_LAST_REPLY),
            sent,
            lost: id(&catalogue::PROBE_LOST),
        }
    }

    fn read(&self, view: &SeriesView<'_>) -> TargetReading {
        let gauge = |id: Option<MetricId>| id.and_then(|id| view.gauge(id));
        TargetReading {
            name: Rc::clone(&self.name),
            address: Rc::clone(&self.address),
            shard: self.shard,
            up: gauge(self.up).map(|up| up > 0.0),
            rtt_ms: gauge(self.rtt_ms),
            loss_pct: gauge(self.loss_pct),
            jitter_ms: gauge(self.jitter_ms),
            last_reply_unix_seconds: gauge(self.last_reply),
            sent: self.sent.and_then(|(id, incarnation)| {
                Some(Count { series: (id.0, incarnation), total: view.counter(id)? })
            }),
            lost: self.lost.and_then(|id| view.counter(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_whose_end_is_gone_is_damaged_and_not_somebody_elses() {
        let error = SegmentError::EndMark { path: PathBuf::from("s") };
        let expected = "segment s is damaged: the mark at its end is gone; start the data plane again";
        assert_eq!(why_not(&error), Source::Damaged(expected.to_owned()));
    }
}
