//! When to probe whom: isochronous, spread, coalesced into slots.
//!
//! Each entry is due at `phase + k * interval` on the monotonic clock, for whole `k` and a phase kept
//! for life. Phases come from a hash, so that a thousand targets do not fire at once. What is due within
//! one slot fires at its end, so that it costs one wake. A late wake never moves the phase, and neither
//! does another length of the slots.
//!
//! What is due in one slot lies side by side in memory. A shard wakes with cold caches; a heap of all
//! targets would cost it ten cache misses per probe where this costs one per slot.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Monotonic, nanos};

/// Emptied slots kept to be filled again, so that the path of a probe does not allocate.
const SPARE_SLOTS_MAX: usize = 128;

/// Things to do by slot. O(log slots) to add and to take, whatever the number of things in a slot.
#[derive(Debug)]
pub(crate) struct SlotQueue<T> {
    slots: BTreeMap<Monotonic, Vec<T>>,
    spare: Vec<Vec<T>>,
}

impl<T> SlotQueue<T> {
    pub(crate) fn new() -> Self {
        Self { slots: BTreeMap::new(), spare: Vec::new() }
    }

    /// Adds a thing to the first slot at or after `due`, of slots this long.
    pub(crate) fn push(&mut self, due: Monotonic, slot: Duration, thing: T) {
        let slot_ns = nanos(slot).max(1);
        let at = Monotonic(due.0.div_ceil(slot_ns).saturating_mul(slot_ns));
        let spare = &mut self.spare;
        self.slots.entry(at).or_insert_with(|| spare.pop().unwrap_or_default()).push(thing);
    }

    /// The first slot with anything in it.
    pub(crate) fn next_due(&self) -> Option<Monotonic> {
        self.slots.first_key_value().map(|(at, _)| *at)
    }

    /// Takes one thing of the first slot, if that is due by `now`, and says when it was due.
    pub(crate) fn pop_due(&mut self, now: Monotonic) -> Option<(Monotonic, T)> {
        self.pop_if(|at, _| at <= now)
    }

    /// Takes one thing of the first slot if `wanted` says so.
    pub(crate) fn pop_if(&mut self, wanted: impl FnOnce(Monotonic, &T) -> bool) -> Option<(Monotonic, T)> {
        let mut first = self.slots.first_entry()?;
        let at = *first.key();
        let thing = first.get_mut().pop_if(|thing| wanted(at, thing))?;
        if first.get().is_empty() {
            let emptied = first.remove();
            if self.spare.len() < SPARE_SLOTS_MAX {
                self.spare.push(emptied);
            }
        }
        Some((at, thing))
    }
}

/// What an entry is known by. It is forgotten by being no longer known: see [`Schedule::pop_due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryKey {
    /// A place in the caller's table.
    pub key: u32,
    /// Tells who has that place from who had it before.
    pub generation: u32,
}

/// One entry that is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The key it was added with.
    pub key: EntryKey,
    /// How long ago its slot was.
    pub lag: Duration,
    /// Whole intervals that passed unserved. They are not made up for: a burst measures nothing.
    pub missed: u64,
}

/// The schedule of one shard. A wake never walks all entries.
///
/// ```
/// use std::time::Duration;
/// use relayscope_dataplane::clock::Monotonic;
/// use relayscope_dataplane::schedule::{EntryKey, Schedule};
///
/// let mut schedule = Schedule::new(Duration::from_millis(10));
/// let key = EntryKey { key: 7, generation: 0 };
/// schedule.add(Monotonic(0), key, Duration::from_secs(1), 123_456_789);
/// let first = schedule.next_due().expect("one entry");
/// assert_eq!(schedule.pop_due(first, |_| true).map(|due| due.key), Some(key));
/// assert_eq!(schedule.next_due(), Some(first + Duration::from_secs(1)));
/// ```
#[derive(Debug)]
pub struct Schedule {
    slot: Duration,
    entries: SlotQueue<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    due_ns: u64,
    interval_ns: u64,
    key: EntryKey,
}

impl Schedule {
    /// A schedule whose entries fire in common slots of this length, or of their interval where that is
    /// shorter.
    pub fn new(slot: Duration) -> Self {
        Self { slot, entries: SlotQueue::new() }
    }

    /// From now on entries fire in slots of this length; each from when it is planned next.
    pub fn set_slot(&mut self, slot: Duration) {
        self.slot = slot;
    }

    /// Adds an entry, first due within one interval after `now`. `hash` spreads the phases.
    pub fn add(&mut self, now: Monotonic, key: EntryKey, interval: Duration, hash: u64) {
        let interval_ns = nanos(interval).max(1);
        let phase = hash % interval_ns;
        // The first moment after now that is congruent to the phase.
        let elapsed = (now.0 % interval_ns + interval_ns - phase) % interval_ns;
        let due_ns = now.0.saturating_add(interval_ns - elapsed);
        self.push(Entry { due_ns, interval_ns, key });
    }

    fn push(&mut self, entry: Entry) {
        let slot = self.slot.min(Duration::from_nanos(entry.interval_ns));
        self.entries.push(Monotonic(entry.due_ns), slot, entry);
    }

