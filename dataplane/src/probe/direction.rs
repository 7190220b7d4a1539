//! In which direction probes vanish, told from a stateful reflector's own count.
//!
//! A stateful reflector (RFC 8762 section 4.3) numbers its replies. A number that never arrives is a reply lost
//! on its way back; a probe without a reply for which no number is missing was lost on its way there. Both
//! are counted over spans from one reply to a later one, once every probe of the span has its final verdict.
//!
//! A stateless reflector copies our number, so that the two always agree. So do a stateful one's until the
//! first loss on the way there. Until they have differed once, nothing is said.

use std::ops::{Deref, DerefMut};

use super::account::{Closed, Verdict, is_after};

/// Whether a target's reflector counts its replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReflectorKind {
    /// Found out, by the first loss on the way there.
    #[default]
    Auto,
    /// Known to count, as ours does.
    Stateful,
    /// Known to copy our numbers: directions cannot be told.
    Stateless,
}

/// A reply that carries a number this much older than the newest, though its probe is the newest, is of a
/// reflector that began to count anew.
const REORDERED_MAX: u32 = 16;
/// Both count from 0.
const BEFORE_ALL: (u32, u32) = (u32::MAX, u32::MAX);
/// Reflector numbers remembered at least.
const SEEN_MIN: usize = 128;

/// One session's directions.
#[derive(Debug)]
pub(crate) struct Directions {
    configured: ReflectorKind,
    /// As configured, or as found out since.
    kind: ReflectorKind,
    seen: Seen,
    /// A reply came.
    begun: bool,
    /// The newest reply by our number: ours and the reflector's.
    newest: (u32, u32),
    /// Our number of the reply the span begins after.
    base: u32,
    /// The reply the span ends with, once chosen.
    end: Option<(u32, u32)>,
    span: Span,
    /// Of probes after the end of the span.
    beyond: Span,
    /// Told from a count that may yet prove to be a copy of ours.
    withheld: Attributed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    vanished: u32,
    missing: u32,
    /// Something in it cannot be told: it says nothing.
    void: bool,
}

/// Losses whose direction became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributed {
    pub(crate) forward: u32,
    pub(crate) reverse: u32,
}

impl Directions {
    /// For a session that remembers so many probes.
    pub(crate) fn new(kind: ReflectorKind, history: usize) -> Self {
        Self {
            configured: kind,
            kind,
            seen: Seen::new((2 * history).max(SEEN_MIN)),
            begun: false,
            newest: BEFORE_ALL,
            base: BEFORE_ALL.0,
            end: None,
            span: Span::default(),
            beyond: Span::default(),
            withheld: Attributed::default(),
        }
    }

    /// Another reflector from now on: what was found out of the one before is of no use. `sent` is our number
    /// of the last probe to that.
    pub(crate) fn restart(&mut self, sent: u32) {
        let before = std::mem::replace(self, Self::new(self.configured, 0));
        self.seen = Seen::new(before.seen.capacity());
        self.newest = (sent, BEFORE_ALL.1);
        self.base = sent;
    }

    /// Any reply: in time, late, or one more of the same. O(numbers remembered), whatever the reflector says.
    pub(crate) fn handle_reply(&mut self, ours: u32, theirs: u32) {
        if self.kind == ReflectorKind::Stateless {
            return;
        }
        if self.kind == ReflectorKind::Auto && ours != theirs {
            self.kind = ReflectorKind::Stateful;
        }
        // A count already ahead of ours at the first reply is of a session before this one.
        let is_older = !std::mem::replace(&mut self.begun, true) && is_after(theirs, ours);
        let (newest_ours, newest_theirs) = self.newest;
        let is_newest = is_after(ours, newest_ours);
        if is_older || is_newest && self.began_anew(theirs) {
            return self.begin(ours, theirs);
        }
        if !self.seen.is_near(theirs) {
            // Of a reply that is not the newest, this tells nothing but that the count is not to be trusted.
            self.span.void = true;
            return;
        }
        self.span.missing += self.seen.insert(theirs);
        if !is_newest {
            return;
        }
        // Neighbours in both counts: nothing overtook anything just here.
        let adjoins = ours == newest_ours.wrapping_add(1) && theirs == newest_theirs.wrapping_add(1);
        self.newest = (ours, theirs);
        if adjoins && self.end.is_none() {
            self.end = Some(self.newest);
        }
    }

