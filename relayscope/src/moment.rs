//! Moments: what a segment tells in nanoseconds of `CLOCK_MONOTONIC`, as wall-clock time and as an age.

use std::time::{Duration, UNIX_EPOCH};

use relayscope_bridge::segment::SegmentInfo;

pub(crate) use relayscope_controlplane::Now;

/// The monotonic clock that a segment's times are of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentClock {
    /// The same moment on both clocks.
    known: Now,
    /// None where the machine was booted since: no moment of that clock has an age.
    now: Option<Now>,
}

/// Both clocks run at one rate and drift apart only when the wall clock is set. Less than this is the time
/// that lay between reading the one and the other.
const STEP_MIN_NS: u64 = 1_000_000;

/// What was signed after this moment was read lies ahead of it, a little.
const AHEAD_MAX_NS: u64 = 1_000_000_000;

impl SegmentClock {
    /// The segment's own start tells the wall clock's time of a moment, and the same at every look; where the
    /// wall clock was set since, `now` does. Of another boot there is only the start.
    pub(crate) fn new(segment: &SegmentInfo, now: Now) -> Self {
        let start = Now { monotonic_ns: segment.start_monotonic_ns, unix_ns: segment.start_unix_ns };
        let now = segment.this_boot.then_some(now);
        let expected_ns = |now: Now| Self { known: start, now: None }.unix_ns(now.monotonic_ns);
        let was_set = |now: &Now| now.unix_ns.abs_diff(expected_ns(*now)) >= STEP_MIN_NS;
        Self { known: now.filter(was_set).unwrap_or(start), now }
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) fn unix_ns(&self, then_ns: u64) -> u64 {
        let unix_ns =
            i128::from(self.known.unix_ns) + i128::from(then_ns) - i128::from(self.known.monotonic_ns);
        u64::try_from(unix_ns.max(0)).unwrap_or(u64::MAX)
    }

    /// How long ago that was; `None` before the last boot, and for what is yet to come, as in a damaged
    /// segment.
    pub(crate) fn age(&self, then_ns: u64) -> Option<Duration> {
        let now = self.now?;
        (then_ns.saturating_sub(now.monotonic_ns) <= AHEAD_MAX_NS).then(|| now.since(then_ns))
    }
}

/// RFC 3339 in UTC, to the nanosecond.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    // u64 nanoseconds end in the year 2554.
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

/// As people read it: `0.1 s`, `4m 07s`, `3h 12m`, `9d 4h`.
pub(crate) fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", age.as_secs_f64()),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn segment(this_boot: bool) -> SegmentInfo {
        SegmentInfo {
            generation: 1,
            pid: 1,
            start_unix_ns: 1_700_000_000 * SECOND,
            start_monotonic_ns: 100 * SECOND,
            this_boot,
            shards: 1,
            ring_capacity: 2,
            bytes: 4096,
        }
    }

    /// The wall clock was set a minute ahead since the segment was made.
    const NOW: Now = Now { monotonic_ns: 110 * SECOND, unix_ns: 1_700_000_070 * SECOND };

    #[test]
    fn a_moment_of_this_boot_has_an_age_and_where_the_clock_was_set_its_time_as_of_now() {
        let clock = SegmentClock::new(&segment(true), NOW);
        assert_eq!(clock.unix_ns(108 * SECOND), 1_700_000_068 * SECOND);
        assert_eq!(clock.age(108 * SECOND), Some(Duration::from_secs(2)));
        assert_eq!(clock.age(111 * SECOND), Some(Duration::ZERO), "signed since");
        assert_eq!(clock.age(111 * SECOND + 1), None, "what is yet to come is not fresh");
    }

    #[test]
    fn a_moment_has_the_same_time_at_every_look() {
        let looks = [0, 300, 999_999]
            .map(|late_ns| Now { monotonic_ns: 110 * SECOND, unix_ns: 1_700_000_010 * SECOND + late_ns });
        let times = looks.map(|now| SegmentClock::new(&segment(true), now).unix_ns(108 * SECOND));
        assert_eq!(times, [1_700_000_008 * SECOND; 3]);
    }

    #[test]
    fn a_moment_of_an_earlier_boot_has_the_time_of_the_clock_then_and_no_age() {
        let clock = SegmentClock::new(&segment(false), NOW);
        assert_eq!(clock.unix_ns(108 * SECOND), 1_700_000_008 * SECOND);
        assert_eq!(clock.age(108 * SECOND), None);
    }

    #[test]
    fn times_are_rfc_3339_and_ages_are_short() {
        assert_eq!(rfc3339(1_700_000_008_000_000_001), "2023-11-14T22:13:28.000000001Z");
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
        let ages = [0, 100, 59_940, 247_000, 3_599_000, 11_520_000, 792_000_000].map(Duration::from_millis);
        assert_eq!(ages.map(age_text), ["0.0 s", "0.1 s", "59.9 s", "4m 07s", "59m 59s", "3h 12m", "9d 4h"]);
    }
}
