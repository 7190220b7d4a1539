//! From readings to what can be shown: rates, ages, and what is known no longer. It reads no clock.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use relayscope_bridge::segment::{SegmentInfo, SegmentState};
use relayscope_controlplane::MeshState;

use super::reading::{Count, Reading, ShardReading, Source, TargetReading};
use crate::moment::{Now, SegmentClock};

/// Rates are over the last three seconds: at one probe a second a shorter time shows the rhythm of the looks.
const RATE_WINDOW: Duration = Duration::from_secs(3);
/// Looks that are meant to lie a window apart may lie this much closer: they come some milliseconds late.
const LOOK_JITTER: Duration = Duration::from_millis(100);
/// Readings kept to rate against.
const BASES_MAX: u32 = 6;
/// A shard that signed no life for this long is silent, as in `/healthz`.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// Looks that the sparkline remembers: more than a terminal is wide.
const HISTORY_MAX: usize = 1024;

/// What is shown.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: Now,
    /// Which segment, if there is one.
    segment: Option<SegmentInfo>,
    bases: VecDeque<Base>,
    pub(crate) shards: Vec<ShardRow>,
    pub(crate) peers: Vec<PeerRow>,
    pub(crate) counters: Vec<CounterRow>,
    /// Samples per second over all shards, newest last; none where nothing was known.
    pub(crate) history: VecDeque<Option<f64>>,
    /// When the last shard to do so signed life, on the segment's clock.
    pub(crate) newest_heartbeat_ns: Option<u64>,
}

/// What was counted at a moment.
struct Base {
    monotonic_ns: u64,
    recorded: Vec<u64>,
    counts: HashMap<(u32, u64), u64>,
}

pub(crate) struct ShardRow {
    pub(crate) shard: u16,
    pub(crate) name: String,
    /// None before the first heartbeat, and of an earlier boot.
    pub(crate) heartbeat_age: Option<Duration>,
    pub(crate) samples_per_second: Option<f64>,
    /// How full this reader found the ring.
    pub(crate) ring_ratio: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) missed: Option<u64>,
    pub(crate) recorded: u64,
    pub(crate) capacity: u64,
    /// Ended or silent: what it wrote last is not how things are.
    pub(crate) stale: bool,
}

/// A target by one of its address families.
pub(crate) struct PeerRow {
    pub(crate) target: Rc<str>,
    /// See [`TargetReading::title`].
    pub(crate) name: Rc<str>,
    pub(crate) state: MeshState,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) loss_pct: Option<f64>,
    pub(crate) jitter_ms: Option<f64>,
    pub(crate) sent_per_second: Option<f64>,
    pub(crate) last_reply_age: Option<Duration>,
    pub(crate) sent: Option<u64>,
    pub(crate) lost: Option<u64>,
    pub(crate) address: Rc<str>,
}

pub(crate) struct CounterRow {
    pub(crate) series: Rc<str>,
    pub(crate) shard: u16,
    pub(crate) per_second: Option<f64>,
    pub(crate) total: u64,
    pub(crate) stale: bool,
}

