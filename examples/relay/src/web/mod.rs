//! The web bridge: browsers are members of the same rooms, over WebSockets, one packet of [`wire`](crate::wire) in
//! each binary message.
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | a page to try it with; `/page.css`, `/page.js`, `/wire.js` and `/second.js` are its parts |
//! | `GET /join` | 101: a WebSocket; 403 to a page of another site; 503 beyond as many as there may be; 400 to what is no upgrade |
//!
//! A browser's first message is a join, with a cookie of zeros: that answers reach it is proven by TCP. So the token is
//! neither in an address, which would be in logs, histories and referrers, nor in a header, which a page cannot set.
//! The shard decides who joins, and answers with a welcome, or a refusal and a close (1008). What browser and shard
//! send each other from then on goes through [`frames`](crate::frames)' queues as it is; the shard checks that a session
//! speaks through its own connection. A connection that ends ends its session.
//!
//! | bound | how much | beyond it |
//! |---|---|---|
//! | seats: who shows a token has one | [`Config::connections_max`] | 503 or 1013, `refused_connections{too_many}` |
//! | sockets without a welcome, beside the seats | a quarter of those and [`SOCKETS_BESIDES`] | closed at once, `refused_connections{too_many_waiting}` |
//! | of them, of one address, or IPv6 /64 | [`Config::waiting_per_address_max`] | as above |
//! | a request's head | [`HEAD_LEN_MAX`] octets, [`HEAD_TIME_MAX`] | 431, or closed |
//! | a request in all, but for an upgrade | [`REQUEST_TIME_MAX`] | closed |
//! | from the upgrade to the shard's answer | 5 s | 1008 or 1013, `refused_connections` |
//! | a message | [`PACKET_MAX`](crate::wire::PACKET_MAX) octets, binary | 1009 or 1003, `dropped_frames{oversized,not_binary}` |
//! | messages of one browser | 16 in a millisecond | TCP makes it wait |
//! | packets of one session | [`Limits::packets_per_second`](crate::relay::Limits::packets_per_second), [`BURST`](crate::session::BURST) of them at once | `dropped_frames{rate_limited}` |
//! | frames to a shard | [`QUEUE_LEN`](crate::frames::QUEUE_LEN), [`RESERVE`](switchboard::RESERVE) of them for joins and leaves alone | `dropped_frames{queue_full}`, `refused_connections{queue_full}` |
//! | frames to a browser | [`OUTBOX_LEN`](switchboard::OUTBOX_LEN), and [`SEND_BUFFER_LEN`] octets in the kernel | `dropped_frames{slow_client}` |
//! | silence | [`Limits::idle`](crate::relay::Limits::idle): a page's reports break it, pings do not | 1008, `ended_connections{silent}` |
//! | the end | 1001 to all, [`STOP_TIME_MAX`] | cut off |
//!
//! Shards make no system call for it, and never wait: the bridge looks into their queues each [`POLL_INTERVAL`] while
//! somebody is connected, and each [`BEAT_INTERVAL`] otherwise. All of it runs on one thread, whose one lock is never
//! held over a wait.

mod connection;
pub mod origin;
pub mod record;
mod routes;
pub mod switchboard;
mod waiting;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use relayscope_dataplane::driver::clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use record::TurnedAway;
use routes::Place;
use switchboard::Switchboard;
use waiting::Waiting;

/// What [`Config::connections_max`] may be.
pub const CONNECTIONS_MAX: usize = 65_536;
/// Sockets that may wait for their welcome beside a quarter of the connections: for the page.
pub const SOCKETS_BESIDES: usize = 64;
/// Octets of a request's head.
pub const HEAD_LEN_MAX: usize = 8192;
/// Until it is there, and between two of them.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// For all requests of a socket that is not upgraded.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets the kernel keeps for a browser that does not read: what is real time is worth nothing later.
pub const SEND_BUFFER_LEN: usize = 65_536;
/// How often the shards' queues are looked into while somebody is connected.
pub const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How often the bridge signs life.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(100);
/// For closing all connections at the end.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(3);
/// After the kernel refused to hand over a connection: what is missing then is missing for longer.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the bridge is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Connections at a time: 1..=[`CONNECTIONS_MAX`], 1,000 by default; more than that are as many.
    pub connections_max: usize,
    /// Sockets of one address, or IPv6 /64, that are not welcomed yet: 16 by default. Behind a proxy all have its address:
    /// then it is for the proxy to bound each client's, and this is to be more.
    pub waiting_per_address_max: usize,
    /// [Origins](origin::parse_origin), such as `https://calls.example`, whose pages may connect beside the bridge's own;
    /// none by default.
    pub origins: Vec<String>,
}

