//! The QUIC responder: a flood of garbage and of handshakes nobody goes on with, and how much it ever sends.
//!
//! What is true of it: before an address is proven, at most three times the octets that came from there (RFC 9000
//! section 8.1), retransmissions included; to what begins no handshake, less than came. From then on no source gets
//! more than it sent, over any time: a Pong is as long as its Ping, and an acknowledgement shorter.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relayscope_dataplane::clock::{Monotonic, Now, Realtime};
use relayscope_dataplane::probe::quic::{Client, ClientOptions, QuicProber, Unprobed, Verification};

use super::flooder::{kernel_drops, pin, random};
use crate::relay::{Relay, loopback, sample, wait_for};

const FLOOD: Duration = Duration::from_secs(4);
/// Longer than a responder waits before it repeats what nobody acknowledged, twice.
const HANDSHAKES: Duration = Duration::from_secs(5);
const SOURCES: u8 = 64;
/// Fewer than may shake hands at once without proving anything.
const CLIENTS: u32 = 24;
/// A client's first datagram is at least that long (RFC 9000 section 14.1).
const INITIAL: usize = 1200;
const OVERSIZED: usize = 3000;
/// Before validation, RFC 9000 section 8.1.
const AMPLIFICATION_MAX: usize = 3;

fn of_target(name: &str, target: &str) -> String {
    format!("relay_probe_{name}_total{{target=\"{target}\",family=\"ipv4\"}}")
}

/// A relay on the last core that answers QUIC, and probes itself by STAMP and `other` by QUIC.
fn start(runtime: &str, ip: IpAddr, other: SocketAddr, directory: &Path) -> Relay {
    let file = directory.join("relayscope.toml");
    let text = format!(
        "runtime = \"{runtime}\"\n\
         [reflector]\nlisten = [\"{ip}:8620\"]\nquic_listen = [\"{ip}:8621\"]\n\
         [probe]\ninterval = \"100ms\"\ntimeout = \"500ms\"\n\
         [[target]]\nname = \"self\"\naddress = \"{ip}:8620\"\n\
         [[target]]\nname = \"other\"\naddress = \"quic://{other}\"\ninsecure = true\n"
    );
    std::fs::write(&file, text).unwrap();
    Relay::start(ip, &["--config", file.to_str().unwrap()])
}

/// A relay that does no more than answer QUIC.
fn responder(runtime: &str, ip: IpAddr, cores: &str, directory: &Path) -> Relay {
    let file = directory.join("responder.toml");
    let text = format!(
        "runtime = \"{runtime}\"\n[reflector]\nlisten = [\"{ip}:8620\"]\nquic_listen = [\"{ip}:8621\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    Relay::start(ip, &["--cores", cores, "--config", file.to_str().unwrap()])
}

/// A source, and octets there and back.
struct Source {
    socket: UdpSocket,
    sent: usize,
    datagrams: u64,
    received: usize,
    /// At any moment, times what was sent.
    at_most: usize,
}

impl Source {
    fn new(ip: IpAddr, at_most: usize) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, sent: 0, datagrams: 0, received: 0, at_most }
    }

    fn send(&mut self, octets: &[u8], to: SocketAddr) {
        if self.socket.send_to(octets, to).is_ok() {
            self.sent += octets.len();
            self.datagrams += 1;
        }
    }

    fn look(&mut self) {
        while let Ok(length) = self.socket.recv(&mut [0; OVERSIZED]) {
            self.received += length;
            assert!(self.received <= self.at_most * self.sent, "{} for {}", self.received, self.sent);
        }
    }
}

/// What looks like QUIC or does not; gives its length.
fn garbage(state: &mut u64, octets: &mut [u8; OVERSIZED]) -> usize {
    for chunk in octets.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random(state).to_be_bytes());
    }
    let long = |octets: &mut [u8; OVERSIZED], first: u8, version: [u8; 4]| {
        octets[0] = first;
        octets[1..5].copy_from_slice(&version);
        // Of eight octets each: where to, where from.
        (octets[5], octets[14]) = (8, 8);
    };
    let any = random(state) as usize;
    match any % 8 {
        0 => {
            long(octets, 0xc3, [0, 0, 0, 1]);
            // No token, and all that follows.
            octets[23..26].copy_from_slice(&[0, 0x44, 0x96]);
            INITIAL
        }
        // Of no version there is.
        1 => {
            long(octets, 0xc0, [0x1a, 0x2a, 0x3a, 0x4a]);
            INITIAL
        }
        // A Handshake packet of no connection.
        2 => {
            long(octets, 0xe3, [0, 0, 0, 1]);
            INITIAL
        }
        // Too short for an Initial.
        3 => {
            long(octets, 0xc3, [0, 0, 0, 1]);
            octets[23..26].copy_from_slice(&[0, 0x41, 0x12]);
            300
        }
        // Of no connection, as a restarted responder gets them.
        4 => {
            octets[0] = 0x40 | octets[0] & 0x3f;
            21 + any / 8 % 1200
        }
        5 => any / 8 % 21,
        6 => OVERSIZED,
        _ => INITIAL,
    }
}

