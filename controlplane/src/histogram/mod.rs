//! Distributions in base-2 exponential buckets, from which every other form is derived.
//!
//! The scale is that of Prometheus native histograms. At schema `s` an octave has `2^s` buckets; bucket `i` holds
//! `bound(i - 1) < value <= bound(i)` with `bound(i) = 2^(i / 2^s)`: upper bounds are inclusive, and every `2^s`-th
//! is a power of two. Classic `le` buckets at powers of two are therefore sums of whole buckets, not estimates; for
//! those at other bounds see [`Cut`].
//!
//! A histogram begins at schema 6, buckets 1.1 % wide. When what it is told needs more than 160 of them, each two
//! neighbours become one, as in OpenTelemetry's exponential histograms and Prometheus's clients: schema 5, and so
//! on. Only buckets with something in them count, so that takes a spread of two and a half octaves at least, and
//! what spans 20 octaves keeps schema 3, 9 % wide.

mod bounds;
mod cut;

pub use cut::Cut;

pub(crate) use bounds::{classic_exponents, power_of_two};

use bounds::{EXPONENT_MAX, EXPONENT_MIN, INDEX_MAX, INDEX_MIN, INDEX_OVERFLOW, SCHEMA_MAX};
use bounds::{bound, coarser, index_of};

/// The most buckets of one histogram.
const BUCKETS_MAX: usize = 160;
/// The coarsest resolution that a histogram comes to.
const SCHEMA_MIN: u8 = 1;
const _: () = {
    let octaves = (EXPONENT_MAX - EXPONENT_MIN) as usize;
    assert!((octaves << SCHEMA_MIN) + 2 <= BUCKETS_MAX, "the whole range, with what is beyond, fits");
};

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

/// A distribution of finite values from zero up, within 1.1 % of each as a rule, in at most 1.3 kB.
///
/// Zero has a bucket of its own. Values in (0, 2^-32] share the lowest bucket, values above 2^32 the
/// highest. Memory grows with the buckets that something fell into, 8 octets each, up to 160 of them; beyond that
/// [`schema`](Self::schema) gets less.
///
/// ```
/// use relayscope_controlplane::ExponentialHistogram;
///
/// let mut rtt = ExponentialHistogram::default();
/// for microseconds in 400..=1000 {
///     rtt.record(f64::from(microseconds) * 1e-6)?;
/// }
/// assert_eq!((rtt.count(), rtt.schema()), (601, 6));
/// let median = rtt.quantile(0.5).unwrap();
/// assert!((median / 700e-6 - 1.0).abs() < 0.011);
/// # Ok::<(), relayscope_controlplane::Refusal>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExponentialHistogram {
    count: u64,
    sum: f64,
    zero: u64,
    /// Ascending, at most [`BUCKETS_MAX`].
    buckets: Vec<Bucket>,
    /// How often the resolution was halved.
    halvings: u8,
    /// Where the fullest run of neighbours is: of each of its buckets the place, less what is counted from the lowest
    /// index. Most values fall there and need no search.
    run: i16,
}

/// A bucket with something in it: its index, counted from the lowest, above [`COUNT_BITS`] of its count.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket(u64);

/// A count this wide takes 70 years at a million a second. It stops there.
const COUNT_BITS: u32 = 51;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const _: () = assert!(
    INDEX_OVERFLOW.abs_diff(INDEX_MIN) < 1 << (u64::BITS - COUNT_BITS),
    "every index fits beside a count"
);
/// Buckets allocated at a time.
const BUCKETS_STEP: usize = 8;

impl Bucket {
    #[inline]
    fn empty(index: i32) -> Self {
        Self(u64::from(index.abs_diff(INDEX_MIN)) << COUNT_BITS)
    }

    /// At most [`INDEX_OVERFLOW`], so the cast drops nothing.
    fn index(self) -> i32 {
        (self.0 >> COUNT_BITS) as i32 + INDEX_MIN
    }

    fn count(self) -> u64 {
        self.0 & COUNT_MAX
    }

    #[inline]
    fn has_index_of(self, other: Self) -> bool {
        (self.0 ^ other.0) >> COUNT_BITS == 0
    }

    /// Its place, if it is of the run with this number.
    #[inline]
    fn place_in(self, run: i16) -> usize {
        // Thirteen bits, so the cast drops nothing; what is negative is beyond any place.
        ((self.0 >> COUNT_BITS) as isize + isize::from(run)).cast_unsigned()
    }

    #[inline]
    fn add(&mut self, count: u64) {
        self.0 += count.min(COUNT_MAX - self.count());
    }
}

