//! The far end of a QUIC probe, sans-IO: answers each Ping with a Pong.
//!
//! Until a client has proven its address, it is sent at most three times the octets it sent (RFC 9000
//! section 8.1); that limit is quinn-proto's. After that a Pong is as long as its Ping
//! ([`wire::ping`](crate::wire::ping)), and nothing is sent unasked but what keeps the connection.
//! Version negotiation, Retry and stateless reset are shorter than what they answer.

mod admission;
mod identity;
mod setup;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointEvent, Incoming};

pub use admission::Rate;
use admission::{Admission, network};
pub use identity::{Identity, IdentityError};

use crate::clock::{Arrival, Monotonic, Now};
use crate::probe::quic::transport::{Anchor, Deadlines, WallClock};
use crate::wire::ping::{Ping, Pong};

/// Pings of one connection that wait for their Pong. Asked after each datagram, as a driver does, one does.
const PINGS_MAX: usize = 16;
/// Answers without a connection that wait to be sent.
const ANSWERS_MAX: usize = 64;

/// How a responder behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderConfig {
    /// Most connections at once; default 4096. A further one is refused.
    pub connections_max: usize,
    /// Most connections at once of one source, an IPv4 address or an IPv6 /64; default 64. This host's has none.
    pub connections_per_source_max: usize,
    /// Most handshakes at once; default 256. Beyond that clients must prove their addresses, and those who
    /// have are not answered.
    pub handshakes_max: usize,
    /// A handshake that takes longer is given up; default 10 s.
    pub handshake_timeout: Duration,
    /// A client is forgotten after this long without a word; default 30 s.
    pub idle: Duration,
    /// Handshakes of clients that have not proven their address, of all together; default 64 at once and
    /// 64 a second. Beyond that they must.
    pub unproven: Rate,
    /// Handshakes of each client that has proven its address; default 32 at once and 8 a second.
    pub source: Rate,
}

impl Default for ResponderConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_source_max: 64,
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            unproven: Rate { burst: 64, per_second: 64 },
            source: Rate { burst: 32, per_second: 8 },
        }
    }
}

/// What came of a datagram that was of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It belongs to a connection, or has made one.
    Handled,
    /// It was a Ping, or several: Pongs follow.
    Answering,
    /// Its sender is asked to prove its address.
    Validating,
    /// It is answered without a connection: with a version, or a reset.
    Stateless,
}

impl Outcome {
    /// All of them, in order of their series.
    pub const ALL: [Self; 4] = [Self::Handled, Self::Answering, Self::Validating, Self::Stateless];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Answering => "pong",
            Self::Validating => "retry",
            Self::Stateless => "stateless",
        }
    }
}

/// Why a datagram was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No QUIC, or of no connection.
    #[error("not of any connection")]
    Unknown,
    /// The table of connections is full.
    #[error("the table of connections is full")]
    TableFull,
    /// Its source has as many connections as one may.
    #[error("its source has as many connections as one may")]
    SourceFull,
    /// Its source shakes hands too often.
    #[error("its source shakes hands too often")]
    SourceRate,
    /// Too many handshakes at once.
    #[error("too many handshakes at once")]
    Busy,
    /// The handshake failed, for want of a common protocol perhaps.
    #[error("the handshake failed")]
    Handshake,
    /// Carried a datagram that is no Ping.
    #[error("not a ping")]
    NotPing,
    /// More answers wait than are kept.
    #[error("more answers wait than are kept")]
    Backlog,
}

impl Refusal {
    /// All of them, in order of their series.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::TableFull,
        Self::SourceFull,
        Self::SourceRate,
        Self::Busy,
        Self::Handshake,
        Self::NotPing,
        Self::Backlog,
    ];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_session",
            Self::TableFull => "table_full",
            Self::SourceFull => "source_full",
            Self::SourceRate => "rate_limited",
            Self::Busy => "busy",
            Self::Handshake => "handshake",
            Self::NotPing => "not_ping",
            Self::Backlog => "backlog",
        }
    }
}

/// A datagram to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// From which address of ours: that which the client probes.
    pub source: Option<IpAddr>,
    /// Its octets in the buffer, from the start.
    pub len: usize,
}

/// A QUIC server that knows nothing but Ping.
///
/// Verbs, in the order a driver calls them on each wake: [`handle_datagram`](Self::handle_datagram) for each
/// datagram, after each [`poll_transmit`](Self::poll_transmit) until `None`, so that T3 follows T2;
/// [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) once more; then sleep
/// until [`poll_timeout`](Self::poll_timeout).
pub struct Responder {
    config: ResponderConfig,
    anchor: Anchor,
    latest: Instant,
    endpoint: Endpoint,
    clock: Arc<WallClock>,
    admission: Admission,
    peers: Vec<Option<Box<Peer>>>,
    open: usize,
    /// Of each source that has any; no more than there are connections.
    open_by_source: HashMap<IpAddr, usize>,
    handshakes: usize,
    line: VecDeque<usize>,
    deadlines: Deadlines<usize>,
    answers: VecDeque<(Transmit, Vec<u8>)>,
}

