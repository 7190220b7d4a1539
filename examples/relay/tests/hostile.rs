//! What strangers do to a relay that runs, while its members talk: members lose nothing, and the counters say what
//! happened.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{park_timeout, scope};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use example_harness::{value, wait_for};
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::available_cores;
use relayscope_example_relay::cookie::{COOKIE_LEN, Cookie};
use relayscope_example_relay::server::{Config, Server};
use relayscope_example_relay::token::{Claims, mint};
use relayscope_example_relay::wire::{self, FromRelay, SessionId};

/// Far beyond what anything awaited here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Members of the one room.
const MEMBERS: usize = 4;
/// Each member sends one after this pause.
const PACE: Duration = Duration::from_millis(2);
/// Strangers send so many, then let the relay read them: nothing is to be lost in a socket here.
const BURST: usize = 64;
const BREATH: Duration = Duration::from_millis(2);

const FORGED: u64 = 500;
const REPLAYED: u64 = 500;
const MALFORMED: u64 = 2_000;
const FLOOD: u64 = 20_000;
const HALF_OPEN: u32 = 10_000;

fn key() -> HmacKey {
    HmacKey::new(&[1; 32]).unwrap()
}

fn token(number: u64, room: &str) -> Vec<u8> {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let expires_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let name = format!("client-{number}");
    mint(&key(), &Claims { expires_at, nonce, room, name: &name }).unwrap()
}

/// A client of the relay, at an address of its own.
struct Client {
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Client {
    fn at(address: Ipv4Addr, relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, relay }
    }

    fn send(&self, packet: &[u8]) {
        assert_eq!(self.socket.send_to(packet, self.relay).unwrap(), packet.len());
    }

    /// The next packet, or a panic.
    fn hear(&self) -> Vec<u8> {
        let mut octets = [0; 2048];
        let len = self.recv(&mut octets).unwrap();
        octets[..len].to_vec()
    }

    /// Waits once more where a signal ended the wait: the executors in this process have theirs.
    fn recv(&self, octets: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.recv(octets) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }

    fn cookie(&self, token: &[u8]) -> Cookie {
        self.send(&wire::hello(token));
        match FromRelay::parse(&self.hear()) {
            Ok(FromRelay::Retry { port, cookie }) if port == self.relay.port() => cookie,
            other => panic!("{other:?}"),
        }
    }

