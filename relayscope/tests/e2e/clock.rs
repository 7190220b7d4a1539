//! A wall clock that steps by an hour while probes are in flight.
//!
//! Nobody may step the clock of the host a test runs on, and a time namespace has no wall clock of its
//! own. So one relay is given another: by `step.c`, which shifts what its process reads of the clock and
//! its kernel receive stamps alike, as a real step does; and by libfaketime, which shifts the clock
//! alone, so that the stamps contradict it for as long as it is off.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, relayscope, sample, wait_for};

const HOUR_S: i64 = 3600;
/// Ten probes a second, and as many settled within one.
const FILE: &str = "[probe]\ninterval = \"100ms\"\ntimeout = \"500ms\"\n";

/// A relay with a wall clock of its own that probes itself and a peer, and that peer, which probes it.
struct Pair {
    stepping: Relay,
    peer: Relay,
}

impl Pair {
    fn start(directory: &Path, runtime: &str, clock: impl FnOnce(&mut Command)) -> Self {
        let (ip, peer_ip) = (loopback(), loopback());
        let (reflect, peer_at) = (format!("{ip}:8620"), format!("{peer_ip}:8620"));
        let file = directory.join("relayscope.toml");
        fs::write(&file, format!("runtime = \"{runtime}\"\n{FILE}")).unwrap();
        let file = file.to_str().unwrap();
        let to_stepping = format!("stepping={reflect}");
        let peer = ["--config", file, "--reflect", &peer_at, "--probe", &to_stepping];
        let peer = Relay::start(peer_ip, &peer);
        let http = SocketAddr::new(ip, 9862);
        let mut command = relayscope();
        command.args(["run", "--config", file, "--listen", &http.to_string(), "--reflect", &reflect]);
        command.args(["--probe", &format!("self={reflect}"), "--probe", &format!("peer={peer_at}")]);
        clock(&mut command);
        let stepping = Relay { process: Process::start(&mut command), http };
        stepping.wait_ready();
        Self { stepping, peer }
    }

    /// All three ways of probing.
    fn probes(&self) -> [(&Relay, &'static str); 3] {
        [(&self.stepping, "self"), (&self.stepping, "peer"), (&self.peer, "stepping")]
    }

    /// Waits until each has been measured this often again.
    fn wait_measured(&self, more: f64) {
        let before = self.probes().map(|(relay, target)| total(relay, "received", target));
        for ((relay, target), before) in self.probes().into_iter().zip(before) {
            relay.wait_sample(
                &format!("relay_probe_received_total{{target=\"{target}\",family=\"ipv4\"}}"),
                before + more,
            );
        }
    }

    /// Nothing was lost or is down, and no RTT has anything of an hour, or even of an eighth of a second.
    fn check_undisturbed(&self, when: &str) {
        for (relay, target) in self.probes() {
            assert_eq!(total(relay, "lost", target), 0.0, "{target} {when}");
            assert_eq!(relay.row(target)["state"], "up", "{target} {when}");
            let scrape = relay.get("/metrics");
            let [sum, of_125_ms, count] = ["sum", "bucket", "count"].map(|what| {
                let bound = if what == "bucket" { ",le=\"0.125\"" } else { "" };
                let labels = format!("target=\"{target}\",family=\"ipv4\"{bound}");
                let series = format!("relay_probe_rtt_seconds_{what}{{{labels}}}");
                sample(&scrape, &series).unwrap_or_else(|| panic!("no {series}"))
            });
            assert!(count > 0.0 && sum > 0.0 && sum / count < 0.05, "{target} {when}: {sum} s / {count}");
            assert_eq!(of_125_ms, count, "{target} {when}");
        }
    }

    /// How far the stepping relay's clock is off, by what it says of its newest reply.
    fn off_s(&self) -> i64 {
        let seen = self
            .stepping
            .sample("relay_probe_last_reply_timestamp_seconds{target=\"self\",family=\"ipv4\"}")
            .unwrap();
        seen.round() as i64 - (unix_ns() / 1_000_000_000)
    }
}

fn total(relay: &Relay, what: &str, target: &str) -> f64 {
    relay.sample(&format!("relay_probe_{what}_total{{target=\"{target}\",family=\"ipv4\"}}")).unwrap()
}

fn unix_ns() -> i64 {
    i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

/// Compiles `step.c` to be loaded before the C library.
fn compile_step(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/step.c");
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"];
    let status = Command::new(Peer::Cc.program()).args(flags).arg(to).arg(source).arg("-ldl").status();
    assert!(status.unwrap().success());
}

pub(crate) fn steps_by_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("step.so");
    compile_step(&library);
    for runtime in ["glommio", "poll"] {
        let path = directory.path().join(runtime);
        let steps = File::create(&path).unwrap();
        steps.set_len(128).unwrap();
        let pair = Pair::start(directory.path(), runtime, |command| {
            command.env("LD_PRELOAD", &library).env("STEP_FILE", &path);
        });
        pair.wait_measured(10.0);
        pair.check_undisturbed("before any step");
        // Ahead and back, and behind and back: each at a moment of its own in the probes' flight.
        let offs = [HOUR_S, 0, -HOUR_S, 0];
        let adds = [HOUR_S, -HOUR_S, -HOUR_S, HOUR_S];
        for (i, (off, add)) in (0u64..).zip(offs.into_iter().zip(adds)) {
            let from = unix_ns() + Duration::from_millis(100).as_nanos() as i64;
            let step = [from.to_ne_bytes(), (add * 1_000_000_000).to_ne_bytes()].concat();
            steps.write_all_at(&step, 16 * i).unwrap();
            let what = format!("on {runtime}, after a step to {off} s");
            wait_for(&what, || ((pair.off_s() - off).abs() <= 2).then_some(()));
            pair.wait_measured(10.0);
            pair.check_undisturbed(&what);
        }
        for (relay, target) in pair.probes() {
            let discarded = total(relay, "discarded", target);
            // What a step falls on: with one probe in flight at a time, one of each target, or none; a
            // stall of a busy machine may add some.
            assert!(discarded <= 12.0, "{runtime}: {target}: {discarded} discarded by four steps");
        }
    }
}

pub(crate) fn contradicts_the_stamps() {
    let directory = tempfile::tempdir().unwrap();
    let offset = directory.path().join("offset");
    fs::write(&offset, "+0").unwrap();
    let pair = Pair::start(directory.path(), "auto", |command| {
        command.env("LD_PRELOAD", Peer::Faketime.program()).env("FAKETIME_TIMESTAMP_FILE", &offset);
        command.envs(
            ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"]
                .map(|key| (key, "1")),
        );
    });
    pair.wait_measured(10.0);
    let discarded = || ["self", "peer"].map(|target| total(&pair.stepping, "discarded", target));
    let before = discarded();

    // Replaced whole: it is read at any time.
    let ahead = directory.path().join("ahead");
    fs::write(&ahead, format!("+{HOUR_S}")).unwrap();
    fs::rename(&ahead, &offset).unwrap();
    wait_for("stamps an hour behind the clock to be discarded", || {
        discarded().iter().zip(before).all(|(now, before)| *now >= before + 10.0).then_some(())
    });
    pair.check_undisturbed("an hour ahead of the stamps");

    fs::write(&ahead, "+0").unwrap();
    fs::rename(&ahead, &offset).unwrap();
    pair.wait_measured(10.0);
    pair.check_undisturbed("after the step back");
}
