//! All sessions of one shard: who is due, whose reply this is, what has timed out. Sans-IO.

use std::net::SocketAddr;
use std::time::Duration;

use crate::addresses::Addresses;
use crate::clock::{Arrival, Monotonic, Now, nanos};
use crate::endpoint::{EndpointConfig, Path};
use crate::probe::{Payload, ProbeEvent, Refusal, SendError, Session};
use crate::schedule::{EntryKey, Schedule, SlotQueue};
use crate::stall::Stalls;
use crate::wire::{stamp, stamp_auth};

/// Probes that share a slot at most, as long as the slots can be made shorter: so many replies at once fit
/// the receive buffer of a stock host twice over.
const PROBES_PER_SLOT_MAX: u64 = 128;
/// Shorter slots spare nobody anything.
const SLOT_MIN: Duration = Duration::from_millis(1);
/// Most sessions of one shard: SSIDs tell them apart and are 16 bits wide, 0 taken out.
pub const SESSIONS_MAX: usize = 65_535;

/// One endpoint's place in a [`Prober`]. Reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(u32);

impl SessionKey {
    /// For dense tables beside the prober.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// As a protocol of its own knows it.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The other way round.
    pub(crate) fn of(number: u32) -> Self {
        Self(number)
    }
}

/// One probe, for as long as its session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    /// Whose it is.
    pub key: SessionKey,
    /// Tells a probe of this session from one of a session that had the key before.
    generation: u32,
    /// Its number in the session.
    pub sequence: u32,
}

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which one.
    pub probe: ProbeId,
    /// Where to.
    pub destination: SocketAddr,
    /// From where and with what priority.
    pub path: Path,
    /// How late its slot is served.
    pub lag: Duration,
    /// Whole intervals of this target that went unserved before.
    pub missed: u64,
    /// When it counts as lost if not answered.
    pub deadline: Monotonic,
    /// What to send.
    pub payload: Payload,
}

/// No room for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard already has {SESSIONS_MAX} sessions; add cores or probe fewer")]
pub struct SessionsFull;

/// The sessions of one shard.
///
/// Replies wake nobody: the kernel stamps their arrival, so the RTT is the same whenever they are read,
/// and one without a stamp is discarded. The first wake after a send is one slot later; every wake for
/// another reason looks for replies, too.
///
/// Verbs, in the order a driver calls them on each wake: [`handle_wake`](Self::handle_wake), then
/// [`handle_datagram`](Self::handle_datagram), [`handle_bounce`](Self::handle_bounce) and
/// [`handle_connect`](Self::handle_connect) for all that is readable, then
/// [`handle_timeout`](Self::handle_timeout), then [`poll_transmit`](Self::poll_transmit) until `None`,
/// then sleep until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Prober {
    /// As configured.
    slot_max: Duration,
    /// As short as the number of probes makes it.
    slot: Duration,
    /// Probes in a million seconds.
    rate: u64,
    schedule: Schedule,
    sessions: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_address: Addresses,
    deadlines: SlotQueue<ProbeId>,
    /// Probes in flight by key: tells without a look at the session that a deadline is void.
    in_flight: Vec<u32>,
    stalls: Stalls,
    /// Where this process answers, and the stalls of what is probed there: those above, and more.
    own_addresses: Vec<SocketAddr>,
    own_stalls: Stalls,
    next_generation: u32,
    /// When to look for the replies to what was sent since the last look.
    read_due: Option<Monotonic>,
}

#[derive(Debug)]
struct Slot {
    address: SocketAddr,
    path: Path,
    session: Session,
    /// Probes in a million seconds.
    rate: u64,
    /// Tells this session from one that had the key before.
    generation: u32,
}

impl Prober {
    /// A prober without targets, whose probes and deadlines share wakes in slots of this length; of a shorter
    /// one once more than 128 probes would share one.
    pub fn new(slot: Duration) -> Self {
        Self {
            slot_max: slot,
            slot,
            rate: 0,
            schedule: Schedule::new(slot),
            sessions: Vec::new(),
            free: Vec::new(),
            by_address: Addresses::default(),
            deadlines: SlotQueue::new(),
            in_flight: Vec::new(),
            stalls: Stalls::default(),
            own_addresses: Vec::new(),
            own_stalls: Stalls::default(),
            next_generation: 0,
            read_due: None,
        }
    }

