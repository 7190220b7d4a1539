use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use relayscope_bridge::{GaugeCell, Hub, HubConfig, Publisher, SeriesRegistry, ShardId, catalogue, hub};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tower::ServiceExt;

use super::Live;
use super::clients::CLIENTS_MAX;
use crate::http::server::Server;
use crate::http::web::Web;
use crate::http::{HttpConfig, Limits, routes_with};
use crate::{AlertRules, AlertingConfig, ControlPlane, ControlPlaneConfig, Now};

const SHARD: ShardId = ShardId(0);

struct World {
    plane: ControlPlane,
    registry: SeriesRegistry,
    _publisher: Publisher,
}

impl World {
    fn new(config: ControlPlaneConfig) -> Self {
        let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let mut publisher = publishers.remove(0);
        // Ahead of any clock reading: the shard counts as alive however slowly the test runs.
        publisher.beat(u64::MAX);
        Self { plane: ControlPlane::new(collector, config).unwrap(), registry, _publisher: publisher }
    }

    /// A target that is up, and what says so.
    fn target(&self, name: &str) -> GaugeCell {
        let info = [name, "192.0.2.7:8620", "ipv4", "stamp", "default"];
        self.registry.gauge(SHARD, &catalogue::TARGET_INFO, &info).unwrap();
        let mut up = self.registry.gauge(SHARD, &catalogue::PROBE_FAMILY_UP, &[name, "ipv4"]).unwrap();
        up.set(1.0);
        up
    }
}

/// Where it is told more often than once a second: for nobody to wait for.
fn quick_router(plane: &ControlPlane) -> Router {
    let live = Live::every(Duration::from_millis(50), plane.clone());
    routes_with(live, plane.clone(), &Limits::default(), Web::new(None), false)
}

/// One that listens.
struct Listener {
    body: Body,
    read: String,
    is_new: bool,
}

