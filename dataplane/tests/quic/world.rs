//! A simulated network: one prober, servers at addresses, a delay each way, and time that jumps.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, ServerConfig, TransportConfig,
};
use relayscope_dataplane::clock::{Arrival, Monotonic, Now, Realtime};
use relayscope_dataplane::probe::quic::{
    Client, ClientOptions, Event, QuicProber, Refused, Unprobed, Verification,
};
use relayscope_dataplane::responder::{Identity, Outcome, Refusal, Responder, ResponderConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Some time after boot, and some time in 2025.
const BOOT: Monotonic = Monotonic(1_000_000_000_000);
const EPOCH_NS: u64 = 1_750_000_000_000_000_000;

#[expect(clippy::disallowed_methods, reason = "quinn-proto wants some Instant; which one is of no matter")]
pub(crate) fn anchor() -> Instant {
    Instant::now()
}

pub(crate) fn ours() -> SocketAddr {
    "192.0.2.1:40000".parse().unwrap()
}

pub(crate) fn server_at(host: u8) -> SocketAddr {
    format!("198.51.100.{host}:443").parse().unwrap()
}

pub(crate) fn client(verification: Verification) -> Arc<Client> {
    let options =
        ClientOptions { server_name: "relay.example".to_owned(), verification, ..ClientOptions::default() };
    Arc::new(Client::new(options).unwrap())
}

pub(crate) fn identity() -> Identity {
    Identity::self_signed(&["relay.example".to_owned()]).unwrap()
}

/// A key pair as files would hold it, to start a server from more than once.
pub(crate) struct KeyFile {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl KeyFile {
    pub(crate) fn generate() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["relay.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.chain.clone(), PrivatePkcs8KeyDer::from(self.key.clone()).into())
    }
}

pub(crate) enum Server {
    Ours(Box<Responder>),
    Other(Box<Other>),
}

/// What else comes of a datagram.
pub(crate) type Harm = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>>>;

/// Where datagrams are lost.
pub(crate) type Loss = Box<dyn FnMut(bool, &[u8]) -> bool>;

pub(crate) struct World {
    pub(crate) now: Monotonic,
    anchor: Instant,
    pub(crate) prober: QuicProber,
    pub(crate) servers: HashMap<SocketAddr, Server>,
    /// How long a server, and the prober, take to get round to a datagram, kernel-stamped as it was.
    pub(crate) server_lag: Duration,
    pub(crate) prober_lag: Duration,
    pub(crate) delay: Duration,
    pub(crate) lose: Loss,
    /// What comes along with, or in the place of, a datagram.
    pub(crate) harm: Option<Harm>,
    /// Whether the kernel stamps arrivals at the prober.
    pub(crate) stamped: bool,
    wire: BTreeMap<(Monotonic, u64), Packet>,
    sent: u64,
    pub(crate) events: Vec<(Duration, u32, Event)>,
    /// T1 by key and sequence number.
    pub(crate) probes: HashMap<(u32, u32), Monotonic>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) validations: u32,
    pub(crate) datagrams: [u64; 2],
    pub(crate) octets: [u64; 2],
}

#[derive(Clone)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    octets: Vec<u8>,
    arrived: Option<Monotonic>,
}

impl World {
    pub(crate) fn new(delay: Duration) -> Self {
        let anchor = anchor();
        Self {
            now: BOOT,
            anchor,
            prober: QuicProber::new(anchor, BOOT),
            servers: HashMap::new(),
            server_lag: Duration::ZERO,
            prober_lag: Duration::ZERO,
            delay,
            lose: Box::new(|_, _| false),
            harm: None,
            stamped: true,
            wire: BTreeMap::new(),
            sent: 0,
            events: Vec::new(),
            probes: HashMap::new(),
            refusals: Vec::new(),
            refused: Vec::new(),
            validations: 0,
            datagrams: [0; 2],
            octets: [0; 2],
        }
    }

    pub(crate) fn responder(&self, config: ResponderConfig, identity: Identity) -> Server {
        Server::Ours(Box::new(Responder::new(config, identity, self.anchor, BOOT).unwrap()))
    }

    pub(crate) fn other(&self) -> Server {
        Server::Other(Box::new(Other::new(b"h3", None)))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now.since(BOOT)
    }

    fn both(&self) -> Now {
        Now { monotonic: self.now, realtime: Realtime(EPOCH_NS + self.now.0) }
    }

