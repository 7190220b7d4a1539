//! Ping and Pong, the datagrams of a QUIC probe and its answer by our own responder, each one DATAGRAM
//! frame (RFC 9221). This layout is the project's own. All fields are big-endian.
//!
//! ```text
//! Ping                               Pong
//!  0 magic "rs"             2         0 magic "rs"                  2
//!  2 version, 1             1         2 version, 1                  1
//!  3 kind, 0                1         3 kind, 1                     1
//!  4 sequence number        4         4 sequence number (copied)    4
//!  8 token                  8         8 token (copied)              8
//! 16 MBZ                   16        16 T2: when the Ping came      8
//!                                    24 T3: when the Pong left      8
//! ```
//!
//! Both are of one length, so that an answer is never longer than what it answers. T2 and T3 are in
//! nanoseconds of a clock of the responder's that means nothing to anybody else: only their difference is
//! to be used.

/// Octets of either.
pub const PACKET_LEN: usize = 32;

const MAGIC: [u8; 2] = *b"rs";
const VERSION: u8 = 1;
const PING: u8 = 0;
const PONG: u8 = 1;
const SEQUENCE: usize = 4;
const TOKEN: usize = 8;
const RECEIVED: usize = 16;
const SENT: usize = 24;
const _: () = assert!(SENT + 8 == PACKET_LEN);

/// Why octets are no Ping or Pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Of another length.
    #[error("datagram of {0} octets is no ping or pong; expected {PACKET_LEN}")]
    Length(usize),
    /// Without the magic number, or of another version or kind.
    #[error("datagram is of another protocol, version or kind")]
    Header,
}

/// A probe.
///
/// ```
/// use relayscope_dataplane::wire::ping::{Ping, Pong};
///
/// let ping = Ping { sequence: 7, token: 0x0102_0304_0506_0708 };
/// assert_eq!(Ping::decode(&ping.encode()), Ok(ping));
/// let pong = Pong::answer(ping, 1_000, 1_250);
/// assert_eq!(Pong::decode(&pong.encode()).map(|pong| pong.turnaround_ns()), Ok(Some(250)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Which probe.
    pub sequence: u32,
    /// Fresh for each probe; comes back in the Pong.
    pub token: u64,
}

impl Ping {
    /// The octets to send.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        encode(PING, *self, 0, 0)
    }

    /// Reads a Ping. What must be zero is not looked at.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        decode(PING, datagram).map(|(ping, _)| ping)
    }
}

/// The answer to a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Copied from the Ping.
    pub sequence: u32,
    /// Copied from the Ping.
    pub token: u64,
    /// T2, nanoseconds of the responder's clock.
    pub received_ns: u64,
    /// T3, of the same clock.
    pub sent_ns: u64,
}

impl Pong {
    /// The answer to a Ping that came at T2 and is answered at T3.
    pub fn answer(ping: Ping, received_ns: u64, sent_ns: u64) -> Self {
        Self { sequence: ping.sequence, token: ping.token, received_ns, sent_ns }
    }

    /// The octets to send.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let ping = Ping { sequence: self.sequence, token: self.token };
        encode(PONG, ping, self.received_ns, self.sent_ns)
    }

    /// Reads a Pong.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let (ping, packet) = decode(PONG, datagram)?;
        let at = |offset| u64::from_be_bytes(field(packet, offset));
        Ok(Self::answer(ping, at(RECEIVED), at(SENT)))
    }

    /// T3 - T2: how long the responder held the probe. `None` when that is negative.
    pub fn turnaround_ns(&self) -> Option<u64> {
        self.sent_ns.checked_sub(self.received_ns)
    }
}

fn encode(kind: u8, ping: Ping, received_ns: u64, sent_ns: u64) -> [u8; PACKET_LEN] {
    let mut out = [0; PACKET_LEN];
    out[..SEQUENCE].copy_from_slice(&[MAGIC[0], MAGIC[1], VERSION, kind]);
    out[SEQUENCE..TOKEN].copy_from_slice(&ping.sequence.to_be_bytes());
    out[TOKEN..RECEIVED].copy_from_slice(&ping.token.to_be_bytes());
    out[RECEIVED..SENT].copy_from_slice(&received_ns.to_be_bytes());
    out[SENT..].copy_from_slice(&sent_ns.to_be_bytes());
    out
}

fn decode(kind: u8, datagram: &[u8]) -> Result<(Ping, &[u8; PACKET_LEN]), DecodeError> {
    let packet: &[u8; PACKET_LEN] = datagram.try_into().map_err(|_| DecodeError::Length(datagram.len()))?;
    if packet[..SEQUENCE] != [MAGIC[0], MAGIC[1], VERSION, kind] {
        return Err(DecodeError::Header);
    }
    let sequence = u32::from_be_bytes(field(packet, SEQUENCE));
    Ok((Ping { sequence, token: u64::from_be_bytes(field(packet, TOKEN)) }, packet))
}

fn field<const N: usize>(packet: &[u8; PACKET_LEN], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&packet[offset..offset + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING_OCTETS: [u8; PACKET_LEN] = [
        b'r', b's', 1, 0, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_ping_is_laid_out_as_documented() {
        let ping = Ping { sequence: 9, token: 0x0102_0304_0506_0708 };
        assert_eq!(ping.encode(), PING_OCTETS);
        assert_eq!(Ping::decode(&PING_OCTETS), Ok(ping));
    }

    #[test]
    fn a_pong_is_laid_out_as_documented() {
        let pong = Pong { sequence: 9, token: 0x0102_0304_0506_0708, received_ns: 1, sent_ns: 258 };
        let mut octets = PING_OCTETS;
        octets[3] = 1;
        octets[23] = 1;
        octets[30..].copy_from_slice(&[1, 2]);
        assert_eq!(pong.encode(), octets);
        assert_eq!(Pong::decode(&octets), Ok(pong));
        assert_eq!(pong.turnaround_ns(), Some(257));
    }

    #[test]
    fn another_length_version_or_kind_is_refused() {
        assert_eq!(Ping::decode(&PING_OCTETS[..31]), Err(DecodeError::Length(31)));
        assert_eq!(Pong::decode(&PING_OCTETS), Err(DecodeError::Header));
        let mut octets = PING_OCTETS;
        octets[2] = 2;
        assert_eq!(Ping::decode(&octets), Err(DecodeError::Header));
    }

    #[test]
    fn a_clock_that_went_backwards_makes_no_turnaround() {
        let pong = Pong { sequence: 0, token: 0, received_ns: 2, sent_ns: 1 };
        assert_eq!(pong.turnaround_ns(), None);
    }
}