impl ExponentialHistogram {
    /// Counts one value. Allocates only for the first in its bucket, if then.
    ///
    /// # Errors
    /// [`Refusal`] for a value that is not finite or is negative; the histogram is unchanged.
    #[inline]
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
            self.add(index_of(value), 0, 1);
        }
        self.count += 1;
        self.sum += value;
        Ok(())
    }

    /// Counts what `other` has counted, exactly, at the coarser of both resolutions or one coarser still: as if this
    /// had been told all that both were.
    pub fn merge(&mut self, other: &Self) {
        while self.halvings < other.halvings {
            self.halve();
        }
        for (index, count) in other.buckets() {
            self.add(index, other.halvings, count);
        }
        self.zero += other.zero;
        self.count += other.count;
        self.sum += other.sum;
    }

    /// What this was told since it was `earlier`, at its present resolution. `None` if it never was that. O(buckets).
    pub(crate) fn since(&self, earlier: &Self) -> Option<Self> {
        let halved = self.halvings.checked_sub(earlier.halvings)?;
        let mut past = earlier.buckets().map(|(index, count)| (coarser(index, halved), count)).peekable();
        let mut buckets = Vec::new();
        for (index, count) in self.buckets() {
            let mut before = 0;
            while let Some((_, count)) = past.next_if(|(of, _)| *of == index) {
                before += count;
            }
            let mut more = Bucket::empty(index);
            more.add(count.checked_sub(before)?);
            if more.count() > 0 {
                buckets.push(more);
            }
        }
        // What it had lost again.
        if past.next().is_some() {
            return None;
        }
        buckets.shrink_to_fit();
        let mut since = Self {
            count: self.count.checked_sub(earlier.count)?,
            sum: self.sum - earlier.sum,
            zero: self.zero.checked_sub(earlier.zero)?,
            buckets,
            halvings: self.halvings,
            run: 0,
        };
        since.run = since.fullest_run();
        Some(since)
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

    /// The resolution as Prometheus numbers it: 6 at first, never more than before, 1 at least.
    pub fn schema(&self) -> i8 {
        // Both are small, so the cast drops nothing.
        (SCHEMA_MAX - self.halvings) as i8
    }

    /// Every bucket with something in it and its index at [`schema`](Self::schema), ascending; see the module for what
    /// an index means.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (i32, u64)> {
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
            let place = cut.index(self.halvings);
            while let Some((_, count)) = rest.next_if(|&(index, _)| index < place) {
                below += count;
            }
            let within = rest.peek().filter(|&&(index, _)| index == place);
            below + within.map_or(0, |&(_, count)| cut.part_of(count, self.halvings))
        })
    }

    /// The value that the share `q` of all values does not exceed, interpolated within its bucket on
    /// the bucket's own logarithmic scale. `None` when nothing was recorded or `q` is not in 0..=1.
    ///
    /// It lies in the same bucket as the exact quantile, so within 1.1 % of it at schema 6; a value beyond the
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
        Some(self.interpolate(index, share))
    }

    fn interpolate(&self, index: i32, share: f64) -> f64 {
        if index == coarser(INDEX_MIN, self.halvings) {
            return bound(INDEX_MIN, 0);
        }
        if index == coarser(INDEX_OVERFLOW, self.halvings) {
            return bound(INDEX_MAX, 0);
        }
        let (lower, upper) = (bound(index - 1, self.halvings), bound(index, self.halvings));
        (lower * (upper / lower).powf(share)).clamp(lower, upper)
    }

    /// Adds to the bucket that is `index` after `halvings`, no more than this has seen.
    #[inline]
    fn add(&mut self, index: i32, halvings: u8, count: u64) {
        let wanted = Bucket::empty(coarser(index, self.halvings - halvings));
        match self.buckets.get_mut(wanted.place_in(self.run)) {
            Some(bucket) if bucket.has_index_of(wanted) => bucket.add(count),
            _ => self.search(index, halvings, count),
        }
    }

    /// As [`add`](Self::add), wherever the bucket is.
    #[inline(never)]
    fn search(&mut self, index: i32, halvings: u8, count: u64) {
        let wanted = Bucket::empty(coarser(index, self.halvings - halvings));
        let place = self.buckets.partition_point(|bucket| bucket.0 < wanted.0);
        match self.buckets.get_mut(place) {
            Some(bucket) if bucket.has_index_of(wanted) => bucket.add(count),
            _ => self.open(index, halvings, count),
        }
    }

    /// As [`add`](Self::add), to a bucket with nothing in it yet.
    #[cold]
    fn open(&mut self, index: i32, halvings: u8, count: u64) {
        let place_of = |this: &Self| {
            let wanted = Bucket::empty(coarser(index, this.halvings - halvings));
            (wanted, this.buckets.partition_point(|bucket| bucket.0 < wanted.0))
        };
        let (mut wanted, mut place) = place_of(self);
        while self.buckets.len() == BUCKETS_MAX {
            self.halve();
            (wanted, place) = place_of(self);
        }
        match self.buckets.get_mut(place) {
            // It became one with its neighbour.
            Some(bucket) if bucket.has_index_of(wanted) => bucket.add(count),
            _ => {
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(BUCKETS_STEP);
                }
                wanted.add(count);
                self.buckets.insert(place, wanted);
            }
        }
        self.run = self.fullest_run();
    }

    /// See [`run`](Self::run).
    fn fullest_run(&self) -> i16 {
        let (mut fullest, mut most, mut run, mut count) = (0, 0, i16::MIN, 0);
        for (place, bucket) in (0..).zip(&self.buckets) {
            // Thirteen bits, so the cast drops nothing.
            let of_this = place - (bucket.0 >> COUNT_BITS) as i16;
            if of_this != run {
                (run, count) = (of_this, 0);
            }
            count += bucket.count();
            if count > most {
                (fullest, most) = (run, count);
            }
        }
        fullest
    }

    /// Makes one bucket of each two neighbours.
    fn halve(&mut self) {
        self.halvings += 1;
        for bucket in &mut self.buckets {
            let mut halved = Bucket::empty(coarser(bucket.index(), 1));
            halved.add(bucket.count());
            *bucket = halved;
        }
        self.buckets.dedup_by(|upper, lower| {
            let is_one = lower.has_index_of(*upper);
            if is_one {
                lower.add(upper.count());
            }
            is_one
        });
    }
}

#[cfg(test)]
mod tests;
