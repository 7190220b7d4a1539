//! A STAMP Session-Reflector (RFC 8762 section 4.3, RFC 8972), sans-IO.
//!
//! A reply is never longer than its request and goes only to the request's source, so a forged source
//! gains an attacker nothing. What could be a reply itself is never answered, so two reflectors cannot
//! be set upon each other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::{Monotonic, Realtime};
use crate::wire::stamp::{
    ErrorEstimate, PACKET_LEN, ReflectorPacket, SenderPacket, flag_reflected_tlvs, stamp_transmit,
};
use crate::wire::timestamp::{Format, Timestamp};

/// STAMP's well-known port (RFC 8762 section 4.1) and this project's unprivileged one.
const REFLECTOR_PORTS: [u16; 2] = [862, 8620];
/// A packet that carries T2 and T3 this close is a reply, whatever its port.
const REPLY_TURNAROUND_MAX_NS: u64 = 1_000_000_000;

/// Whether replies carry the reflector's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Counts per session, so that the sender can tell in which direction packets vanish.
    Stateful,
    /// Copies the sender's sequence number; keeps nothing.
    Stateless,
}

/// How a reflector behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReflectorConfig {
    /// Stateful by default.
    pub mode: Mode,
    /// Most sessions at once; a further one is answered without a count of its own, as a stateless reflector
    /// does, until another falls idle: whoever fills the table must not make others look dead. Default 16384.
    pub sessions_max: usize,
    /// A session is forgotten after this without a packet (RFC 8762's REFWAIT). Default 15 min.
    pub session_idle: Duration,
    /// Ports this process reflects on, beside the well-known ones: never answered.
    pub own_ports: Vec<u16>,
}

impl Default for ReflectorConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Stateful,
            sessions_max: 16_384,
            session_idle: Duration::from_secs(900),
            own_ports: Vec::new(),
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
    /// The kernel did not take the reply.
    #[error("reply could not be sent")]
    SendError,
}

impl Refusal {
    /// All of them, in order of their series.
    pub const ALL: [Self; 4] = [Self::Short, Self::Oversized, Self::Loop, Self::SendError];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::Loop => "loop",
            Self::SendError => "send_error",
        }
    }
}

/// A reply that lacks only T3.
#[derive(Debug)]
#[must_use = "a reply without T3 is not finished"]
pub struct Reply<'a> {
    packet: &'a mut [u8],
    /// Whether it is as the mode has it: a stateful reflector's table may be full.
    pub counted: bool,
}

impl<'a> Reply<'a> {
    /// Stamps T3 and hands out the octets: send them at once.
    pub fn send_at(self, now: Realtime) -> &'a [u8] {
        stamp_transmit(self.packet, Timestamp::encode(now, Format::Ntp));
        self.packet
    }
}

/// Answers test packets.
///
/// O(1) per packet; when the table is full, a sweep of it at most once a second.
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
    sessions: HashMap<(SocketAddr, u16), SessionState>,
    swept_at: Option<Monotonic>,
}

#[derive(Debug)]
struct SessionState {
    next_sequence: u32,
    seen_at: Monotonic,
}

impl Reflector {
    /// A reflector without sessions.
    pub fn new(config: ReflectorConfig) -> Self {
        Self { config, sessions: HashMap::new(), swept_at: None }
    }

    /// Turns the request in `packet` into its reply, in place: same length, TLVs and padding kept.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then, and nothing is to be sent.
    pub fn reflect<'a>(
        &mut self,
        now: Monotonic,
        request: &Request,
        packet: &'a mut [u8],
    ) -> Result<Reply<'a>, Refusal> {
        let sender = SenderPacket::decode(packet).map_err(|_| Refusal::Short)?;
        if self.is_reflector_port(request.source.port()) || looks_like_a_reply(packet) {
            return Err(Refusal::Loop);
        }
        let own = match self.config.mode {
            Mode::Stateful => self.count(now, request.source, sender.ssid),
            Mode::Stateless => Some(sender.sequence),
        };
        let sequence = own.unwrap_or(sender.sequence);
        let reply = ReflectorPacket {
            sequence,
            timestamp: Timestamp(0),
            error_estimate: ErrorEstimate::OURS,
            ssid: sender.ssid,
            receive_timestamp: Timestamp::encode(request.received_at, Format::Ntp),
            sender_sequence: sender.sequence,
            sender_timestamp: sender.timestamp,
            sender_error_estimate: sender.error_estimate,
            // RFC 8762 section 4.3.1: 255 would claim no hop, so an unknown TTL is 0.
            sender_ttl: request.ttl.unwrap_or(0),
        };
        let (head, tail) = packet.split_at_mut(PACKET_LEN);
        head.copy_from_slice(&reply.encode());
        flag_reflected_tlvs(tail);
        Ok(Reply { packet, counted: own.is_some() })
    }

    /// Sessions in the table.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The session's next number; `None` when there is no room for the session.
    fn count(&mut self, now: Monotonic, source: SocketAddr, ssid: u16) -> Option<u32> {
        let idle = self.config.session_idle;
        if let Some(session) = self.sessions.get_mut(&(source, ssid)) {
            if now.since(session.seen_at) > idle {
                session.next_sequence = 0;
            }
            let sequence = session.next_sequence;
            session.next_sequence = sequence.wrapping_add(1);
            session.seen_at = now;
            return Some(sequence);
        }
        if self.sessions.len() >= self.config.sessions_max {
            self.sweep(now);
        }
        if self.sessions.len() >= self.config.sessions_max {
            return None;
        }
        self.sessions.insert((source, ssid), SessionState { next_sequence: 1, seen_at: now });
        Some(0)
    }

    fn sweep(&mut self, now: Monotonic) {
        let swept_lately = self.swept_at.is_some_and(|at| now.since(at) < Duration::from_secs(1));
        if swept_lately {
            return;
        }
        self.swept_at = Some(now);
        let idle = self.config.session_idle;
        self.sessions.retain(|_, session| now.since(session.seen_at) <= idle);
    }

    fn is_reflector_port(&self, port: u16) -> bool {
        REFLECTOR_PORTS.contains(&port) || self.config.own_ports.contains(&port)
    }
}

/// A sender's octets 16..24 must be zero; where they hold a T2 and octets 4..12 a T3 shortly after it, a
/// reflector wrote them. Random padding passes for that once in 2^32 packets.
fn looks_like_a_reply(packet: &[u8]) -> bool {
    ReflectorPacket::decode(packet)
        .ok()
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
