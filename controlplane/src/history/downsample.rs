//! Many intervals as one.

use super::interval::{Interval, QUANTILES, RttSummary};

/// Where each kept figure lies in the distribution: least, quantiles, greatest.
const LEVELS: [f64; QUANTILES.len() + 2] = {
    let mut levels = [0.0; QUANTILES.len() + 2];
    let mut at = 0;
    while at < QUANTILES.len() {
        levels[at + 1] = QUANTILES[at];
        at += 1;
    }
    levels[QUANTILES.len() + 1] = 1.0;
    levels
};

impl Interval {
    /// What intervals say together, in any order.
    ///
    /// - Counts and sums are added, least and greatest taken.
    /// - Lost by direction is absent where an interval that lost something does not know.
    /// - Jitter is the mean of those that have one, by the probes they answered.
    /// - Quantiles are those of all distributions laid on one another, each taken as even between the figures that are
    ///   kept of it. A merged quantile lies between the least and the greatest of the same quantile of the intervals; where they
    ///   agree, so does it. What is between two kept figures is not known: there it is off by less than these two are
    ///   apart. So the coarser tiers are not merged from finer ones but measured.
    ///
    /// `None` for no intervals. O(n log n).
    ///
    /// ```
    /// use relayscope_controlplane::history::Interval;
    ///
    /// let (a, b) = (Interval { answered: 9, lost: 1, ..Interval::default() }, Interval::default());
    /// assert_eq!(Interval::merged(&[a, b]), Some(a));
    /// assert_eq!(Interval::merged(&[]), None);
    /// ```
    pub fn merged(intervals: &[Self]) -> Option<Self> {
        match intervals {
            [] => None,
            [one] => Some(*one),
            _ => Some(Self {
                answered: sum(intervals.iter().map(|interval| interval.answered)),
                lost: sum(intervals.iter().map(|interval| interval.lost)),
                lost_forward: by_direction(intervals, |interval| interval.lost_forward),
                lost_reverse: by_direction(intervals, |interval| interval.lost_reverse),
                rtt: merged_rtt(intervals),
                jitter_ns: merged_jitter(intervals),
            }),
        }
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn by_direction(intervals: &[Interval], direction: impl Fn(&Interval) -> Option<u64>) -> Option<u64> {
    if intervals.iter().any(|interval| interval.lost > 0 && direction(interval).is_none()) {
        return None;
    }
    intervals.iter().filter_map(direction).reduce(u64::saturating_add)
}

fn merged_jitter(intervals: &[Interval]) -> Option<u64> {
    let known = || intervals.iter().filter_map(|interval| Some((interval.jitter_ns?, interval.answered)));
    let answered: u128 = known().map(|(_, answered)| u128::from(answered)).sum();
    let (total, weight) = if answered > 0 {
        (known().map(|(ns, answered)| u128::from(ns) * u128::from(answered)).sum(), answered)
    } else {
        (known().map(|(ns, _)| u128::from(ns)).sum::<u128>(), known().count() as u128)
    };
    // A mean is no greater than what it is of.
    total.checked_div(weight).map(|mean| mean as u64)
}

fn merged_rtt(intervals: &[Interval]) -> Option<RttSummary> {
    let known: Vec<&RttSummary> = intervals.iter().filter_map(|interval| interval.rtt.as_ref()).collect();
    match known.as_slice() {
        [] => None,
        [one] => Some(**one),
        _ => Some(RttSummary {
            count: sum(known.iter().map(|rtt| rtt.count)),
            sum_ns: sum(known.iter().map(|rtt| rtt.sum_ns)),
            min_ns: known.iter().map(|rtt| rtt.min_ns).min()?,
            max_ns: known.iter().map(|rtt| rtt.max_ns).max()?,
            quantiles_ns: merged_quantiles(&known),
        }),
    }
}

/// What sums of shares may be off by, far below what a figure is.
const ROUNDING: f64 = 1e-9;

/// The density of all distributions changes here, and so much of them is exactly here.
struct Knot {
    at: f64,
    density: f64,
    mass: f64,
}

fn merged_quantiles(summaries: &[&RttSummary]) -> [u64; QUANTILES.len()] {
    let mut knots = Vec::with_capacity(summaries.len() * LEVELS.len() * 2);
    // Those without a count weigh nothing beside others, and alike among themselves.
    let is_counted = summaries.iter().any(|rtt| rtt.count > 0);
    let mut total = 0.0;
    for rtt in summaries {
        let weight = if is_counted { rtt.count as f64 } else { 1.0 };
        total += weight;
        let figures = figures(rtt);
        for (levels, ends) in LEVELS.windows(2).zip(figures.windows(2)) {
            let mass = weight * (levels[1] - levels[0]);
            let (begin, end) = (ends[0], ends[1]);
            if end > begin {
                let density = mass / (end - begin);
                knots.push(Knot { at: begin, density, mass: 0.0 });
                knots.push(Knot { at: end, density: -density, mass: 0.0 });
            } else {
                knots.push(Knot { at: begin, density: 0.0, mass });
            }
        }
    }
    knots.sort_unstable_by(|a, b| a.at.total_cmp(&b.at));
    let mut merged = [0; QUANTILES.len()];
    let mut sweep = Sweep { knots: knots.into_iter().peekable(), at: 0.0, below: 0.0, density: 0.0 };
    for (index, level) in QUANTILES.into_iter().enumerate() {
        let figure = sweep.to(level * total * (1.0 - ROUNDING));
        // Rounding of sums must not carry a quantile past those it is made of.
        let of_each = summaries.iter().map(|rtt| figures(rtt)[index + 1]);
        let (least, greatest) =
            of_each.fold((f64::MAX, 0.0_f64), |(least, greatest), of| (of.min(least), of.max(greatest)));
        merged[index] = figure.max(least).min(greatest).round() as u64;
    }
    merged
}

/// Least, quantiles and greatest, ascending whatever they say.
fn figures(rtt: &RttSummary) -> [f64; LEVELS.len()] {
    let [p05, p25, p50, p75, p95, p99] = rtt.quantiles_ns;
    let mut figures = [rtt.min_ns, p05, p25, p50, p75, p95, p99, rtt.max_ns];
    for at in 1..figures.len() {
        figures[at] = figures[at].max(figures[at - 1]);
    }
    figures.map(|ns| ns as f64)
}

/// Goes through the merged distribution from the least time on.
struct Sweep {
    knots: std::iter::Peekable<std::vec::IntoIter<Knot>>,
    at: f64,
    below: f64,
    density: f64,
}

impl Sweep {
    /// Where so much of it lies below. Asked for more and more.
    fn to(&mut self, mass: f64) -> f64 {
        while let Some(knot) = self.knots.peek() {
            let next = self.below + self.density * (knot.at - self.at);
            if next >= mass {
                break;
            }
            self.below = next + knot.mass;
            self.density = (self.density + knot.density).max(0.0);
            self.at = knot.at;
            self.knots.next();
        }
        if self.below >= mass || self.density <= 0.0 {
            return self.at;
        }
        self.at + (mass - self.below) / self.density
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::any_interval;
    use super::*;

    fn rtt(count: u64, min_ns: u64, quantiles_ns: [u64; 6], max_ns: u64) -> Interval {
        let sum_ns = count * quantiles_ns[2];
        Interval {
            answered: count,
            rtt: Some(RttSummary { count, sum_ns, min_ns, max_ns, quantiles_ns }),
            ..Interval::default()
        }
    }

    /// Evenly from `least` to `least + 100 * step`.
    fn even(count: u64, least: u64, step: u64) -> Interval {
        rtt(count, least, [5, 25, 50, 75, 95, 99].map(|percent| least + percent * step), least + 100 * step)
    }

    #[test]
    fn counts_are_added_and_jitter_weighs_by_what_was_answered() {
        let a = Interval {
            answered: 3,
            lost: 1,
            lost_forward: Some(1),
            lost_reverse: Some(0),
            jitter_ns: Some(10),
            rtt: None,
        };
        let b = Interval {
            answered: 1,
            lost: 2,
            lost_forward: Some(0),
            lost_reverse: Some(2),
            jitter_ns: Some(30),
            rtt: None,
        };
        let silent = Interval::default();
        let merged = Interval {
            answered: 4,
            lost: 3,
            lost_forward: Some(1),
            lost_reverse: Some(2),
            jitter_ns: Some(15),
            rtt: None,
        };
        assert_eq!(Interval::merged(&[a, silent, b]), Some(merged));
        assert_eq!(Interval::merged(&[silent, silent]), Some(silent));
    }

    #[test]
    fn what_one_that_lost_does_not_know_is_known_of_none() {
        let knows = Interval { lost: 1, lost_forward: Some(1), lost_reverse: Some(0), ..Interval::default() };
        let does_not = Interval { lost: 1, ..Interval::default() };
        let merged = Interval { lost: 2, ..Interval::default() };
        assert_eq!(Interval::merged(&[knows, does_not]), Some(merged));
    }

    #[test]
    fn distributions_that_agree_stay_as_they_are() {
        let both = Interval::merged(&[even(10, 1_000, 10), even(30, 1_000, 10)]).unwrap();
        assert_eq!(both.rtt.unwrap().quantiles_ns, [1_050, 1_250, 1_500, 1_750, 1_950, 1_990]);
        assert_eq!((both.rtt.unwrap().count, both.rtt.unwrap().sum_ns), (40, 60_000));
    }

    #[test]
    fn two_that_lie_apart_become_one_with_two_hills() {
        // Half below 200, half from 1,000 on: the median is where the lower one ends.
        let both = Interval::merged(&[even(10, 100, 1), even(10, 1_000, 1)]).unwrap().rtt.unwrap();
        assert_eq!((both.min_ns, both.max_ns), (100, 1_100));
        assert_eq!(both.quantiles_ns, [110, 150, 200, 1_050, 1_090, 1_098]);
    }

    #[test]
    fn single_observations_merge_to_their_own_quantiles() {
        let one = |ns| rtt(1, ns, [ns; 6], ns);
        let all: Vec<_> = (1..=100).map(one).collect();
        let merged = Interval::merged(&all).unwrap().rtt.unwrap();
        assert_eq!((merged.min_ns, merged.quantiles_ns, merged.max_ns), (1, [5, 25, 50, 75, 95, 99], 100));
    }

    proptest! {
        #[test]
        fn a_merged_quantile_lies_among_those_it_is_made_of(
            intervals in proptest::collection::vec(any_interval(), 2..20),
        ) {
            let merged = Interval::merged(&intervals).unwrap();
            let known: Vec<_> = intervals.iter().filter_map(|interval| interval.rtt).collect();
            prop_assert_eq!(merged.rtt.is_some(), !known.is_empty());
            if let (Some(rtt), [_, _, ..]) = (merged.rtt, known.as_slice()) {
                let ours = figures(&rtt);
                for (at, ours) in ours.into_iter().enumerate() {
                    let each = || known.iter().map(|rtt| figures(rtt)[at]);
                    let (least, greatest) = (each().reduce(f64::min).unwrap(), each().reduce(f64::max).unwrap());
                    prop_assert!(least <= ours && ours <= greatest, "{ours} of {least}..={greatest}");
                }
            }
        }
    }
}
