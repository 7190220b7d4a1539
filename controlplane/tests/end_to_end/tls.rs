//! TLS as clients see it, good ones and others.

use std::io::{Read, Write};
use std::time::Duration;

use relayscope_controlplane::Limits;

use crate::client::{exchange, parse, read_to_close};
use crate::http::{await_count, await_refused, plane_with_b_up};
use crate::site::{Site, basic, tls, tls_connect, tls_get, users};

#[test]
fn tls_of_both_versions_is_served_and_browsers_are_told_to_stay_with_it() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = site.serve(&plane, &tls(""), Limits::default());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = site.client_of(&[version]);
        let reply = parse(&tls_get(server.address, &client, "/metrics", "").unwrap());
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("strict-transport-security"), Some("max-age=31536000"));
        assert!(reply.body.contains("\nrelay_probe_up{target=\"b\"} 1\n"));
    }
    plane.tick();
    let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
    assert!(
        text.contains("\nrelay_web_certificate_not_after_timestamp_seconds 67090118400\n"),
        "year 4096: {text}"
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn who_speaks_no_tls_where_it_is_served_is_told_so() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = site.serve(&plane, &tls(""), Limits::default());
    let reply = parse(&exchange(server.address, b"GET / HTTP/1.1\r\nhost: relay\r\n\r\n"));
    assert_eq!((reply.status, reply.body.as_str()), (400, "TLS is served here; use https:// in URL\n"));
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    await_refused(&plane, "no_tls", 1.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn only_a_client_whose_certificate_is_trusted_and_allowed_is_served() {
    let (site, other, plane) = (Site::new(), Site::new(), plane_with_b_up());
    let more = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
                client_allowed_sans: [prometheus.example.net, 192.0.2.7]\n";
    let server = site.serve(&plane, &tls(more), Limits::default());
    for name in ["prometheus.example.net", "192.0.2.7"] {
        let answer = tls_get(server.address, &site.client_called(name), "/", "").unwrap();
        assert_eq!(parse(&answer).status, 200, "{name}");
    }
    for (client, reason) in [
        (site.client(), "client_certificate_missing"),
        (site.client_of_authority(&other, "prometheus.example.net"), "client_certificate_invalid"),
        (site.client_called("mallory.example.net"), "client_certificate_not_allowed"),
    ] {
        assert!(tls_get(server.address, &client, "/", "").is_err(), "{reason}");
        await_refused(&plane, reason, 1.0);
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_certificate_is_asked_for_and_looked_at_as_each_type_says() {
    let (site, other, plane) = (Site::new(), Site::new(), plane_with_b_up());
    let (none, known, stranger) =
        (site.client(), site.client_called("a"), site.client_of_authority(&other, "a"));
    for (auth, served) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, true, false]),
        ("RequireAndVerifyClientCert", [false, true, false]),
    ] {
        let ca = if auth.contains("Verify") { "  client_ca_file: ca.pem\n" } else { "" };
        let web = tls(&format!("  client_auth_type: {auth}\n{ca}"));
        let server = site.serve(&plane, &web, Limits::default());
        let got = [&none, &known, &stranger].map(|client| tls_get(server.address, client, "/", "").is_ok());
        assert_eq!(got, served, "{auth}");
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_handshake_that_fails_is_counted_by_its_reason() {
    let (site, other, plane) = (Site::new(), Site::new(), plane_with_b_up());
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = site.serve(&plane, &tls("  min_version: TLS13\n"), limits);
    assert!(tls_connect(server.address, &site.client_of(&[&rustls::version::TLS12])).is_err());
    await_refused(&plane, "tls_incompatible", 1.0);
    assert!(tls_get(server.address, &other.client(), "/", "").is_err(), "it does not trust our authority");
    await_refused(&plane, "tls_alert", 1.0);
    assert_eq!(exchange(server.address, b"\x16\x03\x01"), b"", "a record begun and never ended");
    await_refused(&plane, "tls_timeout", 1.0);
    exchange(server.address, b"\x16garbage garbage garbage");
    await_refused(&plane, "tls_broken", 1.0);
    let reply = parse(&tls_get(server.address, &site.client(), "/", "").unwrap());
    assert_eq!(reply.status, 200, "nothing else changed");
    assert_eq!(server.stop(), 0);
}

/// The serial number of the certificate a new connection is shown.
fn shown(site: &Site, server: &crate::server::Server) -> Vec<u8> {
    let stream = tls_connect(server.address, &site.client()).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_renewed_certificate_is_shown_without_dropping_who_is_connected() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = site.serve(&plane, &tls(""), Limits::default());
    let before = shown(&site, &server);
    let mut open = tls_connect(server.address, &site.client()).unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
    assert!(open.read(&mut [0; 4096]).unwrap() > 0);

    site.renew_certificate();
    await_count(&plane, "relay_web_config_reloads_total", &[("result", "in_force")], 1.0);
    assert_ne!(shown(&site, &server), before);
    open.write_all(b"GET / HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200 OK"), "the connection of before is still served");

    site.put("key.pem", "no key");
    await_count(&plane, "relay_web_config_reloads_total", &[("result", "refused")], 1.0);
    await_count(&plane, "relay_web_config_last_reload_successful", &[], 0.0);
    assert_ne!(shown(&site, &server), before, "the one in force stays so");
    site.renew_certificate();
    await_count(&plane, "relay_web_config_last_reload_successful", &[], 1.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn tls_users_and_client_certificates_go_together() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let more = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let web = tls(more) + &users(&[("prometheus", "secret")]);
    let server = site.serve(&plane, &web, Limits::default());
    let client = site.client_called("prometheus");
    let status =
        |headers: &str| parse(&tls_get(server.address, &client, "/metrics", headers).unwrap()).status;
    assert_eq!(status(""), 401);
    assert_eq!(status(&basic("prometheus:secret")), 200);
    assert!(tls_get(server.address, &site.client(), "/metrics", &basic("prometheus:secret")).is_err());
    assert_eq!(server.stop(), 0);
}

#[test]
fn shutdown_waits_for_no_handshake() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let limits = Limits { shutdown_timeout: Duration::from_secs(600), ..Limits::default() };
    let limits = Limits { handshake_timeout: Duration::from_secs(600), ..limits };
    let server = site.serve(&plane, &tls(""), limits);
    let mut silent = crate::client::connect(server.address);
    silent.write_all(b"\x16").unwrap();
    await_count(&plane, "relay_http_connections", &[], 1.0);
    assert_eq!(server.stop(), 0);
    assert_eq!(read_to_close(&mut silent), b"");
}
