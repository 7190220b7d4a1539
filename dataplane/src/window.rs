//! The sliding window of settled probes, and what is computed from it.

/// RTTs up to this are kept to the nanosecond, longer ones to the microsecond.
const EXACT_MAX_NS: u64 = (1 << 31) - 1;
/// The longest window: keeps every sum from overflowing, whatever the RTTs.
pub const SPAN_MAX: usize = 1 << 16;
/// RFC 3550 section 6.4.1: the gain of its jitter estimator.
const RFC3550_GAIN: f64 = 1.0 / 16.0;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Answered in time, with this RTT in nanoseconds.
    Answered(u64),
    /// Not answered in time.
    Lost,
    /// Disturbed by our own stall: says nothing about the network.
    Discarded,
}

/// A [`Settled`] in four octets: the window of each of thousands of targets passes through the cache for
/// every probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed(u32);

impl Packed {
    const LOST: Self = Self(u32::MAX);
    const DISCARDED: Self = Self(u32::MAX - 1);
    /// Set where the rest is microseconds.
    const COARSE: u32 = 1 << 31;
    /// The longest RTT that is none of the above: 35 minutes. No timeout comes near.
    const COARSE_MAX_US: u64 = (1 << 31) - 3;

    fn new(settled: Settled) -> Self {
        match settled {
            Settled::Answered(ns) if ns <= EXACT_MAX_NS => Self(ns as u32),
            Settled::Answered(ns) => Self(Self::COARSE | (ns / 1000).min(Self::COARSE_MAX_US) as u32),
            Settled::Lost => Self::LOST,
            Settled::Discarded => Self::DISCARDED,
        }
    }

    fn unpack(self) -> Settled {
        match self {
            Self::LOST => Settled::Lost,
            Self::DISCARDED => Settled::Discarded,
            Self(ns) if ns & Self::COARSE == 0 => Settled::Answered(u64::from(ns)),
            Self(coarse) => Settled::Answered(u64::from(coarse & !Self::COARSE) * 1000),
        }
    }
}

/// What the window says. A value that cannot be computed is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WindowStats {
    /// Lost of lost and answered, 0..=1 (RFC 6673); absent before the first of them.
    pub loss_ratio: Option<f64>,
    /// Mean absolute difference of RTT of probes adjacent in sequence and both answered, in seconds
    /// (IPDV, RFC 3393, RFC 5481 section 4.1). Pairs across a loss are skipped.
    pub ipdv_seconds: Option<f64>,
    /// 95th percentile of RTT less the window's least RTT, in seconds (PDV, RFC 5481 section 4.2).
    pub pdv_p95_seconds: Option<f64>,
    /// The running estimator of RFC 3550 section 6.4.1 over adjacent answered probes, in seconds.
    pub rfc3550_seconds: Option<f64>,
    /// Standard deviation of RTT (population), in seconds.
    pub stddev_seconds: Option<f64>,
}

/// The latest settled probes of one session, in order of sequence.
///
/// Probes in flight are not in it, so they are never loss. O(1) to compute from; to push, a search and a
/// move within the window.
///
/// ```
/// use relayscope_dataplane::window::{Settled, Window};
///
/// let mut window = Window::new(60);
/// window.push(Settled::Answered(10_000_000));
/// window.push(Settled::Answered(14_000_000));
/// window.push(Settled::Lost);
/// let stats = window.stats();
/// assert_eq!(stats.loss_ratio, Some(1.0 / 3.0));
/// assert_eq!(stats.ipdv_seconds, Some(0.004));
/// ```
#[derive(Clone, Debug)]
pub struct Window {
    /// In its first half the latest probes, each over the one it pushed out; in its second the RTTs of the
    /// answered ones of them, ascending.
    held: Box<[Packed]>,
    squares_ns: u128,
    sum_ns: u64,
    differences_ns: u64,
    /// NaN before the first pair.
    rfc3550_ns: f64,
    /// Where the next probe goes.
    next: u32,
    /// Probes in it.
    filled: u32,
    answered: u32,
    lost: u32,
    pairs: u32,
}

const _: () = assert!(size_of::<Window>() <= 80, "beside eight octets per probe of its span");

impl Window {
    /// An empty window of so many probes, at least one and at most [`SPAN_MAX`].
    pub fn new(length: usize) -> Self {
        Self {
            held: vec![Packed::DISCARDED; 2 * length.clamp(1, SPAN_MAX)].into(),
            squares_ns: 0,
            sum_ns: 0,
            differences_ns: 0,
            rfc3550_ns: f64::NAN,
            next: 0,
            filled: 0,
            answered: 0,
            lost: 0,
            pairs: 0,
        }
    }

    /// Probes it spans.
    pub fn span(&self) -> usize {
        self.held.len() / 2
    }

