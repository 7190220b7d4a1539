//! STAMP test packets, authenticated mode: RFC 8762 sections 4.2.2, 4.3.2 and 4.4, with the SSID of
//! RFC 8972. All fields are big-endian, and what they mean is as in [`stamp`](super::stamp).
//!
//! ```text
//! Session-Sender                     Session-Reflector
//!  0 sequence number        4         0 sequence number             4
//!  4 MBZ                   12         4 MBZ                        12
//! 16 timestamp (T1)         8        16 timestamp (T3)              8
//! 24 error estimate         2        24 error estimate              2
//! 26 SSID                   2        26 SSID (copied)               2
//! 28 MBZ                   68        28 MBZ                         4
//!                                    32 receive timestamp (T2)      8
//!                                    40 MBZ                         8
//!                                    48 sender sequence number      4
//!                                    52 MBZ                        12
//!                                    64 sender timestamp (T1)       8
//!                                    72 sender error estimate       2
//!                                    74 MBZ                         6
//!                                    80 sender TTL, as received     1
//!                                    81 MBZ                        15
//! 96 HMAC                  16        96 HMAC                       16
//! 112 TLVs or padding, if any        112 the same, copied
//! ```
//!
//! The HMAC covers octets 0 to 95. Nothing of a packet is used before it is verified, but its length and,
//! where each SSID has its own key, the SSID. What follows octet 111 is covered by a TLV of its own; see
//! [`tlv`](super::tlv).

use super::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use super::timestamp::Timestamp;
use crate::key::{HmacKey, TAG_LEN};

/// Octets of an authenticated test packet of either role, without TLVs.
pub const AUTHENTICATED_LEN: usize = 112;

const SEQUENCE: usize = 0;
const TIMESTAMP: usize = 16;
const ERROR_ESTIMATE: usize = 24;
const SSID: usize = 26;
const RECEIVE_TIMESTAMP: usize = 32;
const SENDER_SEQUENCE: usize = 48;
const SENDER_TIMESTAMP: usize = 64;
const SENDER_ERROR_ESTIMATE: usize = 72;
const SENDER_TTL: usize = 80;
const HMAC: usize = 96;
const _: () = assert!(HMAC + TAG_LEN == AUTHENTICATED_LEN, "the tag is what comes last");

/// A datagram that is no authenticated STAMP packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Too short.
    #[error(
        "datagram of {len} octets is no authenticated STAMP packet; expected at least {AUTHENTICATED_LEN}"
    )]
    TooShort {
        /// Its length.
        len: usize,
    },
    /// Made with another key, or changed on its way.
    #[error("HMAC of the packet is wrong; both ends must have the same key")]
    BadHmac,
}

impl SenderPacket {
    /// The 112 octets to send.
    ///
    /// ```
    /// use relayscope_dataplane::key::HmacKey;
    /// use relayscope_dataplane::wire::stamp::{ErrorEstimate, SenderPacket};
    /// use relayscope_dataplane::wire::stamp_auth::AuthError;
    /// use relayscope_dataplane::wire::timestamp::Timestamp;
    ///
    /// let key = HmacKey::new(b"known to both ends")?;
    /// let error_estimate = ErrorEstimate::OURS;
    /// let packet = SenderPacket { sequence: 7, timestamp: Timestamp(8), error_estimate, ssid: 9 };
    /// let mut octets = packet.encode_authenticated(&key);
    /// assert_eq!(SenderPacket::decode_authenticated(&octets, &key), Ok(packet));
    /// octets[3] ^= 1;
    /// assert_eq!(SenderPacket::decode_authenticated(&octets, &key), Err(AuthError::BadHmac));
    /// # Ok::<(), relayscope_dataplane::key::KeyError>(())
    /// ```
    pub fn encode_authenticated(&self, key: &HmacKey) -> [u8; AUTHENTICATED_LEN] {
        let mut out = [0; AUTHENTICATED_LEN];
        put(&mut out, SEQUENCE, self.sequence.to_be_bytes());
        put(&mut out, TIMESTAMP, self.timestamp.0.to_be_bytes());
        put(&mut out, ERROR_ESTIMATE, self.error_estimate.0.to_be_bytes());
        put(&mut out, SSID, self.ssid.to_be_bytes());
        seal(&mut out, key);
        out
    }

    /// Verifies and reads the first 112 octets; what follows is TLVs or padding.
    ///
    /// # Errors
    /// [`AuthError`]; nothing of the packet was used then.
    pub fn decode_authenticated(datagram: &[u8], key: &HmacKey) -> Result<Self, AuthError> {
        let packet = verified(datagram, key)?;
        Ok(Self {
            sequence: u32::from_be_bytes(get(packet, SEQUENCE)),
            timestamp: Timestamp(u64::from_be_bytes(get(packet, TIMESTAMP))),
            error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, ERROR_ESTIMATE))),
            ssid: u16::from_be_bytes(get(packet, SSID)),
        })
    }
}

