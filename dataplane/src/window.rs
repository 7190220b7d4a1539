//! The sliding window of settled probes, and what is computed from it.

/// RTTs up to this are kept to the nanosecond, longer ones to the microsecond.
const EXACT_MAX_NS: u64 = (1 << 31) - 1;
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
    settled: Box<[Packed]>,
    /// Probes pushed so far; the newest is at `pushed - 1` modulo the length.
    pushed: u64,
    /// RTTs of the answered ones, ascending.
    sorted: Vec<Packed>,
    lost: u64,
    pairs: u64,
    differences_ns: u64,
    sum_ns: u128,
    squares_ns: u128,
    rfc3550_ns: Option<f64>,
}

impl Window {
    /// An empty window of so many probes, at least one.
    pub fn new(length: usize) -> Self {
        let length = length.max(1);
        Self {
            settled: vec![Packed::DISCARDED; length].into(),
            pushed: 0,
            sorted: Vec::with_capacity(length),
            lost: 0,
            pairs: 0,
            differences_ns: 0,
            sum_ns: 0,
            squares_ns: 0,
            rfc3550_ns: None,
        }
    }

    /// Probes it spans.
    pub fn span(&self) -> usize {
        self.settled.len()
    }

    /// Takes in the next probe, by sequence number. The oldest leaves a full window.
    pub fn push(&mut self, settled: Settled) {
        self.leave();
        let packed = Packed::new(settled);
        let before = self.pushed.checked_sub(1).map(|newest| self.at(newest));
        let slot = self.slot(self.pushed);
        self.settled[slot] = packed;
        self.pushed += 1;
        match packed.unpack() {
            Settled::Lost => self.lost += 1,
            Settled::Discarded => {}
            Settled::Answered(rtt) => {
                let place = self.sorted.partition_point(|held| held.0 < packed.0);
                self.sorted.insert(place, packed);
                self.sum_ns += u128::from(rtt);
                self.squares_ns += u128::from(rtt).pow(2);
                // A window of one has no neighbours.
                let before = before.filter(|_| self.span() > 1);
                if let Some(Settled::Answered(before)) = before {
                    let difference = rtt.abs_diff(before);
                    self.pairs += 1;
                    self.differences_ns += difference;
                    let estimate = self.rfc3550_ns.unwrap_or(0.0);
                    self.rfc3550_ns = Some(estimate + (difference as f64 - estimate) * RFC3550_GAIN);
                }
            }
        }
    }

    /// The oldest of a full window takes its share of the sums with it.
    fn leave(&mut self) {
        let Some(oldest) = self.pushed.checked_sub(self.span() as u64) else { return };
        let packed = self.settled[self.slot(oldest)];
        match packed.unpack() {
            Settled::Lost => self.lost -= 1,
            Settled::Discarded => {}
            Settled::Answered(rtt) => {
                let place = self.sorted.partition_point(|held| held.0 < packed.0);
                self.sorted.remove(place);
                self.sum_ns -= u128::from(rtt);
                self.squares_ns -= u128::from(rtt).pow(2);
                if let (2.., Settled::Answered(next)) = (self.span(), self.at(oldest + 1)) {
                    self.pairs -= 1;
                    self.differences_ns -= rtt.abs_diff(next);
                }
            }
        }
    }

    /// What the window as it stands says.
    pub fn stats(&self) -> WindowStats {
        let answered = self.sorted.len() as u64;
        let settled = answered + self.lost;
        WindowStats {
            loss_ratio: (settled > 0).then(|| self.lost as f64 / settled as f64),
            ipdv_seconds: (self.pairs > 0).then(|| seconds(self.differences_ns as f64 / self.pairs as f64)),
            pdv_p95_seconds: self.pdv_p95_ns().map(|ns| seconds(ns as f64)),
            // The estimator runs on; without an answer in the window it tells of another time.
            rfc3550_seconds: self.rfc3550_ns.filter(|_| answered > 0).map(seconds),
            stddev_seconds: self.stddev_ns().map(seconds),
        }
    }

    /// Nearest-rank percentile above the least.
    fn pdv_p95_ns(&self) -> Option<u64> {
        let rank = (self.sorted.len() * 95).div_ceil(100);
        let (least, high) = (self.sorted.first()?, self.sorted.get(rank.checked_sub(1)?)?);
        match (least.unpack(), high.unpack()) {
            (Settled::Answered(least), Settled::Answered(high)) => Some(high - least),
            _ => None,
        }
    }

    fn stddev_ns(&self) -> Option<f64> {
        let count = self.sorted.len() as u128;
        // n^2 times the variance, exactly: no difference of large floats is taken.
        let scaled = (count * self.squares_ns).checked_sub(self.sum_ns.pow(2))?;
        (count > 0).then(|| (scaled as f64).sqrt() / count as f64)
    }

    fn at(&self, position: u64) -> Settled {
        self.settled[self.slot(position)].unpack()
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.settled.len() as u64) as usize
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
