//! SIGHUP: targets come and go, what did not change goes on, a bad file changes nothing.

use std::net::IpAddr;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::relay::{Relay, loopback, start_data_plane, wait_for};

const RELOADED: &str = "relay_config_last_reload_successful";

fn write(file: &Path, ip: IpAddr, targets: &[&str]) {
    write_with(file, ip, targets, "");
}

fn write_with(file: &Path, ip: IpAddr, targets: &[&str], more: &str) {
    let mut text = format!("{more}\n[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ninterval = \"100ms\"\n");
    for target in targets {
        text += &format!("[[target]]\nname = \"{target}\"\naddress = \"{ip}:8620\"\n");
    }
    // Whole at any moment: the file may be read just now.
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What the matrix shows: each relay with whether it can be asked.
fn matrix(relay: &Relay) -> Vec<(String, bool)> {
    let (_, view) = relay.status("/api/v1/relays");
    let row = |of: &serde_json::Value| {
        (of["name"].as_str().unwrap().to_owned(), of["reachable"].as_bool().unwrap())
    };
    view["relays"].as_array().unwrap().iter().map(row).collect()
}

pub(crate) fn relays_change() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    write_with(&file, ip, &["self"], "name = \"a\"");
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let other = Relay::start(loopback(), &[]);
    assert_eq!(matrix(&relay), [("a".to_owned(), true)]);
    let after = |relays: &str, expected: &[(&str, bool)]| {
        write_with(&file, ip, &["self"], &format!("name = \"a1\"\nrelay = [{relays}]"));
        relay.process.signal(Signal::SIGHUP);
        wait_for(format_args!("{expected:?} after {relays}"), || {
            matrix(&relay).iter().map(|(name, is)| (name.as_str(), *is)).eq(expected.to_owned()).then_some(())
        });
    };
    let b = format!("{{ name = \"b\", url = \"http://{}\" }}", other.http);
    after(&b, &[("a1", true), ("b", true)]);
    let gone = "{ name = \"c\", url = \"http://127.0.0.1:1\" }";
    after(gone, &[("a1", true), ("c", false)]);
    assert_eq!(relay.sample(RELOADED), Some(1.0));
    assert!(relay.wait_sample("relay_mesh_polls_total{result=\"ok\"}", 1.0) >= 1.0);
    relay.wait_sample("relay_mesh_polls_total{result=\"unanswered\"}", 1.0);
}

/// The status and the body.
fn post(relay: &Relay, method: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}/-/reload", relay.http);
    let mut response = match method {
        "POST" => agent.post(url).send_empty().unwrap(),
        _ => agent.get(url).call().unwrap(),
    };
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
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

/// A target whose new address cannot be probed is refused with the whole file: none is removed for it.
pub(crate) fn bad_target() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    write(&file, ip, &["kept", "moved"]);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let received =
        |target: &str| format!("relay_probe_received_total{{target=\"{target}\",family=\"ipv4\"}}");
    relay.wait_sample(&received("moved"), 3.0);

    // The first is no name at all, the second none that a certificate can be for.
    for host in ["a..b", "-a.test"] {
        let before = relay.sample(&received("moved")).unwrap();
        let moved =
            format!("[[target]]\nname = \"moved\"\naddress = \"quic://{host}:4433\"\ninsecure = true\n");
        write(&file, ip, &["kept"]);
        let text = std::fs::read_to_string(&file).unwrap() + &moved;
        std::fs::write(&file, text).unwrap();
        relay.process.signal(Signal::SIGHUP);
        wait_for("the refusal", || (relay.sample(RELOADED) == Some(0.0)).then_some(()));
        relay.wait_sample(&received("moved"), before + 5.0);
        relay.wait_state("kept", "up");

        write(&file, ip, &["kept", "moved"]);
        relay.process.signal(Signal::SIGHUP);
        wait_for("the reload", || (relay.sample(RELOADED) == Some(1.0)).then_some(()));
        assert!(relay.sample(&received("moved")).unwrap() >= before + 5.0, "it counts on");
    }
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

pub(crate) fn over_http() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    // So rare a look that nothing but the request can be what reloads.
    let seldom = "watch_interval = \"1h\"\n[web]\nreload = true\n";
    write_with(&file, ip, &["kept", "gone"], seldom);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let kept = "relay_probe_received_total{target=\"kept\",family=\"ipv4\"}";
    let before = relay.wait_sample(kept, 3.0);

    write_with(&file, ip, &["kept", "new"], seldom);
    assert_eq!(post(&relay, "POST"), (200, "reloaded: 2 targets\n".to_owned()));
    let mesh = relay.get("/mesh");
    assert!(mesh.contains("new") && !mesh.contains("gone"), "in force when it is answered: {mesh}");
    assert!(relay.sample(kept).unwrap() >= before);

    std::fs::write(&file, "[probe]\ninterval = \"never\"\n").unwrap();
    let (status, said) = post(&relay, "POST");
    assert_eq!(status, 400);
    assert!(said.contains("relayscope.toml: probe.interval: \"never\" is invalid"), "{said}");
    wait_for("the refusal to show", || (relay.sample(RELOADED) == Some(0.0)).then_some(()));
    let received = relay.sample(kept).unwrap();
    relay.wait_sample(kept, received + 3.0);
    assert_eq!(post(&relay, "GET").0, 405);
}

pub(crate) fn over_http_is_off() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    write(&file, ip, &["kept"]);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let (status, said) = post(&relay, "POST");
    assert_eq!(status, 403);
    assert_eq!(said, "reload over HTTP is off; set reload = true in [web], or send SIGHUP\n");
    assert_eq!(post(&relay, "GET").0, 405);
}

