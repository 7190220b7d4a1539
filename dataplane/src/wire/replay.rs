//! Which packets of an authenticated session were there already: a window over the sender's sequence
//! numbers in the manner of RFC 6479, which also knows a sender that began anew.
//!
//! An HMAC proves who made a packet, not when it was sent. Whoever recorded it may send it again, to make a
//! stateful reflector count what the sender did not send. This is about one session, which is of one
//! source; from a forged one it is another session, and for the [`reflector`](crate::reflector) to refuse.
//!
//! - A number ahead of all seen is new, and moves the window, whatever its T1 says: the sender's clock may
//!   step. (Ahead is as in RFC 1982, so numbers may wrap.)
//! - One of the [`WINDOW`] latest is new once.
//! - What was seen, or lies behind the window, is a repetition, unless its T1 is later than every T1 seen:
//!   then the sender began anew, for only it can make such a packet. The window starts over there, and
//!   what has a T1 before that is from its earlier life and never again accepted.
//!
//! So no packet is accepted twice by one window, whatever the order. The price: what a sender's very first packets after
//! it began anew overtake on their way is refused, and a sender that begins anew in the same
//! session (same address, port and SSID) after its clock was set back is refused until its T1 is later
//! again, or until the reflector has forgotten the session. A sender that takes a new port, as ours
//! does, is a new session and pays nothing.

use super::timestamp::{Format, Timestamp};

/// How many numbers behind the highest are still told apart.
pub const WINDOW: u32 = 128;

/// A packet that was there already, or is too old to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a repetition, or older than the latest {WINDOW}")]
pub struct Replayed;

/// What one session has sent.
///
/// ```
/// use relayscope_dataplane::wire::replay::{Replayed, ReplayWindow, SentAt};
///
/// let mut window = ReplayWindow::starting_with(0, SentAt(1_000));
/// assert_eq!(window.accept(2, SentAt(3_000)), Ok(()));
/// assert_eq!(window.accept(1, SentAt(2_000)), Ok(()), "late, but the first time");
/// assert_eq!(window.accept(1, SentAt(2_000)), Err(Replayed));
/// assert_eq!(window.accept(0, SentAt(9_000)), Ok(()), "the sender began anew");
/// assert_eq!(window.accept(3, SentAt(4_000)), Err(Replayed), "from before that");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReplayWindow {
    /// The highest number accepted.
    top: u32,
    /// Bit n: the number n below `top` was accepted.
    seen: u128,
    /// The latest T1 accepted.
    latest: SentAt,
    /// T1 of the packet with which the sender began anew, if it did.
    floor: Option<SentAt>,
}

const _: () = assert!(size_of::<ReplayWindow>() == 48, "a reflector holds thousands");

/// A packet's T1, on one scale whatever its format: Unix seconds modulo 2^32, then 2^-32 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentAt(pub u64);

impl SentAt {
    /// T1 as the packet has it.
    pub fn new(timestamp: Timestamp, format: Format) -> Self {
        Self(timestamp.unix_fixed_point(format))
    }

    /// Later by less than half an era of 136 years.
    pub(crate) fn is_after(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }
}

impl ReplayWindow {
    /// A session begins with this packet, whatever its number.
    pub fn starting_with(sequence: u32, sent_at: SentAt) -> Self {
        Self { top: sequence, seen: 1, latest: sent_at, floor: None }
    }

    /// Whether [`accept`](Self::accept) would accept it. Changes nothing.
    ///
    /// # Errors
    /// [`Replayed`].
    pub fn check(&self, sequence: u32, sent_at: SentAt) -> Result<(), Replayed> {
        if self.floor.is_some_and(|floor| floor.is_after(sent_at)) {
            return Err(Replayed);
        }
        let is_new = match self.behind(sequence) {
            None => true,
            Some(behind) => behind < WINDOW && self.seen & (1 << behind) == 0,
        };
        if is_new || sent_at.is_after(self.latest) { Ok(()) } else { Err(Replayed) }
    }

    /// Takes in a verified packet. O(1).
    ///
    /// # Errors
    /// [`Replayed`]; nothing has changed then.
    pub fn accept(&mut self, sequence: u32, sent_at: SentAt) -> Result<(), Replayed> {
        self.check(sequence, sent_at)?;
        match self.behind(sequence) {
            None => {
                let ahead = sequence.wrapping_sub(self.top);
                self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
                self.top = sequence;
            }
            Some(behind) if behind < WINDOW && self.seen & (1 << behind) == 0 => self.seen |= 1 << behind,
            Some(_) => {
                *self = Self { floor: Some(sent_at), ..Self::starting_with(sequence, sent_at) };
            }
        }
        if sent_at.is_after(self.latest) {
            self.latest = sent_at;
        }
        Ok(())
    }