    /// Takes in the next probe, by sequence number. The oldest leaves a full window.
    pub fn push(&mut self, settled: Settled) {
        let (span, next) = (self.span(), self.next as usize);
        if self.filled as usize == span {
            self.leave(next);
        } else {
            self.filled += 1;
        }
        let packed = Packed::new(settled);
        // A window of one has no neighbours; before the first there is what says nothing.
        let before = (span > 1).then(|| self.held[if next == 0 { span - 1 } else { next - 1 }].unpack());
        self.held[next] = packed;
        self.next = if next + 1 == span { 0 } else { self.next + 1 };
        match packed.unpack() {
            Settled::Lost => self.lost += 1,
            Settled::Discarded => {}
            Settled::Answered(rtt) => {
                self.sort_in(packed);
                self.sum_ns += rtt;
                self.squares_ns += u128::from(rtt).pow(2);
                if let Some(Settled::Answered(before)) = before {
                    let difference = rtt.abs_diff(before);
                    self.pairs += 1;
                    self.differences_ns += difference;
                    let estimate = if self.rfc3550_ns.is_nan() { 0.0 } else { self.rfc3550_ns };
                    self.rfc3550_ns = estimate + (difference as f64 - estimate) * RFC3550_GAIN;
                }
            }
        }
    }

    /// The oldest of a full window takes its share of the sums with it.
    fn leave(&mut self, oldest: usize) {
        let packed = self.held[oldest];
        match packed.unpack() {
            Settled::Lost => self.lost -= 1,
            Settled::Discarded => {}
            Settled::Answered(rtt) => {
                self.sort_out(packed);
                self.sum_ns -= rtt;
                self.squares_ns -= u128::from(rtt).pow(2);
                let second = if oldest + 1 == self.span() { 0 } else { oldest + 1 };
                if let (2.., Settled::Answered(next)) = (self.span(), self.held[second].unpack()) {
                    self.pairs -= 1;
                    self.differences_ns -= rtt.abs_diff(next);
                }
            }
        }
    }

    fn sort_in(&mut self, packed: Packed) {
        let (place, answered) = (self.place(packed), self.answered as usize);
        let sorted = self.sorted_mut();
        sorted.copy_within(place..answered, place + 1);
        sorted[place] = packed;
        self.answered += 1;
    }

    fn sort_out(&mut self, packed: Packed) {
        let (place, answered) = (self.place(packed), self.answered as usize);
        self.sorted_mut().copy_within(place + 1..answered, place);
        self.answered -= 1;
    }

    /// Where it is among the sorted, or would be.
    fn place(&self, packed: Packed) -> usize {
        self.sorted().partition_point(|held| held.0 < packed.0)
    }

    fn sorted(&self) -> &[Packed] {
        &self.held[self.span()..][..self.answered as usize]
    }

    fn sorted_mut(&mut self) -> &mut [Packed] {
        let span = self.span();
        &mut self.held[span..]
    }

    /// What the window as it stands says.
    pub fn stats(&self) -> WindowStats {
        let settled = self.answered + self.lost;
        let ipdv_ns = || self.differences_ns as f64 / f64::from(self.pairs);
        WindowStats {
            loss_ratio: (settled > 0).then(|| f64::from(self.lost) / f64::from(settled)),
            ipdv_seconds: (self.pairs > 0).then(|| seconds(ipdv_ns())),
            pdv_p95_seconds: self.pdv_p95_ns().map(|ns| seconds(ns as f64)),
            // The estimator runs on; without an answer in the window it tells of another time.
            rfc3550_seconds: (self.answered > 0 && !self.rfc3550_ns.is_nan())
                .then(|| seconds(self.rfc3550_ns)),
            stddev_seconds: self.stddev_ns().map(seconds),
        }
    }

    /// Nearest-rank percentile above the least.
    fn pdv_p95_ns(&self) -> Option<u64> {
        let sorted = self.sorted();
        let rank = (sorted.len() * 95).div_ceil(100);
        let (least, high) = (sorted.first()?, sorted.get(rank.checked_sub(1)?)?);
        match (least.unpack(), high.unpack()) {
            (Settled::Answered(least), Settled::Answered(high)) => Some(high - least),
            _ => None,
        }
    }

    fn stddev_ns(&self) -> Option<f64> {
        // n^2 times the variance, exactly: no difference of large floats is taken.
        let scaled =
            (u128::from(self.answered) * self.squares_ns).checked_sub(u128::from(self.sum_ns).pow(2))?;
        (self.answered > 0).then(|| (scaled as f64).sqrt() / f64::from(self.answered))
    }
}

