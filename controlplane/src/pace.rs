//! When drains are due.

use std::time::Duration;

use crate::clock::Now;

/// One drain each interval. What came late, or overran, is not made up for: the rings hold what came meanwhile.
pub(crate) struct Pace {
    interval_ns: u64,
    /// None before the first.
    due_ns: Option<u64>,
}

impl Pace {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), due_ns: None }
    }

    /// A drain begins: how late. The first is when it is.
    pub(crate) fn begin(&mut self, now: Now) -> Duration {
        let due = self.due_ns.unwrap_or(now.monotonic_ns);
        let next = due.saturating_add(self.interval_ns);
        let missed = next <= now.monotonic_ns;
        self.due_ns = Some(if missed { now.monotonic_ns.saturating_add(self.interval_ns) } else { next });
        now.since(due)
    }

    /// How long until the next is due.
    pub(crate) fn pause(&self, now: Now) -> Duration {
        Duration::from_nanos(self.due_ns.unwrap_or(0).saturating_sub(now.monotonic_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: milliseconds * 1_000_000, unix_ns: 0 }
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn begun_at_1000() -> Pace {
        let mut pace = Pace::new(ms(100));
        assert_eq!(pace.begin(at(1000)), ms(0));
        pace
    }

    #[test]
    fn a_late_wake_does_not_put_off_the_drains_after_it() {
        let mut pace = begun_at_1000();
        assert_eq!(pace.pause(at(1004)), ms(96));
        assert_eq!(pace.begin(at(1103)), ms(3));
        assert_eq!(pace.pause(at(1103)), ms(97));
    }

    #[test]
    fn a_drain_that_overran_makes_the_next_one_late_and_is_not_made_up_for() {
        let mut pace = begun_at_1000();
        assert_eq!(pace.pause(at(1350)), ms(0));
        assert_eq!(pace.begin(at(1350)), ms(250));
        assert_eq!(pace.pause(at(1350)), ms(100));
        assert_eq!(pace.begin(at(1450)), ms(0));
    }
}
