//! A STAMP Session-Sender (RFC 8762 section 4.2): what stands in its packets and in the replies to them.

use super::account::{Closed, Reply};
use super::direction::{Attributed, Directions};
use super::event::Refusal;
use crate::clock::{Arrival, Realtime};
use crate::endpoint::Stamp;
use crate::wire::stamp::{ErrorEstimate, PACKET_LEN, ReflectorPacket, SenderPacket, quoted_sender};
use crate::wire::timestamp::{Format, Timestamp};

#[derive(Debug)]
pub(super) struct Sender {
    ssid: u16,
    directions: Directions,
}

impl Sender {
    pub(super) fn new(config: &Stamp, ssid: u16, history: usize) -> Self {
        Self { ssid, directions: Directions::new(config.reflector, history) }
    }

    /// T1 as it stands in the packet: only who saw that can answer.
    pub(super) fn token(now: Realtime) -> u64 {
        Timestamp::encode(now, Format::Ntp).0
    }

    pub(super) fn encode(&self, sequence: u32, token: u64) -> [u8; PACKET_LEN] {
        SenderPacket {
            sequence,
            timestamp: Timestamp(token),
            error_estimate: ErrorEstimate::OURS,
            ssid: self.ssid,
        }
        .encode()
    }

    /// The reply, and the reflector's own number of it.
    pub(super) fn decode(&self, arrival: Arrival, datagram: &[u8]) -> Result<(Reply, u32), Refusal> {
        let reply = ReflectorPacket::decode(datagram).map_err(|_| Refusal::Short)?;
        if reply.ssid != 0 && reply.ssid != self.ssid {
            return Err(Refusal::UnknownSession);
        }
        let token = reply.sender_timestamp.0;
        let turnaround_ns = reply.turnaround_ns();
        Ok((Reply { sequence: reply.sender_sequence, token, arrival, turnaround_ns }, reply.sequence))
    }

    /// Number and token of the probe that an error from the network quotes, if it quotes enough.
    pub(super) fn quoted(&self, octets: &[u8]) -> Option<(u32, u64)> {
        quoted_sender(octets).map(|(sequence, timestamp)| (sequence, timestamp.0))
    }

    pub(super) fn handle_accepted(&mut self, ours: u32, theirs: u32) {
        self.directions.handle_reply(ours, theirs);
    }

    pub(super) fn handle_closed(&mut self, closed: Closed) -> Option<Attributed> {
        self.directions.handle_closed(closed)
    }
}