impl ReflectorPacket {
    /// The 112 octets to send.
    pub fn encode_authenticated(&self, key: &HmacKey) -> [u8; AUTHENTICATED_LEN] {
        let mut out = self.encode_unsealed();
        seal(&mut out, key);
        out
    }

    /// The 112 octets but for the HMAC, which [`stamp_transmit`] adds.
    pub(crate) fn encode_unsealed(&self) -> [u8; AUTHENTICATED_LEN] {
        let mut out = [0; AUTHENTICATED_LEN];
        put(&mut out, SEQUENCE, self.sequence.to_be_bytes());
        put(&mut out, TIMESTAMP, self.timestamp.0.to_be_bytes());
        put(&mut out, ERROR_ESTIMATE, self.error_estimate.0.to_be_bytes());
        put(&mut out, SSID, self.ssid.to_be_bytes());
        put(&mut out, RECEIVE_TIMESTAMP, self.receive_timestamp.0.to_be_bytes());
        put(&mut out, SENDER_SEQUENCE, self.sender_sequence.to_be_bytes());
        put(&mut out, SENDER_TIMESTAMP, self.sender_timestamp.0.to_be_bytes());
        put(&mut out, SENDER_ERROR_ESTIMATE, self.sender_error_estimate.0.to_be_bytes());
        out[SENDER_TTL] = self.sender_ttl;
        out
    }

    /// Verifies and reads the first 112 octets; what follows is TLVs or padding.
    ///
    /// # Errors
    /// [`AuthError`]; nothing of the packet was used then.
    pub fn decode_authenticated(datagram: &[u8], key: &HmacKey) -> Result<Self, AuthError> {
        verified(datagram, key).map(Self::read)
    }

    /// What an authenticated reply would say that nobody verified.
    pub(crate) fn peek_authenticated(datagram: &[u8]) -> Option<Self> {
        datagram.first_chunk().map(Self::read)
    }

    fn read(packet: &[u8; AUTHENTICATED_LEN]) -> Self {
        Self {
            sequence: u32::from_be_bytes(get(packet, SEQUENCE)),
            timestamp: Timestamp(u64::from_be_bytes(get(packet, TIMESTAMP))),
            error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, ERROR_ESTIMATE))),
            ssid: u16::from_be_bytes(get(packet, SSID)),
            receive_timestamp: Timestamp(u64::from_be_bytes(get(packet, RECEIVE_TIMESTAMP))),
            sender_sequence: u32::from_be_bytes(get(packet, SENDER_SEQUENCE)),
            sender_timestamp: Timestamp(u64::from_be_bytes(get(packet, SENDER_TIMESTAMP))),
            sender_error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, SENDER_ERROR_ESTIMATE))),
            sender_ttl: packet[SENDER_TTL],
        }
    }
}

/// The SSID of a packet of either role, not verified: to find whose key it is. `None` where it is too
/// short to be one.
pub fn peek_ssid(datagram: &[u8]) -> Option<u16> {
    let packet = datagram.first_chunk::<AUTHENTICATED_LEN>()?;
    Some(u16::from_be_bytes(get(packet, SSID)))
}

/// Number and T1 of a sender's packet of which only the beginning is there, as an error from the network
/// quotes it.
pub fn quoted_sender(octets: &[u8]) -> Option<(u32, Timestamp)> {
    let sequence = octets.first_chunk()?;
    let timestamp = octets.get(TIMESTAMP..)?.first_chunk()?;
    Some((u32::from_be_bytes(*sequence), Timestamp(u64::from_be_bytes(*timestamp))))
}

/// Whether a sender's packet is of authenticated mode by its looks: octets 4 to 15 are zero where an
/// unauthenticated one has T1 and an error estimate, which is never zero; T1 stands behind them.
pub fn looks_authenticated(datagram: &[u8]) -> bool {
    let Some(packet) = datagram.first_chunk::<AUTHENTICATED_LEN>() else { return false };
    get::<12>(packet, SEQUENCE + 4) == [0; 12] && get::<8>(packet, TIMESTAMP) != [0; 8]
}

/// Writes T3 into an encoded reflector packet, and the HMAC over it all. A reflector calls it last, just
/// before it sends. What is shorter than a packet stays as it is.
pub fn stamp_transmit(packet: &mut [u8], at: Timestamp, key: &HmacKey) {
    if let Some(packet) = packet.first_chunk_mut() {
        put(packet, TIMESTAMP, at.0.to_be_bytes());
        seal(packet, key);
    }
}

fn seal(packet: &mut [u8; AUTHENTICATED_LEN], key: &HmacKey) {
    let tag = key.tag(&[&packet[..HMAC]]);
    put(packet, HMAC, tag);
}

