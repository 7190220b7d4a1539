//! A STAMP Session-Sender (RFC 8762 section 4.2): what stands in its packets and in the replies to them.

use std::sync::Arc;

use super::Packet;
use super::account::{Closed, Reply};
use super::direction::{Attributed, Directions};
use super::event::Refusal;
use crate::clock::{Arrival, Realtime};
use crate::endpoint::Stamp;
use crate::key::HmacKey;
use crate::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket, quoted_sender};
use crate::wire::stamp_auth::{self, AuthError};
use crate::wire::timestamp::{Format, Timestamp};

#[derive(Debug)]
pub(super) struct Sender {
    ssid: u16,
    key: Option<Arc<HmacKey>>,
    directions: Directions,
}

impl Sender {
    pub(super) fn new(config: &Stamp, ssid: u16, history: usize) -> Self {
        let key = config.key.clone();
        Self { ssid, key, directions: Directions::new(config.reflector, history) }
    }

    /// T1 as it stands in the packet: only who saw that can answer.
    pub(super) fn token(now: Realtime) -> u64 {
        Timestamp::encode(now, Format::Ntp).0
    }

    pub(super) fn encode(&self, sequence: u32, token: u64) -> Packet {
        let (timestamp, error_estimate) = (Timestamp(token), ErrorEstimate::OURS);
        let packet = SenderPacket { sequence, timestamp, error_estimate, ssid: self.ssid };
        match &self.key {
            Some(key) => Packet::new(&packet.encode_authenticated(key)),
            None => Packet::new(&packet.encode()),
        }
    }

    /// The reply, and the reflector's own number of it.
    pub(super) fn decode(&self, arrival: Arrival, datagram: &[u8]) -> Result<(Reply, u32), Refusal> {
        let reply = match &self.key {
            Some(key) => ReflectorPacket::decode_authenticated(datagram, key).map_err(refusal)?,
            None => ReflectorPacket::decode(datagram).map_err(|_| Refusal::Short)?,
        };
        if reply.ssid != 0 && reply.ssid != self.ssid {
            return Err(Refusal::UnknownSession);
        }
        let token = reply.sender_timestamp.0;
        let turnaround_ns = reply.turnaround_ns();
        Ok((Reply { sequence: reply.sender_sequence, token, arrival, turnaround_ns }, reply.sequence))
    }

    /// Number and token of the probe that an error from the network quotes, if it quotes enough.
    pub(super) fn quoted(&self, octets: &[u8]) -> Option<(u32, u64)> {
        let quoted = match self.key {
            Some(_) => stamp_auth::quoted_sender(octets),
            None => quoted_sender(octets),
        };
        quoted.map(|(sequence, timestamp)| (sequence, timestamp.0))
    }

    pub(super) fn handle_accepted(&mut self, ours: u32, theirs: u32) {
        self.directions.handle_reply(ours, theirs);
    }

    /// The target is somewhere else now; the last probe to where it was is `sent`.
    pub(super) fn handle_moved(&mut self, sent: u32) {
        self.directions.restart(sent);
    }

    pub(super) fn handle_closed(&mut self, closed: Closed) -> Option<Attributed> {
        self.directions.handle_closed(closed)
    }
}

fn refusal(error: AuthError) -> Refusal {
    match error {
        AuthError::TooShort { .. } => Refusal::Short,
        AuthError::BadHmac => Refusal::Unauthentic,
    }
}
