//! What becomes of a packet. Sans-IO: octets come in with the time, and go out through an [`Outlet`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use relayscope_dataplane::clock::{Monotonic, Now};
use relayscope_dataplane::placement::shard_of;

use crate::admission::{Admission, Keys};
use crate::cookie::Cookie;
use crate::instruments::{Dropped, Ended, Forwarded, Instruments, Opened};
use crate::room::{NoRoom, Rooms};
use crate::session::{Peer, Sessions, Verdict};
use crate::token;
use crate::wire::{self, FromClient, Refusal, Report, SessionId};

/// Ticks in which every slot is looked at once for a silent session.
const SWEEP_TICKS: usize = 200;

/// What one shard has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions: 1..=16777216, 10,000 by default.
    pub sessions_max: usize,
    /// Rooms, 10,000 by default.
    pub rooms_max: usize,
    /// Members of a room, 64 by default.
    pub room_members_max: u16,
    /// Packets a session may send per second, 1,000 by default.
    pub packets_per_second: u32,
    /// Handshake packets a source may send per second, 1,000 by default.
    pub handshakes_per_second: u32,
    /// After so long without a word a session ends, 30 s by default; seen to within 200 ticks, which are 10 s.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 10_000,
            rooms_max: 10_000,
            room_members_max: 64,
            packets_per_second: 1_000,
            handshakes_per_second: 1_000,
            idle: Duration::from_secs(30),
        }
    }
}

/// Where packets go.
pub trait Outlet {
    /// Hands octets on, without waiting.
    ///
    /// # Errors
    /// Why they went nowhere: they are lost.
    fn send(&mut self, to: Peer, octets: &[u8]) -> Result<(), Dropped>;

    /// The time now: when what was sent last has left.
    fn now(&self) -> Monotonic;
}

/// One shard's relay.
pub struct Relay<I> {
    /// Which of `ports` is ours.
    shard: usize,
    ports: Arc<[u16]>,
    idle: Duration,
    packet_cost: Duration,
    admission: Admission,
    sessions: Sessions,
    rooms: Rooms,
    sweep: usize,
    web_members: usize,
    instruments: I,
}

impl<I: Instruments> Relay<I> {
    /// The relay of shard `shard`; `ports` are those of all.
    pub fn new(shard: usize, ports: Arc<[u16]>, keys: Keys, limits: &Limits, mut instruments: I) -> Self {
        // Nobody is known to be there, which is not the same as nothing known.
        instruments.population(0, 0);
        let sessions = Sessions::new(shard, limits.sessions_max, Arc::clone(&keys.secret));
        Self {
            shard,
            ports,
            idle: limits.idle,
            packet_cost: Duration::from_secs(1) / limits.packets_per_second.max(1),
            admission: Admission::new(keys, limits.handshakes_per_second),
            sessions,
            rooms: Rooms::new(limits.rooms_max, limits.room_members_max),
            sweep: 0,
            web_members: 0,
            instruments,
        }
    }

    /// Members behind the web bridge.
    pub fn web_members(&self) -> usize {
        self.web_members
    }

    /// Whether there is anybody.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What it tells.
    pub fn instruments_mut(&mut self) -> &mut I {
        &mut self.instruments
    }

    /// Takes in a packet of `source` that came at `arrived`, and may write into it.
    #[inline]
    pub fn handle_packet(
        &mut self,
        now: Now,
        source: Peer,
        arrived: Monotonic,
        octets: &mut [u8],
        outlet: &mut impl Outlet,
    ) {
        match FromClient::parse(octets) {
            Ok(FromClient::Data { session, sequence }) => {
                let packet = Packet { session, sequence, source, arrived };
                self.handle_data(now.monotonic, &packet, octets, outlet);
            }
            Ok(FromClient::Report(report)) => self.handle_report(arrived, source, &report, outlet),
            Ok(FromClient::Hello { token }) => self.handle_hello(now.monotonic, source, token, outlet),
            Ok(FromClient::Join { cookie, token }) => self.handle_join(now, source, &cookie, token, outlet),
            Ok(FromClient::Leave { session }) => {
                if self.is_from(session, source) {
                    self.end(session, Ended::Left);
                }
            }
            Err(_) => self.instruments.dropped(Dropped::Malformed, 1),
        }
    }

