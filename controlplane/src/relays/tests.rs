//! Relays over real sockets: sound ones, and such as answer anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use relayscope_bridge::{Hub, HubConfig, Publisher, SeriesRegistry, ShardId, catalogue, hub};

use super::ask::{Failed, Polled, agent_within, ask};
use super::{RelayConfig, RelayUser, RelaysError};
use crate::clock::Now;
use crate::mesh::Mesh;
use crate::{ControlPlane, ControlPlaneConfig, HttpConfig, Limits, ServerThread, WebConfig};

const SHARD: ShardId = ShardId(0);

struct World {
    plane: ControlPlane,
    registry: SeriesRegistry,
    _publisher: Publisher,
}

fn world(target: &str) -> World {
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    let info = [target, "192.0.2.7:8620", "ipv4", "stamp", "default"];
    registry.gauge(SHARD, &catalogue::TARGET_INFO, &info).unwrap();
    registry.gauge(SHARD, &catalogue::PROBE_FAMILY_UP, &[target, "ipv4"]).unwrap().set(1.0);
    let mut publisher = publishers.remove(0);
    // Ahead of any clock reading: the shard counts as alive however slowly the test runs.
    publisher.beat(u64::MAX);
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    plane.tick();
    World { plane, registry, _publisher: publisher }
}

fn serve(world: &World, config: impl Into<HttpConfig>) -> ServerThread {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ServerThread::spawn(listener, world.plane.clone(), config).unwrap()
}

fn at(address: SocketAddr) -> RelayConfig {
    RelayConfig { name: "b".to_owned(), url: format!("http://{address}"), user: None, ca: None }
}

fn ask_at(config: &RelayConfig) -> Result<Mesh, Failed> {
    ask(&agent_within(config, Duration::from_secs(30)).unwrap(), config)
}

/// A server that answers one request so, whatever it is, and gives what it was asked.
fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).unwrap();
            asked.push(octet[0]);
        }
        // Whoever has heard enough does not hear the rest.
        stream.write_all(&answer).ok();
        String::from_utf8(asked).unwrap()
    });
    (address, serving)
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited 30 s for {what}");
}

/// Of each relay its name, and its targets or why there are none.
fn shown(plane: &ControlPlane) -> Vec<(String, Result<Vec<String>, String>)> {
    let relays = plane.relays_at(Now::sample()).relays.into_iter();
    let targets = |mesh: &Mesh| mesh.rows.iter().map(|row| row.name.clone()).collect();
    relays
        .map(|relay| {
            let said = relay.mesh.as_deref().map(targets).map_err(|error| error.to_string());
            (relay.name.to_string(), said)
        })
        .collect()
}

/// As it is now: a scrape is shared until the next drain.
fn exposition(plane: &ControlPlane) -> String {
    plane.tick();
    String::from_utf8(plane.exposition().to_vec()).unwrap()
}