fn verified<'a>(datagram: &'a [u8], key: &HmacKey) -> Result<&'a [u8; AUTHENTICATED_LEN], AuthError> {
    let packet = datagram.first_chunk().ok_or(AuthError::TooShort { len: datagram.len() })?;
    let is_ours = key.verify(&[&packet[..HMAC]], &get(packet, HMAC));
    if is_ours { Ok(packet) } else { Err(AuthError::BadHmac) }
}

fn get<const N: usize>(packet: &[u8; AUTHENTICATED_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| packet[at + i])
}

fn put<const N: usize>(packet: &mut [u8; AUTHENTICATED_LEN], at: usize, octets: [u8; N]) {
    packet[at..at + N].copy_from_slice(&octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HmacKey {
        HmacKey::new(&[0x2a; 32]).unwrap()
    }

    fn reply() -> ReflectorPacket {
        ReflectorPacket {
            sequence: 1,
            timestamp: Timestamp(2),
            error_estimate: ErrorEstimate(3),
            ssid: 4,
            receive_timestamp: Timestamp(5),
            sender_sequence: 6,
            sender_timestamp: Timestamp(7),
            sender_error_estimate: ErrorEstimate(8),
            sender_ttl: 64,
        }
    }

    #[test]
    fn sender_octets_stand_where_rfc_8762_puts_them() {
        let packet = SenderPacket {
            sequence: 0x0102_0304,
            timestamp: Timestamp(0x1112_1314_1516_1718),
            error_estimate: ErrorEstimate(0x8001),
            ssid: 0xabcd,
        };
        let mut expected = [0u8; 96];
        expected[..4].copy_from_slice(&[1, 2, 3, 4]);
        expected[16..28]
            .copy_from_slice(&[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x80, 0x01, 0xab, 0xcd]);
        let octets = packet.encode_authenticated(&key());
        assert_eq!(octets[..96], expected);
        assert_eq!(octets[96..], key().tag(&[&expected]));
        assert_eq!(SenderPacket::decode_authenticated(&octets, &key()), Ok(packet));
        assert_eq!(peek_ssid(&octets), Some(0xabcd));
        assert_eq!(quoted_sender(&octets[..24]), Some((packet.sequence, packet.timestamp)));
        assert_eq!(quoted_sender(&octets[..23]), None);
    }

    #[test]
    fn reflector_octets_stand_where_rfc_8762_puts_them() {
        let octets = reply().encode_authenticated(&key());
        for (at, value) in [(3, 1), (23, 2), (25, 3), (27, 4), (39, 5), (51, 6), (71, 7), (73, 8), (80, 64)] {
            assert_eq!(octets[at], value, "octet {at}");
        }
        assert_eq!(octets[..96].iter().filter(|octet| **octet != 0).count(), 9);
        assert_eq!(ReflectorPacket::decode_authenticated(&octets, &key()), Ok(reply()));
    }

    #[test]
    fn t3_is_under_the_hmac() {
        let mut octets = reply().encode_unsealed();
        stamp_transmit(&mut octets, Timestamp(99), &key());
        let expected = ReflectorPacket { timestamp: Timestamp(99), ..reply() };
        assert_eq!(ReflectorPacket::decode_authenticated(&octets, &key()), Ok(expected));
    }

    #[test]
    fn every_bit_under_the_hmac_and_of_it_counts() {
        let octets = reply().encode_authenticated(&key());
        for bit in 0..octets.len() * 8 {
            let mut changed = octets;
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = ReflectorPacket::decode_authenticated(&changed, &key()).unwrap_err();
            assert_eq!(error, AuthError::BadHmac, "bit {bit}");
        }
        let other = HmacKey::new(&[0x2b; 32]).unwrap();
        assert_eq!(ReflectorPacket::decode_authenticated(&octets, &other), Err(AuthError::BadHmac));
    }

    #[test]
    fn a_short_datagram_says_how_short() {
        let error = SenderPacket::decode_authenticated(&[0; 111], &key()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "datagram of 111 octets is no authenticated STAMP packet; expected at least 112"
        );
    }

    #[test]
    fn modes_are_told_apart_by_what_the_other_never_has() {
        let mut packet =
            SenderPacket { sequence: 0, timestamp: Timestamp(1), error_estimate: ErrorEstimate(1), ssid: 0 };
        assert!(looks_authenticated(&packet.encode_authenticated(&key())));
        let padded = |packet: &SenderPacket| [&packet.encode()[..], &[0; 68]].concat();
        assert!(!looks_authenticated(&padded(&packet)));
        packet.timestamp = Timestamp(0);
        assert!(!looks_authenticated(&padded(&packet)));
        assert!(!looks_authenticated(&[0; 112]), "zeros are nobody's");
        assert!(!looks_authenticated(&[0; 44]));
    }
}