    /// Lets time go by: ends what is silent, some slots at a time. To be called every tick.
    pub fn handle_timeout(&mut self, now: Now) {
        self.admission.handle_timeout(now);
        let since = Monotonic(now.monotonic.0.saturating_sub(self.idle.as_nanos() as u64));
        let some = self.sessions.slots().div_ceil(SWEEP_TICKS);
        let (silent, next) = self.sessions.silent(since, self.sweep, some);
        self.sweep = next;
        for session in silent {
            self.end(session, Ended::Idle);
        }
        self.instruments.tick(now.monotonic);
    }

    fn handle_data(&mut self, now: Monotonic, packet: &Packet, octets: &mut [u8], outlet: &mut impl Outlet) {
        let Some(sender) = self.sessions.get_mut(packet.session) else {
            return self.instruments.dropped(Dropped::UnknownSession, 1);
        };
        if sender.peer != packet.source {
            return self.instruments.dropped(Dropped::WrongSource, 1);
        }
        match sender.take(now, packet.sequence, self.packet_cost) {
            Verdict::Forward => {}
            Verdict::Repeated => return self.instruments.dropped(Dropped::Repeated, 1),
            Verdict::TooMany => return self.instruments.dropped(Dropped::RateLimited, 1),
        }
        let (room, member) = (sender.room, sender.member);
        wire::forward(octets, member);
        let mut copies = 0;
        for receiver in self.rooms.members(room).iter().flatten() {
            if *receiver == packet.session {
                continue;
            }
            let Some(session) = self.sessions.get(*receiver) else { continue };
            wire::address_to(octets, *receiver);
            match outlet.send(session.peer, octets) {
                Ok(()) => copies += 1,
                Err(reason) => self.instruments.dropped(reason, 1),
            }
        }
        let from_web = matches!(packet.source, Peer::Web(_));
        let forwarded = Forwarded { octets: octets.len(), copies, arrived: packet.arrived, from_web };
        self.instruments.forwarded(&forwarded, || outlet.now());
    }

    fn handle_report(&mut self, at: Monotonic, source: Peer, report: &Report, outlet: &mut impl Outlet) {
        if !self.is_from(report.session, source) {
            return;
        }
        let Some(session) = self.sessions.get_mut(report.session) else { return };
        let stamp = outlet.now();
        let Some(quality) = session.report(at, report, stamp, self.packet_cost) else {
            return self.instruments.dropped(Dropped::RateLimited, 1);
        };
        self.instruments.reported(report.session.slot(), &quality);
        self.answer(source, &wire::ack(report.session, stamp.0), outlet);
    }

    /// Answers with a cookie, wherever it came from: the answer is shorter, and nothing is kept.
    fn handle_hello(&mut self, now: Monotonic, source: Peer, token: &[u8], outlet: &mut impl Outlet) {
        let Peer::Udp(address) = source else {
            return self.instruments.dropped(Dropped::Malformed, 1);
        };
        if !self.admission.admits(now, address.ip(), false) {
            return self.instruments.dropped(Dropped::HandshakeRate, 1);
        }
        match token::read(token) {
            Ok(claims) => {
                let port = self.ports[self.shard_of(claims.room)];
                let cookie = self.admission.cookie(now, address.ip());
                self.answer(source, &wire::retry(port, &cookie), outlet);
            }
            Err(refusal) => {
                self.instruments.refused(refusal);
                self.answer(source, &wire::refused(refusal), outlet);
            }
        }
    }

