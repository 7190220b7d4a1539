//! What a shard tells of itself. The relay knows this trait alone; what becomes of it is up to who made it.

pub mod desk;
pub mod recorded;

use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;

use crate::session::{Quality, Slot};
use crate::wire::Refusal;

/// Why a packet, or a copy of one, went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// No packet of ours.
    Malformed,
    /// Of no session that there is.
    UnknownSession,
    /// Of a session that is somewhere else.
    WrongSource,
    /// Its number was here before, or is too old to tell.
    Repeated,
    /// Its session sends more than it may.
    RateLimited,
    /// Its source asks to join more often than it may.
    HandshakeRate,
    /// The socket was full: dropped by the kernel.
    ReceiveBuffer,
    /// The kernel did not take a copy or an answer.
    SendRefused,
    /// The web bridge did not keep up.
    BridgeFull,
}

impl Dropped {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::UnknownSession,
        Self::WrongSource,
        Self::Repeated,
        Self::RateLimited,
        Self::HandshakeRate,
        Self::ReceiveBuffer,
        Self::SendRefused,
        Self::BridgeFull,
    ];

    /// As a label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownSession => "unknown_session",
            Self::WrongSource => "wrong_source",
            Self::Repeated => "repeated",
            Self::RateLimited => "rate_limited",
            Self::HandshakeRate => "handshake_rate",
            Self::ReceiveBuffer => "receive_buffer",
            Self::SendRefused => "send_refused",
            Self::BridgeFull => "bridge_full",
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ended {
    /// The client said so.
    Left,
    /// Nothing was heard of it.
    Idle,
}

impl Ended {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Left, Self::Idle];

    /// As a label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Idle => "idle",
        }
    }
}

/// A packet that was forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    /// Octets of it, and of each copy.
    pub octets: usize,
    /// Copies that were handed on.
    pub copies: usize,
    /// When it came to the socket, or to the web bridge.
    pub arrived: Monotonic,
    /// Whether it came through the web bridge.
    pub from_web: bool,
}

/// A session that was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Where it lies.
    pub slot: Slot,
    /// As its token says.
    pub name: &'a str,
    /// Its room.
    pub room: &'a str,
    /// Since its cookie was given; `None` where there was none.
    pub took: Option<Duration>,
}

/// What a shard tells, on its own thread, from its packet path: nothing here may wait or allocate but on opening a
/// session.
pub trait Instruments {
    /// A packet was forwarded. `sent_at` tells when, for who wants to know: it reads a clock.
    fn forwarded(&mut self, packet: &Forwarded, sent_at: impl FnOnce() -> Monotonic);
    /// Packets, or copies, went nowhere.
    fn dropped(&mut self, reason: Dropped, packets: u64);
    /// Somebody was not let in.
    fn refused(&mut self, refusal: Refusal);
    /// A session was opened.
    fn opened(&mut self, now: Monotonic, session: &Opened<'_>);
    /// A client said how it fares.
    fn reported(&mut self, slot: Slot, quality: &Quality);
    /// A session ended.
    fn ended(&mut self, slot: Slot, how: Ended);
    /// How many sessions and rooms there are now.
    fn population(&mut self, sessions: usize, rooms: usize);
    /// Time goes by: called every tick, also while nothing comes.
    fn tick(&mut self, now: Monotonic);
}

/// Tells nobody: what the others are measured against.
pub struct Silent;

impl Instruments for Silent {
    #[inline]
    fn forwarded(&mut self, _packet: &Forwarded, _sent_at: impl FnOnce() -> Monotonic) {}
    #[inline]
    fn dropped(&mut self, _reason: Dropped, _packets: u64) {}
    fn refused(&mut self, _refusal: Refusal) {}
    fn opened(&mut self, _now: Monotonic, _session: &Opened<'_>) {}
    fn reported(&mut self, _slot: Slot, _quality: &Quality) {}
    fn ended(&mut self, _slot: Slot, _how: Ended) {}
    fn population(&mut self, _sessions: usize, _rooms: usize) {}
    fn tick(&mut self, _now: Monotonic) {}
}
