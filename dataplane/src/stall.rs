//! When this shard itself did not run: what was measured across such a time says nothing of the network.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Monotonic;

/// A wake this much later than planned is a stall.
pub const STALL_MIN: Duration = Duration::from_millis(100);
/// Stalls remembered; when one more comes, the two oldest are taken for one.
const STALLS_MAX: usize = 8;

/// The latest stalls of one shard.
///
/// ```
/// use std::time::Duration;
/// use relayscope_dataplane::clock::Monotonic;
/// use relayscope_dataplane::stall::Stalls;
///
/// let at = |ms: u64| Monotonic(ms * 1_000_000);
/// let mut stalls = Stalls::default();
/// assert_eq!(stalls.handle_wake(at(10), at(11)), None);
/// assert_eq!(stalls.handle_wake(at(20), at(520)), Some(Duration::from_millis(500)));
/// assert!(stalls.overlap(at(500), at(900)));
/// assert!(!stalls.overlap(at(521), at(900)));
/// ```
#[derive(Debug, Default)]
pub struct Stalls {
    /// From when we had planned to wake to when we did.
    spans: VecDeque<(Monotonic, Monotonic)>,
}

impl Stalls {
    /// Notes a wake. Returns how late it was if that was a stall.
    pub fn handle_wake(&mut self, planned: Monotonic, now: Monotonic) -> Option<Duration> {
        let late = now.since(planned);
        if late < STALL_MIN {
            return None;
        }
        self.note(planned, now);
        Some(late)
    }

    /// Notes a time at which this shard did not see what arrived.
    pub fn note(&mut self, from: Monotonic, to: Monotonic) {
        if self.spans.len() == STALLS_MAX
            && let Some((start, _)) = self.spans.pop_front()
            && let Some(oldest) = self.spans.front_mut()
        {
            oldest.0 = start;
        }
        self.spans.push_back((from, to));
    }

    /// Whether the shard stalled at some time from `from` to `to`.
    pub fn overlap(&self, from: Monotonic, to: Monotonic) -> bool {
        self.spans.iter().any(|&(start, end)| start <= to && end >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_stalls_are_bounded_and_none_is_forgotten_while_they_are_recent() {
        let mut stalls = Stalls::default();
        for second in 0..20u64 {
            let planned = Monotonic(second * 1_000_000_000);
            assert!(stalls.handle_wake(planned, planned + STALL_MIN).is_some());
        }
        assert_eq!(stalls.spans.len(), STALLS_MAX);
        assert!(stalls.overlap(Monotonic(0), Monotonic(0)), "merged, not dropped");
    }
}