    fn handle_join(
        &mut self,
        now: Now,
        source: Peer,
        cookie: &Cookie,
        token: &[u8],
        outlet: &mut impl Outlet,
    ) {
        let began_at = match source {
            Peer::Udp(address) => match self.check_address(now.monotonic, address.ip(), cookie) {
                Some(began_at) => Some(began_at),
                None => return,
            },
            Peer::Web(_) => None,
        };
        match self.join(now, source, began_at, token) {
            Ok((member, session)) => self.answer(source, &wire::welcome(member, session), outlet),
            Err(refusal) => {
                self.instruments.refused(refusal);
                self.answer(source, &wire::refused(refusal), outlet);
            }
        }
    }

    /// When the handshake began. Who shows no good cookie gets no answer: it may not be there at all.
    fn check_address(&mut self, now: Monotonic, address: IpAddr, cookie: &Cookie) -> Option<Monotonic> {
        let began_at = match self.admission.check_cookie(now, cookie, address) {
            Ok(began_at) => began_at,
            Err(refusal) => {
                self.instruments.refused(refusal);
                return None;
            }
        };
        if !self.admission.admits(now, address, true) {
            self.instruments.dropped(Dropped::HandshakeRate, 1);
            return None;
        }
        Some(began_at)
    }

    fn join(
        &mut self,
        now: Now,
        source: Peer,
        began_at: Option<Monotonic>,
        token: &[u8],
    ) -> Result<(wire::MemberId, SessionId), Refusal> {
        let (claims, used_by) = self.admission.check_token(now.realtime, token)?;
        if let Some(used_by) = used_by {
            // Its welcome was lost: the same client asks again.
            let same = self.sessions.get(used_by).filter(|session| session.peer == source);
            return same.map(|session| (session.member, session.id)).ok_or(Refusal::Replayed);
        }
        if self.shard_of(claims.room) != self.shard {
            return Err(Refusal::WrongShard);
        }
        if self.sessions.is_full() {
            return Err(Refusal::Full);
        }
        if !self.admission.has_room() {
            return Err(Refusal::TokensFull);
        }
        let (room, member) = self.rooms.place(claims.room).map_err(|no| match no {
            NoRoom::Rooms => Refusal::Full,
            NoRoom::Members => Refusal::RoomFull,
        })?;
        let opened = self.sessions.open(now.monotonic, source, room, member);
        let (slot, session) = opened.ok_or(Refusal::Full)?;
        self.rooms.enter(room, member, session);
        self.admission.note_joined(&claims, session);
        self.web_members += usize::from(matches!(source, Peer::Web(_)));
        let took = began_at.map(|began_at| now.monotonic.since(began_at));
        self.instruments.opened(now.monotonic, &Opened { slot, name: claims.name, room: claims.room, took });
        self.instruments.population(self.sessions.len(), self.rooms.len());
        Ok((member, session))
    }

    /// Whether that session speaks from there; counts if not.
    fn is_from(&mut self, session: SessionId, source: Peer) -> bool {
        let reason = match self.sessions.get(session) {
            Some(session) if session.peer == source => return true,
            Some(_) => Dropped::WrongSource,
            None => Dropped::UnknownSession,
        };
        self.instruments.dropped(reason, 1);
        false
    }

    fn end(&mut self, session: SessionId, how: Ended) {
        let Some(ended) = self.sessions.close(session) else { return };
        self.rooms.leave(ended.room, ended.member);
        self.web_members -= usize::from(matches!(ended.peer, Peer::Web(_)));
        self.instruments.ended(session.slot(), how);
        self.instruments.population(self.sessions.len(), self.rooms.len());
    }

    fn answer(&mut self, to: Peer, octets: &[u8], outlet: &mut impl Outlet) {
        if let Err(reason) = outlet.send(to, octets) {
            self.instruments.dropped(reason, 1);
        }
    }

    fn shard_of(&self, room: &str) -> usize {
        shard_of(room, self.ports.len()).0.into()
    }
}

/// Data, less its payload.
struct Packet {
    session: SessionId,
    sequence: u32,
    source: Peer,
    arrived: Monotonic,
}
