//! The page at `/`: who gets it, how it is kept, and what it may do.

use std::io::Read;
use std::net::SocketAddr;

use relayscope_controlplane::Limits;

use crate::client::{Reply, exchange, get, request};
use crate::http::{await_count, plane_with_b_up};
use crate::server::Server;

const BROWSER: &str = "accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";

fn page(address: SocketAddr) -> Reply {
    request(address, "GET", "/", BROWSER)
}

/// The paths of the files that the page loads.
fn files(page: &str) -> Vec<String> {
    let named = page.split('"').filter_map(|text| text.strip_prefix('.'));
    named.filter(|path| path.starts_with("/assets/")).map(str::to_owned).collect()
}

#[test]
fn the_page_is_for_browsers_and_all_else_gets_the_routes() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let version = env!("CARGO_PKG_VERSION");
    let browser = page(server.address);
    assert_eq!(browser.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(browser.header("vary"), Some("Accept, Accept-Encoding"));
    assert!(browser.body.contains(&format!("relayscope {version}")), "{}", browser.body);
    for accept in ["", "accept: */*\r\n", "accept: text/html;q=0, text/plain\r\n"] {
        for path in ["/", "/api"] {
            let text = request(server.address, "GET", path, accept);
            assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"), "{path} {accept}");
            assert!(text.body.contains("\n/metrics         for Prometheus\n"), "{}", text.body);
        }
    }
    let routes = request(server.address, "GET", "/api", BROWSER);
    assert!(routes.body.contains(&format!("<h1>relayscope {version}</h1>")), "{}", routes.body);
    assert!(routes.body.contains("<a href=\"/metrics\">/metrics</a>"), "{}", routes.body);
    assert_eq!(server.stop(), 0);
}

#[test]
fn the_page_may_load_and_ask_this_relay_alone() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let page = page(server.address);
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    assert_eq!(page.header("content-security-policy"), Some(policy));
    for forbidden in [" style=", "<style", "javascript:", " onclick=", "http://127", "https://"] {
        assert!(!page.body.contains(forbidden), "{forbidden}");
    }
    // What it loads may do nothing by itself.
    for path in files(&page.body) {
        let policy = get(server.address, &path).header("content-security-policy").unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; base-uri"), "{path}: {policy}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn files_are_kept_for_good_and_the_page_is_asked_for_again() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let page = page(server.address);
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let known = format!("{BROWSER}if-none-match: {}\r\n", page.header("etag").unwrap());
    let again = request(server.address, "GET", "/", &known);
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(again.header("etag"), page.header("etag"));
    let files = files(&page.body);
    assert_eq!(files.len(), 2, "a script and a style: {files:?}");
    for (path, media_type) in files.iter().zip(["text/javascript; charset=utf-8", "text/css; charset=utf-8"])
    {
        let file = get(server.address, path);
        assert_eq!((file.status, file.header("content-type")), (200, Some(media_type)), "{path}");
        assert_eq!(file.header("cache-control"), Some("max-age=31536000, immutable"), "{path}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"), "{path}");
        let known = format!("if-none-match: {}\r\n", file.header("etag").unwrap());
        assert_eq!(request(server.address, "GET", path, &known).status, 304, "{path}");
        let head = request(server.address, "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-length"), file.header("content-length"), "{path}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_is_compressed_is_the_same() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    let page = page(server.address);
    for (path, accept) in files(&page.body).iter().map(|path| (path.as_str(), "")).chain([("/", BROWSER)]) {
        let plain = request(server.address, "GET", path, accept);
        let text = format!(
            "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\naccept-encoding: gzip\r\n{accept}\r\n"
        );
        let answer = exchange(server.address, text.as_bytes());
        let at = answer.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..at].to_vec()).unwrap();
        assert!(head.contains("content-encoding: gzip"), "{path}: {head}");
        assert!(head.contains(plain.header("etag").unwrap()), "{path}: {head}");
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&answer[at + 4..]).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain.body, "{path}");
        assert!(answer.len() - at < plain.body.len() * 2 / 3, "{path}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn files_that_are_none_make_no_series() {
    let plane = plane_with_b_up();
    let server = Server::start(&plane, Limits::default());
    for name in ["page.js", "..", "%2e%2e%2fassets.rs", "%ff", "page-0.js"] {
        let path = format!("/assets/{name}");
        let lost = get(server.address, &path);
        assert_eq!(lost.status, 404, "{path}");
        assert!(lost.body.starts_with(&format!("no route {path}; there are / and ")), "{}", lost.body);
    }
    assert_eq!(get(server.address, "/assets/").status, 404);
    let labels = [("route", "/assets/{file}"), ("code", "404")];
    await_count(&plane, "relay_http_requests_total", &labels, 5.0);
    await_count(&plane, "relay_http_requests_total", &[("route", "other"), ("code", "404")], 1.0);
    assert_eq!(server.stop(), 0);
}
