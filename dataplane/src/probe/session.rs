//! One session with one endpoint, by whatever protocol.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use super::account::{Account, Opened, Reply};
use super::event::{ProbeEvent, Refusal, SendError};
use super::{stamp, stun};
use crate::clock::{Arrival, Monotonic, Now};
use crate::endpoint::{EndpointConfig, Protocol};
use crate::stall::Stalls;
use crate::window::WindowStats;

/// Octets of the longest probe: STAMP's authenticated packet.
const PACKET_LEN_MAX: usize = 112;

/// Of probes whose replies the kernel itself holds against them.
const NO_TOKEN: u64 = 0;

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its sequence number.
    pub sequence: u32,
    /// When it counts as lost if not answered.
    pub deadline: Monotonic,
    /// What is to be sent.
    pub payload: Payload,
}

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A datagram.
    Datagram(Packet),
    /// An attempt at a TCP connection.
    Connect,
    /// A probe on the QUIC connection of the endpoint.
    Quic,
}

/// The octets of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    octets: [u8; PACKET_LEN_MAX],
    len: u8,
}

impl Packet {
    pub(super) fn new<const N: usize>(packet: &[u8; N]) -> Self {
        const { assert!(N <= PACKET_LEN_MAX, "longer than the longest probe") };
        let mut octets = [0; PACKET_LEN_MAX];
        octets[..N].copy_from_slice(packet);
        Self { octets, len: N as u8 }
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// One session with one endpoint.
///
/// ```
/// use std::time::Duration;
/// use relayscope_dataplane::clock::{Arrival, Monotonic, Now, Realtime};
/// use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
/// use relayscope_dataplane::probe::{Payload, ProbeEvent, Session};
/// use relayscope_dataplane::reflector::{Reflector, ReflectorConfig, Request};
///
/// let at = |ms: u64| Now { monotonic: Monotonic(ms * 1_000_000), realtime: Realtime(ms * 1_000_000) };
/// let config = EndpointConfig::new("127.0.0.1:8620".parse()?, Protocol::Stamp(Default::default()));
/// let mut session = Session::new(&config, 1);
/// let probe = session.transmit(at(0), &mut |_| {});
/// let Payload::Datagram(packet) = probe.payload else { return Err("STAMP sends datagrams".into()) };
///
/// let mut reply = packet.to_vec();
/// let request = Request { source: "127.0.0.1:9".parse()?, ttl: Some(64), received_at: Realtime(3_000_000) };
/// Reflector::new(ReflectorConfig::default()).reflect(at(3).monotonic, &request, &mut reply)?.send_at(Realtime(4_000_000));
///
/// let mut events = Vec::new();
/// session.handle_datagram(Arrival::exact(at(8).monotonic), &reply, &mut |event| events.push(event))?;
/// // 8 ms there and back, of which the reflector held it for one.
/// assert_eq!(events, [ProbeEvent::Answered { sequence: 0, rtt: Duration::from_millis(7), reordered: false }]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    account: Account,
    protocol: State,
}

#[derive(Debug)]
enum State {
    Stamp(stamp::Sender),
    Stun(stun::Client),
    Tcp,
    Quic(Connecting),
}

/// How long there has been no QUIC connection.
#[derive(Debug, Default)]
struct Connecting {
    since: Option<Monotonic>,
    /// An attempt failed since the last connection.
    failed: bool,
}

impl Session {
    /// A session that has sent nothing. `ssid` tells it from others at the same address; 0 names none.
    pub fn new(config: &EndpointConfig, ssid: u16) -> Self {
        let account = Account::new(config.interval, config.timeout, config.window);
        let protocol = match &config.protocol {
            Protocol::Stamp(stamp) => State::Stamp(stamp::Sender::new(stamp, ssid, account.history_len())),
            Protocol::Stun => State::Stun(stun::Client::default()),
            Protocol::Tcp => State::Tcp,
            Protocol::Quic(_) => State::Quic(Connecting::default()),
        };
        Self { account, protocol }
    }

    /// The next probe, stamped with `now`: send it at once.
    pub fn transmit(&mut self, now: Now, event: &mut impl FnMut(ProbeEvent)) -> Outgoing {
        let token = match &self.protocol {
            State::Stamp(_) => stamp::Sender::token(now.realtime),
            State::Stun(client) => client.token(self.account.next_sequence(), now.monotonic),
            State::Tcp | State::Quic(_) => NO_TOKEN,
        };
        let Opened { sequence, deadline, closed } = self.account.open(now.monotonic, token, event);
        if let (State::Stamp(sender), Some(closed)) = (&mut self.protocol, closed)
            && let Some(known) = sender.handle_closed(closed)
        {
            event(ProbeEvent::Directed { forward: known.forward, reverse: known.reverse });
        }
        let payload = match &self.protocol {
            State::Stamp(sender) => Payload::Datagram(sender.encode(sequence, token)),
            State::Stun(_) => Payload::Datagram(Packet::new(&stun::Client::encode(sequence, token))),
            State::Tcp => Payload::Connect,
            State::Quic(_) => Payload::Quic,
        };
        Outgoing { sequence, deadline, payload }
    }

    /// How the send of a probe went, and how long after its stamp the call returned. A probe the kernel
    /// did not take makes the target down, unless our own full queue was the reason.
    pub fn handle_sent(
        &mut self,
        sequence: u32,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        self.account.handle_sent(sequence, took, result, event);
    }

