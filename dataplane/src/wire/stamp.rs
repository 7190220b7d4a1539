//! STAMP test packets, unauthenticated mode: RFC 8762 section 4, with the SSID and TLVs of RFC 8972.
//! All fields are big-endian.
//!
//! ```text
//! Session-Sender                     Session-Reflector
//!  0 sequence number        4         0 sequence number             4
//!  4 timestamp (T1)         8         4 timestamp (T3)              8
//! 12 error estimate         2        12 error estimate              2
//! 14 SSID                   2        14 SSID (copied)               2
//! 16 MBZ                   28        16 receive timestamp (T2)      8
//!                                    24 sender sequence number      4
//!                                    28 sender timestamp (T1)       8
//!                                    36 sender error estimate       2
//!                                    38 MBZ                         2
//!                                    40 sender TTL, as received     1
//!                                    41 MBZ                         3
//! 44 TLVs or padding, if any         44 the same, copied
//! ```

use super::timestamp::{Format, Timestamp};

/// Octets of an unauthenticated test packet of either role, without TLVs.
pub const PACKET_LEN: usize = 44;

const SEQUENCE: usize = 0;
const TIMESTAMP: usize = 4;
const ERROR_ESTIMATE: usize = 12;
const SSID: usize = 14;
const RECEIVE_TIMESTAMP: usize = 16;
const SENDER_SEQUENCE: usize = 24;
const SENDER_TIMESTAMP: usize = 28;
const SENDER_ERROR_ESTIMATE: usize = 36;
const SENDER_TTL: usize = 40;
const _: () = assert!(SENDER_TTL + 4 == PACKET_LEN, "one octet of TTL and three that must be zero");

/// The error estimate field (RFC 4656 section 4.1.2, Z bit of RFC 8186).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    /// What we send: not claimed to be synchronised, NTP format, an error of 2^22 * 2^-32 s, about 1 ms.
    pub const OURS: Self = Self(22 << 8 | 1);

    /// The timestamp format this packet's own timestamps are in (bit 14, Z).
    pub fn format(self) -> Format {
        if self.0 & 0x4000 == 0 { Format::Ntp } else { Format::Ptp }
    }

    /// A multiplier of zero is invalid: such timestamps are not to be used.
    pub fn is_valid(self) -> bool {
        self.0 & 0x00ff != 0
    }
}

/// A datagram that is no STAMP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("datagram of {len} octets is no STAMP packet; expected at least {PACKET_LEN}")]
pub struct TooShort {
    /// Its length.
    pub len: usize,
}

/// A Session-Sender's packet.
///
/// ```
/// use relayscope_dataplane::wire::stamp::{ErrorEstimate, SenderPacket};
/// use relayscope_dataplane::wire::timestamp::Timestamp;
///
/// let packet = SenderPacket {
///     sequence: 7,
///     timestamp: Timestamp(0x0102_0304_0506_0708),
///     error_estimate: ErrorEstimate::OURS,
///     ssid: 9,
/// };
/// assert_eq!(SenderPacket::decode(&packet.encode()), Ok(packet));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderPacket {
    /// From 0, one more per packet.
    pub sequence: u32,
    /// T1: when it was sent.
    pub timestamp: Timestamp,
    /// How good T1 is, and its format.
    pub error_estimate: ErrorEstimate,
    /// STAMP session identifier (RFC 8972 section 3); 0 where it is not used.
    pub ssid: u16,
}

impl SenderPacket {
    /// The 44 octets to send.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut out = [0; PACKET_LEN];
        put(&mut out, SEQUENCE, self.sequence.to_be_bytes());
        put(&mut out, TIMESTAMP, self.timestamp.0.to_be_bytes());
        put(&mut out, ERROR_ESTIMATE, self.error_estimate.0.to_be_bytes());
        put(&mut out, SSID, self.ssid.to_be_bytes());
        out
    }

    /// Reads the first 44 octets; what follows is TLVs or padding.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn decode(datagram: &[u8]) -> Result<Self, TooShort> {
        let packet = first_octets(datagram)?;
        Ok(Self {
            sequence: u32::from_be_bytes(get(packet, SEQUENCE)),
            timestamp: Timestamp(u64::from_be_bytes(get(packet, TIMESTAMP))),
            error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, ERROR_ESTIMATE))),
            ssid: u16::from_be_bytes(get(packet, SSID)),
        })
    }
}

/// A Session-Reflector's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReflectorPacket {
    /// The reflector's own count if it is stateful, the sender's number if it is stateless.
    pub sequence: u32,
    /// T3: when it was reflected.
    pub timestamp: Timestamp,
    /// How good T2 and T3 are, and their format.
    pub error_estimate: ErrorEstimate,
    /// The sender's SSID; 0 from a reflector without RFC 8972.
    pub ssid: u16,
    /// T2: when the sender's packet arrived.
    pub receive_timestamp: Timestamp,
    /// The sender's sequence number.
    pub sender_sequence: u32,
    /// T1, in the sender's format.
    pub sender_timestamp: Timestamp,
    /// The sender's error estimate.
    pub sender_error_estimate: ErrorEstimate,
    /// TTL or hop limit with which the sender's packet arrived.
    pub sender_ttl: u8,
}

impl ReflectorPacket {
    /// The 44 octets to send.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut out = [0; PACKET_LEN];
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

