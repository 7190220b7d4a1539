//! A demo: three relays that see each other, and links that are cut and mended from outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::relay::{Process, get, loopback, relayscope, run, wait_for};

pub(crate) struct Demo {
    pub(crate) process: Process,
    temporary: TempDir,
    pub(crate) relays: BTreeMap<String, SocketAddr>,
}

impl Demo {
    pub(crate) fn start(ip: IpAddr) -> Self {
        let (mut command, temporary) = (relayscope(), tempfile::tempdir().unwrap());
        command.args(["demo", "--listen", &SocketAddr::new(ip, 0).to_string()]);
        let process = Process::start(command.env("TMPDIR", temporary.path()));
        let mut relays = BTreeMap::new();
        while relays.len() < 3 {
            let (name, at) = process.line("a relay and its URL", |line| {
                let (name, url) = line.strip_prefix("relay ")?.split_once("  ")?;
                let at = url.strip_prefix("http://")?.strip_suffix('/')?;
                Some((name.to_owned(), at.parse().unwrap()))
            });
            relays.insert(name, at);
        }
        Self { process, temporary, relays }
    }

    fn json(&self, relay: &str, path: &str) -> Value {
        serde_json::from_str(&get(&format!("http://{}{path}", self.relays[relay])).unwrap()).unwrap()
    }

    fn row(&self, relay: &str, target: &str) -> Value {
        let mesh = self.json(relay, "/mesh?format=json");
        mesh["rows"].as_array().unwrap().iter().find(|row| row["name"] == target).unwrap().clone()
    }

    fn wait_state(&self, relay: &str, target: &str, state: &str) {
        wait_for(format_args!("{target} to be {state} at {relay}"), || {
            (self.row(relay, target)["state"] == state).then_some(())
        });
    }

    /// Whether `relay` was told that `target` is down, by an alert in this state.
    fn wait_alert(&self, relay: &str, target: &str, state: &str) {
        wait_for(format_args!("{target} down to be {state} at {relay}"), || {
            let alerts = self.json(relay, &format!("/api/v1/alerts?state={state}"));
            let of_target = |alert: &&Value| {
                alert["labels"]["target"] == target
                    && alert["labels"]["alertname"] == "RelayPeerDown"
                    && alert["labels"]["instance"] == relay
            };
            alerts["alerts"].as_array().unwrap().iter().find(of_target).map(drop)
        });
    }

    fn say(&mut self, line: &str) {
        self.process.write_line(line);
    }

    fn wait_link(&self, said: &str) {
        self.process.line(said, |line| line.starts_with(said).then_some(()));
    }
}

pub(crate) fn three_relays() {
    let mut demo = Demo::start(loopback());
    for (relay, others) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        others.iter().for_each(|target| demo.wait_state(relay, target, "up"));
    }
    wait_for("the matrix to be full", || {
        let relays = demo.json("a", "/api/v1/relays");
        let up = |relay: &Value| Some((relay["name"].as_str()?.to_owned(), relay["up"].as_u64()?));
        let up: Option<Vec<_>> = relays["relays"].as_array().unwrap().iter().map(up).collect();
        let full = ["a", "b", "c"].map(|name| (name.to_owned(), 2));
        (up? == full).then_some(())
    });
    // Never faster there and back than the best of weathers.
    let rtt = wait_for("c to be measured at b", || demo.row("b", "c")["rtt_ms"].as_f64());
    assert!(rtt >= 11.0, "{rtt}");

    demo.say("cut c b");
    demo.wait_link("link b-c  cut");
    demo.wait_state("b", "c", "down");
    demo.wait_state("c", "b", "down");
    demo.wait_alert("b", "c", "firing");
    for (relay, target) in [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")] {
        assert_eq!(demo.row(relay, target)["state"], "up", "{target} at {relay}");
    }
    demo.say("mend b c");
    demo.wait_link("link b-c  6 ms");
    demo.wait_state("b", "c", "up");
    demo.wait_state("c", "b", "up");
    demo.wait_alert("b", "c", "resolved");

    let left = |of: &Demo| std::fs::read_dir(of.temporary.path()).unwrap().count();
    assert_eq!(left(&demo), 1, "its history");
    demo.process.signal(Signal::SIGTERM);
    assert!(demo.process.wait().success());
    assert_eq!(left(&demo), 0, "nothing is left behind");
}

pub(crate) fn ends_as_it_is_told() {
    let ip = loopback();
    let mut demo = Demo::start(ip);
    demo.say("cut b");
    demo.say("links");
    demo.wait_link("link a-b  whole");
    demo.say("end");
    assert!(demo.process.wait().success());

    let taken = TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
    let first = taken.local_addr().unwrap().port() - 2;
    let listen = SocketAddr::new(ip, first).to_string();
    let (status, said, stderr) = run(relayscope().args(["demo", "--listen", &listen]).stdin(Stdio::null()));
    let expected = format!(
        "relayscope: cannot serve HTTP on {}: Address already in use (os error 98); port {} is taken, stop its owner \
         or choose another with --listen",
        taken.local_addr().unwrap(),
        first + 2
    );
    assert_eq!((status.code(), said.as_str(), stderr.trim_end()), (Some(1), "", expected.as_str()));
}
