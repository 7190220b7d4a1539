//! Server-sent events over real sockets: an answer without end among limits that all have one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use relayscope_controlplane::Limits;

use crate::client::{connect, get, read_to_close};
use crate::http::{await_count, await_refused, plane_with_b_up};
use crate::server::Server;
use crate::site::{Site, basic, users};

/// One that listens, with what it was told so far.
pub(crate) struct Listener {
    stream: TcpStream,
    pub(crate) told: String,
}

impl Listener {
    pub(crate) fn join(address: SocketAddr, headers: &str) -> Self {
        let mut stream = connect(address);
        let text = format!("GET /api/v1/live HTTP/1.1\r\nhost: relay\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        Self { stream, told: String::new() }
    }

    /// Reads until `what` was told as many `times`.
    pub(crate) fn wait(&mut self, what: &str, times: usize) {
        let mut buffer = [0; 4096];
        while self.told.matches(what).count() < times {
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended: {}", self.told);
            self.told.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

#[test]
fn what_has_no_end_outlives_the_limits_of_answers_that_have_one_and_is_counted() {
    let plane = plane_with_b_up();
    let short = Duration::from_millis(50);
    let limits =
        Limits { request_timeout: short, send_timeout: short, idle_timeout: short, ..Limits::default() };
    let server = Server::start(&plane, limits);
    let mut listener = Listener::join(server.address, "");
    listener.wait("event: values\n", 2);
    let (head, rest) = listener.told.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: text/event-stream\r\n"), "{head}");
    assert!(rest.contains("retry: 2000\n\nevent: relays\ndata: {\"at\":"), "{rest}");
    await_count(&plane, "relay_http_live_clients", &[], 1.0);
    let labels = [("route", "/api/v1/live"), ("code", "200")];
    await_count(&plane, "relay_http_requests_total", &labels, 1.0);
    drop(listener);
    await_count(&plane, "relay_http_live_clients", &[], 0.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn shutdown_waits_for_nobody_who_listens() {
    let plane = plane_with_b_up();
    let limits = Limits { shutdown_timeout: Duration::from_secs(600), ..Limits::default() };
    let server = Server::start(&plane, limits);
    let mut listener = Listener::join(server.address, "");
    listener.wait("event: shards\n", 1);
    assert_eq!(server.stop(), 0);
    read_to_close(&mut listener.stream);
}

#[test]
fn who_listens_gives_way_where_there_is_no_place_left() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits { connections_max: 2, ..Limits::default() });
    let mut first = Listener::join(server.address, "");
    first.wait("event: relays\n", 1);
    let mut second = Listener::join(server.address, "");
    second.wait("event: relays\n", 1);
    assert_eq!(get(server.address, "/readyz").status, 200);
    read_to_close(&mut first.stream);
    await_refused(&plane, "made_room", 1.0);
    second.told.clear();
    second.wait("event: values\n", 1);
    assert_eq!(server.stop(), 0);
}

#[test]
fn only_known_users_listen() {
    let plane = plane_with_b_up();
    let site = Site::new();
    let server = site.serve(&plane, &users(&[("alice", "wonder")]), Limits::default());
    assert_eq!(get(server.address, "/api/v1/live").status, 401);
    let mut listener = Listener::join(server.address, &basic("alice:wonder"));
    listener.wait("event: relays\n", 1);
    await_count(&plane, "relay_http_live_clients", &[], 1.0);
    assert_eq!(server.stop(), 0);
}
