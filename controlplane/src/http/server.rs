//! The accept loop: every connection bounded in number, time and size.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Sleep;

use super::access_log::Client;
use super::pulse::gives_way;
use super::refusal::ConnectionRefused;
use super::stream::{Connection, Stream, Transport};
use super::web::Web;
use super::{HttpConfig, Limits, handshake, routes};
use crate::{ControlPlane, clock};

/// After the kernel refused to hand over a connection, as when descriptors run out: the condition
/// lasts, and trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that may wait to be accepted. Beyond the 128 that std asks for, a burst of scrapers would be left to
/// its kernels' retries, a second later.
const BACKLOG: i32 = 1024;

/// Turns given to the open connections before one of them makes room. Each is of some sixty of them, after a look
/// at their sockets: when we ourselves stood still, what they sent meanwhile counts for them.
const TURNS: usize = 8;

/// The smallest buffer hyper works with.
const BUFFER_MIN: usize = 8192;

const OVER_LIMIT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 42\r\nconnection: close\r\n\r\n\
    too many connections; close one and retry\n";

/// Serves `plane` on `listener` as `config` says, be it by its [`Limits`] alone, until `shutdown` resolves.
///
/// Then it stops accepting, closes what idles, lets open requests end for `limits.shutdown_timeout`, cuts what is
/// left, and returns how many connections that were.
///
/// What the web configuration is made of is followed meanwhile: certificates for handshakes, users and headers for
/// requests that begin after a change. No connection is closed for it.
pub async fn serve(
    listener: TcpListener,
    plane: ControlPlane,
    config: impl Into<HttpConfig>,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let config = config.into();
    Server::new(plane, &config).run(listener, config.watch_interval, shutdown).await
}

pub(super) struct Server {
    plane: ControlPlane,
    web: Web,
    pub(super) router: Router,
    http: http1::Builder,
    limits: Limits,
    tasks: JoinSet<()>,
    /// Those that hold a place: as many as `limits.connections_max` at most.
    open: HashMap<Id, (Arc<Connection>, AbortHandle)>,
    /// Closed at shutdown.
    closing: watch::Sender<()>,
}

impl Server {
    pub(super) fn new(plane: ControlPlane, config: &HttpConfig) -> Self {
        let limits = config.limits;
        let web = Web::new(config.web_config.clone());
        let mut http = http1::Builder::new();
        // Times are kept by each connection's pulse, which knows more of it.
        http.header_read_timeout(None)
            .max_headers(limits.headers_max)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max.max(BUFFER_MIN));
        let router = routes(plane.clone(), &limits, web.clone(), config.access_log);
        let (closing, _) = watch::channel(());
        Self { plane, web, router, http, limits, tasks: JoinSet::new(), open: HashMap::new(), closing }
    }

    pub(super) async fn run(
        mut self,
        listener: TcpListener,
        watch_interval: Duration,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        if let Err(error) = Backlog::new(BACKLOG).and_then(|most| listen(&listener, most)) {
            tracing::warn!(%error, "the listener's backlog stays as it was");
        }
        let graceful = GracefulShutdown::new();
        let mut followed = pin!(self.web.clone().follow(self.plane.clone(), watch_interval));
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = self.tasks.join_next_with_id() => self.note_end(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer, graceful.watcher()).await,
                    Err(error) => self.pause(&error).await,
                },
                () = &mut followed => {}
            }
        }
        drop(listener);
        self.end(graceful).await
    }

    /// Serves a connection that came, if there is a place for it or can be made.
    async fn take(&mut self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let tls = self.web.config().and_then(|config| Some(Arc::clone(&config.tls()?.config)));
        if self.open.len() >= self.limits.connections_max && !self.make_room().await {
            return self.turn_away(stream, tls.is_some());
        }
        self.bound_write_stall(&stream);
        let connection = Arc::new(Connection::new());
        let served = self.serve(stream, peer, tls, Arc::clone(&connection), watcher);
        let task = self.tasks.spawn(served);
        self.open.insert(task.id(), (connection, task));
        self.plane.connections_open(self.open.len());
    }

    async fn make_room(&mut self) -> bool {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        self.note_ends();
        if self.open.len() < self.limits.connections_max {
            return true;
        }
        let pulses = self.open.iter().map(|(id, (connection, _))| (*id, &connection.pulse));
        let Some((_, task)) = gives_way(pulses, clock::instant()).and_then(|id| self.open.remove(&id)) else {
            return false;
        };
        task.abort();
        self.plane.connection_refused(ConnectionRefused::MadeRoom);
        true
    }

    /// One connection, from its first byte to its end.
    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        connection: Arc<Connection>,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (router, http) = (TowerToHyperService::new(self.router.clone()), self.http.clone());
        let (plane, limits) = (self.plane.clone(), self.limits);
        let mut closing = self.closing.subscribe();
        async move {
            let handshake = async {
                match tls {
                    None => Ok(Transport::Plain(stream)),
                    Some(tls) => {
                        handshake::accept(stream, tls, limits.handshake_timeout).await.map(Transport::Tls)
                    }
                }
            };
            let transport = tokio::select! {
                biased;
                _ = closing.changed() => return,
                transport = handshake => transport,
            };
            let transport = match transport {
                Ok(transport) => transport,
                Err(reason) => return plane.connection_refused(reason),
            };
            connection.pulse.handshake_done(clock::instant());
            let answering = Arc::clone(&connection);
            let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                let asked = answering.asked();
                request.extensions_mut().insert(Client(peer));
                let answer = router.call(request);
                async move { answer.await.map(|response| asked.with(response)) }
            });
            let io = TokioIo::new(Stream::new(transport, Arc::clone(&connection)));
            let conversation = watcher.watch(http.serve_connection(io, service));
            if let Some(reason) = within(&limits, &connection, conversation, closing).await {
                plane.connection_refused(reason);
            }
        }
    }

    /// The limits on requests end with the answer. A client that does not read it would hold its
    /// place for long, but for this option of the kernel's, which also counts a window kept shut.
    fn bound_write_stall(&self, stream: &TcpStream) {
        let most = u32::try_from(self.limits.write_stall_max.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &most) {
            tracing::warn!(%error, "TCP_USER_TIMEOUT could not be set; a stalled client keeps its connection");
        }
    }

    /// Says why, if the client's socket takes it at once and would understand, and closes.
    fn turn_away(&self, stream: TcpStream, speaks_tls: bool) {
        self.plane.connection_refused(ConnectionRefused::OverLimit);
        if speaks_tls {
            return;
        }
        let said = stream.into_std().and_then(|mut stream| stream.write(OVER_LIMIT));
        if let Err(error) = said {
            tracing::debug!(%error, "a connection over the limit was closed without a word");
        }
    }

    async fn pause(&self, error: &io::Error) {
        self.plane.connection_refused(ConnectionRefused::AcceptFailed);
        // The peer was gone before we took it: nothing of ours is short.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn note_ends(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.note_end(ended);
        }
    }

    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        self.plane.connections_open(self.open.len());
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a connection's task panicked");
            self.plane.connection_refused(ConnectionRefused::Broken);
        }
    }

    async fn end(mut self, graceful: GracefulShutdown) -> usize {
        let (closing, _) = watch::channel(());
        // Those that wait for it learn of it by the sender's end.
        drop(std::mem::replace(&mut self.closing, closing));
        let drained = tokio::time::timeout(self.limits.shutdown_timeout, graceful.shutdown()).await;
        self.note_ends();
        let cut = if drained.is_ok() { 0 } else { self.tasks.len() };
        self.tasks.shutdown().await;
        cut
    }
}