    /// How far behind the highest number; `None` ahead of it.
    fn behind(&self, sequence: u32) -> Option<u32> {
        let behind = self.top.wrapping_sub(sequence);
        (behind.cast_signed() >= 0).then_some(behind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPLAYED: Result<(), Replayed> = Err(Replayed);

    #[test]
    fn a_number_behind_the_window_is_too_old_to_tell() {
        let mut window = ReplayWindow::starting_with(0, SentAt(0));
        assert_eq!(window.accept(200, SentAt(200)), Ok(()));
        assert_eq!(window.accept(72, SentAt(72)), REPLAYED, "128 behind");
        assert_eq!(window.accept(73, SentAt(73)), Ok(()), "127 behind");
        assert_eq!(window.accept(73, SentAt(73)), REPLAYED);
    }

    #[test]
    fn numbers_go_on_over_the_end_of_their_32_bits() {
        let mut window = ReplayWindow::starting_with(u32::MAX, SentAt(1));
        assert_eq!(window.accept(1, SentAt(3)), Ok(()));
        assert_eq!(window.accept(0, SentAt(2)), Ok(()));
        assert_eq!(window.accept(u32::MAX, SentAt(1)), REPLAYED);
    }

    #[test]
    fn a_clock_set_back_by_an_hour_costs_a_running_sender_nothing() {
        const HOUR: u64 = 3600 << 32;
        let mut window = ReplayWindow::starting_with(0, SentAt(10 * HOUR));
        for sequence in 1..1000 {
            assert_eq!(window.accept(sequence, SentAt(9 * HOUR + u64::from(sequence))), Ok(()));
        }
    }

    #[test]
    fn a_restarted_sender_is_welcome_and_its_earlier_life_is_not() {
        let mut window = ReplayWindow::starting_with(0, SentAt(0));
        for sequence in 1..5000 {
            window.accept(sequence, SentAt(u64::from(sequence))).unwrap();
        }
        assert_eq!(window.accept(0, SentAt(6000)), Ok(()));
        assert_eq!(window.accept(1, SentAt(6001)), Ok(()));
        assert_eq!(window.accept(2500, SentAt(2500)), REPLAYED, "ahead, but of the earlier life");
        assert_eq!(window.accept(0, SentAt(6000)), REPLAYED);
        assert_eq!(window.accept(2, SentAt(6002)), Ok(()));
    }

    #[test]
    fn both_formats_stand_on_one_scale() {
        // 2001-09-09T01:46:40.5Z.
        let ntp = SentAt::new(Timestamp(0xbf45_4880_8000_0000), Format::Ntp);
        let ptp = SentAt::new(Timestamp(1_000_000_000 << 32 | 500_000_000), Format::Ptp);
        assert_eq!((ntp, ptp), (SentAt(1_000_000_000 << 32 | 1 << 31), ntp));
    }

    /// All that was ever accepted, by the module's rules read word for word.
    #[derive(Default)]
    struct Oracle {
        accepted: Vec<(i64, i64)>,
        /// Where in `accepted` the sender's present life begins.
        life: usize,
    }

    impl Oracle {
        fn accept(&mut self, sequence: i64, sent_at: i64) -> bool {
            let life = &self.accepted[self.life..];
            let began = (self.life > 0).then(|| life[0].1);
            if began.is_some_and(|began| sent_at < began) {
                return false;
            }
            let highest = life.iter().map(|(sequence, _)| *sequence).max();
            let was_there = life.iter().any(|(seen, _)| *seen == sequence);
            let is_too_old = highest.is_some_and(|highest| highest - sequence >= 128);
            if was_there || is_too_old {
                if self.accepted.iter().any(|(_, seen)| *seen >= sent_at) {
                    return false;
                }
                self.life = self.accepted.len();
            }
            self.accepted.push((sequence, sent_at));
            true
        }
    }

    proptest! {
        /// Any packets, with any clock, in any order.
        #[test]
        fn it_agrees_with_an_oracle_that_keeps_everything(
            packets in proptest::collection::vec((0u32..300, 0u64..600), 1..400),
            base in any::<u32>(),
            epoch in any::<u64>(),
        ) {
            let mut oracle = Oracle::default();
            let mut window = None;
            let mut accepted = std::collections::HashSet::new();
            for (sequence, sent_at) in packets {
                let expected = oracle.accept(sequence.into(), sent_at.cast_signed());
                let (number, at) = (base.wrapping_add(sequence), SentAt(epoch.wrapping_add(sent_at)));
                let actual = match &mut window {
                    None => {
                        window = Some(ReplayWindow::starting_with(number, at));
                        true
                    }
                    Some(window) => {
                        let could = window.check(number, at).is_ok();
                        let did = window.accept(number, at).is_ok();
                        prop_assert_eq!(could, did);
                        did
                    }
                };
                prop_assert_eq!(actual, expected, "{} at {}", sequence, sent_at);
                if actual {
                    prop_assert!(accepted.insert((sequence, sent_at)), "accepted twice: {}", sequence);
                }
            }
        }

        /// A sender over a path that delays each packet by less than the window, then in further lives over
        /// one that keeps their order, and an attacker who repeats anything at any time: the sender is never
        /// refused, the attacker always.
        #[test]
        fn a_sender_is_never_refused_and_a_repetition_always(
            delays in proptest::collection::vec(0u32..100, 1..300),
            further_lives in proptest::collection::vec(1u32..300, 0..3),
            repeated in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        ) {
            let mut first: Vec<(u32, u32)> =
                (0..).zip(&delays).map(|(sequence, delay)| (sequence + delay, sequence)).collect();
            first.sort_by_key(|(arrival, _)| *arrival);
            let first = first.into_iter().map(|(_, sequence)| (sequence, SentAt(sequence.into())));
            let further = (1u64..).zip(&further_lives).flat_map(|(life, count)| {
                (0..*count).map(move |sequence| (sequence, SentAt(life * 1000 + u64::from(sequence))))
            });
            let delivered: Vec<(u32, SentAt)> = first.chain(further).collect();
            let mut window = ReplayWindow::starting_with(delivered[0].0, delivered[0].1);
            for (count, (sequence, sent_at)) in delivered.iter().enumerate() {
                if count > 0 {
                    prop_assert_eq!(window.accept(*sequence, *sent_at), Ok(()), "number {}", sequence);
                }
                for index in &repeated {
                    let (sequence, sent_at) = delivered[index.index(count + 1)];
                    prop_assert_eq!(window.accept(sequence, sent_at), REPLAYED);
                }
            }
        }
    }
}