    fn join(&self, token: &[u8]) -> SessionId {
        self.send(&wire::join(&self.cookie(token), token));
        match FromRelay::parse(&self.hear()) {
            Ok(FromRelay::Welcome { session, .. }) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Sends many, letting the relay read them in between.
    fn send_all(&self, packets: impl Iterator<Item = Vec<u8>>) {
        for (n, packet) in packets.enumerate() {
            self.send(&packet);
            if n % BURST == BURST - 1 {
                park_timeout(BREATH);
            }
        }
    }

    /// Everything that came, thrown away: how many packets, and their octets.
    fn drain(&self) -> (u64, usize) {
        self.socket.set_nonblocking(true).unwrap();
        let (mut packets, mut octets) = (0, 0);
        loop {
            match self.recv(&mut [0; 2048]) {
                Ok(len) => (packets, octets) = (packets + 1, octets + len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.socket.set_nonblocking(false).unwrap();
        (packets, octets)
    }
}

/// A member that talks until it is told to stop, and what it heard of the others: sender's session and number.
struct Member {
    client: Client,
    session: SessionId,
}

impl Member {
    /// Talks, and listens; returns how many it sent, and whom and what it heard.
    fn talk(&self, stop: &AtomicBool) -> (u32, HashSet<(u16, u32)>) {
        self.client.socket.set_read_timeout(Some(PACE)).unwrap();
        let (mut sent, mut heard) = (0, HashSet::new());
        while !stop.load(Ordering::Relaxed) {
            self.client.send(&[&wire::data_head(self.session, sent)[..], b"for the room"].concat());
            sent += 1;
            let until = Instant::now() + PACE;
            while Instant::now() < until {
                self.listen_once(&mut heard);
            }
        }
        while self.listen_once(&mut heard) {}
        (sent, heard)
    }

    /// Takes in what comes next, if something does within [`PACE`].
    fn listen_once(&self, heard: &mut HashSet<(u16, u32)>) -> bool {
        let mut octets = [0; 2048];
        let Ok(len) = self.client.recv(&mut octets) else { return false };
        match FromRelay::parse(&octets[..len]) {
            Ok(FromRelay::Forwarded { sender, session, sequence, payload: b"for the room" }) => {
                assert_eq!(session, self.session);
                assert!(heard.insert((sender.0, sequence)), "{sender:?} {sequence} came twice");
            }
            other => panic!("{other:?}"),
        }
        true
    }
}

#[test]
fn members_lose_nothing_to_strangers_and_every_packet_of_theirs_is_counted() {
    let core = available_cores().last().copied().into_iter().collect();
    let server = Server::start(Config::new(core, key())).unwrap();
    let (relay, http) = (server.addresses()[0], server.http_address());
    let member = |number: u64| {
        let client = Client::at(Ipv4Addr::LOCALHOST, relay);
        let session = client.join(&token(number, "lobby"));
        Member { client, session }
    };
    let members: Vec<_> = (0..MEMBERS as u64).map(member).collect();
    let stop = AtomicBool::new(false);
    let (heard, flooded) = scope(|scope| {
        let talking: Vec<_> = members.iter().map(|member| scope.spawn(|| member.talk(&stop))).collect();
        forge(relay);
        replay(relay, &members[0]);
        send_nonsense(relay);
        let flooded = flood(relay);
        open_halfway(relay);
        stop.store(true, Ordering::Relaxed);
        let heard: Vec<_> = talking.into_iter().map(|member| member.join().unwrap()).collect();
        (heard, flooded)
    });

    let mut lost = 0;
    for (n, (_, heard_by)) in heard.iter().enumerate() {
        let mut heard_by = heard_by.clone();
        while members[n].listen_once(&mut heard_by) {}
        let others = (0..MEMBERS).filter(|other| *other != n);
        let said: u32 = others.map(|other| heard[other].0).sum();
        lost += said as usize - heard_by.len();
    }
    assert_eq!(lost, 0, "of what members said");
    let said: u64 = heard.iter().map(|(sent, _)| u64::from(*sent)).sum();
    assert!(said > 1_000, "{said}: they talked all the while");

    let of = |metrics: &str, series: &str| value(metrics, &format!("relay_{series}")).unwrap() as u64;
    let metrics = wait_for(http, "/metrics", "all that members said", |metrics| {
        of(metrics, "received_packets_total{shard=\"0\"}") == said
    });
    let dropped = |reason| of(&metrics, &format!("dropped_packets_total{{shard=\"0\",reason=\"{reason}\"}}"));
    let failed = |reason| of(&metrics, &format!("auth_failures_total{{reason=\"{reason}\"}}"));
    assert_eq!(of(&metrics, "sent_packets_total{shard=\"0\"}"), said * (MEMBERS as u64 - 1));
    assert_eq!((failed("forged"), failed("replayed"), failed("cookie")), (FORGED, REPLAYED, REPLAYED));
    assert_eq!((dropped("wrong_source"), dropped("unknown_session")), (REPLAYED, REPLAYED));
    assert_eq!(dropped("malformed"), MALFORMED);
    assert_eq!(dropped("handshake_rate"), FLOOD - flooded);
    assert_eq!((dropped("receive_buffer"), dropped("send_refused")), (0, 0));
    assert_eq!(of(&metrics, "sessions{shard=\"0\"}"), MEMBERS as u64);
    assert_eq!(of(&metrics, "ring_overwritten_samples_total{shard=\"0\"}"), 0);

    let late = Client::at(Ipv4Addr::new(127, 0, 0, 9), relay);
    late.join(&token(99_999, "lobby"));
    for (_, account) in server.stop().unwrap() {
        assert_eq!((account.recorded, account.lost, account.unread), (account.delivered, 0, 0));
    }
}

/// Tokens by who has not the key, from a source that is really there.
fn forge(relay: SocketAddr) {
    let stranger = Client::at(Ipv4Addr::new(127, 0, 0, 2), relay);
    let mut forged = token(1_000, "lobby");
    let cookie = stranger.cookie(&forged);
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..FORGED {
        stranger.send(&wire::join(&cookie, &forged));
        let refused = FromRelay::parse(&stranger.hear()).map(|answer| format!("{answer:?}"));
        assert_eq!(refused.as_deref(), Ok("Refused(Forged)"));
        park_timeout(Duration::from_millis(1));
    }
}

/// What was overheard, from elsewhere: a token that was joined with, with a cookie and with none of ours; and
/// data of a session, under its number and under one that is nearly it.
fn replay(relay: SocketAddr, member: &Member) {
    let stranger = Client::at(Ipv4Addr::new(127, 0, 0, 3), relay);
    let overheard = token(0, "lobby");
    let cookie = stranger.cookie(&overheard);
    for _ in 0..REPLAYED {
        stranger.send(&wire::join(&cookie, &overheard));
        let refused = FromRelay::parse(&stranger.hear()).map(|answer| format!("{answer:?}"));
        assert_eq!(refused.as_deref(), Ok("Refused(Replayed)"));
        stranger.send(&wire::join(&Cookie([7; COOKIE_LEN]), &overheard));
        park_timeout(Duration::from_millis(3));
    }
    let data = |session, n| [&wire::data_head(session, n)[..], b"not for the room"].concat();
    let numbers = 0..REPLAYED as u32;
    stranger.send_all(numbers.clone().map(|n| data(member.session, n)));
    stranger.send_all(numbers.map(|n| data(SessionId(member.session.0 ^ 1 << 40), n)));
    assert_eq!(stranger.drain(), (0, 0));
}

/// Octets that are no packets, of every kind and length.
fn send_nonsense(relay: SocketAddr) {
    let stranger = Client::at(Ipv4Addr::new(127, 0, 0, 4), relay);
    // Heads of which none has the length of its kind.
    let kinds = [0, 2, 4, 5, 6, 7, 9, 10, 200, 255];
    let nonsense = |n: u64| vec![kinds[n as usize % kinds.len()]; 1 + n as usize % 11];
    stranger.send_all((0..MALFORMED).map(nonsense));
    assert_eq!(stranger.drain(), (0, 0));
}

/// One source that asks for far more than it may. Returns how many were answered, none at more octets than it cost.
fn flood(relay: SocketAddr) -> u64 {
    let stranger = Client::at(Ipv4Addr::new(127, 0, 0, 5), relay);
    let hello = wire::hello(&token(2_000, "lobby"));
    let (mut answered, mut octets) = (0, 0);
    for _ in 0..FLOOD / BURST as u64 {
        stranger.send_all(std::iter::repeat_n(hello.clone(), BURST));
        let (packets, len) = stranger.drain();
        (answered, octets) = (answered + packets, octets + len);
    }
    let rest = FLOOD % BURST as u64;
    stranger.send_all(std::iter::repeat_n(hello.clone(), rest as usize));
    park_timeout(Duration::from_millis(200));
    let (packets, len) = stranger.drain();
    (answered, octets) = (answered + packets, octets + len);
    assert!(octets < hello.len() * answered as usize, "{octets} octets of {answered} answers");
    assert!((1_000..FLOOD).contains(&answered), "{answered}: its rate, and no more");
    answered
}

/// As many sources as ask for a cookie and never come back.
fn open_halfway(relay: SocketAddr) {
    let hello = wire::hello(&token(3_000, "lobby"));
    for n in 0..HALF_OPEN {
        let address = Ipv4Addr::from(Ipv4Addr::new(127, 1, 0, 0).to_bits() + n);
        Client::at(address, relay).send(&hello);
        if n as usize % BURST == BURST - 1 {
            park_timeout(BREATH);
        }
    }
}
