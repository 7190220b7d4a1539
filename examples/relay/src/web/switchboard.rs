//! Who is connected, and what goes between them and the shards' queues. Without sockets, tasks or clocks.

use std::collections::HashMap;

use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::placement::shard_of;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::record::{Ended, Lost, Recorder, Stranger, TurnedAway};
use crate::frames::{End, Frame, QUEUE_LEN};
use crate::session::ConnectionId;
use crate::token;
use crate::wire::{self, FromClient, FromRelay, SessionId};

/// Frames that wait for one browser; those beyond are lost to it.
pub const OUTBOX_LEN: usize = 64;

/// A packet for a browser.
pub struct Outgoing {
    /// When the shard handed it over.
    pub at: Monotonic,
    /// The packet.
    pub octets: Box<[u8]>,
}

/// A browser that may join, or has.
pub struct Line {
    /// As the shard knows it.
    pub connection: ConnectionId,
    /// What the shard answers and forwards.
    pub outbox: Receiver<Outgoing>,
}

/// Why nobody joins by that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoJoin {
    /// It is no join.
    NoToken,
    /// The queue to the shard is full.
    QueueFull,
}

/// What a browser's message means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// It goes on.
    GoesOn,
    /// That was its last word.
    Leaves,
}

/// What the switchboard knows of a browser.
struct Peer {
    shard: usize,
    /// From its welcome on.
    session: Option<SessionId>,
    outbox: Sender<Outgoing>,
}

/// See the module's head. Every method is bounded by the queues' lengths, and none waits.
pub struct Switchboard {
    shards: Vec<End>,
    peers: HashMap<ConnectionId, Peer>,
    /// Of them, those with a session.
    members: usize,
    /// Connections so far: no number is used twice.
    connections: u64,
    recorder: Recorder,
}

impl Switchboard {
    /// Nobody is connected yet. `shards` are the queues to each shard, in order.
    pub fn new(shards: Vec<End>, recorder: Recorder) -> Self {
        Self { shards, peers: HashMap::new(), members: 0, connections: 0, recorder }
    }

    /// Whether there is nobody to wait for.
    pub fn is_idle(&self) -> bool {
        self.peers.is_empty()
    }

    /// What it tells.
    pub fn recorder_mut(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// Asks a shard to let a browser in, by its first message. The token's room says which; whether the token holds
    /// is for the shard to say, and so it is with one that cannot be read.
    ///
    /// # Errors
    /// [`NoJoin`]: nobody was asked, and that is counted.
    pub fn join(&mut self, now: Monotonic, message: &[u8]) -> Result<Line, NoJoin> {
        let Ok(FromClient::Join { token, .. }) = FromClient::parse(message) else {
            self.recorder.stranger(Stranger::NoToken);
            return Err(NoJoin::NoToken);
        };
        let shards = self.shards.len();
        let shard = token::read(token).map_or(0, |claims| usize::from(shard_of(claims.room, shards).0));
        let connection = ConnectionId(self.connections);
        if self.push(shard, connection, now, message).is_err() {
            self.recorder.turned_away(TurnedAway::QueueFull);
            return Err(NoJoin::QueueFull);
        }
        self.connections += 1;
        let (sender, outbox) = channel(OUTBOX_LEN);
        self.peers.insert(connection, Peer { shard, session: None, outbox: sender });
        Ok(Line { connection, outbox })
    }

    /// Hands a member's message to its shard, or counts why not. Whose session it names is for the shard to check.
    pub fn take(&mut self, now: Monotonic, from: ConnectionId, message: &[u8]) -> Means {
        let Some(peer) = self.peers.get(&from) else { return Means::Leaves };
        match FromClient::parse(message) {
            Err(_) => self.recorder.lost(Lost::Malformed, 1),
            Ok(FromClient::Hello { .. } | FromClient::Join { .. }) => self.recorder.lost(Lost::Joined, 1),
            // It is said to the shard when the connection is closed.
            Ok(FromClient::Leave { session }) if Some(session) == peer.session => {
                self.recorder.taken();
                return Means::Leaves;
            }
            Ok(_) => {
                let shard = peer.shard;
                if self.push(shard, from, now, message).is_err() {
                    self.recorder.lost(Lost::QueueFull, 1);
                }
            }
        }
        Means::GoesOn
    }

    /// Hands on what the shards have for browsers, and signs life.
    pub fn poll(&mut self, now: Monotonic) {
        self.recorder.beat(now);
        for shard in 0..self.shards.len() {
            for _ in 0..QUEUE_LEN {
                let Ok(frame) = self.shards[shard].from.pop() else { break };
                self.deliver(now, shard, &frame);
            }
        }
    }

    /// Forgets a connection, and ends its session if it has one.
    pub fn close(&mut self, now: Monotonic, connection: ConnectionId, how: Ended) {
        let Some(peer) = self.peers.remove(&connection) else { return };
        let Some(session) = peer.session else { return };
        self.leave(now, peer.shard, connection, session);
        self.members -= 1;
        self.recorder.members(self.members);
        self.recorder.ended(how);
    }

    fn deliver(&mut self, now: Monotonic, shard: usize, frame: &Frame) {
        let packet = FromRelay::parse(frame.octets());
        let Some(peer) = self.peers.get_mut(&frame.connection) else {
            self.recorder.lost(Lost::NoMember, 1);
            if let Ok(FromRelay::Welcome { session, .. }) = packet {
                // It came too late: the shard is not to wait for somebody who is gone.
                self.leave(now, shard, frame.connection, session);
            }
            return;
        };
        match (packet, peer.session) {
            (Ok(FromRelay::Welcome { session, .. }), None) => {
                peer.session = Some(session);
                self.members += 1;
                self.recorder.members(self.members);
            }
            (Ok(FromRelay::Refused(refusal)), None) => self.recorder.refused(refusal),
            (_, None) => return self.recorder.lost(Lost::NoMember, 1),
            (_, Some(_)) => {}
        }
        let outgoing = Outgoing { at: frame.at, octets: frame.octets().into() };
        match peer.outbox.try_send(outgoing) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.recorder.lost(Lost::SlowClient, 1),
            Err(TrySendError::Closed(_)) => self.recorder.lost(Lost::NoMember, 1),
        }
    }

    /// If there is no room to say so, the session ends as idle.
    fn leave(&mut self, now: Monotonic, shard: usize, connection: ConnectionId, session: SessionId) {
        let frame = Frame::new(connection, now, &wire::leave(session));
        if frame.is_none_or(|frame| self.shards[shard].to.push(frame).is_err()) {
            self.recorder.lost(Lost::QueueFull, 1);
        }
    }

    fn push(&mut self, shard: usize, from: ConnectionId, now: Monotonic, packet: &[u8]) -> Result<(), ()> {
        let frame = Frame::new(from, now, packet).ok_or(())?;
        self.shards[shard].to.push(frame).map_err(|_| ())?;
        self.recorder.taken();
        Ok(())
    }
}
