//! All sessions of one shard: who is due, whose reply this is, what has timed out. Sans-IO.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::{Arrival, Monotonic, Now, nanos};
use crate::probe::stamp::{Outgoing, ProbeEvent, Refusal, SendError, Session, SessionConfig};
use crate::schedule::Schedule;
use crate::stall::Stalls;

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
/// Replies wake nobody: the kernel stamps their arrival, so the RTT is the same whenever they are read. The
/// first wake after a send is one slot later, and until a reply or its deadline comes, those that follow
/// for other reasons look, too.
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
    deadlines: BinaryHeap<Reverse<Deadline>>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: Monotonic,
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
            deadlines: BinaryHeap::new(),
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
        u32::try_from(self.sessions.len() - 1).map_err(|_| SessionsFull)
    }

    /// Forgets a target; its probes in flight are nobody's any more.
    pub fn remove(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get_mut(key.index()).and_then(Option::take) else { return };
        self.schedule.remove(key.0);
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
        let keys = self.by_address.get(&source).ok_or(Refusal::UnknownSource)?;
        let mut refusal = Refusal::UnknownSource;
        // Targets that share one address are told apart by SSID, or by the T1 only one of them sent.
        for &key in keys {
            let Some(slot) = self.sessions[key as usize].as_mut() else { continue };
            let key = SessionKey(key);
            match slot.session.handle_reply(arrival, &self.stalls, datagram, &mut |e| event(key, e)) {
                Ok(()) => return Ok(key),
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    /// Settles what has passed its deadline. Call it after everything readable has been read.
    pub fn handle_timeout(&mut self, now: Monotonic, event: &mut impl FnMut(SessionKey, ProbeEvent)) {
        self.read_due = None;
        while let Some(Reverse(deadline)) = self.deadlines.peek().copied() {
            if deadline.at > now {
                break;
            }
            self.deadlines.pop();
            let Some(slot) = slot_of(&mut self.sessions, &deadline) else { continue };
            let key = SessionKey(deadline.key);
            slot.session.handle_deadline(deadline.sequence, &self.stalls, &mut |e| event(key, e));
        }
    }

    /// The next probe that is due, stamped with `now`. Ask anew with a fresh `now` for each.
    pub fn poll_transmit(
        &mut self,
        now: Now,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) -> Option<Transmit> {
        let due = self.schedule.pop_due(now.monotonic)?;
        let key = SessionKey(due.key);
        let slot = self.sessions.get_mut(key.index())?.as_mut()?;
        let probe = slot.session.transmit(now, &mut |e| event(key, e));
        self.read_due.get_or_insert(now.monotonic + self.slot);
        self.deadlines.push(Reverse(Deadline {
            at: probe.deadline,
            key: due.key,
            generation: slot.generation,
            sequence: probe.sequence,
        }));
        Some(Transmit { key, destination: slot.address, lag: due.lag, missed: due.missed, probe })
    }

    /// How the send of a probe went, and how long the call took.
    pub fn handle_sent(
        &mut self,
        transmit: &Transmit,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) {
        let Some(Some(slot)) = self.sessions.get_mut(transmit.key.index()) else { return };
        slot.session.handle_sent(transmit.probe.sequence, took, result, &mut |e| event(transmit.key, e));
    }

    /// When to wake next: to send, to look for replies, or for a deadline, rounded up to a slot. `None`
    /// without targets.
    pub fn poll_timeout(&mut self) -> Option<Monotonic> {
        while let Some(Reverse(deadline)) = self.deadlines.peek().copied() {
            let waits = slot_of(&mut self.sessions, &deadline)
                .is_some_and(|slot| slot.session.is_in_flight(deadline.sequence));
            if waits {
                break;
            }
            self.deadlines.pop();
        }
        let slot_ns = nanos(self.slot).max(1);
        let deadline = self
            .deadlines
            .peek()
            .map(|deadline| Monotonic(deadline.0.at.0.div_ceil(slot_ns).saturating_mul(slot_ns)));
        [deadline, self.read_due, self.schedule.next_due()].into_iter().flatten().min()
    }
}

fn slot_of<'a>(sessions: &'a mut [Option<Slot>], deadline: &Deadline) -> Option<&'a mut Slot> {
    let slot = sessions.get_mut(deadline.key as usize)?.as_mut()?;
    (slot.generation == deadline.generation).then_some(slot)
}
