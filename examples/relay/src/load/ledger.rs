//! Who sent what, and who must hear it: what is right about a copy, and what is wrong. Sans-IO.

use std::collections::HashMap;

use relayscope_dataplane::clock::Monotonic;

use super::payload::{Head, Payloads};
use crate::wire::{MemberId, SessionId};

/// Copies of one sender may come in any order within so many numbers.
const WINDOW: u32 = 1024;
const WORDS: usize = WINDOW as usize / 64;

/// What is wrong with a packet that came from the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// No packet a relay sends.
    Malformed,
    /// For no session of this socket.
    WrongSession,
    /// Sent in another room.
    WrongRoom,
    /// Said to be of one member, and sent by another, or by the receiver itself.
    WrongSender,
    /// Nobody sent one of this number.
    NeverSent,
    /// Not as it was sent.
    Corrupt,
    /// It was here before, or is too old to tell.
    Duplicate,
}

impl Fault {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::WrongSession,
        Self::WrongRoom,
        Self::WrongSender,
        Self::NeverSent,
        Self::Corrupt,
        Self::Duplicate,
    ];

    /// As it is reported.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongSession => "wrong_session",
            Self::WrongRoom => "wrong_room",
            Self::WrongSender => "wrong_sender",
            Self::NeverSent => "never_sent",
            Self::Corrupt => "corrupt",
            Self::Duplicate => "duplicate",
        }
    }
}

/// A copy as it came.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Who sent it, as the relay says.
    pub sender: MemberId,
    /// For whom it is.
    pub session: SessionId,
    /// The sender's number.
    pub sequence: u32,
    /// What was sent.
    pub payload: &'a [u8],
}

/// A copy that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which session it is for.
    pub receiver: u32,
    /// Which session sent it.
    pub sender: u32,
    /// When that was.
    pub sent_at: Monotonic,
}

/// All sessions of a load, by number.
pub struct Ledger {
    payloads: Payloads,
    seats: Vec<Seat>,
    by_id: HashMap<SessionId, u32>,
    /// By room and member: which session that is.
    rooms: Vec<Vec<Option<u32>>>,
}

/// Where a session is, and what it sent and heard.
struct Seat {
    port: u32,
    room: u32,
    /// What it sends next.
    sequence: u32,
    /// What it heard, by the sender's member.
    heard: Vec<Heard>,
}

/// The newest numbers that came of one sender.
#[derive(Clone, Copy)]
struct Heard {
    /// One more than the highest; 0 before the first.
    end: u32,
    bits: [u64; WORDS],
}

impl Ledger {
    /// Nobody is in any of so many rooms.
    pub fn new(payloads: Payloads, rooms: u32) -> Self {
        let rooms = vec![Vec::new(); rooms as usize];
        Self { payloads, seats: Vec::new(), by_id: HashMap::new(), rooms }
    }

    /// The next session, at that socket, will be in that room.
    pub fn seat(&mut self, port: u32, room: u32) {
        self.seats.push(Seat { port, room, sequence: 0, heard: Vec::new() });
    }

    /// A session is in its room. Returns `false` where the number or the seat is another one's already.
    pub fn join(&mut self, session: u32, member: MemberId, id: SessionId) -> bool {
        let Some(seat) = self.seats.get(session as usize) else { return false };
        let (room, at) = (&mut self.rooms[seat.room as usize], usize::from(member.0));
        if room.len() <= at {
            room.resize(at + 1, None);
        }
        if room[at].is_some() || self.by_id.contains_key(&id) {
            return false;
        }
        room[at] = Some(session);
        self.by_id.insert(id, session);
        true
    }

    /// The number of the session's next packet, whose payload is appended. O(length).
    pub fn send(&mut self, session: u32, octets: &mut Vec<u8>) -> u32 {
        let sequence = self.next_sequence(session);
        self.payloads.write(session, sequence, octets);
        sequence
    }

    fn next_sequence(&mut self, session: u32) -> u32 {
        let seat = &mut self.seats[session as usize];
        let sequence = seat.sequence;
        seat.sequence += 1;
        sequence
    }

    /// Whose session that is. O(1).
    pub fn session(&self, id: SessionId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// Checks a copy that came through a socket. O(length).
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn receive(&mut self, port: u32, copy: &Copy<'_>) -> Result<Delivery, Fault> {
        let receiver = self.session(copy.session).ok_or(Fault::WrongSession)?;
        let Seat { port: own_port, room, .. } = self.seats[receiver as usize];
        if own_port != port {
            return Err(Fault::WrongSession);
        }
        let Head { sent_at, sender } = Head::read(copy.payload).ok_or(Fault::Corrupt)?;
        let sent = self.seats.get(sender as usize).ok_or(Fault::Corrupt)?;
        if sent.room != room {
            return Err(Fault::WrongRoom);
        }
        let member = usize::from(copy.sender.0);
        let said = self.rooms[room as usize].get(member).copied().flatten();
        if sender == receiver || said != Some(sender) {
            return Err(Fault::WrongSender);
        }
        if copy.sequence >= sent.sequence {
            return Err(Fault::NeverSent);
        }
        if !self.payloads.is_of(sender, copy.sequence, copy.payload) {
            return Err(Fault::Corrupt);
        }
        let heard = &mut self.seats[receiver as usize].heard;
        if heard.len() <= member {
            heard.resize(member + 1, Heard::NOTHING);
        }
        if !heard[member].note(copy.sequence) {
            return Err(Fault::Duplicate);
        }
        Ok(Delivery { receiver, sender, sent_at })
    }
}

impl Heard {
    const NOTHING: Self = Self { end: 0, bits: [0; WORDS] };