impl Config {
    /// At that address, with the bounds that are usual.
    pub fn at(listen: SocketAddr) -> Self {
        Self { listen, connections_max: 1000, waiting_per_address_max: 16, origins: Vec::new() }
    }
}

/// The bridge's thread panicked.
#[derive(Debug, thiserror::Error)]
#[error("the web bridge panicked")]
pub struct WebBridgePanicked;

/// A bridge that runs.
pub struct WebBridge {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl WebBridge {
    /// Serves on a thread of its own, which inherits this one's cores. A session of which nothing is heard for `idle`
    /// is over for the shards, and so is its connection here.
    ///
    /// # Errors
    /// When the kernel has no thread, no timer or no buffers for it.
    pub fn spawn(
        listener: StdListener,
        config: &Config,
        idle: Duration,
        switchboard: Switchboard,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Sockets that are accepted inherit it.
        setsockopt(&listener, sockopt::SndBuf, &SEND_BUFFER_LEN)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let connections_max = config.connections_max.clamp(1, CONNECTIONS_MAX);
        let waiting_max = connections_max / 4 + SOCKETS_BESIDES;
        let shared = Arc::new(Shared {
            board: Mutex::new(switchboard),
            joined: Notify::new(),
            seats: Arc::new(Semaphore::new(connections_max)),
            waiting: Waiting::new(waiting_max, config.waiting_per_address_max),
            upgraded: Arc::new(Semaphore::new(connections_max + waiting_max)),
            upgraded_max: connections_max + waiting_max,
            origins: config.origins.clone(),
            idle,
            stop: stopped,
        });
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        let work = move || run(&runtime, listener, &shared);
        let thread = std::thread::Builder::new().name("web-bridge".to_owned()).spawn(work)?;
        Ok(Self { address, stop, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, tells the shards that their sessions are over, and ends.
    ///
    /// # Errors
    /// [`WebBridgePanicked`].
    pub fn stop(self) -> Result<(), WebBridgePanicked> {
        self.stop.send_replace(true);
        self.thread.join().map_err(|_| WebBridgePanicked)
    }
}

/// What the bridge's tasks share.
struct Shared {
    /// Of one thread, and never held over a wait: no task waits for it.
    board: Mutex<Switchboard>,
    /// Somebody may join: the queues are to be looked into.
    joined: Notify,
    /// Of those who have shown a token.
    seats: Arc<Semaphore>,
    /// Sockets before their welcome.
    waiting: Waiting,
    /// WebSockets, with a seat or without.
    upgraded: Arc<Semaphore>,
    upgraded_max: usize,
    origins: Vec<String>,
    idle: Duration,
    stop: watch::Receiver<bool>,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Switchboard> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stopped(&self) {
        // Who could ask for it being gone is the end, too.
        self.stop.clone().wait_for(|stop| *stop).await.ok();
    }
}

fn run(runtime: &Runtime, listener: TcpListener, shared: &Arc<Shared>) {
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, shared) => {}
            () = poll(shared) => {}
            () = shared.stopped() => {}
        }
        // All are to be had once all WebSockets are closed.
        let all = u32::try_from(shared.upgraded_max).unwrap_or(u32::MAX);
        tokio::select! {
            _ = timeout(STOP_TIME_MAX, shared.upgraded.acquire_many(all)) => {}
            () = poll(shared) => {}
        }
    });
}

/// Hands on what shards have for browsers, for ever.
async fn poll(shared: &Shared) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let is_idle = {
            let mut board = shared.board();
            board.poll(clock::monotonic());
            board.is_idle()
        };
        if is_idle {
            tokio::select! {
                () = sleep(BEAT_INTERVAL) => {}
                () = shared.joined.notified() => {}
            }
        } else {
            ticks.tick().await;
        }
    }
}

/// Takes in who comes, for ever.
async fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    let router = routes::routes(Arc::clone(shared));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_LEN_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match shared.waiting.enter(from.ip()) {
                Some(waits) => serve(stream, Place(Arc::new(waits)), router.clone(), &http),
                None => shared.board().recorder_mut().turned_away(TurnedAway::TooManyWaiting),
            },
            Err(error) => {
                eprintln!("the web bridge cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one socket in a task of its own; an upgrade goes on in another.
fn serve(stream: TcpStream, place: Place, router: Router, http: &http1::Builder) {
    // Frames are short, and each is waited for. One that goes with a delay still goes.
    stream.set_nodelay(true).ok();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(place.clone());
        router.call(request)
    });
    let conversation = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::spawn(async move {
        // However it ends: there is nobody to tell.
        timeout(REQUEST_TIME_MAX, conversation).await.ok();
    });
}