    /// A datagram from the target's address. The kernel's stamp of its arrival is right however late we read
    /// it; where there is none, the probe is discarded.
    ///
    /// # Errors
    /// [`Refusal`] when it is no reply to a probe of this session; nothing has changed then.
    pub fn handle_datagram(
        &mut self,
        arrival: Arrival,
        datagram: &[u8],
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        match &mut self.protocol {
            State::Stamp(sender) => {
                let (reply, theirs) = sender.decode(arrival, datagram)?;
                self.account.handle_reply(&reply, event)?;
                sender.handle_accepted(reply.sequence, theirs);
            }
            State::Stun(client) => {
                let (reply, mapped) = stun::Client::decode(arrival, datagram)?;
                self.account.handle_reply(&reply, event)?;
                if let Some(mapped) = client.handle_mapped(mapped) {
                    event(ProbeEvent::Rebound { mapped });
                }
            }
            State::Tcp | State::Quic(_) => return Err(Refusal::Malformed),
        }
        Ok(())
    }

    /// How an attempt at a connection ended: with its round-trip time, or with an error of the network.
    ///
    /// # Errors
    /// [`Refusal::UnknownSequence`] when that probe is not in flight.
    pub fn handle_connect(
        &mut self,
        sequence: u32,
        result: Result<Duration, SendError>,
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        match result {
            Ok(rtt) => self.account.handle_measured(sequence, rtt, event),
            Err(reason) => self.account.handle_bounce(Some((sequence, NO_TOKEN)), reason, event),
        }
    }

    /// A probe left on its connection at `now`, later than it was asked for.
    pub fn note_sent_at(&mut self, sequence: u32, now: Monotonic) {
        self.account.note_sent_at(sequence, now);
    }

    /// A probe was answered on the connection it went over, which knows the one from the other.
    ///
    /// # Errors
    /// [`Refusal::UnknownSequence`] when there is no such probe.
    pub fn handle_answer(
        &mut self,
        sequence: u32,
        arrival: Arrival,
        turnaround_ns: Option<u64>,
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let reply = Reply { sequence, token: NO_TOKEN, arrival, turnaround_ns };
        self.account.handle_reply(&reply, event)
    }

    /// A probe that was counted as sent did not leave, for a reason of ours: it says nothing.
    pub fn discard(&mut self, sequence: u32, event: &mut impl FnMut(ProbeEvent)) {
        self.account.discard(sequence, event);
    }

    /// The connection came, or went.
    pub fn handle_connection(&mut self, happened: ProbeEvent, event: &mut impl FnMut(ProbeEvent)) {
        if let State::Quic(connecting) = &mut self.protocol {
            let failed = matches!(happened, ProbeEvent::Disconnected { .. });
            *connecting = Connecting { since: None, failed };
        }
        event(happened);
    }

    /// Why a probe cannot be sent while there is no connection: for as long as a reply may take that says
    /// nothing, unless an attempt failed before.
    pub fn unconnected(&mut self, now: Monotonic) -> SendError {
        let timeout = self.account.timeout();
        let State::Quic(Connecting { since, failed: false }) = &mut self.protocol else {
            return SendError::NotConnected;
        };
        let since = *since.get_or_insert(now);
        if now.since(since) <= timeout { SendError::Connecting } else { SendError::NotConnected }
    }

    /// The network returned an error for a probe, with as much of it as it quotes.
    ///
    /// # Errors
    /// [`Refusal::UnknownSequence`] when no such probe is in flight.
    pub fn handle_bounce(
        &mut self,
        reason: SendError,
        quoted: &[u8],
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let sequence = match &self.protocol {
            State::Stamp(sender) => sender.quoted(quoted),
            State::Stun(_) => stun::Client::quoted(quoted),
            // A packet of a connection shows nobody what it carries: it is about the newest probe.
            State::Quic(_) => None,
            State::Tcp => return Err(Refusal::Malformed),
        };
        self.account.handle_bounce(sequence, reason, event)
    }

    /// Serves the deadlines before `at` that have not been served yet. O(history).
    pub(crate) fn handle_overdue(
        &mut self,
        at: Monotonic,
        stalls: &Stalls,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        self.account.handle_overdue(at, stalls, event);
    }

    /// The probe's deadline has passed and all that was readable has been read. If this shard stalled
    /// while the probe was in flight, that may be why it was not answered.
    pub fn handle_deadline(&mut self, sequence: u32, stalls: &Stalls, event: &mut impl FnMut(ProbeEvent)) {
        self.account.handle_deadline(sequence, stalls, event);
    }

    /// The target has another address from now on: what is in flight to the old one says nothing.
    pub fn handle_moved(&mut self, event: &mut impl FnMut(ProbeEvent)) {
        self.account.discard_in_flight(event);
        match &mut self.protocol {
            State::Stamp(sender) => sender.handle_moved(self.account.next_sequence().wrapping_sub(1)),
            State::Stun(client) => client.forget_mapped(),
            State::Tcp | State::Quic(_) => {}
        }
    }

    /// Tmax.
    pub fn timeout(&self) -> Duration {
        self.account.timeout()
    }

    /// Whether the probe still waits for its reply or deadline.
    pub fn is_in_flight(&self, sequence: u32) -> bool {
        self.account.is_in_flight(sequence)
    }

    /// Whether the newest probe that settled and says something was answered; `None` before the first, and
    /// when that is more than a window of probes ago.
    pub fn up(&self) -> Option<bool> {
        self.account.up()
    }

    /// What the window of the latest settled probes says.
    pub fn stats(&self) -> WindowStats {
        self.account.stats()
    }

    /// The address a STUN server last saw this host at.
    pub fn mapped(&self) -> Option<SocketAddr> {
        match &self.protocol {
            State::Stun(client) => client.mapped(),
            State::Stamp(_) | State::Tcp | State::Quic(_) => None,
        }
    }
}
