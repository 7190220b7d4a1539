//! A relay of the test's own, and who talks to it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use example_harness::{value, wait_for};
use futures_util::{SinkExt, StreamExt};
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::{available_cores, default_cores};
use relayscope_example_relay::cookie::Cookie;
use relayscope_example_relay::server::{Config, Server};
use relayscope_example_relay::token::{Claims, mint};
use relayscope_example_relay::web;
use relayscope_example_relay::wire::{self, FromRelay, Refusal, SessionId};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Far beyond what anything awaited here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: [u8; 32] = [9; 32];

/// What was heard: who sent it, its number, and what it says.
pub(crate) type Heard = BTreeSet<(u16, u32, Vec<u8>)>;

/// What a scrape said.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Of one series, without its prefix.
    pub(crate) fn value(&self, series: &str) -> f64 {
        value(&self.0, &format!("relay_{series}")).unwrap_or_else(|| panic!("{series} in {}", self.0))
    }

    /// Of all series of a family.
    pub(crate) fn sum(&self, family: &str) -> f64 {
        let prefix = format!("relay_{family}{{");
        let of_family = self.0.lines().filter(|line| line.starts_with(&prefix));
        of_family.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// A relay with a web bridge, on one core.
pub(crate) struct Relay {
    server: Option<Server>,
    udp: SocketAddr,
    http: SocketAddr,
    web: SocketAddr,
}

impl Relay {
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        let cores = default_cores(&available_cores());
        let mut config = Config::new(cores[..1].to_vec(), HmacKey::new(&KEY).unwrap());
        config.web = Some(web::Config::at(config.http));
        change(&mut config);
        let server = Server::start(config).unwrap();
        let (udp, http) = (server.addresses()[0], server.http_address());
        Self { udp, http, web: server.web_address().unwrap(), server: Some(server) }
    }

    /// Runs what talks to it, and then stops it.
    pub(crate) fn run(&mut self, talk: impl AsyncFnOnce(&mut Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(talk(self));
        self.stop().join().unwrap();
    }

    pub(crate) fn stop(&mut self) -> JoinHandle<()> {
        let server = self.server.take();
        std::thread::spawn(|| {
            for (shard, account) in server.map_or_else(Vec::new, |server| server.stop().unwrap()) {
                assert_eq!((account.lost, account.unread), (0, 0), "{shard:?}");
            }
        })
    }

    /// For the lobby.
    pub(crate) fn token(&self, name: &str, seconds: u64) -> Vec<u8> {
        self.token_for("lobby", name, seconds)
    }

    pub(crate) fn token_for(&self, room: &str, name: &str, seconds: u64) -> Vec<u8> {
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims { expires_at: now + seconds, nonce, room, name };
        mint(&HmacKey::new(&KEY).unwrap(), &claims).unwrap()
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.web)
    }

    /// Connects, and sees that nobody is there.
    pub(crate) async fn closes_at_once(&self) {
        let mut stream = TcpStream::connect(self.web).await.unwrap();
        let mut octet = [0];
        assert_eq!(timeout(PATIENCE, stream.read(&mut octet)).await.unwrap().unwrap_or(0), 0);
    }

    pub(crate) fn get(&self, path: &str) -> String {
        wait_for(self.http, path, "an answer", |_| true)
    }

    /// Waits for a scrape to be as wanted.
    pub(crate) fn wait_until(&self, what: &str, is_wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let is_wanted = |metrics: &str| is_wanted(&Metrics(metrics.to_owned()));
        Metrics(wait_for(self.http, "/metrics", what, is_wanted))
    }

    /// Waits for a series to have that value.
    pub(crate) fn wait_for(&self, series: &str, wanted: f64) -> Metrics {
        let series = format!("relay_{series}");
        let is_wanted = |metrics: &str| value(metrics, &series) == Some(wanted);
        Metrics(wait_for(self.http, "/metrics", &format!("{series} {wanted}"), is_wanted))
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        Metrics(self.get("/metrics")).value(series)
    }

    pub(crate) fn sum(&self, family: &str) -> f64 {
        Metrics(self.get("/metrics")).sum(family)
    }
}

/// A member by UDP.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    session: SessionId,
}

