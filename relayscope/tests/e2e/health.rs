//! `/healthz`, and the gauges of the mesh, while shards hang, processes die and targets come and go.

use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hang::HungThread;
use crate::relay::{Relay, loopback, sample, start_data_plane, wait_for};

const LAST_WRITE: &str = "last_recorded_unix_seconds";
const LAST_RECEIPT: &str = "last_drained_unix_seconds";

fn start(ip: IpAddr) -> Relay {
    let reflect = format!("{ip}:8620");
    let relay = Relay::start(ip, &["--reflect", &reflect, "--probe", &format!("self={reflect}")]);
    relay.wait_state("self", "up");
    relay
}

/// What is said of the one shard, once the verdict is this.
fn shard_with(relay: &Relay, verdict: &str) -> Value {
    wait_for(format_args!("the verdict {verdict}"), || {
        let (code, mut health) = relay.status("/healthz");
        let shard = health["shards"][0].take();
        let is_ok = verdict == "ok";
        (shard["verdict"] == verdict && (code == 200) == is_ok && (health["status"] == "ok") == is_ok)
            .then_some(shard)
    })
}

fn number(shard: &Value, key: &str) -> f64 {
    shard[key].as_f64().unwrap_or_else(|| panic!("no {key} in {shard}"))
}

/// Targets up, targets, and whether all shards run, in one scrape.
fn gauges(relay: &Relay) -> [Option<f64>; 3] {
    let scrape = relay.get("/metrics");
    ["peers", "targets", "running"].map(|gauge| sample(&scrape, &format!("relay_mesh_{gauge}")))
}

fn wait_gauges(relay: &Relay, expected: [u8; 3]) {
    let expected = expected.map(|gauge| Some(f64::from(gauge)));
    wait_for(format_args!("peers, targets, running {expected:?}"), || {
        (gauges(relay) == expected).then_some(())
    });
}

pub(crate) fn clocks_tell_who_hangs() {
    let relay = start(loopback());
    let shard = shard_with(&relay, "ok");
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for (moment, age) in
        [(LAST_WRITE, "last_recorded_age_seconds"), (LAST_RECEIPT, "last_drained_age_seconds")]
    {
        // Taken at one moment, which was after the start and before now.
        let at = number(&shard, moment) + number(&shard, age);
        assert!((unix_now - 30.0..=unix_now + 0.01).contains(&at), "{moment}: {shard} at {unix_now}");
    }
    assert!(number(&shard, "last_drained_age_seconds") < 5.0);
    wait_gauges(&relay, [1, 1, 1]);

    let hung = HungThread::of(&relay.process, "shard-0");
    let silent = shard_with(&relay, "data plane silent");
    assert!(number(&silent, "last_recorded_age_seconds") > 5.0, "{silent}");
    assert!(silent["reason"].as_str().unwrap().starts_with("shard 0: data plane silent for "), "{silent}");
    let later = wait_for("a receipt after that", || {
        let later = shard_with(&relay, "data plane silent");
        (number(&later, LAST_RECEIPT) > number(&silent, LAST_RECEIPT)).then_some(later)
    });
    // Told by the wall clock as it is now: to the millisecond.
    assert!((number(&later, LAST_WRITE) - number(&silent, LAST_WRITE)).abs() < 0.002, "{silent} {later}");
    assert_eq!(relay.row("self")["state"], "stale");
    wait_gauges(&relay, [0, 1, 0]);
    drop(hung);
    shard_with(&relay, "ok");
    wait_gauges(&relay, [1, 1, 1]);

    let hung = HungThread::of(&relay.process, "relayscope-drain");
    let stuck = shard_with(&relay, "control plane stuck");
    assert!(number(&stuck, "last_drained_age_seconds") > 5.0, "{stuck}");
    assert!(number(&stuck, "last_recorded_age_seconds") < 5.0, "the shard runs: {stuck}");
    drop(hung);
    shard_with(&relay, "ok");
}

fn write(file: &Path, ip: IpAddr, targets: &[(&str, u16)]) {
    let mut text = format!(
        "[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ninterval = \"100ms\"\ntimeout = \"200ms\"\n"
    );
    for (target, port) in targets {
        text += &format!("[[target]]\nname = \"{target}\"\naddress = \"{ip}:{port}\"\n");
    }
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

pub(crate) fn gauges_follow_the_members() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    // Nobody answers at 8629.
    write(&file, ip, &[("a", 8620), ("b", 8620), ("dead", 8629)]);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    wait_gauges(&relay, [2, 3, 1]);
    for (targets, expected) in [
        (&[("a", 8620)][..], [1, 1, 1]),
        (&[("a", 8620), ("b", 8620), ("c", 8620), ("d", 8620)], [4, 4, 1]),
        // One moves to where nobody is.
        (&[("a", 8629), ("b", 8620)], [1, 2, 1]),
        (&[("dead", 8629)], [0, 1, 1]),
    ] {
        write(&file, ip, targets);
        relay.process.signal(Signal::SIGHUP);
        wait_gauges(&relay, expected);
        // The mesh says the same as soon as the one that is shared is a quarter of a second old, and it stays so.
        wait_for("the mesh to say the same", || {
            let mesh: Value = serde_json::from_str(&relay.get("/mesh?format=json")).unwrap();
            ([&mesh["up"], &mesh["targets"]] == [&Value::from(expected[0]), &Value::from(expected[1])])
                .then_some(())
        });
        assert_eq!(gauges(&relay), expected.map(|gauge| Some(f64::from(gauge))));
    }
}

pub(crate) fn gauges_survive_restarts() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (segment, ip) = (directory.path().join("segment"), loopback());
    let control = Relay::start_control_plane(ip, &segment);
    wait_gauges(&control, [0, 0, 0]);
    let mut data = start_data_plane(ip, &segment);
    wait_gauges(&control, [1, 1, 1]);
    for generation in 2..4 {
        data.kill();
        // What is configured is still known; that nobody is up is not what the relay saw, it does not run.
        wait_gauges(&control, [0, 1, 0]);
        data = start_data_plane(ip, &segment);
        wait_gauges(&control, [1, 1, 1]);
        assert_eq!(control.sample("relay_dataplane_generation"), Some(f64::from(generation)));
    }
    data.signal(Signal::SIGSTOP);
    wait_gauges(&control, [0, 1, 0]);
    data.signal(Signal::SIGCONT);
    wait_gauges(&control, [1, 1, 1]);
    data.signal(Signal::SIGTERM);
    assert!(data.wait().success());
    wait_gauges(&control, [0, 1, 0]);
    std::fs::remove_file(&segment).unwrap();
    let other = start_data_plane(ip, &segment);
    wait_gauges(&control, [1, 1, 1]);
    drop(other);
}
