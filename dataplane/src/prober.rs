//! All sessions of one shard: who is due, whose reply this is, what has timed out. Sans-IO.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::{Arrival, Monotonic, Now};
use crate::probe::stamp::{Outgoing, ProbeEvent, Refusal, SendError, Session, SessionConfig};
use crate::schedule::{Schedule, SlotQueue};
use crate::stall::Stalls;
use crate::wire::stamp;

/// Most sessions of one shard: SSIDs tell them apart and are 16 bits wide, 0 taken out.
pub const SESSIONS_MAX: usize = 65_535;

/// One target's place in a [`Prober`]. Reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(u32);

impl SessionKey {
    /// For dense tables beside the prober.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Whom to probe, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// The reflector.
    pub address: SocketAddr,
    /// Time from probe to probe.
    pub interval: Duration,
    /// Tmax.
    pub timeout: Duration,
    /// Spreads phases: a hash of the target's name.
    pub phase_hash: u64,
}

/// A datagram to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose it is.
    pub key: SessionKey,
    /// Where to.
    pub destination: SocketAddr,
    /// How late its slot is served.
    pub lag: Duration,
    /// Whole intervals of this target that went unserved before.
    pub missed: u64,
    /// The probe.
    pub probe: Outgoing,
}

/// No room for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard already has {SESSIONS_MAX} targets; add cores or probe fewer")]
pub struct SessionsFull;

/// The sessions of one shard.
///
/// Replies wake nobody: the kernel stamps their arrival, so the RTT is the same whenever they are read,
/// and one without a stamp is discarded. The first wake after a send is one slot later; every wake for
/// another reason looks for replies, too.
///
/// Verbs, in the order a driver calls them on each wake: [`handle_wake`](Self::handle_wake), then
/// [`handle_datagram`](Self::handle_datagram) for all that is readable, then
/// [`handle_timeout`](Self::handle_timeout), then [`poll_transmit`](Self::poll_transmit) until `None`,
/// then sleep until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Prober {
    slot: Duration,
    schedule: Schedule,
    sessions: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_address: HashMap<SocketAddr, Vec<u32>>,
    deadlines: SlotQueue<Deadline>,
    /// Probes in flight by key: tells without a look at the session that a deadline is void.
    in_flight: Vec<u32>,
    stalls: Stalls,
    next_generation: u32,
    /// When to look for the replies to what was sent since the last look.
    read_due: Option<Monotonic>,
}

#[derive(Debug)]
struct Slot {
    address: SocketAddr,
    session: Session,
    /// Tells a deadline of this session from one of a session that had the key before.
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    key: u32,
    generation: u32,
    sequence: u32,
}

impl Prober {
    /// A prober without targets, whose probes and deadlines share wakes in slots of this length.
    pub fn new(slot: Duration) -> Self {
        Self {
            slot,
            schedule: Schedule::new(slot),
            sessions: Vec::new(),
            free: Vec::new(),
            by_address: HashMap::new(),
            deadlines: SlotQueue::new(),
            in_flight: Vec::new(),
            stalls: Stalls::default(),
            next_generation: 0,
            read_due: None,
        }
    }

    /// Adds a target; its first probe is due within one interval.
    ///
    /// # Errors
    /// [`SessionsFull`].
    pub fn add(&mut self, now: Monotonic, target: TargetConfig) -> Result<SessionKey, SessionsFull> {
        let key = self.free_key()?;
        // Unique among live sessions, never 0: keys are below SESSIONS_MAX.
        let ssid = u16::try_from(key + 1).map_err(|_| SessionsFull)?;
        let TargetConfig { address, interval, timeout, phase_hash } = target;
        let slot = &mut self.sessions[key as usize];
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let session = Session::new(SessionConfig { interval, timeout, ssid });
        *slot = Some(Slot { address, session, generation });
        self.by_address.entry(address).or_default().push(key);
        self.schedule.add(now, key, interval, phase_hash);
        Ok(SessionKey(key))
    }

    fn free_key(&mut self) -> Result<u32, SessionsFull> {
        if let Some(key) = self.free.pop() {
            return Ok(key);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(SessionsFull);
        }
        self.sessions.push(None);
        self.in_flight.push(0);
        u32::try_from(self.sessions.len() - 1).map_err(|_| SessionsFull)
    }

    /// Forgets a target; its probes in flight are nobody's any more.
    pub fn remove(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get_mut(key.index()).and_then(Option::take) else { return };
        self.schedule.remove(key.0);
        self.in_flight[key.index()] = 0;
        self.free.push(key.0);
        if let Some(keys) = self.by_address.get_mut(&slot.address) {
            keys.retain(|held| *held != key.0);
            if keys.is_empty() {
                self.by_address.remove(&slot.address);
            }
        }
    }

    /// The session of a target.
    pub fn session(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(key.index())?.as_ref().map(|slot| &slot.session)
    }

    /// Replies may have been dropped or left unread between these moments: like a stall, that makes what
    /// is unanswered say nothing.
    pub fn handle_blind(&mut self, from: Monotonic, to: Monotonic) {
        self.stalls.note(from, to);
    }

    /// Notes when we woke against when we had asked to. Returns how late that was, if it was a stall.
    pub fn handle_wake(&mut self, planned: Monotonic, now: Monotonic) -> Option<Duration> {
        self.stalls.handle_wake(planned, now)
    }

