//! What a shard answers at.

use super::clock;
use super::udp::UdpPort;
use crate::responder::{Identity, IdentityError, Responder, ResponderConfig};

/// The sockets a shard answers at, and who answers there.
#[derive(Default)]
pub struct Listeners {
    /// STAMP, by the shard's reflector.
    pub stamp: Vec<UdpPort>,
    /// QUIC, each by a responder of its own.
    pub quic: Vec<QuicListener>,
}

impl From<Vec<UdpPort>> for Listeners {
    fn from(stamp: Vec<UdpPort>) -> Self {
        Self { stamp, quic: Vec::new() }
    }
}

/// A socket at which QUIC probes are answered.
pub struct QuicListener {
    pub(super) port: UdpPort,
    pub(super) responder: Box<Responder>,
}

impl QuicListener {
    /// Answers at `port` as who `identity` says.
    ///
    /// # Errors
    /// [`IdentityError`] when that is no certificate and its key.
    pub fn new(port: UdpPort, config: ResponderConfig, identity: Identity) -> Result<Self, IdentityError> {
        let (anchor, now) = clock::anchor();
        let responder = Box::new(Responder::new(config, identity, anchor, now)?);
        Ok(Self { port, responder })
    }

    /// The socket.
    pub fn port(&self) -> &UdpPort {
        &self.port
    }
}