impl Listener {
    async fn join(router: &Router) -> Self {
        let request = Request::get("/api/v1/live").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), read: String::new(), is_new: true }
    }

    /// The next event, with its data.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((frame, rest)) = self.read.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.read = rest;
                // A comment says nothing.
                if frame == ": here" {
                    continue;
                }
                if let Some((event, data)) = frame.split_once('\n') {
                    let event = event.strip_prefix("event: ").unwrap().to_owned();
                    return (event, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap());
                }
                assert_eq!((frame.as_str(), self.is_new), ("retry: 2000", true), "it is said once, first");
                self.is_new = false;
                continue;
            }
            let frame = self.body.frame().await.unwrap().unwrap().into_data().unwrap();
            self.read.push_str(std::str::from_utf8(&frame).unwrap());
        }
    }

    /// The data of the next event of this name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            let (event, data) = self.next().await;
            if event == name {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn who_listens_is_told_all_first_and_then_what_changes() {
    let world = World::new(ControlPlaneConfig::default());
    let mut b = world.target("b");
    world.plane.tick();
    let router = quick_router(&world.plane);
    let mut listener = Listener::join(&router).await;
    let (event, relays) = listener.next().await;
    assert_eq!(event, "relays");
    let own = &relays["relays"][0];
    assert_eq!((&own["own"], &own["reachable"], &own["url"]), (&true.into(), &true.into(), &Value::Null));
    assert_eq!((&own["targets"], &own["rows"][0]["name"]), (&1.into(), &"b".into()));
    assert_eq!(listener.next().await, ("alerts".to_owned(), serde_json::json!({"enabled": false})));
    let (event, shards) = listener.next().await;
    assert_eq!((event.as_str(), &shards["shards"][0]["verdict"]), ("shards", &"ok".into()));
    assert_eq!(shards["shards"][0]["capacity"], 65_536);

    let (event, values) = listener.next().await;
    assert_eq!(event, "values");
    assert_eq!(values["relays"][0]["rows"], serde_json::json!([["up", null, null, null, null, null, null]]));
    assert_eq!(listener.next().await.0, "shards");

    b.set(0.0);
    let happened = listener.event("happened").await;
    let event = &happened["events"][0];
    assert_eq!((&event["kind"], &event["target"]), (&"peer_down".into(), &"b".into()));
    assert_eq!(event["summary"], "b does not answer");
    let (event, values) = listener.next().await;
    assert_eq!((event.as_str(), &values["relays"][0]["rows"][0][0]), ("values", &"down".into()));
    assert_eq!(listener.next().await.0, "shards");

    world.target("c");
    let relays = listener.event("relays").await;
    assert_eq!(relays["relays"][0]["rows"][1]["name"], "c");
}

#[tokio::test]
async fn alerts_are_told_when_they_are_raised_and_when_they_end() {
    let world = World::new(ControlPlaneConfig::default());
    let rules = AlertRules { raise_after: 1, resolve_after: 1, ..AlertRules::default() };
    let alerting = AlertingConfig { instance: "a".to_owned(), rules };
    let thread = world.plane.spawn_alerts(&alerting).unwrap();
    world.plane.tick();
    let router = quick_router(&world.plane);
    let mut listener = Listener::join(&router).await;
    assert_eq!(listener.event("alerts").await, serde_json::json!({"firing": 0, "alerts": []}));
    world.plane.note_reload(false);
    let alerts = listener.event("alerts").await;
    assert_eq!(alerts["alerts"][0]["labels"]["alertname"], "RelayConfigReloadFailed");
    let happened = listener.event("happened").await;
    assert_eq!(
        (&happened["events"][0]["kind"], &happened["events"][0]["severity"]),
        (&"alert_firing".into(), &"warning".into())
    );
    world.plane.note_reload(true);
    let alerts = listener.event("alerts").await;
    assert_eq!((&alerts["firing"], &alerts["alerts"][0]["state"]), (&0.into(), &"resolved".into()));
    let happened = listener.event("happened").await;
    assert_eq!(happened["events"][0]["kind"], "alert_resolved");
    thread.stop();
}

#[tokio::test]
async fn a_drain_that_hangs_does_not_freeze_what_is_told_of_shards() {
    let config = ControlPlaneConfig {
        drain_interval: Duration::from_millis(1),
        stale_after: Duration::from_millis(2),
        ..ControlPlaneConfig::default()
    };
    let world = World::new(config);
    world.plane.tick();
    let router = quick_router(&world.plane);
    let (locked, hung) = std::sync::mpsc::channel();
    let (go_on, end) = std::sync::mpsc::channel::<()>();
    let plane = world.plane.clone();
    let hanging = std::thread::spawn(move || {
        let guard = plane.hang_drain();
        locked.send(()).unwrap();
        end.recv().unwrap_err();
        drop(guard);
    });
    hung.recv().unwrap();
    let mut listener = Listener::join(&router).await;
    let mut stuck = 0;
    while stuck < 2 {
        let shards = listener.event("shards").await;
        assert_eq!(shards["shards"][0]["recorded"], Value::Null);
        stuck += usize::from(shards["shards"][0]["verdict"] == "control plane stuck");
    }
    drop(go_on);
    hanging.join().unwrap();
    while listener.event("shards").await["shards"][0]["recorded"] != 0 {}
}

#[tokio::test]
async fn a_viewer_that_hangs_does_not_either() {
    let world = World::new(ControlPlaneConfig::default());
    world.plane.tick();
    let router = quick_router(&world.plane);
    let mut listener = Listener::join(&router).await;
    listener.event("values").await;
    let alerting = AlertingConfig { instance: "a".to_owned(), rules: AlertRules::default() };
    let _thread = world.plane.spawn_alerts(&alerting).unwrap();
    let plane = world.plane.clone();
    let (go_on, end) = std::sync::mpsc::channel::<()>();
    let (locked, hung) = std::sync::mpsc::channel();
    let hanging = std::thread::spawn(move || {
        let guard = plane.alert_watch();
        locked.send(()).unwrap();
        end.recv().unwrap_err();
        drop(guard);
    });
    hung.recv().unwrap();
    let mut told = Vec::new();
    while told.iter().rev().take(2).filter(|event| *event == "shards").count() < 2 {
        told.push(listener.next().await.0);
    }
    drop(go_on);
    hanging.join().unwrap();
    listener.event("values").await;
}

#[tokio::test]
async fn one_more_than_there_may_be_is_refused_until_one_leaves() {
    let world = World::new(ControlPlaneConfig::default());
    let router = quick_router(&world.plane);
    let mut listeners = Vec::new();
    for _ in 0..CLIENTS_MAX {
        listeners.push(Listener::join(&router).await);
    }
    let request = || Request::get("/api/v1/live").body(Body::empty()).unwrap();
    let refused = router.clone().oneshot(request()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(said, "32 clients listen already; expected no more, close one and try again\n");
    listeners.pop();
    Listener::join(&router).await.event("relays").await;
}

#[tokio::test]
async fn nothing_is_made_while_nobody_listens() {
    let world = World::new(ControlPlaneConfig::default());
    world.plane.tick();
    let router = quick_router(&world.plane);
    let at = |relays: &Value| relays["at"].as_f64().unwrap();
    let mut listener = Listener::join(&router).await;
    listener.event("values").await;
    drop(listener);
    world.target("b");
    // Whoever tells notices at the next second at the latest; who comes then is told from the begin.
    let began = Now::sample().unix_seconds();
    let mut listener = Listener::join(&router).await;
    let relays = listener.event("relays").await;
    assert!(at(&relays) >= began - 0.001, "it is not what was told before");
    assert_eq!(relays["relays"][0]["rows"][0]["name"], "b");
}

/// A client that takes next to nothing, of a server that has much to tell it.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_another_is_told_on() {
    let world = World::new(ControlPlaneConfig::default());
    for number in 0..500 {
        world.target(&format!("target-{number}"));
    }
    world.plane.tick();
    // Nothing else may end it.
    let long = Duration::from_secs(600);
    let config = HttpConfig::from(Limits { send_timeout: long, write_stall_max: long, ..Limits::default() });
    let mut server = Server::new(world.plane.clone(), &config);
    let live = Live::every(Duration::from_millis(5), world.plane.clone());
    server.router = routes_with(live, world.plane.clone(), &config.limits, Web::new(None), config.access_log);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async { stopped.await.unwrap_or_default() };
    let serving = tokio::spawn(server.run(listener, config.watch_interval, shutdown));

    let join = async |receive_buffer: Option<u32>| {
        let socket = TcpSocket::new_v4().unwrap();
        receive_buffer.into_iter().for_each(|size| socket.set_recv_buffer_size(size).unwrap());
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /api/v1/live HTTP/1.1\r\nhost: relay\r\n\r\n").await.unwrap();
        stream
    };
    let (silent, mut reader) = (join(Some(4096)).await, join(None).await);
    let mut buffer = vec![0; 1 << 16];
    let cut = || {
        let text = String::from_utf8(world.plane.exposition().to_vec()).unwrap();
        let refused = "relay_http_connections_refused_total{reason=\"send_timeout\"} 1\n";
        text.contains("\nrelay_http_live_cut_total 1\n") && text.contains(refused)
    };
    while !cut() {
        for _ in 0..20 {
            assert!(reader.read(&mut buffer).await.unwrap() > 0, "who reads is told on");
        }
        world.plane.tick();
    }
    assert!(reader.read(&mut buffer).await.unwrap() > 0);
    drop(silent);
    serving.abort();
}
