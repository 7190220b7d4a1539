//! Probes one target from an ordinary thread, like ping. No shard, no io_uring.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock;
use super::tcp::Connects;
use super::udp::{BindError, UdpPort};
use crate::clock::{Monotonic, Now, nanos};
use crate::endpoint::{EndpointConfig, Protocol};
use crate::probe::quic::{Event, FailureKind, QuicProber};
use crate::probe::{Payload, ProbeEvent, SendError, Session};
use crate::stall::Stalls;

/// How long a request to stop may go unnoticed.
const STOP_LATENCY_MS: u16 = 100;
/// How often a connection on its way is looked at; its round trip is the kernel's, whenever that is.
const CONNECT_LOOK: Duration = Duration::from_millis(5);
/// A QUIC handshake may take as many timeouts: it is some round trips, and cryptography.
const HANDSHAKE_TIMEOUTS: u32 = 3;
/// Tells our session from others at the same address; a one-shot probe is the only one at its port.
const SSID: u16 = 1;

/// What to probe, and how often.
#[derive(Clone, Debug)]
pub struct Oneshot {
    /// Whom, and how.
    pub endpoint: EndpointConfig,
    /// Probes to send.
    pub count: u32,
}

/// A one-shot probe that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OneshotError {
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Waiting failed.
    #[error("cannot wait for replies: {0}")]
    Wait(#[source] io::Error),
    /// No QUIC connection with who answers there.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Whom to.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
}

/// Sends all probes on time and hands each event to `report`, with the session it is of, until the last has
/// settled or `stop` says so. Returns how many were sent: those without an event are still in flight.
///
/// # Errors
/// [`OneshotError`]; replies that are none are not errors.
pub fn run(
    oneshot: &Oneshot,
    stop: impl Fn() -> bool,
    mut report: impl FnMut(ProbeEvent, &Session),
) -> Result<u32, OneshotError> {
    let interval = oneshot.endpoint.interval;
    let mut path = Sockets::open(&oneshot.endpoint)?;
    let mut session = Session::new(&oneshot.endpoint, SSID);
    if !path.connect(&stop, &mut |event| report(event, &session))? {
        return Ok(0);
    }
    let mut stalls = Stalls::default();
    let mut started = clock::monotonic();
    let mut deadlines = VecDeque::new();
    let began = started;
    let mut planned = started;
    let mut sent = 0;
    let mut events = Vec::new();
    while (sent < oneshot.count || !deadlines.is_empty()) && !stop() {
        let now = clock::now();
        // A wake that replies brought early is no stall; a late one is.
        stalls.handle_wake(planned.max(began), now.monotonic);
        path.read(now, &mut session, &mut |event| events.push(event));
        while let Some(&(sequence, at)) = deadlines.front() {
            if session.is_in_flight(sequence) && at > now.monotonic {
                break;
            }
            session.handle_deadline(sequence, &stalls, &mut |event| events.push(event));
            deadlines.pop_front();
        }
        let next_send = started + interval.saturating_mul(sent);
        if sent < oneshot.count && next_send <= now.monotonic {
            // Slots that passed unserved are not made up for: a burst measures nothing.
            let late = now.monotonic.since(next_send);
            let missed = nanos(late) / nanos(interval).max(1);
            started = started + Duration::from_nanos(missed.saturating_mul(nanos(interval)));
            deadlines.push_back(path.send(&mut session, &mut |event| events.push(event)));
            sent += 1;
        }
        for event in events.drain(..) {
            report(event, &session);
        }
        let next_send = (sent < oneshot.count).then(|| started + interval.saturating_mul(sent));
        let next_deadline = deadlines.front().map(|deadline| deadline.1);
        let Some(next) = next_send.into_iter().chain(next_deadline).min() else { continue };
        planned = path.wait(next)?;
    }
    Ok(sent)
}

/// What probes leave from, whichever kind they are.
struct Sockets<'a> {
    endpoint: &'a EndpointConfig,
    port: UdpPort,
    connects: Connects<u32>,
    quic: Option<Quic>,
}

