//! All QUIC connections of one shard: which datagram is whose, who is connected, who tries again when.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig};

use super::client::Client;
use super::connection::{Happened, Link, Phase};
use super::tap::Tap;
use super::transport::{Anchor, Deadlines};
use super::{Event, Failure, FailureKind, Mode, PathStats, Refused, Transmit, Unprobed};
use crate::clock::{Arrival, Monotonic, Now};
use crate::wire::ping::Ping;

/// How long after a failure the first new attempt is made, give or take a fifth.
pub const RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest wait between attempts, give or take a fifth.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// A connection that lasted this long is as good as new: after it the wait is [`RETRY_FIRST`] again.
pub const STEADY: Duration = Duration::from_secs(60);
/// Events kept until polled. Each verb adds a few for a connection, so a driver that polls never sees it.
const EVENTS_MAX: usize = 65_536;
/// Doublings beyond this change nothing.
const DOUBLINGS_MAX: u32 = 8;

/// The QUIC targets of one shard, on one UDP socket for each family.
///
/// Memory for each target is bounded: one connection, for a few round trips two, each of at most
/// [`CONNECTION_BUFFERS_MAX`](super::CONNECTION_BUFFERS_MAX) octets of peers' data.
///
/// Verbs, in the order a driver calls them on each wake: [`handle_datagram`](Self::handle_datagram) for all
/// that is readable, [`handle_timeout`](Self::handle_timeout), [`probe`](Self::probe) for each slot that is
/// due, [`poll_transmit`](Self::poll_transmit) until `None`, [`poll_event`](Self::poll_event) until `None`,
/// then sleep until [`poll_timeout`](Self::poll_timeout).
///
/// A target connects at its first slot, not when it is added, so that thousands do not at once.
pub struct QuicProber {
    anchor: Anchor,
    /// quinn-proto's time must not run backwards, which kernel stamps may after a transmit.
    latest: Instant,
    endpoint: Endpoint,
    links: Vec<Option<Box<Link>>>,
    targets: HashMap<u32, Target>,
    /// Targets to connect.
    wanted: VecDeque<u32>,
    /// Links that may have something to send.
    line: VecDeque<usize>,
    deadlines: Deadlines<Timer>,
    events: VecDeque<(u32, Event)>,
    /// Keys the tokens: none need be kept.
    tokens: RandomState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Link(usize),
    Retry(u32),
}

struct Target {
    remote: SocketAddr,
    client: Arc<Client>,
    state: State,
    retry: Option<Monotonic>,
    back_off: BackOff,
    connected_at: Option<Monotonic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Connects at its next slot.
    Idle,
    /// In `wanted`.
    Wanted,
    /// Its timer is set.
    Waiting,
    Linked(usize),
}