impl Model {
    /// Takes in what was read at `reading.now`.
    pub(crate) fn observe(&mut self, reading: Reading) {
        let (segment, is_running) = match &reading.source {
            Source::Segment(info, state) => (Some(*info), *state == SegmentState::Running),
            Source::Absent(_) | Source::Damaged(_) | Source::Unreadable(_) => (None, false),
        };
        // Another data plane counts from nothing.
        if segment != self.segment {
            self.bases.clear();
            self.segment = segment;
        }
        let now = reading.now;
        self.now = now;
        let clock = segment.map(|segment| SegmentClock::new(&segment, now));
        let age = |shard: &ShardReading| clock.and_then(|clock| clock.age(shard.heartbeat_ns?));
        // A shard that never signed life has the whole staleness to begin.
        let since_start =
            clock.zip(segment).and_then(|(clock, segment)| clock.age(segment.start_monotonic_ns));
        let is_silent = |shard: &ShardReading| age(shard).or(since_start).is_none_or(|age| age > STALE_AFTER);
        let stale: Vec<bool> = reading.shards.iter().map(|shard| !is_running || is_silent(shard)).collect();
        let is_stale = |shard: u16| stale.get(usize::from(shard)).copied().unwrap_or(true);

        // The newest base that is a whole window old is the one to rate against.
        let is_old = |base: &Base| now.since(base.monotonic_ns) + LOOK_JITTER >= RATE_WINDOW;
        while self.bases.get(1).is_some_and(is_old) {
            self.bases.pop_front();
        }
        let base = self.bases.front();
        let rates = Rates { base, elapsed: base.map(|base| now.since(base.monotonic_ns)) };
        self.newest_heartbeat_ns = reading.shards.iter().filter_map(|shard| shard.heartbeat_ns).max();
        self.shards = (reading.shards.iter())
            .map(|shard| shard_row(shard, age(shard), is_stale(shard.shard), &rates))
            .collect();
        self.peers = (reading.targets.iter())
            .map(|target| peer_row(target, is_stale(target.shard), now, &rates))
            .collect();
        self.counters = (reading.counters.iter())
            .map(|counter| CounterRow {
                series: Rc::clone(&counter.series),
                shard: counter.shard,
                per_second: rates.of(counter.count).filter(|_| !is_stale(counter.shard)),
                total: counter.count.total,
                stale: is_stale(counter.shard),
            })
            .collect();
        self.remember(&reading);
    }

    /// Targets, and of these those that are up by one of their families.
    pub(crate) fn count_peers(&self) -> (usize, usize) {
        let names = || self.peers.chunk_by(|a, b| a.target == b.target);
        let up = names().filter(|rows| rows.iter().any(|row| row.state == MeshState::Up)).count();
        (names().count(), up)
    }

    /// Samples per second over all shards that are known to run; `None` where none is.
    pub(crate) fn samples_per_second(&self) -> Option<f64> {
        self.shards.iter().filter_map(|shard| shard.samples_per_second).reduce(|a, b| a + b)
    }

    fn remember(&mut self, reading: &Reading) {
        self.history.push_back(self.samples_per_second());
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        let now = reading.now;
        let spacing = RATE_WINDOW / BASES_MAX - LOOK_JITTER;
        if self.bases.back().is_none_or(|newest| now.since(newest.monotonic_ns) >= spacing) {
            self.bases.push_back(Base {
                monotonic_ns: now.monotonic_ns,
                recorded: reading.shards.iter().map(|shard| shard.recorded).collect(),
                counts: reading.counters.iter().map(|c| (c.count.series, c.count.total)).collect(),
            });
        }
    }
}

/// Increases per second since a base.
struct Rates<'a> {
    base: Option<&'a Base>,
    elapsed: Option<Duration>,
}

impl Rates<'_> {
    /// `None` for a series that is younger than the base, or was counted down.
    fn of(&self, count: Count) -> Option<f64> {
        self.per_second(count.total.checked_sub(*self.base?.counts.get(&count.series)?)?)
    }

    fn of_ring(&self, shard: &ShardReading) -> Option<f64> {
        let before = self.base?.recorded.get(usize::from(shard.shard))?;
        self.per_second(shard.recorded.checked_sub(*before)?)
    }

    fn per_second(&self, increase: u64) -> Option<f64> {
        let seconds = self.elapsed?.as_secs_f64();
        (seconds > 0.0).then(|| increase as f64 / seconds)
    }
}

fn shard_row(shard: &ShardReading, age: Option<Duration>, stale: bool, rates: &Rates<'_>) -> ShardRow {
    let ratio = shard.waiting as f64 / shard.capacity.max(1) as f64;
    ShardRow {
        shard: shard.shard,
        name: shard.shard.to_string(),
        heartbeat_age: age,
        samples_per_second: rates.of_ring(shard).filter(|_| !stale),
        ring_ratio: (!stale).then_some(ratio),
        lost: shard.lost,
        lag_seconds: shard.lag_seconds.filter(|_| !stale),
        missed: shard.missed,
        recorded: shard.recorded,
        capacity: shard.capacity,
        stale,
    }
}

