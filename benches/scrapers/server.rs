//! The process that is scraped: a control plane over a hub whose every value changes all the time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::Duration;

use relayscope_benches::series::{Cells, FAMILIES};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};

use crate::SERIES;

/// In the environment of a process that is to serve; how many connections at once, or nothing for as many as by
/// default.
pub(crate) const SERVE: &str = "RELAYSCOPE_SCRAPERS_SERVE";
/// Between two changes of everything.
const CHANGE_PAUSE: Duration = Duration::from_millis(100);

/// Whether this process is to serve, and to how many at once.
pub(crate) fn asked_to_serve() -> Option<Option<usize>> {
    std::env::var(SERVE).ok().map(|connections| connections.parse().ok())
}

/// Serves until it is killed.
pub(crate) fn serve(connections: Option<usize>) {
    let (mut cells, collector) = Cells::new(SERIES / FAMILIES.len());
    cells.set(0);
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let _drain = plane.spawn_drain().unwrap();
    let default = Limits::default();
    let limits = Limits { connections_max: connections.unwrap_or(default.connections_max), ..default };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = ServerThread::spawn(listener, plane, limits).unwrap();
    println!("{}", server.local_addr());
    std::io::stdout().flush().unwrap();
    for round in 1.. {
        sleep(CHANGE_PAUSE);
        cells.set(round);
    }
}

/// Where a server says that it is.
pub(crate) fn read_address(stdout: impl Read) -> SocketAddr {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}
