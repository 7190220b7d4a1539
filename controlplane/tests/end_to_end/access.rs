//! Users, headers, and whatever a client may do wrong: the right status, a count, and nothing else changed.

use std::io::Write;
use std::time::Duration;

use relayscope_controlplane::Limits;

use crate::client::{connect, exchange, get, parse, read_to_close, request};
use crate::http::{await_count, await_refused, plane_with_b_up};
use crate::server::Server;
use crate::site::{Site, basic, users};

#[test]
fn users_alone_are_answered_and_what_became_of_others_is_counted() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = site.serve(&plane, &users(&[("alice", "wonderland"), ("bob", "b")]), Limits::default());
    let ask = |headers: &str| request(server.address, "GET", "/mesh", headers);
    for (headers, said, result) in [
        (String::new(), "a user's name and password are required\n", "missing"),
        (basic("alice:looking-glass"), "the user's name or password is wrong\n", "wrong"),
        (
            "authorization: Bearer token\r\n".to_owned(),
            "authorization is malformed; expected Basic, with NAME:PASSWORD in base64\n",
            "malformed",
        ),
    ] {
        let reply = ask(&headers);
        assert_eq!((reply.status, reply.body.as_str()), (401, said));
        assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"relayscope\", charset=\"UTF-8\""));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "on every answer");
        await_count(&plane, "relay_http_authentications_total", &[("result", result)], 1.0);
    }
    assert_eq!(ask(&basic("mallory:wonderland")).status, 401);
    for result in ["verified", "proven"] {
        assert_eq!(ask(&basic("alice:wonderland")).status, 200);
        await_count(&plane, "relay_http_authentications_total", &[("result", result)], 1.0);
    }
    assert_eq!(get(server.address, "/no/such").status, 401, "nobody is told which routes there are");
    await_count(&plane, "relay_http_requests_total", &[("route", "/mesh"), ("code", "401")], 4.0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn users_that_come_and_go_do_so_without_a_restart() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = site.serve(&plane, &users(&[("alice", "a")]), Limits::default());
    let status = |credentials| request(server.address, "GET", "/", &basic(credentials)).status;
    assert_eq!(status("alice:a"), 200);
    site.put("web.yml", &users(&[("alice", "new"), ("bob", "b")]));
    await_count(&plane, "relay_web_config_reloads_total", &[("result", "in_force")], 1.0);
    assert_eq!(["alice:a", "alice:new", "bob:b"].map(status), [401, 200, 200]);
    site.put("web.yml", "basic_auth_usrs: {}\n");
    await_count(&plane, "relay_web_config_reloads_total", &[("result", "refused")], 1.0);
    assert_eq!(["alice:new", "bob:b"].map(status), [200, 200], "those before stay");
    assert_eq!(server.stop(), 0);
}

#[test]
fn answers_are_for_this_moment_and_for_nobody_to_frame_guess_or_extend() {
    let (site, plane) = (Site::new(), plane_with_b_up());
    let server = Server::start(&plane, Limits::default());
    let csp = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for path in ["/", "/metrics", "/healthz", "/no/such", "/mesh?format=xml"] {
        let reply = get(server.address, path);
        for (name, value) in [
            ("content-security-policy", csp),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "deny"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path}");
        }
        assert_eq!(reply.header("strict-transport-security"), None, "not without TLS");
    }
    assert_eq!(server.stop(), 0);

    let web = "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n    \
               Content-Security-Policy: ''\n    X-XSS-Protection: '0'\n";
    let server = site.serve(&plane, web, Limits::default());
    let reply = get(server.address, "/");
    assert_eq!(reply.header("x-frame-options"), Some("sameorigin"));
    assert_eq!(reply.header("content-security-policy"), None, "blank unsets it");
    assert_eq!(reply.header("x-xss-protection"), Some("0"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_a_client_asks_wrongly_is_answered_rightly_and_counted() {
    let plane = plane_with_b_up();
    let limits = Limits { body_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(&plane, limits);
    let large = "transfer-encoding: chunked\r\n\r\n20000\r\n".to_owned() + &"x".repeat(0x20000);
    let chunked = |body: &str| format!("POST /-/reload HTTP/1.1\r\nhost: relay\r\n{body}");
    let slow = "POST /-/reload HTTP/1.1\r\nhost: relay\r\nconnection: close\r\ncontent-length: 2\r\n\r\nx"
        .to_owned();
    let line = |line: &str| format!("{line} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    for (sent, status, route) in [
        (line("GET /mesh?formt=json"), 400, "/mesh"),
        (line("GET /mesh?format=%zz"), 400, "/mesh"),
        (line("GET /mesh?format=json&format=text"), 400, "/mesh"),
        (line("GET /healthz?verbose"), 400, "/healthz"),
        (line("GET /metrics?nam[]=x"), 400, "/metrics"),
        (line("DELETE /metrics"), 405, "/metrics"),
        (line("GET /-/reload"), 405, "/-/reload"),
        (line("GET /metrics/"), 404, "other"),
        (slow, 408, "/-/reload"),
        (chunked(&large), 413, "/-/reload"),
        (chunked("connection: close\r\ncontent-length: 99999\r\n\r\n"), 413, "/-/reload"),
    ] {
        let mut stream = connect(server.address);
        // Refused early, it may be closed before all is written.
        stream.write_all(sent.as_bytes()).ok();
        let shown = &sent[..sent.len().min(80)];
        assert_eq!(parse(&read_to_close(&mut stream)).status, status, "{shown}");
        let counted = format!("{status}");
        let before = [("route", route), ("code", counted.as_str())];
        let at_least = |plane: &relayscope_controlplane::ControlPlane| {
            let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
            crate::parser::value(&text, "relay_http_requests_total", &before)
        };
        plane.tick();
        assert!(at_least(&plane).is_some_and(|count| count >= 1.0), "{shown} is counted");
    }
    await_count(&plane, "relay_http_requests_total", &[("route", "/mesh"), ("code", "400")], 3.0);
    await_count(&plane, "relay_http_requests_total", &[("route", "/-/reload"), ("code", "413")], 2.0);
    let bad = "x-prometheus-scrape-timeout-seconds: soon\r\n";
    assert_eq!(request(server.address, "GET", "/metrics", bad).status, 400);
    assert_eq!(get(server.address, "/metrics").status, 200, "nothing else changed");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_header_that_drips_on_a_connection_that_was_good_before_is_cut_off_and_counted() {
    let plane = plane_with_b_up();
    let limits = Limits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = Server::start(&plane, limits);
    let mut stream = connect(server.address);
    stream.write_all(b"HEAD / HTTP/1.1\r\nhost: relay\r\n\r\n").unwrap();
    let drip = stream.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        let mut drip = drip;
        // Until the server has had enough.
        while drip.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let answer = read_to_close(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    dripping.join().unwrap();
    await_refused(&plane, "header_timeout", 1.0);
    assert_eq!(exchange(server.address, b""), b"", "one that says nothing has no longer");
    await_refused(&plane, "header_timeout", 2.0);
    assert_eq!(server.stop(), 0);
}