/// The one QUIC connection, if the endpoint is probed over one.
struct Quic {
    prober: QuicProber,
    packet: Vec<u8>,
}

/// The connection's key: there is no other.
const QUIC_KEY: u32 = 0;

impl<'a> Sockets<'a> {
    fn open(endpoint: &'a EndpointConfig) -> Result<Self, BindError> {
        let port = UdpPort::ephemeral(endpoint.address.is_ipv6())?;
        let quic = match &endpoint.protocol {
            Protocol::Quic(client) => {
                let (anchor, now) = clock::anchor();
                let mut prober = QuicProber::new(anchor, now);
                prober.add(QUIC_KEY, endpoint.address, Arc::clone(client), now.0);
                Some(Quic { prober, packet: Vec::new() })
            }
            _ => None,
        };
        Ok(Self { endpoint, port, connects: Connects::new(), quic })
    }

    /// Connects first, where there is something to connect. Whether it is connected: nobody may answer, and
    /// `stop` may say no.
    fn connect(
        &mut self,
        stop: &impl Fn() -> bool,
        report: &mut dyn FnMut(ProbeEvent),
    ) -> Result<bool, OneshotError> {
        let address = self.endpoint.address;
        if self.quic.is_none() {
            return Ok(true);
        }
        let give_up = clock::monotonic() + self.endpoint.timeout * HANDSHAKE_TIMEOUTS;
        while !stop() {
            let now = clock::now();
            let refused = self.read_quic(now);
            let Some(quic) = &mut self.quic else { return Ok(true) };
            let connected = quic.prober.mode(QUIC_KEY).is_some();
            if !connected {
                // Asked for a probe, it connects first: the answer is that it cannot yet.
                quic.prober.probe(now.monotonic, QUIC_KEY, 0).ok();
            }
            while let Some((_, event)) = quic.prober.poll_event() {
                match event {
                    Event::Connected { handshake, .. } => report(ProbeEvent::Connected { handshake }),
                    Event::ConnectFailed { failure, .. } | Event::Closed { failure, .. } => {
                        return Err(OneshotError::Connect { address, reason: failure.to_string() });
                    }
                    Event::Answered { .. } | Event::Unsent { .. } => {}
                }
            }
            if connected {
                return Ok(true);
            }
            let silent = match (refused, now.monotonic >= give_up) {
                (true, _) => Some(FailureKind::Refused),
                (_, true) => Some(FailureKind::Timeout),
                _ => None,
            };
            if let Some(kind) = silent {
                report(ProbeEvent::Disconnected { kind });
                return Ok(false);
            }
            self.send_quic();
            self.wait(give_up)?;
        }
        Ok(false)
    }

    /// Takes in what came for the connection. Whether an error came back in its place.
    fn read_quic(&mut self, now: Now) -> bool {
        let Some(quic) = &mut self.quic else { return false };
        let result = self.port.read(|_, arrivals, datagram, _| {
            let arrival = arrivals.arrival(datagram.ancillary.received_at);
            // What is no packet of the connection is not for the person who asked.
            quic.prober.handle_datagram(arrival, datagram.source, datagram.octets).ok();
        });
        quic.prober.handle_timeout(now.monotonic);
        let bounced = result.is_err() || self.port.is_bounced();
        bounced && self.port.read_bounces(|_, _| {})
    }

    /// Sends what the connection has to send. Returns the newest probe among it, and when it left.
    fn send_quic(&mut self) -> Option<(u32, Monotonic)> {
        let quic = self.quic.as_mut()?;
        let mut newest = None;
        loop {
            let now = clock::now();
            let Some(transmit) = quic.prober.poll_transmit(now, &mut quic.packet) else { return newest };
            // After it was encrypted.
            let sent_at = clock::monotonic();
            newest = transmit.probe.map(|sequence| (sequence, sent_at)).or(newest);
            // Lost on its way, as any packet may be.
            self.port.send(&quic.packet[..transmit.len], transmit.destination, self.endpoint.path).ok();
        }
    }

