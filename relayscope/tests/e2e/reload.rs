//! SIGHUP: targets come and go, what did not change goes on, a bad file changes nothing.

use std::net::IpAddr;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::relay::{Relay, loopback, wait_for};

const RELOADED: &str = "relay_config_last_reload_successful";

fn write(file: &Path, ip: IpAddr, targets: &[&str]) {
    let mut text = format!("[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ninterval = \"100ms\"\n");
    for target in targets {
        text += &format!("[[target]]\nname = \"{target}\"\naddress = \"{ip}:8620\"\n");
    }
    std::fs::write(file, text).unwrap();
}

pub(crate) fn targets_change() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    write(&file, ip, &["kept", "gone"]);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let before = relay.wait_sample("relay_probe_received_total{target=\"kept\",family=\"ipv4\"}", 5.0);
    relay.wait_state("gone", "up");

    write(&file, ip, &["kept", "new"]);
    relay.process.signal(Signal::SIGHUP);
    wait_for("the new target", || relay.get("/mesh").contains("new").then_some(()));
    relay.wait_state("new", "up");
    wait_for("the series of the removed target to disappear", || {
        (!relay.get("/metrics").contains("target=\"gone\"")).then_some(())
    });
    assert!(relay.sample("relay_probe_received_total{target=\"kept\",family=\"ipv4\"}").unwrap() >= before);
    assert_eq!(relay.sample(RELOADED), Some(1.0));

    // Back again, under ids that were used before.
    write(&file, ip, &["kept", "gone"]);
    relay.process.signal(Signal::SIGHUP);
    wait_for("the target's return", || relay.get("/mesh").contains("gone").then_some(()));
    relay.wait_state("gone", "up");
    let count = relay.wait_sample("relay_probe_rtt_seconds_count{target=\"gone\",family=\"ipv4\"}", 1.0);
    let kept = relay.sample("relay_probe_rtt_seconds_count{target=\"kept\",family=\"ipv4\"}").unwrap();
    assert!(count < kept, "a target that returns starts at zero: {count} against {kept}");
}

pub(crate) fn bad_file() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    write(&file, ip, &["kept"]);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    relay.wait_state("kept", "up");
    assert_eq!(relay.sample(RELOADED), Some(1.0));

    std::fs::write(&file, "[probe]\ninterval = \"never\"\n").unwrap();
    relay.process.signal(Signal::SIGHUP);
    wait_for("the refusal", || (relay.sample(RELOADED) == Some(0.0)).then_some(()));
    let received = relay.sample("relay_probe_received_total{target=\"kept\",family=\"ipv4\"}").unwrap();
    relay.wait_sample("relay_probe_received_total{target=\"kept\",family=\"ipv4\"}", received + 3.0);
    relay.wait_state("kept", "up");
}

/// Cells of removed targets are free only when their shard has let go, a tick later: of reloads in quick
/// succession some find no room. They must change nothing; a later one succeeds.
pub(crate) fn no_room() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    let write = |interval_ms: u32| {
        let mut text = format!(
            "targets_max = 20\n[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ninterval = \"{interval_ms}ms\"\n"
        );
        for target in 0..20 {
            text += &format!("[[target]]\nname = \"t{target}\"\naddress = \"{ip}:8620\"\n");
        }
        // Whole at any moment: the reload before may be reading it just now.
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write(100);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    for interval_ms in 101..111 {
        write(interval_ms);
        relay.process.signal(Signal::SIGHUP);
        // Two reloads within one drain interval may be seen half-way, for a moment.
        wait_for("all targets", || relay.get("/mesh").contains("of 20 targets up").then_some(()));
    }
    write(50);
    wait_for("a reload with room", || {
        relay.process.signal(Signal::SIGHUP);
        (relay.sample(RELOADED) == Some(1.0)).then_some(())
    });
    relay.wait_state("t0", "up");
    relay.wait_state("t19", "up");
}
