//! The reference relay, in a process of its own so that it can be stopped, and clients of it.

use std::ffi::OsStr;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::{available_cores, default_cores};
use relayscope_example_relay::cookie::Cookie;
use relayscope_example_relay::relay::Limits;
use relayscope_example_relay::server::{Config, Server};
use relayscope_example_relay::token::{Claims, NONCE_LEN, mint};
use relayscope_example_relay::wire::{self, FromRelay, PACKET_MAX, Refusal, Report, SessionId};

use crate::relay::{Process, wait_for};

/// The variable that makes this program a relay at the address it holds.
pub(crate) const SERVE: &str = "RELAYSCOPE_TEST_EXAMPLE_RELAY";

/// Sessions it has room for.
pub(crate) const SESSIONS_MAX: usize = 24;
/// Those with series of their own.
pub(crate) const SHOWN_MAX: usize = 8;
/// After so long without a word a session is over.
const IDLE: Duration = Duration::from_secs(3);

const KEY: &[u8] = b"thirty-two octets of a test's key";
const UDP_PORT: u16 = 7800;
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// Runs the relay until its stdin ends.
pub(crate) fn serve(address: &OsStr) {
    let ip: IpAddr = address.to_str().unwrap().parse().unwrap();
    let limits = Limits { sessions_max: SESSIONS_MAX, idle: IDLE, ..Limits::default() };
    let server = Server::start(Config {
        listen: SocketAddr::new(ip, UDP_PORT),
        http: SocketAddr::new(ip, 9862),
        limits,
        shown_max: SHOWN_MAX,
        ..Config::new(default_cores(&available_cores()), HmacKey::new(KEY).unwrap())
    })
    .unwrap();
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).unwrap();
    server.stop().unwrap();
}

/// A relay of one shard.
pub(crate) struct ExampleRelay {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) udp: SocketAddr,
}

impl ExampleRelay {
    pub(crate) fn start(ip: IpAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let process = Process::start(command.env(SERVE, ip.to_string()));
        let relay = Self { process, http: SocketAddr::new(ip, 9862), udp: SocketAddr::new(ip, UDP_PORT) };
        wait_for("the relay to serve", || crate::relay::get(&format!("http://{}/readyz", relay.http)).ok());
        relay
    }
}

/// A token that holds.
pub(crate) fn token(room: &str, name: &str) -> Vec<u8> {
    signed(&HmacKey::new(KEY).unwrap(), room, name)
}

/// One of somebody who has another key.
pub(crate) fn forged_token() -> Vec<u8> {
    signed(&HmacKey::new(b"another key of thirty-two octets.").unwrap(), "hall", "mallory")
}

fn signed(key: &HmacKey, room: &str, name: &str) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&now.as_nanos().to_be_bytes());
    mint(key, &Claims { expires_at: now.as_secs() + 60, nonce, room, name }).unwrap()
}

/// A client before it has joined.
pub(crate) struct Knock {
    socket: UdpSocket,
    relay: SocketAddr,
    cookie: Cookie,
}

