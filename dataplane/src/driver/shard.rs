//! Turns one shard: reads its sockets, lets it decide, sends what it says.

use std::io;
use std::time::Duration;

use super::clock;
use super::tcp::Connects;
use super::udp::{BindError, Readout, UdpPort};
use crate::clock::{Monotonic, Now};
use crate::probe::{Payload, SendError};
use crate::prober::{ProbeId, Transmit};
use crate::reflector::Request;
use crate::shard::{Command, Shard, reply_source};

/// Commands carried out in one turn, so that a long list of targets does not hold up a slot.
const COMMANDS_PER_TURN_MAX: usize = 64;
/// Probes sent in one turn, which is between two looks for replies: far fewer than the receive buffer of a
/// stock host holds, which is 512.
const SENDS_PER_TURN_MAX: usize = 128;

/// A socket probes leave from, and whether any has: what never sent has nothing to read.
struct ProbePort {
    port: UdpPort,
    sent: bool,
    /// When it was last read to the end.
    read_at: Monotonic,
}

/// A shard with its sockets and its queue of commands.
pub struct ShardDriver {
    shard: Shard,
    /// IPv4, then IPv6 where the host has it.
    probes: Vec<ProbePort>,
    reflectors: Vec<UdpPort>,
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
        shard: Shard,
        reflectors: Vec<UdpPort>,
        commands: rtrb::Consumer<Command>,
    ) -> Result<Self, BindError> {
        let ports = std::iter::once(UdpPort::ephemeral(false)?).chain(UdpPort::ephemeral(true).ok());
        let probes = ports.map(|port| ProbePort { port, sent: false, read_at: Monotonic(0) }).collect();
        let connects = Connects::new();
        Ok(Self { shard, probes, reflectors, connects, commands, planned: None })
    }

    /// The reflectors' sockets, to wait on. Replies at the others are read on the schedule's wakes.
    pub fn reflectors(&self) -> &[UdpPort] {
        &self.reflectors
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
        more |= self.send_due(now.monotonic);
        let now = clock::monotonic();
        let busy = more || !self.commands.is_empty();
        let mut planned = if busy { now } else { self.shard.poll_timeout(now) };
        if !self.connects.is_empty() {
            planned = planned.min(now + self.shard.slot());
        }
        self.planned = Some(planned);
        planned.since(now)
    }

    /// Sends some of what is due. Returns whether there may be more.
    fn send_due(&mut self, due_by: Monotonic) -> bool {
        for _ in 0..SENDS_PER_TURN_MAX {
            // Each probe is stamped with a clock read just before its send.
            let now = clock::now();
            let Some(transmit) = self.shard.poll_transmit(due_by, now) else { return false };
            let result = self.send(now, &transmit);
            let took = clock::monotonic().since(now.monotonic);
            self.shard.handle_sent(now, transmit.probe, took, result);
        }
        true
    }

    fn send(&mut self, now: Now, transmit: &Transmit) -> Result<(), SendError> {
        let Transmit { destination, path, deadline, .. } = *transmit;
        match transmit.payload {
            Payload::Connect => self.connects.begin(now, transmit.probe, destination, path, deadline),
            Payload::Datagram(packet) => {
                let probe_port = self.probes.get_mut(usize::from(destination.is_ipv6()));
                let ProbePort { port, sent, .. } = probe_port.ok_or(SendError::Unreachable)?;
                *sent = true;
                port.send(&packet, destination, path)
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

    /// Answers what is there at one reflector.
    ///
    /// # Errors
    /// What the socket reports: about an earlier reply, so there is nothing to do for it.
    pub fn reflect(&mut self, reflector: usize) -> io::Result<()> {
        let Some(port) = self.reflectors.get_mut(reflector) else { return Ok(()) };
        let (shard, local) = (&mut self.shard, port.local_address());
        let readout = port.read(|now, _, datagram, replies| {
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
        })?;
        shard.handle_overflow(readout.dropped.into());
        Ok(())
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
