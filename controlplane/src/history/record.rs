//! An interval as it is kept: its times [on their scale](super::scale), its figures as differences that are small.

use super::interval::{Interval, QUANTILES, RttSummary};
use super::scale;

/// Figures of a record, each of which is a column of a chunk.
pub(super) const COLUMNS: usize = 16;

/// The column that says which of the others a record has: one bit each.
pub(super) const FLAGS: usize = 0;
const ANSWERED: usize = 1;
const LOST: usize = 2;
const FORWARD: usize = 3;
/// What is lost and neither forward nor reverse: as a rule nothing.
const NEITHER: usize = 4;
/// What was answered and not observed: as a rule nothing.
const UNOBSERVED: usize = 5;
const MEDIAN: usize = 6;
/// Those of the times that follow are steps from the one before them towards the tail.
const LOWER_QUARTER: usize = 7;
const P05: usize = 8;
const MIN: usize = 9;
const UPPER_QUARTER: usize = 10;
const P95: usize = 11;
const P99: usize = 12;
const MAX: usize = 13;
/// From the median.
const MEAN: usize = 14;
const JITTER: usize = 15;

const HAS_FORWARD: i64 = 1;
const HAS_REVERSE: i64 = 2;
const HAS_RTT: i64 = 4;
const HAS_JITTER: i64 = 8;
const HAS_ALL: i64 = HAS_FORWARD | HAS_REVERSE | HAS_RTT | HAS_JITTER;

const _: () = assert!(QUANTILES.len() == 6, "a column each");

/// An interval as columns hold it. Differences wrap, so that every interval has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record([i64; COLUMNS]);

/// A figure that no interval has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfRange;

impl Record {
    /// What is kept of an interval: counts to the unit, times as [`scale`] has them, their sum as their mean.
    pub(super) fn of(interval: &Interval) -> Self {
        let mut columns = [0; COLUMNS];
        columns[ANSWERED] = interval.answered as i64;
        columns[LOST] = interval.lost as i64;
        let mut neither = interval.lost;
        if let Some(forward) = interval.lost_forward {
            columns[FLAGS] |= HAS_FORWARD;
            columns[FORWARD] = forward as i64;
            neither = neither.wrapping_sub(forward);
        }
        if let Some(reverse) = interval.lost_reverse {
            columns[FLAGS] |= HAS_REVERSE;
            columns[NEITHER] = neither.wrapping_sub(reverse) as i64;
        }
        if let Some(rtt) = &interval.rtt {
            columns[FLAGS] |= HAS_RTT;
            columns[UNOBSERVED] = interval.answered.wrapping_sub(rtt.count) as i64;
            let code = |ns| i64::from(scale::code(ns));
            let [p05, p25, p50, p75, p95, p99] = rtt.quantiles_ns.map(code);
            columns[MEDIAN] = p50;
            columns[LOWER_QUARTER] = p50 - p25;
            columns[P05] = p25 - p05;
            columns[MIN] = p05 - code(rtt.min_ns);
            columns[UPPER_QUARTER] = p75 - p50;
            columns[P95] = p95 - p75;
            columns[P99] = p99 - p95;
            columns[MAX] = code(rtt.max_ns) - p99;
            let mean_ns = rtt.sum_ns.checked_div(rtt.count).unwrap_or(0);
            columns[MEAN] = code(mean_ns) - p50;
        }
        if let Some(jitter_ns) = interval.jitter_ns {
            columns[FLAGS] |= HAS_JITTER;
            columns[JITTER] = i64::from(scale::code(jitter_ns));
        }
        Self(columns)
    }

    /// The interval, times to within a thousandth.
    pub(super) fn interval(&self) -> Result<Interval, OutOfRange> {
        let columns = &self.0;
        let has = |flag| columns[FLAGS] & flag != 0;
        let lost = columns[LOST] as u64;
        let lost_forward = has(HAS_FORWARD).then_some(columns[FORWARD] as u64);
        let rest = lost.wrapping_sub(lost_forward.unwrap_or(0));
        Ok(Interval {
            answered: columns[ANSWERED] as u64,
            lost,
            lost_forward,
            lost_reverse: has(HAS_REVERSE).then_some(rest.wrapping_sub(columns[NEITHER] as u64)),
            rtt: has(HAS_RTT).then(|| self.rtt()).transpose()?,
            jitter_ns: has(HAS_JITTER).then(|| nanoseconds(columns[JITTER])).transpose()?,
        })
    }

    fn rtt(&self) -> Result<RttSummary, OutOfRange> {
        let columns = &self.0;
        let p50 = columns[MEDIAN];
        let p25 = p50.wrapping_sub(columns[LOWER_QUARTER]);
        let p05 = p25.wrapping_sub(columns[P05]);
        let p75 = p50.wrapping_add(columns[UPPER_QUARTER]);
        let p95 = p75.wrapping_add(columns[P95]);
        let p99 = p95.wrapping_add(columns[P99]);
        let mut quantiles_ns = [0; QUANTILES.len()];
        for (ns, code) in quantiles_ns.iter_mut().zip([p05, p25, p50, p75, p95, p99]) {
            *ns = nanoseconds(code)?;
        }
        let count = (columns[ANSWERED] as u64).wrapping_sub(columns[UNOBSERVED] as u64);
        let mean_ns = nanoseconds(p50.wrapping_add(columns[MEAN]))?;
        Ok(RttSummary {
            count,
            sum_ns: mean_ns.saturating_mul(count),
            min_ns: nanoseconds(p05.wrapping_sub(columns[MIN]))?,
            max_ns: nanoseconds(p99.wrapping_add(columns[MAX]))?,
            quantiles_ns,
        })
    }

