//! A bounded hash table that never rehashes and never sweeps.

use std::hash::{BuildHasher, Hash, RandomState};

/// Entries that may share a bucket.
const WAYS: usize = 8;
/// Buckets looked at for what is over, whenever something new comes in. More than one, so that the table
/// empties faster than it fills.
const SWEPT_PER_INSERT: usize = 2;

/// Two-choice hashing: a key stands in one of two buckets of eight, wherever there was more room. There is
/// room for twice the entries that are let in, so that two full buckets are next to impossible, and a key
/// without a place is treated as one too many.
///
/// Every call is O(1), and none does more than look at four buckets: what is over goes when its bucket is
/// needed, or when the hand that visits two buckets per insertion comes by. Hashing is keyed at random, so
/// nobody who chooses keys can choose buckets. A bucket takes memory from its first entry on.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    buckets: Box<[Vec<(K, V)>]>,
    hasher: RandomState,
    len: usize,
    max: usize,
    hand: usize,
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// An empty table of at most `max` entries.
    pub(super) fn new(max: usize) -> Self {
        let buckets = (2 * max).div_ceil(WAYS).next_power_of_two();
        let buckets = (0..buckets).map(|_| Vec::new()).collect();
        Self { buckets, hasher: RandomState::new(), len: 0, max, hand: 0 }
    }

    /// Entries, over or not.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let [first, second] = self.choices(key);
        // Told apart by position, because a reference returned from a loop would be held in every turn.
        let bucket = if self.buckets[first].iter().any(|(k, _)| k == key) { first } else { second };
        self.buckets[bucket].iter_mut().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Puts in what is not there yet, and says whether there was room, once what `is_over` has gone.
    pub(super) fn insert(&mut self, key: K, value: V, is_over: impl Fn(&V) -> bool) -> bool {
        let [first, second] = self.choices(&key);
        self.clear(first, &is_over);
        self.clear(second, &is_over);
        for _ in 0..SWEPT_PER_INSERT {
            self.clear(self.hand, &is_over);
            self.hand = (self.hand + 1) % self.buckets.len();
        }
        let roomier = if self.buckets[first].len() <= self.buckets[second].len() { first } else { second };
        let bucket = &mut self.buckets[roomier];
        let has_room = self.len < self.max && bucket.len() < WAYS;
        if has_room {
            bucket.push((key, value));
            self.len += 1;
        }
        has_room
    }

    fn clear(&mut self, bucket: usize, is_over: impl Fn(&V) -> bool) {
        let bucket = &mut self.buckets[bucket];
        let before = bucket.len();
        bucket.retain(|(_, value)| !is_over(value));
        self.len -= before - bucket.len();
    }

    fn choices(&self, key: &K) -> [usize; 2] {
        let hash = self.hasher.hash_one(key);
        let mask = self.buckets.len() - 1;
        [hash as usize & mask, (hash >> 32) as usize & mask]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_bound_and_not_one_more() {
        for max in [1, 2, 7, 1000, 16_384] {
            let mut table = Table::new(max);
            let taken = (0..3 * max).filter(|key| table.insert(*key, (), |()| false)).count();
            assert_eq!((taken, table.len()), (max, max));
            assert!((0..max).all(|key| table.get_mut(&key).is_some()), "{max}: the first are all there");
            assert!(table.get_mut(&max).is_none());
        }
    }

    #[test]
    fn a_table_for_nothing_takes_nothing() {
        let mut table = Table::new(0);
        assert!(!table.insert(1, (), |()| false));
        assert!(table.get_mut(&1).is_none());
    }

    #[test]
    fn what_is_over_makes_room_without_a_sweep() {
        const MAX: usize = 1024;
        let mut table = Table::new(MAX);
        for key in 0..MAX {
            assert!(table.insert(key, 0, |_| false));
        }
        // All is over at once; each insertion looks at four buckets of 256.
        let cleared = std::cell::Cell::new(0);
        let is_over = |time: &i32| {
            cleared.set(cleared.get() + 1);
            *time == 0
        };
        for key in MAX..2 * MAX {
            cleared.set(0);
            assert!(table.insert(key, 1, is_over), "{key}: there is room at once");
            assert!(cleared.get() <= 4 * WAYS, "{} looked at", cleared.get());
        }
        assert_eq!(table.len(), MAX);
        assert!((0..MAX).all(|key| table.get_mut(&key).is_none()));
        assert!((MAX..2 * MAX).all(|key| table.get_mut(&key) == Some(&mut 1)));
    }

    #[test]
    fn values_stay_where_they_are_while_others_go() {
        let mut table = Table::new(64);
        for key in 0..64 {
            table.insert(key, key % 2, |_| false);
        }
        *table.get_mut(&4).unwrap() = 100;
        for key in 64..200 {
            table.insert(key, 3, |value| *value == 1);
        }
        assert_eq!(table.get_mut(&4), Some(&mut 100));
        assert!((0..64).filter(|key| key % 2 == 0).all(|key| table.get_mut(&key).is_some()));
    }
}