    /// Adds an endpoint; its first probe is due within one interval.
    ///
    /// # Errors
    /// [`SessionsFull`].
    pub fn add(&mut self, now: Monotonic, config: &EndpointConfig) -> Result<SessionKey, SessionsFull> {
        let key = self.free_key()?;
        // Unique among live sessions, never 0: keys are below SESSIONS_MAX.
        let ssid = u16::try_from(key + 1).map_err(|_| SessionsFull)?;
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let (address, path) = (config.address, config.path);
        let session = Session::new(config, ssid);
        let rate = 1_000_000_000_000_000 / nanos(config.interval).max(1);
        self.sessions[key as usize] = Some(Slot { address, path, session, rate, generation });
        self.set_rate(self.rate + rate);
        self.by_address.join(key, address);
        self.schedule.add(now, EntryKey { key, generation }, config.interval, config.phase_hash);
        Ok(SessionKey(key))
    }

    fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
        let wanted = Duration::from_nanos(PROBES_PER_SLOT_MAX * 1_000_000_000_000_000 / rate.max(1));
        // Halved, so that every slot there was before ends with one there is now: of thousands that are added one
        // by one, each with another length, the first probes would else leave in a wake of their own.
        self.slot = self.slot_max;
        while self.slot > wanted && self.slot / 2 >= SLOT_MIN {
            self.slot /= 2;
        }
        self.schedule.set_slot(self.slot);
    }

    fn free_key(&mut self) -> Result<u32, SessionsFull> {
        if let Some(key) = self.free.pop() {
            return Ok(key);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(SessionsFull);
        }
        make_room(&mut self.sessions);
        self.sessions.push(None);
        self.in_flight.push(0);
        u32::try_from(self.sessions.len() - 1).map_err(|_| SessionsFull)
    }

    /// Forgets an endpoint; its probes in flight are nobody's any more. O(1).
    pub fn remove(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get_mut(key.index()).and_then(Option::take) else { return };
        self.in_flight[key.index()] = 0;
        self.free.push(key.0);
        self.set_rate(self.rate - slot.rate);
        self.by_address.leave(key.0, slot.address);
    }

    /// The endpoint has another address from now on. Its account goes on; what is in flight says nothing.
    pub fn move_to(
        &mut self,
        key: SessionKey,
        address: SocketAddr,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) {
        let Some(Some(slot)) = self.sessions.get_mut(key.index()) else { return };
        let before = std::mem::replace(&mut slot.address, address);
        slot.session.handle_moved(&mut tell(key, &mut self.in_flight[key.index()], event));
        self.by_address.leave(key.0, before);
        self.by_address.join(key.0, address);
    }

    /// How long its slots are now.
    pub fn slot(&self) -> Duration {
        self.slot
    }

    /// The session of an endpoint.
    pub fn session(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(key.index())?.as_ref().map(|slot| &slot.session)
    }

    /// Replies may have been dropped or left unread between these moments: like a stall, that makes what
    /// is unanswered say nothing.
    pub fn handle_blind(&mut self, from: Monotonic, to: Monotonic) {
        self.stalls.note(from, to);
        self.own_stalls.note(from, to);
    }

    /// Where this process answers probes itself. An address that stands for any of a family's is taken for those
    /// of loopback: of which others are this host's nobody tells.
    pub fn set_own_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.own_addresses = addresses;
    }

    /// Requests at an own address may have been dropped between these moments for want of room, or left unread:
    /// as [`handle_blind`](Self::handle_blind), for probes of this host's own to there. That is no path's loss.
    pub fn handle_own_blind(&mut self, from: Monotonic, to: Monotonic) {
        self.own_stalls.note(from, to);
    }

    /// Notes when we woke against when we had asked to. Returns how late that was, if it was a stall.
    pub fn handle_wake(&mut self, planned: Monotonic, now: Monotonic) -> Option<Duration> {
        self.own_stalls.handle_wake(planned, now);
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
        let named = stamp::peek_ssid(datagram)
            .and_then(|ssid| self.session_named(ssid, source))
            .or_else(|| stamp_auth::peek_ssid(datagram).and_then(|ssid| self.session_named(ssid, source)));
        if let Some(key) = named {
            let answer = self.handle_reply(key, arrival, datagram, event);
            // What STAMP calls the SSID is anything in another protocol.
            if !matches!(answer, Err(Refusal::Malformed)) {
                return answer;
            }
        }
        self.try_each(source, |prober, key| prober.handle_reply(key, arrival, datagram, event))
    }

    /// Takes in an error that came back for a probe sent to `destination`, with what it quotes of that.
    ///
    /// # Errors
    /// [`Refusal`] when it is about no probe in flight; nothing has changed then.
    pub fn handle_bounce(
        &mut self,
        destination: SocketAddr,
        reason: SendError,
        quoted: &[u8],
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) -> Result<SessionKey, Refusal> {
        self.try_each(destination, |prober, key| {
            let slot = prober.sessions[key as usize].as_mut().ok_or(Refusal::UnknownSource)?;
            let mut event = tell(SessionKey(key), &mut prober.in_flight[key as usize], event);
            slot.session.handle_bounce(reason, quoted, &mut event)?;
            Ok(SessionKey(key))
        })
    }

    /// Sessions that share one address are told apart by the token only one of them sent.
    fn try_each(
        &mut self,
        address: SocketAddr,
        mut handle: impl FnMut(&mut Self, u32) -> Result<SessionKey, Refusal>,
    ) -> Result<SessionKey, Refusal> {
        let mut refusal = Refusal::UnknownSource;
        let Some(first) = self.by_address.first(address) else { return Err(refusal) };
        let mut next = Some(first);
        while let Some(key) = next {
            match handle(self, key) {
                Ok(key) => return Ok(key),
                Err(reason) => refusal = reason,
            }
            next = self.by_address.next(first, key);
        }
        Err(refusal)
    }

    /// How an attempt at a connection ended; see [`Session::handle_connect`]. Of a session that is gone it
    /// says nothing any more.
    pub fn handle_connect(
        &mut self,
        probe: ProbeId,
        result: Result<Duration, SendError>,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) {
        let Some(slot) = slot_of(&mut self.sessions, &probe) else { return };
        let mut event = tell(probe.key, &mut self.in_flight[probe.key.index()], event);
        // Not in flight any more: its deadline was first, and said all there is to say.
        slot.session.handle_connect(probe.sequence, result, &mut event).ok();
    }

    /// The session itself, with what hears of its events. `None` when it is gone.
    pub(crate) fn with_session<T>(
        &mut self,
        key: SessionKey,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
        tell_it: impl FnOnce(&mut Session, &mut dyn FnMut(ProbeEvent)) -> T,
    ) -> Option<T> {
        let slot = self.sessions.get_mut(key.index())?.as_mut()?;
        let mut event = tell(key, &mut self.in_flight[key.index()], event);
        Some(tell_it(&mut slot.session, &mut event))
    }

    /// The endpoints at an address.
    pub(crate) fn keys_at(&self, address: SocketAddr) -> impl Iterator<Item = SessionKey> {
        let first = self.by_address.first(address);
        std::iter::successors(first, move |key| self.by_address.next(first?, *key)).map(SessionKey)
    }

    /// How what is sent to the endpoint leaves; as the route says where the endpoint is gone.
    pub(crate) fn path(&self, key: SessionKey) -> Path {
        let slot = self.sessions.get(key.index()).and_then(Option::as_ref);
        slot.map_or(Path::default(), |slot| slot.path)
    }

    /// The session of that SSID, if it probes that address.
    fn session_named(&self, ssid: u16, source: SocketAddr) -> Option<u32> {
        let key = u32::from(ssid).checked_sub(1)?;
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
        // What waited for us to answer it until it was too late is no loss, whether we read the answer before its
        // deadline is served or after. Earlier answers have been read: they came in before at the same socket.
        if arrival.exact && self.own_addresses.iter().any(|own| is_at(slot.address, *own)) {
            slot.session.handle_overdue(arrival.at, &self.own_stalls, &mut event);
        }
        slot.session.handle_datagram(arrival, datagram, &mut event)?;
        Ok(SessionKey(key))
    }

    /// Settles what has passed its deadline. Call it after everything readable has been read.
    pub fn handle_timeout(&mut self, now: Monotonic, event: &mut impl FnMut(SessionKey, ProbeEvent)) {
        self.read_due = None;
        while let Some((_, probe)) = self.deadlines.pop_due(now) {
            let in_flight = &mut self.in_flight[probe.key.index()];
            if *in_flight == 0 {
                continue;
            }
            let Some(slot) = slot_of(&mut self.sessions, &probe) else { continue };
            let mut event = tell(probe.key, in_flight, event);
            let is_own = self.own_addresses.iter().any(|own| is_at(slot.address, *own));
            let stalls = if is_own { &self.own_stalls } else { &self.stalls };
            slot.session.handle_deadline(probe.sequence, stalls, &mut event);
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
        let sessions = &self.sessions;
        let due = self.schedule.pop_due(due_by, |entry| {
            let slot = sessions.get(entry.key as usize).and_then(Option::as_ref);
            slot.is_some_and(|slot| slot.generation == entry.generation)
        })?;
        let key = SessionKey(due.key.key);
        let slot = self.sessions.get_mut(key.index())?.as_mut()?;
        let in_flight = &mut self.in_flight[key.index()];
        let outgoing = slot.session.transmit(now, &mut tell(key, in_flight, event));
        *in_flight += 1;
        self.read_due.get_or_insert(now.monotonic + self.slot);
        let probe = ProbeId { key, generation: slot.generation, sequence: outgoing.sequence };
        self.deadlines.push(outgoing.deadline, self.slot.min(slot.session.timeout()), probe);
        Some(Transmit {
            probe,
            destination: slot.address,
            path: slot.path,
            lag: due.lag,
            missed: due.missed,
            deadline: outgoing.deadline,
            payload: outgoing.payload,
        })
    }

    /// How the send of a probe went, and how long after its stamp the call returned.
    pub fn handle_sent(
        &mut self,
        probe: ProbeId,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(SessionKey, ProbeEvent),
    ) {
        let Some(slot) = slot_of(&mut self.sessions, &probe) else { return };
        let mut event = tell(probe.key, &mut self.in_flight[probe.key.index()], event);
        slot.session.handle_sent(probe.sequence, took, result, &mut event);
    }

    /// When to wake next: to send, to look for replies, or for a deadline, rounded up to a slot. `None`
    /// without targets.
    pub fn poll_timeout(&mut self) -> Option<Monotonic> {
        let (sessions, in_flight) = (&mut self.sessions, &self.in_flight);
        let mut is_void = |probe: &ProbeId| {
            in_flight[probe.key.index()] == 0
                || slot_of(sessions, probe).is_none_or(|slot| !slot.session.is_in_flight(probe.sequence))
        };
        while self.deadlines.pop_if(|_, probe| is_void(probe)).is_some() {}
        [self.deadlines.next_due(), self.read_due, self.schedule.next_due()].into_iter().flatten().min()
    }
}

/// For one more, by an eighth at a time: a table of thousands is not kept half empty.
pub(crate) fn make_room<T>(table: &mut Vec<T>) {
    if table.len() == table.capacity() {
        table.reserve_exact(table.len() / 8 + 16);
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

/// Whether what is sent to an address comes in at a socket bound to `bound`.
fn is_at(address: SocketAddr, bound: SocketAddr) -> bool {
    let any = bound.ip().is_unspecified()
        && bound.is_ipv4() == address.is_ipv4()
        && (address.ip().is_loopback() || address.ip().is_unspecified());
    address.port() == bound.port() && (any || address.ip() == bound.ip())
}

fn slot_of<'a>(sessions: &'a mut [Option<Slot>], probe: &ProbeId) -> Option<&'a mut Slot> {
    let slot = sessions.get_mut(probe.key.index())?.as_mut()?;
    (slot.generation == probe.generation).then_some(slot)
}
