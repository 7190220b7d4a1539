//! The packets, as they are on the wire: big-endian, the kind in the first octet.
//!
//! | kind | from | octets |
//! |---|---|---|
//! | 1 hello | client | 4 head, token |
//! | 2 retry | relay | 2 kind, port of the room's shard 2, cookie 24 |
//! | 3 join | client | 4 head, cookie 24, token |
//! | 4 welcome | relay | 2 kind, member 2, session 8 |
//! | 5 refused | relay | 1 kind, reason 1, 2 zero |
//! | 6 data | client | 4 head, session 8, sequence 4, payload |
//! | 7 forwarded | relay | 2 kind, member who sent it 2, session of the receiver 8, sequence 4, payload |
//! | 8 report | client | 2 kind, packets in its buffer 2, session 8, underruns 4, held for microseconds 4, echo 8 |
//! | 9 ack | relay | 4 head, session 8, stamp 8 |
//! | 10 leave | client | 4 head, session 8 |
//!
//! An answer is never longer than what it answers, so that a forged source is sent no more than was spent on it.
//! A session's number is known to client and relay alone: who cannot read the path cannot speak for either. The echo
//! of a report is the stamp of the newest ack, and the time held is from its arrival to the report: so the relay
//! learns the round-trip time without a clock shared with the client (RFC 3550, 6.4.1: LSR and DLSR).

use crate::cookie::{COOKIE_LEN, Cookie};
use crate::token::TOKEN_LEN_MIN;

/// Octets of a packet at most, heads included: fits an Ethernet frame under IPv6.
pub const PACKET_MAX: usize = 1452;
/// Before the payload of data.
pub const DATA_HEAD_LEN: usize = 16;
const HEAD_LEN: usize = 4;
const RETRY_LEN: usize = 4 + COOKIE_LEN;
const WELCOME_LEN: usize = 12;
const REFUSED_LEN: usize = 4;
const REPORT_LEN: usize = 28;
const ACK_LEN: usize = 20;
const LEAVE_LEN: usize = 12;

const _: () = assert!(RETRY_LEN <= HEAD_LEN + TOKEN_LEN_MIN, "a retry is no longer than its hello");
const _: () = assert!(WELCOME_LEN <= HEAD_LEN + COOKIE_LEN && ACK_LEN <= REPORT_LEN);

/// The first octet.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const RETRY: u8 = 2;
    pub(super) const JOIN: u8 = 3;
    pub(super) const WELCOME: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
    pub(super) const DATA: u8 = 6;
    pub(super) const FORWARDED: u8 = 7;
    pub(super) const REPORT: u8 = 8;
    pub(super) const ACK: u8 = 9;
    pub(super) const LEAVE: u8 = 10;
}

/// A session's number: a slot in its low 24 bits, unguessable above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// A member's number in its room, below the most members of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberId(pub u16);

/// What a client says of how it fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub session: SessionId,
    /// Packets in its playout buffer.
    pub buffer_packets: u16,
    /// How often that ran empty, since it joined.
    pub underruns: u32,
    /// From the arrival of the ack that is echoed to this report.
    pub held_us: u32,
    /// The newest ack's stamp; 0 before the first.
    pub echo_ns: u64,
}

/// Why a client may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The token cannot be read.
    Malformed = 1,
    /// It is not by who has the key.
    Forged = 2,
    /// It is over, or lasts for longer than is allowed.
    Expired = 3,
    /// Another client joined with it.
    Replayed = 4,
    /// The cookie is not this relay's, of another address, or too old.
    Cookie = 5,
    /// As many sessions or rooms as there may be.
    Full = 6,
    /// The room has as many members as it may.
    RoomFull = 7,
    /// The room lives on another shard.
    WrongShard = 8,
    /// As many tokens are remembered as can be: those that were joined with and have not expired.
    TokensFull = 9,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Forged,
        Self::Expired,
        Self::Replayed,
        Self::Cookie,
        Self::Full,
        Self::RoomFull,
        Self::WrongShard,
        Self::TokensFull,
    ];

    /// As a label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::Cookie => "cookie",
            Self::Full => "full",
            Self::RoomFull => "room_full",
            Self::WrongShard => "wrong_shard",
            Self::TokensFull => "tokens_full",
        }
    }

    /// Whether it is about who asks, rather than about the room there is.
    pub fn is_of_the_client(self) -> bool {
        !matches!(self, Self::Full | Self::RoomFull | Self::TokensFull)
    }
}

/// Octets that are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kind {kind:?} with {len} octets is no packet")]
pub struct Malformed {
    /// The first octet.
    pub kind: Option<u8>,
    /// How many there are.
    pub len: usize,
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// Asks for a cookie.
    Hello {
        /// Not checked yet.
        token: &'a [u8],
    },
    /// Opens a session.
    Join {
        /// Of the retry.
        cookie: Cookie,
        /// As in the hello.
        token: &'a [u8],
    },
    /// For the room's other members; the payload is not ours to read.
    Data {
        /// Who sends.
        session: SessionId,
        /// One more than of the packet before.
        sequence: u32,
    },
    /// How the client fares.
    Report(Report),
    /// Ends the session.
    Leave {
        /// Which.
        session: SessionId,
    },
}

