//! Targets that come and go, and move, without a signal: lists in files and over HTTP, and names.
//!
//! The DNS is a server of the test's own on loopback, which the relay is told to ask.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::relay::{Relay, loopback, sample, wait_for};

/// The records of each name and type; `None` is SERVFAIL, and a name that is not here NXDOMAIN.
type Zone = HashMap<(String, RecordType), Option<Vec<RData>>>;

/// A DNS server, for as long as the test's process lives.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl DnsServer {
    pub(crate) fn start(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Zone::new())));
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

    pub(crate) fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut zone = self.zone.lock().unwrap();
        for (record, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
            let of_family = addresses.iter().filter(|ip| ip.is_ipv4() == v4);
            zone.insert((format!("{name}."), record), Some(of_family.map(|ip| RData::from(*ip)).collect()));
        }
    }

    fn set_services(&self, name: &str, services: &[(&str, u16)]) {
        let record =
            |(host, port): &(&str, u16)| RData::SRV(SRV::new(1, 1, *port, Name::from_utf8(host).unwrap()));
        let records = services.iter().map(record).collect();
        self.zone.lock().unwrap().insert((format!("{name}."), RecordType::SRV), Some(records));
    }

    fn break_down(&self) {
        self.zone.lock().unwrap().values_mut().for_each(|answer| *answer = None);
    }
}

