//! Who is there: sessions in slots, found by their number without a hash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::wire::replay::{ReplayWindow, SentAt};

use crate::room::RoomIndex;
use crate::wire::{MemberId, Report, SessionId};

/// Most sessions a number has room for.
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 24;
/// A session that was silent may send as much at once as it may in this time.
pub const BURST: Duration = Duration::from_millis(250);
/// Acks whose echo is believed: a report may cross one on its way.
const STAMPS: usize = 4;
/// Underruns one report may add: far more than a buffer that is refilled has in the time between two.
const UNDERRUNS_PER_REPORT_MAX: u32 = 1_000;
/// Sequence numbers are told apart by [`ReplayWindow`], which also takes a sender's time; it never begins anew here.
const NO_TIME: SentAt = SentAt(0);

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// At an address.
    Udp(SocketAddr),
    /// Behind the web bridge.
    Web(ConnectionId),
}

/// A connection of the web bridge. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// Where a session lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl SessionId {
    /// Where the session lies, if there is one.
    pub fn slot(self) -> Slot {
        // The low 24 bits fit.
        Slot((self.0 & (SLOTS_MAX as u64 - 1)) as u32)
    }
}

/// One member of a room.
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Where its packets come from and go to.
    pub peer: Peer,
    /// The room it is in.
    pub room: RoomIndex,
    /// Who it is there.
    pub member: MemberId,
    /// When it was last heard.
    pub heard_at: Monotonic,
    /// When its rate's bucket will be full again.
    full_at: Monotonic,
    sequences: Option<Sequences>,
    /// The most it ever reported.
    underruns: u32,
    /// Of its newest acks, newest first.
    stamps: [Monotonic; STAMPS],
}

/// What came of a sender's numbered packets.
struct Sequences {
    window: ReplayWindow,
    highest: u32,
    /// As of the last report.
    highest_before: u32,
    received: u32,
}

/// Whether a packet may be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Forward,
    /// It was here before, or is too old to tell.
    Repeated,
    /// The session sends more than it may.
    TooMany,
}

/// How a call is, as of a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Packets in the client's buffer.
    pub buffer_packets: u16,
    /// How often it ran empty since the last report.
    pub underruns: u32,
    /// 0..=1, of the packets since the last report; `None` if none was to come.
    pub loss: Option<f64>,
    /// `None` before the first echo, and where that makes no sense.
    pub rtt: Option<Duration>,
}

impl Session {
    /// Takes in a packet's number. `cost` is what one packet takes of the session's time. O(1).
    #[inline]
    pub fn take(&mut self, now: Monotonic, sequence: u32, cost: Duration) -> Verdict {
        self.heard_at = now;
        let Some(next) = self.full_at_with_one_more(now, cost) else { return Verdict::TooMany };
        let Some(sequences) = &mut self.sequences else {
            self.full_at = next;
            self.sequences = Some(Sequences::starting_with(sequence));
            return Verdict::Forward;
        };
        if sequences.window.accept(sequence, NO_TIME).is_err() {
            return Verdict::Repeated;
        }
        self.full_at = next;
        sequences.note(sequence);
        Verdict::Forward
    }

    /// When its bucket will be full again, if it sends one more now; `None` if that is too many.
    #[inline]
    fn full_at_with_one_more(&self, now: Monotonic, cost: Duration) -> Option<Monotonic> {
        let next = self.full_at.max(now) + cost;
        (next.since(now) <= BURST.max(cost)).then_some(next)
    }

    /// Takes in what the client says of itself, which `stamp` acknowledges, and says how its call is (RFC 3550, A.3
    /// and 6.4.1); `None` if it sends more than it may. What it says is its own affair, but it cannot say
    /// anything: an echo is of a stamp it was given, and what it counts grows, and by steps that can be.
    pub fn report(
        &mut self,
        now: Monotonic,
        report: &Report,
        stamp: Monotonic,
        cost: Duration,
    ) -> Option<Quality> {
        self.heard_at = now;
        self.full_at = self.full_at_with_one_more(now, cost)?;
        let held = Duration::from_micros(report.held_us.into());
        let echoed = Monotonic(report.echo_ns);
        let is_echo = report.echo_ns != 0 && self.stamps.contains(&echoed);
        let rtt = is_echo.then(|| now.since(echoed)).and_then(|since| since.checked_sub(held));
        self.stamps.rotate_right(1);
        self.stamps[0] = stamp;
        let loss = self.sequences.as_mut().and_then(Sequences::take_loss);
        let underruns = self.take_underruns(report.underruns);
        Some(Quality { buffer_packets: report.buffer_packets, underruns, loss, rtt })
    }

    /// How many are new. A report that another one overtook has none.
    fn take_underruns(&mut self, reported: u32) -> u32 {
        let ahead = reported.saturating_sub(self.underruns);
        self.underruns = self.underruns.max(reported);
        ahead.min(UNDERRUNS_PER_REPORT_MAX)
    }
}

