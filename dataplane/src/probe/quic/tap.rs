//! Listens in on one connection's 1-RTT packets: which number each of ours got, and which the peer
//! acknowledged after what delay.
//!
//! quinn-proto tells the RTT of an ACK only as RFC 9002 section 5.3 has it: smoothed, and with the peer's
//! delay *left in* wherever taking it out would go below the least RTT seen. The least RTT is one of the
//! handshake, which contains the server's cryptography; so on a short path a lone PING, acknowledged
//! after up to 25 ms, would be told as 25 ms. The ACK frame itself says what we need. It is read here as
//! quinn-proto's packet keys decrypt it.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

use super::frames::{self, Ack};

/// ACK frames kept between two looks: a datagram carries one 1-RTT packet, and one ACK is all it needs.
const ACKS_MAX: usize = 4;

/// One connection's tap. The lock is never contended: quinn's traits ask for `Sync`, but all that touch
/// it belong to one shard.
#[derive(Debug, Default)]
pub(super) struct Tap(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// The number of the newest 1-RTT packet of ours.
    sent: Option<u64>,
    acks: Vec<Ack>,
}

impl Tap {
    /// The number of the newest 1-RTT packet sent.
    pub(super) fn newest_sent(&self) -> Option<u64> {
        self.heard().sent
    }

    /// The oldest acknowledgement not passed yet.
    pub(super) fn peek_ack(&self) -> Option<Ack> {
        self.heard().acks.first().copied()
    }

    /// Passes that.
    pub(super) fn pass_ack(&self) {
        let mut heard = self.heard();
        if !heard.acks.is_empty() {
            heard.acks.remove(0);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's TLS with a tap on it.
pub(super) struct Tapped<C> {
    pub(super) inner: Arc<C>,
    pub(super) tap: Arc<Tap>,
}

impl<C: ClientConfig> ClientConfig for Tapped<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = self.inner.clone().start_session(version, server_name, params)?;
        Ok(Box::new(TappedSession { inner, tap: self.tap.clone(), keys_made: 0 }))
    }
}

struct TappedSession {
    inner: Box<dyn Session>,
    tap: Arc<Tap>,
    keys_made: u8,
}

impl TappedSession {
    fn tapped(&self, pair: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
        let tapped = |inner| -> Box<dyn PacketKey> { Box::new(TappedKey { inner, tap: self.tap.clone() }) };
        KeyPair { local: tapped(pair.local), remote: tapped(pair.remote) }
    }
}

impl Session for TappedSession {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buf)?;
        self.keys_made = self.keys_made.saturating_add(1);
        // First those of the handshake, then those of 1-RTT packets.
        if self.keys_made < 2 {
            return Some(keys);
        }
        Some(Keys { header: keys.header, packet: self.tapped(keys.packet) })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.inner.next_1rtt_keys()?;
        Some(self.tapped(keys))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct TappedKey {
    inner: Box<dyn PacketKey>,
    tap: Arc<Tap>,
}

impl PacketKey for TappedKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.tap.heard().sent = Some(packet);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)?;
        let mut heard = self.tap.heard();
        if let Some(ack) = frames::first_ack(payload).filter(|_| heard.acks.len() < ACKS_MAX) {
            heard.acks.push(ack);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// The exponent of the peer's ACK delays (RFC 9000 section 18.2, `ack_delay_exponent`).
pub(super) fn ack_delay_exponent(session: &dyn Session) -> u32 {
    let Ok(Some(parameters)) = session.transport_parameters() else {
        return frames::ACK_DELAY_EXPONENT_DEFAULT;
    };
    let mut octets = Vec::new();
    parameters.write(&mut octets);
    frames::ack_delay_exponent(&octets)
}