    /// Its figures by column. Those that [`present`] has not are 0.
    pub(super) fn columns(&self) -> &[i64; COLUMNS] {
        &self.0
    }

    /// Of figures as [`columns`](Self::columns) has them.
    pub(super) fn from_columns(columns: [i64; COLUMNS]) -> Result<Self, OutOfRange> {
        if columns[FLAGS] & !HAS_ALL != 0 {
            return Err(OutOfRange);
        }
        let record = Self(columns);
        record.interval()?;
        Ok(record)
    }
}

/// Whether records with these [`FLAGS`] have a figure in a column.
pub(super) fn present(flags: i64, column: usize) -> bool {
    let flag = match column {
        FLAGS | ANSWERED | LOST => return true,
        FORWARD => HAS_FORWARD,
        NEITHER => HAS_REVERSE,
        JITTER => HAS_JITTER,
        _ => HAS_RTT,
    };
    flags & flag != 0
}

fn nanoseconds(code: i64) -> Result<u64, OutOfRange> {
    u16::try_from(code).ok().and_then(scale::nanoseconds).ok_or(OutOfRange)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any interval at all: counts and times of every magnitude, in no order.
    pub(in crate::history) fn any_interval() -> impl Strategy<Value = Interval> {
        let number = || (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift);
        let rtt = (
            number(),
            number(),
            number(),
            number(),
            [number(), number(), number(), number(), number(), number()],
        )
            .prop_map(|(count, sum_ns, min_ns, max_ns, quantiles_ns)| RttSummary {
                count,
                sum_ns,
                min_ns,
                max_ns,
                quantiles_ns,
            });
        let option = || proptest::option::of(number());
        (number(), number(), option(), option(), proptest::option::of(rtt), option()).prop_map(
            |(answered, lost, lost_forward, lost_reverse, rtt, jitter_ns)| Interval {
                answered,
                lost,
                lost_forward,
                lost_reverse,
                rtt,
                jitter_ns,
            },
        )
    }

    /// As an hour on a network has them.
    pub(in crate::history) fn an_interval() -> Interval {
        Interval {
            answered: 9,
            lost: 3,
            lost_forward: Some(2),
            lost_reverse: Some(1),
            rtt: Some(RttSummary {
                count: 9,
                sum_ns: 9_000,
                min_ns: 500,
                max_ns: 1_023,
                quantiles_ns: [510, 600, 700, 800, 900, 1_000],
            }),
            jitter_ns: Some(77),
        }
    }

    #[test]
    fn an_interval_of_short_times_comes_back_to_the_nanosecond() {
        let interval = an_interval();
        assert_eq!(Record::of(&interval).interval(), Ok(interval));
        let silent = Interval { lost: 10, ..Interval::default() };
        assert_eq!(Record::of(&silent).interval(), Ok(silent));
    }

    #[test]
    fn figures_that_no_interval_has_are_refused() {
        let good = *Record::of(&an_interval()).columns();
        for (column, figure) in
            [(FLAGS, 16), (MEDIAN, -1), (MEDIAN, 70_000), (JITTER, 28_672), (MAX, i64::MAX)]
        {
            let mut bad = good;
            bad[column] = figure;
            assert_eq!(Record::from_columns(bad), Err(OutOfRange), "column {column}");
        }
    }

    fn close(kept: u64, of: u64) -> bool {
        kept.abs_diff(of) as f64 <= of as f64 * 0.000_98
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_times_within_a_thousandth(interval in any_interval()) {
            let kept = Record::of(&interval).interval().unwrap();
            let counts = |i: &Interval| (i.answered, i.lost, i.lost_forward, i.lost_reverse, i.rtt.map(|rtt| rtt.count));
            prop_assert_eq!(counts(&kept), counts(&interval));
            prop_assert_eq!(kept.jitter_ns.is_some(), interval.jitter_ns.is_some());
            prop_assert!(close(kept.jitter_ns.unwrap_or(0), interval.jitter_ns.unwrap_or(0)));
            if let (Some(kept), Some(rtt)) = (kept.rtt, interval.rtt) {
                prop_assert!(close(kept.min_ns, rtt.min_ns) && close(kept.max_ns, rtt.max_ns));
                for (kept, of) in kept.quantiles_ns.into_iter().zip(rtt.quantiles_ns) {
                    prop_assert!(close(kept, of), "{} of {}", kept, of);
                }
            }
        }

        #[test]
        fn what_was_kept_once_stays_as_it_is(interval in any_interval()) {
            let record = Record::of(&interval);
            let kept = record.interval().unwrap();
            prop_assume!(kept.rtt.is_none_or(|rtt| rtt.count > 0 && rtt.sum_ns < u64::MAX));
            prop_assert_eq!(Record::of(&kept), record);
            prop_assert_eq!(Record::from_columns(*record.columns()), Ok(record));
        }
    }
}
