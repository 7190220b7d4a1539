//! A server on a thread of its own, stopped by the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use relayscope_controlplane::{ControlPlane, Limits, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<usize>,
}

impl Server {
    pub(crate) fn start(plane: &ControlPlane, limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let plane = plane.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let shutdown = async {
                    // A test that failed drops the sender, which is as good as sending.
                    stopped.await.unwrap_or_default();
                };
                serve(listener, plane, limits, shutdown).await
            })
        });
        Self { address, stop, thread }
    }

    /// Shuts down; how many connections were cut.
    pub(crate) fn stop(self) -> usize {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}
