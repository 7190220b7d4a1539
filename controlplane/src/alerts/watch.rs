//! From what the data plane says to what there is to be told: one look after the other, each told the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::SeriesView;

use super::alert::{AlertName, Severity, Subject};
use super::book::{AlertBook, Transition};
use super::events::{AlertEvents, Lost, SubscriberId, Subscribers, TooManySubscribers};
use super::judge::{Finding, Lasting, OF_SAMPLES, PeerJudge};
use super::rules::AlertRules;
use crate::clock::Now;
use crate::drain::ShardReport;
use crate::health::{ShardHealth, Verdict};
use crate::peers::{FAMILIES, Keeping, Observation, Peer, PeerMetric, PeerMonitor};
use crate::roster::{Entry, Roster};
use crate::source::Attached;

/// Targets looked at before the series are let go for a moment, so that a drain does not wait for all.
const TARGETS_PER_LOOK: usize = 1024;

/// What there is to look at.
pub(crate) struct Look<'a> {
    pub(crate) now: Now,
    pub(crate) attached: &'a Attached,
    pub(crate) stale_after: Duration,
    /// `None` where the drain is at work, or hangs.
    pub(crate) shards: Option<Vec<ShardReport>>,
    /// Whether the configuration read last is in force; `None` where that is not known.
    pub(crate) reload: Option<bool>,
}

/// What came of a look.
pub(super) struct Outcome {
    pub(super) transitions: Vec<Transition>,
    pub(super) lost: Vec<Lost>,
}

/// The peers, the rules they are judged by, and the alerts that stand.
pub(crate) struct Watch {
    rules: AlertRules,
    monitor: PeerMonitor<PeerState>,
    roster: Option<Arc<Roster>>,
    shards: BTreeMap<u16, ShardState>,
    /// Since when there is no data plane to read from.
    missing_since_ns: Option<u64>,
    book: AlertBook,
    subscribers: Subscribers,
}

/// A peer as it is watched here.
pub(crate) type WatchedPeer = Peer<PeerState>;

#[derive(Debug, Default)]
pub(crate) struct PeerState {
    judge: PeerJudge,
    is_silent: bool,
    /// In the order of [`OF_SAMPLES`], which of its alerts stand.
    stand: [bool; OF_SAMPLES.len()],
}

/// What a look at a peer brought.
enum News {
    Sample(Observation),
    /// Nothing, for so long that what came last does not hold any more.
    Silence(Duration),
}

#[derive(Default)]
struct ShardState {
    stalled: Lasting,
    nearly_full: Lasting,
    overflow: Lasting,
    /// Samples lost in all, as last seen.
    lost: Option<u64>,
    /// Samples lost since the alert was raised.
    lost_since: u64,
}

impl Watch {
    pub(super) fn new(rules: AlertRules, instance: &str) -> Self {
        Self {
            rules,
            monitor: PeerMonitor::default(),
            roster: None,
            shards: BTreeMap::new(),
            missing_since_ns: None,
            book: AlertBook::new(instance),
            subscribers: Subscribers::default(),
        }
    }

    pub(super) fn set_rules(&mut self, rules: AlertRules) {
        self.rules = rules;
    }

    pub(crate) fn rules(&self) -> &AlertRules {
        &self.rules
    }

    pub(crate) fn monitor(&self) -> &PeerMonitor<PeerState> {
        &self.monitor
    }

    pub(crate) fn book(&self) -> &AlertBook {
        &self.book
    }

    pub(super) fn subscribe(
        &mut self,
        name: &str,
    ) -> Result<(SubscriberId, AlertEvents), TooManySubscribers> {
        self.subscribers.add(name)
    }

    pub(super) fn unsubscribe(&mut self, id: SubscriberId) {
        self.subscribers.remove(id);
    }

    /// Looks once, and tells the subscribers what came of it. O(targets) to see which have something new, and some
    /// more for those that do.
    pub(super) fn evaluate(&mut self, look: &Look<'_>) -> Outcome {
        self.watch_peers(look);
        self.watch_shards(look);
        self.watch_reloads(look);
        let transitions = self.book.take_transitions();
        let lost = self.subscribers.tell(&transitions, &self.book, look.now);
        Outcome { transitions, lost }
    }

