//! The HTTP server over real sockets: routes, limits and shutdown.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use relayscope_bridge::catalogue::{GROUP_INFO, PROBE_FAMILY_UP, PROBE_RTT_SECONDS, PROBE_UP, TARGET_INFO};
use relayscope_bridge::{
    GaugeCell, Hub, HubConfig, MetricSample, MetricValue, Publisher, SeriesRegistry, ShardId, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits};

use crate::client::{connect, exchange, get, parse, read_to_close, request};
use crate::parser;
use crate::server::Server;

const SHARD: ShardId = ShardId(0);

fn empty_plane() -> (Publisher, SeriesRegistry, ControlPlane) {
    // Room for the long names below.
    let sizes = HubConfig { max_series: 1 << 20, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    (publishers.remove(0), registry, plane)
}

fn set_up(registry: &SeriesRegistry, target: &str) -> GaugeCell {
    let mut up = registry.gauge(SHARD, &PROBE_UP, &[target]).unwrap();
    up.set(1.0);
    up
}

/// A drained plane whose one target `b` is up with an RTT of 250 us.
pub(crate) fn plane_with_b_up() -> ControlPlane {
    let (mut publisher, registry, plane) = empty_plane();
    set_up(&registry, "b");
    let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    let value = MetricValue::Histogram(0.000_25);
    publisher.record(MetricSample { metric_id: rtt, timestamp_ns: 1, value });
    // Ahead of any clock reading: the shard counts as alive however slowly the test runs.
    publisher.beat(u64::MAX);
    registry.gauge(SHARD, &PROBE_FAMILY_UP, &["b", "ipv4"]).unwrap().set(1.0);
    registry.gauge(SHARD, &TARGET_INFO, &["b", "127.0.0.1:8621", "ipv4", "stamp", "default"]).unwrap();
    plane.tick();
    plane
}

/// The value of a counter once the server's own bookkeeping has caught up with what the client saw.
pub(crate) fn await_count(plane: &ControlPlane, name: &str, labels: &[(&str, &str)], expected: f64) {
    let mut last = None;
    for _ in 0..2000 {
        plane.tick();
        let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
        last = parser::value(&text, name, labels);
        if last == Some(expected) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{name}{labels:?} is {last:?}; expected {expected}");
}

pub(crate) fn await_refused(plane: &ControlPlane, reason: &str, expected: f64) {
    await_count(plane, "relay_http_connections_refused_total", &[("reason", reason)], expected);
}

#[test]
fn a_scrape_parses_strictly_and_says_what_was_measured() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let reply = get(server.address, "/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let labels = [("target", "b"), ("family", "ipv4")];
    assert!(reply.body.contains("\nrelay_probe_up{target=\"b\"} 1\n"));
    assert_eq!(parser::value(&reply.body, "relay_probe_rtt_seconds_count", &labels), Some(1.0));
    assert_eq!(parser::value(&reply.body, "relay_probe_rtt_seconds_sum", &labels), Some(0.000_25));
    assert_eq!(parser::value(&reply.body, "relay_mesh_peers", &[]), Some(1.0));
    assert_eq!(server.stop(), 0);
}

#[test]
fn requests_are_counted_by_declared_route_and_never_by_path() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    get(server.address, "/mesh?format=json");
    get(server.address, "/mesh?format=xml");
    get(server.address, "/no/such");
    get(server.address, "/other/one");
    request(server.address, "POST", "/mesh", "");
    for (route, code, expected) in
        [("/mesh", "200", 1.0), ("/mesh", "400", 1.0), ("other", "404", 2.0), ("/mesh", "405", 1.0)]
    {
        let labels = [("route", route), ("code", code)];
        await_count(&plane, "relay_http_requests_total", &labels, expected);
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn the_mesh_is_a_table_or_json_as_asked() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let table = get(server.address, "/mesh");
    assert_eq!(table.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(table.body.starts_with("TARGET  STATE"), "{}", table.body);
    assert!(table.body.ends_with("1 of 1 targets up\n"), "{}", table.body);
    let accept = "accept: text/html, application/json;q=0.9\r\n";
    for json in [get(server.address, "/mesh?format=json"), request(server.address, "GET", "/mesh", accept)] {
        assert_eq!(json.header("content-type"), Some("application/json"));
        assert!(
            json.body.starts_with(r#"{"running":true,"reason":null,"targets":1,"up":1,"rows":[{"name":"b","#)
        );
    }
    let text = request(server.address, "GET", "/mesh?format=text", accept);
    assert!(text.body.starts_with("TARGET"), "the query outranks the header");
    let bad = get(server.address, "/mesh?format=xml");
    assert_eq!(bad.status, 400);
    assert_eq!(bad.body, "format \"xml\" is not known; expected format=json or format=text\n");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_mesh_without_targets_says_how_to_configure_one() {
    let (_publisher, _registry, plane) = empty_plane();
    let server = Server::start(&plane, Limits::default());
    let reply = get(server.address, "/mesh");
    assert!(reply.body.starts_with("no targets are configured\n") && reply.body.contains("--probe"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn ready_comes_with_the_first_drain_and_heartbeat_and_health_from_the_start() {
    let (mut publisher, _registry, plane) = empty_plane();
    let server = Server::start(&plane, Limits::default());
    let ready = get(server.address, "/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "{\"ready\":false,\"reason\":\"shard 0 has not been drained yet\"}\n");
    assert_eq!(get(server.address, "/healthz").status, 200);
    publisher.beat(1);
    plane.tick();
    let ready = get(server.address, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (200, "{\"ready\":true,\"reason\":null}\n"));
    let health = get(server.address, "/healthz");
    assert_eq!(health.status, 503, "the heartbeat is from the host's first nanosecond");
    assert!(health.body.contains("\"verdict\":\"data plane silent\""), "{}", health.body);
    assert_eq!(server.stop(), 0);
}

#[test]
fn head_is_get_without_the_body() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let reply = request(server.address, "HEAD", "/metrics", "");
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let length: usize = reply.header("content-length").unwrap().parse().unwrap();
    assert!(length > 1000);
    assert_eq!(server.stop(), 0);
}

#[test]
fn an_unknown_route_and_a_wrong_method_say_what_is_right() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let lost = get(server.address, "/metricz");
    assert_eq!(lost.status, 404);
    assert!(
        lost.body.starts_with("no route /metricz; there are / and /metrics, /mesh, /healthz, "),
        "{}",
        lost.body
    );
    let posted = request(server.address, "POST", "/metrics", "content-length: 0\r\n");
    assert_eq!(posted.status, 405);
    assert_eq!(posted.header("allow"), Some("GET,HEAD"));
    assert_eq!(posted.body, "method POST is not allowed; expected GET or HEAD\n");
    assert!(get(server.address, "/").body.contains("/healthz"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_header_that_trickles_is_cut_off_and_counted() {
    let plane = plane_with_b_up();
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(&plane, limits);
    assert_eq!(exchange(server.address, b"GET /metrics HTTP/1.1\r\nhost: r"), b"");
    await_refused(&plane, "header_timeout", 1.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_connection_that_idles_after_its_answer_is_closed_and_not_counted_as_refused() {
    let plane = plane_with_b_up();
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(&plane, limits);
    let reply = parse(&exchange(server.address, b"GET / HTTP/1.1\r\nhost: relay\r\n\r\n"));
    assert_eq!(reply.status, 200);
    // The server is one thread: once this is counted, so would have been the other.
    exchange(server.address, b"\x00\r\n\r\n");
    await_refused(&plane, "malformed", 1.0);
    let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
    assert!(text.contains("reason=\"header_timeout\"} 0\n"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_header_too_large_or_malformed_is_answered_and_counted() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(32 << 10));
    assert_eq!(parse(&exchange(server.address, large.as_bytes())).status, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(65));
    assert_eq!(parse(&exchange(server.address, many.as_bytes())).status, 431);
    assert_eq!(parse(&exchange(server.address, b"\x00\x01\x02\r\n\r\n")).status, 400);
    await_refused(&plane, "header_too_large", 2.0);
    await_refused(&plane, "malformed", 1.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_connection_over_the_limit_is_told_so_and_counted_while_all_are_being_served() {
    let plane = plane_with_a_large_body();
    let server = Server::start(&plane, Limits { connections_max: 1, ..patient() });
    let held = begun(server.address);
    let mut turned_away = connect(server.address);
    let reply = parse(&read_to_close(&mut turned_away));
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    await_refused(&plane, "over_limit", 1.0);
    drop(held);
    await_served(server.address);
    assert_eq!(server.stop(), 0);
}

/// Until the server has a place again: the end of the one before reaches it when it does.
fn await_served(address: SocketAddr) {
    let request = b"GET / HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
    let served = || {
        let mut stream = connect(address);
        // Turned away, the server may have closed before this is written.
        let answer = stream.write_all(request).map(|()| read_to_close(&mut stream));
        answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 OK"))
    };
    for _ in 0..1000 {
        if served() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no place became free");
}

/// A plane whose body is 20 MB: more than the sockets of a connection buffer.
fn plane_with_a_large_body() -> ControlPlane {
    let (_publisher, registry, plane) = empty_plane();
    let long = "x".repeat(1000);
    for n in 0..3000 {
        let values = [&format!("{long}{n}"), &long, &long, &long, &long, &long, &long];
        registry.gauge(SHARD, &GROUP_INFO, &values.map(String::as_str)).unwrap().set(1.0);
    }
    plane.tick();
    plane
}

/// With time to render it on a host that has much else to do.
fn patient() -> Limits {
    Limits { request_timeout: Duration::from_secs(120), ..Limits::default() }
}

/// A connection on which the large body has begun to come.
fn begun(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();
    stream
}

#[test]
fn a_client_that_does_not_read_loses_its_place() {
    let plane = plane_with_a_large_body();
    let write_stall_max = Duration::from_millis(500);
    let limits = Limits { connections_max: 1, write_stall_max, ..patient() };
    let server = Server::start(&plane, limits);
    let _stalled = begun(server.address);
    await_served(server.address);
    await_refused(&plane, "broken", 1.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn shutdown_closes_what_idles_and_cuts_what_is_open_at_the_deadline() {
    let plane = plane_with_a_large_body();
    let limits = Limits { shutdown_timeout: Duration::from_millis(300), ..patient() };
    let server = Server::start(&plane, limits);
    let mut idle = connect(server.address);
    idle.write_all(b"HEAD / HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
    let _stalled = begun(server.address);
    assert_eq!(server.stop(), 1);
    assert!(read_to_close(&mut idle).ends_with(b"\r\n\r\n"));
}

#[test]
fn shutdown_lets_an_open_request_end() {
    let plane = plane_with_a_large_body();
    let server = Server::start(&plane, patient());
    let address = server.address;
    let mut open = begun(address);
    let stopping = std::thread::spawn(|| server.stop());
    let rest = read_to_close(&mut open);
    assert!(rest.len() > 20_000_000 && rest.ends_with(b"\n"), "{} bytes", rest.len());
    assert_eq!(stopping.join().unwrap(), 0);
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}