    /// Sends a probe over the connection. Returns T1.
    fn probe_quic(&mut self, now: Now, session: &mut Session, sequence: u32) -> Result<Monotonic, SendError> {
        let quic = self.quic.as_mut().ok_or(SendError::NotConnected)?;
        quic.prober.probe(now.monotonic, QUIC_KEY, sequence).map_err(|_| SendError::NotConnected)?;
        let Some((sequence, at)) = self.send_quic() else { return Ok(now.monotonic) };
        session.note_sent_at(sequence, at);
        Ok(at)
    }

    fn settle_quic(&mut self, now: Now, session: &mut Session, event: &mut impl FnMut(ProbeEvent)) {
        self.read_quic(now);
        let Some(quic) = &mut self.quic else { return };
        while let Some((_, happened)) = quic.prober.poll_event() {
            match happened {
                Event::Answered { sequence, arrival, turnaround_ns } => {
                    session.handle_answer(sequence, arrival, turnaround_ns, event).ok();
                }
                Event::Unsent { sequence } => {
                    session.handle_sent(sequence, Duration::ZERO, Err(SendError::NotConnected), event);
                }
                Event::Connected { handshake, .. } => event(ProbeEvent::Connected { handshake }),
                Event::ConnectFailed { failure, .. } | Event::Closed { failure, .. } => {
                    event(ProbeEvent::Disconnected { kind: failure.kind });
                }
            }
        }
        self.send_quic();
    }

    /// Sends the next probe. Returns its number and deadline.
    fn send(&mut self, session: &mut Session, event: &mut impl FnMut(ProbeEvent)) -> (u32, Monotonic) {
        let now = clock::now();
        let probe = session.transmit(now, event);
        let EndpointConfig { address, path, .. } = *self.endpoint;
        let mut left_at = now.monotonic;
        let result = match probe.payload {
            Payload::Datagram(packet) => self.port.send(&packet, address, path),
            Payload::Quic => self.probe_quic(now, session, probe.sequence).map(|at| left_at = at),
            Payload::Connect => self.connects.begin(now, probe.sequence, address, path, probe.deadline),
        };
        let took = clock::monotonic().since(left_at);
        session.handle_sent(probe.sequence, took, result, event);
        (probe.sequence, probe.deadline)
    }

    fn read(&mut self, now: Now, session: &mut Session, event: &mut impl FnMut(ProbeEvent)) {
        if self.quic.is_some() {
            return self.settle_quic(now, session, event);
        }
        let result = self.port.read(|_, arrivals, datagram, _| {
            let arrival = arrivals.arrival(datagram.ancillary.received_at);
            if !datagram.truncated {
                // What is no reply is not for the person who asked.
                session.handle_datagram(arrival, datagram.octets, event).ok();
            }
        });
        if result.is_err() || self.port.is_bounced() {
            self.port.read_bounces(|bounce, reason: SendError| {
                session.handle_bounce(reason, bounce.quoted, event).ok();
            });
        }
        self.connects.read(now, |sequence, result| {
            session.handle_connect(sequence, result, event).ok();
        });
    }

    /// Waits until there is something to read, or until `until`. Returns when it meant to be back.
    fn wait(&mut self, until: Monotonic) -> Result<Monotonic, OneshotError> {
        let now = clock::monotonic();
        let timer = self.quic.as_mut().and_then(|quic| quic.prober.poll_timeout());
        let until = timer.map_or(until, |at| until.min(at));
        let until = if self.connects.is_empty() { until } else { until.min(now + CONNECT_LOOK) };
        // Rounded up to whole milliseconds, so that a short rest does not spin.
        let millis = until.since(now).as_nanos().div_ceil(1_000_000).min(STOP_LATENCY_MS.into());
        let timeout = PollTimeout::from(u16::try_from(millis).unwrap_or(STOP_LATENCY_MS));
        match poll(&mut [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(until),
            Err(error) => Err(OneshotError::Wait(error.into())),
        }
    }
}
