//! What is asked of a history, and what comes of it.

use std::ops::Range;
use std::time::Duration;

use thiserror::Error;

use super::error::StoreError;
use super::interval::{Interval, TargetKey};
use super::key::UNIX_SECONDS_MAX;
use super::tier::Tier;

/// Steps of an answer at most.
pub const POINTS_MAX: u64 = 4096;
/// Steps of an answer at most where no step is asked for.
pub const POINTS_DEFAULT_MAX: u64 = 1000;
/// Intervals read for an answer at most.
pub const INTERVALS_MAX: usize = 1 << 18;

/// Steps that people count in, each a multiple of a tier's interval, ascending, up to a day.
const STEPS: [u64; 16] =
    [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 64_800, DAY];
const DAY: u64 = 86_400;

/// Asks for a target's history.
///
/// ```
/// use std::time::Duration;
/// use relayscope_controlplane::history::{HistoryQuery, TargetKey};
///
/// let key = TargetKey { name: "relay-b".into(), family: "ipv4".into() };
/// let hour = HistoryQuery::new(key, 1_796_000_000, 1_796_003_600);
/// assert_eq!(hour.step_seconds, None);
/// let coarser = HistoryQuery { step_seconds: Some(60), time_max: Duration::from_millis(500), ..hour };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Whose.
    pub key: TargetKey,
    /// From the step that has this second: unix seconds.
    pub from: u64,
    /// Up to the step before this second: unix seconds.
    pub to: u64,
    /// Seconds of a step; `None` for the least that gives at most [`POINTS_DEFAULT_MAX`]. The answer's step is a multiple of the
    /// interval of a tier that reaches back as far as `from`, and so may be longer.
    pub step_seconds: Option<u64>,
    /// How long the answer may take: 2 s by default.
    pub time_max: Duration,
}

impl HistoryQuery {
    /// By the step that fits.
    pub fn new(key: TargetKey, from: u64, to: u64) -> Self {
        Self { key, from, to, step_seconds: None, time_max: Duration::from_secs(2) }
    }
}

/// A target's history in equal steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Points {
    /// When the first step begins: unix seconds, a multiple of the step.
    pub from: u64,
    /// Seconds of a step.
    pub step_seconds: u64,
    /// Each step in turn. Absent where nothing was measured.
    pub intervals: Vec<Option<Interval>>,
    /// The tiers that it is made of, the finest first. None where nothing was measured.
    pub tiers: Vec<Tier>,
    /// Chunks and rows that could not be read, whose intervals are missing.
    pub damaged: u64,
}

impl Points {
    /// When each step begins: unix seconds.
    pub fn starts(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        (0..self.intervals.len()).map(|at| self.from + at as u64 * self.step_seconds)
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// No such target, or not by this family.
    #[error("no history of target {:?} by {}", key.name, key.family)]
    UnknownTarget {
        /// Who was asked for.
        key: TargetKey,
    },
    /// The range ends before it begins.
    #[error("the range from {from} to {to} is empty; expected `from` before `to`")]
    EmptyRange {
        /// As asked.
        from: u64,
        /// As asked.
        to: u64,
    },
    /// More than an answer has.
    #[error(
        "{points} steps of {step_seconds} s are too many; expected at most {POINTS_MAX}: a shorter range or a longer step"
    )]
    TooManyPoints {
        /// Steps there would be.
        points: u64,
        /// Of this many seconds each.
        step_seconds: u64,
    },
    /// More than an answer is made of.
    #[error(
        "more than {INTERVALS_MAX} intervals lie in the range; expected a shorter range, or a step of whole minutes"
    )]
    TooManyIntervals,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The steps of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) from: u64,
    pub(super) step: u64,
    pub(super) points: u64,
}

impl Grid {
    /// For a query, where `reaches` says from when on each tier has something.
    pub(super) fn of(
        query: &HistoryQuery,
        reaches: [Option<u64>; Tier::ALL.len()],
    ) -> Result<Self, QueryError> {
        let (from, to) = (query.from.min(UNIX_SECONDS_MAX), query.to.min(UNIX_SECONDS_MAX));
        if from >= to {
            return Err(QueryError::EmptyRange { from, to });
        }
        let step = query.step_seconds.unwrap_or_else(|| step_for(to - from)).min(UNIX_SECONDS_MAX);
        let finest = finest_tier(from, reaches).seconds();
        let step = step.max(finest).next_multiple_of(finest);
        let begin = from - from % step;
        let points = (to - begin).div_ceil(step);
        if points > POINTS_MAX {
            return Err(QueryError::TooManyPoints { points, step_seconds: step });
        }
        Ok(Self { from: begin, step, points })
    }

    pub(super) fn seconds(&self) -> Range<u64> {
        self.from..self.from + self.points * self.step
    }

