//! The sliding window of settled probes, and what is computed from it.

/// Probes the window spans.
pub const WINDOW_LEN: usize = 60;
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

/// The latest [`WINDOW_LEN`] settled probes of one session, in order of sequence.
///
/// Probes in flight are not in it, so they are never loss. O(1) to push, O(window) to compute.
///
/// ```
/// use relayscope_dataplane::window::{Settled, Window};
///
/// let mut window = Window::default();
/// window.push(Settled::Answered(10_000_000));
/// window.push(Settled::Answered(14_000_000));
/// window.push(Settled::Lost);
/// let stats = window.stats();
/// assert_eq!(stats.loss_ratio, Some(1.0 / 3.0));
/// assert_eq!(stats.ipdv_seconds, Some(0.004));
/// ```
#[derive(Clone, Debug)]
pub struct Window {
    settled: [Packed; WINDOW_LEN],
    /// Probes pushed so far; the newest is at `pushed - 1` modulo the length.
    pushed: u64,
    rfc3550_ns: Option<f64>,
}

impl Default for Window {
    fn default() -> Self {
        Self { settled: [Packed::DISCARDED; WINDOW_LEN], pushed: 0, rfc3550_ns: None }
    }
}

impl Window {
    /// Takes in the next probe, by sequence number. The oldest leaves a full window.
    pub fn push(&mut self, settled: Settled) {
        if let (Settled::Answered(rtt), Some(Settled::Answered(before))) =
            (settled, self.oldest_first().last())
        {
            let estimate = self.rfc3550_ns.unwrap_or(0.0);
            self.rfc3550_ns = Some(estimate + (rtt.abs_diff(before) as f64 - estimate) * RFC3550_GAIN);
        }
        self.settled[slot(self.pushed)] = Packed::new(settled);
        self.pushed += 1;
    }

    /// Computes everything from the window as it stands.
    pub fn stats(&self) -> WindowStats {
        let mut rtts = [0u64; WINDOW_LEN];
        let (mut answered, mut lost) = (0usize, 0usize);
        let (mut pairs, mut differences_ns) = (0u64, 0u64);
        let mut before: Option<u64> = None;
        for settled in self.oldest_first() {
            let Settled::Answered(rtt) = settled else {
                lost += usize::from(settled == Settled::Lost);
                before = None;
                continue;
            };
            if let Some(before) = before.replace(rtt) {
                pairs += 1;
                differences_ns += rtt.abs_diff(before);
            }
            rtts[answered] = rtt;
            answered += 1;
        }
        let rtts = &mut rtts[..answered];
        let settled = answered + lost;
        WindowStats {
            loss_ratio: (settled > 0).then(|| lost as f64 / settled as f64),
            ipdv_seconds: (pairs > 0).then(|| seconds(differences_ns as f64 / pairs as f64)),
            pdv_p95_seconds: pdv_p95_ns(rtts).map(|ns| seconds(ns as f64)),
            // The estimator runs on; without an answer in the window it tells of another time.
            rfc3550_seconds: self.rfc3550_ns.filter(|_| answered > 0).map(seconds),
            stddev_seconds: stddev_ns(rtts).map(seconds),
        }
    }

    fn oldest_first(&self) -> impl DoubleEndedIterator<Item = Settled> {
        let oldest = self.pushed.saturating_sub(WINDOW_LEN as u64);
        (oldest..self.pushed).map(|position| self.settled[slot(position)].unpack())
    }
}

fn slot(position: u64) -> usize {
    (position % WINDOW_LEN as u64) as usize
}

fn seconds(ns: f64) -> f64 {
    ns / 1e9
}

/// Nearest-rank percentile; reorders `rtts`.
fn pdv_p95_ns(rtts: &mut [u64]) -> Option<u64> {
    let least = *rtts.iter().min()?;
    let rank = (rtts.len() * 95).div_ceil(100) - 1;
    Some(*rtts.select_nth_unstable(rank).1 - least)
}

fn stddev_ns(rtts: &[u64]) -> Option<f64> {
    if rtts.is_empty() {
        return None;
    }
    let count = rtts.len() as f64;
    let mean = rtts.iter().map(|rtt| *rtt as f64).sum::<f64>() / count;
    let squares = rtts.iter().map(|rtt| (*rtt as f64 - mean).powi(2)).sum::<f64>();
    Some((squares / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn window(settled: &[Settled]) -> Window {
        let mut window = Window::default();
        for settled in settled {
            window.push(*settled);
        }
        window
    }

    #[test]
    fn an_empty_window_says_nothing() {
        assert_eq!(Window::default().stats(), WindowStats::default());
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
        for _ in 0..WINDOW_LEN {
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
}
