//! What a segment says at one moment.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::segment::{SegmentError, SegmentInfo, SegmentState};
use relayscope_bridge::{Collector, Consumer, MetricId, MetricKind, SeriesView, Start, attach};
use relayscope_controlplane as controlplane;
use relayscope_controlplane::{Endpoint, Roster};

use crate::moment::Now;
use crate::series::Series;

/// All that is shown comes from one of these and those before it. What is not known is absent.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) now: Now,
    pub(crate) source: Source,
    /// In order of shard.
    pub(crate) shards: Vec<ShardReading>,
    /// Sorted by name, then family.
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
    /// The name, and the family of one of two.
    pub(crate) title: Rc<str>,
    /// Empty while the name has none.
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
    roster: Option<Roster>,
    /// Those of the roster, in its order.
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
    title: Rc<str>,
    address: Rc<str>,
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
                targets: known.read_targets(view),
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
        let roster = Roster::read(view);
        self.targets = KnownTarget::all(&roster);
        self.roster = Some(roster);
        let of_shard = |family: &Family, shard: usize| find(view, family, &shard.to_string());
        self.shards = (0..shards)
            .map(|shard| {
                (
                    of_shard(&catalogue::SHARD_SCHEDULE_LAG, shard),
                    of_shard(&catalogue::SHARD_MISSED_SLOTS, shard),
                )
            })
            .collect();
        self.counters = counters;
        self.generation = Some(view.generation());
    }

    fn read_targets(&self, view: &SeriesView<'_>) -> Vec<TargetReading> {
        let readings = self.roster.iter().flat_map(|roster| roster.readings(view));
        self.targets.iter().zip(readings).map(|(target, reading)| target.read(&reading)).collect()
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
    fn all(roster: &Roster) -> Vec<Self> {
        let targets: Vec<_> = roster.targets().collect();
        let of_one_name = targets.chunk_by(|a, b| a.name == b.name);
        of_one_name
            .flat_map(|of_one| of_one.iter().map(|target| Self::of(target, of_one.len() > 1)))
            .collect()
    }

    /// Two of one name are told apart by their family; what is filtered and cut is this, too.
    fn of(target: &controlplane::Target, is_one_of_two: bool) -> Self {
        let (name, endpoint) = (target.name.as_str(), target.endpoint.as_ref());
        let family = endpoint.map(Endpoint::family).filter(|_| is_one_of_two);
        let address = endpoint.map_or_else(String::new, |endpoint| endpoint.address.to_string());
        Self {
            name: name.into(),
            title: family.map_or_else(|| name.into(), |family| format!("{name} {family}").into()),
            address: address.into(),
        }
    }

    fn read(&self, reading: &controlplane::TargetReading<'_>) -> TargetReading {
        let count =
            |((id, incarnation), total): ((MetricId, u64), u64)| Count { series: (id.0, incarnation), total };
        TargetReading {
            name: Rc::clone(&self.name),
            title: Rc::clone(&self.title),
            address: Rc::clone(&self.address),
            shard: reading.target.shard.0,
            up: reading.up,
            rtt_ms: reading.rtt_seconds.map(|seconds| seconds * 1e3),
            loss_pct: reading.loss_ratio.map(|ratio| ratio * 100.0),
            jitter_ms: reading.jitter_seconds.map(|seconds| seconds * 1e3),
            last_reply_unix_seconds: reading.last_reply_unix_seconds,
            sent: reading.sent_series.zip(reading.sent).map(count),
            lost: reading.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, ShardId, hub};

    use super::*;

    #[test]
    fn two_families_of_a_target_are_two_rows_told_apart_by_their_titles() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let gauge = |family, values: &[&str]| registry.gauge(ShardId(0), family, values).unwrap();
        for (name, address, family) in
            [("b", "192.0.2.7:862", "ipv4"), ("b", "[2001:db8::7]:862", "ipv6"), ("c", "[::1]:862", "ipv6")]
        {
            gauge(&catalogue::TARGET_INFO, &[name, address, family, "stamp", "default"]);
        }
        gauge(&catalogue::PROBE_FAMILY_UP, &["b", "ipv6"]).set(1.0);
        gauge(&catalogue::PROBE_UP, &["unresolved"]);
        registry.counter(ShardId(0), &catalogue::PROBE_SENT, &["b", "ipv6"]).unwrap().add(7);
        let mut known = Known::default();
        let targets = collector.directory().read(|view| {
            known.follow(view, 1);
            known.read_targets(view)
        });
        let told: Vec<_> = targets.iter().map(|t| (&*t.name, &*t.title, &*t.address, t.up)).collect();
        let expected = [
            ("b", "b ipv4", "192.0.2.7:862", None),
            ("b", "b ipv6", "[2001:db8::7]:862", Some(true)),
            ("c", "c", "[::1]:862", None),
            ("unresolved", "unresolved", "", None),
        ];
        assert_eq!(told, expected);
        let count = (known.counters[0].id.0, known.counters[0].incarnation);
        assert_eq!(
            targets[1].sent,
            Some(Count { series: count, total: 7 }),
            "as the counter's own row has it"
        );
    }

    #[test]
    fn a_segment_whose_end_is_gone_is_damaged_and_not_somebody_elses() {
        let error = SegmentError::EndMark { path: PathBuf::from("s") };
        let expected = "segment s is damaged: the mark at its end is gone; start the data plane again";
        assert_eq!(why_not(&error), Source::Damaged(expected.to_owned()));
    }
}