/// Without a signal: the file itself changes, and then a list it names.
pub(crate) fn files_change() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    let often = "watch_interval = \"100ms\"";
    write_with(&file, ip, &["kept", "gone"], often);
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let kept = "relay_probe_received_total{target=\"kept\",family=\"ipv4\"}";
    let before = relay.wait_sample(kept, 3.0);
    relay.wait_state("gone", "up");
    write_with(&file, ip, &["kept", "new"], often);
    relay.wait_state("new", "up");
    wait_for("the series of the removed target to disappear", || {
        (!relay.get("/metrics").contains("target=\"gone\"")).then_some(())
    });
    assert!(relay.sample(kept).unwrap() >= before);

    std::fs::write(&file, "[probe]\ninterval = \"never\"\n").unwrap();
    wait_for("the refusal", || (relay.sample(RELOADED) == Some(0.0)).then_some(()));
    write_with(&file, ip, &["kept"], often);
    wait_for("the file to be good again", || (relay.sample(RELOADED) == Some(1.0)).then_some(()));
    assert!(!relay.get("/metrics").contains("target=\"new\""));
}

/// A control plane of its own process: by a change of its file, over HTTP and by a signal, with its own outcome.
pub(crate) fn control_plane_alone() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let (file, segment) = (directory.path().join("relayscope.toml"), directory.path().join("segment"));
    let put = |alerting: &str| {
        let new = file.with_extension("new");
        let text = format!("watch_interval = \"100ms\"\n[web]\nreload = true\n[alerting]\n{alerting}\n");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    put("");
    let _data = start_data_plane(ip, &segment);
    let control = Relay::start_control_plane_with(ip, &segment, &["--config", file.to_str().unwrap()]);
    control.wait_state("self", "up");
    control.wait_sample(RELOADED, 1.0);
    let firing = || control.get("/api/v1/alerts?state=firing");

    put("raise_after = 1\nrtt_warning = \"1us\"");
    wait_for("the changed rules to be in force", || firing().contains("RelayPeerRttHigh").then_some(()));

    put("rtt_warning = \"never\"");
    wait_for("the refusal", || (control.sample(RELOADED) == Some(0.0)).then_some(()));
    wait_for("its alert", || firing().contains("RelayConfigReloadFailed").then_some(()));
    let (status, said) = post(&control, "POST");
    assert_eq!(status, 400);
    assert!(said.contains("relayscope.toml: alerting.rtt_warning: \"never\" is invalid"), "{said}");

    put("raise_after = 1");
    let reloaded = "reloaded the rules of alerts and the relays; all else is read at start alone\n";
    assert_eq!(post(&control, "POST"), (200, reloaded.to_owned()));
    control.wait_sample(RELOADED, 1.0);
    wait_for("both alerts to end", || (!firing().contains("alertname")).then_some(()));

    std::fs::write(&file, "watch_interval = \"1h\"\n").unwrap();
    assert_eq!(post(&control, "POST").0, 200);
    std::fs::write(&file, "[probe]\ninterval = \"never\"\n").unwrap();
    control.process.signal(Signal::SIGHUP);
    wait_for("the refusal at a signal", || (control.sample(RELOADED) == Some(0.0)).then_some(()));
}

/// What concerns a group's series alone, and what concerns its targets.
pub(crate) fn groups_change() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let file = directory.path().join("relayscope.toml");
    let write = |window: u32, buckets: &str| {
        write_with(
            &file,
            ip,
            &[],
            &format!(
                "[[group]]\nname = \"g\"\ninterval = \"100ms\"\nwindow = {window}\nbuckets = {buckets}\n\
                 targets = [\"a={ip}:8620\"]\n"
            ),
        );
    };
    let group = |window: u32, buckets: &str| {
        format!(
            "relay_group_info{{group=\"g\",protocol=\"stamp\",interval=\"100ms\",timeout=\"1s\",\
             window=\"{window}\",buckets=\"{buckets}\",dscp=\"0\"}}"
        )
    };
    write(10, "[0.001, 0.5]");
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let received = "relay_probe_received_total{target=\"a\",family=\"ipv4\"}";
    relay.wait_sample(received, 10.0);
    assert_eq!(relay.sample(&group(10, "0.001,0.5")), Some(1.0));
    let buckets = || {
        let scrape = relay.get("/metrics");
        let of_a = "relay_probe_rtt_seconds_bucket{target=\"a\",family=\"ipv4\",le=\"";
        let ends = scrape.lines().filter_map(|line| line.strip_prefix(of_a)?.split('"').next());
        ends.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(buckets(), ["0.001", "0.5", "+Inf"]);
    let at = format!("address=\"{ip}:8620\",family=\"ipv4\",protocol=\"stamp\",group=\"g\"");
    assert_eq!(relay.sample(&format!("relay_target_info{{target=\"a\",{at}}}")), Some(1.0));

    write(10, "[0.25]");
    relay.process.signal(Signal::SIGHUP);
    wait_for("the other buckets", || relay.sample(&group(10, "0.25")));
    assert_eq!(buckets(), ["0.25", "+Inf"]);
    assert_eq!(relay.sample(&group(10, "0.001,0.5")), None);
    assert!(relay.sample(received).unwrap() >= 10.0, "what is counted goes on");

    write(20, "[0.25]");
    relay.process.signal(Signal::SIGHUP);
    wait_for("the other window", || relay.sample(&group(20, "0.25")));
    assert!(relay.sample(received).is_none_or(|count| count < 10.0), "other settings begin anew");
}
