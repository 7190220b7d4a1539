//! The two programs. It panics where they cannot be run, as tests do.
#![expect(clippy::unwrap_used, reason = "for tests alone")]

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::park_timeout;
use std::time::Duration;

use example_harness::{value, wait_for};
use tempfile::NamedTempFile;

const KEY: &[u8] = b"thirty-two octets of a test's key";

/// A relay that runs. Dropped, it is killed.
pub(super) struct Relay {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    key: NamedTempFile,
    pub(super) udp: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Relay {
    /// Runs `example-relay` at an address of the test's own.
    pub(super) fn start(ip: &str, more: &[&str]) -> Self {
        let key = NamedTempFile::new().unwrap();
        std::fs::write(key.path(), KEY).unwrap();
        let anywhere = format!("{ip}:0");
        let mut process = Command::new(env!("CARGO_BIN_EXE_example-relay"))
            .args(["--listen", &anywhere, "--http", &anywhere, "--reflect", &anywhere, "--key-file"])
            .arg(key.path())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut relay = Self { process, says, key, udp: nowhere, http: nowhere };
        (relay.udp, relay.http) = (relay.address("udp://"), relay.address("http://"));
        wait_for(relay.http, "/readyz", "its heartbeat", |ready| ready.contains("\"ready\":true"));
        relay
    }

    fn address(&mut self, scheme: &str) -> SocketAddr {
        for line in self.says.by_ref() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once(scheme) {
                return rest.split('/').next().unwrap().parse().unwrap();
            }
        }
        panic!("it ended without a word of {scheme}");
    }

    /// Sessions that are open, of all shards; `None` before the first is.
    pub(super) fn sessions(&self) -> Option<f64> {
        sessions(&wait_for(self.http, "/metrics", "metrics", |_| true))
    }

    /// Waits until so many are.
    pub(super) fn wait_for_sessions(&self, wanted: f64) {
        wait_for(self.http, "/metrics", "its sessions", |metrics| sessions(metrics) == Some(wanted));
    }

    /// Waits until there is one.
    pub(super) fn wait_for_a_session(&self) {
        wait_for(self.http, "/metrics", "a session", |metrics| sessions(metrics) > Some(0.0));
    }

    /// What it has in memory; `None` once it has ended.
    pub(super) fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = killed {
            eprintln!("the relay may still be running: {error}");
        }
    }
}

fn sessions(metrics: &str) -> Option<f64> {
    (0..)
        .map_while(|shard| value(metrics, &format!("relay_sessions{{shard=\"{shard}\"}}")))
        .reduce(|a, b| a + b)
}

/// A load that was done.
pub(super) struct Done {
    /// Whether it said that all counts agree.
    pub(super) agreed: bool,
    /// What it told a machine, and what it complained of.
    pub(super) said: String,
    pub(super) json: serde_json::Value,
}

/// Runs `relay-load` against a relay, and does something every now and then meanwhile.
pub(super) fn load(relay: &Relay, arguments: &[&str], pause: Duration, mut meanwhile: impl FnMut()) -> Done {
    load_at(relay, relay.udp, arguments, pause, &mut meanwhile)
}

/// As [`load`], at another address than the relay's own.
pub(super) fn load_at(
    relay: &Relay,
    address: SocketAddr,
    arguments: &[&str],
    pause: Duration,
    meanwhile: &mut dyn FnMut(),
) -> Done {
    let mut process = Command::new(env!("CARGO_BIN_EXE_relay-load"))
        .args([&address.to_string(), "--json", "--metrics", &format!("http://{}/metrics", relay.http)])
        .arg("--key-file")
        .arg(relay.key.path())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What it says fits a pipe.
    while process.try_wait().unwrap().is_none() {
        meanwhile();
        park_timeout(pause);
    }
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = format!("{text}{}", String::from_utf8(output.stderr).unwrap());
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {said}"));
    Done { agreed: output.status.success(), said, json }
}

/// `relay-load`, about to be run with the relay's key.
pub(super) fn command(relay: &Relay, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-load"));
    command.arg(relay.udp.to_string()).arg("--key-file").arg(relay.key.path()).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs it. Returns how it ended, and what it complained of.
pub(super) fn complaint(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A key that is no relay's.
pub(super) fn another_key() -> NamedTempFile {
    let key = NamedTempFile::new().unwrap();
    std::fs::write(key.path(), [7; 32]).unwrap();
    key
}

/// The middle one.
pub(super) fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
