//! The one room that reads clocks. Everything else is told what time it is.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// One moment on both clocks.
///
/// Samples and heartbeats carry `CLOCK_MONOTONIC`; what is shown to people and to Prometheus is unix
/// time. Both are read together, so that one can be told from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub unix_ns: u64,
}

impl Now {
    /// Reads both clocks.
    pub fn sample() -> Self {
        Self { monotonic_ns: read(ClockId::CLOCK_MONOTONIC), unix_ns: read(ClockId::CLOCK_REALTIME) }
    }

    /// Time since `then_ns` of `CLOCK_MONOTONIC`; zero for what lies ahead, as a heartbeat does that
    /// was signed after this moment was read.
    pub fn since(self, then_ns: u64) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(then_ns))
    }

    /// `then_ns` of `CLOCK_MONOTONIC` as unix seconds, to the millisecond.
    pub(crate) fn unix_seconds_of(self, then_ns: u64) -> f64 {
        let unix_ns = i128::from(self.unix_ns) + i128::from(then_ns) - i128::from(self.monotonic_ns);
        (unix_ns / 1_000_000) as f64 / 1e3
    }

    /// `then_ns` of `CLOCK_MONOTONIC` as the wall clock has it that is right now: whoever set it meanwhile changes
    /// what is told of then, too. In nanoseconds, 0 for what would lie before 1970.
    pub(crate) fn unix_ns_of(self, then_ns: u64) -> u64 {
        let unix_ns = i128::from(self.unix_ns) + i128::from(then_ns) - i128::from(self.monotonic_ns);
        u64::try_from(unix_ns.max(0)).unwrap_or(u64::MAX)
    }

    /// This moment as unix seconds.
    pub(crate) fn unix_seconds(self) -> f64 {
        self.unix_seconds_of(self.monotonic_ns)
    }
}

/// This moment as the timers of an async runtime have it.
#[expect(clippy::disallowed_methods, reason = "the one room that reads clocks")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

fn read(clock: ClockId) -> u64 {
    // Linux has had both clocks since before vDSO: the call fails only for a clock that it lacks.
    let time = clock_gettime(clock).expect("CLOCK_MONOTONIC and CLOCK_REALTIME exist on Linux");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_moments_become_unix_seconds_through_the_offset_of_the_moment() {
        let now = Now { monotonic_ns: 10_000_000_000, unix_ns: 1_700_000_000_250_000_000 };
        assert_eq!(now.unix_seconds(), 1_700_000_000.25);
        assert_eq!(now.unix_seconds_of(8_500_000_000), 1_699_999_998.75);
        assert_eq!(now.unix_ns_of(8_500_000_000), 1_699_999_998_750_000_000);
        assert_eq!(now.since(8_500_000_000), Duration::from_millis(1500));
    }

    #[test]
    fn no_moment_lies_before_1970_or_beyond_what_can_be_written() {
        assert_eq!(Now { monotonic_ns: 100, unix_ns: 1 }.unix_ns_of(5), 0);
        assert_eq!(Now { monotonic_ns: 0, unix_ns: u64::MAX }.unix_ns_of(5), u64::MAX);
    }

    #[test]
    fn a_moment_ahead_is_no_age_at_all() {
        let now = Now { monotonic_ns: 5, unix_ns: 5 };
        assert_eq!(now.since(9), Duration::ZERO);
    }
}
