//! A STAMP Session-Reflector (RFC 8762 section 4.3, RFC 8972), of both modes, sans-IO.
//!
//! A reply is never longer than its request and goes only to the request's source, so a forged source
//! gains an attacker nothing. What could be a reply itself is never answered, so two reflectors cannot
//! be set upon each other. No source gets more than its rate.
//!
//! An authenticated request is verified before anything of it is used. Its HMAC does not cover the source,
//! which whoever recorded it can forge; so it is of use for no longer than [`FRESHNESS`] about its T1, and in
//! that time is answered once, whatever source it comes from: the tags of those answered are kept. Within a
//! session there is also a window: see [`replay`](crate::wire::replay). All this is by one reflector: each
//! shard has one, and one that was restarted has forgotten. Whoever forwards a recorded packet faster
//! than its path does takes the answer from the true sender, as who drops packets does.
//!
//! Sessions of authenticated senders have a table of their own. One that is full refuses newcomers, who
//! would have no window. A recorded packet takes at most one place in it.

mod rate;
mod seen;
mod sessions;
mod table;

use std::net::SocketAddr;
use std::time::Duration;

use rate::RateLimit;
pub use seen::FRESHNESS;
use seen::Seen;
use sessions::Sessions;

use crate::clock::{Monotonic, Realtime};
use crate::key::{HmacKey, Keys};
use crate::wire::replay::{ReplayWindow, SentAt};
use crate::wire::stamp::{self, ErrorEstimate, PACKET_LEN, ReflectorPacket, SenderPacket};
use crate::wire::stamp_auth::{self, AUTHENTICATED_LEN, looks_authenticated, peek_ssid};
use crate::wire::timestamp::{Format, Timestamp};
use crate::wire::tlv::{self, Protection};

/// STAMP's well-known port (RFC 8762 section 4.1) and this project's unprivileged one.
const REFLECTOR_PORTS: [u16; 2] = [862, 8620];
/// A packet that carries T2 and T3 this close is a reply, whatever its port.
const REPLY_TURNAROUND_MAX_NS: u64 = 1_000_000_000;

/// Whether replies carry the reflector's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Counts per session, so that the sender can tell in which direction packets vanish.
    Stateful,
    /// Copies the sender's sequence number; keeps nothing but the replay windows of authenticated sessions.
    Stateless,
}

/// How a reflector behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReflectorConfig {
    /// Stateful by default.
    pub mode: Mode,
    /// Most sessions at once, of each mode. Until one falls idle, a further one is answered without a count of
    /// its own, as a stateless reflector does: whoever fills the table must not make others look dead. One
    /// that is authenticated is refused, for only who has a key can fill that table. Default 16384.
    pub sessions_max: usize,
    /// A session is forgotten after this without a packet (RFC 8762's REFWAIT). Default 15 min.
    pub session_idle: Duration,
    /// Ports this process reflects on, beside the well-known ones: never answered.
    pub own_ports: Vec<u16>,
    /// The keys of authenticated senders. None by default.
    pub keys: Keys,
    /// Answers nobody else. Off by default: who has no key is answered in unauthenticated mode.
    pub authenticated_only: bool,
    /// Answers per second to one source, an IPv4 address or an IPv6 /64, with a burst of one second's
    /// worth; apart for what is authenticated. 0 is no limit; sources on this host have none. Default 1000.
    pub rate_per_source: u32,
}

impl Default for ReflectorConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Stateful,
            sessions_max: 16_384,
            session_idle: Duration::from_secs(900),
            own_ports: Vec::new(),
            keys: Keys::default(),
            authenticated_only: false,
            rate_per_source: 1000,
        }
    }
}

/// Where and when a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who sent it.
    pub source: SocketAddr,
    /// The TTL or hop limit it arrived with, where the kernel told.
    pub ttl: Option<u8>,
    /// T2: when it arrived.
    pub received_at: Realtime,
}

