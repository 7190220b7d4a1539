//! Packets on their way between a shard and the web bridge: bounded queues that neither side waits for.

use relayscope_dataplane::clock::Monotonic;

use crate::session::ConnectionId;
use crate::wire::PACKET_MAX;

/// Packets on their way, in each direction.
pub const QUEUE_LEN: usize = 1024;

/// A packet of or for one connection, in place: a shard allocates nothing for it.
pub struct Frame {
    /// Whose.
    pub connection: ConnectionId,
    /// When it came to the bridge, or was handed to it.
    pub at: Monotonic,
    len: usize,
    octets: [u8; PACKET_MAX],
}

impl Frame {
    /// `None` if that are more octets than a packet has.
    pub fn new(connection: ConnectionId, at: Monotonic, packet: &[u8]) -> Option<Self> {
        let mut octets = [0; PACKET_MAX];
        octets.get_mut(..packet.len())?.copy_from_slice(packet);
        Some(Self { connection, at, len: packet.len(), octets })
    }

    /// The packet.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// The packet, to be written into.
    pub fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..self.len]
    }
}

/// One side of the two queues.
pub struct End {
    /// Out of this side.
    pub to: rtrb::Producer<Frame>,
    /// To this side.
    pub from: rtrb::Consumer<Frame>,
}

/// A pair of queues, by their ends.
pub fn queues() -> (End, End) {
    let (to, from_other) = rtrb::RingBuffer::new(QUEUE_LEN);
    let (to_other, from) = rtrb::RingBuffer::new(QUEUE_LEN);
    (End { to, from }, End { to: to_other, from: from_other })
}
