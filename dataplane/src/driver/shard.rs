//! Turns one shard: reads its sockets, lets it decide, sends what it says.

use std::io;
use std::time::Duration;

use super::clock;
use super::listen::{Listeners, QuicListener};
use super::tcp::Connects;
use super::udp::{BindError, Datagram, Readout, Replies, UdpPort};
use crate::clock::{Monotonic, Now};
use crate::probe::{Payload, SendError};
use crate::prober::{ProbeId, SessionKey, Transmit};
use crate::reflector::Request;
use crate::responder::Responder;
use crate::shard::{Command, Shard, reply_source};

/// Commands carried out in one turn, so that a long list of targets does not hold up a slot.
const COMMANDS_PER_TURN_MAX: usize = 64;
/// Probes sent in one turn, which is between two looks for replies: far fewer than the receive buffer of a
/// stock host holds, which is 512.
const SENDS_PER_TURN_MAX: usize = 128;

/// QUIC packets sent in a row, of all connections.
const QUIC_PACKETS_PER_TURN_MAX: usize = 1024;

/// A socket probes leave from, and whether any has: what never sent has nothing to read.
struct ProbePort {
    port: UdpPort,
    sent: bool,
    /// When it was last read to the end.
    read_at: Monotonic,
}

/// A socket that wakes the shard.
struct WakingPort {
    port: UdpPort,
    role: Role,
    /// When it was last read to the end.
    read_at: Monotonic,
}

/// What a waking socket is for.
enum Role {
    /// STAMP requests come in here.
    Reflector,
    /// QUIC probes leave from here. Unlike STAMP's, their connections need us to act in time.
    QuicProbes,
    /// QUIC probes come in here.
    Responder(Box<Responder>),
}

/// A shard with its sockets and its queue of commands.
pub struct ShardDriver {
    shard: Shard,
    /// IPv4, then IPv6 where the host has it.
    probes: Vec<ProbePort>,
    waking: Vec<WakingPort>,
    /// For QUIC's packets on their way out.
    packet: Vec<u8>,
    connects: Connects<ProbeId>,
    commands: rtrb::Consumer<Command>,
    planned: Option<Monotonic>,
}

impl ShardDriver {
    /// Opens the probing sockets.
    ///
    /// # Errors
    /// When not even an IPv4 socket can be had. A host without IPv6 only cannot probe IPv6 targets.
    pub fn new(
        mut shard: Shard,
        listeners: Listeners,
        commands: rtrb::Consumer<Command>,
    ) -> Result<Self, BindError> {
        let (anchor, now) = clock::anchor();
        shard.enable_quic(anchor, now);
        let waking = |port, role| WakingPort { port, role, read_at: now };
        let reflectors = listeners.stamp.into_iter().map(|port| waking(port, Role::Reflector));
        let responders = listeners
            .quic
            .into_iter()
            .map(|QuicListener { port, responder }| waking(port, Role::Responder(responder)));
        let answering: Vec<_> = reflectors.chain(responders).collect();
        shard.set_own_addresses(answering.iter().map(|waking| waking.port.local_address()).collect());
        let quic = std::iter::once(UdpPort::ephemeral(false)?).chain(UdpPort::ephemeral(true).ok());
        let quic = quic.map(|port| waking(port, Role::QuicProbes));
        let waking = answering.into_iter().chain(quic).collect();
        let ports = std::iter::once(UdpPort::ephemeral(false)?).chain(UdpPort::ephemeral(true).ok());
        let probes = ports.map(|port| ProbePort { port, sent: false, read_at: Monotonic(0) }).collect();
        let connects = Connects::new();
        Ok(Self { shard, probes, waking, packet: Vec::new(), connects, commands, planned: None })
    }

    /// The sockets to wait on, in the order of [`handle_readable`](Self::handle_readable). Replies at the
    /// others are read on the schedule's wakes.
    pub fn waits(&self) -> impl Iterator<Item = &UdpPort> {
        self.waking.iter().map(|waking| &waking.port)
    }