fn reply(octets: &[u8], zone: &Zone) -> Vec<u8> {
    let request = Message::from_vec(octets).unwrap();
    let query = request.queries[0].clone();
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    match zone.get(&(query.name().to_utf8().to_ascii_lowercase(), query.query_type())) {
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

/// A relay that reflects on its own address, and looks at everything often.
fn start(ip: IpAddr, directory: &Path, dns: Option<&DnsServer>, more: &str) -> Relay {
    let file = directory.join("relayscope.toml");
    let resolver = dns.map_or(String::new(), |dns| dns.address.to_string());
    let text = format!(
        "watch_interval = \"100ms\"\n\
         [dns]\nresolver = \"{resolver}\"\nttl_min = \"100ms\"\nttl_max = \"200ms\"\n\
         [probe]\ninterval = \"100ms\"\n\
         [reflector]\nlisten = [\"{ip}:8620\"]\n{more}"
    );
    std::fs::write(&file, text).unwrap();
    Relay::start(ip, &["--config", file.to_str().unwrap()])
}

fn received(target: &str, family: &str) -> String {
    format!("relay_probe_received_total{{target=\"{target}\",family=\"{family}\"}}")
}

fn info(target: &str, address: SocketAddr, group: &str) -> String {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!(
        "relay_target_info{{target=\"{target}\",address=\"{address}\",family=\"{family}\",protocol=\"stamp\",group=\"{group}\"}}"
    )
}

fn resolvable(target: &str) -> String {
    format!("relay_target_resolvable{{target=\"{target}\"}}")
}

fn failures(source: &str) -> String {
    format!("relay_discovery_failures_total{{source=\"{source}\"}}")
}

fn wait_gone(relay: &Relay, target: &str) {
    wait_for(format_args!("the series of {target} to disappear"), || {
        (!relay.get("/metrics").contains(&format!("target=\"{target}\""))).then_some(())
    });
}

pub(crate) fn lists_in_files() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let list = |name: &str, text: String| {
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, directory.path().join(name)).unwrap();
    };
    let json =
        |name: &str| format!(r#"[{{"targets": ["{ip}"], "labels": {{"name": "{name}", "dc": "x"}}}}]"#);
    list("a.json", json("kept"));
    list("b.yaml", format!("- targets: ['{ip}:8620']\n"));
    let relay =
        start(ip, directory.path(), None, "[[group]]\nname = \"g\"\nfile_sd = [\"*.json\", \"b.yaml\"]\n");
    let kept = received("kept", "ipv4");
    let before = relay.wait_sample(&kept, 3.0);
    relay.wait_state(&format!("{ip}:8620"), "up");
    assert_eq!(relay.sample(&resolvable("kept")), Some(1.0));

    list("c.json", json("new"));
    relay.wait_state("new", "up");
    list("b.yaml", "[]\n".to_owned());
    wait_gone(&relay, &format!("{ip}:8620"));
    list("c.json", "[{".to_owned());
    relay.wait_sample(&failures("file"), 1.0);
    relay.wait_sample(&received("new", "ipv4"), 5.0);
    std::fs::remove_file(directory.path().join("c.json")).unwrap();
    wait_gone(&relay, "new");

    // The same name once more: left out, and said so.
    list("d.json", json("kept"));
    relay.wait_sample("relay_discovery_left_out_targets", 1.0);
    assert!(relay.sample(&kept).unwrap() >= before, "what did not change counts on");
    assert_eq!(relay.sample(&info("kept", SocketAddr::new(ip, 8620), "g")), Some(1.0));
}

/// A list is not read while it is being written, and an empty one takes nothing away; a member that cannot be
/// probed is left out alone, and the other lists go on.
pub(crate) fn bad_lists() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let list = |name: &str| directory.path().join(name);
    let content = format!("- targets: ['{ip}']\n  labels: {{name: kept}}\n");
    std::fs::write(list("s.yml"), &content).unwrap();
    std::fs::write(list("q.json"), "[]").unwrap();
    let groups = "[[group]]\nname = \"g\"\nfile_sd = [\"s*.yml\"]\n\
        [[group]]\nname = \"q\"\nprotocol = \"quic\"\ninsecure = true\nfile_sd = [\"q.json\"]\n";
    let relay = start(ip, directory.path(), None, groups);
    let kept = received("kept", "ipv4");
    let before = relay.wait_sample(&kept, 5.0);

    std::fs::write(list("s.yml"), "").unwrap();
    relay.wait_sample(&failures("file"), 1.0);
    std::fs::write(list("s.yml"), &content).unwrap();
    relay.wait_sample(&kept, before + 10.0);

    // The one is no name at all, the other none that a certificate can be for.
    std::fs::write(list("q.json"), r#"[{"targets": ["a..b:4433", "-a.test:4433"]}]"#).unwrap();
    relay.wait_sample("relay_discovery_left_out_targets", 1.0);
    relay.wait_sample(&failures("file"), 2.0);
    std::fs::write(list("s2.yml"), content.replace("kept", "new")).unwrap();
    relay.wait_sample(&received("new", "ipv4"), 15.0);
    assert_eq!(relay.sample(&failures("apply")), Some(0.0), "nothing was refused as a whole");
    assert!(relay.sample(&kept).unwrap() >= before + 10.0, "it counts on");
}

/// Serves what the body says at the time; an empty one is a 500.
fn serve(ip: IpAddr, body: &Arc<Mutex<String>>) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let (address, body) = (listener.local_addr().unwrap(), Arc::clone(body));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read(&mut [0; 4096]).unwrap_or(0) == 0 {
                continue;
            }
            let body = body.lock().unwrap().clone();
            let status = if body.is_empty() { "500 Oops" } else { "200 OK" };
            let head =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            // A relay that ended does not read it.
            stream.write_all((head + &body).as_bytes()).ok();
        }
    });
    address
}

pub(crate) fn lists_over_http() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let list = |name: &str| format!(r#"[{{"targets": ["{ip}"], "labels": {{"name": "{name}"}}}}]"#);
    let body = Arc::new(Mutex::new(list("a")));
    let server = serve(ip, &body);
    let group = format!("[[group]]\nname = \"g\"\nhttp_sd = \"http://{server}/targets\"\nrefresh = \"1s\"\n");
    let relay = start(ip, directory.path(), None, &group);
    relay.wait_sample(&received("a", "ipv4"), 2.0);

    body.lock().unwrap().clear();
    relay.wait_sample(&failures("http"), 1.0);
    let so_far = relay.sample(&received("a", "ipv4")).unwrap();
    relay.wait_sample(&received("a", "ipv4"), so_far + 3.0);
    *body.lock().unwrap() = list("b");
    relay.wait_state("b", "up");
    wait_gone(&relay, "a");
}