fn peer_row(target: &TargetReading, stale: bool, now: Now, rates: &Rates<'_>) -> PeerRow {
    let live = |value: Option<f64>| value.filter(|_| !stale);
    let age = |at: f64| Duration::try_from_secs_f64((now.unix_ns as f64 / 1e9 - at).max(0.0)).ok();
    PeerRow {
        target: Rc::clone(&target.name),
        name: Rc::clone(&target.title),
        state: MeshState::of(target.up, stale),
        rtt_ms: live(target.rtt_ms),
        loss_pct: live(target.loss_pct),
        jitter_ms: live(target.jitter_ms),
        sent_per_second: live(target.sent.and_then(|sent| rates.of(sent))),
        last_reply_age: live(target.last_reply_unix_seconds).and_then(age),
        sent: target.sent.map(|sent| sent.total),
        lost: target.lost,
        address: Rc::clone(&target.address),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::reading::CounterReading;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    pub(crate) fn at(seconds: f64) -> Now {
        let ns = (seconds * 1e9) as u64;
        Now { monotonic_ns: ns, unix_ns: 1_700_000_000 * SECOND + ns }
    }

    pub(crate) fn segment(generation: u64) -> SegmentInfo {
        SegmentInfo {
            generation,
            pid: 4242,
            start_unix_ns: 1_700_000_000 * SECOND,
            start_monotonic_ns: 0,
            this_boot: true,
            shards: 1,
            ring_capacity: 1024,
            bytes: 4096,
        }
    }

    /// One shard that beats and has recorded 10 samples a second, one target that answers, one counter.
    pub(crate) fn reading(seconds: f64) -> Reading {
        let sent = Count { series: (7, 2), total: (2.0 * seconds) as u64 };
        Reading {
            now: at(seconds),
            source: Source::Segment(segment(1), SegmentState::Running),
            shards: vec![ShardReading {
                shard: 0,
                heartbeat_ns: Some(at(seconds - 0.1).monotonic_ns),
                recorded: (10.0 * seconds) as u64,
                capacity: 1024,
                waiting: 512,
                lost: 3,
                lag_seconds: Some(0.0005),
                missed: Some(1),
            }],
            targets: vec![TargetReading {
                name: "b".into(),
                title: "b".into(),
                address: "192.0.2.7:8620".into(),
                shard: 0,
                up: Some(true),
                rtt_ms: Some(0.182),
                loss_pct: Some(1.5),
                jitter_ms: Some(0.021),
                last_reply_unix_seconds: Some(1_700_000_000.0 + seconds - 0.5),
                sent: Some(sent),
                lost: Some(4),
            }],
            counters: vec![CounterReading {
                series: "probe_sent_total{target=\"b\",family=\"ipv4\"}".into(),
                shard: 0,
                count: sent,
            }],
        }
    }

    fn after(readings: impl IntoIterator<Item = Reading>) -> Model {
        let mut model = Model::default();
        readings.into_iter().for_each(|reading| model.observe(reading));
        model
    }

    fn rates(model: &Model) -> [Option<f64>; 3] {
        let (shard, peer, counter) = (&model.shards[0], &model.peers[0], &model.counters[0]);
        [shard.samples_per_second, peer.sent_per_second, counter.per_second]
    }

    #[test]
    fn a_rate_is_of_two_readings_and_the_time_that_lay_between() {
        assert_eq!(rates(&after([reading(100.0)])), [None; 3], "of one reading there is no rate");
        let model = after([reading(100.0), reading(102.0)]);
        assert_eq!(rates(&model), [Some(10.0), Some(2.0), Some(2.0)]);
        let late = after([reading(100.0), reading(140.0)]);
        assert_eq!(rates(&late), [Some(10.0), Some(2.0), Some(2.0)], "a look that came late rates the same");
        assert_eq!(model.history, [None, Some(10.0)]);
    }

    #[test]
    fn a_rate_is_over_the_last_three_seconds_however_often_it_is_looked_at() {
        let mut model = after((0..100).map(|look| reading(100.0 + 0.1 * f64::from(look))));
        assert!(model.bases.len() <= 8, "{} bases", model.bases.len());
        // Nothing is sent any more.
        let last = reading(109.9).counters;
        for look in 0..40 {
            let now = 110.0 + 0.1 * f64::from(look);
            model.observe(Reading { counters: last.clone(), ..reading(now) });
        }
        assert_eq!(model.counters[0].per_second, Some(0.0));
    }

    #[test]
    fn a_series_that_took_over_an_id_is_not_rated_against_the_one_before() {
        let mut next = reading(102.0);
        next.counters[0].count = Count { series: (7, 4), total: 100_000 };
        next.targets[0].sent = Some(next.counters[0].count);
        let model = after([reading(100.0), next]);
        assert_eq!(rates(&model), [Some(10.0), None, None]);
    }

    #[test]
    fn another_data_plane_begins_anew() {
        let next = Reading { source: Source::Segment(segment(2), SegmentState::Running), ..reading(102.0) };
        assert_eq!(rates(&after([reading(100.0), next])), [None; 3]);
    }

    #[test]
    fn what_a_dead_data_plane_wrote_last_is_not_shown_as_live() {
        for state in [SegmentState::Dead, SegmentState::Closed] {
            let ended = Reading { source: Source::Segment(segment(1), state), ..reading(102.0) };
            let model = after([reading(100.0), ended]);
            assert_eq!(rates(&model), [None; 3]);
            let (shard, peer, counter) = (&model.shards[0], &model.peers[0], &model.counters[0]);
            assert!(shard.stale && counter.stale);
            assert_eq!((shard.ring_ratio, shard.lag_seconds), (None, None));
            assert_eq!(peer.state, MeshState::Stale);
            assert_eq!((peer.rtt_ms, peer.loss_pct, peer.jitter_ms), (None, None, None));
            assert_eq!(peer.last_reply_age, None);
            assert_eq!((peer.sent, counter.total), (Some(204), 204), "what was counted stays");
        }
    }

    #[test]
    fn a_shard_that_stands_still_for_five_seconds_is_silent() {
        let silent = |seconds: f64| {
            let mut reading = reading(seconds);
            reading.shards[0].heartbeat_ns = Some(at(100.0).monotonic_ns);
            after([reading]).shards[0].stale
        };
        assert!(!silent(105.0));
        assert!(silent(105.1));
        let unborn = |seconds: f64| {
            let mut reading = reading(seconds);
            reading.shards[0].heartbeat_ns = None;
            after([reading]).shards[0].stale
        };
        assert!(!unborn(5.0), "one that never beat has as long to begin");
        assert!(unborn(5.1));
    }

    #[test]
    fn a_heartbeat_that_is_yet_to_come_does_not_make_a_shard_live() {
        let mut damaged = reading(100.0);
        damaged.shards[0].heartbeat_ns = Some(u64::MAX);
        let model = after([damaged]);
        assert!(model.shards[0].stale);
        assert_eq!(model.shards[0].heartbeat_age, None);
    }

    #[test]
    fn a_target_of_two_families_is_one_and_up_by_either() {
        let mut reading = reading(100.0);
        let six = TargetReading { up: Some(false), title: "b ipv6".into(), ..reading.targets[0].clone() };
        reading.targets.push(six);
        let model = after([reading]);
        assert_eq!((model.peers.len(), model.count_peers()), (2, (1, 1)));
    }

    #[test]
    fn a_peer_without_a_settled_probe_is_pending_and_one_that_lost_it_is_down() {
        let state = |up| {
            let mut reading = reading(100.0);
            reading.targets[0].up = up;
            after([reading]).peers[0].state
        };
        assert_eq!(state(None), MeshState::Pending);
        assert_eq!(state(Some(false)), MeshState::Down);
        assert_eq!(state(Some(true)), MeshState::Up);
    }
}
