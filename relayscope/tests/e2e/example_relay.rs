//! The reference relay, in a process of its own so that it can be stopped, and clients of it.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::{available_cores, default_cores};
use relayscope_example_relay::cookie::{COOKIE_LEN, Cookie};
use relayscope_example_relay::load::{self, Load, Pace};
use relayscope_example_relay::relay::Limits;
use relayscope_example_relay::server::{Config, Server};
use relayscope_example_relay::token::{Claims, NONCE_LEN, mint};
use relayscope_example_relay::web;
use relayscope_example_relay::wire::{self, FromRelay, PACKET_MAX, Refusal, Report, SessionId};

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::relay::{Process, wait_for};

/// The variable that makes this program a relay at the address it holds.
pub(crate) const SERVE: &str = "RELAYSCOPE_TEST_EXAMPLE_RELAY";

/// Sessions it has room for: those below, and as few more as fall silent without an alert.
pub(crate) const SESSIONS_MAX: usize = 16;
/// Those with series of their own.
pub(crate) const SHOWN_MAX: usize = 8;
/// After so long without a word a session is over.
const IDLE: Duration = Duration::from_secs(3);

const KEY: &[u8] = b"thirty-two octets of a test's key";
const UDP_PORT: u16 = 7800;
const WEB_PORT: u16 = 7880;
/// What members say.
const PAYLOAD: [u8; 600] = [7; 600];
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
        web: Some(web::Config::at(SocketAddr::new(ip, WEB_PORT))),
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
    pub(crate) web: SocketAddr,
}

impl ExampleRelay {
    pub(crate) fn start(ip: IpAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let process = Process::start(command.env(SERVE, ip.to_string()));
        let at = |port| SocketAddr::new(ip, port);
        let relay = Self { process, http: at(9862), udp: at(UDP_PORT), web: at(WEB_PORT) };
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

/// What `relay-load` does to a relay, again and again until it is ended: clients who join, of whose packets each is
/// checked, and who leave.
pub(crate) struct Loaded {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Loaded {
    pub(crate) fn start(relay: SocketAddr) -> Self {
        let load = Load {
            bind: relay.ip(),
            sessions: 6,
            rooms: 2,
            pace: Pace::Rate(25.0),
            duration: Duration::from_secs(1),
            ..Load::new(relay, HmacKey::new(KEY).unwrap())
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let counts = load::run(&load).unwrap().slice.counts;
                assert!(counts.faulty() == 0 && counts.copies > 0, "{counts:?}");
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it; all that was delivered was right.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
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
    /// It does not read what it is sent.
    Deaf,
}

/// How a client speaks with the relay, without waiting.
enum Line {
    Udp { socket: UdpSocket, relay: SocketAddr },
    Web(Box<WebSocket<TcpStream>>),
}

impl Line {
    fn send(&mut self, packet: &[u8]) {
        match self {
            Self::Udp { socket, relay } => assert_eq!(socket.send_to(packet, *relay).unwrap(), packet.len()),
            Self::Web(socket) => match socket.send(Message::binary(packet.to_vec())) {
                Ok(()) => {}
                // It is written with the next.
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            },
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Udp { socket, .. } => {
                let mut octets = vec![0; PACKET_MAX];
                let len = socket.recv(&mut octets).ok()?;
                octets.truncate(len);
                Some(octets)
            }
            Self::Web(socket) => match socket.read() {
                Ok(message) => Some(message.into_data().to_vec()),
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            },
        }
    }
}

/// Opens a WebSocket as a page of that site does.
fn connect(web: SocketAddr, site: SocketAddr) -> Result<WebSocket<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(web).unwrap();
    let mut request = format!("ws://{web}/join").into_client_request().unwrap();
    request.headers_mut().insert("Origin", format!("http://{site}").parse().unwrap());
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
        Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the socket waits"),
    }
}

/// A page of another site tries to connect, and may not.
pub(crate) fn connect_from_another_site(web: SocketAddr, site: SocketAddr) {
    match connect(web, site) {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 403),
        other => panic!("{other:?}"),
    }
}

/// A member of a room who speaks, listens and reports.
pub(crate) struct Caller {
    line: Line,
    session: SessionId,
    fate: Fate,
    sequence: u32,
    underruns: u32,
    /// The newest ack's stamp, and when it came.
    echo: Option<(u64, Instant)>,
}

impl Caller {
    fn new(line: Line, session: SessionId, fate: Fate) -> Self {
        Self { line, session, fate, sequence: 0, underruns: 0, echo: None }
    }

    pub(crate) fn join(relay: SocketAddr, room: &str, name: &str, fate: Fate) -> Self {
        let knock = Knock::at(relay);
        let session = knock.join(&token(room, name)).unwrap();
        let Knock { socket, relay, .. } = knock;
        socket.set_nonblocking(true).unwrap();
        Self::new(Line::Udp { socket, relay }, session, fate)
    }

    /// Joins with a browser.
    pub(crate) fn browse(web: SocketAddr, room: &str, name: &str, fate: Fate) -> Self {
        let mut socket = connect(web, web).unwrap();
        let join = wire::join(&Cookie([0; COOKIE_LEN]), &token(room, name));
        socket.send(Message::binary(join)).unwrap();
        let answer = socket.read().unwrap().into_data();
        let Ok(FromRelay::Welcome { session, .. }) = FromRelay::parse(&answer) else {
            panic!("no welcome: {answer:?}");
        };
        socket.get_ref().set_nonblocking(true).unwrap();
        Self::new(Line::Web(Box::new(socket)), session, fate)
    }

    fn speak(&mut self, goes_wrong: bool) {
        self.sequence += if goes_wrong && self.fate == Fate::Lossy { 2 } else { 1 };
        self.line.send(&[&wire::data_head(self.session, self.sequence)[..], &PAYLOAD].concat());
        if goes_wrong && self.fate == Fate::Deaf {
            return;
        }
        while let Some(packet) = self.line.receive() {
            if let Ok(FromRelay::Ack { stamp_ns, .. }) = FromRelay::parse(&packet) {
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
        self.line.send(&report.encode());
    }
}

/// Members of a room. Dropped, they fall silent: browsers are gone, all others do not say so.
pub(crate) struct Callers {
    goes_wrong: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Callers {
    const SPEAK_EVERY: Duration = Duration::from_millis(40);
    /// So many packets.
    const REPORT_EVERY: u32 = 12;

    pub(crate) fn speak(mut callers: Vec<Caller>) -> Self {
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