impl QuicProber {
    /// A prober without targets. `anchor` and `anchor_monotonic` are one moment, the prober's first; both
    /// are of `CLOCK_MONOTONIC`.
    pub fn new(anchor: Instant, anchor_monotonic: Monotonic) -> Self {
        Self {
            anchor: Anchor { instant: anchor, monotonic: anchor_monotonic },
            latest: anchor,
            // No path MTU is found on a socket that fragments, but its packets get through.
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None),
            links: Vec::new(),
            targets: HashMap::new(),
            wanted: VecDeque::new(),
            line: VecDeque::new(),
            deadlines: Deadlines::new(),
            events: VecDeque::new(),
            tokens: RandomState::new(),
        }
    }

    /// Adds a target under a key of the caller's, in the place of any other under that key. `seed` spreads
    /// its attempts to connect.
    pub fn add(&mut self, key: u32, remote: SocketAddr, client: Arc<Client>, seed: u64) {
        self.remove(key);
        let back_off = BackOff { seed, failures: 0 };
        let target = Target { remote, client, state: State::Idle, retry: None, back_off, connected_at: None };
        self.targets.insert(key, target);
    }

    /// Forgets a target and takes leave of its server.
    pub fn remove(&mut self, key: u32) {
        let Some(mut target) = self.targets.remove(&key) else { return };
        self.disconnect(key, &mut target);
    }

    /// The target is at another address now. It connects there at its next slot.
    pub fn move_to(&mut self, key: u32, remote: SocketAddr) {
        let Some(mut target) = self.targets.remove(&key) else { return };
        if target.remote != remote {
            self.disconnect(key, &mut target);
            target.remote = remote;
            target.back_off.failures = 0;
        }
        self.targets.insert(key, target);
    }

    fn disconnect(&mut self, key: u32, target: &mut Target) {
        self.deadlines.set(Timer::Retry(key), &mut target.retry, None);
        if let State::Linked(index) = target.state
            && let Some(link) = self.links.get_mut(index).and_then(Option::as_mut)
        {
            link.close(self.latest);
            if let Some(sequence) = link.waiting.take() {
                self.events.push_back((key, Event::Unsent { sequence }));
            }
            self.line_up(index);
        }
        target.state = State::Idle;
        target.connected_at = None;
    }

    /// A slot of the target is due: queues probe `sequence`, which [`poll_transmit`](Self::poll_transmit)
    /// hands out next.
    ///
    /// # Errors
    /// [`Unprobed`]; no probe of this number will be sent then.
    pub fn probe(&mut self, now: Monotonic, key: u32, sequence: u32) -> Result<(), Unprobed> {
        self.now(now);
        let target = self.targets.get_mut(&key).ok_or(Unprobed::NotConnected)?;
        match target.state {
            State::Linked(index) => {
                let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else {
                    return Err(Unprobed::NotConnected);
                };
                link.probe(Ping { sequence, token: self.tokens.hash_one((index, sequence)) })?;
                self.line_up(index);
                Ok(())
            }
            State::Idle => {
                target.state = State::Wanted;
                self.wanted.push_back(key);
                Err(Unprobed::NotConnected)
            }
            State::Wanted | State::Waiting => Err(Unprobed::NotConnected),
        }
    }

    /// Takes in one datagram read from a probing socket. `arrival` is T4.
    ///
    /// # Errors
    /// [`Refused`] when it, or a Pong in it, was of no use.
    pub fn handle_datagram(
        &mut self,
        arrival: Arrival,
        source: SocketAddr,
        octets: &[u8],
    ) -> Result<(), Refused> {
        if self.events.len() >= EVENTS_MAX {
            return Err(Refused::Full);
        }
        let now = self.now(arrival.at);
        let mut answer = Vec::new();
        let event = self.endpoint.handle(now, source, None, None, octets.into(), &mut answer);
        // What quinn-proto would answer to strangers is not sent: a prober serves nobody.
        let Some(DatagramEvent::ConnectionEvent(handle, event)) = event else {
            return Err(Refused::UnknownConnection);
        };
        let link = self.links.get_mut(handle.0).and_then(Option::as_mut).ok_or(Refused::UnknownConnection)?;
        link.handle_event(event);
        self.settle(handle.0, arrival)
    }

    /// The kernel says that nobody listens there, by ICMP: ends an attempt to connect. A connection there is
    /// stays, for anybody may have sent that.
    pub fn handle_port_closed(&mut self, now: Monotonic, key: u32) {
        self.now(now);
        let Some(State::Linked(index)) = self.targets.get(&key).map(|target| target.state) else { return };
        let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
        if link.phase == Phase::Connecting {
            link.close(self.latest);
            self.line_up(index);
            self.lose(now, key, Failure::new(FailureKind::Refused, "port is closed"));
        }
    }

    /// Does what is due by `now`: retransmissions, timeouts, new attempts.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let instant = self.now(now);
        // Each can fall due once more in a turn; the bound is against a clock that stands still.
        for _ in 0..2 * self.deadlines.len() {
            let Some(timer) = self.deadlines.first_due(now).filter(|_| self.events.len() < EVENTS_MAX) else {
                return;
            };
            match timer {
                Timer::Link(index) => {
                    let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
                    self.deadlines.set(timer, &mut link.timer, None);
                    link.connection.handle_timeout(instant);
                    // A timer answers no probe, so there is nothing to refuse.
                    self.settle(index, Arrival { at: now, exact: false }).unwrap_or_default();
                }
                Timer::Retry(key) => {
                    let Some(target) = self.targets.get_mut(&key) else { return };
                    self.deadlines.set(timer, &mut target.retry, None);
                    target.state = State::Wanted;
                    self.wanted.push_back(key);
                }
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; a moment past while
    /// [`poll_transmit`](Self::poll_transmit) has.
    pub fn poll_timeout(&mut self) -> Option<Monotonic> {
        if self.line.is_empty() && self.wanted.is_empty() {
            return self.deadlines.next();
        }
        Some(self.anchor.monotonic(self.latest))
    }

    /// The next datagram to send, written to the start of `buffer`. Ask anew with a fresh `now` for each.
    pub fn poll_transmit(&mut self, now: Now, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let instant = self.now(now.monotonic);
        loop {
            if self.line.is_empty() {
                self.connect(now, instant)?;
            }
            let Some(&index) = self.line.front() else { continue };
            buffer.clear();
            if let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) {
                if let Some((transmit, probe)) = link.poll_transmit(instant, now.monotonic, buffer) {
                    let (key, destination) = (link.owner, transmit.destination);
                    return Some(Transmit { key, destination, len: transmit.size, probe });
                }
                link.in_line = false;
            }
            self.line.pop_front();
            self.release(index);
        }
    }

    /// What happened since, oldest first.
    pub fn poll_event(&mut self) -> Option<(u32, Event)> {
        self.events.pop_front()
    }

    /// What the transport knows of the path; `None` while there is no connection.
    pub fn path(&self, key: u32) -> Option<PathStats> {
        let link = self.link_of(key)?;
        matches!(link.phase, Phase::Up(_)).then(|| link.path())
    }

    /// How the target is probed; `None` while there is no connection.
    pub fn mode(&self, key: u32) -> Option<Mode> {
        match self.link_of(key)?.phase {
            Phase::Up(mode) => Some(mode),
            Phase::Connecting | Phase::Lost => None,
        }
    }

    /// Connections there are, those being made and closed included. Counts them.
    pub fn connections(&self) -> usize {
        self.links.iter().flatten().count()
    }

    fn link_of(&self, key: u32) -> Option<&Link> {
        let State::Linked(index) = self.targets.get(&key)?.state else { return None };
        self.links.get(index)?.as_deref()
    }

    fn now(&mut self, now: Monotonic) -> Instant {
        self.latest = self.latest.max(self.anchor.instant(now));
        self.latest
    }

    /// Makes the next connection that is wanted. `None` when none is.
    fn connect(&mut self, now: Now, instant: Instant) -> Option<()> {
        let key = self.wanted.pop_front()?;
        let Some(target) = self.targets.get_mut(&key).filter(|target| target.state == State::Wanted) else {
            return Some(());
        };
        let tap = Arc::new(Tap::default());
        let config = target.client.connection(now.realtime, tap.clone());
        match self.endpoint.connect(instant, config, target.remote, &target.client.server_name) {
            Ok((handle, connection)) => {
                target.state = State::Linked(handle.0);
                if self.links.len() <= handle.0 {
                    self.links.resize_with(handle.0 + 1, || None);
                }
                self.links[handle.0] = Some(Box::new(Link::new(connection, key, tap)));
                self.line_up(handle.0);
            }
            Err(error) => {
                let failure = Failure::new(FailureKind::Other, error.to_string());
                self.lose(now.monotonic, key, failure);
            }
        }
        Some(())
    }

    fn line_up(&mut self, index: usize) {
        let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
        if !link.in_line {
            link.in_line = true;
            self.line.push_back(index);
        }
    }

    /// Hands on what a datagram or a timer brought about.
    fn settle(&mut self, index: usize, arrival: Arrival) -> Result<(), Refused> {
        let mut result = Ok(());
        let tokens = self.tokens.clone();
        while let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) {
            let Some(happened) = link.poll(|sequence| tokens.hash_one((index, sequence))) else { break };
            let (owner, first_sent, waiting) = (link.owner, link.first_sent, link.waiting);
            let Some(key) = owner else { continue };
            match happened {
                Happened::Answered { sequence, turnaround_ns } => {
                    self.events.push_back((key, Event::Answered { sequence, arrival, turnaround_ns }));
                }
                Happened::Refused(reason) => result = Err(reason),
                Happened::Connected(mode) => {
                    let handshake = first_sent.filter(|_| arrival.exact).map(|sent| arrival.at.since(sent));
                    if let Some(target) = self.targets.get_mut(&key) {
                        target.connected_at = Some(arrival.at);
                    }
                    self.events.push_back((key, Event::Connected { handshake, mode }));
                }
                Happened::Lost(error) => {
                    link.owner = None;
                    link.waiting = None;
                    if let Some(sequence) = waiting {
                        self.events.push_back((key, Event::Unsent { sequence }));
                    }
                    if let Some(target) = self.targets.get(&key) {
                        let failure = Failure::of(&error, &target.client);
                        self.lose(arrival.at, key, failure);
                    }
                }
            }
        }
        self.line_up(index);
        self.release(index);
        result
    }

    /// A target has no connection any more, or got none.
    fn lose(&mut self, now: Monotonic, key: u32, failure: Failure) {
        let Some(target) = self.targets.get_mut(&key) else { return };
        let connected_at = target.connected_at.take();
        if connected_at.is_some_and(|at| now.since(at) >= STEADY) {
            target.back_off.failures = 0;
        }
        let retry_in = target.back_off.next();
        target.state = State::Waiting;
        self.deadlines.set(Timer::Retry(key), &mut target.retry, Some(now + retry_in));
        let event = match connected_at {
            Some(_) => Event::Closed { failure, retry_in },
            None => Event::ConnectFailed { failure, retry_in },
        };
        self.events.push_back((key, event));
    }

    /// Passes on what a link has for the endpoint, sets its timer, and frees it once it is done.
    fn release(&mut self, index: usize) {
        let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
        while let Some(event) = link.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(index), event) {
                link.connection.handle_event(event);
            }
        }
        let timer = link.connection.poll_timeout().map(|at| self.anchor.monotonic(at));
        if link.connection.is_drained() {
            self.deadlines.set(Timer::Link(index), &mut link.timer, None);
            self.links[index] = None;
        } else {
            self.deadlines.set(Timer::Link(index), &mut link.timer, timer);
        }
    }
}

/// How long to wait after each failure.
#[derive(Clone, Copy, Debug)]
struct BackOff {
    seed: u64,
    failures: u32,
}

impl BackOff {
    fn next(&mut self) -> Duration {
        let doubled = RETRY_FIRST * 2u32.pow(self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        // From 0.8 to 1.2 times, in steps of a ten-thousandth.
        let share = 8_000 + u32::try_from(self.random() % 4_001).unwrap_or(0);
        doubled.min(RETRY_MAX) * share / 10_000
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_five_seconds_to_a_minute_each_a_fifth_more_or_less() {
        let mut back_off = BackOff { seed: 7, failures: 0 };
        for expected in [5, 10, 20, 40, 60, 60, 60] {
            let wait = back_off.next().as_secs_f64();
            let share = wait / f64::from(expected);
            assert!((0.8..=1.2).contains(&share), "{wait} s where {expected} s were due");
        }
    }

    #[test]
    fn targets_do_not_wait_alike() {
        let first = |seed| BackOff { seed, failures: 0 }.next();
        let waits: std::collections::HashSet<_> = (0..100).map(first).collect();
        assert!(waits.len() > 90, "{} different waits of 100", waits.len());
    }
}