impl Sequences {
    fn starting_with(sequence: u32) -> Self {
        let window = ReplayWindow::starting_with(sequence, NO_TIME);
        Self { window, highest: sequence, highest_before: sequence.wrapping_sub(1), received: 1 }
    }

    fn note(&mut self, sequence: u32) {
        self.received += 1;
        // Ahead as in RFC 1982.
        if sequence.wrapping_sub(self.highest).cast_signed() > 0 {
            self.highest = sequence;
        }
    }

    /// Of the packets up to the highest since the last time. What comes late counts for the interval in which it
    /// comes, as RFC 3550 has it.
    fn take_loss(&mut self) -> Option<f64> {
        let expected = self.highest.wrapping_sub(self.highest_before);
        let received = std::mem::take(&mut self.received);
        self.highest_before = self.highest;
        (expected > 0).then(|| f64::from(expected.saturating_sub(received)) / f64::from(expected))
    }
}

/// The sessions of one shard.
pub struct Sessions {
    slots: Vec<Option<Session>>,
    free: Vec<Slot>,
    /// Whose sessions: no two shards give out the same number.
    shard: usize,
    /// Ever opened.
    opened: u64,
    secret: Arc<HmacKey>,
}

impl Sessions {
    /// Room for so many on that shard, all taken at once: at most [`SLOTS_MAX`].
    pub fn new(shard: usize, sessions_max: usize, secret: Arc<HmacKey>) -> Self {
        let most = sessions_max.min(SLOTS_MAX);
        let slots: Vec<_> = std::iter::repeat_with(|| None).take(most).collect();
        // At most 2^24.
        let free = (0..most as u32).rev().map(Slot).collect();
        Self { slots, free, shard, opened: 0, secret }
    }

    /// How many there is room for.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether none can be opened.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Opens one, under a number that nobody can guess; `None` where all are taken. O(1).
    pub fn open(
        &mut self,
        now: Monotonic,
        peer: Peer,
        room: RoomIndex,
        member: MemberId,
    ) -> Option<(Slot, SessionId)> {
        let slot = self.free.pop()?;
        self.opened += 1;
        let (shard, opened) = (self.shard.to_be_bytes(), self.opened.to_be_bytes());
        let tag = self.secret.tag(&[b"session", &shard, &opened, &slot.0.to_be_bytes()]);
        let random = u64::from_be_bytes(tag[..8].try_into().unwrap_or_default());
        let id = SessionId(random >> SLOT_BITS << SLOT_BITS | u64::from(slot.0));
        let (heard_at, full_at) = (now, Monotonic(0));
        let (sequences, underruns, stamps) = (None, 0, [Monotonic(0); STAMPS]);
        let session = Session { id, peer, room, member, heard_at, full_at, sequences, underruns, stamps };
        self.slots[slot.index()] = Some(session);
        Some((slot, id))
    }

