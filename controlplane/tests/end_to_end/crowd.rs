//! More connections than there are places.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use relayscope_bridge::{Hub, HubConfig, ShardId, catalogue, hub};
use relayscope_controlplane::{AlertRules, AlertingConfig, ControlPlane, ControlPlaneConfig, Limits};

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

/// What this process has in memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_crowd_that_reads_nothing_has_few_bodies_made_and_shares_them() {
    const TARGETS: usize = 4000;
    const CROWD: usize = 200;
    let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
    for number in 0..TARGETS {
        let info = [&format!("relay-{number:05}"), "192.0.2.7:862", "ipv4", "stamp", "default"];
        registry.gauge(ShardId(0), &catalogue::TARGET_INFO, &info).unwrap();
    }
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let config = AlertingConfig { instance: "relay-a".to_owned(), rules: AlertRules::default() };
    let alerts = plane.spawn_alerts(&config).unwrap();
    let server = Server::start(&plane, Limits::default());
    let answer = |route| {
        for _ in 0..6000 {
            let body = get(server.address, route).body;
            if body.contains("relay-03999") {
                return body;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{route} never had the last target");
    };
    for (route, template) in
        [("/api/v1/peers", "/api/v1/peers"), ("/mesh?format=json", "/mesh"), ("/mesh", "/mesh")]
    {
        let body_bytes = answer(route).len();
        let labels = [("code", "200"), ("route", template)];
        let count = || {
            let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
            value(&text, "relay_http_requests_total", &labels).unwrap_or(0.0)
        };
        plane.tick();
        let (answered, resident) = (count(), resident_bytes());
        let unread: Vec<_> = (0..CROWD)
            .map(|_| {
                let mut stream = connect(server.address);
                write!(stream, "GET {route} HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
                stream
            })
            .collect();
        await_count(&plane, "relay_http_requests_total", &labels, answered + CROWD as f64);
        let grown = resident_bytes().saturating_sub(resident);
        // 9 at most, and what their making and the scrapes of this test take.
        assert!(grown < CROWD / 4 * body_bytes, "{route}: {grown} for {CROWD} bodies of {body_bytes}");
        drop(unread);
    }
    alerts.stop();
    server.stop();
}
