//! What history is made of, read in portions: no drain waits for all of it.

use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::ShardId;

use super::{ControlPlane, lock};
use crate::clock::Now;
use crate::history::{Batch, PeerStates, Reading, Recorder};
use crate::roster::{Entry, Roster};
use crate::source::Attached;

/// Targets read before the drain may go on: their cells and a copy of each histogram, a tenth of a millisecond as a
/// rule.
const TARGETS_PER_READ: usize = 256;
/// A reading that takes longer, as when a drain hangs meanwhile, is of no one moment: what was not read by then is left
/// out of it.
const READ_MAX: Duration = Duration::from_secs(2);
/// Targets looked at before the series are let go for a moment. It takes a cell of each.
const TARGETS_PER_LOOK: usize = 1024;

/// What a portion of targets said.
struct Portion {
    roster: Arc<Roster>,
    /// Where in it.
    from: usize,
    readings: Vec<Option<Reading>>,
    /// When it was read.
    at: Now,
}

impl ControlPlane {
    /// Reads all targets once, at the time that `clock` tells then: it may have waited for a drain. What there is to be told
    /// of the intervals that end with it. O(targets), of which the drain waits for a portion at a time.
    pub(crate) fn record_history(&self, recorder: &mut Recorder, clock: impl Fn() -> Now) -> Vec<Batch> {
        let attached = self.attached();
        attached.look();
        let mut began: Option<Now> = None;
        let mut passed: Option<(Arc<Roster>, usize)> = None;
        let is_whole = loop {
            let last = passed.as_ref().map(|(roster, at)| roster.entry(*at).key());
            let portion = self.read_portion(&attached, last, &clock);
            if began.is_none() {
                let at = portion.as_ref().map_or_else(&clock, |portion| portion.at);
                recorder.begin(attached.attachment().map(|attachment| attachment.info()), at);
                began = Some(at);
            }
            let Some(Portion { roster, from, readings, at }) = portion else { break false };
            if began.is_some_and(|began| at.since(began.monotonic_ns) > READ_MAX) {
                break false;
            }
            // Of a damaged segment they may be any numbers.
            if !attached.is_sound() {
                break false;
            }
            let Some(newest) = (from + readings.len()).checked_sub(1).filter(|_| !readings.is_empty()) else {
                break true;
            };
            for (at, reading) in (from..).zip(readings) {
                if let (Some(reading), (name, Some(family))) = (reading, roster.entry(at).key()) {
                    recorder.read(name, family, reading);
                }
            }
            passed = Some((roster, newest));
        };
        recorder.end(is_whole)
    }

    /// The targets after `passed`, as the drain has them by now. `None` where something else is attached to.
    fn read_portion(
        &self,
        attached: &Arc<Attached>,
        passed: Option<(&str, Option<&str>)>,
        clock: impl Fn() -> Now,
    ) -> Option<Portion> {
        let mut drain = lock(&self.0.drain);
        if !Arc::ptr_eq(&self.attached(), attached) {
            return None;
        }
        let now = clock();
        // Cells are of now, and so is what comes of the rings.
        drain.catch_up(now);
        let is_silent = |shard: ShardId| attached.clocks.is_silent(shard, now);
        let (roster, from, totals) = attached.directory.read(|series| {
            let roster = attached.roster(series);
            let (from, entries) = roster.after(passed, TARGETS_PER_READ);
            let totals = |entry: &Entry| {
                let mut totals = entry.totals(series)?;
                // A gauge of a silent shard is not how things are.
                totals.jitter_seconds = totals.jitter_seconds.filter(|_| !is_silent(entry.target().shard));
                Some(totals)
            };
            let totals: Vec<_> = entries.iter().map(totals).collect();
            (roster, from, totals)
        });
        let aggregate = drain.aggregate_mut();
        let mut copy = |id| aggregate.take(id).map(|(histogram, extremes)| (histogram.clone(), extremes));
        let readings = totals.into_iter().map(|totals| {
            let totals = totals?;
            Some(Reading { rtt: totals.rtt.and_then(&mut copy), totals })
        });
        let readings = readings.collect();
        Some(Portion { roster, from, readings, at: now })
    }

    /// Tells `states` which peers answer now. O(targets).
    pub(crate) fn look_at_peers(&self, states: &mut PeerStates, now: Now) {
        let attached = self.attached();
        attached.look();
        let clocks = &attached.clocks;
        states.begin(now);
        let mut passed: Option<(Arc<Roster>, usize)> = None;
        loop {
            let last = passed.as_ref().map(|(roster, at)| roster.entry(*at).key());
            let (roster, from, up) = attached.directory.read(|series| {
                let roster = attached.roster(series);
                let (from, entries) = roster.after(last, TARGETS_PER_LOOK);
                let up = |entry: &Entry| match clocks.is_silent(entry.target().shard, now) {
                    true => None,
                    false => entry.up(series),
                };
                let up: Vec<_> = entries.iter().map(up).collect();
                (roster, from, up)
            });
            if !attached.is_sound() {
                return;
            }
            if up.is_empty() {
                break;
            }
            let newest = from + up.len() - 1;
            for (at, up) in (from..).zip(up) {
                states.see(&roster.entry(at).target().name, up);
            }
            passed = Some((roster, newest));
        }
        states.end();
    }
}