    /// A probe's final verdict, in order of sequence. Returns what that settles.
    pub(crate) fn handle_closed(&mut self, closed: Closed) -> Option<Attributed> {
        if !is_after(closed.sequence, self.base) {
            return None;
        }
        let in_span = self.end.is_none_or(|(end, _)| !is_after(closed.sequence, end));
        let span = if in_span { &mut self.span } else { &mut self.beyond };
        match closed.verdict {
            Verdict::Replied => {}
            Verdict::Vanished => span.vanished += 1,
            Verdict::Void => span.void = true,
        }
        let end = self.end.filter(|end| end.0 == closed.sequence)?;
        self.close_span(end)
    }

    fn close_span(&mut self, end: (u32, u32)) -> Option<Attributed> {
        self.span.missing += self.seen.forget_through(end.1);
        let span = std::mem::replace(&mut self.span, std::mem::take(&mut self.beyond));
        self.base = end.0;
        self.end = None;
        if !span.void {
            // More numbers missing than probes: of a probe that was doubled on its way, one reply was lost.
            let reverse = span.missing.min(span.vanished);
            self.withheld.reverse += reverse;
            self.withheld.forward += span.vanished - reverse;
        }
        let known = self.kind == ReflectorKind::Stateful && self.withheld != Attributed::default();
        known.then(|| std::mem::take(&mut self.withheld))
    }

    fn began_anew(&self, theirs: u32) -> bool {
        let behind = self.seen.newest.wrapping_sub(theirs).cast_signed();
        !self.seen.is_near(theirs) || behind >= REORDERED_MAX.cast_signed() || self.seen.contains(theirs)
    }

    /// What was not yet told of the reflector's count before this one never will be.
    fn begin(&mut self, ours: u32, theirs: u32) {
        self.seen.begin(theirs);
        self.newest = (ours, theirs);
        self.base = ours;
        self.end = None;
        self.span = Span::default();
        self.beyond = Span::default();
        // It may have copied our numbers until now.
        self.withheld = Attributed::default();
    }
}

/// Which of the latest numbers arrived.
#[derive(Debug)]
struct Seen {
    bits: Bits,
    newest: u32,
    /// Numbers before this one are accounted for.
    oldest: u32,
}

impl Seen {
    fn new(capacity: usize) -> Self {
        Self { bits: Bits::new(capacity), newest: BEFORE_ALL.1, oldest: 0 }
    }

    fn capacity(&self) -> usize {
        self.bits.len() * 64
    }

    /// Whether a number is not further from the newest than numbers are remembered.
    fn is_near(&self, number: u32) -> bool {
        let distance = number.wrapping_sub(self.newest).cast_signed().unsigned_abs();
        (distance as usize) < self.capacity()
    }

    fn begin(&mut self, number: u32) {
        self.bits.fill(0);
        self.newest = number;
        self.oldest = number.wrapping_add(1);
        self.set(number, true);
    }

    /// Notes a number that is near. Returns how many that never came are forgotten to make room.
    fn insert(&mut self, number: u32) -> u32 {
        let mut missing = 0;
        if is_after(number, self.newest) {
            let keep = u32::try_from(self.capacity() - 1).unwrap_or(u32::MAX);
            let oldest = number.wrapping_sub(keep);
            if is_after(oldest, self.oldest) {
                missing = self.forget_through(oldest.wrapping_sub(1));
            }
            // At most the capacity, as it is near.
            let mut next = self.newest.wrapping_add(1);
            while next != number {
                self.set(next, false);
                next = next.wrapping_add(1);
            }
            self.newest = number;
            self.set(number, true);
        } else if !is_after(self.oldest, number) {
            self.set(number, true);
        }
        missing
    }

    fn contains(&self, number: u32) -> bool {
        let held = !is_after(self.oldest, number) && !is_after(number, self.newest);
        held && self.bits[self.word(number)] & bit(number) != 0
    }

    /// Accounts for all numbers up to `last`. Returns how many of them never came.
    fn forget_through(&mut self, last: u32) -> u32 {
        let mut missing = 0;
        // At most the capacity.
        while !is_after(self.oldest, last) && !is_after(self.oldest, self.newest) {
            missing += u32::from(self.bits[self.word(self.oldest)] & bit(self.oldest) == 0);
            self.oldest = self.oldest.wrapping_add(1);
        }
        missing
    }