    /// When the next entry is due; `None` while there is none.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.entries.next_due()
    }

    /// Takes the next entry that is due by `now`, and plans it anew one interval after its slot. One that
    /// `is_known` no longer is forgotten: an entry costs nothing to remove.
    pub fn pop_due(&mut self, now: Monotonic, is_known: impl Fn(EntryKey) -> bool) -> Option<Due> {
        // Each turn takes an entry out for good.
        let (slot, mut entry) = loop {
            let (slot, entry) = self.entries.pop_due(now)?;
            if is_known(entry.key) {
                break (slot, entry);
            }
        };
        let lag = now.since(slot);
        let missed = nanos(lag) / entry.interval_ns;
        entry.due_ns = entry.due_ns.saturating_add((missed + 1).saturating_mul(entry.interval_ns));
        self.push(entry);
        Some(Due { key: entry.key, lag, missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SLOT: Duration = Duration::from_millis(10);

    fn entry(key: u32) -> EntryKey {
        EntryKey { key, generation: 0 }
    }

    fn all(_: EntryKey) -> bool {
        true
    }

    #[test]
    fn first_probes_are_spread_over_one_interval() {
        let mut schedule = Schedule::new(SLOT);
        let now = Monotonic(5_123_456_789);
        for key in 0..1000u32 {
            let hash = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            schedule.add(now, entry(key), SECOND, hash);
        }
        assert!(schedule.next_due().unwrap() > now);
        let mut most = 0;
        let mut slots = 0;
        while let Some(slot) = schedule.next_due().filter(|slot| *slot <= now + SECOND + SLOT) {
            let mut count = 0;
            while schedule.pop_due(slot, all).is_some() {
                count += 1;
            }
            most = most.max(count);
            slots += 1;
        }
        assert!((100..=102).contains(&slots), "{slots} slots in a second");
        assert!(most <= 20, "{most} in one slot: no slot takes more than twice its share");
    }

    #[test]
    fn a_slow_wake_never_moves_the_phase_and_missed_slots_are_counted() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), entry(1), SECOND, 249_000_000);
        assert_eq!(schedule.next_due(), Some(Monotonic(250_000_000)));
        let late = schedule.pop_due(Monotonic(250_000_000 + 3_400_000_000), all).unwrap();
        assert_eq!((late.missed, late.lag), (3, Duration::from_millis(3_400)));
        assert_eq!(schedule.next_due(), Some(Monotonic(4_250_000_000)));
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), entry(1), SECOND, 500_000_000);
        assert_eq!(schedule.pop_due(Monotonic(499_999_999), all), None);
        assert!(schedule.pop_due(Monotonic(500_000_000), all).is_some());
        assert_eq!(schedule.pop_due(Monotonic(500_000_000), all), None);
    }

    #[test]
    fn what_is_due_in_one_slot_shares_a_wake_at_its_end() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(1), entry(1), SECOND, 123_456_789);
        schedule.add(Monotonic(2), entry(2), SECOND, 129_999_999);
        assert_eq!(schedule.next_due(), Some(Monotonic(130_000_000)));
        assert!(schedule.pop_due(Monotonic(130_000_000), all).is_some());
        assert!(schedule.pop_due(Monotonic(130_000_000), all).is_some());
    }

    #[test]
    fn another_length_of_the_slots_moves_no_phase() {
        let mut schedule = Schedule::new(50 * SLOT);
        schedule.add(Monotonic(0), entry(1), SECOND, 123_000_000);
        assert_eq!(schedule.next_due(), Some(Monotonic(500_000_000)));
        schedule.set_slot(Duration::from_millis(1));
        assert!(schedule.pop_due(Monotonic(500_000_000), all).is_some());
        assert_eq!(schedule.next_due(), Some(Monotonic(1_123_000_000)));
    }

    #[test]
    fn an_interval_that_is_no_multiple_of_the_slot_keeps_its_rate() {
        for interval in [Duration::from_millis(1), Duration::from_millis(25), Duration::from_micros(333_333)]
        {
            let mut schedule = Schedule::new(SLOT);
            schedule.add(Monotonic(0), entry(1), interval, 0);
            let (mut fired, end) = (0u32, Monotonic(0) + 30 * SECOND);
            while let Some(due) = schedule.next_due().filter(|due| *due <= end) {
                assert_eq!(schedule.pop_due(due, all).unwrap().missed, 0);
                fired += 1;
            }
            let expected = (30 * SECOND).as_nanos() / interval.as_nanos();
            assert!(u128::from(fired).abs_diff(expected) <= 1, "{interval:?}: {fired} of {expected}");
        }
    }

    #[test]
    fn an_entry_that_is_no_longer_known_is_never_due_and_not_planned_anew() {
        let mut schedule = Schedule::new(SLOT);
        schedule.add(Monotonic(0), entry(1), SECOND, 0);
        schedule.add(Monotonic(0), entry(2), SECOND, 0);
        let now = Monotonic(1_000_000_000);
        assert_eq!(schedule.pop_due(now, |key| key == entry(2)).map(|due| due.key), Some(entry(2)));
        assert_eq!(schedule.pop_due(now, |_| false), None);
        assert_eq!(schedule.pop_due(now + SECOND, |_| false), None);
        assert_eq!(schedule.next_due(), None);
    }
}