/// The conversation to its end, which comes when its time is over, and once nothing more is to be said where the
/// server closes. What ended it before its client did is counted.
async fn within(
    limits: &Limits,
    connection: &Connection,
    conversation: impl Future<Output = Result<(), hyper::Error>>,
    mut closing: watch::Receiver<()>,
) -> Option<ConnectionRefused> {
    let pulse = &connection.pulse;
    let mut conversation = pin!(conversation);
    let mut closed = pin!(async move { closing.changed().await.is_err() });
    let mut is_closing = false;
    let mut timer: Pin<Box<Sleep>> = Box::pin(tokio::time::sleep_until(clock::instant().into()));
    poll_fn(|cx| {
        if connection.is_cut() {
            return Poll::Ready(Some(ConnectionRefused::SendTimeout));
        }
        if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
            return Poll::Ready(ended.err().map(|error| reason(&error)));
        }
        is_closing = is_closing || closed.as_mut().poll(cx).is_ready();
        if is_closing && pulse.is_waiting() {
            return Poll::Ready(None);
        }
        let Some(deadline) = pulse.deadline(limits) else { return Poll::Pending };
        if timer.deadline() != deadline.into() {
            timer.as_mut().reset(deadline.into());
        }
        timer.as_mut().poll(cx).map(|()| pulse.overdue())
    })
    .await
}

fn reason(error: &hyper::Error) -> ConnectionRefused {
    if error.is_parse_too_large() {
        ConnectionRefused::HeaderTooLarge
    } else if error.is_parse() {
        ConnectionRefused::Malformed
    } else {
        ConnectionRefused::Broken
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;
    use crate::ControlPlaneConfig;
    use crate::clock::Now;

    #[tokio::test]
    async fn a_lack_of_descriptors_pauses_the_accepting_and_a_gone_peer_does_not() {
        let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        let server = Server::new(plane.clone(), &HttpConfig::default());
        let began = Now::sample().monotonic_ns;
        server.pause(&Errno::ECONNABORTED.into()).await;
        assert!(Now::sample().since(began) < ACCEPT_PAUSE);
        server.pause(&Errno::EMFILE.into()).await;
        assert!(Now::sample().since(began) >= ACCEPT_PAUSE);
        let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
        assert!(text.contains("relay_http_connections_refused_total{reason=\"accept_failed\"} 2\n"));
    }
}
