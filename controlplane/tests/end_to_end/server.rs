//! A server on an ephemeral loopback port, stopped by the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use relayscope_controlplane::{ControlPlane, HttpConfig, ServerThread};

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    thread: ServerThread,
}

impl Server {
    pub(crate) fn start(plane: &ControlPlane, config: impl Into<HttpConfig>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let thread = ServerThread::spawn(listener, plane.clone(), config).unwrap();
        Self { address: thread.local_addr(), thread }
    }

    /// Shuts down; how many connections were cut.
    pub(crate) fn stop(self) -> usize {
        self.thread.stop().unwrap()
    }
}