/// A name that is not found at start stops nothing, is found, moves, and fails.
pub(crate) fn names_move() {
    let (ip, other, directory) = (loopback(), loopback(), tempfile::tempdir().unwrap());
    let dns = DnsServer::start(ip);
    let more = "[[target]]\nname = \"b\"\naddress = \"b.test\"\n";
    let relay = start(ip, directory.path(), Some(&dns), more);
    let elsewhere = Relay::start(other, &["--reflect", &format!("{other}:8620")]);
    wait_for("the name to be known as not found", || {
        (relay.sample(&resolvable("b")) == Some(0.0)).then_some(())
    });
    assert_eq!(relay.row("b")["state"], "pending");
    relay.wait_sample(&failures("name"), 1.0);

    dns.set("b.test", &[ip]);
    relay.wait_sample(&received("b", "ipv4"), 5.0);
    assert_eq!(relay.sample(&resolvable("b")), Some(1.0));
    let (here, there) = (SocketAddr::new(ip, 8620), SocketAddr::new(other, 8620));
    assert_eq!(relay.sample(&info("b", here, "default")), Some(1.0));

    let before = relay.sample(&received("b", "ipv4")).unwrap();
    dns.set("b.test", &[other]);
    let after = wait_for("the target to have moved", || {
        let scrape = relay.get("/metrics");
        sample(&scrape, &info("b", there, "default"))?;
        assert_eq!(sample(&scrape, &info("b", here, "default")), None, "it is at one place");
        sample(&scrape, &received("b", "ipv4"))
    });
    assert!(after >= before, "counters go on: {before}, then {after}");
    elsewhere.wait_sample("relay_reflector_packets_total{result=\"reflected\"}", 1.0);
    relay.wait_sample(&received("b", "ipv4"), after + 3.0);

    dns.break_down();
    wait_for("the failure", || (relay.sample(&resolvable("b")) == Some(0.0)).then_some(()));
    let so_far = relay.sample(&received("b", "ipv4")).unwrap();
    relay.wait_sample(&received("b", "ipv4"), so_far + 5.0);
    assert_eq!(relay.sample(&info("b", there, "default")), Some(1.0), "the last address stays");
}

/// A and AAAA of one name are two families of one target; services of a name are targets each.
pub(crate) fn both_families_and_services() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let v6: IpAddr = "::1".parse().unwrap();
    let dns = DnsServer::start(ip);
    dns.set("b.test", &[ip, v6]);
    dns.set_services("_stamp._udp.test", &[("b.test.", 8620)]);
    let more = "[[group]]\nname = \"g\"\ndns_srv = [\"_stamp._udp.test\"]\n\
                [[group]]\nname = \"v6\"\nfamily = \"ipv6\"\ntargets = [\"six=b.test\"]\n";
    let relay = start(ip, directory.path(), Some(&dns), more);
    let target = "b.test:8620";
    relay.wait_sample(&received(target, "ipv4"), 2.0);
    for (name, group) in [(target, "g"), ("six", "v6")] {
        wait_for("the second family", || relay.sample(&info(name, SocketAddr::new(v6, 8620), group)));
        wait_for("its probes", || {
            let sent = format!("relay_probe_sent_total{{target=\"{name}\",family=\"ipv6\"}}");
            relay.sample(&sent).filter(|sent| *sent > 0.0)
        });
    }
    assert_eq!(relay.sample(&info("six", SocketAddr::new(ip, 8620), "v6")), None);

    dns.set("b.test", &[ip]);
    wait_for("the second family to go", || {
        (!relay.get("/metrics").contains(&format!("target=\"{target}\",family=\"ipv6\""))).then_some(())
    });
    dns.set_services("_stamp._udp.test", &[]);
    relay.wait_sample(&failures("dns_srv"), 1.0);
    assert!(relay.sample(&received(target, "ipv4")).is_some(), "no services is a failure: they stay");
}
