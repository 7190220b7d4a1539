//! What is known of each peer: the latest samples of each of its metrics, and whether they still hold.
//!
//! A peer is a target by its name, whichever of its address families answers. It has a new sample when a probe of it
//! settled since it was last looked at. Samples are kept by name, so that they outlive a restart of the data plane;
//! their age counts on this host's monotonic clock from when they were seen here, whatever clock the peer goes by.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::roster::TargetReading;

/// Most samples a window holds.
pub(crate) const WINDOW_MAX: usize = 64;
/// A peer that is missing from the list for as long is gone. A data plane that starts again names its targets one
/// after the other.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// A metric holds for at least as many times as its samples are apart, however short the time to live is.
const CADENCES: u32 = 3;

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMetric {
    /// Round-trip time of the newest answered probe.
    Rtt,
    /// Loss over the data plane's window of settled probes.
    Loss,
    /// Jitter over that window (IPDV).
    Jitter,
    /// Whether the newest settled probe was answered: 1 or 0.
    Up,
}

impl PeerMetric {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Rtt, Self::Loss, Self::Jitter, Self::Up];

    /// As in `/api/v1/last/{metric}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Loss => "loss",
            Self::Jitter => "jitter",
            Self::Up => "up",
        }
    }

    /// What its values are measured in; a bare number for `up`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rtt | Self::Jitter => "seconds",
            Self::Loss => "ratio",
            Self::Up => "boolean",
        }
    }

    /// The metric of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == name)
    }
}

impl fmt::Display for PeerMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long samples are kept and hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// Samples of each metric and peer.
    pub(crate) window: usize,
    /// From the receipt of a sample, or [`CADENCES`] times the time from sample to sample where that is longer.
    pub(crate) ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at_ns: u64,
    pub(crate) value: f64,
}

/// The latest samples of one metric of one peer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Sample>);

impl Window {
    fn push(&mut self, sample: Sample, keeping: Keeping) {
        if self.0.is_empty() {
            // What grows by doubling takes more than it needs, ten thousand times.
            self.0.reserve_exact(keeping.window);
        }
        while self.0.len() >= keeping.window {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        self.0.back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The median time from sample to sample; unknown before the third.
    fn cadence(&self) -> Option<Duration> {
        let mut gaps = [0; WINDOW_MAX];
        let count = self.0.len().saturating_sub(1);
        for ((gap, earlier), later) in gaps.iter_mut().zip(&self.0).zip(self.0.iter().skip(1)) {
            *gap = later.at_ns.saturating_sub(earlier.at_ns);
        }
        let gaps = &mut gaps[..count];
        gaps.sort_unstable();
        (count >= 2).then(|| Duration::from_nanos(gaps[count / 2]))
    }

    /// For how long the newest sample holds.
    pub(crate) fn ttl(&self, keeping: Keeping) -> Duration {
        self.cadence().map_or(keeping.ttl, |cadence| keeping.ttl.max(CADENCES * cadence))
    }

    /// The newest sample, while it holds.
    fn valid(&self, keeping: Keeping, now: Now) -> Option<Sample> {
        self.last().filter(|sample| {
            let age = now.since(sample.at_ns);
            // The cadence takes longer to find, and is not asked for in most cases.
            age <= keeping.ttl || age <= self.ttl(keeping)
        })
    }
}

/// What a sample of a peer says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Observation {
    /// Whose counters `settled` and `lost` are.
    pub(crate) family: usize,
    pub(crate) settled: u64,
    pub(crate) lost: u64,
    pub(crate) up: bool,
    pub(crate) rtt_seconds: Option<f64>,
    pub(crate) loss_ratio: Option<f64>,
    pub(crate) jitter_seconds: Option<f64>,
}

impl Observation {
    /// `None` before the first probe has settled.
    pub(crate) fn of(reading: &TargetReading<'_>, family: usize) -> Option<Self> {
        let (received, lost) = (reading.received?, reading.lost?);
        let up = reading.up?;
        Some(Self {
            family,
            // Of a damaged segment they may be any numbers.
            settled: received.saturating_add(lost),
            lost,
            up,
            rtt_seconds: reading.rtt_seconds.filter(|_| up),
            loss_ratio: reading.loss_ratio,
            jitter_seconds: reading.jitter_seconds,
        })
    }

