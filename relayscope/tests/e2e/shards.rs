//! A relay of two shards at one address.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use relayscope_dataplane::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use relayscope_dataplane::wire::timestamp::Timestamp;
use serde_json::Value;

use crate::relay::{Process, Relay, loopback, relayscope, run, sample, wait_for};

const TARGETS: usize = 16;
/// Of so many none at one of two shards: once in 10^19, and in 30,000.
const SOURCES: usize = 64;
const CLIENTS: usize = 16;
const ROUNDS: u32 = 500;
const PINGS: usize = 3;
const REFLECTED: &str = "relay_reflector_packets_total";
const RESPONDED: &str = "relay_responder_packets_total";

fn of_result(family: &str, result: &str) -> String {
    format!("{family}{{result=\"{result}\"}}")
}

fn config(runtime: &str, ip: IpAddr, directory: &Path) -> String {
    let mut text = format!(
        "cores = \"0-1\"\nruntime = \"{runtime}\"\nsegment = {:?}\n\
         [reflector]\nlisten = [\"{ip}:8620\"]\nquic_listen = [\"{ip}:8621\"]\n\
         [probe]\ninterval = \"100ms\"\n",
        directory.join("segment")
    );
    for i in 0..TARGETS {
        text += &format!("[[target]]\nname = \"t{i}\"\naddress = \"{ip}:8620\"\n");
    }
    let file = directory.join("relayscope.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What each shard counted, as it lies in the segment: a scrape adds them up.
fn by_shard(directory: &Path, family: &str, result: &str) -> [u64; 2] {
    let mut autopsy = relayscope();
    autopsy.args(["autopsy", "--json", "--all"]).arg(directory.join("segment"));
    let (status, report, stderr) = run(&mut autopsy);
    assert!(status.success(), "{stderr}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let is_it = |cell: &&Value| cell["metric"] == family && cell["labels"]["result"] == result;
    let cells: Vec<&Value> = report["counters"].as_array().unwrap().iter().filter(is_it).collect();
    [0, 1].map(|shard| cells.iter().find(|cell| cell["shard"] == shard).unwrap()["value"].as_u64().unwrap())
}

/// Each source is one session of one shard, whose count never begins anew and never leaves one out.
fn sessions_stay(to: SocketAddr, ip: IpAddr) {
    let sources: Vec<_> = (0..SOURCES).map(|_| UdpSocket::bind((ip, 0)).unwrap()).collect();
    for source in &sources {
        source.connect(to).unwrap();
        source.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    for sequence in 0..ROUNDS {
        let (timestamp, error_estimate) = (Timestamp((u64::from(sequence) + 1) << 32), ErrorEstimate::OURS);
        // Not the sender's number copied: that is another one.
        let packet = SenderPacket { sequence: sequence + 7, timestamp, error_estimate, ssid: 1 }.encode();
        sources.iter().for_each(|source| assert_eq!(source.send(&packet).unwrap(), 44));
        for source in &sources {
            let mut octets = [0; 64];
            let length = source.recv(&mut octets).unwrap();
            let reply = ReflectorPacket::decode(&octets[..length]).unwrap();
            assert_eq!((reply.sequence, reply.sender_sequence), (sequence, sequence + 7));
        }
    }
}

fn ping_from_everywhere(to: SocketAddr) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut probe = relayscope();
            probe.args(["probe", "--insecure", "-c", &PINGS.to_string(), "-i", "200ms"]);
            probe.arg(format!("quic://{to}"));
            std::thread::spawn(move || run(&mut probe))
        })
        .collect();
    for client in clients {
        let (status, stdout, stderr) = client.join().unwrap();
        assert!(status.success(), "{stdout}\n{stderr}");
    }
}

/// The second instance says what today's single shard says.
fn second_is_refused(ip: IpAddr, directory: &Path) {
    let other = loopback();
    let file = directory.join("second.toml");
    let stamp = format!("[reflector]\nlisten = [\"{ip}:8620\"]\n");
    let quic = format!("[reflector]\nlisten = [\"{other}:8620\"]\nquic_listen = [\"{ip}:8621\"]\n");
    for (text, port) in [(stamp, 8620), (quic, 8621)] {
        for cores in ["0-1", "1"] {
            std::fs::write(&file, &text).unwrap();
            let mut second = relayscope();
            second.arg("run").arg("--config").arg(&file);
            second.args(["--cores", cores, "--listen", &format!("{other}:9862")]);
            // Where it is let in after all, it is ended with the test.
            let mut second = Process::start(second.stderr(Stdio::piped()));
            let status = second.wait();
            let mut stderr = String::new();
            second.stderr().unwrap().read_to_string(&mut stderr).unwrap();
            let expected = format!(
                "relayscope: cannot bind UDP {ip}:{port}: Address already in use (os error 98); \
                 port {port} is taken, stop its owner or choose another port"
            );
            assert_eq!((status.code(), stderr.trim_end()), (Some(1), expected.as_str()));
        }
    }
}

fn two_shards(runtime: &str) {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let relay = Relay::start(ip, &["--config", &config(runtime, ip, directory)]);
    let (reflector, responder) = (SocketAddr::new(ip, 8620), SocketAddr::new(ip, 8621));
    (0..TARGETS).for_each(|i| relay.wait_state(&format!("t{i}"), "up"));
    let probed_by: Vec<u64> =
        (0..TARGETS).map(|i| relay.row(&format!("t{i}"))["shard"].as_u64().unwrap()).collect();
    assert!([0, 1].iter().all(|shard| probed_by.contains(shard)), "{probed_by:?}");

    sessions_stay(reflector, ip);
    ping_from_everywhere(responder);
    second_is_refused(ip, directory);

    let own = |scrape: &str, name: &str| -> f64 {
        let of = |i| sample(scrape, &format!("relay_probe_{name}_total{{target=\"t{i}\",family=\"ipv4\"}}"));
        (0..TARGETS).map(|i| of(i).unwrap()).sum()
    };
    let (reflected, scrape) = wait_for("the account of both shards to balance", || {
        let before = by_shard(directory, REFLECTED, "reflected");
        let scrape = relay.get("/metrics");
        let shown = sample(&scrape, &of_result(REFLECTED, "reflected"))?;
        let sources = (SOURCES * ROUNDS as usize) as f64;
        let adds_up = before.iter().sum::<u64>() as f64 == shown && shown == sources + own(&scrape, "sent");
        adds_up.then_some((before, scrape))
    });
    let pongs = by_shard(directory, RESPONDED, "pong");
    println!("{runtime}: reflected {reflected:?}, pongs {pongs:?}, probed by {probed_by:?}");
    // Each a whole number of sessions, beside the relay's own probes.
    let own_sent = own(&scrape, "sent") as u64;
    for count in reflected {
        assert!(count >= u64::from(ROUNDS) && count % u64::from(ROUNDS) <= own_sent, "{reflected:?}");
    }
    assert_eq!(own(&scrape, "lost"), 0.0);
    assert!(pongs.iter().all(|count| *count > 0), "{pongs:?}");
    assert_eq!(pongs.iter().sum::<u64>(), (CLIENTS * PINGS) as u64);
    assert_eq!(sample(&scrape, &of_result(RESPONDED, "pong")), Some((CLIENTS * PINGS) as f64));
}

pub(crate) fn on_glommio() {
    two_shards("glommio");
}

pub(crate) fn on_poll() {
    two_shards("poll");
}
