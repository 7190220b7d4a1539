//! Who is to do something when: everybody once in an interval, spread evenly over it. Sans-IO.

use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;

/// Slots that come round and round the members, at equal distances.
#[derive(Clone, Debug)]
pub struct Cadence {
    started_at: Monotonic,
    interval: Duration,
    members: u32,
    /// The next slot.
    slot: u64,
    missed: u64,
}

impl Cadence {
    /// Each of so many members has its turn once in an interval.
    pub fn new(started_at: Monotonic, interval: Duration, members: u32) -> Self {
        Self { started_at, interval, members: members.max(1), slot: 0, missed: 0 }
    }

    /// Whose turn it is; `None` until the next one is due. A turn whose member has its next one already is missed:
    /// who is late does not catch up. O(1).
    pub fn poll(&mut self, now: Monotonic) -> Option<u32> {
        let due_at = self.due_at();
        if now < due_at {
            return None;
        }
        let late = now.since(due_at);
        if late >= self.interval {
            // Up to the first slot that is late by less than the interval.
            let over = (late - self.interval).as_nanos() * u128::from(self.members);
            let skipped = over / self.interval.as_nanos().max(1) + 1;
            self.slot += skipped as u64;
            self.missed += skipped as u64;
        }
        let member = self.slot % u64::from(self.members);
        self.slot += 1;
        // Below `members`.
        Some(member as u32)
    }

    /// When the next turn is.
    pub fn due_at(&self) -> Monotonic {
        let rounds = (self.slot / u64::from(self.members)) as u128;
        let within = u128::from(self.slot % u64::from(self.members));
        let nanos = self.interval.as_nanos();
        let since = rounds * nanos + within * nanos / u128::from(self.members);
        Monotonic(self.started_at.0.saturating_add(since as u64))
    }

    /// Turns missed so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn turns(cadence: &mut Cadence, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| cadence.poll(Monotonic(now * MS))).collect()
    }

    #[test]
    fn each_has_its_turn_at_its_own_time() {
        let mut cadence = Cadence::new(Monotonic(100 * MS), Duration::from_millis(40), 4);
        let seen: Vec<_> = [99, 100, 109, 110, 120, 130, 140].map(|now| turns(&mut cadence, now)).into();
        assert_eq!(seen, [vec![], vec![0], vec![], vec![1], vec![2], vec![3], vec![0]]);
        assert_eq!((cadence.due_at(), cadence.missed()), (Monotonic(150 * MS), 0));
    }

    #[test]
    fn who_is_late_by_less_than_a_round_is_late_and_by_more_has_missed_turns() {
        let mut cadence = Cadence::new(Monotonic(0), Duration::from_millis(40), 4);
        assert_eq!(turns(&mut cadence, 39), [0, 1, 2, 3]);
        assert_eq!(cadence.missed(), 0);
        // Of the slots at 40, 50, .. 100 ms those at 70 and later are of this round.
        assert_eq!(turns(&mut cadence, 105), [3, 0, 1, 2]);
        assert_eq!((cadence.missed(), cadence.due_at()), (3, Monotonic(110 * MS)));
        // Exactly a round late has its next turn now.
        let mut cadence = Cadence::new(Monotonic(0), Duration::from_millis(40), 1);
        assert_eq!(turns(&mut cadence, 40), [0]);
        assert_eq!(cadence.missed(), 1);
    }
}