    /// Reads the first 44 octets; what follows is TLVs or padding.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn decode(datagram: &[u8]) -> Result<Self, TooShort> {
        let packet = first_octets(datagram)?;
        Ok(Self {
            sequence: u32::from_be_bytes(get(packet, SEQUENCE)),
            timestamp: Timestamp(u64::from_be_bytes(get(packet, TIMESTAMP))),
            error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, ERROR_ESTIMATE))),
            ssid: u16::from_be_bytes(get(packet, SSID)),
            receive_timestamp: Timestamp(u64::from_be_bytes(get(packet, RECEIVE_TIMESTAMP))),
            sender_sequence: u32::from_be_bytes(get(packet, SENDER_SEQUENCE)),
            sender_timestamp: Timestamp(u64::from_be_bytes(get(packet, SENDER_TIMESTAMP))),
            sender_error_estimate: ErrorEstimate(u16::from_be_bytes(get(packet, SENDER_ERROR_ESTIMATE))),
            sender_ttl: packet[SENDER_TTL],
        })
    }

    /// The reflector's turnaround T3 - T2 in nanoseconds; `None` where it reports none that can be used:
    /// an invalid error estimate, a zero T2, or T3 before T2.
    pub fn turnaround_ns(&self) -> Option<u64> {
        if !self.error_estimate.is_valid() || self.receive_timestamp == Timestamp(0) {
            return None;
        }
        self.timestamp.since_ns(self.receive_timestamp, self.error_estimate.format())
    }
}

/// The SSID of a packet of either role; `None` where it is too short to be one.
pub fn peek_ssid(datagram: &[u8]) -> Option<u16> {
    first_octets(datagram).ok().map(|packet| u16::from_be_bytes(get(packet, SSID)))
}

/// Number and T1 of a sender's packet of which only the beginning is there, as an error from the network
/// quotes it.
pub fn quoted_sender(octets: &[u8]) -> Option<(u32, Timestamp)> {
    let (sequence, rest) = octets.split_first_chunk()?;
    let timestamp = rest.first_chunk()?;
    Some((u32::from_be_bytes(*sequence), Timestamp(u64::from_be_bytes(*timestamp))))
}

/// Writes T3 into an encoded reflector packet. A reflector calls it last, just before it sends.
pub fn stamp_transmit(packet: &mut [u8], at: Timestamp) {
    put(packet, TIMESTAMP, at.0.to_be_bytes());
}

fn first_octets(datagram: &[u8]) -> Result<&[u8; PACKET_LEN], TooShort> {
    datagram.first_chunk().ok_or(TooShort { len: datagram.len() })
}

fn get<const N: usize>(packet: &[u8; PACKET_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| packet[at + i])
}

fn put<const N: usize>(packet: &mut [u8], at: usize, octets: [u8; N]) {
    packet[at..at + N].copy_from_slice(&octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_octets_stand_where_rfc_8762_puts_them() {
        let packet = SenderPacket {
            sequence: 0x0102_0304,
            timestamp: Timestamp(0x1112_1314_1516_1718),
            error_estimate: ErrorEstimate(0x8001),
            ssid: 0xabcd,
        };
        let mut expected = [0u8; 44];
        expected[..16].copy_from_slice(&[
            1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x80, 0x01, 0xab, 0xcd,
        ]);
        assert_eq!(packet.encode(), expected);
    }

    #[test]
    fn reflector_octets_stand_where_rfc_8762_puts_them() {
        let packet = ReflectorPacket {
            sequence: 1,
            timestamp: Timestamp(2),
            error_estimate: ErrorEstimate(3),
            ssid: 4,
            receive_timestamp: Timestamp(5),
            sender_sequence: 6,
            sender_timestamp: Timestamp(7),
            sender_error_estimate: ErrorEstimate(8),
            sender_ttl: 64,
        };
        let octets = packet.encode();
        for (at, value) in [(3, 1), (11, 2), (13, 3), (15, 4), (23, 5), (27, 6), (35, 7), (37, 8), (40, 64)] {
            assert_eq!(octets[at], value, "octet {at}");
        }
        assert_eq!(octets.iter().filter(|octet| **octet != 0).count(), 9);
        assert_eq!(ReflectorPacket::decode(&octets), Ok(packet));
    }

    #[test]
    fn a_short_datagram_says_how_short() {
        let error = SenderPacket::decode(&[0; 43]).unwrap_err();
        assert_eq!(error.to_string(), "datagram of 43 octets is no STAMP packet; expected at least 44");
    }

    fn reflected(t2: u64, t3: u64, error_estimate: u16) -> ReflectorPacket {
        ReflectorPacket {
            sequence: 0,
            timestamp: Timestamp(t3),
            error_estimate: ErrorEstimate(error_estimate),
            ssid: 0,
            receive_timestamp: Timestamp(t2),
            sender_sequence: 0,
            sender_timestamp: Timestamp(0),
            sender_error_estimate: ErrorEstimate(1),
            sender_ttl: 0,
        }
    }

    #[test]
    fn turnaround_follows_the_reflectors_own_z_bit() {
        assert_eq!(reflected(1 << 32, 2 << 32, 0x0001).turnaround_ns(), Some(1_000_000_000));
        assert_eq!(reflected(1 << 32, 1 << 32 | 5, 0x4001).turnaround_ns(), Some(5));
    }

    #[test]
    fn an_unusable_turnaround_is_absent_not_zero() {
        assert_eq!(reflected(1 << 32, 2 << 32, 0x0100).turnaround_ns(), None, "multiplier 0");
        assert_eq!(reflected(0, 2 << 32, 0x0001).turnaround_ns(), None, "no T2");
        assert_eq!(reflected(2 << 32, 1 << 32, 0x0001).turnaround_ns(), None, "T3 before T2");
    }
}
