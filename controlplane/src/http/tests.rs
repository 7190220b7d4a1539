use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use relayscope_bridge::{Hub, HubConfig, hub};
use tower::ServiceExt;

use super::{Limits, ServerThread, router};
use crate::history::{HistoryConfig, Interval, Retention, Store, TargetKey, Tier};
use crate::{ControlPlane, ControlPlaneConfig, Now};

fn plane(config: ControlPlaneConfig) -> ControlPlane {
    let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
    ControlPlane::new(collector, config).unwrap()
}

async fn get(router: &Router, uri: &str) -> (StatusCode, String) {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn post(router: &Router, method: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri("/-/reload").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_reload_is_refused_where_it_is_not_allowed() {
    let router = router(plane(ControlPlaneConfig::default()), &Limits::default());
    let (status, said) = post(&router, "POST").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(said, "reload over HTTP is off; set reload = true in [web], or send SIGHUP\n");
    let (status, said) = post(&router, "GET").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(said, "method GET is not allowed; expected POST\n");
}

#[tokio::test]
async fn a_reload_is_answered_by_who_carries_it_out() {
    let plane = plane(ControlPlaneConfig::default());
    let mut requests = plane.allow_reload();
    let router = router(plane, &Limits::default());
    for (outcome, status, said) in [
        (Ok("3 targets".to_owned()), StatusCode::OK, "3 targets\n"),
        (
            Err("bad key".to_owned()),
            StatusCode::BAD_REQUEST,
            "not reloaded, the configuration before stays in force: bad key\n",
        ),
    ] {
        let carry_out = async { requests.recv().await.unwrap().answer(outcome) };
        let (answer, ()) = tokio::join!(post(&router, "POST"), carry_out);
        assert_eq!(answer, (status, said.to_owned()));
    }
    drop(requests);
    assert_eq!(post(&router, "POST").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_drain_that_hangs_fails_the_scrape_in_time_while_health_says_who_is_stuck() {
    let config = ControlPlaneConfig {
        drain_interval: Duration::from_millis(1),
        stale_after: Duration::from_millis(2),
        ..ControlPlaneConfig::default()
    };
    let limits = Limits { request_timeout: Duration::from_millis(50), ..Limits::default() };
    let plane = plane(config);
    let router = router(plane.clone(), &limits);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let get = |uri| runtime.block_on(get(&router, uri));
    plane.tick();

    let hung = plane.hang_drain();
    for _ in 0..2 {
        let (status, body) = get("/metrics");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "no answer within 50ms; see /healthz\n");
    }
    assert_eq!(get("/mesh").0, StatusCode::OK);
    let (status, body) = get("/healthz");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("shard 0: control plane stuck, ring not drained for "), "{body}");
    drop(hung);

    assert_eq!(get("/metrics").0, StatusCode::OK);
}

#[test]
fn a_render_that_hangs_does_not_hold_up_the_stop_of_a_server_thread() {
    let plane = plane(ControlPlaneConfig::default());
    let limits = Limits { request_timeout: Duration::from_millis(50), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = ServerThread::spawn(listener, plane.clone(), limits).unwrap();
    let hung = plane.hang_drain();
    let mut scrape = TcpStream::connect(server.local_addr()).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

    let (stopped, outcome) = channel();
    std::thread::spawn(move || stopped.send(server.stop()));
    assert_eq!(outcome.recv_timeout(Duration::from_secs(20)), Ok(Ok(0)));
    drop(hung);
}

#[tokio::test]
async fn where_history_is_off_its_routes_say_how_to_turn_it_on() {
    let router = router(plane(ControlPlaneConfig::default()), &Limits::default());
    let line = "history is off; set enabled = true in [history]\n".to_owned();
    for route in ["/api/v1/history?target=b", "/api/v1/events", "/api/perf/sqlite"] {
        assert_eq!(get(&router, route).await, (StatusCode::NOT_FOUND, line.clone()));
    }
}

#[tokio::test]
async fn what_is_asked_of_history_wrongly_is_answered_with_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let (path, retention) = (directory.path().join("history.db"), Retention::default());
    let mut store = Store::open(&path, retention, Now::sample()).unwrap();
    let key = TargetKey { name: "b".to_owned(), family: "ipv4".to_owned() };
    let interval = Interval { lost: 3, ..Interval::default() };
    assert_eq!(store.append(Tier::TenSeconds, 1_796_000_010, &[(&key, interval)]).unwrap().written, 1);
    drop(store);
    let plane = plane(ControlPlaneConfig::default());
    let thread = plane.spawn_history(HistoryConfig { path: path.clone(), retention }).unwrap();
    let router = router(plane, &Limits::default());
    let range = "from=1796000000&to=1796000030";
    for (asked, status, begins) in [
        ("history", 400, "no target is given; expected target=NAME"),
        ("history?target=c", 404, "no history of target \"c\""),
        ("history?target=b&family=ipv6", 404, "no history of target \"b\" by \"ipv6\"; expected ipv4"),
        ("history?target=b&from=1h", 400, "from: \"1h\" is no time; expected "),
        ("history?target=b&to=never", 400, "to: \"never\" is no time; expected "),
        ("history?target=b&step=0", 400, "step: \"0\" is no step; expected "),
        ("history?target=b&from=now&to=-1h", 400, "from "),
        (
            "history?target=b&from=1796000000&to=1796050000&step=10s",
            400,
            "5000 steps of 10 s are too many; expected at most 4096",
        ),
        ("history?target=b&limit=7", 400, "parameter \"limit\" is not known to /api/v1/history"),
        ("events?limit=0", 400, "limit \"0\" is invalid; expected 1..=10000"),
        ("events?limit=10001", 400, "limit \"10001\" is invalid"),
    ] {
        let (is, said) = get(&router, &format!("/api/v1/{asked}")).await;
        assert!(is.as_u16() == status && said.starts_with(begins), "{asked}: {is} {said}");
    }
    let (status, said) = get(&router, &format!("/api/v1/history?target=b&{range}")).await;
    assert_eq!(status, StatusCode::OK);
    for part in [
        "\"time\":[1796000000,1796000010,1796000020]",
        "\"lost\":[null,3,null]",
        "\"rtt_p50\":[null,null,null]",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    thread.stop();

    // Of a database that is gone.
    std::fs::remove_file(path).unwrap();
    let (status, said) = get(&router, &format!("/api/v1/history?target=b&{range}")).await;
    assert!(
        status == StatusCode::SERVICE_UNAVAILABLE && said.starts_with("history cannot be read: "),
        "{said}"
    );
    let (status, said) = get(&router, "/api/perf/sqlite").await;
    assert!(status == StatusCode::OK && said.contains("\"database\":null"), "{said}");
}

#[tokio::test]
async fn every_route_of_the_landing_page_is_one() {
    let router = router(plane(ControlPlaneConfig::default()), &Limits::default());
    for (path, _) in super::landing::ROUTES {
        let request = Request::get(*path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        // The first of it will do: one has no end.
        let said = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(!said.starts_with(b"no route"), "{path}: {status}");
    }
}

#[tokio::test]
async fn what_is_no_utf8_is_answered_with_what_would_be_right() {
    let router = router(plane(ControlPlaneConfig::default()), &Limits::default());
    let line = "metric is malformed; expected rtt, loss, jitter or up\n".to_owned();
    assert_eq!(get(&router, "/api/v1/last/%ff").await, (StatusCode::NOT_FOUND, line));
}

#[test]
fn a_scrape_is_answered_before_its_scraper_gives_up() {
    let plane = plane(ControlPlaneConfig::default());
    let limits = Limits { request_timeout: Duration::from_secs(600), ..Limits::default() };
    let router = router(plane.clone(), &limits);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scrape = || {
        let request = Request::get("/metrics").header("X-Prometheus-Scrape-Timeout-Seconds", "0.2");
        runtime.block_on(router.clone().oneshot(request.body(Body::empty()).unwrap())).unwrap()
    };
    let hung = plane.hang_drain();
    let response = scrape();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
    assert_eq!(body, "no answer within 180ms; see /healthz\n");
    drop(hung);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_names_the_limit() {
    let plane = plane(ControlPlaneConfig::default());
    let limits = Limits { body_bytes_max: 10, ..Limits::default() };
    let request = Request::get("/").body(Body::from("eleven bytes")).unwrap();
    let response = router(plane, &limits).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