/// What the relay sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRelay<'a> {
    /// Join there, with that.
    Retry {
        /// Of the shard on which the room lives.
        port: u16,
        /// Proves that answers reach the client.
        cookie: Cookie,
    },
    /// A session is open.
    Welcome {
        /// Who the client is in the room.
        member: MemberId,
        /// To be said in every packet.
        session: SessionId,
    },
    /// There is none.
    Refused(Refusal),
    /// Another member's packet.
    Forwarded {
        /// Who sent it.
        sender: MemberId,
        /// Of who receives it.
        session: SessionId,
        /// The sender's.
        sequence: u32,
        /// As it was sent.
        payload: &'a [u8],
    },
    /// A report was heard.
    Ack {
        /// Whose.
        session: SessionId,
        /// To be echoed.
        stamp_ns: u64,
    },
}

impl<'a> FromClient<'a> {
    /// Reads a packet. O(1).
    ///
    /// # Errors
    /// [`Malformed`]: not of these kinds, or too short or too long for its kind.
    #[inline]
    pub fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { kind: octets.first().copied(), len: octets.len() };
        if octets.len() > PACKET_MAX {
            return Err(malformed);
        }
        let session = || Some(SessionId(u64::from_be_bytes(octets.get(4..12)?.try_into().ok()?)));
        let parsed = match octets.first() {
            Some(&kind::DATA) if octets.len() >= DATA_HEAD_LEN => session()
                .zip(read_u32(octets, 12))
                .map(|(session, sequence)| Self::Data { session, sequence }),
            Some(&kind::HELLO) => octets.get(HEAD_LEN..).map(|token| Self::Hello { token }),
            Some(&kind::JOIN) => octets.get(HEAD_LEN..).and_then(|rest| {
                let (cookie, token) = rest.split_first_chunk()?;
                Some(Self::Join { cookie: Cookie(*cookie), token })
            }),
            Some(&kind::REPORT) if octets.len() == REPORT_LEN => Report::parse(octets).map(Self::Report),
            Some(&kind::LEAVE) if octets.len() == LEAVE_LEN => {
                session().map(|session| Self::Leave { session })
            }
            _ => None,
        };
        parsed.ok_or(malformed)
    }
}

impl Report {
    fn parse(octets: &[u8]) -> Option<Self> {
        Some(Self {
            buffer_packets: u16::from_be_bytes(octets.get(2..4)?.try_into().ok()?),
            session: SessionId(u64::from_be_bytes(octets.get(4..12)?.try_into().ok()?)),
            underruns: read_u32(octets, 12)?,
            held_us: read_u32(octets, 16)?,
            echo_ns: u64::from_be_bytes(octets.get(20..28)?.try_into().ok()?),
        })
    }

    /// As a packet.
    pub fn encode(&self) -> [u8; REPORT_LEN] {
        let mut octets = [0; REPORT_LEN];
        octets[0] = kind::REPORT;
        octets[2..4].copy_from_slice(&self.buffer_packets.to_be_bytes());
        octets[4..12].copy_from_slice(&self.session.0.to_be_bytes());
        octets[12..16].copy_from_slice(&self.underruns.to_be_bytes());
        octets[16..20].copy_from_slice(&self.held_us.to_be_bytes());
        octets[20..28].copy_from_slice(&self.echo_ns.to_be_bytes());
        octets
    }
}

impl<'a> FromRelay<'a> {
    /// Reads a packet. O(1).
    ///
    /// # Errors
    /// [`Malformed`]: not of these kinds, or too short or too long for its kind.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { kind: octets.first().copied(), len: octets.len() };
        let number = |at: usize| Some(u64::from_be_bytes(octets.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?));
        let parsed = match (octets.first(), octets.len()) {
            (Some(&kind::RETRY), RETRY_LEN) => octets
                .last_chunk()
                .zip(short(2))
                .map(|(cookie, port)| Self::Retry { port, cookie: Cookie(*cookie) }),
            (Some(&kind::WELCOME), WELCOME_LEN) => short(2).zip(number(4)).map(|(member, session)| {
                Self::Welcome { member: MemberId(member), session: SessionId(session) }
            }),
            (Some(&kind::REFUSED), REFUSED_LEN) => {
                Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == octets[1]).map(Self::Refused)
            }
            (Some(&kind::FORWARDED), DATA_HEAD_LEN..) => {
                short(2).zip(number(4)).zip(read_u32(octets, 12)).map(|((sender, session), sequence)| {
                    let (sender, session) = (MemberId(sender), SessionId(session));
                    Self::Forwarded { sender, session, sequence, payload: &octets[DATA_HEAD_LEN..] }
                })
            }
            (Some(&kind::ACK), ACK_LEN) => number(4)
                .zip(number(12))
                .map(|(session, stamp_ns)| Self::Ack { session: SessionId(session), stamp_ns }),
            _ => None,
        };
        parsed.ok_or(malformed)
    }
}