impl Knock {
    /// Asks for a cookie with a token that need not hold.
    pub(crate) fn at(relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind((relay.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(ANSWERED_WITHIN)).unwrap();
        let hello = wire::hello(&forged_token());
        let (port, cookie) = exchange(&socket, relay, &hello, |answer| match answer {
            FromRelay::Retry { port, cookie } => Some((port, cookie)),
            _ => None,
        });
        Self { socket, relay: SocketAddr::new(relay.ip(), port), cookie }
    }

    /// Tries to join; the cookie is as good for another try.
    pub(crate) fn join(&self, token: &[u8]) -> Result<SessionId, Refusal> {
        exchange(&self.socket, self.relay, &wire::join(&self.cookie, token), |answer| match answer {
            FromRelay::Welcome { session, .. } => Some(Ok(session)),
            FromRelay::Refused(refusal) => Some(Err(refusal)),
            _ => None,
        })
    }
}

/// Sends a packet, again and again, until an answer is the one `select` takes.
fn exchange<T>(
    socket: &UdpSocket,
    relay: SocketAddr,
    packet: &[u8],
    select: impl Fn(FromRelay<'_>) -> Option<T>,
) -> T {
    let mut octets = [0; PACKET_MAX];
    wait_for("the relay to answer", || {
        socket.send_to(packet, relay).unwrap();
        loop {
            let len = socket.recv(&mut octets).ok()?;
            if let Some(found) = FromRelay::parse(&octets[..len]).ok().and_then(&select) {
                return Some(found);
            }
        }
    })
}

/// How a client fares once it is told to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    /// Well.
    Well,
    /// Every other packet of it is lost on the way.
    Lossy,
    /// Its buffer runs empty again and again.
    Starved,
}

/// A member of a room who speaks, listens and reports.
struct Caller {
    socket: UdpSocket,
    relay: SocketAddr,
    session: SessionId,
    fate: Fate,
    sequence: u32,
    underruns: u32,
    /// The newest ack's stamp, and when it came.
    echo: Option<(u64, Instant)>,
}

impl Caller {
    fn join(relay: SocketAddr, room: &str, name: &str, fate: Fate) -> Self {
        let knock = Knock::at(relay);
        let session = knock.join(&token(room, name)).unwrap();
        let Knock { socket, relay, .. } = knock;
        socket.set_nonblocking(true).unwrap();
        Self { socket, relay, session, fate, sequence: 0, underruns: 0, echo: None }
    }

    fn speak(&mut self, goes_wrong: bool) {
        self.sequence += if goes_wrong && self.fate == Fate::Lossy { 2 } else { 1 };
        let packet = [&wire::data_head(self.session, self.sequence)[..], &[7; 144]].concat();
        self.socket.send_to(&packet, self.relay).unwrap();
        let mut octets = [0; PACKET_MAX];
        while let Ok(len) = self.socket.recv(&mut octets) {
            if let Ok(FromRelay::Ack { stamp_ns, .. }) = FromRelay::parse(&octets[..len]) {
                self.echo = Some((stamp_ns, Instant::now()));
            }
        }
    }

    fn report(&mut self, goes_wrong: bool) {
        let starves = goes_wrong && self.fate == Fate::Starved;
        self.underruns += u32::from(starves);
        let (echo_ns, held_us) =
            self.echo.map_or((0, 0), |(stamp, at)| (stamp, at.elapsed().as_micros() as u32));
        let buffer_packets = if starves { 0 } else { 3 };
        let report =
            Report { session: self.session, buffer_packets, underruns: self.underruns, held_us, echo_ns };
        self.socket.send_to(&report.encode(), self.relay).unwrap();
    }
}

/// Clients in one room. Dropped, they fall silent without a word.
pub(crate) struct Callers {
    goes_wrong: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Callers {
    const SPEAK_EVERY: Duration = Duration::from_millis(40);
    /// So many packets.
    const REPORT_EVERY: u32 = 12;

    pub(crate) fn join(relay: SocketAddr, room: &str, members: &[(&str, Fate)]) -> Self {
        let mut callers: Vec<_> =
            members.iter().map(|(name, fate)| Caller::join(relay, room, name, *fate)).collect();
        let (goes_wrong, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wrong, stopped) = (Arc::clone(&goes_wrong), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for turn in 1_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let goes_wrong = wrong.load(Ordering::Relaxed);
                callers.iter_mut().for_each(|caller| caller.speak(goes_wrong));
                if turn % Self::REPORT_EVERY == 0 {
                    callers.iter_mut().for_each(|caller| caller.report(goes_wrong));
                }
                std::thread::sleep(Self::SPEAK_EVERY);
            }
        });
        Self { goes_wrong, stop, thread: Some(thread) }
    }

    /// From now on everybody fares as is their fate.
    pub(crate) fn go_wrong(&self) {
        self.goes_wrong.store(true, Ordering::Relaxed);
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