    fn value(&self, metric: PeerMetric) -> Option<f64> {
        match metric {
            PeerMetric::Rtt => self.rtt_seconds,
            PeerMetric::Loss => self.loss_ratio,
            PeerMetric::Jitter => self.jitter_seconds,
            PeerMetric::Up => Some(f64::from(u8::from(self.up))),
        }
    }
}

/// One peer, and what its watcher makes of it.
#[derive(Debug)]
pub(crate) struct Peer<S> {
    pub(crate) name: Arc<str>,
    pub(crate) state: S,
    /// In the order of [`PeerMetric::ALL`].
    windows: [Window; PeerMetric::ALL.len()],
    /// By family, the probes settled when it was last looked at.
    settled: [Option<u64>; FAMILIES],
    /// Until then nothing could be known, so that nothing expired.
    watched_from_ns: u64,
    /// Since when it is not in the list.
    missing_since_ns: Option<u64>,
}

pub(crate) const FAMILIES: usize = 2;

impl<S: Default> Peer<S> {
    fn new(name: &str, now: Now) -> Self {
        Self {
            name: name.into(),
            state: S::default(),
            windows: Default::default(),
            settled: [None; FAMILIES],
            watched_from_ns: now.monotonic_ns,
            missing_since_ns: None,
        }
    }
}

impl<S> Peer<S> {
    /// Whether a probe settled since; at first sight it is not known when it did.
    pub(crate) fn has_settled(&mut self, family: usize, settled: u64) -> bool {
        let Some(before) = self.settled.get_mut(family) else { return false };
        before.replace(settled).is_some_and(|before| before != settled) && settled > 0
    }

    /// Takes in a new sample, received now.
    pub(crate) fn take(&mut self, observation: &Observation, keeping: Keeping, now: Now) {
        for (metric, window) in PeerMetric::ALL.into_iter().zip(&mut self.windows) {
            if let Some(value) = observation.value(metric) {
                window.push(Sample { at_ns: now.monotonic_ns, value }, keeping);
            }
        }
    }

    /// Nothing can be known of it: its shard does not run. What is kept does not expire meanwhile.
    pub(crate) fn suspend(&mut self, now: Now) {
        self.watched_from_ns = now.monotonic_ns;
    }

    pub(crate) fn window(&self, metric: PeerMetric) -> &Window {
        &self.windows[metric as usize]
    }

    /// For how long nothing came of it, where that is longer than what came last holds. Whether a peer answers comes
    /// with every sample; the other metrics are absent by right while it does not. One that is probed more rarely
    /// than the time to live is known by its third sample, and silent only after that.
    pub(crate) fn silent_for(&self, keeping: Keeping, now: Now) -> Option<Duration> {
        let window = self.window(PeerMetric::Up);
        let last = window.last()?;
        let since = now.since(last.at_ns.max(self.watched_from_ns));
        if since <= keeping.ttl {
            return None;
        }
        let holds = window.cadence().map(|cadence| keeping.ttl.max(CADENCES * cadence))?;
        (since > holds).then(|| now.since(last.at_ns))
    }

    pub(crate) fn is_current(&self) -> bool {
        self.missing_since_ns.is_none()
    }

    /// The newest sample of a metric, while it holds.
    pub(crate) fn last(&self, metric: PeerMetric, keeping: Keeping, now: Now) -> Option<Sample> {
        self.window(metric).valid(keeping, now)
    }
}

/// All peers, by name. Told the time; touches no socket and no clock.
#[derive(Debug, Default)]
pub(crate) struct PeerMonitor<S> {
    /// Sorted by name.
    peers: Vec<Peer<S>>,
}

impl<S: Default> PeerMonitor<S> {
    /// The list is now that of `names`, sorted. O(names + peers).
    pub(crate) fn follow<'a>(&mut self, names: impl Iterator<Item = &'a str>, now: Now) {
        let mut known = std::mem::take(&mut self.peers).into_iter().peekable();
        for name in names {
            while let Some(missing) = known.next_if(|peer| *peer.name < *name) {
                self.peers.push(missing.missing(now));
            }
            let found = known.next_if(|peer| *peer.name == *name);
            let found = found.map(|peer| Peer { missing_since_ns: None, ..peer });
            self.peers.push(found.unwrap_or_else(|| Peer::new(name, now)));
        }
        self.peers.extend(known.map(|peer| peer.missing(now)));
    }

