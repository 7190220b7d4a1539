//! The load: clients of one relay, on one thread, that send and take in what comes.
//!
//! Not `relay-load`, which knows every octet of what comes and sleeps while nothing is due: this one takes as little
//! of its core as can be, never sleeps, so that no copy costs the relay a wake on another core, and sends no bursts
//! after it was kept from its core, so that latencies are the relay's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use relayscope_benches::packet_loop::latencies_ns;
use relayscope_benches::process::monotonic_ns;
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::key::HmacKey;
use relayscope_example_relay::token::{Claims, NONCE_LEN, mint};
use relayscope_example_relay::wire::{DATA_HEAD_LEN, FromRelay, MemberId, SessionId, data_head, hello, join};

use crate::served::TOKEN_KEY;

/// Each packet makes four copies.
const ROOM_MEMBERS: usize = 5;
const ROOMS: usize = 50;
/// Of each packet.
pub(crate) const COPIES: u64 = ROOM_MEMBERS as u64 - 1;
const SESSIONS: usize = ROOMS * ROOM_MEMBERS;
/// Members of one room are on as many sockets.
const SOCKETS: usize = ROOM_MEMBERS;
/// Octets of a packet: 20 ms of speech at 64 kbit/s, and its head.
const PACKET_BYTES: usize = DATA_HEAD_LEN + 160;
/// Packets on their way at saturation: the relay always has a batch to read, and no socket overflows.
const WINDOW: u64 = 256;
/// Packets sent between two looks at the sockets.
const BURST: u64 = 32;
/// Of a paced load: who is late by more has been kept from its core, and what was due meanwhile is not sent.
const LATE_INTERVALS_MAX: u64 = 8;
/// After the last packet, until everything that will come is there.
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// Until an answer of the handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// Without any packet for so long, the relay is gone.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// All sessions with one relay.
pub(crate) struct Clients {
    relay: SocketAddr,
    ports: Vec<UdpPort>,
    sessions: Vec<Session>,
    next: usize,
    sent: u64,
    seen: Seen,
}

struct Session {
    id: SessionId,
    port: usize,
    sequence: u32,
}

/// What came.
struct Seen {
    /// By the slot of who receives, then by who sent: the number of the last copy.
    newest: Vec<(SessionId, [u32; ROOM_MEMBERS])>,
    copies: u64,
    /// By numbers that were passed over.
    missing: u64,
    /// By the kernel, at the clients' sockets.
    overflown: u64,
    latencies_ns: Histogram<u64>,
}

/// What one slice was.
pub(crate) struct Loaded {
    /// Packets sent.
    pub(crate) packets: u64,
    /// From the first to the last of them.
    pub(crate) elapsed: Duration,
    /// From just before a packet is sent to a copy's arrival at the kernel.
    pub(crate) latencies_ns: Histogram<u64>,
}

/// Over all slices.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Packets.
    pub(crate) sent: u64,
    /// Copies that came.
    pub(crate) copies: u64,
    /// Copies the kernel dropped at a client's socket.
    pub(crate) overflown: u64,
    /// Copies that did not come, these among them.
    pub(crate) missing: u64,
}

