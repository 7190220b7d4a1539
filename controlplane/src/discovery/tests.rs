//! Discovery against real servers on loopback: DNS and HTTP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers of a [`DnsServer`]: none for a name it has not is NXDOMAIN, `None` is SERVFAIL.
type Zone = Arc<Mutex<HashMap<(String, RecordType), Option<Vec<RData>>>>>;

/// A DNS server with one zone, on a port of its own, for as long as the test's process lives.
struct DnsServer {
    address: SocketAddr,
    zone: Zone,
}

impl DnsServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), Zone::default());
        let answers = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut octets = [0; 2048];
            while let Ok((length, client)) = socket.recv_from(&mut octets) {
                let reply = reply(&octets[..length], &answers.lock().unwrap());
                socket.send_to(&reply, client).unwrap();
            }
        });
        Self { address, zone }
    }

    fn set(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let of = |v4| addresses.iter().copied().filter(move |ip| ip.is_ipv4() == v4).map(RData::from);
        let mut zone = self.zone.lock().unwrap();
        zone.insert((format!("{name}."), RecordType::A), Some(of(true).collect()));
        zone.insert((format!("{name}."), RecordType::AAAA), Some(of(false).collect()));
    }

    fn set_services(&self, name: &str, services: &[(&str, u16)]) {
        let record =
            |(host, port): &(&str, u16)| RData::SRV(SRV::new(10, 0, *port, Name::from_utf8(host).unwrap()));
        let records = services.iter().map(record).collect();
        self.zone.lock().unwrap().insert((format!("{name}."), RecordType::SRV), Some(records));
    }

    fn break_down(&self, name: &str) {
        let mut zone = self.zone.lock().unwrap();
        for record in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            zone.insert((format!("{name}."), record), None);
        }
    }

    fn config(&self, groups: Vec<Group>) -> DiscoveryConfig {
        let bounds = Bounds {
            ttl_min: Duration::from_millis(20),
            ttl_max: Duration::from_millis(40),
            watch_interval: Duration::from_millis(20),
            ..Bounds::default()
        };
        DiscoveryConfig { groups, bounds, resolver: Some(self.address) }
    }
}

