//! What the shards listen on: bound before anything runs, so that what cannot be bound is an error at start.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relayscope_dataplane::driver::listen::{Listeners, QuicListener};
use relayscope_dataplane::driver::udp::{BindError, UdpPort};
use relayscope_dataplane::responder::ResponderConfig;

use crate::config::Reflector;
use crate::failure::Failure;
use crate::protocol::identity;

/// How long a port of a relay that just ended may stay busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A share for each of `shards`: each has a socket at every address, and the kernel sends all that comes from
/// one source to the same one.
pub(crate) fn listen(config: &Reflector, shards: usize) -> Result<Vec<Listeners>, Failure> {
    let mut shares: Vec<Listeners> = (0..shards).map(|_| Listeners::default()).collect();
    for address in &config.listen {
        let ports = bind_patiently(*address, shards).map_err(Failure::host)?;
        shares.iter_mut().zip(ports).for_each(|(share, port)| share.stamp.push(port));
    }
    if config.quic_listen.is_empty() {
        return Ok(shares);
    }
    let mut names: Vec<_> = config.quic_listen.iter().map(|address| address.ip().to_string()).collect();
    names.push("localhost".to_owned());
    let identity = identity(config.quic_identity.as_ref(), &names).map_err(Failure::Usage)?;
    for address in &config.quic_listen {
        let ports = bind_patiently(*address, shards).map_err(Failure::host)?;
        for (share, port) in shares.iter_mut().zip(ports) {
            let listener = QuicListener::new(port, ResponderConfig::default(), identity.clone());
            share.quic.push(listener.map_err(Failure::usage)?);
        }
    }
    Ok(shares)
}

/// The kernel lets go of an ended shard's sockets some milliseconds after the process is gone: a restart
/// must not fail for that.
fn bind_patiently(address: SocketAddr, shards: usize) -> Result<Vec<UdpPort>, BindError> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match UdpPort::bind_shared(address, shards) {
            Err(error) if error.source.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            bound => return bound,
        }
    }
}
