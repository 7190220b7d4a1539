//! From totals, read at the end of every ten seconds of unix time, to the intervals of all tiers. It is told the time.
//!
//! What came between two readings is added to the interval of each tier that both lie in. So it is never told of an
//! interval what was not of it:
//!
//! - A reading that is late leaves a gap in the tiers whose interval had ended, and none in the coarser ones.
//! - Where the wall clock was set meanwhile, what came is placed by the clock as it is now: on the monotonic one it is
//!   known how long ago the reading before was.
//! - A target that comes, goes or begins to count anew within an interval has one of the part that is known of it.
//! - Of a shard that is silent nothing comes. An interval in which no probe settled is not told at all.
//!
//! An interval that is open when the process ends is not told: it is not whole, and what comes after tells the rest.
//!
//! Memory is that of the histograms of a target: what it had counted, and what came of it in the minute and the ten
//! minutes that are open, at most 1.3 kB each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::segment::SegmentInfo;

use super::super::interval::{Interval, TargetKey};
use super::super::tier::Tier;
use super::track::{Birth, Reading, Track};
use crate::clock::Now;

const SECOND_NS: u64 = 1_000_000_000;
/// A reading that is at most as late, and a clock that was set by at most as much, is as good as none.
const LATE_MAX_NS: u64 = 2 * SECOND_NS;
/// Targets that are gone and of which something is still to be told: as many as a data plane has, which may go at once.
const GONE_MAX: usize = 1 << 16;
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Intervals of one tier that begin at the same time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) tier: Tier,
    pub(crate) start_unix_seconds: u64,
    /// Sorted by name, then family.
    pub(crate) intervals: Vec<(Arc<TargetKey>, Interval)>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// By name, then family.
    tracks: BTreeMap<Box<str>, [Option<Track>; FAMILIES.len()]>,
    /// By tier, where its open interval begins: nanoseconds of unix time.
    open_ns: Option<[u64; Tier::ALL.len()]>,
    last: Option<Last>,
    /// The reading that goes on.
    current: Option<Current>,
    /// The first reading of what is read now.
    of_source_since: u64,
    /// Intervals of targets that are gone and were too many to wait for their end.
    forgotten: u64,
    /// Readings that were too late for the interval they were due at.
    late: u64,
}

/// The newest reading.
#[derive(Clone, Copy, Debug)]
struct Last {
    number: u64,
    at: Now,
    source: Option<SegmentInfo>,
    /// Whether it was read to the end.
    is_whole: bool,
}

#[derive(Clone, Debug)]
struct Current {
    number: u64,
    at: Now,
    source: Option<SegmentInfo>,
    end_ns: u64,
    birth: Birth,
    /// Whose interval it falls into.
    tiers: Vec<Tier>,
    batches: Vec<Batch>,
}

impl Recorder {
    /// Time until the next reading is due. A look at the clock that was set meanwhile may bring it nearer.
    pub(crate) fn due_in(&self, now: Now) -> Duration {
        let Some(last) = self.last else { return Duration::ZERO };
        let (read_ns, length) = (floor(snap_end(last.at.unix_ns), Tier::ALL[0]), length_ns(Tier::ALL[0]));
        // Set back: what it says now is to be gone by.
        if now.unix_ns.saturating_add(LATE_MAX_NS) < read_ns {
            return Duration::ZERO;
        }
        Duration::from_nanos(read_ns.saturating_add(length).saturating_sub(now.unix_ns))
    }

    /// A reading begins, of the segment that `source` says.
    pub(crate) fn begin(&mut self, source: Option<SegmentInfo>, now: Now) {
        let end_ns = snap_end(now.unix_ns);
        let (number, since_ns) = match &self.last {
            None => (0, None),
            Some(last) => (last.number + 1, Some(since(now.unix_ns_of(last.at.monotonic_ns), end_ns))),
        };
        let birth = match &self.last {
            Some(last) if last.is_whole && last.source == source => Birth::Since,
            // Its clock is ours if it was made since this host was booted.
            Some(last)
                if source.is_some_and(|s| s.this_boot && s.start_monotonic_ns > last.at.monotonic_ns) =>
            {
                Birth::Since
            }
            _ => Birth::Before,
        };
        if self.last.is_none_or(|last| last.source != source) {
            self.of_source_since = number;
        }
        let mut current =
            Current { number, at: now, source, end_ns, birth, tiers: Vec::new(), batches: Vec::new() };
        for tier in Tier::ALL {
            let Some(since_ns) = since_ns else { break };
            let start_ns = floor(since_ns, tier);
            if since_ns > end_ns || end_ns > start_ns + length_ns(tier) {
                continue;
            }
            current.tiers.push(tier);
            self.turn_to(tier, start_ns, &mut current.batches);
        }
        self.late += u64::from(since_ns.is_some() && current.tiers.first() != Some(&Tier::ALL[0]));
        if self.open_ns.is_none() {
            self.open_ns = Some(Tier::ALL.map(|tier| floor(end_ns, tier)));
        }
        self.current = Some(current);
    }