impl UdpClient {
    pub(crate) fn join(relay: &Relay, name: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay.udp).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let token = relay.token(name, 60);
        let mut answer = [0; 100];
        let mut ask = |octets: &[u8]| {
            socket.send(octets).unwrap();
            let len = receive(&socket, &mut answer);
            answer[..len].to_vec()
        };
        let retry = ask(&wire::hello(&token));
        let FromRelay::Retry { cookie, .. } = FromRelay::parse(&retry).unwrap() else { panic!("{retry:?}") };
        let welcome = ask(&wire::join(&cookie, &token));
        let FromRelay::Welcome { session, .. } = FromRelay::parse(&welcome).unwrap() else {
            panic!("{welcome:?}")
        };
        Self { socket, session }
    }

    pub(crate) fn send(&mut self, sequence: u32, payload: &[u8]) {
        self.socket.send(&packet(self.session, sequence, payload)).unwrap();
    }

    pub(crate) fn hear(&mut self, packets: usize) -> Heard {
        let mut octets = [0; wire::PACKET_MAX];
        let mut heard = Heard::new();
        while heard.len() < packets {
            let len = receive(&self.socket, &mut octets);
            heard.extend(forwarded(&octets[..len]));
        }
        heard
    }
}

/// Waits on, whatever signals the executor in this process sends.
fn receive(socket: &UdpSocket, octets: &mut [u8]) -> usize {
    loop {
        match socket.recv(octets) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

/// A member by WebSocket, or on its way to be one.
pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
    pub(crate) session: SessionId,
}

impl Browser {
    /// Connects, as a page of `origin`; says the status where that is refused.
    pub(crate) async fn connect(relay: &Relay, origin: Option<&str>) -> Result<Self, u16> {
        let mut request = format!("ws://{}/join", relay.web).into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(relay.web).await.unwrap();
        Self::upgrade(request, stream).await
    }

    async fn upgrade(request: Request, stream: TcpStream) -> Result<Self, u16> {
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self { socket, session: SessionId(0) }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Joins; says why not, and with which code the connection was closed.
    pub(crate) async fn join_with(relay: &Relay, token: &[u8]) -> Result<Self, (Refusal, u16)> {
        let mut browser = Self::connect(relay, Some(&relay.origin())).await.unwrap();
        browser.shows(token).await.map(|()| browser)
    }

    /// As [`join`](Self::join), from another address of this host.
    pub(crate) async fn join_from(relay: &Relay, address: [u8; 4], name: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        let stream = socket.connect(relay.web).await.unwrap();
        let request = format!("ws://{}/join", relay.web).into_client_request().unwrap();
        let mut browser = Self::upgrade(request, stream).await.unwrap();
        browser.shows(&relay.token(name, 60)).await.unwrap();
        browser
    }

    /// Shows its token, as [`join_with`](Self::join_with) does.
    pub(crate) async fn shows(&mut self, token: &[u8]) -> Result<(), (Refusal, u16)> {
        self.send(Message::binary(wire::join(&Cookie([0; 24]), token))).await;
        let Message::Binary(answer) = self.next().await.unwrap() else { panic!("no packet") };
        match FromRelay::parse(&answer).unwrap() {
            FromRelay::Welcome { session, .. } => self.session = session,
            FromRelay::Refused(refusal) => return Err((refusal, self.closed().await)),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    pub(crate) async fn join(relay: &Relay, name: &str) -> Self {
        Self::join_with(relay, &relay.token(name, 60)).await.unwrap()
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn say(&mut self, sequence: u32, payload: &[u8]) {
        self.send(Message::binary(packet(self.session, sequence, payload))).await;
    }

    pub(crate) async fn hear(&mut self, packets: usize) -> Heard {
        let mut heard = Heard::new();
        while heard.len() < packets {
            if let Message::Binary(octets) = self.next().await.unwrap() {
                heard.extend(forwarded(&octets));
            }
        }
        heard
    }

    /// Waits for the relay to close it; says its code.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => return frame.unwrap().code.into(),
                Some(_) => {}
                None => panic!("cut off without a word"),
            }
        }
    }

    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// `None` at the end of the connection.
    async fn next(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.socket.next()).await.unwrap()?.ok()
    }
}

pub(crate) fn packet(session: SessionId, sequence: u32, payload: &[u8]) -> Vec<u8> {
    [&wire::data_head(session, sequence), payload].concat()
}

/// Who sent it, its number, and what it says; `None` for what is not forwarded.
fn forwarded(octets: &[u8]) -> Option<(u16, u32, Vec<u8>)> {
    match FromRelay::parse(octets).unwrap() {
        FromRelay::Forwarded { sender, sequence, payload, .. } => {
            Some((sender.0, sequence, payload.to_vec()))
        }
        _ => None,
    }
}
