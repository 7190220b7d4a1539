//! A relay in a process of its own, as seen from in there: one shard, one telemetry, one HTTP server.

use std::io::{Read, Write, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::key::HmacKey;
use relayscope_example_relay::admission::Keys;
use relayscope_example_relay::dataplane::{ShardParts, ShardThread, spawn};
use relayscope_example_relay::instruments::Instruments;
use relayscope_example_relay::relay::{Limits, Relay};

use crate::forms::Form;
use crate::{exporter, locked, ours, silent};

/// In the arguments of a process that is to serve, before the form and the core.
pub(crate) const SERVE: &str = "--serve";
/// Tokens are signed with it.
pub(crate) const TOKEN_KEY: &[u8; 32] = b"thirty-two octets known to both!";
/// Nobody is refused for asking too often, or ends for the slices of others.
const LIMITS: Limits = Limits {
    sessions_max: 4096,
    rooms_max: 4096,
    room_members_max: 64,
    packets_per_second: 10_000_000,
    handshakes_per_second: 1_000_000,
    idle: Duration::from_secs(24 * 3600),
};

/// What every form gets: a bound socket, a core for its shard, and a listener for whoever scrapes it.
pub(crate) struct Seat {
    core: usize,
    port: UdpPort,
    /// To be served at.
    pub(crate) http: TcpListener,
}

/// What this process is to serve, and on which core.
pub(crate) fn asked_to_serve() -> Option<(Form, usize)> {
    let arguments: Vec<_> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == SERVE)?;
    let (form, core) = (arguments.get(at + 1)?, arguments.get(at + 2)?);
    Some((Form::named(form)?, core.parse().ok()?))
}

/// Serves until who started this process closes its input, or is gone.
pub(crate) fn serve(form: Form, core: usize) {
    // It may be stopped at that moment.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let port = UdpPort::bind(loopback).unwrap();
    let http = TcpListener::bind(loopback).unwrap();
    let relay = port.local_address();
    let seat = Seat { core, port, http };
    match form {
        Form::None | Form::NoneAgain => silent::serve(seat, relay),
        Form::Relayscope => ours::serve(seat, relay),
        Form::Metrics => exporter::serve(seat, relay),
        Form::Mutex => locked::serve(seat, relay),
    }
}

impl Seat {
    /// The relay, on its core, telling `instruments`.
    pub(crate) fn relay<I: Instruments + Send + 'static>(self, instruments: I) -> ShardThread {
        let Self { core, port, .. } = self;
        let key = |octets: &[u8]| Arc::new(HmacKey::new(octets).unwrap());
        let keys = Keys { token: key(TOKEN_KEY), secret: key(b"thirty-two octets of the relay's") };
        let ports: Arc<[u16]> = [port.local_address().port()].into();
        let parts = ShardParts { shard: 0, core, port, web: None, probes: None };
        spawn(parts, move || Relay::new(0, ports, keys, &LIMITS, instruments)).unwrap()
    }
}

/// Says where the relay and its server are, and waits for the end.
pub(crate) fn wait(relay: SocketAddr, http: SocketAddr) {
    println!("{relay} {http}");
    stdout().flush().unwrap();
    stdin().read_to_end(&mut Vec::new()).unwrap();
}
