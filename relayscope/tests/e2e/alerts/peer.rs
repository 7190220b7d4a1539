//! A peer that can be killed and comes again where it was.

use std::net::SocketAddr;

use crate::relay::{Relay, loopback};

/// A relay that reflects and does nothing else.
pub(crate) struct Reflector {
    relay: Option<Relay>,
    address: SocketAddr,
}

impl Reflector {
    pub(crate) fn start() -> Self {
        let mut reflector = Self { relay: None, address: SocketAddr::new(loopback(), 8620) };
        reflector.revive();
        reflector
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn kill(&mut self) {
        self.relay.take().unwrap().process.kill();
    }

    pub(crate) fn revive(&mut self) {
        let reflect = self.address.to_string();
        self.relay = Some(Relay::start(self.address.ip(), &["--reflect", &reflect, "--cores", "0"]));
    }
}
