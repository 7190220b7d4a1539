//! STAMP with keys: stamp-suite in both roles, and what comes without a key, with another, or twice.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use relayscope_dataplane::clock::Realtime;
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use relayscope_dataplane::wire::timestamp::{Format, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, run};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
const OTHER_KEY: &str = "ffeeddccbbaa99887766554433221100\n";

/// Key files and a configuration, for as long as the test runs.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, key) in [("key", KEY), ("other", OTHER_KEY)] {
            let path = directory.path().join(name);
            std::fs::write(&path, key).unwrap();
            // stamp-suite takes no key that others may read.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A relay on `ip` that answers only who has the key, and probes `target` with it.
    fn relay(&self, ip: IpAddr, target: Option<(&str, SocketAddr)>) -> Relay {
        let key = self.path("key");
        let mut text =
            format!("[reflector]\nlisten = [\"{ip}:8620\"]\nkey_file = {key:?}\nauthenticated_only = true\n");
        if let Some((name, address)) = target {
            text += &format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\nkey_file = {key:?}\n");
        }
        let file = self.path("relayscope.toml");
        std::fs::write(&file, text).unwrap();
        Relay::start(ip, &["--config", file.to_str().unwrap()])
    }
}

fn result(result: &str) -> String {
    format!("relay_reflector_packets_total{{result=\"{result}\"}}")
}

fn stamp_suite(key: Option<&Path>) -> Command {
    let mut command = Command::new(Peer::StampSuite.program());
    command.env("NO_COLOR", "1").args(["--output-format", "json"]);
    if let Some(key) = key {
        command.args(["-A", "A", "--hmac-key-file"]).arg(key);
    }
    command
}

pub(crate) fn as_reflector() {
    let (ip, files) = (loopback(), Files::new());
    let mut command = stamp_suite(Some(&files.path("key")));
    command.args(["-i", "-S", &ip.to_string(), "-o", "8621", "--stateful-reflector"]).stderr(Stdio::piped());
    let mut reflector = Process::start(&mut command);
    let mut log = BufReader::new(reflector.stderr().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("STAMP Reflector listening")));
    let log = std::thread::spawn(move || log.count());

    let relay = files.relay(ip, Some(("suite", SocketAddr::new(ip, 8621))));
    relay.wait_state("suite", "up");
    let received = "relay_probe_received_total{target=\"suite\",family=\"ipv4\"}";
    relay.wait_sample(received, 3.0);
    assert_eq!(relay.sample("relay_probe_lost_total{target=\"suite\",family=\"ipv4\"}"), Some(0.0));
    drop(relay);

    reflector.signal(Signal::SIGTERM);
    assert!(reflector.wait().success());
    let report: Value = serde_json::from_str(&reflector.rest().join("\n")).unwrap();
    assert!(report["total_packets_reflected"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(report["total_packets_dropped"], 0, "{report}");
    log.join().unwrap();
}

pub(crate) fn as_sender() {
    let (ip, files) = (loopback(), Files::new());
    let relay = files.relay(ip, None);
    let send = |key: Option<&str>, extra: &[&str]| {
        let key = key.map(|key| files.path(key));
        let mut sender = stamp_suite(key.as_deref());
        sender.args(["-r", &ip.to_string(), "-p", "8620", "-c", "10", "-d", "20ms", "-L", "1"]).args(extra);
        let (_, stdout, stderr) = run(&mut sender);
        let report: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
        assert_eq!(report["packets_sent"], 10, "{report}");
        report
    };
    let mut reflected = 0.0;
    // Those with a TLV bring an HMAC TLV for it, and verify the one in the reply.
    let forms: [(&[&str], u64); 4] = [
        (&[], 0),
        (&["--ssid", "4660", "--clock-source", "PTP"], 0),
        (&["--extra-padding", "100"], 10),
        (&["--cos"], 10),
    ];
    for (extra, verified) in forms {
        let report = send(Some("key"), extra);
        assert_eq!(report["packets_received"], 10, "{extra:?}: {report}");
        let tlvs = &report["measurements"]["tlv_validation"];
        assert_eq!(tlvs["hmac"]["verified"], verified, "{extra:?}: {report}");
        assert_eq!(tlvs["flags"]["integrity_failed"], 0, "{extra:?}: {report}");
        reflected += 10.0;
        assert_eq!(relay.sample(&result("reflected")), Some(reflected), "{extra:?}");
    }
    assert_eq!(send(Some("other"), &[])["packets_received"], 0);
    assert_eq!(relay.sample(&result("bad_hmac")), Some(10.0));
    assert_eq!(send(None, &[])["packets_received"], 0);
    assert_eq!(relay.sample(&result("unauthenticated")), Some(10.0));
    assert_eq!(relay.sample(&result("reflected")), Some(reflected));
}

pub(crate) fn what_comes_twice() {
    let (ip, files) = (loopback(), Files::new());
    let relay = files.relay(ip, None);
    let key = HmacKey::from_file_octets(KEY.as_bytes()).unwrap();
    let sender = UdpSocket::bind((ip, 0)).unwrap();
    sender.connect((ip, 8620)).unwrap();
    sender.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let probe = |sequence: u32, t1: u64| {
        let (error_estimate, ssid) = (ErrorEstimate::OURS, 9);
        SenderPacket { sequence, timestamp: Timestamp(t1), error_estimate, ssid }.encode_authenticated(&key)
    };
    // 0 and 1, both again, 2, then a sender that began anew. What is not answered shows as a reply to the next.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let now = Timestamp::encode(Realtime(now.try_into().unwrap()), Format::Ntp).0;
    let second = 1 << 32;
    let packets = [(0, 1), (1, 2), (0, 1), (1, 2), (2, 3), (0, 9)];
    let answered = [(0, 0), (1, 1), (2, 2), (0, 3)];
    for (sequence, t1) in packets {
        sender.send(&probe(sequence, now + t1 * second)).unwrap();
    }
    for (sequence, count) in answered {
        let mut octets = [0u8; 200];
        let len = sender.recv(&mut octets).unwrap();
        let reply = ReflectorPacket::decode_authenticated(&octets[..len], &key).unwrap();
        assert_eq!((len, reply.sender_sequence, reply.sequence), (112, sequence, count));
    }
    assert_eq!(relay.wait_sample(&result("replayed"), 2.0), 2.0);
    assert_eq!(relay.sample(&result("reflected")), Some(4.0));
}

pub(crate) fn two_relays() {
    let (ip, other_ip, files) = (loopback(), loopback(), Files::new());
    let reflecting = files.relay(ip, None);
    let probing = files.relay(other_ip, Some(("keyed", SocketAddr::new(ip, 8620))));
    let stranger_ip = loopback();
    let stranger = Relay::start(stranger_ip, &["--probe", &format!("keyed={ip}:8620")]);
    probing.wait_state("keyed", "up");
    stranger.wait_state("keyed", "down");
    reflecting.wait_sample(&result("unauthenticated"), 1.0);
    assert_eq!(reflecting.sample(&result("bad_hmac")), Some(0.0));
}
