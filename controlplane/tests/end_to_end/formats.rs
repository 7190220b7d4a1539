//! What is negotiated over HTTP: format, coding, and which part of a scrape.

use std::io::Read;

use relayscope_controlplane::Limits;

use crate::client::{connect, read_to_close, request};
use crate::http::plane_with_b_up;
use crate::parser;
use crate::server::Server;

#[test]
fn the_format_a_client_prefers_is_what_it_gets_and_is_told() {
    let server = Server::start(&plane_with_b_up(), Limits::default());
    for (accept, content_type) in [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "accept: text/plain;q=0.5, application/openmetrics-text;version=1.0.0\r\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let reply = request(server.address, "GET", "/metrics", accept);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)));
        assert_eq!(reply.header("vary"), Some("Accept, Accept-Encoding"));
    }
    let protobuf =
        "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let (head, body) = exchange(&server, "/metrics?name[]=relay_probe_up", &format!("{protobuf}\r\n"));
    assert!(
        head.contains("content-type: application/vnd.google.protobuf; proto=io.prometheus.client"),
        "{head}"
    );
    // A family: its length, field 1 with its name, ... and a gauge of 1.0.
    assert_eq!(usize::from(body[0] & 0x7f) | usize::from(body[1]) << 7, body.len() - 2);
    assert_eq!(body[2..4], [0x0a, 14]);
    assert_eq!(&body[4..18], b"relay_probe_up");
    assert!(body.ends_with(&1f64.to_le_bytes()));
}

#[test]
fn a_body_is_compressed_for_who_takes_that() {
    let server = Server::start(&plane_with_b_up(), Limits::default());
    let (head, body) = exchange(&server, "/metrics", "accept-encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(parser::value(&text, "relay_probe_up", &[("target", "b")]), Some(1.0));
    assert!(body.len() < text.len() / 3);
    let plain = request(server.address, "GET", "/metrics", "accept-encoding: br\r\n");
    assert_eq!(plain.header("content-encoding"), None);
}

#[test]
fn a_query_says_what_of_it_is_wanted_and_a_bad_one_what_would_be_right() {
    let server = Server::start(&plane_with_b_up(), Limits::default());
    let reply =
        request(server.address, "GET", "/metrics?name[]=relay_probe_up&name%5B%5D=relay_mesh_peers", "");
    assert_eq!(reply.status, 200);
    assert_eq!(
        parser::parse(&reply.body).into_keys().collect::<Vec<_>>(),
        ["relay_mesh_peers", "relay_probe_up"]
    );
    let reply = request(server.address, "GET", "/metrics?target[]=b&detail=compact", "");
    assert!(reply.body.contains("le=\"+Inf\"") && !reply.body.contains("le=\"0.5\""), "{}", reply.body);
    assert!(!reply.body.contains("relay_mesh_peers"));
    let reply = request(server.address, "GET", "/metrics?target[]=nobody", "");
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let names: String = (0..257).map(|n| format!("&name[]=n{n}")).collect();
    for (query, line) in [
        ("detail=full", "detail \"full\" is not known; expected compact, classic or native\n"),
        ("names=x", "query key \"names\" is not known; expected name[], target[] or detail\n"),
        (&names[1..], "257 names or targets are too many; expected at most 256\n"),
    ] {
        let reply = request(server.address, "GET", &format!("/metrics?{query}"), "");
        assert_eq!((reply.status, reply.body.as_str()), (400, line));
    }
}

/// Head and body of an answer that is no text.
fn exchange(server: &Server, path: &str, headers: &str) -> (String, Vec<u8>) {
    use std::io::Write;
    let mut stream = connect(server.address);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{headers}\r\n").unwrap();
    let answer = read_to_close(&mut stream);
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}
