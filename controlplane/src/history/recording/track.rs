//! What one target said, summed up over the interval of each tier that is open.

use std::sync::Arc;

use super::super::interval::{Interval, QUANTILES, RttSummary, TargetKey};
use super::super::tier::Tier;
use crate::aggregate::Extremes;
use crate::histogram::ExponentialHistogram;
use crate::roster::Totals;

/// What a target has counted by a moment.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) totals: Totals,
    /// Its round-trip times, and the extremes of those since the reading before; absent before the first.
    pub(crate) rtt: Option<(ExponentialHistogram, Extremes)>,
}

/// One target by one of its families.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: Arc<TargetKey>,
    /// What it had counted when it was last read.
    last: Option<Last>,
    /// By tier.
    open: [Option<Sum>; Tier::ALL.len()],
}

#[derive(Debug)]
struct Last {
    /// Which reading that was.
    number: u64,
    totals: Totals,
    rtt: ExponentialHistogram,
}

/// What came of some probes.
#[derive(Debug, Default)]
struct Sum {
    answered: u64,
    lost: u64,
    lost_forward: Option<u64>,
    lost_reverse: Option<u64>,
    rtt: ExponentialHistogram,
    extremes: Extremes,
    jitter_seconds: Option<f64>,
}

/// Where counts begin that are seen for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// At zero, since the reading before.
    Since,
    /// At some time before: what they say now is where counting begins.
    Before,
}

impl Track {
    pub(super) fn new(key: TargetKey) -> Self {
        Self { key: Arc::new(key), last: None, open: Default::default() }
    }

    /// Takes in a reading, and adds what came since the one before to the intervals of `tiers` that are open.
    pub(super) fn read(&mut self, number: u64, reading: Reading, birth: Birth, tiers: &[Tier]) {
        let Reading { totals, rtt } = reading;
        let (histogram, extremes) = rtt.unwrap_or_default();
        let last = self.last.take();
        let of_this = last.filter(|last| last.totals.series == totals.series);
        let more = match (&of_this, birth) {
            // Another reading came between, that it was missing from.
            (Some(last), _) if last.number + 1 != number => None,
            (Some(last), _) => Sum::between((&last.totals, &last.rtt), (&totals, &histogram), extremes),
            (None, Birth::Since) => {
                let nothing = Totals { received: 0, lost: 0, ..totals };
                let nothing = Totals {
                    lost_forward: totals.lost_forward.map(|_| 0),
                    lost_reverse: totals.lost_reverse.map(|_| 0),
                    ..nothing
                };
                Sum::between((&nothing, &ExponentialHistogram::default()), (&totals, &histogram), extremes)
            }
            (None, Birth::Before) => None,
        };
        self.last = Some(Last { number, totals, rtt: histogram });
        let Some(more) = more else { return };
        // The coarsest first: the finest takes it as it is.
        for tier in tiers.iter().rev() {
            self.open[tier.code() as usize].get_or_insert_default().add(&more);
        }
    }

    /// Whether a reading of that number had it.
    pub(super) fn was_read(&self, number: u64) -> bool {
        self.last.as_ref().is_some_and(|last| last.number == number)
    }

    /// Whether that reading had it, or a later one.
    pub(super) fn was_read_since(&self, number: u64) -> bool {
        self.last.as_ref().is_some_and(|last| last.number >= number)
    }

    /// What it says next is of somebody else, as far as counts go.
    pub(super) fn forget_counts(&mut self) {
        self.last = None;
    }

    /// Whether nothing of it is to be told any more.
    pub(super) fn is_told(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    /// What it said in the interval of a tier that ends now; `None` if no probe of it settled.
    pub(super) fn close(&mut self, tier: Tier) -> Option<Interval> {
        self.open[tier.code() as usize].take()?.interval()
    }
}

impl Sum {
    /// `None` where counts went back: they are others'.
    fn between(
        (before, rtt_before): (&Totals, &ExponentialHistogram),
        (now, rtt_now): (&Totals, &ExponentialHistogram),
        extremes: Extremes,
    ) -> Option<Self> {
        let both = |now: Option<u64>, before: Option<u64>| match (now, before) {
            (Some(now), Some(before)) => now.checked_sub(before).map(Some),
            _ => Some(None),
        };
        Some(Self {
            answered: now.received.checked_sub(before.received)?,
            lost: now.lost.checked_sub(before.lost)?,
            lost_forward: both(now.lost_forward, before.lost_forward)?,
            lost_reverse: both(now.lost_reverse, before.lost_reverse)?,
            rtt: rtt_now.since(rtt_before)?,
            extremes,
            jitter_seconds: now.jitter_seconds,
        })
    }

    fn add(&mut self, more: &Self) {
        let both =
            |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).reduce(u64::saturating_add);
        self.answered = self.answered.saturating_add(more.answered);
        self.lost = self.lost.saturating_add(more.lost);
        self.lost_forward = both(self.lost_forward, more.lost_forward);
        self.lost_reverse = both(self.lost_reverse, more.lost_reverse);
        self.rtt.merge(&more.rtt);
        self.extremes = self.extremes.and(more.extremes);
        // That of the window which ended last.
        self.jitter_seconds = more.jitter_seconds;
    }

    fn interval(self) -> Option<Interval> {
        // Of a damaged segment they may be any numbers.
        if self.answered.saturating_add(self.lost) == 0 {
            return None;
        }
        Some(Interval {
            answered: self.answered,
            lost: self.lost,
            lost_forward: self.lost_forward,
            lost_reverse: self.lost_reverse,
            rtt: self.rtt_summary(),
            jitter_ns: self.jitter_seconds.and_then(nanoseconds),
        })
    }

    fn rtt_summary(&self) -> Option<RttSummary> {
        if self.answered == 0 || self.rtt.count() == 0 {
            return None;
        }
        let (Extremes { min, max }, sum) = (self.extremes, self.rtt.sum());
        let (min_ns, max_ns) = (nanoseconds(min)?, nanoseconds(max)?);
        let mut quantiles_ns = [0; QUANTILES.len()];
        for (quantile_ns, q) in quantiles_ns.iter_mut().zip(QUANTILES) {
            // Interpolated within a bucket, it may lie beyond all that fell into that.
            *quantile_ns = nanoseconds(self.rtt.quantile(q)?)?.clamp(min_ns, max_ns);
        }
        Some(RttSummary { count: self.rtt.count(), sum_ns: nanoseconds(sum)?, min_ns, max_ns, quantiles_ns })
    }
}

/// `None` for what is no time.
fn nanoseconds(seconds: f64) -> Option<u64> {
    let ns = (seconds * 1e9).round();
    // What is out of range is not cast.
    (ns >= 0.0 && ns < u64::MAX as f64).then_some(ns as u64)
}
