//! The accept loop: every connection bounded in number, time and size.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Limits, router};
use crate::ControlPlane;
use crate::own::ConnectionRefused;

/// After the kernel refused to hand over a connection, as when descriptors run out: the condition
/// lasts, and trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The smallest buffer hyper works with.
const BUFFER_MIN: usize = 8192;

const OVER_LIMIT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 42\r\nconnection: close\r\n\r\n\
    too many connections; close one and retry\n";

/// Serves `plane` on `listener` within `limits` until `shutdown` resolves.
///
/// Then it stops accepting, lets open requests end for `limits.shutdown_timeout`, cuts what is left,
/// and returns how many connections that were.
pub async fn serve(
    listener: TcpListener,
    plane: ControlPlane,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let server = Server::new(plane, limits);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => server.note_end(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < limits.connections_max => {
                    connections.spawn(server.connection(stream, graceful.watcher()));
                }
                Ok((stream, _)) => server.turn_away(stream),
                Err(error) => server.pause(&error).await,
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(limits.shutdown_timeout, graceful.shutdown()).await;
    while let Some(ended) = connections.try_join_next() {
        server.note_end(ended);
    }
    let cut = if drained.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    cut
}

struct Server {
    plane: ControlPlane,
    router: Router,
    http: http1::Builder,
    limits: Limits,
}

impl Server {
    fn new(plane: ControlPlane, limits: Limits) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.headers_max)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max.max(BUFFER_MIN));
        Self { router: router(plane.clone(), &limits), plane, http, limits }
    }

    /// One connection, from its first byte to its end.
    fn connection(&self, stream: TcpStream, watcher: Watcher) -> impl Future<Output = ()> + Send + use<> {
        self.bound_write_stall(&stream);
        let router = TowerToHyperService::new(self.router.clone());
        let answered = Arc::new(AtomicBool::new(false));
        let service = {
            let answered = Arc::clone(&answered);
            service_fn(move |request| {
                answered.store(true, Ordering::Relaxed);
                router.call(request)
            })
        };
        let connection = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service));
        let plane = self.plane.clone();
        async move {
            let Err(error) = connection.await else { return };
            // To idle between requests until the time is up is every client's right.
            if !(error.is_timeout() && answered.load(Ordering::Relaxed)) {
                plane.connection_refused(reason(&error));
            }
        }
    }

    /// The limits on requests end with the answer. A client that does not read it would hold its
    /// place for ever, but for this option of the kernel's, which also counts a window kept shut.
    fn bound_write_stall(&self, stream: &TcpStream) {
        let most = u32::try_from(self.limits.write_stall_max.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &most) {
            tracing::warn!(%error, "TCP_USER_TIMEOUT could not be set; a stalled client keeps its connection");
        }
    }

    /// Says why, if the client's socket takes it at once, and closes.
    fn turn_away(&self, stream: TcpStream) {
        self.plane.connection_refused(ConnectionRefused::OverLimit);
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

    fn note_end(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(%error, "a connection's task panicked");
            self.plane.connection_refused(ConnectionRefused::Broken);
        }
    }
}

fn reason(error: &hyper::Error) -> ConnectionRefused {
    if error.is_timeout() {
        ConnectionRefused::HeaderTimeout
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
        let server = Server::new(plane.clone(), Limits::default());
        let began = Now::sample().monotonic_ns;
        server.pause(&Errno::ECONNABORTED.into()).await;
        assert!(Now::sample().since(began) < ACCEPT_PAUSE);
        server.pause(&Errno::EMFILE.into()).await;
        assert!(Now::sample().since(began) >= ACCEPT_PAUSE);
        let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
        assert!(text.contains("relay_http_connections_refused_total{reason=\"accept_failed\"} 2\n"));
    }
}