/// Why a packet is not reflected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Shorter than a STAMP packet: a reply would be longer than the request.
    #[error("shorter than {PACKET_LEN} octets")]
    Short,
    /// Longer than the receive buffer.
    #[error("longer than any packet a path carries unfragmented")]
    Oversized,
    /// From a reflector's port, or a reply by its looks.
    #[error("a reply, or from a reflector's port")]
    Loop,
    /// Not authenticated, where only that is answered.
    #[error("not authenticated; this reflector answers only who has a key")]
    Unauthenticated,
    /// Authenticated by its looks, and no key here is that session's.
    #[error("authenticated with a key this reflector does not have")]
    NoKey,
    /// Made with another key, or changed on its way.
    #[error("HMAC is wrong; both ends must have the same key")]
    BadHmac,
    /// Authenticated, and there before, or too old to tell.
    #[error("was there before, or is too old to tell")]
    Replayed,
    /// Authenticated, with a T1 further from now than [`FRESHNESS`]: recorded, or a clock is wrong.
    #[error("sent more than {} s from now by our clock; set both clocks", FRESHNESS.as_secs())]
    Stale,
    /// Authenticated, and the table of such sessions is full.
    #[error("the table of authenticated sessions is full; raise sessions_max")]
    TableFull,
    /// Its source has had its share.
    #[error("its source asked for more than its rate")]
    RateLimited,
    /// The kernel did not take the reply.
    #[error("reply could not be sent")]
    SendError,
}

impl Refusal {
    /// All of them, in order of their series.
    pub const ALL: [Self; 11] = [
        Self::Short,
        Self::Oversized,
        Self::Loop,
        Self::Unauthenticated,
        Self::NoKey,
        Self::BadHmac,
        Self::Replayed,
        Self::Stale,
        Self::TableFull,
        Self::RateLimited,
        Self::SendError,
    ];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::Loop => "loop",
            Self::Unauthenticated => "unauthenticated",
            Self::NoKey => "no_key",
            Self::BadHmac => "bad_hmac",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::TableFull => "table_full",
            Self::RateLimited => "rate_limited",
            Self::SendError => "send_error",
        }
    }
}

/// A reply that lacks only T3, and the HMAC over it.
#[derive(Debug)]
#[must_use = "a reply without T3 is not finished"]
pub struct Reply<'a> {
    packet: &'a mut [u8],
    /// In authenticated mode.
    key: Option<&'a HmacKey>,
    /// Whether it is as the mode has it: a stateful reflector's table may be full.
    pub counted: bool,
}

impl<'a> Reply<'a> {
    /// Stamps T3, seals it in authenticated mode (a third of a microsecond), and hands out the octets: send
    /// them at once.
    pub fn send_at(self, now: Realtime) -> &'a [u8] {
        let t3 = Timestamp::encode(now, Format::Ntp);
        match self.key {
            Some(key) => stamp_auth::stamp_transmit(self.packet, t3, key),
            None => stamp::stamp_transmit(self.packet, t3),
        }
        self.packet
    }
}

/// Answers test packets.
///
/// O(1) per packet, always: idle sessions make room when their place is needed, and nothing is ever swept.
///
/// ```
/// use relayscope_dataplane::clock::{Monotonic, Realtime};
/// use relayscope_dataplane::reflector::{Reflector, ReflectorConfig, Refusal, Request};
///
/// let mut reflector = Reflector::new(ReflectorConfig::default());
/// let request = Request { source: "192.0.2.1:40000".parse()?, ttl: Some(61), received_at: Realtime(5) };
/// let mut packet = [0u8; 44];
/// let reply = reflector.reflect(Monotonic(1), &request, &mut packet)?.send_at(Realtime(6));
/// assert_eq!((reply.len(), reply[40]), (44, 61));
/// assert_eq!(reflector.reflect(Monotonic(2), &request, &mut [0; 43]).unwrap_err(), Refusal::Short);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reflector {
    config: ReflectorConfig,
    open: Sessions<()>,
    authenticated: Sessions<ReplayWindow>,
    seen: Seen,
    limit: RateLimit,
}