    /// What a target says. Only between [`begin`](Self::begin) and [`end`](Self::end).
    pub(crate) fn read(&mut self, name: &str, family: &str, reading: Reading) {
        let Some(Current { number, birth, tiers, .. }) = &self.current else { return };
        let Some(index) = FAMILIES.iter().position(|of| *of == family) else { return };
        if !self.tracks.contains_key(name) {
            self.tracks.insert(name.into(), Default::default());
        }
        let Some(tracks) = self.tracks.get_mut(name) else { return };
        let track = tracks[index].get_or_insert_with(|| {
            Track::new(TargetKey { name: name.to_owned(), family: family.to_owned() })
        });
        if !track.was_read_since(self.of_source_since) {
            // What it had counted was another's.
            track.forget_counts();
        }
        track.read(*number, reading, *birth, tiers);
    }

    /// The reading ends, `is_whole` if it was of all there is. What there is to be told of it.
    pub(crate) fn end(&mut self, is_whole: bool) -> Vec<Batch> {
        let Some(mut current) = self.current.take() else { return Vec::new() };
        for tier in Tier::ALL {
            self.turn_to(tier, floor(current.end_ns, tier), &mut current.batches);
        }
        let Current { number, at, source, .. } = current;
        self.last = Some(Last { number, at, source, is_whole });
        if is_whole {
            self.forget_gone(number);
        }
        current.batches
    }

    /// Intervals that are not told, of targets that were gone and too many, since last asked.
    pub(crate) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Readings that were too late to be of one interval of the finest tier, since last asked.
    pub(crate) fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    /// The interval that begins there is open from now on, and the one that was is told.
    fn turn_to(&mut self, tier: Tier, start_ns: u64, batches: &mut Vec<Batch>) {
        let Some(open_ns) = &mut self.open_ns else { return };
        let before_ns = std::mem::replace(&mut open_ns[tier.code() as usize], start_ns);
        if before_ns == start_ns {
            return;
        }
        let mut intervals = Vec::new();
        for track in self.tracks.values_mut().flatten().flatten() {
            if let Some(interval) = track.close(tier) {
                intervals.push((Arc::clone(&track.key), interval));
            }
        }
        if !intervals.is_empty() {
            batches.push(Batch { tier, start_unix_seconds: before_ns / SECOND_NS, intervals });
        }
    }

    /// Lets go of those that this reading had not and of which all is told, and of more where they are too many.
    fn forget_gone(&mut self, number: u64) {
        let (mut gone, mut forgotten) = (0, 0);
        self.tracks.retain(|_, tracks| {
            for track in tracks.iter_mut() {
                let Some(of) = track else { continue };
                if of.was_read(number) {
                    continue;
                }
                let is_told = of.is_told();
                if is_told || gone == GONE_MAX {
                    forgotten += u64::from(!is_told);
                    *track = None;
                } else {
                    gone += 1;
                }
            }
            tracks.iter().any(Option::is_some)
        });
        self.forgotten += forgotten;
    }
}

fn length_ns(tier: Tier) -> u64 {
    tier.seconds() * SECOND_NS
}

fn floor(unix_ns: u64, tier: Tier) -> u64 {
    unix_ns - unix_ns % length_ns(tier)
}

/// When a reading was due, if it is not too late.
fn snap_end(unix_ns: u64) -> u64 {
    let due_ns = floor(unix_ns, Tier::ALL[0]);
    if unix_ns - due_ns <= LATE_MAX_NS { due_ns } else { unix_ns }
}

/// As [`snap_end`], of the reading before the one at `end_ns`: the wall clock may have been made slower since.
fn since(unix_ns: u64, end_ns: u64) -> u64 {
    let next_ns = floor(unix_ns, Tier::ALL[0]).saturating_add(length_ns(Tier::ALL[0]));
    let snapped_ns = if next_ns - unix_ns <= LATE_MAX_NS { next_ns } else { snap_end(unix_ns) };
    if snapped_ns < end_ns { snapped_ns } else { unix_ns }
}

#[cfg(test)]
mod tests;
