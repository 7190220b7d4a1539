//! Turns one shard: reads its sockets, lets it decide, sends what it says.

use std::io;
use std::time::Duration;

use super::clock;
use super::udp::{BindError, Readout, UdpPort};
use crate::clock::Monotonic;
use crate::probe::stamp::SendError;
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
        Ok(Self { shard, probes, reflectors, commands, planned: None })
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
            self.shard.handle_command(now.monotonic, command);
        }
        // Replies that already arrived must be seen before their probes are called lost, and what came
        // after `now` is not yet due.
        let mut more = self.read_replies(now.monotonic);
        self.shard.handle_timeout(now);
        more |= self.send_due(now.monotonic);
        let now = clock::monotonic();
        let busy = more || !self.commands.is_empty();
        let planned = if busy { now } else { self.shard.poll_timeout(now) };
        self.planned = Some(planned);
        planned.since(now)
    }

    /// Sends some of what is due. Returns whether there may be more.
    fn send_due(&mut self, due_by: Monotonic) -> bool {
        for _ in 0..SENDS_PER_TURN_MAX {
            // Each probe is stamped with a clock read just before its send.
            let now = clock::now();
            let Some(transmit) = self.shard.poll_transmit(due_by, now) else { return false };
            let result = match self.probes.get_mut(usize::from(transmit.destination.is_ipv6())) {
                Some(ProbePort { port, sent, .. }) => {
                    *sent = true;
                    port.send(&transmit.probe.packet, transmit.destination)
                }
                None => Err(SendError::Unreachable),
            };
            let took = clock::monotonic().since(now.monotonic);
            self.shard.handle_sent(now, &transmit, took, result);
        }
        true
    }

    /// Reads the replies that are there. Returns whether some may be left.
    fn read_replies(&mut self, now: Monotonic) -> bool {
        let mut more = false;
        for ProbePort { port, read_at, .. } in self.probes.iter_mut().filter(|probe| probe.sent) {
            let shard = &mut self.shard;
            let result = port.read(|now, arrivals, datagram, _| {
                let arrival = arrivals.arrival(datagram.ancillary.received_at);
                shard.handle_reply(now, arrival, datagram.source, datagram.truncated, datagram.octets);
            });
            // An error is about an earlier send, which times out by itself; but something may be left.
            let whole = matches!(result, Ok(Readout { more: false, dropped: 0 }));
            if !whole {
                shard.handle_blind(*read_at, now);
            }
            let readout = result.unwrap_or_default();
            shard.handle_overflow(readout.dropped.into());
            if !readout.more {
                *read_at = now;
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
