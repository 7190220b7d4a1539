//! All clients of a load, in their rooms. Sans-IO: packets come in with their times, and go out through who drives it.

use std::net::SocketAddr;
use std::time::Duration;

use relayscope_dataplane::clock::{Arrival, Monotonic};
use relayscope_impairer::{Direction, Fate, FlowId, Path};

use super::counts::{Counts, Imposed, Latencies};
use super::handshake::{Handshake, Progress};
use super::ledger::{self, Fault, Ledger};
use super::playout::Playout;
use crate::wire::{self, FromClient, FromRelay, MemberId, Report, SessionId};

/// One client.
pub(super) struct Member {
    pub(super) port: u32,
    /// Where its next packet goes.
    pub(super) relay: SocketAddr,
    pub(super) handshake: Handshake,
    id: Option<SessionId>,
    /// By the sender's member.
    streams: Vec<Playout>,
    underruns: u32,
    /// The stamp of the newest answer, and when it came.
    ack: Option<(u64, Monotonic)>,
    /// Answers that came.
    pub(super) acks: u64,
}

/// See the module's head.
pub(super) struct Crowd {
    pub(super) members: Vec<Member>,
    /// By socket: who shakes hands through it. One at a time, as answers do not say whose they are.
    joining: Vec<Option<u32>>,
    pub(super) ledger: Ledger,
    pub(super) counts: Counts,
    pub(super) latencies: Latencies,
    pub(super) path: Option<Path>,
    /// Between two packets of one sender.
    pub(super) interval: Option<Duration>,
    /// Copies that are to come, if nothing is lost.
    pub(super) outstanding: i64,
    pub(super) copies_each: u32,
}

/// A packet that leaves.
pub(super) struct Leaving {
    pub(super) session: u32,
    pub(super) octets: Box<[u8]>,
}

impl Crowd {
    pub(super) fn new(ledger: Ledger, latencies: Latencies, path: Option<Path>, copies_each: u32) -> Self {
        Self {
            members: Vec::new(),
            joining: Vec::new(),
            ledger,
            counts: Counts::default(),
            latencies,
            path,
            interval: None,
            outstanding: 0,
            copies_each,
        }
    }

    /// One more client, at that socket, on its way to that room.
    pub(super) fn add(&mut self, port: u32, room: u32, handshake: Handshake, door: SocketAddr) {
        self.ledger.seat(port, room);
        let (id, streams, ack) = (None, Vec::new(), None);
        self.members.push(Member { port, relay: door, handshake, id, streams, underruns: 0, ack, acks: 0 });
        self.joining.resize(port as usize + 1, None);
    }

    /// Lets a client shake hands. Returns its packet that is due, if one is.
    pub(super) fn poll_handshake(&mut self, now: Monotonic, session: u32) -> Option<Vec<u8>> {
        let member = &mut self.members[session as usize];
        self.joining[member.port as usize] = Some(session);
        let (to, octets) = member.handshake.poll(now)?;
        member.relay = to;
        Some(octets)
    }

    /// Writes the next packet of a session. `None` if it is in no room.
    pub(super) fn write_data(&mut self, session: u32, octets: &mut Vec<u8>) -> Option<()> {
        let id = self.members[session as usize].id?;
        octets.clear();
        octets.extend([0; wire::DATA_HEAD_LEN]);
        let sequence = self.ledger.send(session, octets);
        octets[..wire::DATA_HEAD_LEN].copy_from_slice(&wire::data_head(id, sequence));
        Some(())
    }

    /// What a session says of itself. `None` if it is in no room.
    pub(super) fn report(&mut self, now: Monotonic, session: u32) -> Option<Report> {
        let member = &mut self.members[session as usize];
        let id = member.id?;
        let mut least = None;
        if let Some(interval) = self.interval {
            for stream in &mut member.streams {
                let ran_empty = stream.run_until(now, interval);
                member.underruns += u32::from(ran_empty);
                self.counts.underruns += u64::from(ran_empty);
                let depth = stream.depth(now, interval);
                least = least.into_iter().chain(depth).min();
            }
        }
        let (echo_ns, held) = member.ack.map_or((0, Duration::ZERO), |(stamp, at)| (stamp, now.since(at)));
        Some(Report {
            session: id,
            buffer_packets: least.map_or(0, |least| least.min(u16::MAX.into()) as u16),
            underruns: member.underruns,
            held_us: held.as_micros().min(u32::MAX.into()) as u32,
            echo_ns,
        })
    }

    /// The last packet of a session. `None` if it is in no room.
    pub(super) fn leave(&self, session: u32) -> Option<Vec<u8>> {
        self.members[session as usize].id.map(|id| wire::leave(id).to_vec())
    }

    /// Begins a slice: streams are played anew.
    pub(super) fn begin(&mut self, interval: Option<Duration>) {
        self.interval = interval;
        self.members.iter_mut().for_each(|member| member.streams.clear());
    }

    /// What a packet does to the counts when the kernel took it.
    pub(super) fn note_sent(&mut self, octets: &[u8]) {
        match FromClient::parse(octets) {
            Ok(FromClient::Data { .. }) => {
                self.counts.data += 1;
                self.counts.data_octets += octets.len() as u64;
                self.outstanding += i64::from(self.copies_each);
            }
            Ok(FromClient::Report(_)) => self.counts.reports += 1,
            _ => {}
        }
    }