    /// A slot of the target's.
    pub(crate) fn probe(&mut self, key: u32, sequence: u32) -> Result<(), Unprobed> {
        let result = self.prober.probe(self.now, key, sequence);
        self.flush();
        result
    }

    /// Connects and runs for a second.
    pub(crate) fn connect(&mut self, key: u32) {
        assert_eq!(self.probe(key, 0), Err(Unprobed::NotConnected));
        self.run(SECOND);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = [
                self.wire.first_key_value().map(|((at, _), _)| *at),
                self.prober.poll_timeout(),
                self.servers.values_mut().filter_map(|server| server.poll_timeout(self.anchor)).min(),
            ];
            let Some(next) = due.into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            self.deliver();
            self.prober.handle_timeout(self.now);
            for server in self.servers.values_mut() {
                server.handle_timeout(self.now, self.anchor);
            }
            self.flush();
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let packet = entry.remove();
            let lag = if packet.to == ours() { self.prober_lag } else { self.server_lag };
            let arrived = packet.arrived.unwrap_or(self.now);
            if packet.arrived.is_none() && lag > Duration::ZERO {
                self.sent += 1;
                self.wire.insert((self.now + lag, self.sent), Packet { arrived: Some(arrived), ..packet });
            } else if packet.to == ours() {
                let arrival = Arrival { at: arrived, exact: self.stamped };
                self.refused.extend(self.prober.handle_datagram(arrival, packet.from, &packet.octets).err());
            } else {
                let (now, anchor) = (self.both(), self.anchor);
                let Some(server) = self.servers.get_mut(&packet.to) else { continue };
                match server.handle(now, anchor, arrived, packet.from, &packet.octets) {
                    Ok(Outcome::Validating) => self.validations += 1,
                    Ok(_) => {}
                    Err(refusal) => self.refusals.push(refusal),
                }
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut buffer = Vec::new();
        while let Some(transmit) = self.prober.poll_transmit(self.both(), &mut buffer) {
            assert_eq!(transmit.len, buffer.len());
            if let (Some(key), Some(sequence)) = (transmit.key, transmit.probe) {
                let before = self.probes.insert((key, sequence), self.now);
                assert_eq!(before, None, "probe {sequence} left twice");
            }
            self.send(ours(), transmit.destination, buffer.clone());
        }
        let addresses: Vec<_> = self.servers.keys().copied().collect();
        for address in addresses {
            let now = self.both();
            while let Some(to) = self
                .servers
                .get_mut(&address)
                .and_then(|server| server.poll_transmit(now, self.anchor, &mut buffer))
            {
                self.send(address, to, buffer.clone());
            }
        }
        while let Some((key, event)) = self.prober.poll_event() {
            self.events.push((self.elapsed(), key, event));
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, octets: Vec<u8>) {
        let up = to != ours();
        self.datagrams[usize::from(!up)] += 1;
        self.octets[usize::from(!up)] += octets.len() as u64;
        if (self.lose)(up, &octets) {
            return;
        }
        if let Some(octets) = self.harm.as_mut().and_then(|harm| harm(&octets)) {
            self.sent += 1;
            self.wire.insert((self.now + self.delay, self.sent), Packet { from, to, octets, arrived: None });
        }
        self.sent += 1;
        self.wire.insert((self.now + self.delay, self.sent), Packet { from, to, octets, arrived: None });
    }

    /// A datagram from somebody else.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, octets: Vec<u8>) {
        self.sent += 1;
        self.wire.insert((self.now, self.sent), Packet { from, to, octets, arrived: None });
    }

    /// RTTs of the target by sequence number, as the account of probes would have them.
    pub(crate) fn rtts(&self, key: u32) -> BTreeMap<u32, Duration> {
        let answered = self.events.iter().filter_map(|(_, of, event)| match event {
            Event::Answered { sequence, arrival, turnaround_ns } if *of == key => {
                let sent = self.probes[&(key, *sequence)];
                let held = Duration::from_nanos(turnaround_ns.unwrap_or(0));
                Some((*sequence, arrival.at.since(sent) - held))
            }
            _ => None,
        });
        answered.collect()
    }

    /// A server of another make closes all its connections.
    pub(crate) fn close_all(&mut self, address: SocketAddr) {
        let now = instant(self.anchor, self.now);
        let Some(Server::Other(other)) = self.servers.get_mut(&address) else { panic!("{address} is ours") };
        for connection in other.connections.values_mut() {
            connection.close(now, 0u32.into(), b"maintenance".to_vec().into());
        }
        self.flush();
    }

    pub(crate) fn ours(&self, address: SocketAddr) -> &Responder {
        let Some(Server::Ours(responder)) = self.servers.get(&address) else {
            panic!("{address} is not ours")
        };
        responder
    }

    pub(crate) fn last_event(&self) -> &Event {
        &self.events.last().expect("an event").2
    }
}

impl Server {
    fn handle(
        &mut self,
        now: Now,
        anchor: Instant,
        arrived: Monotonic,
        from: SocketAddr,
        octets: &[u8],
    ) -> Result<Outcome, Refusal> {
        match self {
            Self::Ours(responder) => {
                responder.handle_datagram(now, Arrival::exact(arrived), from, None, octets)
            }
            Self::Other(other) => {
                other.handle(instant(anchor, now.monotonic), from, octets);
                Ok(Outcome::Handled)
            }
        }
    }

