//! When to probe whom: isochronous, spread, coalesced into slots.
//!
//! Each entry is due at `phase + k * interval` on the monotonic clock, for whole `k` and a phase kept
//! for life. Phases come from a hash, so that a thousand targets do not fire at once, and are rounded
//! to the slot, so that those which fire together cost one wake. A late wake never moves the phase.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::clock::{Monotonic, nanos};

/// One entry that is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The key it was added with.
    pub key: u32,
    /// How long ago its slot was.
    pub lag: Duration,
    /// Whole intervals that passed unserved. They are not made up for: a burst measures nothing.
    pub missed: u64,
}

/// The schedule of one shard. O(log entries) per probe; a wake never walks all entries.
///
/// ```
/// use std::time::Duration;
/// use relayscope_dataplane::clock::Monotonic;
/// use relayscope_dataplane::schedule::Schedule;
///
/// let mut schedule = Schedule::new(Duration::from_millis(10));
/// schedule.add(Monotonic(0), 7, Duration::from_secs(1), 123_456_789);
/// let first = schedule.next_due().expect("one entry");
/// assert_eq!(schedule.pop_due(first).map(|due| due.key), Some(7));
/// assert_eq!(schedule.next_due(), Some(first + Duration::from_secs(1)));
/// ```
#[derive(Debug)]
pub struct Schedule {
    slot_ns: u64,
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due_ns: u64,
    key: u32,
    interval_ns: u64,
}

impl Schedule {
    /// A schedule whose entries fire in common slots of this length; at least a nanosecond.
    pub fn new(slot: Duration) -> Self {
        Self { slot_ns: nanos(slot).max(1), heap: BinaryHeap::new() }
    }

    /// Adds an entry, first due within one interval after `now`. `hash` spreads the phases.
    pub fn add(&mut self, now: Monotonic, key: u32, interval: Duration, hash: u64) {
        let interval_ns = nanos(interval).max(1);
        let slot_ns = self.slot_ns.min(interval_ns);
        let phase = (hash % interval_ns) / slot_ns * slot_ns;
        // The first moment after now that is congruent to the phase.
        let elapsed = (now.0 % interval_ns + interval_ns - phase) % interval_ns;
        let due_ns = now.0.saturating_add(interval_ns - elapsed);
        self.heap.push(Reverse(Entry { due_ns, key, interval_ns }));
    }

    /// When the next entry is due; `None` while there is none.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.heap.peek().map(|entry| Monotonic(entry.0.due_ns))
    }

    /// Takes the next entry that is due by `now`, and plans it anew one interval after its slot.
    pub fn pop_due(&mut self, now: Monotonic) -> Option<Due> {
        let mut top = self.heap.peek_mut()?;
        let entry = &mut top.0;
        let late_ns = now.0.checked_sub(entry.due_ns)?;
        let missed = late_ns / entry.interval_ns;
        entry.due_ns = entry.due_ns.saturating_add((missed + 1).saturating_mul(entry.interval_ns));
        Some(Due { key: entry.key, lag: Duration::from_nanos(late_ns), missed })
    }

    /// Forgets an entry. O(entries): for a change of targets, not for the path of a probe.
    pub fn remove(&mut self, key: u32) {
        self.heap.retain(|entry| entry.0.key != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SLOT: Duration = Duration::from_millis(10);

    #[test]
    fn first_probes_are_spread_over_one_interval() {
        let mut schedule = Schedule::new(SLOT);
        let now = Monotonic(5_123_456_789);
        for key in 0..1000u32 {
            let hash = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            schedule.add(now, key, SECOND, hash);
        }
        let mut per_slot = vec![0usize; 101];
        for entry in &schedule.heap {
            let ahead = entry.0.due_ns - now.0;
            assert!(ahead > 0 && ahead <= 1_000_000_000, "first due {ahead} ns ahead");
            per_slot[(ahead / 10_000_000) as usize] += 1;
        }
        assert!(*per_slot.iter().max().unwrap() <= 20, "no slot takes more than twice its share");
    }

    #[test]
    fn a_slow_wake_never_moves_the_phase_and_missed_slots_are_counted() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), 1, SECOND, 250_000_000);
        assert_eq!(schedule.next_due(), Some(Monotonic(250_000_000)));
        let late = schedule.pop_due(Monotonic(250_000_000 + 3_400_000_000)).unwrap();
        assert_eq!((late.missed, late.lag), (3, Duration::from_millis(3_400)));
        assert_eq!(schedule.next_due(), Some(Monotonic(4_250_000_000)));
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), 1, SECOND, 500_000_000);
        assert_eq!(schedule.pop_due(Monotonic(499_999_999)), None);
        assert!(schedule.pop_due(Monotonic(500_000_000)).is_some());
        assert_eq!(schedule.pop_due(Monotonic(500_000_000)), None);
    }

    #[test]
    fn phases_fall_on_slots_so_that_wakes_are_shared() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(1), 1, SECOND, 123_456_789);
        schedule.add(Monotonic(2), 2, SECOND, 129_999_999);
        assert_eq!(schedule.next_due(), Some(Monotonic(120_000_000)));
        assert!(schedule.pop_due(Monotonic(120_000_000)).is_some());
        assert!(schedule.pop_due(Monotonic(120_000_000)).is_some());
    }

    #[test]
    fn a_removed_entry_is_never_due() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), 1, SECOND, 0);
        schedule.remove(1);
        assert_eq!(schedule.next_due(), None);
    }
}