fn polls(plane: &ControlPlane, result: &str) -> u64 {
    let text = exposition(plane);
    let series = format!("relay_mesh_polls_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[test]
fn another_relay_is_shown_beside_this_one_until_it_is_gone_and_when_it_is_back() {
    let (ours, theirs) = (world("b"), world("a"));
    let server = serve(&theirs, Limits::default());
    let address = server.local_addr();
    let relays = ours.plane.spawn_relays(Some("a"), vec![at(address)]).unwrap();
    assert_eq!((polls(&ours.plane, "ok"), polls(&ours.plane, "unanswered")), (0, 0));
    let own = ("a".to_owned(), Ok(vec!["b".to_owned()]));
    let both = [own.clone(), ("b".to_owned(), Ok(vec!["a".to_owned()]))];
    assert_eq!(shown(&ours.plane), [own, ("b".to_owned(), Err("not asked yet".to_owned()))]);
    wait("b's mesh", || shown(&ours.plane) == both);
    assert!(polls(&ours.plane, "ok") >= 1);

    assert_eq!(server.stop().unwrap(), 0);
    wait("b to be gone", || shown(&ours.plane)[1].1.is_err());
    let error = shown(&ours.plane).remove(1).1.unwrap_err();
    assert!(error.contains("Connection refused"), "{error}");
    assert!(polls(&ours.plane, "unanswered") >= 1);

    let listener = TcpListener::bind(address).unwrap();
    let server = ServerThread::spawn(listener, theirs.plane.clone(), Limits::default()).unwrap();
    wait("b to be back", || shown(&ours.plane) == both);
    let asked = exposition(&theirs.plane);
    assert!(asked.contains("route=\"/mesh\"") && !asked.contains("route=\"/api"), "for its own mesh alone");
    relays.stop();
    server.stop().unwrap();
    drop(ours.registry);
}

#[test]
fn nobody_is_asked_until_somebody_looks() {
    let (ours, theirs) = (world("b"), world("a"));
    let server = serve(&theirs, Limits::default());
    let _relays = ours.plane.spawn_relays(Some("a"), vec![at(server.local_addr())]).unwrap();
    let asked = || exposition(&theirs.plane).contains("route=\"/mesh\"");
    // Longer than a thread takes to ask where it is to.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!asked());
    shown(&ours.plane);
    wait("b to be asked", asked);
}

#[test]
fn a_list_that_is_wrong_changes_nothing_and_another_one_is_in_force_at_once() {
    let (ours, theirs) = (world("b"), world("a"));
    let server = serve(&theirs, Limits::default());
    let config = at(server.local_addr());
    let relays = ours.plane.spawn_relays(Some("a"), Vec::new()).unwrap();
    let twice = ours.plane.set_relays(Some("b"), vec![config.clone()]);
    assert_eq!(twice, Err(RelaysError::Twice("b".to_owned())));
    assert_eq!(shown(&ours.plane).len(), 1);
    ours.plane.set_relays(Some("x"), vec![config]).unwrap();
    assert_eq!(shown(&ours.plane)[0].0, "x");
    wait("b's mesh", || shown(&ours.plane)[1].1.is_ok());
    ours.plane.set_relays(None, Vec::new()).unwrap();
    assert_eq!(shown(&ours.plane).len(), 1);
    relays.stop();
}

#[test]
fn a_user_is_named_and_a_certificate_of_its_own_authority_trusted() {
    let theirs = world("a");
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    put("cert.pem", &certified.cert.pem());
    put("key.pem", &certified.signing_key.serialize_pem());
    let hash = bcrypt::hash_with_salt("wonder", 4, [7; 16]).unwrap();
    put(
        "web.yml",
        &format!(
            "tls_server_config: {{cert_file: cert.pem, key_file: key.pem}}\nbasic_auth_users: {{alice: {hash}}}\n"
        ),
    );
    let web_config = Some(WebConfig::read(&directory.path().join("web.yml")).unwrap());
    let server = serve(&theirs, HttpConfig { web_config, ..HttpConfig::default() });
    let alice = |password: &str| RelayUser { name: "alice".to_owned(), password: password.to_owned() };
    let https = RelayConfig {
        url: format!("https://{}/", server.local_addr()),
        user: Some(alice("wonder")),
        ca: Some(certified.cert.pem().into()),
        ..at(server.local_addr())
    };
    assert_eq!(ask_at(&https).unwrap().rows[0].name, "a");
    let wrong = ask_at(&RelayConfig { user: Some(alice("land")), ..https.clone() }).unwrap_err();
    assert_eq!(wrong.polled, Polled::Refused);
    assert_eq!(wrong.why, "answers 401 Unauthorized; expected a user it knows, with user and password_file");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let stranger = ask_at(&RelayConfig { ca: Some(other.cert.pem().into()), ..https }).unwrap_err();
    assert_eq!(stranger.polled, Polled::Unanswered);
    server.stop().unwrap();
}

#[test]
fn what_is_no_mesh_is_refused_and_no_redirection_is_followed() {
    let with = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    let (bait, baited) = answering(with("200 OK", "", "{}"));
    let elsewhere = format!("location: http://{bait}/\r\n");
    let large = " ".repeat(3 << 20);
    for (answer, polled, said) in [
        (with("302 Found", &elsewhere, ""), Polled::Refused, "answers 302 Found; expected its mesh"),
        (with("404 Not Found", "", "no"), Polled::Refused, "answers 404 Not Found; expected its mesh"),
        (with("200 OK", "", "<html>"), Polled::Malformed, "what it answers is no mesh: expected value"),
        (with("200 OK", "", &large), Polled::Malformed, "the answer is larger than 2097152 bytes"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(),
            Polled::Unanswered,
            "the answer broke off",
        ),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), Polled::Unanswered, ""),
    ] {
        let (address, serving) = answering(answer);
        let failed = ask_at(&at(address)).unwrap_err();
        assert_eq!(failed.polled, polled, "{}", failed.why);
        assert!(failed.why.starts_with(said), "{}", failed.why);
        let asked = serving.join().unwrap();
        assert!(asked.starts_with("GET /mesh?format=json HTTP/1.1\r\n"), "{asked}");
    }
    assert!(!baited.is_finished(), "nobody came");
}

#[test]
fn one_that_drips_its_answer_is_not_waited_for() {
    let (address, _serving) = answering("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{");
    // Another that takes the question and says nothing at all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [silent.local_addr().unwrap(), address] {
        let config = at(address);
        let agent = agent_within(&config, Duration::from_millis(200)).unwrap();
        assert_eq!(ask(&agent, &config).unwrap_err().polled, Polled::Unanswered);
    }
}
