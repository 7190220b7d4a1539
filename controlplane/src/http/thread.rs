//! The server for applications without tokio: a runtime of its own on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{HttpConfig, serve};
use crate::ControlPlane;

/// Of the thread that serves and of those that wait for a lock; scrapes are rendered on one of their own.
const NAME: &str = "relayscope-http";

/// The server thread died of a panic; its message is on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the HTTP server thread panicked; nothing is served since")]
pub struct ServerPanicked;

/// A running server. Dropping it stops it too, and logs what [`stop`](Self::stop) returns.
///
/// ```
/// use std::net::TcpListener;
///
/// use relayscope_bridge::{Hub, HubConfig, hub};
/// use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};
///
/// let Hub { publishers: _publishers, collector, .. } = hub(HubConfig::default())?;
/// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let server = ServerThread::spawn(listener, plane, Limits::default())?;
/// println!("serving http://{}/metrics", server.local_addr());
/// assert_eq!(server.stop()?, 0, "nobody was cut off");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ServerThread {
    address: SocketAddr,
    /// Dropped to stop the thread; nothing is ever sent.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<usize>>,
}

impl ServerThread {
    /// Serves `plane` on `listener` as `config` says, as [`serve`] does; [`Limits`](super::Limits) alone will do.
    ///
    /// Its threads inherit the affinity of the one that calls: call it from one that keeps off the shards'
    /// cores, and so will they.
    ///
    /// # Errors
    /// When the listener is of no use, or no runtime or thread can be had.
    pub fn spawn(
        listener: std::net::TcpListener,
        plane: ControlPlane,
        config: impl Into<HttpConfig>,
    ) -> io::Result<Self> {
        let config = config.into();
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name(NAME).build()?;
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        drop(entered);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || run(runtime, listener, plane, config, stopped))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address served, with the port the kernel chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets open requests end for `limits.shutdown_timeout`, cuts what is left, and
    /// returns how many connections that were.
    ///
    /// # Errors
    /// [`ServerPanicked`] if the thread had died before.
    pub fn stop(mut self) -> Result<usize, ServerPanicked> {
        self.join()
    }

    fn join(&mut self) -> Result<usize, ServerPanicked> {
        self.stop = None;
        self.thread.take().map_or(Ok(0), |thread| thread.join().map_err(|_| ServerPanicked))
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        match self.join() {
            Ok(0) => {}
            Ok(cut) => tracing::warn!("{cut} HTTP connections were cut at shutdown"),
            Err(panicked) => tracing::error!("{panicked}"),
        }
    }
}

fn run(
    runtime: Runtime,
    listener: tokio::net::TcpListener,
    plane: ControlPlane,
    config: HttpConfig,
    stopped: oneshot::Receiver<()>,
) -> usize {
    let shutdown = async {
        // Resolves when the sender is dropped: an error by name only.
        stopped.await.unwrap_or_default();
    };
    let cut = runtime.block_on(serve(listener, plane, config, shutdown));
    // A render that waits for a drain that hangs must not hold up the end.
    runtime.shutdown_background();
    cut
}
