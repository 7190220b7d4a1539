//! Which authenticated packets were answered, whatever source they came from.

use std::time::Duration;

use super::Refusal;
use crate::wire::replay::SentAt;

/// How far a packet's T1 may be from its arrival by our clock, either way.
pub const FRESHNESS: Duration = Duration::from_secs(60);

/// Buckets of one cache line: 8 MiB in all, a million tags. Memory is taken as it is first used, and none
/// without keys.
const BUCKETS: usize = 1 << 17;
const WAYS: usize = 8;
/// Bits of an entry that tell tags apart, beside those that choose its bucket; T1's second is above them.
const FINGERPRINT_BITS: u32 = 48;

/// The tags of the packets answered, each for as long as its packet is fresh.
///
/// An HMAC is as good as random to who has no key, so its own bits choose a bucket of eight, and 48 others
/// tell it from what else is there: one packet in 2^45 is taken for another. O(1): one bucket is looked at.
///
/// Where eight in a bucket are all fresh, that with the earliest T1 makes room, and what has a T1 up to its
/// second is no longer fresh, so that nothing is answered twice. Up to some 10 000 packets a second that
/// takes nothing from anybody; at 100 000 it leaves a few seconds.
#[derive(Debug)]
pub(super) struct Seen {
    buckets: Box<[[u64; WAYS]]>,
    /// All of T1 before this is refused.
    floor: Option<SentAt>,
}

impl Seen {
    pub(super) fn new(has_keys: bool) -> Self {
        let buckets = if has_keys { BUCKETS } else { 0 };
        Self { buckets: vec![[0; WAYS]; buckets].into_boxed_slice(), floor: None }
    }

    /// Whether a verified packet is fresh, and was not answered yet. Changes nothing.
    pub(super) fn check(&self, now: SentAt, sent_at: SentAt, tag: &[u8; 16]) -> Result<(), Refusal> {
        let distance = now.0.wrapping_sub(sent_at.0).cast_signed().unsigned_abs();
        let is_forgotten = self.floor.is_some_and(|floor| floor.is_after(sent_at));
        if distance > FRESHNESS.as_secs() << 32 || is_forgotten {
            return Err(Refusal::Stale);
        }
        let (bucket, entry) = place(sent_at, tag);
        let was_there = self.buckets.get(bucket).is_some_and(|bucket| bucket.contains(&entry));
        if was_there { Err(Refusal::Replayed) } else { Ok(()) }
    }

    /// Remembers a packet that passed [`check`](Self::check).
    pub(super) fn insert(&mut self, now: SentAt, sent_at: SentAt, tag: &[u8; 16]) {
        let (bucket, entry) = place(sent_at, tag);
        let Some(bucket) = self.buckets.get_mut(bucket) else { return };
        let Some(oldest) = bucket.iter_mut().max_by_key(|entry| rank(now, **entry)) else { return };
        if is_fresh(age(now, *oldest)) {
            let second = (now.0 >> 32).wrapping_sub_signed(age(now, *oldest).into());
            let floor = SentAt(second.wrapping_add(1) << 32);
            if self.floor.is_none_or(|known| floor.is_after(known)) {
                self.floor = Some(floor);
            }
        }
        *oldest = entry;
    }
}

/// What is over goes first, then what is over soonest.
fn rank(now: SentAt, entry: u64) -> i16 {
    let age = age(now, entry);
    if is_fresh(age) { age } else { i16::MAX }
}

/// Whole seconds since T1, modulo 2^16: what is hours old may look hours ahead, and is over either way.
fn age(now: SentAt, entry: u64) -> i16 {
    let second = (entry >> FINGERPRINT_BITS) as u16;
    ((now.0 >> 32) as u16).wrapping_sub(second).cast_signed()
}

/// With one second for what whole seconds leave out.
fn is_fresh(age: i16) -> bool {
    u64::from(age.unsigned_abs()) <= FRESHNESS.as_secs() + 1
}

fn place(sent_at: SentAt, tag: &[u8; 16]) -> (usize, u64) {
    let tag = u128::from_be_bytes(*tag);
    let fingerprint = (tag >> 64) as u64 & ((1 << FINGERPRINT_BITS) - 1);
    let second = sent_at.0 >> 32 << FINGERPRINT_BITS;
    (tag as usize % BUCKETS, second | fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SentAt = SentAt(1_700_000_000 << 32);

    fn at(offset: i64) -> SentAt {
        SentAt(NOW.0.wrapping_add_signed(offset << 32))
    }

    /// All in one bucket.
    fn tag(number: u128) -> [u8; 16] {
        (number << 64 | 5).to_be_bytes()
    }

    #[test]
    fn a_minute_either_way_is_fresh_and_more_is_not() {
        let seen = Seen::new(true);
        let results = [-61, -60, 0, 60, 61].map(|offset| seen.check(NOW, at(offset), &tag(1)));
        assert_eq!(results, [Err(Refusal::Stale), Ok(()), Ok(()), Ok(()), Err(Refusal::Stale)]);
    }

    #[test]
    fn nothing_is_answered_twice_however_many_come() {
        let mut seen = Seen::new(true);
        let packets: Vec<_> =
            (0..1000).map(|number| (at(number / 10), tag(number.cast_unsigned().into()))).collect();
        let mut taken = 0;
        for (sent_at, tag) in &packets {
            if seen.check(*sent_at, *sent_at, tag).is_ok() {
                seen.insert(*sent_at, *sent_at, tag);
                taken += 1;
            }
            for (earlier, tag) in packets.iter().take_while(|(earlier, _)| earlier.0 <= sent_at.0) {
                if earlier.0 < sent_at.0 {
                    assert!(seen.check(*sent_at, *earlier, tag).is_err());
                }
            }
        }
        assert!(taken >= 800, "{taken}: a bucket holds eight of ten at a time");
    }

    #[test]
    fn what_is_over_makes_room_and_costs_nobody() {
        let mut seen = Seen::new(true);
        for number in 0..8 {
            seen.insert(NOW, NOW, &tag(number));
        }
        let later = at(62);
        for number in 8..16 {
            assert_eq!(seen.check(later, at(3), &tag(number)), Ok(()));
            seen.insert(later, later, &tag(number));
        }
        assert_eq!(seen.floor, None);
    }
}
