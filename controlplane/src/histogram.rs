//! Distributions in base-2 exponential buckets, from which every other form is derived.
//!
//! The scale is that of Prometheus native histograms at schema 3: eight buckets per octave, each
//! 9 % wider than the one before. Bucket `i` holds `bound(i - 1) < value <= bound(i)` with
//! `bound(8 * e + j) = 2^e * 2^(j / 8)`: upper bounds are inclusive, and every eighth is a power of
//! two. Classic `le` buckets at powers of two are therefore sums of whole buckets, not estimates; those at other
//! bounds are estimates within one bucket, see [`Cut`].

use std::ops::RangeInclusive;

use relayscope_bridge::catalogue::Unit;

/// Buckets per octave: schema 3 of Prometheus native histograms.
const PER_OCTAVE: i32 = 8;

/// The upper bounds within the octave 1..2. They are Prometheus's own constants (given there for
/// 0.5..1), to the last bit, so that both sides sort a value on a bound alike.
const BOUNDS: [f64; PER_OCTAVE as usize] = [
    1.0,
    2.0 * 0.545_253_866_332_628_8,
    2.0 * 0.594_603_557_501_360_5,
    2.0 * 0.648_419_777_325_504_8,
    2.0 * 0.707_106_781_186_547_5,
    2.0 * 0.771_105_412_703_970_4,
    2.0 * 0.840_896_415_253_714_4,
    2.0 * 0.917_004_043_204_671_1,
];

const FRACTION_BITS: u32 = 52;
const FRACTION: u64 = (1 << FRACTION_BITS) - 1;
const EXPONENT_BIAS: i32 = 1023;

/// The finest value told apart: 2^-32, a quarter of a nanosecond. What is smaller counts into the
/// bucket that ends there.
const EXPONENT_MIN: i32 = -32;
/// The largest value told apart: 2^32. What is larger counts into the bucket above.
const EXPONENT_MAX: i32 = 32;
const INDEX_MIN: i32 = EXPONENT_MIN * PER_OCTAVE;
const INDEX_MAX: i32 = EXPONENT_MAX * PER_OCTAVE;
const INDEX_OVERFLOW: i32 = INDEX_MAX + 1;

/// The most buckets one histogram allocates.
const BUCKETS_MAX: usize = (INDEX_OVERFLOW - INDEX_MIN + 1) as usize;
const _: () = assert!(BUCKETS_MAX * 8 <= 4112, "a histogram takes at most 4 KiB");

/// Why a value is not part of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// NaN or an infinity: it would spoil the sum for ever.
    #[error("an observation must be finite")]
    NotFinite,
    /// Below zero: time does not run backwards and sizes are not negative.
    #[error("an observation must not be negative")]
    Negative,
}

/// A distribution of finite values from zero up, within 9 % of each, in at most 4 KiB.
///
/// Zero has a bucket of its own. Values in (0, 2^-32] share the lowest bucket, values above 2^32 the
/// highest. Memory grows with the buckets that something fell into, 8 octets each: what comes of one path are a
/// few dozen of the 514.
///
/// ```
/// use relayscope_controlplane::ExponentialHistogram;
///
/// let mut rtt = ExponentialHistogram::default();
/// for microseconds in 1..=1000 {
///     rtt.record(f64::from(microseconds) * 1e-6)?;
/// }
/// assert_eq!(rtt.count(), 1000);
/// let median = rtt.quantile(0.5).unwrap();
/// assert!((median / 500e-6 - 1.0).abs() < 0.09);
/// # Ok::<(), relayscope_controlplane::Refusal>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExponentialHistogram {
    count: u64,
    sum: f64,
    zero: u64,
    /// Ascending.
    buckets: Vec<Bucket>,
}

/// A bucket with something in it: its index, counted from the lowest, above [`COUNT_BITS`] of its count.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket(u64);

/// A count this wide takes half a billion years at a million a second.
const COUNT_BITS: u32 = 54;
const _: () = assert!(BUCKETS_MAX <= 1 << (u64::BITS - COUNT_BITS), "every index fits beside a count");
/// Buckets allocated at a time.
const BUCKETS_STEP: usize = 4;