    /// The session of this number. O(1).
    #[inline]
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot().index())?.as_mut().filter(|session| session.id == id)
    }

    /// As [`get_mut`](Self::get_mut).
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot().index())?.as_ref().filter(|session| session.id == id)
    }

    /// Ends it. O(1).
    pub fn close(&mut self, id: SessionId) -> Option<Session> {
        let slot = id.slot();
        let is_it = self.slots.get(slot.index())?.as_ref().is_some_and(|session| session.id == id);
        let session = if is_it { self.slots[slot.index()].take() } else { None };
        if session.is_some() {
            self.free.push(slot);
        }
        session
    }

    /// Of the slots from `from` on, round and round, the next `most`: those not heard since `before`, and where to
    /// go on.
    pub fn silent(&self, before: Monotonic, from: usize, most: usize) -> (Vec<SessionId>, usize) {
        let all = self.slots.len();
        let looked = most.min(all);
        let at = |i| (from + i) % all;
        let silent = (0..looked)
            .filter_map(|i| self.slots[at(i)].as_ref())
            .filter(|session| session.heard_at < before)
            .map(|session| session.id)
            .collect();
        (silent, if all == 0 { 0 } else { at(looked) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const COST: Duration = Duration::from_millis(10);

    fn sessions(most: usize) -> Sessions {
        sessions_of(0, most)
    }

    fn sessions_of(shard: usize, most: usize) -> Sessions {
        Sessions::new(shard, most, Arc::new(HmacKey::new(&[1; 32]).unwrap()))
    }

    fn open(sessions: &mut Sessions) -> Option<SessionId> {
        let peer = Peer::Udp("192.0.2.1:1".parse().unwrap());
        sessions.open(Monotonic(0), peer, RoomIndex(0), MemberId(0)).map(|(_, id)| id)
    }

    #[test]
    fn a_number_is_of_one_session_though_its_slot_is_used_again() {
        let mut sessions = sessions(1);
        let first = open(&mut sessions).unwrap();
        assert_eq!((open(&mut sessions), sessions.is_full()), (None, true));
        assert!(sessions.close(first).is_some() && sessions.close(first).is_none());
        let second = open(&mut sessions).unwrap();
        assert_eq!(first.slot(), second.slot());
        assert!(first != second && sessions.get(first).is_none() && sessions.get(second).is_some());
        assert!(sessions.get(SessionId(second.0 + 1)).is_none());
    }

    #[test]
    fn shards_of_one_relay_give_out_different_numbers() {
        let numbers = [0, 1].map(|shard| open(&mut sessions_of(shard, 1)).unwrap());
        assert_ne!(numbers[0], numbers[1]);
    }

    #[test]
    fn a_session_has_its_rate_after_a_quarter_of_a_second_at_once() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let mut sequence = 0;
        let mut forwarded = |at: u64, packets| {
            let mut forward = || {
                sequence += 1;
                session.take(Monotonic(at), sequence, COST) == Verdict::Forward
            };
            (0..packets).filter(|_| forward()).count()
        };
        assert_eq!(forwarded(0, 100), 25);
        assert_eq!(forwarded(10 * MS, 100), 1);
        assert_eq!(forwarded(260 * MS, 100), 25);
    }

    #[test]
    fn a_packet_is_forwarded_once_and_not_refused_for_its_order() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let mut take = |sequence| session.take(Monotonic(MS), sequence, Duration::ZERO);
        assert_eq!([take(u32::MAX), take(1), take(0)], [Verdict::Forward; 3]);
        assert_eq!([take(u32::MAX), take(1), take(0)], [Verdict::Repeated; 3]);
        assert_eq!([take(500), take(300)], [Verdict::Forward, Verdict::Repeated]);
    }

    #[test]
    fn loss_is_of_the_numbers_since_the_last_report() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let said = Report { session: id, buffer_packets: 4, underruns: 2, held_us: 0, echo_ns: 0 };
        let report = |session: &mut Session, at, said: &Report| {
            session.report(Monotonic(at), said, Monotonic(0), Duration::ZERO).unwrap()
        };
        assert_eq!(report(session, 0, &said).loss, None);
        for sequence in [7, 8, 10] {
            session.take(Monotonic(MS), sequence, Duration::ZERO);
        }
        let quality = report(session, 2 * MS, &Report { underruns: 5, ..said });
        assert_eq!((quality.loss, quality.underruns, quality.buffer_packets), (Some(0.25), 3, 4));
        assert_eq!(report(session, 3 * MS, &said).loss, None);
        session.take(Monotonic(4 * MS), 11, Duration::ZERO);
        assert_eq!(report(session, 5 * MS, &said).loss, Some(0.0));
    }

    #[test]
    fn rtt_is_less_the_clients_own_time_and_of_a_stamp_it_was_given() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let mut rtt = |held_us, echo_ns| {
            let said = Report { session: id, buffer_packets: 0, underruns: 0, held_us, echo_ns };
            session.report(Monotonic(100 * MS), &said, Monotonic(70 * MS), Duration::ZERO).unwrap().rtt
        };
        assert_eq!([rtt(0, 0), rtt(10_000, 70 * MS)], [None, Some(Duration::from_millis(20))]);
        assert_eq!([rtt(31_000, 70 * MS), rtt(0, 1), rtt(0, 0), rtt(0, 101 * MS)], [None; 4]);
    }

    #[test]
    fn underruns_only_grow_and_by_steps_that_can_be() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let mut underruns = |underruns| {
            let said = Report { session: id, buffer_packets: 0, underruns, held_us: 0, echo_ns: 0 };
            session.report(Monotonic(0), &said, Monotonic(0), Duration::ZERO).unwrap().underruns
        };
        assert_eq!([underruns(5), underruns(3), underruns(5), underruns(7)], [5, 0, 0, 2]);
        assert_eq!([underruns(u32::MAX), underruns(8)], [1_000, 0]);
    }

    #[test]
    fn reports_are_of_the_sessions_rate_too() {
        let mut sessions = sessions(1);
        let id = open(&mut sessions).unwrap();
        let session = sessions.get_mut(id).unwrap();
        let said = Report { session: id, buffer_packets: 0, underruns: 0, held_us: 0, echo_ns: 0 };
        let mut report = || session.report(Monotonic(0), &said, Monotonic(0), COST).is_some();
        assert_eq!((0..100).filter(|_| report()).count(), 25);
    }

    #[test]
    fn the_silent_are_found_some_slots_at_a_time() {
        let mut sessions = sessions(3);
        let ids: Vec<_> = std::iter::repeat_with(|| open(&mut sessions)).take(3).flatten().collect();
        sessions.get_mut(ids[1]).unwrap().heard_at = Monotonic(50);
        assert_eq!(sessions.silent(Monotonic(40), 0, 2), (vec![ids[0]], 2));
        assert_eq!(sessions.silent(Monotonic(40), 2, 2), (vec![ids[2], ids[0]], 1));
    }
}