    /// Puts a packet on the impaired path to the relay, where there is one; returns whether there is.
    pub(super) fn impair(&mut self, now: Monotonic, session: u32, octets: &[u8]) -> bool {
        let Some(path) = &mut self.path else { return false };
        let fate = path.handle(on_path(now), Direction::Forward, FlowId(session), octets);
        self.counts.there.note(fate);
        true
    }

    /// When something on the path is due.
    pub(super) fn path_due_at(&self) -> Option<Monotonic> {
        let due_at = self.path.as_ref()?.poll_timeout()?;
        Some(Monotonic(due_at.as_nanos() as u64))
    }

    /// The next packet that comes off the path and leaves for the relay; what came from it is taken in.
    pub(super) fn poll_path(&mut self, now: Monotonic) -> Option<Leaving> {
        loop {
            let copy = self.path.as_mut()?.poll_transmit(on_path(now))?;
            match copy.direction {
                Direction::Forward => {
                    return Some(Leaving { session: copy.flow.0, octets: copy.octets });
                }
                Direction::Reverse => self.take(now, copy.flow.0, &copy.octets),
            }
        }
    }

    /// Takes in what came through a socket: checked as it came, and then impaired.
    pub(super) fn handle(&mut self, port: u32, arrival: Arrival, octets: &[u8]) {
        self.check(port, arrival, octets);
        match &mut self.path {
            Some(path) => {
                let fate = path.handle(on_path(arrival.at), Direction::Reverse, FlowId(port), octets);
                self.counts.back.note(fate);
            }
            None => self.take(arrival.at, port, octets),
        }
    }

    fn check(&mut self, port: u32, arrival: Arrival, octets: &[u8]) {
        let fault = match FromRelay::parse(octets) {
            Ok(FromRelay::Forwarded { sender, session, sequence, payload }) => {
                self.counts.copies += 1;
                self.counts.copies_octets += octets.len() as u64;
                self.outstanding -= 1;
                match self.ledger.receive(port, &ledger::Copy { sender, session, sequence, payload }) {
                    Ok(delivery) if arrival.exact => {
                        self.latencies.record(delivery.sent_at, arrival);
                        return;
                    }
                    Ok(_) => {
                        self.counts.unstamped += 1;
                        return;
                    }
                    Err(fault) => fault,
                }
            }
            Ok(FromRelay::Ack { session, .. }) => match self.ledger.session(session) {
                Some(session) => {
                    self.counts.acks += 1;
                    self.members[session as usize].acks += 1;
                    return;
                }
                None => Fault::WrongSession,
            },
            Ok(_) => return,
            Err(_) => Fault::Malformed,
        };
        self.counts.faults[fault as usize] += 1;
    }

    /// What a client makes of a packet.
    fn take(&mut self, at: Monotonic, port: u32, octets: &[u8]) {
        match FromRelay::parse(octets) {
            Ok(FromRelay::Forwarded { sender, session, sequence, .. }) => {
                self.play(at, session, sender, sequence)
            }
            Ok(FromRelay::Ack { session, stamp_ns }) => {
                let session = self.ledger.session(session);
                if let Some(member) = session.and_then(|session| self.members.get_mut(session as usize)) {
                    member.ack = Some((stamp_ns, at));
                }
            }
            Ok(FromRelay::Retry { port: relay, cookie }) => {
                if let Some(member) = self.who_joins(port) {
                    member.handshake.handle_retry(relay, cookie);
                }
            }
            Ok(FromRelay::Welcome { member, session }) => self.welcome(port, member, session),
            Ok(FromRelay::Refused(refusal)) => {
                if let Some(member) = self.who_joins(port) {
                    member.handshake.handle_refused(refusal);
                }
            }
            // Counted when it came.
            Err(_) => {}
        }
    }

    fn play(&mut self, at: Monotonic, session: SessionId, sender: MemberId, sequence: u32) {
        let (Some(interval), Some(session)) = (self.interval, self.ledger.session(session)) else { return };
        let member = &mut self.members[session as usize];
        let stream = usize::from(sender.0);
        if member.streams.len() <= stream {
            member.streams.resize(stream + 1, Playout::default());
        }
        let ran_empty = member.streams[stream].take(at, interval, sequence);
        member.underruns += u32::from(ran_empty);
        self.counts.underruns += u64::from(ran_empty);
    }

    fn who_joins(&mut self, port: u32) -> Option<&mut Member> {
        let session = (*self.joining.get(port as usize)?)?;
        self.members.get_mut(session as usize)
    }

    /// A welcome that comes a second time is of who joined before through this socket.
    fn welcome(&mut self, port: u32, member: MemberId, id: SessionId) {
        if self.ledger.session(id).is_some() {
            return;
        }
        let Some(session) = self.joining.get(port as usize).copied().flatten() else { return };
        let joins = &mut self.members[session as usize];
        joins.handshake.handle_welcome(member, id);
        let Progress::Joined { member, session: id, relay } = joins.handshake.progress() else { return };
        (joins.id, joins.relay) = (Some(id), relay);
        if !self.ledger.join(session, member, id) {
            self.counts.faults[Fault::WrongSession as usize] += 1;
        }
    }
}

impl Imposed {
    fn note(&mut self, fate: Fate) {
        match fate {
            Fate::Passed { held, duplicated } => {
                self.held += u64::from(held);
                self.duplicated += u64::from(duplicated);
            }
            Fate::Lost | Fate::Partitioned => self.lost += 1,
            Fate::Overflowed => self.overflowed += 1,
        }
    }
}

/// The path's clock is the monotonic one.
fn on_path(at: Monotonic) -> Duration {
    Duration::from_nanos(at.0)
}
