//! A STUN client that asks for nothing but its own address (RFC 8489 section 2), once per probe and never
//! again for the same one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::account::Reply;
use super::event::Refusal;
use crate::clock::{Arrival, Monotonic};
use crate::wire::stun::{
    BindingResponse, HEADER_LEN, StunError, TransactionId, binding_request, quoted_transaction,
};

/// The sequence number is the first third of the transaction id; the rest is keyed, so that no one who did
/// not see the request can answer it.
#[derive(Debug, Default)]
pub(super) struct Client {
    key: RandomState,
    mapped: Option<SocketAddr>,
}

impl Client {
    /// 64 bits that are new with each probe and tell nothing of the next ones.
    pub(super) fn token(&self, sequence: u32, now: Monotonic) -> u64 {
        self.key.hash_one((sequence, now))
    }

    pub(super) fn encode(sequence: u32, token: u64) -> [u8; HEADER_LEN] {
        binding_request(TransactionId { high: sequence, low: token })
    }

    /// The reply, and the address the server saw us at. An error response is a reply, too: the server is
    /// there, and so is the path.
    pub(super) fn decode(arrival: Arrival, datagram: &[u8]) -> Result<(Reply, Option<SocketAddr>), Refusal> {
        let response = BindingResponse::decode(datagram).map_err(|error| match error {
            StunError::Short => Refusal::Short,
            StunError::Malformed | StunError::Fingerprint => Refusal::Malformed,
        })?;
        let TransactionId { high, low } = response.transaction;
        let reply = Reply { sequence: high, token: low, arrival, turnaround_ns: None };
        Ok((reply, response.mapped))
    }

    /// Number and token of the probe that an error from the network quotes, if it quotes enough.
    pub(super) fn quoted(octets: &[u8]) -> Option<(u32, u64)> {
        quoted_transaction(octets).map(|TransactionId { high, low }| (high, low))
    }

    /// Notes where we are seen. Returns the address if it is another one than before.
    pub(super) fn handle_mapped(&mut self, mapped: Option<SocketAddr>) -> Option<SocketAddr> {
        let mapped = mapped?;
        let before = self.mapped.replace(mapped)?;
        (before != mapped).then_some(mapped)
    }

    /// Seen from elsewhere, another address is no rebinding.
    pub(super) fn forget_mapped(&mut self) {
        self.mapped = None;
    }

    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }
}