    /// Whether it is new. O(1) amortised.
    fn note(&mut self, sequence: u32) -> bool {
        if sequence >= self.end {
            // At most once around: what lies further back is forgotten as a whole.
            for passed in self.end.max((sequence + 1).saturating_sub(WINDOW))..=sequence {
                let (word, bit) = place(passed);
                self.bits[word] &= !bit;
            }
            self.end = sequence + 1;
        } else if self.end - sequence > WINDOW {
            return false;
        }
        let (word, bit) = place(sequence);
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }
}

fn place(sequence: u32) -> (usize, u64) {
    let at = sequence % WINDOW;
    (at as usize / 64, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::payload::stamp;
    use crate::load::plan::Sizes;

    /// Sessions 0 and 1 in room 0, at sockets 0 and 1; 2 and 3 in room 1, both at socket 2.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(Payloads::new(5, Sizes::Among(vec![40])), 2);
        for (port, room) in [(0, 0), (1, 0), (2, 1), (2, 1)] {
            ledger.seat(port, room);
        }
        for (session, member) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            assert!(ledger.join(session, MemberId(member), SessionId(100 + u64::from(session))));
        }
        ledger
    }

    fn send(ledger: &mut Ledger, session: u32) -> Vec<u8> {
        let mut payload = Vec::new();
        ledger.send(session, &mut payload);
        stamp(&mut payload, Monotonic(77));
        payload
    }

    fn to_1(payload: &[u8]) -> Copy<'_> {
        Copy { sender: MemberId(0), session: SessionId(101), sequence: 0, payload }
    }

    #[test]
    fn a_copy_is_right_once() {
        let mut ledger = ledger();
        let payload = send(&mut ledger, 0);
        let delivery = Delivery { receiver: 1, sender: 0, sent_at: Monotonic(77) };
        assert_eq!(ledger.receive(1, &to_1(&payload)), Ok(delivery));
        assert_eq!(ledger.receive(1, &to_1(&payload)), Err(Fault::Duplicate));
    }

    #[test]
    fn what_is_wrong_with_a_copy_is_told() {
        let mut ledger = ledger();
        let (mine, others) = (send(&mut ledger, 0), send(&mut ledger, 2));
        let mut corrupt = mine.clone();
        corrupt[39] ^= 0x80;
        let mut told = |port, copy: Copy<'_>| ledger.receive(port, &copy).unwrap_err();
        let copy = to_1(&mine);
        assert_eq!(told(0, copy), Fault::WrongSession);
        assert_eq!(told(1, Copy { session: SessionId(9), ..copy }), Fault::WrongSession);
        assert_eq!(told(1, Copy { payload: &others, ..copy }), Fault::WrongRoom);
        assert_eq!(told(1, Copy { sender: MemberId(1), ..copy }), Fault::WrongSender);
        assert_eq!(told(0, Copy { session: SessionId(100), ..copy }), Fault::WrongSender);
        assert_eq!(told(1, Copy { sequence: 1, ..copy }), Fault::NeverSent);
        assert_eq!(told(1, Copy { payload: &corrupt, ..copy }), Fault::Corrupt);
        assert_eq!(told(1, Copy { payload: &mine[..11], ..copy }), Fault::Corrupt);
        assert!(ledger.receive(1, &copy).is_ok());
    }

    #[test]
    fn a_number_and_a_seat_are_of_one_session() {
        let mut ledger = ledger();
        ledger.seat(3, 1);
        assert!(!ledger.join(4, MemberId(1), SessionId(104)));
        assert!(!ledger.join(4, MemberId(2), SessionId(103)));
        assert!(ledger.join(4, MemberId(2), SessionId(104)));
    }

    #[test]
    fn numbers_are_told_apart_in_any_order_within_a_thousand() {
        let mut heard = Heard::NOTHING;
        let order = [5, 0, 1023, 1024, 3, 5000, 3977, 4999];
        assert!(order.into_iter().all(|sequence| heard.note(sequence)));
        assert!(![5000, 3977, 4999, 3976, 1].into_iter().any(|sequence| heard.note(sequence)));
        assert!(heard.note(3978) && heard.note(6023) && !heard.note(5000));
    }
}