    /// Those that are gone for good, forgotten by this.
    pub(crate) fn forget_gone(&mut self, now: Now) -> Vec<Arc<str>> {
        let is_gone =
            |peer: &mut Peer<S>| peer.missing_since_ns.is_some_and(|since| now.since(since) >= GONE_AFTER);
        self.peers.extract_if(.., is_gone).map(|peer| peer.name).collect()
    }

    /// Those in the list, in the order of names.
    pub(crate) fn current_mut(&mut self) -> impl Iterator<Item = &mut Peer<S>> {
        self.peers.iter_mut().filter(|peer| peer.is_current())
    }

    /// As [`current_mut`](Self::current_mut).
    pub(crate) fn current(&self) -> impl Iterator<Item = &Peer<S>> {
        self.peers.iter().filter(|peer| peer.is_current())
    }

    /// Nothing can be known of any.
    pub(crate) fn suspend(&mut self, now: Now) {
        self.peers.iter_mut().for_each(|peer| {
            peer.suspend(now);
            // Nor whether it is in the list.
            peer.missing_since_ns = peer.missing_since_ns.map(|_| now.monotonic_ns);
        });
    }
}

impl<S> Peer<S> {
    fn missing(self, now: Now) -> Self {
        Self { missing_since_ns: self.missing_since_ns.or(Some(now.monotonic_ns)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::ShardId;

    use super::*;
    use crate::roster::Target;

    const SECOND: u64 = 1_000_000_000;
    const KEEPING: Keeping = Keeping { window: 3, ttl: Duration::from_secs(5) };

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * SECOND, unix_ns: 0 }
    }

    fn observation(up: bool) -> Observation {
        Observation {
            family: 0,
            settled: 1,
            lost: 0,
            up,
            rtt_seconds: up.then_some(0.25),
            loss_ratio: Some(0.5),
            jitter_seconds: None,
        }
    }

    fn peer(samples: &[(u64, bool)]) -> Peer<()> {
        let mut peer = Peer::new("b", at(0));
        for (seconds, up) in samples {
            peer.take(&observation(*up), KEEPING, at(*seconds));
        }
        peer
    }

    fn last(peer: &Peer<()>, metric: PeerMetric, seconds: u64) -> Option<f64> {
        peer.last(metric, KEEPING, at(seconds)).map(|sample| sample.value)
    }

    #[test]
    fn a_window_keeps_the_latest_samples_of_each_metric_on_its_own() {
        let peer = peer(&[(1, true), (2, false), (3, false), (4, false), (5, false)]);
        assert_eq!(peer.window(PeerMetric::Up).len(), 3);
        assert_eq!(peer.window(PeerMetric::Up).last(), Some(Sample { at_ns: 5 * SECOND, value: 0.0 }));
        assert_eq!(peer.window(PeerMetric::Rtt).last(), Some(Sample { at_ns: SECOND, value: 0.25 }));
        assert_eq!(peer.window(PeerMetric::Jitter).last(), None);
    }

    #[test]
    fn last_answers_while_the_time_to_live_lasts_and_not_a_moment_longer() {
        let peer = peer(&[(10, true)]);
        assert_eq!(last(&peer, PeerMetric::Rtt, 15), Some(0.25));
        assert_eq!(
            peer.last(PeerMetric::Rtt, KEEPING, Now { monotonic_ns: 15 * SECOND + 1, unix_ns: 0 }),
            None
        );
        assert_eq!(last(&peer, PeerMetric::Jitter, 10), None);
    }

    #[test]
    fn what_is_probed_more_rarely_than_the_time_to_live_holds_three_times_as_long_as_its_samples_are_apart() {
        let peer = peer(&[(10, true), (20, true), (30, true)]);
        assert_eq!(last(&peer, PeerMetric::Up, 60), Some(1.0));
        assert_eq!(last(&peer, PeerMetric::Up, 61), None);
        assert_eq!(peer.silent_for(KEEPING, at(60)), None);
        assert_eq!(peer.silent_for(KEEPING, at(61)), Some(Duration::from_secs(31)));
    }

    #[test]
    fn a_peer_whose_cadence_is_not_known_yet_is_not_silent() {
        assert_eq!(peer(&[]).silent_for(KEEPING, at(1000)), None);
        assert_eq!(peer(&[(1, true), (2, true)]).silent_for(KEEPING, at(1000)), None);
        assert!(peer(&[(1, true), (2, true), (3, true)]).silent_for(KEEPING, at(9)).is_some());
    }

    #[test]
    fn a_peer_that_is_down_is_not_silent_though_its_rtt_has_expired() {
        let peer = peer(&[(1, true), (7, false), (8, false), (9, false)]);
        assert_eq!(last(&peer, PeerMetric::Rtt, 9), None);
        assert_eq!(last(&peer, PeerMetric::Up, 9), Some(0.0));
        assert_eq!(peer.silent_for(KEEPING, at(9)), None);
    }

    #[test]
    fn what_could_not_be_watched_does_not_expire_but_is_not_shown_as_live_either() {
        let mut peer = peer(&[(1, true), (2, true), (3, true)]);
        peer.suspend(at(60));
        assert_eq!(peer.silent_for(KEEPING, at(65)), None);
        assert_eq!(last(&peer, PeerMetric::Up, 65), None);
        assert_eq!(peer.silent_for(KEEPING, at(66)), Some(Duration::from_secs(63)));
    }

    #[test]
    fn totals_that_no_probing_can_reach_are_taken_as_they_are() {
        let target = Target { name: "b".to_owned(), endpoint: None, shard: ShardId(0) };
        let reading = TargetReading {
            target: &target,
            up: Some(true),
            rtt_seconds: None,
            loss_ratio: None,
            jitter_seconds: None,
            last_reply_unix_seconds: None,
            sent: None,
            received: Some(u64::MAX),
            lost: Some(2),
            sent_series: None,
        };
        let observation = Observation::of(&reading, 0).unwrap();
        assert_eq!((observation.settled, observation.lost), (u64::MAX, 2));
    }

    #[test]
    fn a_sample_is_new_when_its_probes_settled_since_the_first_look() {
        let mut peer = peer(&[]);
        assert!(!peer.has_settled(0, 7), "it is not known when those settled");
        assert!(!peer.has_settled(0, 7));
        assert!(peer.has_settled(0, 8));
        assert!(!peer.has_settled(1, 8), "the other family's first look");
        assert!(!peer.has_settled(0, 0), "begun anew, and none has settled yet");
        assert!(peer.has_settled(0, 1));
    }

    #[test]
    fn samples_stay_with_a_name_that_comes_back_in_time() {
        let mut monitor = PeerMonitor::<()>::default();
        let names = |monitor: &PeerMonitor<()>| {
            monitor.current().map(|peer| peer.name.to_string()).collect::<Vec<_>>()
        };
        monitor.follow(["b", "d"].into_iter(), at(1));
        for peer in monitor.current_mut() {
            peer.take(&observation(true), KEEPING, at(1));
        }
        monitor.follow(["a", "d", "e"].into_iter(), at(2));
        assert_eq!(names(&monitor), ["a", "d", "e"]);
        assert_eq!(monitor.forget_gone(at(6)), []);
        monitor.follow(["a", "b"].into_iter(), at(6));
        let held: Vec<_> = monitor.current().map(|peer| last(peer, PeerMetric::Up, 6)).collect();
        assert_eq!(held, [None, Some(1.0)]);
        assert_eq!(monitor.forget_gone(at(11)), [Arc::from("d"), Arc::from("e")]);
        assert_eq!(names(&monitor), ["a", "b"]);
    }

    #[test]
    fn nobody_is_gone_while_there_is_no_list_to_be_in() {
        let mut monitor = PeerMonitor::<()>::default();
        monitor.follow(["b"].into_iter(), at(1));
        monitor.follow(std::iter::empty(), at(2));
        monitor.suspend(at(100));
        assert_eq!(monitor.forget_gone(at(104)), []);
        assert_eq!(monitor.forget_gone(at(105)), [Arc::from("b")]);
    }
}