fn flood(mut sources: Vec<Source>, to: SocketAddr, seed: u64) -> Vec<Source> {
    pin(0);
    let (began, mut state, mut octets) = (Instant::now(), seed, [0; OVERSIZED]);
    while began.elapsed() < FLOOD {
        for source in &mut sources {
            let length = garbage(&mut state, &mut octets);
            source.send(&octets[..length], to);
            source.look();
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    sources.iter_mut().for_each(Source::look);
    sources
}

/// Clients that begin and never go on: nothing proves their address.
fn begin_handshakes(ip: IpAddr, to: SocketAddr) -> Vec<Source> {
    let options = ClientOptions {
        server_name: "localhost".to_owned(),
        verification: Verification::Insecure,
        ..ClientOptions::default()
    };
    let client = Arc::new(Client::new(options).unwrap());
    let now = Now { monotonic: Monotonic(1), realtime: Realtime(1_700_000_000_000_000_000) };
    let mut prober = QuicProber::new(Instant::now(), now.monotonic);
    let mut octets = Vec::new();
    let begin = |key| {
        prober.add(key, to, Arc::clone(&client), u64::from(key));
        assert_eq!(prober.probe(now.monotonic, key, 0), Err(Unprobed::NotConnected));
        let transmit = prober.poll_transmit(now, &mut octets).unwrap();
        assert_eq!(transmit.len, INITIAL);
        let mut source = Source::new(ip, AMPLIFICATION_MAX);
        source.send(&octets[..transmit.len], to);
        source
    };
    (0..CLIENTS).map(begin).collect()
}

fn flooded(runtime: &str) {
    let (ip, other_ip, clients_ip) = (loopback(), loopback(), loopback());
    let directory = tempfile::tempdir().unwrap();
    let at = SocketAddr::new(ip, 8621);
    let _other = responder(runtime, other_ip, "0", directory.path());
    let relay = start(runtime, ip, SocketAddr::new(other_ip, 8621), directory.path());
    relay.wait_state("self", "up");
    relay.wait_state("other", "up");

    let mut clients = begin_handshakes(clients_ip, at);
    let began = Instant::now();
    while began.elapsed() < HANDSHAKES {
        clients.iter_mut().for_each(Source::look);
        std::thread::sleep(Duration::from_millis(5));
    }
    for client in &clients {
        println!("{runtime}: {} octets unproven for {}", client.received, client.sent);
        assert!(client.received > client.sent, "a whole flight: {} for {}", client.received, client.sent);
    }

    let IpAddr::V4(many) = loopback() else { panic!("loopback() is IPv4") };
    let [a, b, _, d] = many.octets();
    let many = (0..SOURCES).map(|i| Source::new(IpAddr::from([a, b.wrapping_add(64), i, d]), 1)).collect();
    let one = vec![Source::new(loopback(), 1)];
    let flooders = [one, many].map(|sources| std::thread::spawn(move || flood(sources, at, 7)));
    while !flooders.iter().all(std::thread::JoinHandle::is_finished) {
        let scrape = relay.get("/metrics");
        for target in ["self", "other"] {
            let up = sample(&scrape, &format!("relay_probe_up{{target=\"{target}\"}}"));
            assert_ne!(up, Some(0.0), "{target} was shown down");
        }
        clients.iter_mut().for_each(Source::look);
        std::thread::sleep(Duration::from_millis(50));
    }
    let sources: Vec<Source> = flooders.into_iter().flat_map(|flooder| flooder.join().unwrap()).collect();
    for target in ["self", "other"] {
        let received = relay.sample(&of_target("received", target)).unwrap();
        relay.wait_sample(&of_target("received", target), received + 10.0);
        let [sent, discarded, lost] =
            ["sent", "discarded", "lost"].map(|name| relay.sample(&of_target(name, target)).unwrap());
        println!("{runtime}: {target}: {sent} sent, {received} received, {discarded} discarded, {lost} lost");
        assert_eq!(lost, 0.0, "{target}: none of that is loss");
    }
    account(runtime, &relay, at, &sources);
    clients.iter_mut().for_each(Source::look);

    // And it still answers.
    let status = crate::relay::run(
        crate::relay::relayscope()
            .args(["probe", "--insecure", "-c", "3", "-i", "100ms"])
            .arg(format!("quic://{at}")),
    );
    assert!(status.0.success(), "{}", status.2);
}

/// Every datagram sent is somewhere: of use, refused, or dropped by the kernel, which told.
fn account(runtime: &str, relay: &Relay, at: SocketAddr, sources: &[Source]) {
    let sent: u64 = sources.iter().map(|source| source.datagrams).sum::<u64>() + u64::from(CLIENTS);
    let octets: usize = sources.iter().map(|source| source.sent).sum();
    let received: usize = sources.iter().map(|source| source.received).sum();
    let results = |scrape: &str| -> Vec<(String, f64)> {
        let lines =
            scrape.lines().filter_map(|line| line.strip_prefix("relay_responder_packets_total{result="));
        lines
            .map(|line| line.split_once("} ").unwrap())
            .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
            .collect()
    };
    // A reset datagram more tells how many were dropped before it.
    let mut last = Source::new(loopback(), 1);
    let mut more = 0.0;
    let results = wait_for("the account of the flood to balance", || {
        last.send(&[0x40; 4], at);
        more += 1.0;
        std::thread::sleep(Duration::from_millis(300));
        let scrape = relay.get("/metrics");
        let dropped = kernel_drops(&[at]) as f64;
        let overflow = sample(&scrape, "relay_shard_receive_overflow_total{shard=\"0\"}")?;
        let results = results(&scrape);
        let all: f64 = results.iter().map(|(_, count)| count).sum();
        (all + overflow == sent as f64 + more && overflow == dropped).then_some(results)
    });
    println!("{runtime}: {sent} sent, {octets} octets; {received} octets of answers; {results:?}");
    assert!(received > 0 && received <= octets);
    for result in ["\"unknown_session\"", "\"oversized\"", "\"retry\"", "\"stateless\"", "\"handshake\""] {
        assert!(results.iter().any(|(name, count)| name == result && *count > 0.0), "no {result}");
    }
}

pub(crate) fn flooded_on_glommio() {
    flooded("glommio");
}

pub(crate) fn flooded_on_poll() {
    flooded("poll");
}

/// Between a prober and a responder; what it carried until now, there and back.
struct Wire {
    near: UdpSocket,
    far: UdpSocket,
    client: Option<SocketAddr>,
    carried: [usize; 2],
}

impl Wire {
    fn new(ip: IpAddr, to: SocketAddr) -> Self {
        let (near, far) = (UdpSocket::bind((ip, 0)).unwrap(), UdpSocket::bind((ip, 0)).unwrap());
        far.connect(to).unwrap();
        [&near, &far].into_iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self { near, far, client: None, carried: [0, 0] }
    }

    /// Carries what is there; for each datagram that came back, the octets there and back until then.
    fn carry(&mut self) -> Vec<[usize; 2]> {
        let (mut octets, mut back) = ([0; 2048], Vec::new());
        while let Ok((length, client)) = self.near.recv_from(&mut octets) {
            self.client = Some(client);
            self.carried[0] += length;
            self.far.send(&octets[..length]).unwrap();
        }
        while let Ok(length) = self.far.recv(&mut octets) {
            self.carried[1] += length;
            back.push(self.carried);
            self.near.send_to(&octets[..length], self.client.unwrap()).unwrap();
        }
        back
    }
}

fn proven(runtime: &str) {
    let (ip, responder_ip, directory) = (loopback(), loopback(), tempfile::tempdir().unwrap());
    let _responder = responder(runtime, responder_ip, "0", directory.path());
    let mut wire = Wire::new(ip, SocketAddr::new(responder_ip, 8621));
    let file = directory.path().join("relayscope.toml");
    let text = format!(
        "[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ninterval = \"20ms\"\n\
         [[target]]\nname = \"far\"\naddress = \"quic://{}\"\ninsecure = true\n",
        wire.near.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let (began, mut back) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(4) {
        back.extend(wire.carry());
        std::thread::sleep(Duration::from_millis(1));
    }
    let answered = relay.sample(&of_target("received", "far")).unwrap();
    println!("{runtime}: {answered} probes answered; octets there and back: {:?}", wire.carried);
    assert!(answered >= 50.0 && relay.sample(&of_target("lost", "far")) == Some(0.0));
    assert!(back.len() as f64 > answered);
    for [there, back] in back {
        assert!(back <= there, "{back} octets for {there}");
    }
}

pub(crate) fn proven_on_glommio() {
    proven("glommio");
}

pub(crate) fn proven_on_poll() {
    proven("poll");
}
