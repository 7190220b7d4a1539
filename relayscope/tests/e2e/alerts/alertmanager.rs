//! The real Alertmanager: what it has of us, read from its own API, and what it tells others.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use relayscope_impairer::{Impairer, Impairment};
use serde_json::Value;

use super::peer::Reflector;
use super::{Bed, firing};
use crate::peers::Peer;
use crate::relay::{Process, Relay, get, loopback, relayscope, wait_for};

/// Whom Alertmanager notifies: it keeps what it is told.
struct Receiver {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

/// An alert of a notification.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    alert: String,
    status: String,
    starts_at: String,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::new(loopback(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let keep = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let notification = read_request(stream);
                let alerts = notification["alerts"].as_array().unwrap();
                keep.lock().unwrap().extend(alerts.iter().map(|alert| Told {
                    alert: name_of(&alert["labels"]),
                    status: alert["status"].as_str().unwrap().to_owned(),
                    starts_at: alert["startsAt"].as_str().unwrap().to_owned(),
                }));
            }
        });
        Self { address, told }
    }

    /// How often it was told of which alert anew, by name and status. Alertmanager itself repeats those of a group
    /// when one of them changes.
    fn told(&self) -> BTreeMap<String, usize> {
        let mut told = self.told.lock().unwrap().clone();
        told.sort();
        told.dedup();
        told.iter().fold(BTreeMap::new(), |mut counts, told| {
            *counts.entry(format!("{} {}", told.alert, told.status)).or_default() += 1;
            counts
        })
    }
}

