//! Many clients at once, few of them with good intentions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::PATIENCE;
use crate::relay::{Relay, loopback, sample};

const IDLE: usize = 1000;
const DRIPPING: usize = 300;
const SCRAPERS: usize = 200;
const SCRAPES_OF_EACH: usize = 5;
/// As by default.
const PLACES: usize = 512;
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";

/// 1,000 connections that idle, 300 whose headers drip, and 200 that scrape five times each: the scrapes are
/// answered, the drips are cut, and no drain begins a second late.
pub(crate) fn drain_is_on_time() {
    allow_files(IDLE + DRIPPING + SCRAPERS + 100);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relayscope.toml");
    std::fs::write(&file, "[web]\nheader_timeout = \"2s\"\nrequest_timeout = \"1m\"\n").unwrap();
    let ip = loopback();
    let reflect = format!("{ip}:8620");
    let config = file.to_str().unwrap();
    let arguments = ["--config", config, "--reflect", &reflect, "--probe", &format!("self={reflect}")];
    let mut relay = Relay::start(ip, &arguments);
    relay.wait_sample("relay_drain_lateness_seconds_count", 5.0);
    let drains = relay.sample("relay_drain_lateness_seconds_count").unwrap();

    let idle: Vec<_> = (0..IDLE).map(|_| connect(relay.http)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let dripping = {
        let (http, over) = (relay.http, Arc::clone(&over));
        std::thread::spawn(move || drip(http, &over))
    };
    let scrapers: Vec<_> = (0..SCRAPERS)
        .map(|_| {
            let http = relay.http;
            std::thread::spawn(move || (0..SCRAPES_OF_EACH).map(|_| scrape(http)).collect::<Vec<_>>())
        })
        .collect();
    let statuses: Vec<_> = scrapers.into_iter().flat_map(|scraper| scraper.join().unwrap()).collect();
    relay.wait_sample("relay_http_connections_refused_total{reason=\"header_timeout\"}", 1.0);
    over.store(true, Ordering::Relaxed);
    dripping.join().unwrap();
    drop(idle);

    assert_eq!(statuses.len(), SCRAPERS * SCRAPES_OF_EACH);
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(answered, statuses.len(), "there is room for all who scrape: {statuses:?}");
    let scrape = relay.get("/metrics");
    let value = |series: &str| sample(&scrape, series).unwrap_or(0.0);
    let refused =
        |reason: &str| value(&format!("relay_http_connections_refused_total{{reason=\"{reason}\"}}"));
    let (room, slow) = (refused("made_room"), refused("header_timeout"));
    println!("{room} made room, {slow} were too slow");
    assert!(
        room >= 1.0 && room + slow >= (IDLE + DRIPPING - PLACES) as f64,
        "{room} made room, {slow} were slow"
    );
    assert_eq!((refused("accept_failed"), refused("over_limit")), (0.0, 0.0));
    let late = value("relay_drain_lateness_seconds_count")
        - value("relay_drain_lateness_seconds_bucket{le=\"1.0\"}");
    assert_eq!(late, 0.0, "drains a second late or more");
    assert!(value("relay_drain_lateness_seconds_count") > drains, "it drains");
    assert_eq!(value("relay_ring_overwritten_samples_total{shard=\"0\"}"), 0.0);
    assert_eq!(value("relay_probe_up{target=\"self\"}"), 1.0);
    assert!(relay.process.is_running());
}

/// What was sent while the relay itself stood still was sent in time: who did so does not make room.
pub(crate) fn stall_of_ours() {
    allow_files(2 * PLACES + SCRAPERS + 100);
    let ip = loopback();
    let reflect = format!("{ip}:8620");
    let relay = Relay::start(ip, &["--reflect", &reflect]);
    let idle: Vec<_> = (0..PLACES).map(|_| connect(relay.http)).collect();
    let mut scrapers: Vec<_> = (0..SCRAPERS).map(|_| connect(relay.http)).collect();
    relay.wait_sample("relay_http_connections_refused_total{reason=\"made_room\"}", SCRAPERS as f64);
    relay.process.signal(Signal::SIGSTOP);
    scrapers.iter_mut().for_each(|scraper| scraper.write_all(REQUEST).unwrap());
    // Longer than anybody may be silent who is not to make room.
    std::thread::sleep(Duration::from_millis(1500));
    let more: Vec<_> = (0..PLACES - SCRAPERS).map(|_| connect(relay.http)).collect();
    relay.process.signal(Signal::SIGCONT);
    let statuses: Vec<_> = scrapers.into_iter().map(status).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    drop((idle, more));
}

/// An octet of a header now and then on each connection; what is closed begins anew.
fn drip(http: SocketAddr, over: &AtomicBool) {
    let mut connections: Vec<_> = (0..DRIPPING).map(|_| connect(http)).collect();
    while !over.load(Ordering::Relaxed) {
        for connection in &mut connections {
            if connection.write_all(b"G").is_err() {
                *connection = connect(http);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn connect(http: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status; 0 when it was closed without a word.
fn scrape(http: SocketAddr) -> u16 {
    let mut stream = connect(http);
    if stream.write_all(REQUEST).is_ok() { status(stream) } else { 0 }
}

/// Of the answer that comes, to its end.
fn status(mut stream: TcpStream) -> u16 {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    read.ok().and(status).unwrap_or(0)
}

fn allow_files(needed: usize) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let needed = needed as u64;
    assert!(needed <= hard, "this test needs {needed} files, and RLIMIT_NOFILE is at most {hard}");
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).unwrap();
    }
}