struct Peer {
    connection: Connection,
    source: IpAddr,
    timer: Option<Monotonic>,
    in_line: bool,
    /// While the handshake lasts: when it is given up.
    patience: Option<Monotonic>,
    pings: VecDeque<(Ping, Monotonic)>,
}

impl Responder {
    /// A responder without connections. `anchor` and `anchor_monotonic` are one moment, its first; both are
    /// of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(
        config: ResponderConfig,
        identity: Identity,
        anchor: Instant,
        anchor_monotonic: Monotonic,
    ) -> Result<Self, IdentityError> {
        let clock = Arc::new(WallClock::default());
        let reset_key = identity.derived_key();
        let server = setup::server(&config, identity, &clock)?;
        Ok(Self {
            admission: Admission::new(config.unproven, config.source, anchor_monotonic),
            config,
            anchor: Anchor { instant: anchor, monotonic: anchor_monotonic },
            latest: anchor,
            endpoint: Endpoint::new(
                Arc::new(setup::endpoint(reset_key)),
                Some(Arc::new(server)),
                false,
                None,
            ),
            clock,
            peers: Vec::new(),
            open: 0,
            open_by_source: HashMap::new(),
            handshakes: 0,
            line: VecDeque::new(),
            deadlines: Deadlines::new(),
            answers: VecDeque::new(),
        })
    }

    /// As [`new`](Self::new), with a certificate of its own making for these DNS names and addresses.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn self_signed(
        config: ResponderConfig,
        names: &[String],
        anchor: Instant,
        anchor_monotonic: Monotonic,
    ) -> Result<Self, IdentityError> {
        Self::new(config, Identity::self_signed(names)?, anchor, anchor_monotonic)
    }

    /// Takes in one datagram. `arrival` is T2; `local` the address of ours it was sent to, where the socket
    /// has several.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn handle_datagram(
        &mut self,
        now: Now,
        arrival: Arrival,
        source: SocketAddr,
        local: Option<IpAddr>,
        octets: &[u8],
    ) -> Result<Outcome, Refusal> {
        self.clock.set(now.realtime);
        let instant = self.now(arrival.at);
        let mut answer = Vec::new();
        match self.endpoint.handle(instant, source, local, None, octets.into(), &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let peer = self.peers.get_mut(handle.0).and_then(Option::as_mut).ok_or(Refusal::Unknown)?;
                peer.connection.handle_event(event);
                self.settle(handle.0, arrival.at)
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(arrival.at, instant, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.answer(&transmit, answer)?;
                Ok(Outcome::Stateless)
            }
            None => Err(Refusal::Unknown),
        }
    }

    /// Does what is due by `now`: retransmissions, timeouts.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let instant = self.now(now);
        // Each can fall due once more in a turn; the bound is against a clock that stands still.
        for _ in 0..2 * self.deadlines.len() {
            let Some(index) = self.deadlines.first_due(now) else { return };
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else { return };
            self.deadlines.set(index, &mut peer.timer, None);
            if peer.patience.is_some_and(|until| until <= now) {
                self.forget(index);
                continue;
            }
            peer.connection.handle_timeout(instant);
            // A timer brings no datagram that could be refused.
            self.settle(index, now).unwrap_or(Outcome::Handled);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; a moment past while
    /// [`poll_transmit`](Self::poll_transmit) has.
    pub fn poll_timeout(&mut self) -> Option<Monotonic> {
        if self.line.is_empty() && self.answers.is_empty() {
            return self.deadlines.next();
        }
        Some(self.anchor.monotonic(self.latest))
    }

    /// The next datagram to send, written to the start of `buffer`; `now` is T3 of the Pongs in it.
    pub fn poll_transmit(&mut self, now: Now, buffer: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((transmit, octets)) = self.answers.pop_front() {
            *buffer = octets;
            return Some(transmit);
        }
        let instant = self.now(now.monotonic);
        loop {
            let index = *self.line.front()?;
            buffer.clear();
            if let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) {
                peer.pong(now.monotonic);
                if let Some(transmit) = peer.connection.poll_transmit(instant, 1, buffer) {
                    return Some(Transmit::of(&transmit));
                }
                peer.in_line = false;
            }
            self.line.pop_front();
            self.release(index);
        }
    }

    /// Connections there are, those being made and closed included.
    pub fn connections(&self) -> usize {
        self.open
    }

    fn now(&mut self, now: Monotonic) -> Instant {
        self.latest = self.latest.max(self.anchor.instant(now));
        self.latest
    }

    fn answer(&mut self, transmit: &quinn_proto::Transmit, octets: Vec<u8>) -> Result<(), Refusal> {
        if self.answers.len() >= ANSWERS_MAX {
            return Err(Refusal::Backlog);
        }
        self.answers.push_back((Transmit::of(transmit), octets));
        Ok(())
    }

    fn admit(&mut self, now: Monotonic, instant: Instant, incoming: Incoming) -> Result<Outcome, Refusal> {
        let proven = incoming.remote_address_validated();
        let busy = self.handshakes >= self.config.handshakes_max;
        let mut octets = Vec::new();
        if !proven && (busy || !self.admission.admit_unproven(now)) {
            // Whoever has proven nothing has not been asked to, so it may be.
            let transmit = self.endpoint.retry(incoming, &mut octets).map_err(|_| Refusal::Handshake)?;
            self.answer(&transmit, octets)?;
            return Ok(Outcome::Validating);
        }
        let reason = if busy {
            Some(Refusal::Busy)
        } else if proven && !self.admission.admit(now, incoming.remote_address().ip()) {
            Some(Refusal::SourceRate)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.endpoint.ignore(incoming);
            return Err(reason);
        }
        let source = network(incoming.remote_address().ip());
        if let Some(reason) = self.full_for(source) {
            let transmit = self.endpoint.refuse(incoming, &mut octets);
            self.answer(&transmit, octets)?;
            return Err(reason);
        }
        match self.endpoint.accept(incoming, instant, &mut octets, None) {
            Ok((handle, connection)) => self.open(now, source, handle, connection),
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.answer(&transmit, octets)?;
                }
                Err(Refusal::Handshake)
            }
        }
    }

    fn full_for(&self, source: IpAddr) -> Option<Refusal> {
        if self.open >= self.config.connections_max {
            return Some(Refusal::TableFull);
        }
        let most = if source.is_loopback() { usize::MAX } else { self.config.connections_per_source_max };
        (*self.open_by_source.get(&source)? >= most).then_some(Refusal::SourceFull)
    }

    fn open(
        &mut self,
        now: Monotonic,
        source: IpAddr,
        handle: ConnectionHandle,
        connection: Connection,
    ) -> Result<Outcome, Refusal> {
        let patience = Some(now + self.config.handshake_timeout);
        if self.peers.len() <= handle.0 {
            self.peers.resize_with(handle.0 + 1, || None);
        }
        let peer = Peer { connection, source, timer: None, in_line: false, patience, pings: VecDeque::new() };
        self.peers[handle.0] = Some(Box::new(peer));
        self.open += 1;
        *self.open_by_source.entry(source).or_default() += 1;
        self.handshakes += 1;
        self.settle(handle.0, now)
    }

    /// Takes what a datagram or a timer brought about.
    fn settle(&mut self, index: usize, arrived: Monotonic) -> Result<Outcome, Refusal> {
        let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
            return Err(Refusal::Unknown);
        };
        let mut result = Ok(Outcome::Handled);
        while let Some(event) = peer.connection.poll() {
            let over = match event {
                quinn_proto::Event::Connected => true,
                quinn_proto::Event::ConnectionLost { .. } => {
                    if peer.patience.is_some() {
                        result = Err(Refusal::Handshake);
                    }
                    true
                }
                _ => false,
            };
            if over && peer.patience.take().is_some() {
                self.handshakes -= 1;
            }
        }
        while let Some(datagram) = peer.connection.datagrams().recv() {
            match Ping::decode(&datagram) {
                Ok(_) if peer.pings.len() >= PINGS_MAX => result = Err(Refusal::Backlog),
                Ok(ping) => {
                    peer.pings.push_back((ping, arrived));
                    result = result.map(|_| Outcome::Answering);
                }
                Err(_) => result = Err(Refusal::NotPing),
            }
        }
        if !peer.in_line {
            peer.in_line = true;
            self.line.push_back(index);
        }
        self.release(index);
        result
    }

    /// Passes on what a connection has for the endpoint, sets its timer, and frees it once it is done.
    fn release(&mut self, index: usize) {
        let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else { return };
        while let Some(event) = peer.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(index), event) {
                peer.connection.handle_event(event);
            }
        }
        let timer = peer.connection.poll_timeout().map(|at| self.anchor.monotonic(at));
        let timer = [timer, peer.patience].into_iter().flatten().min();
        if peer.connection.is_drained() {
            self.deadlines.set(index, &mut peer.timer, None);
            self.remove(index);
        } else {
            self.deadlines.set(index, &mut peer.timer, timer);
        }
    }

    /// Gives a connection up without a word.
    fn forget(&mut self, index: usize) {
        self.endpoint.handle_event(ConnectionHandle(index), EndpointEvent::drained());
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        let Some(peer) = self.peers[index].take() else { return };
        self.open -= 1;
        self.open_by_source.entry(peer.source).and_modify(|open| *open -= 1);
        if self.open_by_source.get(&peer.source) == Some(&0) {
            self.open_by_source.remove(&peer.source);
        }
        if peer.patience.is_some() {
            self.handshakes -= 1;
        }
    }
}

impl Transmit {
    fn of(transmit: &quinn_proto::Transmit) -> Self {
        Self { destination: transmit.destination, source: transmit.src_ip, len: transmit.size }
    }
}

impl Peer {
    /// Turns the Pings that wait into Pongs to be sent now.
    fn pong(&mut self, now: Monotonic) {
        while let Some((ping, received)) = self.pings.pop_front() {
            let pong = Pong::answer(ping, received.0, now.0).encode();
            // Refused where the client takes no datagrams, which then is its loss.
            self.connection.datagrams().send(pong.to_vec().into(), true).unwrap_or_default();
        }
    }
}