impl Reflector {
    /// A reflector without sessions.
    pub fn new(config: ReflectorConfig) -> Self {
        // What cannot come needs no table.
        let open_max = if config.authenticated_only { 0 } else { config.sessions_max };
        let authenticated_max = if config.keys.is_empty() { 0 } else { config.sessions_max };
        Self {
            open: Sessions::new(open_max, config.session_idle),
            authenticated: Sessions::new(authenticated_max, config.session_idle),
            seen: Seen::new(authenticated_max > 0),
            limit: RateLimit::new(config.rate_per_source),
            config,
        }
    }

    /// Turns the request in `packet` into its reply, in place: same length, TLVs and padding kept.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is answered or remembered then, but that a source without a place in a full table
    /// asked, which counts against its rate.
    pub fn reflect<'a>(
        &'a mut self,
        now: Monotonic,
        request: &Request,
        packet: &'a mut [u8],
    ) -> Result<Reply<'a>, Refusal> {
        if packet.len() < PACKET_LEN {
            return Err(Refusal::Short);
        }
        let is_authenticated = looks_authenticated(packet);
        if self.is_reflector_port(request.source.port()) || looks_like_a_reply(packet, is_authenticated) {
            return Err(Refusal::Loop);
        }
        // Where nothing else is answered, looks do not matter: octets that must be zero are to be ignored.
        if is_authenticated || (self.config.authenticated_only && packet.len() >= AUTHENTICATED_LEN) {
            return self.reflect_authenticated(now, request, packet);
        }
        if self.config.authenticated_only {
            return Err(Refusal::Unauthenticated);
        }
        self.reflect_open(now, request, packet)
    }

    /// Sessions in the tables.
    pub fn sessions(&self) -> usize {
        self.open.len() + self.authenticated.len()
    }

    fn reflect_open<'a>(
        &'a mut self,
        now: Monotonic,
        request: &Request,
        packet: &'a mut [u8],
    ) -> Result<Reply<'a>, Refusal> {
        let sender = SenderPacket::decode(packet).map_err(|_| Refusal::Short)?;
        if !self.limit.admit(now, request.source, false) {
            return Err(Refusal::RateLimited);
        }
        let own = match self.config.mode {
            Mode::Stateful => self.open.count(now, (request.source, sender.ssid)),
            Mode::Stateless => Some(sender.sequence),
        };
        let reply = answer(request, &sender, own);
        let (head, tail) = packet.split_at_mut(PACKET_LEN);
        head.copy_from_slice(&reply.encode());
        // Without a key an HMAC TLV is one more that is not known here.
        let key = self.config.keys.get(sender.ssid);
        tlv::reflect(tail, key.map(|key| protection(key, false, &reply)));
        Ok(Reply { packet, key: None, counted: own.is_some() })
    }

    fn reflect_authenticated<'a>(
        &'a mut self,
        now: Monotonic,
        request: &Request,
        packet: &'a mut [u8],
    ) -> Result<Reply<'a>, Refusal> {
        let ssid = peek_ssid(packet).ok_or(Refusal::Short)?;
        let key = self.config.keys.get(ssid).ok_or(Refusal::NoKey)?;
        let wrong = if looks_authenticated(packet) { Refusal::BadHmac } else { Refusal::Unauthenticated };
        let sender = SenderPacket::decode_authenticated(packet, key).map_err(|_| wrong)?;
        let session = (request.source, ssid);
        let sent_at = SentAt::new(sender.timestamp, sender.error_estimate.format());
        let tag = *packet[..AUTHENTICATED_LEN].last_chunk().ok_or(Refusal::Short)?;
        let received_at = Timestamp::encode(request.received_at, Format::Ntp);
        let received_at = SentAt::new(received_at, Format::Ntp);
        self.seen.check(received_at, sent_at, &tag)?;
        self.authenticated.check(now, &session, sender.sequence, sent_at).map_err(|_| Refusal::Replayed)?;
        if !self.limit.admit(now, request.source, true) {
            return Err(Refusal::RateLimited);
        }
        let count = self.authenticated.count(now, session, sender.sequence, sent_at);
        let count = count.ok_or(Refusal::TableFull)?;
        self.seen.insert(received_at, sent_at, &tag);
        let own = match self.config.mode {
            Mode::Stateful => Some(count),
            Mode::Stateless => Some(sender.sequence),
        };
        let reply = answer(request, &sender, own);
        let (head, tail) = packet.split_at_mut(AUTHENTICATED_LEN);
        head.copy_from_slice(&reply.encode_unsealed());
        tlv::reflect(tail, Some(protection(key, true, &reply)));
        Ok(Reply { packet, key: Some(key), counted: own.is_some() })
    }

    fn is_reflector_port(&self, port: u16) -> bool {
        REFLECTOR_PORTS.contains(&port) || self.config.own_ports.contains(&port)
    }
}

