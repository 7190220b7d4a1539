//! More connections than there are places.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use relayscope_controlplane::Limits;

use crate::client::{connect, get, read_to_close};
use crate::http::{await_count, plane_with_b_up};
use crate::parser::value;
use crate::server::Server;

const PLACES: usize = 16;

fn limits() -> Limits {
    Limits { connections_max: PLACES, ..Limits::default() }
}

/// A connection that was answered once and is kept.
fn kept(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(b"HEAD / HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
    let mut answer = [0; 2048];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].ends_with(b"\r\n\r\n"), "all of it came at once");
    stream
}

#[test]
fn idle_connections_make_room_in_order_of_their_idling() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, limits());
    let mut idle: Vec<_> = (0..PLACES).map(|_| kept(server.address)).collect();
    await_count(&plane, "relay_http_connections", &[], PLACES as f64);
    for _ in 0..4 {
        assert_eq!(get(server.address, "/metrics").status, 200);
    }
    // Each of the four may have found the place of the one before.
    let mut first = idle.remove(0);
    assert_eq!(read_to_close(&mut first), b"", "the one that idled longest is closed");
    let mut last = idle.pop().unwrap();
    last.write_all(b"HEAD / HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").unwrap();
    assert!(read_to_close(&mut last).starts_with(b"HTTP/1.1 200 OK"), "the one that came last is served");
    assert_eq!(server.stop(), 0);
}

#[test]
fn silent_connections_without_end_keep_nobody_out() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, limits());
    let silent: Vec<_> = (0..10 * PLACES).map(|_| connect(server.address)).collect();
    for _ in 0..20 {
        assert_eq!(get(server.address, "/metrics").status, 200);
    }
    plane.tick();
    let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
    let refused = |reason| value(&text, "relay_http_connections_refused_total", &[("reason", reason)]);
    assert_eq!(refused("over_limit"), Some(0.0), "nobody was turned away");
    assert!(refused("made_room").unwrap() >= (9 * PLACES) as f64, "{:?}", refused("made_room"));
    drop(silent);
    assert_eq!(server.stop(), 0);
}

#[test]
fn shutdown_waits_for_nobody_who_says_nothing() {
    let plane = plane_with_b_up();
    let long = Duration::from_secs(600);
    let limits = Limits { shutdown_timeout: long, header_timeout: long, ..Limits::default() };
    let server = Server::start(&plane, limits);
    let mut silent = connect(server.address);
    let mut half = connect(server.address);
    half.write_all(b"GET / HTTP/1.1\r\nhost").unwrap();
    await_count(&plane, "relay_http_connections", &[], 2.0);
    assert_eq!(server.stop(), 0);
    assert_eq!(read_to_close(&mut silent), b"");
    assert_eq!(read_to_close(&mut half), b"");
}