    /// Takes in one datagram read from a probing socket.
    ///
    /// # Errors
    /// [`Refusal`] when it is no reply to a probe of ours; nothing has changed then.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        arrival: Arrival,
        datagram: &[u8],
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) -> Result<SessionKey, Refusal> {
        // A reflector that knows RFC 8972 names the session itself, which spares the look by address.
        if let Some(key) = self.session_named_in(datagram, source) {
            return self.handle_reply(key, arrival, datagram, event);
        }
        // Targets that share one address are told apart by the T1 only one of them sent.
        let mut refusal = Refusal::UnknownSource;
        let mut i = 0;
        while let Some(&key) = self.by_address.get(&source).and_then(|keys| keys.get(i)) {
            match self.handle_reply(key, arrival, datagram, event) {
                Ok(key) => return Ok(key),
                Err(reason) => refusal = reason,
            }
            i += 1;
        }
        Err(refusal)
    }

    /// The session whose SSID the datagram carries, if that probes its source.
    fn session_named_in(&self, datagram: &[u8], source: SocketAddr) -> Option<u32> {
        let key = u32::from(stamp::peek_ssid(datagram)?).checked_sub(1)?;
        let slot = self.sessions.get(key as usize)?.as_ref()?;
        (slot.address == source).then_some(key)
    }

    fn handle_reply(
        &mut self,
        key: u32,
        arrival: Arrival,
        datagram: &[u8],
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) -> Result<SessionKey, Refusal> {
        let Some(slot) = self.sessions[key as usize].as_mut() else { return Err(Refusal::UnknownSource) };
        let mut event = tell(SessionKey(key), &mut self.in_flight[key as usize], event);
        slot.session.handle_reply(arrival, datagram, &mut event)?;
        Ok(SessionKey(key))
    }

    /// Settles what has passed its deadline. Call it after everything readable has been read.
    pub fn handle_timeout(&mut self, now: Monotonic, event: &mut impl FnMut(SessionKey, ProbeEvent)) {
        self.read_due = None;
        while let Some((_, deadline)) = self.deadlines.pop_due(now) {
            let in_flight = &mut self.in_flight[deadline.key as usize];
            if *in_flight == 0 {
                continue;
            }
            let Some(slot) = slot_of(&mut self.sessions, &deadline) else { continue };
            let mut event = tell(SessionKey(deadline.key), in_flight, event);
            slot.session.handle_deadline(deadline.sequence, &self.stalls, &mut event);
        }
    }

    /// The next probe that is due by `due_by`, stamped with `now`. Ask anew with a fresh `now` for each, but
    /// with the same `due_by` in one turn: were sending all slower than their interval, it would not end.
    pub fn poll_transmit(
        &mut self,
        due_by: Monotonic,
        now: Now,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) -> Option<Transmit> {
        let due = self.schedule.pop_due(due_by)?;
        let key = SessionKey(due.key);
        let slot = self.sessions.get_mut(key.index())?.as_mut()?;
        let in_flight = &mut self.in_flight[key.index()];
        let probe = slot.session.transmit(now, &mut tell(key, in_flight, event));
        *in_flight += 1;
        self.read_due.get_or_insert(now.monotonic + self.slot);
        let deadline = Deadline { key: due.key, generation: slot.generation, sequence: probe.sequence };
        self.deadlines.push(probe.deadline, self.slot.min(slot.session.timeout()), deadline);
        Some(Transmit { key, destination: slot.address, lag: due.lag, missed: due.missed, probe })
    }

    /// How the send of a probe went, and how long after its stamp the call returned.
    pub fn handle_sent(
        &mut self,
        transmit: &Transmit,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) {
        let Some(Some(slot)) = self.sessions.get_mut(transmit.key.index()) else { return };
        let mut event = tell(transmit.key, &mut self.in_flight[transmit.key.index()], event);
        slot.session.handle_sent(transmit.probe.sequence, took, result, &mut event);
    }

    /// When to wake next: to send, to look for replies, or for a deadline, rounded up to a slot. `None`
    /// without targets.
    pub fn poll_timeout(&mut self) -> Option<Monotonic> {
        let (sessions, in_flight) = (&mut self.sessions, &self.in_flight);
        let mut is_void = |deadline: &Deadline| {
            in_flight[deadline.key as usize] == 0
                || slot_of(sessions, deadline)
                    .is_none_or(|slot| !slot.session.is_in_flight(deadline.sequence))
        };
        while self.deadlines.pop_if(|_, deadline| is_void(deadline)).is_some() {}
        [self.deadlines.next_due(), self.read_due, self.schedule.next_due()].into_iter().flatten().min()
    }
}

/// Hands a session's events on, and keeps the count of its probes in flight.
fn tell<'a, F: FnMut(SessionKey, ProbeEvent)>(
    key: SessionKey,
    in_flight: &'a mut u32,
    event: &'a mut F,
) -> impl FnMut(ProbeEvent) + use<'a, F> {
    move |happened| {
        if happened.settles() {
            *in_flight = in_flight.saturating_sub(1);
        }
        event(key, happened);
    }
}

fn slot_of<'a>(sessions: &'a mut [Option<Slot>], deadline: &Deadline) -> Option<&'a mut Slot> {
    let slot = sessions.get_mut(deadline.key as usize)?.as_mut()?;
    (slot.generation == deadline.generation).then_some(slot)
}