fn read_u32(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// Asks for a cookie.
pub fn hello(token: &[u8]) -> Vec<u8> {
    [&[kind::HELLO, 0, 0, 0], token].concat()
}

/// Asks for a session.
pub fn join(cookie: &Cookie, token: &[u8]) -> Vec<u8> {
    [&[kind::JOIN, 0, 0, 0], &cookie.0[..], token].concat()
}

/// The head of data, before its payload.
pub fn data_head(session: SessionId, sequence: u32) -> [u8; DATA_HEAD_LEN] {
    let mut octets = [0; DATA_HEAD_LEN];
    octets[0] = kind::DATA;
    octets[4..12].copy_from_slice(&session.0.to_be_bytes());
    octets[12..].copy_from_slice(&sequence.to_be_bytes());
    octets
}

/// Ends a session.
pub fn leave(session: SessionId) -> [u8; LEAVE_LEN] {
    let mut octets = [0; LEAVE_LEN];
    octets[0] = kind::LEAVE;
    octets[4..].copy_from_slice(&session.0.to_be_bytes());
    octets
}

pub(crate) fn retry(port: u16, cookie: &Cookie) -> [u8; RETRY_LEN] {
    let mut octets = [0; RETRY_LEN];
    octets[0] = kind::RETRY;
    octets[2..4].copy_from_slice(&port.to_be_bytes());
    octets[4..].copy_from_slice(&cookie.0);
    octets
}

pub(crate) fn welcome(member: MemberId, session: SessionId) -> [u8; WELCOME_LEN] {
    let mut octets = [0; WELCOME_LEN];
    octets[0] = kind::WELCOME;
    octets[2..4].copy_from_slice(&member.0.to_be_bytes());
    octets[4..].copy_from_slice(&session.0.to_be_bytes());
    octets
}

pub(crate) fn refused(refusal: Refusal) -> [u8; REFUSED_LEN] {
    [kind::REFUSED, refusal as u8, 0, 0]
}

pub(crate) fn ack(session: SessionId, stamp_ns: u64) -> [u8; ACK_LEN] {
    let mut octets = [0; ACK_LEN];
    octets[0] = kind::ACK;
    octets[4..12].copy_from_slice(&session.0.to_be_bytes());
    octets[12..].copy_from_slice(&stamp_ns.to_be_bytes());
    octets
}

/// Makes data, where it lies, a packet forwarded by `sender`. For whom, says [`address_to`].
#[inline]
pub(crate) fn forward(data: &mut [u8], sender: MemberId) {
    data[0] = kind::FORWARDED;
    data[2..4].copy_from_slice(&sender.0.to_be_bytes());
}

/// Writes into a packet made by [`forward`] for whom it is.
#[inline]
pub(crate) fn address_to(forwarded: &mut [u8], receiver: SessionId) {
    forwarded[4..12].copy_from_slice(&receiver.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(0x0102_0304_0506_0708);

    #[test]
    fn data_is_forwarded_at_the_same_length_with_sender_and_receiver() {
        let mut packet = [&data_head(SESSION, 9)[..], b"payload"].concat();
        assert_eq!(FromClient::parse(&packet), Ok(FromClient::Data { session: SESSION, sequence: 9 }));
        forward(&mut packet, MemberId(3));
        address_to(&mut packet, SessionId(77));
        let forwarded = FromRelay::Forwarded {
            sender: MemberId(3),
            session: SessionId(77),
            sequence: 9,
            payload: b"payload",
        };
        assert_eq!(FromRelay::parse(&packet), Ok(forwarded));
    }

    #[test]
    fn a_report_is_these_octets() {
        let report =
            Report { session: SESSION, buffer_packets: 0x0a0b, underruns: 5, held_us: 6, echo_ns: 7 };
        let octets =
            [8, 0, 0x0a, 0x0b, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(report.encode(), octets);
        assert_eq!(FromClient::parse(&octets), Ok(FromClient::Report(report)));
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let cookie = Cookie([9; COOKIE_LEN]);
        assert_eq!(FromRelay::parse(&retry(7800, &cookie)), Ok(FromRelay::Retry { port: 7800, cookie }));
        let (member, session) = (MemberId(2), SESSION);
        assert_eq!(FromRelay::parse(&welcome(member, session)), Ok(FromRelay::Welcome { member, session }));
        assert_eq!(FromRelay::parse(&ack(session, 5)), Ok(FromRelay::Ack { session, stamp_ns: 5 }));
        for refusal in Refusal::ALL {
            assert_eq!(FromRelay::parse(&refused(refusal)), Ok(FromRelay::Refused(refusal)));
        }
    }

    #[test]
    fn what_has_another_length_than_its_kind_is_no_packet() {
        let leave = leave(SESSION);
        assert_eq!(FromClient::parse(&leave), Ok(FromClient::Leave { session: SESSION }));
        for octets in [&leave[..11], &[6; 15][..], &[8; 27][..], &[3; 27][..], &[1][..], &[2; 28][..], &[]] {
            assert!(FromClient::parse(octets).is_err(), "{octets:?}");
        }
        assert!(FromClient::parse(&[6; PACKET_MAX + 1]).is_err());
    }
}
