//! The latest probes of one session, in sixteen octets each: thousands of sessions pass through the cache.

use crate::clock::Monotonic;
use crate::window::Settled;

/// A probe as the account knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) sequence: u32,
    pub(super) token: u64,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unused,
    InFlight {
        sent_at: Monotonic,
        /// We were interrupted while we sent it.
        disturbed: bool,
    },
    Settled(Settled),
    /// Lost or discarded, and a reply came all the same.
    Replied(Settled),
}

/// A [`State`] in one word: what it is in the low bits, and above them when the probe was sent while it is in
/// flight, its RTT once it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const BITS: u32 = 3;
    const KIND: u64 = (1 << Self::BITS) - 1;
    /// Nanoseconds that fit above the kind: 73 years since boot.
    const NS_MAX: u64 = u64::MAX >> Self::BITS;

    const UNUSED: u64 = 0;
    const IN_FLIGHT: u64 = 1;
    const DISTURBED: u64 = 2;
    const ANSWERED: u64 = 3;
    const LOST: u64 = 4;
    const DISCARDED: u64 = 5;
    const LOST_REPLIED: u64 = 6;
    const DISCARDED_REPLIED: u64 = 7;

    fn new(state: State) -> Self {
        let (kind, ns) = match state {
            State::Unused => (Self::UNUSED, 0),
            State::InFlight { sent_at, disturbed: false } => (Self::IN_FLIGHT, sent_at.0),
            State::InFlight { sent_at, disturbed: true } => (Self::DISTURBED, sent_at.0),
            State::Settled(Settled::Answered(rtt_ns)) => (Self::ANSWERED, rtt_ns),
            State::Settled(Settled::Lost) => (Self::LOST, 0),
            State::Settled(Settled::Discarded) => (Self::DISCARDED, 0),
            State::Replied(Settled::Lost) => (Self::LOST_REPLIED, 0),
            State::Replied(_) => (Self::DISCARDED_REPLIED, 0),
        };
        Self(ns.min(Self::NS_MAX) << Self::BITS | kind)
    }

    fn unpack(self) -> State {
        let ns = self.0 >> Self::BITS;
        match self.0 & Self::KIND {
            Self::UNUSED => State::Unused,
            Self::IN_FLIGHT => State::InFlight { sent_at: Monotonic(ns), disturbed: false },
            Self::DISTURBED => State::InFlight { sent_at: Monotonic(ns), disturbed: true },
            Self::ANSWERED => State::Settled(Settled::Answered(ns)),
            Self::LOST => State::Settled(Settled::Lost),
            Self::DISCARDED => State::Settled(Settled::Discarded),
            Self::LOST_REPLIED => State::Replied(Settled::Lost),
            _ => State::Replied(Settled::Discarded),
        }
    }

    fn is_in_flight(self) -> bool {
        matches!(self.0 & Self::KIND, Self::IN_FLIGHT | Self::DISTURBED)
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    token: u64,
    state: Packed,
}

const _: () = assert!(size_of::<Slot>() == 16, "what a session takes is mostly its history and its window");

/// The latest probes, numbered in sequence. A probe's number is not kept: its place and the next number tell it.
#[derive(Debug)]
pub(super) struct History {
    /// By sequence number modulo the length, a power of two.
    slots: Box<[Slot]>,
    next: u32,
}

impl History {
    /// Room for so many probes, rounded up to a power of two.
    pub(super) fn new(length: usize) -> Self {
        let unused = Slot { token: 0, state: Packed::new(State::Unused) };
        Self { slots: vec![unused; length.next_power_of_two()].into(), next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number the next probe gets.
    pub(super) fn next_sequence(&self) -> u32 {
        self.next
    }

    /// The probe whose place the next one takes.
    pub(super) fn outgoing(&self) -> Probe {
        self.at(self.oldest())
    }

    /// The next probe, sent at `now`.
    pub(super) fn open(&mut self, now: Monotonic, token: u64) -> u32 {
        let sequence = self.next;
        let state = Packed::new(State::InFlight { sent_at: now, disturbed: false });
        self.slots[self.place(sequence)] = Slot { token, state };
        self.next = sequence.wrapping_add(1);
        sequence
    }

    /// The probe of that number, if it was sent and is remembered.
    pub(super) fn find(&self, sequence: u32) -> Option<Probe> {
        let probe = self.is_remembered(sequence).then(|| self.at(sequence))?;
        (probe.state != State::Unused).then_some(probe)
    }

    pub(super) fn is_in_flight(&self, sequence: u32) -> bool {
        self.is_remembered(sequence) && self.slots[self.place(sequence)].state.is_in_flight()
    }

    /// Changes what is known of a probe that is remembered.
    pub(super) fn set(&mut self, sequence: u32, state: State) {
        if self.is_remembered(sequence) {
            self.slots[self.place(sequence)].state = Packed::new(state);
        }
    }

    /// Numbers of the probes remembered, oldest first; of some there may have been none yet.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u32> + use<> {
        let oldest = self.oldest();
        (0..self.length()).map(move |after| oldest.wrapping_add(after))
    }

    fn is_remembered(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.oldest()) < self.length()
    }

    fn oldest(&self) -> u32 {
        self.next.wrapping_sub(self.length())
    }

    /// Far below 2^32.
    fn length(&self) -> u32 {
        self.slots.len() as u32
    }

    fn at(&self, sequence: u32) -> Probe {
        let Slot { token, state } = self.slots[self.place(sequence)];
        Probe { sequence, token, state: state.unpack() }
    }

    fn place(&self, sequence: u32) -> usize {
        sequence as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_probe_is_what_was_known() {
        let sent_at = Monotonic(86_400_000_000_007);
        for state in [
            State::Unused,
            State::InFlight { sent_at, disturbed: false },
            State::InFlight { sent_at, disturbed: true },
            State::Settled(Settled::Answered(1_000_001)),
            State::Settled(Settled::Lost),
            State::Settled(Settled::Discarded),
            State::Replied(Settled::Lost),
            State::Replied(Settled::Discarded),
        ] {
            assert_eq!(Packed::new(state).unpack(), state);
            assert_eq!(Packed::new(state).is_in_flight(), matches!(state, State::InFlight { .. }));
        }
    }

    #[test]
    fn a_number_not_sent_yet_or_forgotten_is_not_taken_for_the_one_in_its_place() {
        let mut history = History::new(16);
        assert_eq!(history.find(0), None);
        assert_eq!(history.find(u32::MAX), None);
        for sequence in 0..20 {
            assert_eq!(history.open(Monotonic(u64::from(sequence)), 7), sequence);
        }
        let in_flight = |ns| State::InFlight { sent_at: Monotonic(ns), disturbed: false };
        assert_eq!(history.find(4), Some(Probe { sequence: 4, token: 7, state: in_flight(4) }));
        assert_eq!(history.find(19).map(|probe| probe.state), Some(in_flight(19)));
        assert_eq!((history.find(3), history.find(20)), (None, None));
        history.set(3, State::Settled(Settled::Lost));
        assert!(history.is_in_flight(19), "3 had its place");
        assert_eq!(history.outgoing().sequence, 4);
        assert_eq!(history.sequences().collect::<Vec<_>>(), (4..20).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_go_on_past_their_largest() {
        let mut history = History { next: u32::MAX - 1, ..History::new(16) };
        for sequence in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert_eq!(history.open(Monotonic(5), 7), sequence);
        }
        for sequence in [u32::MAX, 0, 1] {
            assert!(history.is_in_flight(sequence), "{sequence}");
        }
        assert_eq!(history.find(2), None);
    }
}