fn seconds(ns: f64) -> f64 {
    ns / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn window(settled: &[Settled]) -> Window {
        let mut window = Window::new(60);
        for settled in settled {
            window.push(*settled);
        }
        window
    }

    #[test]
    fn an_empty_window_says_nothing() {
        assert_eq!(Window::new(60).stats(), WindowStats::default());
    }

    #[test]
    fn jitter_skips_pairs_across_a_loss() {
        use Settled::{Answered, Lost};
        let stats =
            window(&[Answered(10 * MS), Answered(12 * MS), Lost, Answered(90 * MS), Answered(94 * MS)])
                .stats();
        assert_eq!(stats.ipdv_seconds, Some(0.003));
        assert_eq!(stats.loss_ratio, Some(0.2));
    }

    #[test]
    fn discarded_probes_are_neither_loss_nor_neighbours() {
        use Settled::{Answered, Discarded};
        let stats = window(&[Answered(10 * MS), Discarded, Answered(50 * MS)]).stats();
        assert_eq!((stats.loss_ratio, stats.ipdv_seconds), (Some(0.0), None));
    }

    #[test]
    fn only_the_latest_sixty_count() {
        let mut window = window(&[Settled::Lost; 10]);
        for _ in 0..59 {
            window.push(Settled::Answered(MS));
        }
        assert_eq!(window.stats().loss_ratio, Some(1.0 / 60.0));
        window.push(Settled::Answered(MS));
        assert_eq!(window.stats().loss_ratio, Some(0.0));
    }

    #[test]
    fn what_is_kept_is_what_was_pushed() {
        use Settled::{Answered, Discarded, Lost};
        for settled in [Lost, Discarded, Answered(0), Answered(EXACT_MAX_NS), Answered(60_000_001_000)] {
            assert_eq!(Packed::new(settled).unpack(), settled);
        }
        assert_eq!(Packed::new(Answered(2_500_000_999)).unpack(), Answered(2_500_000_000));
        assert!(matches!(Packed::new(Answered(u64::MAX)).unpack(), Answered(_)), "never a loss");
    }

    #[test]
    fn pdv_is_the_95th_percentile_above_the_least() {
        let settled: Vec<_> = (1..=20).map(|ms| Settled::Answered(ms * MS)).collect();
        assert_eq!(window(&settled).stats().pdv_p95_seconds, Some(0.018));
    }

    #[test]
    fn rfc3550_moves_by_a_sixteenth() {
        let stats = window(&[Settled::Answered(0), Settled::Answered(16 * MS)]).stats();
        assert_eq!(stats.rfc3550_seconds, Some(0.001));
    }

    #[test]
    fn after_a_window_of_losses_no_jitter_is_left() {
        let mut window = window(&[Settled::Answered(0), Settled::Answered(16 * MS)]);
        for _ in 0..60 {
            window.push(Settled::Lost);
        }
        let only_loss = WindowStats { loss_ratio: Some(1.0), ..WindowStats::default() };
        assert_eq!(window.stats(), only_loss);
    }

    #[test]
    fn stddev_is_of_the_population() {
        let stats = window(&[Settled::Answered(2 * MS), Settled::Answered(4 * MS)]).stats();
        assert_eq!(stats.stddev_seconds, Some(0.001));
    }

    /// From the definitions, over the latest probes alone.
    fn naive(settled: &[Settled]) -> (Option<f64>, Option<f64>, Option<f64>, Option<f64>) {
        let answered = |settled: &Settled| match settled {
            Settled::Answered(rtt) => Some(*rtt as f64 / 1e9),
            _ => None,
        };
        let mut rtts: Vec<f64> = settled.iter().filter_map(answered).collect();
        let lost = settled.iter().filter(|one| **one == Settled::Lost).count();
        let pairs: Vec<f64> = settled
            .windows(2)
            .filter_map(|pair| Some((answered(&pair[0])? - answered(&pair[1])?).abs()))
            .collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let loss = (rtts.len() + lost > 0).then(|| lost as f64 / (rtts.len() + lost) as f64);
        let ipdv = (!pairs.is_empty()).then(|| mean(&pairs));
        let stddev = (!rtts.is_empty()).then(|| {
            let squares: Vec<f64> = rtts.iter().map(|rtt| (rtt - mean(&rtts)).powi(2)).collect();
            mean(&squares).sqrt()
        });
        rtts.sort_by(f64::total_cmp);
        let p95 = (!rtts.is_empty()).then(|| rtts[(rtts.len() * 95).div_ceil(100) - 1] - rtts[0]);
        (loss, ipdv, p95, stddev)
    }

    proptest::proptest! {
        #[test]
        fn sums_kept_over_time_say_what_the_definitions_say(
            length in 1usize..8,
            fates in proptest::collection::vec((0u8..4, 0u64..5_000_000), 0..40),
        ) {
            let settled: Vec<_> = fates.iter().map(|(fate, rtt)| match fate {
                0 => Settled::Lost,
                1 => Settled::Discarded,
                _ => Settled::Answered(*rtt),
            }).collect();
            let mut window = Window::new(length);
            for (i, one) in settled.iter().enumerate() {
                window.push(*one);
                let stats = window.stats();
                let (loss, ipdv, p95, stddev) = naive(&settled[(i + 1).saturating_sub(length)..=i]);
                let pairs = [
                    (stats.loss_ratio, loss),
                    (stats.ipdv_seconds, ipdv),
                    (stats.pdv_p95_seconds, p95),
                    (stats.stddev_seconds, stddev),
                ];
                for (kept, defined) in pairs {
                    proptest::prop_assert_eq!(kept.is_some(), defined.is_some());
                    let error = (kept.unwrap_or(0.0) - defined.unwrap_or(0.0)).abs();
                    proptest::prop_assert!(error < 1e-12, "{:?} {:?}", kept, defined);
                }
            }
        }
    }
}