impl Bucket {
    fn empty(index: i32) -> Self {
        Self(u64::from(index.abs_diff(INDEX_MIN)) << COUNT_BITS)
    }

    /// At most [`INDEX_OVERFLOW`], so the cast drops nothing.
    fn index(self) -> i32 {
        (self.0 >> COUNT_BITS) as i32 + INDEX_MIN
    }

    fn count(self) -> u64 {
        self.0 & ((1 << COUNT_BITS) - 1)
    }
}

impl ExponentialHistogram {
    /// Counts one value. Allocates only for the first in its bucket, if then.
    ///
    /// # Errors
    /// [`Refusal`] for a value that is not finite or is negative; the histogram is unchanged.
    pub fn record(&mut self, value: f64) -> Result<(), Refusal> {
        if !value.is_finite() {
            return Err(Refusal::NotFinite);
        }
        if value < 0.0 {
            return Err(Refusal::Negative);
        }
        if value == 0.0 {
            self.zero += 1;
        } else {
            self.add(index_of(value), 1);
        }
        self.count += 1;
        self.sum += value;
        Ok(())
    }

    /// Counts all that `other` has counted, exactly: both have the same buckets.
    pub fn merge(&mut self, other: &Self) {
        for (index, count) in other.buckets() {
            self.add(index, count);
        }
        self.zero += other.zero;
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Values that were zero.
    pub fn zero_count(&self) -> u64 {
        self.zero
    }

    /// Every bucket with something in it and its index, ascending; see the module for what an index means.
    pub fn buckets(&self) -> impl Iterator<Item = (i32, u64)> {
        self.buckets.iter().map(|bucket| (bucket.index(), bucket.count()))
    }

    /// How many values are at most the bound of each cut, for cuts in ascending order. Never more for a lesser
    /// bound, and never less than before when more values came; see [`Cut`] for how exact.
    pub fn cumulative<'a>(
        &'a self,
        cuts: impl IntoIterator<Item = Cut> + 'a,
    ) -> impl Iterator<Item = u64> + 'a {
        let mut rest = self.buckets().peekable();
        let mut below = self.zero;
        cuts.into_iter().map(move |cut| {
            while let Some((_, count)) = rest.next_if(|&(index, _)| index < cut.index) {
                below += count;
            }
            let within = rest.peek().filter(|&&(index, _)| index == cut.index && cut.share > 0.0);
            below + within.map_or(0, |&(_, count)| (count as f64 * cut.share) as u64)
        })
    }

    /// The value that the share `q` of all values does not exceed, interpolated within its bucket on
    /// the bucket's own logarithmic scale. `None` when nothing was recorded or `q` is not in 0..=1.
    ///
    /// It lies in the same bucket as the exact quantile, so within 9 % of it; a value beyond the
    /// range answers with the end of the range.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut below = self.zero;
        if rank <= below {
            return Some(0.0);
        }
        let (index, share) = self.buckets().find_map(|(index, count)| {
            let into = rank - below;
            below += count;
            (rank <= below).then(|| (index, into as f64 / count as f64))
        })?;
        Some(interpolate(index, share))
    }

    fn add(&mut self, index: i32, count: u64) {
        let place = self.buckets.partition_point(|bucket| bucket.index() < index);
        if self.buckets.get(place).is_none_or(|bucket| bucket.index() != index) {
            if self.buckets.len() == self.buckets.capacity() {
                self.buckets.reserve_exact(BUCKETS_STEP);
            }
            self.buckets.insert(place, Bucket::empty(index));
        }
        self.buckets[place].0 += count;
    }
}