impl Clients {
    /// Joins all of them to their rooms.
    pub(crate) fn connect(relay: SocketAddr) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut ports: Vec<_> = (0..SOCKETS).map(|_| UdpPort::bind(anywhere).unwrap()).collect();
        let key = HmacKey::new(TOKEN_KEY).unwrap();
        let expires_at = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap()).as_secs() + 3000;
        let mut sessions = Vec::new();
        let mut newest = vec![(SessionId(0), [0; ROOM_MEMBERS]); SESSIONS];
        for n in 0..SESSIONS {
            let (room, port) = (n / ROOM_MEMBERS, n % ROOM_MEMBERS);
            let mut nonce = [0; NONCE_LEN];
            nonce[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let (room, name) = (format!("room-{room}"), format!("client-{n}"));
            let claims = Claims { expires_at, nonce, room: &room, name: &name };
            let token = mint(&key, &claims).unwrap();
            let cookie = ask(&mut ports[port], relay, &hello(&token), |answer| match answer {
                FromRelay::Retry { cookie, .. } => Some(cookie),
                _ => None,
            });
            let id = ask(&mut ports[port], relay, &join(&cookie, &token), |answer| match answer {
                FromRelay::Welcome { session, .. } => Some(session),
                _ => None,
            });
            newest[id.slot().index()].0 = id;
            sessions.push(Session { id, port, sequence: 0 });
        }
        let seen = Seen { newest, copies: 0, missing: 0, overflown: 0, latencies_ns: latencies_ns() };
        Self { relay, ports, sessions, next: 0, sent: 0, seen }
    }

    /// Sends as fast as the relay forwards.
    pub(crate) fn saturate(&mut self, time: Duration) -> Loaded {
        self.load(time, |clients, _| WINDOW.saturating_sub(clients.to_come().div_ceil(COPIES)).min(BURST))
    }

    /// Sends so many a second.
    pub(crate) fn pace(&mut self, per_second: f64, time: Duration) -> Loaded {
        let interval_ns = (1e9 / per_second) as u64;
        let mut due_ns = monotonic_ns();
        self.load(time, |_, now_ns| {
            if now_ns < due_ns {
                return 0;
            }
            let late_max_ns = LATE_INTERVALS_MAX * interval_ns;
            due_ns = due_ns.max(now_ns.saturating_sub(late_max_ns)) + interval_ns;
            1
        })
    }

    /// Sends what `how_many` says, for so long.
    fn load(&mut self, time: Duration, mut how_many: impl FnMut(&Self, u64) -> u64) -> Loaded {
        self.seen.latencies_ns.reset();
        let (sent, began_ns) = (self.sent, monotonic_ns());
        let mut now_ns = began_ns;
        let (mut heard_ns, mut port) = (began_ns, 0);
        while now_ns < began_ns + time.as_nanos() as u64 {
            for _ in 0..how_many(self, now_ns) {
                self.send();
            }
            let copies = self.seen.copies;
            self.read(port);
            port = (port + 1) % SOCKETS;
            now_ns = monotonic_ns();
            if self.seen.copies > copies {
                heard_ns = now_ns;
            }
            assert!(now_ns - heard_ns < SILENCE_MAX.as_nanos() as u64, "the relay forwards no more");
        }
        let elapsed = Duration::from_nanos(now_ns - began_ns);
        let packets = self.sent - sent;
        let end_ns = now_ns + SETTLE_MAX.as_nanos() as u64;
        while self.to_come() > 0 && monotonic_ns() < end_ns {
            (0..SOCKETS).for_each(|port| self.read(port));
        }
        self.give_up();
        Loaded { packets, elapsed, latencies_ns: self.seen.latencies_ns.clone() }
    }

    /// Copies that are on their way, those that are lost and not known to be among them.
    fn to_come(&self) -> u64 {
        COPIES * self.sent - self.seen.copies - self.seen.missing
    }

    /// What did not come is lost.
    fn give_up(&mut self) {
        for (n, receiver) in self.sessions.iter().enumerate() {
            let room = n - n % ROOM_MEMBERS;
            let (_, newest) = &mut self.seen.newest[receiver.id.slot().index()];
            for (sender, newest) in newest.iter_mut().enumerate().filter(|(sender, _)| room + sender != n) {
                let sent = self.sessions[room + sender].sequence;
                self.seen.missing += u64::from(sent - *newest);
                *newest = sent;
            }
        }
    }

    /// A packet of the next session.
    fn send(&mut self) {
        let session = &mut self.sessions[self.next];
        self.next = (self.next + 1) % SESSIONS;
        session.sequence += 1;
        self.sent += 1;
        let mut packet = [0x5a; PACKET_BYTES];
        packet[..DATA_HEAD_LEN].copy_from_slice(&data_head(session.id, session.sequence));
        packet[DATA_HEAD_LEN..][..8].copy_from_slice(&monotonic_ns().to_be_bytes());
        self.ports[session.port].replies().send(&packet, self.relay, None).unwrap();
    }

    fn read(&mut self, port: usize) {
        let seen = &mut self.seen;
        let read = self.ports[port].read(|_, arrivals, datagram, _| {
            let arrived = arrivals.arrival(datagram.ancillary.received_at).at;
            seen.take(arrived.0, &FromRelay::parse(datagram.octets).unwrap());
        });
        seen.overflown += u64::from(read.unwrap().dropped);
    }

    pub(crate) fn counts(&self) -> Counts {
        let Seen { copies, missing, overflown, .. } = self.seen;
        Counts { sent: self.sent, copies, overflown, missing }
    }
}

impl Seen {
    fn take(&mut self, arrived_ns: u64, packet: &FromRelay<'_>) {
        let FromRelay::Forwarded { sender: MemberId(sender), session, sequence, payload } = packet else {
            panic!("unasked: {packet:?}");
        };
        let (receiver, newest) = &mut self.newest[session.slot().index()];
        assert_eq!(receiver, session, "a copy for nobody here");
        let newest = &mut newest[usize::from(*sender)];
        assert!(sequence > newest, "{sequence} after {newest}");
        self.missing += u64::from(sequence - *newest - 1);
        *newest = *sequence;
        self.copies += 1;
        assert_eq!(payload.len(), PACKET_BYTES - DATA_HEAD_LEN);
        let sent_ns = u64::from_be_bytes(*payload.first_chunk().unwrap());
        self.latencies_ns.saturating_record(arrived_ns.saturating_sub(sent_ns));
    }
}

/// One step of the handshake, again until it is answered.
fn ask<T>(
    port: &mut UdpPort,
    relay: SocketAddr,
    packet: &[u8],
    take: impl Fn(FromRelay<'_>) -> Option<T>,
) -> T {
    let end_ns = monotonic_ns() + PATIENCE.as_nanos() as u64;
    let mut again_ns = 0;
    while monotonic_ns() < end_ns {
        if monotonic_ns() >= again_ns {
            port.replies().send(packet, relay, None).unwrap();
            again_ns = monotonic_ns() + 200_000_000;
        }
        let mut answer = None;
        port.read(|_, _, datagram, _| {
            answer = answer.take().or_else(|| take(FromRelay::parse(datagram.octets).unwrap()));
        })
        .unwrap();
        if let Some(answer) = answer {
            return answer;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("the relay does not answer");
}
