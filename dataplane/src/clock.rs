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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// Longest time a datagram may lie between its kernel stamp and a look for the stamp to be used.
const WAIT_MAX_NS: u64 = 60_000_000_000;
/// How far the realtime clock may run fast or slow against the monotonic one: an eighth, half as much
/// again as chrony slews at most. What goes beyond that between two looks is a step.
const SLEW_MAX_DIVISOR: u64 = 8;
/// The two clocks are read one after the other, so a look is only this good.
const LOOK_ERROR_NS: u64 = 200_000;

/// Moves the kernel's receive stamps, which are `CLOCK_REALTIME`, to the monotonic clock.
///
/// Both clocks are looked at together at each reading of the socket. A stamp between two looks is placed
/// between their monotonic times in proportion, which is right however the realtime clock is slewed.
/// When it stepped between two looks, a stamp between them is not used.
///
/// ```
/// use relayscope_dataplane::clock::{Arrival, ArrivalClock, Monotonic, Now, Realtime};
///
/// let at = |ns| Now { monotonic: Monotonic(ns), realtime: Realtime(1_000_000 + ns) };
/// let mut clock = ArrivalClock::default();
/// clock.look(at(0));
/// clock.look(at(900));
/// assert_eq!(clock.arrival(Some(Realtime(1_000_300))), Arrival::exact(Monotonic(300)));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalClock {
    before: Option<Now>,
    last: Now,
    stepped: bool,
}

impl ArrivalClock {
    /// Looks at both clocks. Call it before reading, unless the last reading left something behind: what
    /// lies in the socket then arrived between the same two looks.
    pub fn look(&mut self, now: Now) {
        self.before = (self.last != Now::default()).then_some(self.last);
        self.last = now;
        self.stepped = self.before.is_some_and(|before| {
            let monotonic = now.monotonic.0.saturating_sub(before.monotonic.0);
            let realtime = now.realtime.0.checked_sub(before.realtime.0);
            realtime.is_none_or(|realtime| {
                realtime.abs_diff(monotonic) > monotonic / SLEW_MAX_DIVISOR + LOOK_ERROR_NS
            })
        });
    }

    /// When a datagram arrived that was read after the last look.
    pub fn arrival(&self, kernel: Option<Realtime>) -> Arrival {
        let placed = kernel.filter(|_| !self.stepped).and_then(|stamp| self.place(stamp));
        placed.map_or(Arrival { at: self.last.monotonic, exact: false }, Arrival::exact)
    }

    fn place(&self, stamp: Realtime) -> Option<Monotonic> {
        let Now { monotonic, realtime } = self.last;
        if let Some(after) = stamp.0.checked_sub(realtime.0) {
            // It arrived while we were reading.
            return (after <= WAIT_MAX_NS).then(|| Monotonic(monotonic.0 + after));
        }
        let waited = realtime.0 - stamp.0;
        let rate = self
            .before
            .filter(|before| stamp >= before.realtime)
            .map(|before| (monotonic.0.saturating_sub(before.monotonic.0), realtime.0 - before.realtime.0));
        let waited = match rate {
            // At least one: the stamp lies before the last look and not before the one before it.
            Some((monotonic, realtime)) => scale(waited, monotonic, realtime.max(1)),
            None => waited,
        };
        (waited <= WAIT_MAX_NS).then(|| Monotonic(monotonic.0.saturating_sub(waited)))
    }
}

/// `value * numerator / denominator`, without overflow.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn now(monotonic: u64, realtime: u64) -> Now {
        Now { monotonic: Monotonic(monotonic), realtime: Realtime(realtime) }
    }

    fn read_at(ns: u64) -> Arrival {
        Arrival { at: Monotonic(ns), exact: false }
    }

    #[test]
    fn a_clock_step_drops_the_stamps_between_the_looks_around_it() {
        let hour = 3_600_000 * MS;
        for step in [hour, 1_000 * MS, 30 * MS] {
            let mut clock = ArrivalClock::default();
            clock.look(now(1_000 * MS, 5_000 * MS));
            clock.look(now(1_200 * MS, 5_200 * MS + step));
            assert_eq!(clock.arrival(Some(Realtime(5_100 * MS))), read_at(1_200 * MS), "{step}");
            clock.look(now(1_400 * MS, 5_400 * MS + step));
            let after = clock.arrival(Some(Realtime(5_300 * MS + step)));
            assert_eq!(after, Arrival::exact(Monotonic(1_300 * MS)), "{step}");
        }
    }

    #[test]
    fn a_step_back_drops_them_too() {
        let mut clock = ArrivalClock::default();
        clock.look(now(1_000 * MS, 9_000 * MS));
        clock.look(now(1_200 * MS, 5_200 * MS));
        assert_eq!(clock.arrival(Some(Realtime(5_100 * MS))), read_at(1_200 * MS));
    }

    #[test]
    fn slewing_costs_no_accuracy() {
        // Realtime runs 5 % fast: 105 ms of it are 100 ms.
        let mut clock = ArrivalClock::default();
        clock.look(now(1_000 * MS, 50_000 * MS));
        clock.look(now(1_200 * MS, 50_210 * MS));
        assert_eq!(clock.arrival(Some(Realtime(50_105 * MS))), Arrival::exact(Monotonic(1_100 * MS)));
    }

    #[test]
    fn a_stamp_after_the_look_came_while_we_were_reading() {
        let mut clock = ArrivalClock::default();
        clock.look(now(1_000 * MS, 5_000 * MS));
        assert_eq!(clock.arrival(Some(Realtime(5_001 * MS))), Arrival::exact(Monotonic(1_001 * MS)));
    }

    #[test]
    fn a_stamp_from_the_far_past_or_future_is_not_used() {
        let mut clock = ArrivalClock::default();
        clock.look(now(100_000 * MS, 200_000 * MS));
        for stamp in [Some(Realtime(1)), Some(Realtime(300_000 * MS)), None] {
            assert_eq!(clock.arrival(stamp), read_at(100_000 * MS));
        }
    }
}