    /// Carries out one wake of the schedule, bounded, and returns how long to sleep: not at all if there
    /// is more to do.
    pub fn turn(&mut self) -> Duration {
        let now = clock::now();
        self.shard.handle_wake(self.planned.unwrap_or(now.monotonic), now.monotonic);
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Ok(command) = self.commands.pop() else { break };
            self.shard.handle_command(now, command);
        }
        // Replies that already arrived must be seen before their probes are called lost, and what came
        // after `now` is not yet due.
        let mut more = self.read_replies(now);
        let shard = &mut self.shard;
        self.connects.read(now, |probe, result| shard.handle_connect(now, probe, result));
        self.shard.handle_timeout(now);
        self.handle_quic_timeout(now);
        more |= self.send_due(now.monotonic);
        let now = clock::monotonic();
        let busy = more || !self.commands.is_empty();
        let mut planned = if busy { now } else { self.shard.poll_timeout(now) };
        if !self.connects.is_empty() {
            planned = planned.min(now + self.shard.slot());
        }
        for waking in &mut self.waking {
            if let Role::Responder(responder) = &mut waking.role {
                planned = responder.poll_timeout().map_or(planned, |due| planned.min(due));
            }
        }
        self.planned = Some(planned);
        planned.since(now)
    }

    /// As [`turn`](Self::turn), again and again while there is more to do, for about `most`; all sockets are
    /// served in between.
    pub fn turns(&mut self, most: Duration) -> Duration {
        let began = clock::monotonic();
        loop {
            let pause = self.turn();
            if !pause.is_zero() || clock::monotonic().since(began) >= most {
                return pause;
            }
            for socket in 0..self.waking.len() {
                // About an earlier send, as those are that a wait would tell of.
                self.handle_readable(socket).ok();
            }
        }
    }

    /// Sends some of what is due. Returns whether there may be more.
    fn send_due(&mut self, due_by: Monotonic) -> bool {
        for _ in 0..SENDS_PER_TURN_MAX {
            // Each probe is stamped with a clock read just before its send.
            let now = clock::now();
            let Some(transmit) = self.shard.poll_transmit(due_by, now) else { return false };
            let sent = self.send(now, &transmit);
            let left_at = sent.unwrap_or(now.monotonic);
            let took = clock::monotonic().since(left_at);
            let result = sent.map(|_| ());
            self.shard.handle_sent(now, transmit.probe, took, result);
        }
        true
    }

    /// Sends a probe. Returns T1.
    fn send(&mut self, now: Now, transmit: &Transmit) -> Result<Monotonic, SendError> {
        let Transmit { destination, path, deadline, .. } = *transmit;
        match transmit.payload {
            Payload::Quic => {
                self.shard.begin_quic(now, transmit.probe)?;
                let Transmit { probe, .. } = *transmit;
                Ok(self.send_quic(Some((probe.key, probe.sequence)))?.unwrap_or(now.monotonic))
            }
            Payload::Connect => {
                self.connects.begin(now, transmit.probe, destination, path, deadline)?;
                // The kernel times it, from the first packet on.
                Ok(clock::monotonic())
            }
            Payload::Datagram(packet) => {
                let probe_port = self.probes.get_mut(usize::from(destination.is_ipv6()));
                let ProbePort { port, sent, .. } = probe_port.ok_or(SendError::Unreachable)?;
                *sent = true;
                port.send(&packet, destination, path)?;
                Ok(now.monotonic)
            }
        }
    }

    /// Sends all that QUIC probes have to send. What else the kernel does not take is lost on its way, which
    /// QUIC bears. Returns T1 of the probe `wanted`, if that is among it, or why that was not taken.
    fn send_quic(&mut self, wanted: Option<(SessionKey, u32)>) -> Result<Option<Monotonic>, SendError> {
        let Self { shard, waking, packet, .. } = self;
        let mut outcome = Ok(None);
        for _ in 0..QUIC_PACKETS_PER_TURN_MAX {
            let Some(transmit) = shard.poll_quic_transmit(clock::now(), packet) else { break };
            let ipv6 = transmit.destination.is_ipv6();
            let port = waking.iter_mut().find(|waking| {
                matches!(waking.role, Role::QuicProbes) && waking.port.local_address().is_ipv6() == ipv6
            });
            let octets = &packet[..transmit.len];
            let now = clock::now();
            if let Some(probe) = transmit.probe {
                shard.note_quic_sent(now.monotonic, probe);
            }
            let sent = match port {
                Some(waking) => waking.port.send(octets, transmit.destination, transmit.path),
                None => Err(SendError::Unreachable),
            };
            match (transmit.probe, sent) {
                (Some(probe), sent) if wanted == Some(probe) => outcome = sent.map(|()| Some(now.monotonic)),
                // It was counted when it was asked for, and had to wait.
                (Some(probe), Err(_)) => shard.discard_quic(now, probe),
                _ => {}
            }
        }
        outcome
    }

    fn handle_quic_timeout(&mut self, now: Now) {
        self.shard.handle_quic_timeout(now);
        self.send_quic(None).ok();
        for WakingPort { port, role, .. } in &mut self.waking {
            if let Role::Responder(responder) = role {
                responder.handle_timeout(now.monotonic);
                answer_quic(responder, &port.replies(), &mut self.packet);
            }
        }
    }

    /// Reads the replies that are there. Returns whether some may be left.
    fn read_replies(&mut self, now: Now) -> bool {
        let mut more = false;
        for ProbePort { port, read_at, .. } in self.probes.iter_mut().filter(|probe| probe.sent) {
            let result = read_port(port, &mut self.shard, now);
            // What an error kept from being read may be the reply to a probe whose time is over.
            let whole = matches!(result, Ok(Readout { more: false, dropped: 0 }));
            if !whole {
                self.shard.handle_blind(*read_at, now.monotonic);
            }
            let readout = result.unwrap_or_default();
            self.shard.handle_overflow(readout.dropped.into());
            if !readout.more {
                *read_at = now.monotonic;
            }
            more |= readout.more;
        }
        more
    }

    /// Serves what is there at one of the sockets to wait on.
    ///
    /// # Errors
    /// What the socket reports: about an earlier send, so there is nothing to do for it.
    pub fn handle_readable(&mut self, socket: usize) -> io::Result<()> {
        let Some(WakingPort { port, role, read_at }) = self.waking.get_mut(socket) else { return Ok(()) };
        let (shard, began) = (&mut self.shard, clock::monotonic());
        let read = match role {
            Role::Reflector => reflect(shard, port),
            Role::Responder(responder) => respond(shard, responder, port, &mut self.packet),
            Role::QuicProbes => read_quic(shard, port),
        };
        let is_ours = matches!(role, Role::QuicProbes);
        if let Ok(Readout { more, dropped }) = read {
            shard.handle_overflow(dropped.into());
            // What is left unread may be a probe of our own, whose time runs out in our own queue.
            match (more || dropped > 0, is_ours) {
                (false, _) => {}
                (true, true) => shard.handle_blind(*read_at, clock::monotonic()),
                (true, false) => shard.handle_own_blind(*read_at, clock::monotonic()),
            }
            if !more {
                *read_at = began;
            }
        }
        if is_ours {
            self.send_quic(None).ok();
        }
        read.map(|_| ())
    }
}