fn reply(octets: &[u8], zone: &HashMap<(String, RecordType), Option<Vec<RData>>>) -> Vec<u8> {
    let request = Message::from_vec(octets).unwrap();
    let query = request.queries[0].clone();
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    let key = (query.name().to_utf8().to_ascii_lowercase(), query.query_type());
    match zone.get(&key) {
        Some(Some(records)) => {
            let record = |data: &RData| Record::from_rdata(query.name().clone(), 1, data.clone());
            reply.add_answers(records.iter().map(record));
        }
        Some(None) => reply.metadata.response_code = ResponseCode::ServFail,
        None => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.add_query(query);
    reply.to_vec().unwrap()
}

fn member(name: &str, address: &str) -> Member {
    let address = HostPort::parse(address, Some(8620)).unwrap();
    Member { name: name.to_owned(), address, settings: None, families: None }
}

/// Name and endpoints, and whether it was found, of every target.
fn targets(discovery: &Discovery) -> Vec<(String, Vec<String>, Option<bool>)> {
    let (wanted, _) = discovery.wanted().unwrap();
    let texts = |places: Vec<SocketAddr>| places.iter().map(SocketAddr::to_string).collect();
    wanted.into_iter().map(|target| (target.name, texts(target.endpoints), target.resolvable)).collect()
}

fn target(name: &str, places: &[&str], found: bool) -> (String, Vec<String>, Option<bool>) {
    (name.to_owned(), places.iter().map(|place| (*place).to_owned()).collect(), Some(found))
}

/// Follows changes until the targets are these.
async fn expect(discovery: &mut Discovery, expected: &[(String, Vec<String>, Option<bool>)]) {
    let came = tokio::time::timeout(PATIENCE, async {
        while targets(discovery) != expected {
            discovery.changed().await;
        }
    });
    assert!(came.await.is_ok(), "waited for {expected:?}; there are {:?}", targets(discovery));
}

#[tokio::test]
async fn a_name_has_both_families_moves_fails_and_comes_back() {
    let dns = DnsServer::start();
    dns.set("b.test", &["127.0.0.1", "::1"]);
    let fixed = vec![member("b", "b.test"), member("c", "c.test:99")];
    let mut discovery = Discovery::new(dns.config(vec![Group { fixed, ..Group::default() }]));
    let c = target("c", &[], false);
    let b = target("b", &["127.0.0.1:8620", "[::1]:8620"], true);
    expect(&mut discovery, &[b, c.clone()]).await;

    dns.set("b.test", &["127.0.0.2"]);
    expect(&mut discovery, &[target("b", &["127.0.0.2:8620"], true), c.clone()]).await;
    dns.break_down("b.test");
    expect(&mut discovery, &[target("b", &["127.0.0.2:8620"], false), c]).await;
    dns.set("b.test", &["127.0.0.2"]);
    dns.set("c.test", &["127.0.0.3"]);
    let b = target("b", &["127.0.0.2:8620"], true);
    expect(&mut discovery, &[b, target("c", &["127.0.0.3:99"], true)]).await;
    let failures: HashMap<_, _> = discovery.failures().collect();
    assert!(failures[&SourceKind::Name] >= 2, "{failures:?}");
}

#[tokio::test]
async fn services_and_addresses_of_a_name_are_targets_each() {
    let dns = DnsServer::start();
    dns.set_services("_stamp._udp.test", &[("b.test.", 862), ("a.test.", 8620), (".", 1)]);
    dns.set("a.test", &["127.0.0.1"]);
    dns.set("b.test", &["127.0.0.2"]);
    dns.set("all.test", &["127.0.0.9", "127.0.0.8", "::1"]);
    let sources = vec![
        Source::Srv("_stamp._udp.test".to_owned()),
        Source::Dns(HostPort::parse("all.test:7", None).unwrap()),
    ];
    let mut discovery = Discovery::new(dns.config(vec![Group { sources, ..Group::default() }]));
    let fixed = |address| target(address, &[address], true);
    let addresses = ["127.0.0.8:7", "127.0.0.9:7", "[::1]:7"].map(fixed);
    let a = target("a.test:8620", &["127.0.0.1:8620"], true);
    let b = target("b.test:862", &["127.0.0.2:862"], true);
    expect(&mut discovery, &[&[a, b.clone()], &addresses[..]].concat()).await;

    dns.set_services("_stamp._udp.test", &[("b.test.", 862)]);
    dns.set("all.test", &["127.0.0.8"]);
    let left = [b, fixed("127.0.0.8:7")];
    expect(&mut discovery, &left).await;
    dns.break_down("_stamp._udp.test");
    dns.break_down("all.test");
    loop {
        let failures: HashMap<_, _> = discovery.failures().collect();
        if failures[&SourceKind::Srv] > 0 && failures[&SourceKind::Dns] > 0 {
            break;
        }
        // Nothing changes: only time passes.
        tokio::time::timeout(Duration::from_millis(20), discovery.changed()).await.unwrap_or_default();
    }
    assert_eq!(targets(&discovery), left, "what fails keeps what was known");
}

#[tokio::test]
async fn what_no_single_host_can_be_at_is_refused_and_counted() {
    let dns = DnsServer::start();
    let label = "x".repeat(60);
    let long = format!("{label}.{label}.{label}.test.");
    dns.set_services("_stamp._udp.test", &[("b.test.", 862), (&long, 862), ("*.test.", 862)]);
    dns.set("b.test", &["0.0.0.0", "127.0.0.2", "ff02::1"]);
    dns.set("all.test", &["224.0.0.1", "127.0.0.8", "255.255.255.255", "::"]);
    dns.set("none.test", &["0.0.0.0", "::"]);
    let sources = vec![
        Source::Srv("_stamp._udp.test".to_owned()),
        Source::Dns(HostPort::parse("all.test:7", None).unwrap()),
    ];
    let fixed = vec![member("none", "none.test")];
    let mut discovery = Discovery::new(dns.config(vec![Group { fixed, sources, ..Group::default() }]));
    let left = [
        target("none", &[], false),
        target("b.test:862", &["127.0.0.2:862"], true),
        target("127.0.0.8:7", &["127.0.0.8:7"], true),
    ];
    expect(&mut discovery, &left).await;
    let failures: HashMap<_, _> = discovery.failures().collect();
    for kind in [SourceKind::Srv, SourceKind::Dns, SourceKind::Name] {
        assert!(failures[&kind] > 0, "{failures:?}");
    }
}

#[tokio::test]
async fn a_family_that_is_not_wanted_is_not_asked_for() {
    let dns = DnsServer::start();
    dns.set("b.test", &["127.0.0.1", "::1"]);
    dns.zone.lock().unwrap().insert(("b.test.".to_owned(), RecordType::A), None);
    let group = Group { fixed: vec![member("b", "b.test")], families: Families::Ipv6, ..Group::default() };
    let mut discovery = Discovery::new(dns.config(vec![group]));
    expect(&mut discovery, &[target("b", &["[::1]:8620"], true)]).await;
    assert!(discovery.failures().all(|(_, failures)| failures == 0));
}

/// Serves one body after the other, the last one for ever; an empty one is a 500.
fn serve_lists(bodies: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/targets", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (turn, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            let body = bodies[turn.min(bodies.len() - 1)];
            let status = if body.is_empty() { "500 Oops" } else { "200 OK" };
            let head =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
    url
}

#[tokio::test]
async fn a_list_over_http_is_fetched_again_and_survives_failures() {
    const LISTS: [&str; 4] = [
        r#"[{"targets": ["127.0.0.1"], "labels": {"name": "a"}}]"#,
        "",
        "no list",
        r#"[{"targets": ["127.0.0.2"], "labels": {"name": "b"}}]"#,
    ];
    let sources = vec![Source::Http(serve_lists(&LISTS))];
    let group = Group { sources, refresh: Duration::from_millis(20), ..Group::default() };
    let mut discovery = Discovery::new(DnsServer::start().config(vec![group]));
    expect(&mut discovery, &[target("a", &["127.0.0.1:8620"], true)]).await;
    expect(&mut discovery, &[target("b", &["127.0.0.2:8620"], true)]).await;
    let failures: HashMap<_, _> = discovery.failures().collect();
    assert_eq!(failures[&SourceKind::Http], 2);
}

#[tokio::test]
async fn a_file_that_changes_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("relays.yaml");
    std::fs::write(&path, "- targets: ['127.0.0.1']\n").unwrap();
    let sources = vec![Source::File(path.display().to_string())];
    let mut discovery =
        Discovery::new(DnsServer::start().config(vec![Group { sources, ..Group::default() }]));
    discovery.read_files();
    assert_eq!(targets(&discovery), [target("127.0.0.1", &["127.0.0.1:8620"], true)], "read at once");
    std::fs::write(&path, "- targets: ['127.0.0.22']\n").unwrap();
    expect(&mut discovery, &[target("127.0.0.22", &["127.0.0.22:8620"], true)]).await;
}

#[test]
fn ten_thousand_names_are_followed_without_a_walk_for_each() {
    let fixed: Vec<_> = (0..10_000).map(|i| member(&format!("t{i}"), &format!("relay-{i}.test"))).collect();
    let groups = vec![Group { fixed, ..Group::default() }];
    let now = instant();
    let mut catalog = Catalog::new(now, groups, Bounds::default());
    let mut asked = 0;
    while let Some(task) = catalog.poll_task(now) {
        let v4 = catalog::Addresses::Found(vec![std::net::Ipv4Addr::LOCALHOST]);
        let valid_for = Duration::from_secs(60);
        let answer = Answer::Host { v4, v6: catalog::Addresses::None, refused: vec![], valid_for };
        catalog.handle(now, task, answer);
        asked += 1;
    }
    assert_eq!(asked, 10_000);
    let (wanted, _) = catalog.wanted().unwrap();
    assert!(wanted.iter().all(|target| target.endpoints.len() == 1));
}