    fn watch_peers(&mut self, look: &Look<'_>) {
        let now = look.now;
        if look.attached.attachment().is_none() || !look.attached.is_sound() {
            self.monitor.suspend(now);
            return;
        }
        let directory = &look.attached.directory;
        let roster = directory.read(|series| look.attached.roster(series));
        self.follow(&roster, now);
        let keeping = self.rules.keeping();
        let mut peers = self.monitor.current_mut();
        let mut targets = roster.by_name();
        let mut news = Vec::new();
        loop {
            let is_done = directory.read(|series| {
                // What came and went since is seen at the next look.
                if roster.is_outdated(series) {
                    return true;
                }
                let mut looked_at = 0;
                for (peer, entries) in peers.by_ref().zip(targets.by_ref()).take(TARGETS_PER_LOOK) {
                    looked_at += 1;
                    if let Some(new) = glance(peer, entries, series, keeping, look) {
                        news.push((peer, new));
                    }
                }
                looked_at < TARGETS_PER_LOOK
            });
            if is_done {
                break;
            }
        }
        drop(peers);
        // Judged when the series are let go.
        let mut judging = Judging { rules: &self.rules, book: &mut self.book, now };
        for (peer, new) in news {
            match new {
                News::Sample(sample) => judging.judge(peer, &sample),
                News::Silence(silent_for) => judging.silence(peer, silent_for),
            }
        }
        for name in self.monitor.forget_gone(now) {
            self.book.forget(&Subject::Target(name), now);
        }
    }

    fn follow(&mut self, roster: &Arc<Roster>, now: Now) {
        if self.roster.as_ref().is_some_and(|known| Arc::ptr_eq(known, roster)) {
            return;
        }
        self.monitor.follow(roster.by_name().map(|entries| entries[0].target().name.as_str()), now);
        self.roster = Some(Arc::clone(roster));
    }

    fn watch_shards(&mut self, look: &Look<'_>) {
        let health = look.attached.health(look.now);
        let missing = look.attached.missing();
        self.missing_since_ns = missing.map(|_| self.missing_since_ns.unwrap_or(look.now.monotonic_ns));
        if let (Some(why), Some(since)) = (missing, self.missing_since_ns) {
            self.no_data_plane(why, look.now.since(since), look);
            return;
        }
        let shards = health.shards.len();
        for shard in &health.shards {
            self.watch_shard(shard, look);
        }
        for report in look.shards.iter().flatten() {
            self.watch_ring(report, look);
        }
        // Those that this data plane has not.
        for shard in self.book.shards().into_iter().filter(|shard| usize::from(*shard) >= shards) {
            self.shards.remove(&shard);
            self.book.forget(&Subject::Shard(shard), look.now);
        }
    }

    /// The shards known last are stalled; where none is, the first stands for all.
    fn no_data_plane(&mut self, why: &str, since: Duration, look: &Look<'_>) {
        self.shards.entry(0).or_default();
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            self.stalled(shard, since, look, || format!("no data plane for {}: {why}", seconds(since)));
        }
    }

    fn watch_shard(&mut self, shard: &ShardHealth, look: &Look<'_>) {
        let age = match shard.verdict {
            Verdict::Ok => 0.0,
            Verdict::ControlPlaneStuck => shard.last_drained_age_seconds.unwrap_or(f64::INFINITY),
            Verdict::DataPlaneSilent | Verdict::DataPlaneEnded => {
                shard.last_recorded_age_seconds.unwrap_or(f64::INFINITY)
            }
        };
        let since = Duration::try_from_secs_f64(age).unwrap_or(Duration::MAX);
        let reason = || shard.reason.clone().unwrap_or_default();
        self.stalled(shard.shard, since, look, reason);
    }

    /// One that ended may be started again before anybody misses it: it is stalled once it is stale.
    fn stalled(
        &mut self,
        shard: u16,
        silent_for: Duration,
        look: &Look<'_>,
        reason: impl FnOnce() -> String,
    ) {
        let is_stalled = silent_for > look.stale_after;
        let stalled = &mut self.shards.entry(shard).or_default().stalled;
        let stands = stalled.note(is_stalled, !is_stalled, self.rules.hold, look.now);
        let found = Finding {
            name: AlertName::ShardStalled,
            severity: stands.then_some(Severity::Critical),
            value: silent_for.as_secs_f64().min(f64::from(u32::MAX)),
            threshold: look.stale_after.as_secs_f64(),
        };
        self.book.note(&Subject::Shard(shard), found, look.now, reason);
    }

    fn watch_ring(&mut self, report: &ShardReport, look: &Look<'_>) {
        let (rules, now, subject) = (&self.rules, look.now, Subject::Shard(report.shard.0));
        let state = self.shards.entry(report.shard.0).or_default();
        let capacity = report.capacity;

        // Of a silent shard the high water is an old one.
        let occupancy = report.high_water as f64 / capacity as f64;
        let is_bad = occupancy >= rules.ring_occupancy && !look.attached.clocks.is_silent(report.shard, now);
        let is_good = occupancy < rules.ring_occupancy * (1.0 - rules.hysteresis);
        let stands = state.nearly_full.note(is_bad, is_good, rules.hold, now);
        let found = Finding {
            name: AlertName::RingNearlyFull,
            severity: stands.then_some(Severity::Warning),
            value: occupancy,
            threshold: rules.ring_occupancy,
        };
        self.book.note(&subject, found, now, || {
            format!("{} of {capacity} samples waited for a drain, {}", report.high_water, percent(occupancy))
        });

        let lost_now = state.lost.replace(report.account.lost);
        // Where the total is less than before, another data plane has it; at first sight it is of the past.
        let lost_now = lost_now.map_or(0, |before| report.account.lost.saturating_sub(before));
        let stands = state.overflow.note(lost_now > 0, lost_now == 0, rules.hold, now);
        state.lost_since = if stands { state.lost_since.saturating_add(lost_now) } else { 0 };
        let found = Finding {
            name: AlertName::RingOverflow,
            severity: stands.then_some(Severity::Critical),
            value: state.lost_since as f64,
            threshold: 0.0,
        };
        self.book.note(&subject, found, now, || {
            format!("{lost_now} samples were overwritten before they were drained; the ring holds {capacity}")
        });
    }

    fn watch_reloads(&mut self, look: &Look<'_>) {
        let Some(in_force) = look.reload else { return };
        let failed = !in_force;
        let found = Finding {
            name: AlertName::ConfigReloadFailed,
            severity: failed.then_some(Severity::Warning),
            value: f64::from(u8::from(failed)),
            threshold: 0.0,
        };
        self.book.note(&Subject::Relay, found, look.now, || {
            "the configuration read last is wrong; the one before stays in force".to_owned()
        });
    }
}