/// Answers what is there at a reflector.
fn reflect(shard: &mut Shard, port: &mut UdpPort) -> io::Result<Readout> {
    let local = port.local_address();
    port.read(|now, _, datagram, replies| {
        let ancillary = datagram.ancillary;
        let request = Request {
            source: datagram.source,
            ttl: ancillary.ttl,
            received_at: ancillary.received_at.unwrap_or(now.realtime),
        };
        let from = reply_source(local, ancillary.destination);
        shard.handle_request(
            now.monotonic,
            &request,
            datagram.truncated,
            datagram.octets,
            clock::now,
            |reply| replies.send(reply, request.source, from),
        );
    })
}

/// Takes in what came for QUIC probes.
fn read_quic(shard: &mut Shard, port: &mut UdpPort) -> io::Result<Readout> {
    let read = port.read(|now, arrivals, datagram, _| {
        let arrival = arrivals.arrival(datagram.ancillary.received_at);
        shard.handle_quic(now, arrival, datagram.source, datagram.truncated, datagram.octets);
    });
    if read.is_err() || port.is_bounced() {
        let now = clock::now();
        port.read_bounces(|bounce, reason| shard.handle_quic_bounce(now, bounce.destination, reason));
    }
    read
}

/// Answers what is there at a QUIC responder, each datagram before the next one: T3 is soon after T2.
fn respond(
    shard: &mut Shard,
    responder: &mut Responder,
    port: &mut UdpPort,
    packet: &mut Vec<u8>,
) -> io::Result<Readout> {
    port.read(|now, arrivals, datagram, replies| {
        let Datagram { source, ancillary, octets, truncated } = datagram;
        let arrival = arrivals.arrival(ancillary.received_at);
        let result = match truncated {
            true => None,
            false => Some(responder.handle_datagram(now, arrival, source, ancillary.destination, octets)),
        };
        shard.note_responded(result);
        answer_quic(responder, replies, packet);
    })
}

/// Sends all that a responder has to send.
fn answer_quic(responder: &mut Responder, replies: &Replies<'_>, packet: &mut Vec<u8>) {
    for _ in 0..QUIC_PACKETS_PER_TURN_MAX {
        let Some(transmit) = responder.poll_transmit(clock::now(), packet) else { return };
        // Lost on its way, as any packet may be.
        replies.send(&packet[..transmit.len], transmit.destination, transmit.source).ok();
    }
}

/// Errors at a probing socket that are looked into in one turn, each of which hides replies.
const ERRORS_PER_READ_MAX: usize = 8;

/// Reads the replies, and the errors that came back in place of some.
fn read_port(port: &mut UdpPort, shard: &mut Shard, now: Now) -> io::Result<Readout> {
    let mut errors = 0;
    loop {
        let result = port.read(|now, arrivals, datagram, _| {
            let arrival = arrivals.arrival(datagram.ancillary.received_at);
            shard.handle_reply(now, arrival, datagram.source, datagram.truncated, datagram.octets);
        });
        if result.is_ok() && !port.is_bounced() {
            return result;
        }
        let bounced = port.read_bounces(|bounce, reason| {
            shard.handle_bounce(now, bounce.destination, reason, bounce.quoted);
        });
        errors += 1;
        if result.is_ok() || !bounced || errors == ERRORS_PER_READ_MAX {
            return result;
        }
    }
}