/// Where a histogram is cut in two: at a bound.
///
/// Every bound `2^(i / 8)` within 2^-32..=2^32, so every power of two, lies between two buckets: what is counted
/// below it is exact. Any other lies within a bucket, of which the share below it on its logarithmic scale is
/// counted, rounded down, as [`quantile`](ExponentialHistogram::quantile) interpolates. The error is less than
/// that bucket's count: what is said of 0.1 s lies between what is true of 0.0964 s and of 0.1051 s. Outside the
/// range a bound is as its end, though below it only zeros are counted.
///
/// ```
/// use relayscope_controlplane::{Cut, ExponentialHistogram};
///
/// let mut rtt = ExponentialHistogram::default();
/// for milliseconds in 1..=200 {
///     rtt.record(f64::from(milliseconds) * 1e-3)?;
/// }
/// let counts: Vec<_> = rtt.cumulative([0.1, 0.125].map(Cut::at)).collect();
/// // Of 97..=105 ms, which share a bucket, the share below 100 ms is estimated.
/// assert_eq!(counts, [99, 125]);
/// # Ok::<(), relayscope_controlplane::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// The buckets before this one are below.
    index: i32,
    /// What part of this one is: 0..1.
    share: f64,
}

impl Cut {
    /// At `bound`, which is finite and above 0.
    pub fn at(bound: f64) -> Self {
        let index = index_of(bound);
        if index >= INDEX_OVERFLOW || bound == self::bound(index) {
            return Self { index: (index + 1).min(INDEX_OVERFLOW), share: 0.0 };
        }
        if index == INDEX_MIN {
            // It has no lower end to measure from.
            return Self { index, share: 0.0 };
        }
        let (lower, upper) = (self::bound(index - 1), self::bound(index));
        let share = (bound / lower).log2() / (upper / lower).log2();
        Self { index, share: if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 } }
    }
}

/// The exponents of two at which a family's classic buckets end.
///
/// Seconds: 7.6 us to 16 s, from a loopback round trip to past any timeout. One bound per octave:
/// halves would double the series of every target, and who needs finer reads native histograms.
pub(crate) fn classic_exponents(unit: Unit) -> RangeInclusive<i32> {
    match unit {
        Unit::Seconds => -17..=4,
        Unit::Ratio => -10..=0,
        _ => 0..=20,
    }
}

/// 2^e, exactly.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    let biased = (EXPONENT_BIAS + exponent).clamp(0, 2047);
    f64::from_bits(u64::from(biased.unsigned_abs()) << FRACTION_BITS)
}

/// The inclusive upper bound of a bucket.
fn bound(index: i32) -> f64 {
    let within = index.rem_euclid(PER_OCTAVE).unsigned_abs() as usize;
    power_of_two(index.div_euclid(PER_OCTAVE)) * BOUNDS[within]
}

/// The bucket of a positive finite value, from its bits: the exponent finds the octave, comparing
/// the fraction with eight constants the bucket in it. No logarithm, no rounding.
fn index_of(value: f64) -> i32 {
    let bits = value.to_bits();
    // The sign is clear and the shift leaves 11 bits, so the cast drops nothing.
    let exponent = (bits >> FRACTION_BITS) as i32 - EXPONENT_BIAS;
    let above = BOUNDS.iter().filter(|bound| bits & FRACTION > bound.to_bits() & FRACTION).count();
    (exponent * PER_OCTAVE + above as i32).clamp(INDEX_MIN, INDEX_OVERFLOW)
}