/// Reads a request with a JSON body and answers it.
fn read_request(stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// `alertname target`.
fn name_of(labels: &Value) -> String {
    format!("{} {}", labels["alertname"].as_str().unwrap(), labels["target"].as_str().unwrap_or_default())
}

/// A running Alertmanager.
struct Alertmanager {
    process: Process,
    address: SocketAddr,
}

impl Alertmanager {
    /// Its data lie in `directory`; it notifies `receiver`.
    fn start(address: SocketAddr, directory: &Path, receiver: SocketAddr) -> Self {
        let process = Process::start(&mut Self::command(address, directory, receiver));
        let alertmanager = Self { process, address };
        wait_for("alertmanager to be ready", || alertmanager.get("/-/ready"));
        alertmanager
    }

    fn command(address: SocketAddr, directory: &Path, receiver: SocketAddr) -> Command {
        let file = directory.join("alertmanager.yml");
        let configuration = format!(
            "route:\n  receiver: hook\n  group_by: [alertname, target]\n  group_wait: 100ms\n  \
             group_interval: 500ms\n  repeat_interval: 1h\n\
             receivers:\n- name: hook\n  webhook_configs:\n  - url: http://{receiver}/\n"
        );
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(Peer::Alertmanager.program());
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stderr(Stdio::null());
        command
    }

    fn get(&self, path: &str) -> Option<String> {
        get(&format!("http://{}{path}", self.address)).ok()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What stands there.
    fn alerts(&self) -> Vec<Value> {
        let answer = self.get("/api/v2/alerts").unwrap();
        serde_json::from_str::<Value>(&answer).unwrap().as_array().unwrap().clone()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.alerts().iter().map(|alert| name_of(&alert["labels"])).collect();
        names.sort_unstable();
        names
    }

    fn wait_names(&self, names: &[&str]) {
        wait_for(format_args!("alertmanager to have {names:?}"), || (self.names() == names).then_some(()));
    }
}

fn config(alertmanager: &Alertmanager) -> String {
    format!("alertmanagers = [\"{}\"]\nresend_interval = \"1s\"", alertmanager.url())
}

/// Exactly one alert for each peer that is killed, and its resolution when that is back.
pub(crate) fn killed_peers() {
    let (receiver, directory) = (Receiver::start(), tempfile::tempdir().unwrap());
    let address = SocketAddr::new(loopback(), 9093);
    let alertmanager = Alertmanager::start(address, directory.path(), receiver.address);
    let [mut b, mut c, d] = [Reflector::start(), Reflector::start(), Reflector::start()];
    let targets = [("b", b.address()), ("c", c.address()), ("d", d.address())];
    // Half of the window is lost when a peer comes again; what a busy machine loses is less than this.
    let alerting = format!("{}\nloss_warning = 0.2\nloss_critical = 0.5", config(&alertmanager));
    let bed = Bed::start(loopback(), &alerting, &targets);
    for name in ["b", "c", "d"] {
        bed.relay.wait_state(name, "up");
    }
    assert_eq!(alertmanager.names(), [""; 0]);
    b.kill();
    c.kill();
    alertmanager.wait_names(&["RelayPeerDown b", "RelayPeerDown c"]);
    let alert = alertmanager.alerts().into_iter().find(|alert| alert["labels"]["target"] == "b").unwrap();
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["labels"]["instance"], format!("relay-{}", bed.relay.http.ip()));
    assert_eq!(alert["status"]["state"], "active");
    assert!(alert["generatorURL"].as_str().unwrap().ends_with("/api/v1/alerts"));

    b.revive();
    alertmanager.wait_names(&["RelayPeerDown c"]);
    c.revive();
    alertmanager.wait_names(&[]);
    let expected =
        ["b", "c"].map(|peer| ["firing", "resolved"].map(|status| format!("RelayPeerDown {peer} {status}")));
    let expected: BTreeMap<_, _> = expected.into_iter().flatten().map(|told| (told, 1)).collect();
    wait_for("the notification of each end", || (receiver.told().len() == 4).then_some(()));
    // Until each has been told again, were it to be: some resends and flushes later.
    let asked =
        format!("relay_alertmanager_requests_total{{alertmanager=\"{}\",result=\"ok\"}}", alertmanager.url());
    let sent = bed.relay.sample(&asked).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(receiver.told(), expected, "each once");
    assert_eq!(bed.relay.sample(&asked), Some(sent), "silent when resolved");
    assert_eq!(alertmanager.names(), [""; 0]);
    let transitions = |event| {
        let series =
            format!("relay_alert_transitions_total{{alertname=\"RelayPeerDown\",event=\"{event}\"}}");
        bed.relay.sample(&series)
    };
    assert_eq!((transitions("raised"), transitions("resolved")), (Some(2.0), Some(2.0)));
}

/// It dies, loses its memory, comes again: it has what stands, and what ended meanwhile it never knew.
pub(crate) fn restarted_and_forgetful() {
    let (receiver, directories) =
        (Receiver::start(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let address = SocketAddr::new(loopback(), 9093);
    let mut alertmanager = Alertmanager::start(address, directories[0].path(), receiver.address);
    let [mut b, mut c] = [Reflector::start(), Reflector::start()];
    let bed = Bed::start(loopback(), &config(&alertmanager), &[("b", b.address()), ("c", c.address())]);
    for name in ["b", "c"] {
        bed.relay.wait_state(name, "up");
    }
    b.kill();
    c.kill();
    alertmanager.wait_names(&["RelayPeerDown b", "RelayPeerDown c"]);
    alertmanager.process.kill();
    c.revive();
    wait_for("the alert of c to end", || (firing(&bed.relay) == ["RelayPeerDown b critical"]).then_some(()));
    let url = alertmanager.url();
    let of_result = |result| {
        let series =
            format!("relay_alertmanager_requests_total{{alertmanager=\"{url}\",result=\"{result}\"}}");
        bed.relay.sample(&series).unwrap()
    };
    wait_for("requests nobody answers", || (of_result("unanswered") >= 1.0).then_some(()));

    let alertmanager = Alertmanager::start(address, directories[1].path(), receiver.address);
    alertmanager.wait_names(&["RelayPeerDown b"]);
    b.revive();
    alertmanager.wait_names(&[]);
    assert_eq!(of_result("refused") + of_result("failed"), 0.0);
    let dropped = format!("relay_alertmanager_dropped_alerts_total{{alertmanager=\"{url}\"}}");
    assert_eq!(bed.relay.sample(&dropped), Some(0.0));
}

/// A round-trip time that trembles about its threshold is one alert, however long.
pub(crate) fn trembling_rtt() {
    const SAMPLES: usize = 60;
    let (receiver, directory) = (Receiver::start(), tempfile::tempdir().unwrap());
    let address = SocketAddr::new(loopback(), 9093);
    let alertmanager = Alertmanager::start(address, directory.path(), receiver.address);
    let reflector = Reflector::start();
    let trembling =
        Impairment { delay: Duration::from_millis(28), jitter: Duration::from_millis(4), ..Impairment::NONE };
    let path =
        Impairer::start(SocketAddr::new(loopback(), 0), reflector.address(), 1, trembling, Impairment::NONE)
            .unwrap();
    // A fifth below the threshold, where it would end, it never is.
    let alerting = format!(
        "{}\nrtt_warning = \"30ms\"\nrtt_critical = \"10s\"\njitter_warning = \"10s\"\njitter_critical = \"10s\"\n\
         loss_warning = 0.9\nloss_critical = 0.9",
        config(&alertmanager)
    );
    let bed = Bed::start(loopback(), &alerting, &[("b", path.address())]);
    alertmanager.wait_names(&["RelayPeerRttHigh b"]);
    let (mut above, mut below) = (0, 0);
    let mut before = None;
    wait_for(format_args!("{SAMPLES} samples"), || {
        let (_, last) = bed.relay.status("/api/v1/last/rtt");
        let rtt = last["values"][0]["value"].as_f64();
        if let Some(rtt) = rtt.filter(|_| rtt != before) {
            *(if rtt >= 0.03 { &mut above } else { &mut below }) += 1;
        }
        before = rtt;
        (above + below >= SAMPLES).then_some(())
    });
    assert!(above > SAMPLES / 10 && below > SAMPLES / 10, "{above} above, {below} below");
    let raised = "relay_alert_transitions_total{alertname=\"RelayPeerRttHigh\",event=\"raised\"}";
    assert_eq!(bed.relay.sample(raised), Some(1.0));
    assert_eq!(receiver.told(), BTreeMap::from([("RelayPeerRttHigh b firing".to_owned(), 1)]));
}

/// One that takes the connection and says nothing does not hold up the end.
pub(crate) fn unreachable_at_stop() {
    let silent = TcpListener::bind(SocketAddr::new(loopback(), 0)).unwrap();
    let alerting =
        format!("alertmanagers = [\"http://{}\"]\nrtt_warning = \"1us\"", silent.local_addr().unwrap());
    let reflector = Reflector::start();
    let mut bed = Bed::start(loopback(), &alerting, &[("b", reflector.address())]);
    let (_stream, _) = silent.accept().unwrap();
    bed.relay.process.signal(Signal::SIGTERM);
    let asked = Instant::now();
    assert_eq!(bed.relay.process.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(4), "it took {:?}", asked.elapsed());
}

/// Over HTTPS, to one whose authority this host trusts; and not to one whose it does not.
pub(crate) fn over_https() {
    let (receiver, directory) = (Receiver::start(), tempfile::tempdir().unwrap());
    let address = SocketAddr::new(loopback(), 9093);
    let (certificate, key) = (directory.path().join("am.pem"), directory.path().join("am.key"));
    make_certificate(address, &certificate, &key);
    let web = directory.path().join("web.yml");
    std::fs::write(&web, "tls_server_config: {cert_file: am.pem, key_file: am.key}\n").unwrap();
    let mut alertmanager = Alertmanager::command(address, directory.path(), receiver.address);
    let _alertmanager = Process::start(alertmanager.arg(format!("--web.config.file={}", web.display())));
    wait_for("alertmanager to listen", || TcpStream::connect(address).ok());

    let mut peer = Reflector::start();
    let (to_peer, url) = (format!("b={}", peer.address()), format!("https://{address}"));
    let start = |trusted: &Path| {
        let ip = loopback();
        let http = SocketAddr::new(ip, 9862);
        let mut command = relayscope();
        command.args(["run", "--probe", &to_peer, "--alertmanager", &url, "--listen", &http.to_string()]);
        command.env("SSL_CERT_FILE", trusted);
        let relay = Relay { process: Process::start(&mut command), http };
        relay.wait_ready();
        relay.wait_state("b", "up");
        relay
    };
    let other = directory.path().join("other.pem");
    make_certificate(address, &other, &directory.path().join("other.key"));
    let relays = [start(&certificate), start(&other)];
    peer.kill();
    for (relay, result) in relays.iter().zip(["ok", "unanswered"]) {
        let asked =
            format!("relay_alertmanager_requests_total{{alertmanager=\"{url}\",result=\"{result}\"}}");
        relay.wait_sample(&asked, 1.0);
    }
}

/// A certificate for `address` that is its own authority.
fn make_certificate(address: SocketAddr, certificate: &Path, key: &Path) {
    let made = rcgen::generate_simple_self_signed([address.ip().to_string()]).unwrap();
    std::fs::write(certificate, made.cert.pem()).unwrap();
    std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
}