/// The reply but for T3, with the reflector's own number where it has one.
fn answer(request: &Request, sender: &SenderPacket, own: Option<u32>) -> ReflectorPacket {
    ReflectorPacket {
        sequence: own.unwrap_or(sender.sequence),
        timestamp: Timestamp(0),
        error_estimate: ErrorEstimate::OURS,
        ssid: sender.ssid,
        receive_timestamp: Timestamp::encode(request.received_at, Format::Ntp),
        sender_sequence: sender.sequence,
        sender_timestamp: sender.timestamp,
        sender_error_estimate: sender.error_estimate,
        // RFC 8762 section 4.3.1: 255 would claim no hop, so an unknown TTL is 0.
        sender_ttl: request.ttl.unwrap_or(0),
    }
}

fn protection<'a>(key: &'a HmacKey, required: bool, reply: &ReflectorPacket) -> Protection<'a> {
    Protection { key, required, request_sequence: reply.sender_sequence, reply_sequence: reply.sequence }
}

/// Where a sender's octets must be zero a reflector writes T2. Where they hold one, and a T3 shortly after
/// it stands in its place, a reflector wrote them. Random padding passes for that once in 2^32 packets.
fn looks_like_a_reply(packet: &[u8], is_authenticated: bool) -> bool {
    let reply = match is_authenticated {
        true => ReflectorPacket::peek_authenticated(packet),
        false => ReflectorPacket::decode(packet).ok(),
    };
    reply
        .and_then(|reply| reply.turnaround_ns())
        .is_some_and(|turnaround| turnaround < REPLY_TURNAROUND_MAX_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(source: &str) -> Request {
        Request { source: source.parse().unwrap(), ttl: Some(64), received_at: Realtime(1_000_000_000) }
    }

    fn sender(sequence: u32, ssid: u16) -> [u8; PACKET_LEN] {
        let timestamp = Timestamp::encode(Realtime(900_000_000), Format::Ntp);
        SenderPacket { sequence, timestamp, error_estimate: ErrorEstimate(0x8101), ssid }.encode()
    }

    fn reflect(
        reflector: &mut Reflector,
        from: &str,
        mut packet: [u8; 44],
    ) -> Result<ReflectorPacket, Refusal> {
        let reply = reflector.reflect(Monotonic(0), &request(from), &mut packet)?;
        Ok(ReflectorPacket::decode(reply.send_at(Realtime(1_000_500_000))).unwrap())
    }

    #[test]
    fn a_reply_carries_the_senders_fields_and_our_two_times() {
        let mut reflector = Reflector::new(ReflectorConfig::default());
        let reply = reflect(&mut reflector, "192.0.2.1:4000", sender(77, 5)).unwrap();
        assert_eq!((reply.sequence, reply.sender_sequence, reply.ssid, reply.sender_ttl), (0, 77, 5, 64));
        assert_eq!(reply.sender_error_estimate, ErrorEstimate(0x8101));
        assert_eq!(reply.sender_timestamp, Timestamp::encode(Realtime(900_000_000), Format::Ntp));
        assert_eq!(reply.receive_timestamp, Timestamp::encode(Realtime(1_000_000_000), Format::Ntp));
        assert!(reply.turnaround_ns().unwrap().abs_diff(500_000) <= 1);
    }

    #[test]
    fn a_stateful_reflector_counts_each_session_by_itself() {
        let mut reflector = Reflector::new(ReflectorConfig::default());
        let mut sequence =
            |from, seq, ssid| reflect(&mut reflector, from, sender(seq, ssid)).unwrap().sequence;
        assert_eq!(sequence("192.0.2.1:4000", 10, 1), 0);
        assert_eq!(sequence("192.0.2.1:4000", 12, 1), 1);
        assert_eq!(sequence("192.0.2.1:4000", 13, 2), 0, "another SSID");
        assert_eq!(sequence("192.0.2.1:4001", 14, 1), 0, "another port");
    }

    #[test]
    fn a_stateless_reflector_copies_the_sequence_number_and_keeps_nothing() {
        let mut reflector =
            Reflector::new(ReflectorConfig { mode: Mode::Stateless, ..ReflectorConfig::default() });
        assert_eq!(reflect(&mut reflector, "192.0.2.1:4000", sender(10, 1)).unwrap().sequence, 10);
        assert_eq!(reflector.sessions(), 0);
    }

    #[test]
    fn sessions_are_bounded_and_a_full_table_refuses_nobody() {
        let mut reflector = Reflector::new(ReflectorConfig { sessions_max: 1, ..ReflectorConfig::default() });
        let mut counted = |seconds: u64, from| {
            let now = Monotonic(seconds * 1_000_000_000);
            let mut packet = sender(7, 1);
            let reply = reflector.reflect(now, &request(from), &mut packet).unwrap();
            let counted = reply.counted;
            let packet = ReflectorPacket::decode(reply.send_at(Realtime(0))).unwrap();
            (counted, packet.sequence)
        };
        assert_eq!(counted(0, "192.0.2.1:1"), (true, 0));
        assert_eq!(counted(1, "192.0.2.1:2"), (false, 7), "answered, with the sender's own number");
        assert_eq!(counted(901, "192.0.2.1:2"), (true, 0));
    }

    #[test]
    fn replies_are_never_answered() {
        let config = ReflectorConfig { own_ports: vec![9000], ..ReflectorConfig::default() };
        let mut reflector = Reflector::new(config);
        for from in ["192.0.2.1:862", "192.0.2.1:8620", "192.0.2.1:9000"] {
            assert_eq!(reflect(&mut reflector, from, sender(0, 1)), Err(Refusal::Loop), "{from}");
        }
        let mut packet = sender(0, 1);
        let reply = reflector.reflect(Monotonic(0), &request("192.0.2.1:4000"), &mut packet).unwrap();
        reply.send_at(Realtime(1_000_500_000));
        assert_eq!(reflect(&mut reflector, "192.0.2.1:4001", packet), Err(Refusal::Loop));
        assert_eq!(reflector.sessions(), 1, "a refused packet opens no session");
    }

    #[test]
    fn a_longer_request_comes_back_at_its_length() {
        let mut packet = [0u8; 100];
        packet[..PACKET_LEN].copy_from_slice(&sender(0, 1));
        packet[PACKET_LEN..PACKET_LEN + 4].copy_from_slice(&[0x80, 9, 0, 52]);
        packet[99] = 0xee;
        let mut reflector = Reflector::new(ReflectorConfig::default());
        let reply = reflector.reflect(Monotonic(0), &request("192.0.2.1:4000"), &mut packet).unwrap();
        let octets = reply.send_at(Realtime(0));
        assert_eq!((octets.len(), octets[PACKET_LEN], octets[99]), (100, 0x80, 0xee));
    }
}