    /// The step that a time falls into.
    pub(super) fn point_of(&self, unix_seconds: u64) -> usize {
        ((unix_seconds - self.from) / self.step) as usize
    }

    /// The tiers whose intervals are wholly in steps, the coarsest first. They were measured, not merged: the coarsest
    /// says most, and is least to read.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier> {
        let step = self.step;
        Tier::ALL.into_iter().rev().filter(move |tier| step.is_multiple_of(tier.seconds()))
    }
}

/// The least step with which a range has no more points than by default, also where it begins within a step.
fn step_for(seconds: u64) -> u64 {
    let fits = |step: &u64| seconds.div_ceil(*step) < POINTS_DEFAULT_MAX;
    match STEPS.iter().find(|step| fits(step)) {
        Some(step) => *step,
        None => seconds.div_ceil(DAY * (POINTS_DEFAULT_MAX - 1)) * DAY,
    }
}

/// The finest tier that reaches back to `from`, or as far back as any does.
fn finest_tier(from: u64, reaches: [Option<u64>; Tier::ALL.len()]) -> Tier {
    let Some(oldest) = reaches.iter().flatten().min() else { return Tier::TenSeconds };
    // What all tiers began with begins at each one's own floor.
    let needed = from.max(*oldest) + Tier::TenMinutes.seconds();
    let reaching =
        Tier::ALL.into_iter().find(|tier| reaches[usize::from(tier.code())].is_some_and(|at| at <= needed));
    reaching.unwrap_or(Tier::TenMinutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from: u64, to: u64, step_seconds: Option<u64>) -> HistoryQuery {
        let key = TargetKey { name: "b".into(), family: "ipv4".into() };
        HistoryQuery { step_seconds, ..HistoryQuery::new(key, from, to) }
    }

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_796_000_400;

    #[test]
    fn a_step_is_the_least_that_people_count_in_and_gives_a_thousand_points() {
        for (seconds, step) in [
            (1, 10),
            (HOUR, 10),
            (9_990, 10),
            (9_991, 20),
            (24 * HOUR, 120),
            (30 * DAY, 3600),
            (400 * DAY, 43_200),
            (3_000 * DAY, 4 * DAY),
        ] {
            assert_eq!(step_for(seconds), step, "{seconds} s");
        }
    }

    #[test]
    fn a_grid_begins_at_a_multiple_of_its_step_and_has_all_of_the_range() {
        let grid = Grid::of(&query(NOW + 7, NOW + 127, Some(60)), [None; 3]).unwrap();
        assert_eq!(grid, Grid { from: NOW, step: 60, points: 3 });
        assert_eq!(grid.seconds(), NOW..NOW + 180);
        assert_eq!((grid.point_of(NOW), grid.point_of(NOW + 60)), (0, 1));
    }

    #[test]
    fn a_step_is_no_finer_than_what_reaches_back_so_far() {
        let reaches = [Some(NOW - 48 * HOUR), Some(NOW - 336 * HOUR), Some(NOW - 700 * HOUR)];
        let step = |from, step| Grid::of(&query(from, from + HOUR, Some(step)), reaches).unwrap().step;
        assert_eq!(step(NOW - HOUR, 10), 10);
        assert_eq!(step(NOW - HOUR, 25), 30);
        assert_eq!(step(NOW - 50 * HOUR, 10), 60);
        assert_eq!(step(NOW - 50 * HOUR, 90), 120);
        assert_eq!(step(NOW - 400 * HOUR, 10), 600);
        // Before anything was measured the tiers that began first are as good as any.
        assert_eq!(step(NOW - 900 * HOUR, 10), 600);
        let fresh = [Some(NOW - 30), Some(NOW - 60), Some(NOW - 400)];
        assert_eq!(Grid::of(&query(NOW - HOUR, NOW, Some(10)), fresh).unwrap().step, 10);
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_what_would_be_right() {
        let refused = |query| Grid::of(&query, [None; 3]).unwrap_err().to_string();
        assert_eq!(
            refused(query(NOW, NOW, None)),
            format!("the range from {NOW} to {NOW} is empty; expected `from` before `to`")
        );
        assert_eq!(
            refused(query(NOW, NOW + 40_970, Some(10))),
            "4097 steps of 10 s are too many; expected at most 4096: a shorter range or a longer step"
        );
        assert_eq!(Grid::of(&query(NOW, NOW + 40_960, Some(10)), [None; 3]).unwrap().points, 4096);
    }

    #[test]
    fn a_step_takes_the_coarsest_intervals_that_fill_it() {
        let tiers = |step| Grid { from: 0, step, points: 1 }.tiers().collect::<Vec<_>>();
        assert_eq!(tiers(3600), [Tier::TenMinutes, Tier::Minute, Tier::TenSeconds]);
        assert_eq!(tiers(120), [Tier::Minute, Tier::TenSeconds]);
        assert_eq!(tiers(90), [Tier::TenSeconds]);
    }
}
