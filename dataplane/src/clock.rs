//! Moments as the sans-IO code sees them: plain numbers handed in by a driver.

use std::ops::Add;
use std::time::Duration;

/// A moment of `CLOCK_MONOTONIC`, in nanoseconds. RTTs and schedules live on this clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    /// Saturates at the end of time, 584 years after boot.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

/// A moment of `CLOCK_REALTIME`, in nanoseconds since 1970. Wire timestamps live on this clock; it may
/// step, so no RTT is ever a difference of two of these read far apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realtime(pub u64);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Monotonic,
    /// `CLOCK_REALTIME`.
    pub realtime: Realtime,
}

/// When a datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The moment.
    pub at: Monotonic,
    /// Whether it is the kernel's stamp, or merely when we came to read.
    pub exact: bool,
}

impl Arrival {
    /// An arrival the kernel stamped.
    pub fn exact(at: Monotonic) -> Self {
        Self { at, exact: true }
    }
}

/// A duration in whole nanoseconds, saturating at 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Longest time a datagram may have waited in the socket for its kernel stamp to be used.
const WAIT_MAX_NS: u64 = 60_000_000_000;
/// How far the two clocks may drift apart between two looks before it is called a step. The kernel
/// slews by at most 500 ppm, so this covers looks a second apart with room to spare.
const STEP_MIN_NS: u64 = 2_000_000;

/// Moves the kernel's receive stamp, which is `CLOCK_REALTIME`, to the monotonic clock.
///
/// The datagram waited `realtime now - kernel stamp` in the socket; that short interval is taken off
/// the monotonic time of reading. When the realtime clock stepped since the last look, or the interval
/// is negative or longer than a minute, the stamp is not used and the time of reading stands.
///
/// ```
/// use relayscope_dataplane::clock::{Arrival, ArrivalClock, Monotonic, Now, Realtime};
///
/// let at = |ns| Now { monotonic: Monotonic(ns), realtime: Realtime(1_000_000 + ns) };
/// let mut clock = ArrivalClock::default();
/// clock.observe(at(0));
/// clock.observe(at(900));
/// assert_eq!(clock.arrival(at(900), Some(Realtime(1_000_300))), Arrival::exact(Monotonic(300)));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalClock {
    /// Realtime less monotonic at the last look, modulo 2^64.
    offset_ns: Option<u64>,
    stepped: bool,
}

impl ArrivalClock {
    /// Looks at both clocks. Call it before reading a batch, with the `now` given to [`arrival`](Self::arrival).
    pub fn observe(&mut self, now: Now) {
        let offset = now.realtime.0.wrapping_sub(now.monotonic.0);
        self.stepped = self.offset_ns.is_some_and(|before| {
            let moved = offset.wrapping_sub(before);
            moved.min(moved.wrapping_neg()) > STEP_MIN_NS
        });
        self.offset_ns = Some(offset);
    }

    /// When a datagram read at `now` arrived.
    pub fn arrival(&self, now: Now, kernel: Option<Realtime>) -> Arrival {
        let waited = kernel
            .filter(|_| !self.stepped)
            .and_then(|stamp| now.realtime.0.checked_sub(stamp.0))
            .filter(|waited| *waited <= WAIT_MAX_NS);
        Arrival {
            at: Monotonic(now.monotonic.0.saturating_sub(waited.unwrap_or(0))),
            exact: waited.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(monotonic: u64, realtime: u64) -> Now {
        Now { monotonic: Monotonic(monotonic), realtime: Realtime(realtime) }
    }

    fn read_at(ns: u64) -> Arrival {
        Arrival { at: Monotonic(ns), exact: false }
    }

    #[test]
    fn a_clock_step_drops_the_correction_once() {
        let hour = 3_600_000_000_000;
        let mut clock = ArrivalClock::default();
        clock.observe(now(1_000, 5_000));
        clock.observe(now(2_000, 6_000 + hour));
        assert_eq!(clock.arrival(now(2_000, 6_000 + hour), Some(Realtime(5_900))), read_at(2_000));
        clock.observe(now(3_000, 7_000 + hour));
        assert_eq!(
            clock.arrival(now(3_000, 7_000 + hour), Some(Realtime(6_900 + hour))),
            Arrival::exact(Monotonic(2_900))
        );
    }

    #[test]
    fn a_stamp_from_the_future_or_the_far_past_is_not_used() {
        let mut clock = ArrivalClock::default();
        let at = now(100_000_000_000, 200_000_000_000);
        clock.observe(at);
        assert_eq!(clock.arrival(at, Some(Realtime(200_000_000_001))), read_at(100_000_000_000));
        assert_eq!(clock.arrival(at, Some(Realtime(1))), read_at(100_000_000_000));
        assert_eq!(clock.arrival(at, None), read_at(100_000_000_000));
    }
}