/// What is new of a peer, which is taken in.
fn glance(
    peer: &mut WatchedPeer,
    entries: &[Entry],
    series: &SeriesView<'_>,
    keeping: Keeping,
    look: &Look<'_>,
) -> Option<News> {
    // Of the families the one that answers, the first where both do or neither.
    let index = entries.iter().position(|entry| entry.up(series) == Some(true)).unwrap_or(0);
    let entry = entries.get(index)?;
    if look.attached.clocks.is_silent(entry.target().shard, look.now) {
        peer.suspend(look.now);
        return None;
    }
    let family = family_of(entry);
    let has_settled = entry.settled(series).is_some_and(|settled| peer.has_settled(family, settled));
    match has_settled.then(|| Observation::of(&entry.read(series), family)).flatten() {
        Some(sample) => {
            peer.take(&sample, keeping, look.now);
            Some(News::Sample(sample))
        }
        None => peer.silent_for(keeping, look.now).map(News::Silence),
    }
}

struct Judging<'a> {
    rules: &'a AlertRules,
    book: &'a mut AlertBook,
    now: Now,
}

impl Judging<'_> {
    fn judge(&mut self, peer: &mut WatchedPeer, sample: &Observation) {
        let (now, rules) = (self.now, self.rules);
        let subject = || Subject::Target(Arc::clone(&peer.name));
        if std::mem::take(&mut peer.state.is_silent) {
            self.book.note(&subject(), silence(None, rules), now, String::new);
        }
        let findings = peer.state.judge.note(sample, rules);
        for (found, stands) in findings.into_iter().zip(&mut peer.state.stand) {
            let Some(found) = found else { continue };
            // Of most there is nothing to note.
            if std::mem::replace(stands, found.severity.is_some()) || found.severity.is_some() {
                self.book.note(&subject(), found, now, || describe(&found, rules));
            }
        }
    }

    fn silence(&mut self, peer: &mut WatchedPeer, silent_for: Duration) {
        peer.state.is_silent = true;
        let subject = Subject::Target(Arc::clone(&peer.name));
        self.book.note(&subject, silence(Some(silent_for), self.rules), self.now, || {
            let expired = PeerMetric::ALL.into_iter().filter(|metric| peer.window(*metric).len() > 0);
            let expired: Vec<_> = expired.map(PeerMetric::as_str).collect();
            format!("nothing new for {}; expired: {}", seconds(silent_for), expired.join(", "))
        });
    }
}

fn family_of(entry: &Entry) -> usize {
    let is_ipv6 = entry.target().endpoint.as_ref().is_some_and(|endpoint| endpoint.address.is_ipv6());
    usize::from(is_ipv6).min(FAMILIES - 1)
}

fn silence(silent_for: Option<Duration>, rules: &AlertRules) -> Finding {
    Finding {
        name: AlertName::PeerSilent,
        severity: silent_for.map(|_| Severity::Warning),
        value: silent_for.unwrap_or_default().as_secs_f64(),
        threshold: rules.ttl.as_secs_f64(),
    }
}

fn describe(found: &Finding, rules: &AlertRules) -> String {
    let (value, threshold) = (found.value, found.threshold);
    let (k, n) = (rules.raise_after, rules.window);
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let beyond = |what: &str, value: String, threshold: String| {
        format!("{what} is {value}; {k} of the latest {n} samples were at least {threshold}")
    };
    match found.name {
        AlertName::PeerDown => format!("{value} of the latest {n} samples were of a probe that was lost"),
        AlertName::PeerLossHigh => beyond("loss", percent(value), percent(threshold)),
        AlertName::PeerRttHigh => beyond("the round-trip time", ms(value), ms(threshold)),
        _ => beyond("jitter", ms(value), ms(threshold)),
    }
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests;