    fn poll_transmit(&mut self, now: Now, anchor: Instant, buffer: &mut Vec<u8>) -> Option<SocketAddr> {
        match self {
            Self::Ours(responder) => responder.poll_transmit(now, buffer).map(|sent| sent.destination),
            Self::Other(other) => other.poll_transmit(instant(anchor, now.monotonic), buffer),
        }
    }

    fn poll_timeout(&mut self, anchor: Instant) -> Option<Monotonic> {
        match self {
            Self::Ours(responder) => responder.poll_timeout(),
            Self::Other(other) => {
                let due = other.connections.values_mut().filter_map(Connection::poll_timeout).min();
                due.map(|at| BOOT + at.duration_since(anchor))
            }
        }
    }

    fn handle_timeout(&mut self, now: Monotonic, anchor: Instant) {
        match self {
            Self::Ours(responder) => responder.handle_timeout(now),
            Self::Other(other) => {
                let now = instant(anchor, now);
                for connection in other.connections.values_mut() {
                    if connection.poll_timeout().is_some_and(|at| at <= now) {
                        connection.handle_timeout(now);
                    }
                }
            }
        }
    }
}

fn instant(anchor: Instant, now: Monotonic) -> Instant {
    anchor + now.since(BOOT)
}

/// A server of another make: quinn-proto, without DATAGRAM frames unless it forges some.
pub(crate) struct Other {
    endpoint: Endpoint,
    pub(crate) connections: HashMap<usize, Connection>,
    answers: Vec<(SocketAddr, Vec<u8>)>,
    forge: Option<Forge>,
}

/// What is sent for a datagram.
pub(crate) type Forge = fn(&[u8]) -> Vec<u8>;

impl Other {
    pub(crate) fn new(alpn: &[u8], forge: Option<Forge>) -> Self {
        let key = KeyFile::generate();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(key.chain, PrivatePkcs8KeyDer::from(key.key).into())
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = TransportConfig::default();
        transport.datagram_receive_buffer_size(forge.map(|_| 4096)).mtu_discovery_config(None);
        config.transport_config(Arc::new(transport));
        let endpoint =
            Endpoint::new(Arc::new(EndpointConfig::default()), Some(Arc::new(config)), false, None);
        Self { endpoint, connections: HashMap::new(), answers: Vec::new(), forge }
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, octets: &[u8]) {
        let mut answer = Vec::new();
        match self.endpoint.handle(now, from, None, None, octets.into(), &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections.get_mut(&handle.0) {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok((handle, connection)) => drop(self.connections.insert(handle.0, connection)),
                    Err(error) => {
                        self.answers.extend(error.response.map(|transmit| (transmit.destination, answer)));
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.answers.push((transmit.destination, answer)),
            None => {}
        }
    }

    fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<SocketAddr> {
        if let Some((to, octets)) = self.answers.pop() {
            *buffer = octets;
            return Some(to);
        }
        for (handle, connection) in &mut self.connections {
            while connection.poll().is_some() {}
            while let Some((datagram, forge)) = connection.datagrams().recv().zip(self.forge) {
                connection.datagrams().send(forge(&datagram).into(), true).unwrap();
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(ConnectionHandle(*handle), event) {
                    connection.handle_event(event);
                }
            }
            buffer.clear();
            if let Some(transmit) = connection.poll_transmit(now, 1, buffer) {
                return Some(transmit.destination);
            }
        }
        self.connections.retain(|_, connection| !connection.is_drained());
        None
    }
}
