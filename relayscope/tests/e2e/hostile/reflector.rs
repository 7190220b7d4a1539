//! The reflector under a flood of everything, from another core.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::time::Duration;

use relayscope_dataplane::key::HmacKey;

use super::flooder::{Flood, KeyPair, Source, flood, kernel_drops, pin};
use crate::relay::{Relay, loopback, sample, wait_for};

const FLOOD: Duration = Duration::from_secs(5);
/// Addresses of the loopback network that only this test uses, beside one more per flooder.
const SOURCES: u8 = 64;
/// Sources at a reflector's port.
const REFLECTORS: u8 = 4;
const RIGHT_KEY: &str = "000102030405060708090a0b0c0d0e0f";
const WRONG_KEY: &str = "ffeeddccbbaa99887766554433221100";
const RESULTS: [&str; 13] = [
    "reflected",
    "reflected_stateless",
    "short",
    "oversized",
    "loop",
    "unauthenticated",
    "no_key",
    "bad_hmac",
    "replayed",
    "stale",
    "table_full",
    "rate_limited",
    "send_error",
];

fn of_target(name: &str, target: &str) -> String {
    format!("relay_probe_{name}_total{{target=\"{target}\",family=\"ipv4\"}}")
}

fn result(result: &str) -> String {
    format!("relay_reflector_packets_total{{result=\"{result}\"}}")
}

/// A relay on the last core that probes itself and `other` ten times a second.
fn start(runtime: &str, ip: IpAddr, other: SocketAddr, directory: &Path) -> Relay {
    let file = directory.join("relayscope.toml");
    let key = directory.join("key");
    std::fs::write(&key, RIGHT_KEY).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "runtime = \"{runtime}\"\n\
         [reflector]\nlisten = [\"{ip}:8620\"]\nkey_file = \"key\"\n\
         [probe]\ninterval = \"100ms\"\ntimeout = \"500ms\"\n\
         [[target]]\nname = \"self\"\naddress = \"{ip}:8620\"\n\
         [[target]]\nname = \"other\"\naddress = \"{other}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    Relay::start(ip, &["--config", file.to_str().unwrap()])
}

/// Nobody is seen down for as long as this runs.
fn watch(relay: &Relay, is_over: impl Fn() -> bool) {
    while !is_over() {
        let scrape = relay.get("/metrics");
        for target in ["self", "other"] {
            let up = sample(&scrape, &format!("relay_probe_up{{target=\"{target}\"}}"));
            assert_ne!(up, Some(0.0), "{target} was shown down");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Of each flooder: one address, and many, some of them at a reflector's port.
fn sources() -> [Vec<Source>; 2] {
    let IpAddr::V4(ip) = loopback() else { panic!("loopback() is IPv4") };
    let [a, b, _, d] = ip.octets();
    let address = |i| IpAddr::from([a, b.wrapping_add(64), i, d]);
    let many = (0..SOURCES).map(|i| Source::new(address(i), 0));
    let reflectors = (0..REFLECTORS).map(|i| Source::new(address(i), 8620));
    [vec![Source::new(loopback(), 0)], many.chain(reflectors).collect()]
}

/// From a core that no shard under attack is on.
fn flood_all(reflector: SocketAddr, sources: &mut [Vec<Source>; 2]) -> Flood {
    let key = |text: &str| HmacKey::from_file_octets(text.as_bytes()).unwrap();
    let keys = KeyPair { right: key(RIGHT_KEY), wrong: key(WRONG_KEY) };
    let keys = &keys;
    std::thread::scope(|scope| {
        let flooders = sources.each_mut().map(|sources| {
            scope.spawn(move || {
                pin(0);
                flood(sources, reflector, keys, FLOOD)
            })
        });
        let mut all = Flood::default();
        flooders
            .into_iter()
            .for_each(|flooder| all.add(&flooder.join().unwrap_or_else(|panic| resume_unwind(panic))));
        all
    })
}

fn flooded(runtime: &str) {
    let (ip, other_ip, directory) = (loopback(), loopback(), tempfile::tempdir().unwrap());
    let (reflector, other_at) = (SocketAddr::new(ip, 8620), SocketAddr::new(other_ip, 8620));
    let _other = Relay::start(other_ip, &["--cores", "0", "--reflect", &other_at.to_string()]);
    let relay = start(runtime, ip, other_at, directory.path());
    relay.wait_state("self", "up");
    relay.wait_state("other", "up");

    let mut sources = sources();
    let flood = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood_all(reflector, &mut sources));
        watch(&relay, || flooding.is_finished());
        flooding.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    let addresses: Vec<SocketAddr> = sources.iter().flatten().map(Source::address).collect();
    for target in ["self", "other"] {
        let received = relay.sample(&of_target("received", target)).unwrap();
        relay.wait_sample(&of_target("received", target), received + 10.0);
    }
    let scrape = relay.get("/metrics");
    for target in ["self", "other"] {
        let [sent, received, lost, late, discarded] = ["sent", "received", "lost", "late", "discarded"]
            .map(|name| sample(&scrape, &of_target(name, target)).unwrap());
        println!(
            "{runtime}: {target}: {sent} sent, {received} received, {discarded} discarded, {late} late, {lost} lost"
        );
        assert_eq!(lost, 0.0, "{target}: none of that is loss");
    }
    account(runtime, &relay, reflector, &flood, &addresses);
}

/// Every datagram sent is somewhere: reflected, refused, or dropped by the kernel, which told.
fn account(runtime: &str, relay: &Relay, reflector: SocketAddr, flood: &Flood, sources: &[SocketAddr]) {
    let dropped = kernel_drops(&[reflector]) as f64;
    let results = wait_for("the account of the flood to balance", || {
        let scrape = relay.get("/metrics");
        let results = RESULTS.map(|name| sample(&scrape, &result(name)).unwrap());
        let own = sample(&scrape, &of_target("sent", "self"))?;
        let overflow = sample(&scrape, "relay_shard_receive_overflow_total{shard=\"0\"}")?;
        (results.iter().sum::<f64>() + overflow == flood.sent as f64 + own && overflow == dropped)
            .then_some(results)
    });
    println!(
        "{runtime}: {} sent in {FLOOD:?}, {} octets; {} answers, {} octets; {dropped} dropped by the kernel",
        flood.sent, flood.octets_sent, flood.answers, flood.octets_received
    );
    let mut reflected = 0.0;
    for (name, count) in RESULTS.iter().zip(results) {
        println!("{runtime}: {name} {count} of {:?}", flood.by_result.get(name));
        match *name {
            "reflected" | "reflected_stateless" => reflected += count,
            "unauthenticated" | "no_key" | "stale" | "table_full" | "rate_limited" | "send_error" => {
                assert_eq!(count, 0.0, "{name}")
            }
            _ => {
                let sent = flood.by_result[name] as f64;
                assert!(count > 0.0 && count <= sent, "{name}: {count} of {sent}");
            }
        }
    }
    // What was reflected came back, but for what the kernel dropped at the flooders, and our own probes.
    let answers = (flood.answers + kernel_drops(sources)) as f64;
    let own = relay.sample(&of_target("sent", "self")).unwrap();
    assert!(flood.answers > 0 && answers <= reflected && reflected <= answers + own, "{answers} {reflected}");
    assert!(flood.octets_received <= flood.octets_sent);
}

pub(crate) fn flooded_on_glommio() {
    flooded("glommio");
}

pub(crate) fn flooded_on_poll() {
    flooded("poll");
}
