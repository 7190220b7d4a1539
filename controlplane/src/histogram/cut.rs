//! Where a histogram is cut in two.

use super::bounds::{INDEX_MAX, INDEX_MIN, INDEX_OVERFLOW, PER_OCTAVE, bound, coarser, index_of};

/// Where a histogram is cut in two: at a bound.
///
/// A bound that a bucket ends at is exact: every power of two within 2^-32..=2^32 at any resolution, and at the
/// finest every `2^(i / 64)`. Any other lies within a bucket, of which a part is counted. At the finest resolution
/// that is the part below the bound on the bucket's logarithmic scale, rounded down, as
/// [`quantile`](crate::ExponentialHistogram::quantile) interpolates: what is said of 0.1 s lies between what is true
/// of 0.0996 s and of 0.1007 s.
///
/// What is said of a bound never falls, though resolution may: it is exposed as a counter. When two buckets become
/// one, nothing tells which of the two its values were in, so after that a bound past the first 64th counts all of
/// the bucket it lies in. Outside the range a bound is as its end, though below it only zeros are counted.
///
/// ```
/// use relayscope_controlplane::{Cut, ExponentialHistogram};
///
/// let mut rtt = ExponentialHistogram::default();
/// for tenths_of_a_millisecond in 901..=1900 {
///     rtt.record(f64::from(tenths_of_a_millisecond) * 1e-4)?;
/// }
/// let counts: Vec<_> = rtt.cumulative([0.1, 0.125].map(Cut::at)).collect();
/// // Of the eleven that share a bucket with 100 ms the share below that is estimated; 125 ms are 2^-3 s.
/// assert_eq!(counts, [99, 350]);
/// # Ok::<(), relayscope_controlplane::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// The buckets before this one are below, at the finest resolution.
    index: i32,
    /// What part of this one is: 0..=1.
    share: f64,
}

impl Cut {
    /// At `bound`, which is finite and above 0.
    pub fn at(bound: f64) -> Self {
        let index = index_of(bound);
        let (lower, upper) = (self::bound(index - 1, 0), self::bound(index, 0));
        if bound == upper && index <= INDEX_MAX {
            return Self { index, share: 1.0 };
        }
        if index == INDEX_MIN {
            // It has no lower end to measure from: before it, at any resolution.
            return Self { index: INDEX_MIN - PER_OCTAVE, share: 0.0 };
        }
        if index == INDEX_OVERFLOW {
            return Self { index, share: 0.0 };
        }
        let share = (bound / lower).log2() / (upper / lower).log2();
        Self { index, share: if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 } }
    }

    /// The bucket it lies in after so many halvings.
    pub(super) fn index(self, halvings: u8) -> i32 {
        coarser(self.index, halvings)
    }

    /// How many of the `count` in that bucket are below.
    pub(super) fn part_of(self, count: u64, halvings: u8) -> u64 {
        let is_in_the_first = coarser(self.index - 1, halvings) != self.index(halvings);
        if self.share >= 1.0 || !is_in_the_first {
            return count;
        }
        // A share of a count, so the cast drops the fraction and nothing else.
        (count as f64 * self.share) as u64
    }
}