    fn set(&mut self, number: u32, seen: bool) {
        let word = self.word(number);
        if seen {
            self.bits[word] |= bit(number);
        } else {
            self.bits[word] &= !bit(number);
        }
    }

    fn word(&self, number: u32) -> usize {
        (number as usize / 64) & (self.bits.len() - 1)
    }
}

/// One bit per number. Those of a session with few probes in flight, as nearly all are, lie in it.
#[derive(Debug)]
enum Bits {
    Few([u64; SEEN_MIN / 64]),
    Many(Box<[u64]>),
}

impl Bits {
    /// At least `capacity` bits, in a power of two of words.
    fn new(capacity: usize) -> Self {
        if capacity <= SEEN_MIN {
            return Self::Few([0; SEEN_MIN / 64]);
        }
        Self::Many(vec![0; capacity.div_ceil(64).next_power_of_two()].into())
    }
}

impl Deref for Bits {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }
}

impl DerefMut for Bits {
    fn deref_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }
}

fn bit(number: u32) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to one probe on its way.
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Answered,
        Forward,
        Reverse,
    }
    use Fate::{Answered, Forward, Reverse};

    const HISTORY: usize = 16;

    /// Runs probes with these fates through a reflector, and as many answered ones after them as close them.
    fn run(kind: ReflectorKind, stateful: bool, fates: &[Fate]) -> Attributed {
        let mut directions = Directions::new(kind, HISTORY);
        let mut sum = Attributed::default();
        let mut count = 0;
        let fate = |sequence: usize| *fates.get(sequence).unwrap_or(&Answered);
        for sequence in 0..fates.len() + 3 * HISTORY {
            if let Some(closed) = sequence.checked_sub(HISTORY) {
                let verdict = match fate(closed) {
                    Answered => Verdict::Replied,
                    Forward | Reverse => Verdict::Vanished,
                };
                let sequence = u32::try_from(closed).unwrap();
                let known = directions.handle_closed(Closed { sequence, verdict }).unwrap_or_default();
                sum.forward += known.forward;
                sum.reverse += known.reverse;
            }
            if fate(sequence) != Forward {
                let ours = u32::try_from(sequence).unwrap();
                let theirs = if stateful { count } else { ours };
                count += 1;
                if fate(sequence) == Answered {
                    directions.handle_reply(ours, theirs);
                }
            }
        }
        sum
    }

    #[test]
    fn each_loss_is_told_by_its_direction() {
        let fates = [Forward, Reverse, Answered, Reverse, Reverse, Forward, Answered, Reverse];
        assert_eq!(run(ReflectorKind::Auto, true, &fates), Attributed { forward: 2, reverse: 4 });
    }

    #[test]
    fn half_lost_each_way_is_told_exactly() {
        let mut state = 7u64;
        let mut fates = vec![Answered];
        for _ in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            fates.push(match (state >> 62, state >> 61 & 1) {
                (0 | 1, _) => Forward,
                (_, 0) => Reverse,
                _ => Answered,
            });
        }
        let count = |fate| u32::try_from(fates.iter().filter(|one| **one == fate).count()).unwrap();
        let expected = Attributed { forward: count(Forward), reverse: count(Reverse) };
        assert!(expected.forward > 1500 && expected.reverse > 700);
        assert_eq!(run(ReflectorKind::Auto, true, &fates), expected);
    }

    #[test]
    fn losses_on_the_way_back_alone_are_told_where_the_reflector_is_known_to_count() {
        let fates = [Answered, Reverse, Answered, Reverse, Answered];
        assert_eq!(run(ReflectorKind::Stateful, true, &fates), Attributed { forward: 0, reverse: 2 });
        assert_eq!(run(ReflectorKind::Auto, true, &fates), Attributed::default(), "not proven");
    }

    #[test]
    fn what_was_lost_before_the_proof_is_told_once_it_is_there() {
        let fates = [Answered, Reverse, Answered, Answered, Forward, Answered];
        assert_eq!(run(ReflectorKind::Auto, true, &fates), Attributed { forward: 1, reverse: 1 });
    }

    #[test]
    fn a_stateless_reflector_tells_nothing() {
        let fates = [Answered, Forward, Reverse, Answered, Forward, Answered];
        assert_eq!(run(ReflectorKind::Auto, false, &fates), Attributed::default());
        assert_eq!(run(ReflectorKind::Stateless, true, &fates), Attributed::default());
    }

    #[test]
    fn a_reflector_that_counts_anew_is_followed() {
        let mut directions = Directions::new(ReflectorKind::Stateful, HISTORY);
        for sequence in 0..10 {
            directions.handle_reply(sequence, sequence);
        }
        let mut sum = Attributed::default();
        // It restarted while 10 and 11 were under way: nobody can tell in which direction they vanished.
        for ours in 12..80u32 {
            let theirs = ours - 12;
            let lost = (40..43).contains(&ours);
            if !lost {
                directions.handle_reply(ours, theirs);
            }
            let verdict = if (10..12).contains(&(ours - 12)) || (40..43).contains(&(ours - 12)) {
                Verdict::Vanished
            } else {
                Verdict::Replied
            };
            if let Some(known) = directions.handle_closed(Closed { sequence: ours - 12, verdict }) {
                sum.reverse += known.reverse;
                sum.forward += known.forward;
            }
        }
        assert_eq!(sum, Attributed { forward: 0, reverse: 3 });
    }

    #[test]
    fn a_reflector_that_only_then_begins_to_count_is_not_held_against_what_it_copied() {
        let mut directions = Directions::new(ReflectorKind::Auto, HISTORY);
        let mut sum = Attributed::default();
        for ours in 0..200u32 {
            // Every fourth is lost on the way there while our numbers are copied; then it counts, and none is.
            let lost = ours < 40 && ours % 4 == 3;
            if !lost {
                directions.handle_reply(ours, if ours < 40 { ours } else { ours - 40 });
            }
            let Some(closed) = ours.checked_sub(16) else { continue };
            let verdict = match closed < 40 && closed % 4 == 3 {
                true => Verdict::Vanished,
                false => Verdict::Replied,
            };
            let known = directions.handle_closed(Closed { sequence: closed, verdict }).unwrap_or_default();
            sum.forward += known.forward;
            sum.reverse += known.reverse;
        }
        assert_eq!(sum, Attributed::default());
    }

    #[test]
    fn after_a_move_the_other_reflector_is_found_out_anew() {
        let mut directions = Directions::new(ReflectorKind::Auto, HISTORY);
        directions.handle_reply(0, 0);
        directions.handle_reply(2, 1);
        directions.restart(2);
        let mut known = Attributed::default();
        // The other one copies our numbers, and every third probe is lost.
        for ours in 3..200u32 {
            if ours % 3 != 0 {
                directions.handle_reply(ours, ours);
            }
            let Some(sequence) = ours.checked_sub(16) else { continue };
            let verdict = if sequence % 3 == 0 { Verdict::Vanished } else { Verdict::Replied };
            let told = directions.handle_closed(Closed { sequence, verdict }).unwrap_or_default();
            known.forward += told.forward;
            known.reverse += told.reverse;
        }
        assert_eq!(known, Attributed::default());
    }

    proptest::proptest! {
        /// Whatever numbers a reflector makes up, for whichever of our probes: bounded work, no overflow.
        #[test]
        fn made_up_numbers_cost_no_more_than_true_ones(
            replies in proptest::collection::vec((0u32..64, proptest::num::u32::ANY), 1..40),
        ) {
            let mut directions = Directions::new(ReflectorKind::Stateful, HISTORY);
            for (i, (ours, theirs)) in replies.iter().enumerate() {
                directions.handle_reply(*ours, *theirs);
                let sequence = u32::try_from(i).unwrap();
                directions.handle_closed(Closed { sequence, verdict: Verdict::Vanished });
            }
            proptest::prop_assert!(directions.seen.capacity() <= 2 * SEEN_MIN);
        }
    }

    #[test]
    fn replies_that_overtake_each_other_are_no_loss() {
        let mut directions = Directions::new(ReflectorKind::Stateful, HISTORY);
        let mut sum = Attributed::default();
        for pair in (0..100u32).step_by(2) {
            for sequence in [pair + 1, pair] {
                directions.handle_reply(sequence, sequence);
            }
            for sequence in [pair, pair + 1] {
                if let Some(closed) = sequence.checked_sub(16) {
                    let known =
                        directions.handle_closed(Closed { sequence: closed, verdict: Verdict::Replied });
                    sum.forward += known.unwrap_or_default().forward;
                    sum.reverse += known.unwrap_or_default().reverse;
                }
            }
        }
        assert_eq!(sum, Attributed::default());
    }
}