fn interpolate(index: i32, share: f64) -> f64 {
    if index == INDEX_MIN {
        return bound(INDEX_MIN);
    }
    if index == INDEX_OVERFLOW {
        return bound(INDEX_MAX);
    }
    let (lower, upper) = (bound(index - 1), bound(index));
    (lower * (upper / lower).powf(share)).clamp(lower, upper)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> ExponentialHistogram {
        let mut histogram = ExponentialHistogram::default();
        for &value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    fn only_bucket(value: f64) -> i32 {
        of(&[value]).buckets().next().unwrap().0
    }

    #[test]
    fn merging_counts_what_both_counted() {
        let of = |values: &[f64]| {
            let mut histogram = ExponentialHistogram::default();
            values.iter().for_each(|value| histogram.record(*value).unwrap());
            histogram
        };
        let mut merged = of(&[0.0, 1.0, 8.0]);
        merged.merge(&of(&[0.25, 1.0, 0.0]));
        assert_eq!(merged, of(&[0.0, 1.0, 8.0, 0.25, 1.0, 0.0]));
        merged.merge(&ExponentialHistogram::default());
        assert_eq!(merged.count(), 6);
    }

    #[test]
    fn upper_bounds_are_inclusive() {
        assert_eq!(only_bucket(1.0), 0);
        assert_eq!(only_bucket(1.0f64.next_up()), 1);
        assert_eq!(only_bucket(2.0), 8);
        assert_eq!(only_bucket(2.0f64.next_up()), 9);
        assert_eq!(only_bucket(0.5), -8);
        assert_eq!(only_bucket(std::f64::consts::SQRT_2.next_down()), 4);
        assert_eq!(only_bucket(1.5), 5);
    }

    #[test]
    fn every_bound_falls_in_its_own_bucket_and_the_next_float_in_the_next() {
        for index in INDEX_MIN + 1..INDEX_MAX {
            assert_eq!(index_of(bound(index)), index);
            assert_eq!(index_of(bound(index).next_up()), index + 1);
        }
    }

    #[test]
    fn bounds_are_powers_of_the_eighth_root_of_two() {
        for (eighths, bound) in (0..8).zip(BOUNDS) {
            let exact = 2f64.powf(f64::from(eighths) / 8.0);
            assert!((bound - exact).abs() <= 2.0 * f64::EPSILON, "2^({eighths}/8): {bound} {exact}");
        }
    }

    #[test]
    fn of_the_bucket_a_bound_falls_in_the_part_below_it_is_counted() {
        // Eight in one bucket, which ends at 1 and 2^(1/8); on its scale 2^(1/16) is half way.
        let histogram = of(&[[1.01; 8], [1.5; 8]].concat());
        let counts =
            |bounds: &[f64]| histogram.cumulative(bounds.iter().copied().map(Cut::at)).collect::<Vec<_>>();
        let eighths = |eighths: f64| 2f64.powf(eighths / 8.0);
        assert_eq!(counts(&[1.0, eighths(0.26), eighths(0.51), BOUNDS[1], 2.0]), [0, 2, 4, 8, 16]);
    }

    #[test]
    fn nan_infinite_and_negative_values_are_refused_and_change_nothing() {
        let mut histogram = of(&[0.25]);
        let before = histogram.clone();
        assert_eq!(histogram.record(f64::NAN), Err(Refusal::NotFinite));
        assert_eq!(histogram.record(f64::INFINITY), Err(Refusal::NotFinite));
        assert_eq!(histogram.record(f64::NEG_INFINITY), Err(Refusal::NotFinite));
        assert_eq!(histogram.record(-1e-9), Err(Refusal::Negative));
        assert_eq!(histogram, before);
    }

    #[test]
    fn both_zeros_count_as_zero() {
        let histogram = of(&[0.0, -0.0, 1.0]);
        assert_eq!((histogram.zero_count(), histogram.count()), (2, 3));
        assert_eq!(histogram.quantile(0.5), Some(0.0));
    }

    #[test]
    fn values_beyond_the_range_count_at_its_ends_in_bounded_memory() {
        let histogram = of(&[f64::MIN_POSITIVE / 4.0, 1e-300, 1e300, f64::MAX, 2f64.powi(32)]);
        assert_eq!(histogram.buckets().map(|(_, count)| count).collect::<Vec<_>>(), [2, 1, 2]);
        let mut all = ExponentialHistogram::default();
        (INDEX_MIN..=INDEX_OVERFLOW).for_each(|index| all.record(bound(index)).unwrap());
        assert_eq!(all.buckets.len(), BUCKETS_MAX);
        let counts = |bounds: &[f64]| {
            histogram.cumulative(bounds.iter().copied().map(Cut::at).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(counts(&[f64::MIN_POSITIVE, 2f64.powi(-32)]), [0, 2]);
        assert_eq!(counts(&[2f64.powi(32), 1e200, f64::MAX]), [3, 3, 3]);
        assert_eq!(histogram.quantile(0.0), Some(2f64.powi(-32)));
        assert_eq!(histogram.quantile(1.0), Some(2f64.powi(32)));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile_and_no_value_lies_outside_0_to_1() {
        assert_eq!(ExponentialHistogram::default().quantile(0.5), None);
        let one = of(&[1.0]);
        assert_eq!((one.quantile(-0.1), one.quantile(1.1), one.quantile(f64::NAN)), (None, None, None));
    }

    /// Values over the whole range, on bounds and beside them as well as between.
    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            Just(0.0),
            (-40.0..40.0f64).prop_map(f64::exp2),
            (INDEX_MIN..INDEX_MAX).prop_map(bound),
            (INDEX_MIN..INDEX_MAX).prop_map(|index| bound(index).next_up()),
            (-40..40).prop_map(|exponent| 2f64.powi(exponent)),
        ]
    }

    proptest! {
        #[test]
        fn index_agrees_with_bounds_by_powf(value in (-31.9..31.9f64).prop_map(f64::exp2)) {
            let naive = |index: i32| 2f64.powf(f64::from(index) / 8.0);
            let expected = (INDEX_MIN..=INDEX_MAX).find(|&index| value <= naive(index)).unwrap();
            // powf and the constants may differ in the last bit; only a value that close may differ.
            let close = [expected - 1, expected].iter().any(|&i| (value / naive(i) - 1.0).abs() < 1e-15);
            prop_assert!(index_of(value) == expected || close);
        }

        #[test]
        fn cumulative_counts_are_exact(values in proptest::collection::vec(value(), 0..200)) {
            let histogram = of(&values);
            let cuts = (-32..=32).map(|exponent| Cut::at(power_of_two(exponent)));
            let got: Vec<u64> = histogram.cumulative(cuts).collect();
            for (exponent, got) in (-32..=32).zip(got) {
                let naive = values.iter().filter(|&&v| v <= 2f64.powi(exponent)).count() as u64;
                prop_assert_eq!(got, naive, "le 2^{}", exponent);
            }
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert!(histogram.buckets.len() <= BUCKETS_MAX);
        }

        #[test]
        fn counts_below_any_bound_lie_between_those_below_its_buckets_ends(
            values in proptest::collection::vec(value(), 0..200),
            mut bounds in proptest::collection::vec((-31.9..31.9f64).prop_map(f64::exp2), 1..20),
        ) {
            bounds.sort_by(f64::total_cmp);
            let histogram = of(&values);
            let got: Vec<u64> = histogram.cumulative(bounds.iter().copied().map(Cut::at)).collect();
            prop_assert!(got.is_sorted(), "{:?}", got);
            for (at, got) in bounds.iter().zip(got) {
                let naive = |limit: f64| values.iter().filter(|&&v| v <= limit).count() as u64;
                let index = index_of(*at);
                prop_assert!(naive(bound(index - 1)) <= got && got <= naive(bound(index)), "le {}: {}", at, got);
            }
        }

        #[test]
        fn counts_below_a_bound_never_fall(
            values in proptest::collection::vec((-3.0..3.0f64).prop_map(f64::exp2), 1..100),
            at in (-3.0..3.0f64).prop_map(f64::exp2),
        ) {
            let mut histogram = ExponentialHistogram::default();
            let mut before = 0;
            for value in values {
                histogram.record(value).unwrap();
                let now = histogram.cumulative([Cut::at(at)]).next().unwrap();
                prop_assert!(before <= now && now <= histogram.count());
                before = now;
            }
        }

        #[test]
        fn quantile_lies_in_the_bucket_of_the_sorted_value(
            values in proptest::collection::vec((-31.0..31.0f64).prop_map(f64::exp2), 1..200),
            q in 0.0..=1.0f64,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1];
            let got = of(&values).quantile(q).unwrap();
            let index = index_of(exact);
            prop_assert!(bound(index - 1) <= got && got <= bound(index), "{} for {}", got, exact);
        }
    }
}
