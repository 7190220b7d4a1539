//! Runs an example as its user would, and looks at what it says and serves. For tests: it panics.
//!
//! [`Example`] is the running program; [`relay`] holds what is true of each that relays packets.
#![forbid(unsafe_code)]

pub mod relay;

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// Far beyond what anything awaited here takes; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A running example. Dropped, it is killed.
pub struct Example {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    /// What was read of it so far.
    said: String,
}

impl Example {
    /// Runs `program` for so long, serving on a port of the kernel's choice.
    pub fn start(program: &str, seconds: u32) -> Self {
        Self::start_with(program, seconds, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub fn start_with(program: &str, seconds: u32, more: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(seconds.to_string()).arg("127.0.0.1:0").args(more).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let stdout = process.stdout.take().expect("its output is piped");
        Self { process, says: BufReader::new(stdout).lines(), said: String::new() }
    }

    /// The first address of that scheme it prints: `udp` or `http`.
    pub fn address(&mut self, scheme: &str) -> SocketAddr {
        let scheme = format!("{scheme}://");
        loop {
            if let Some((_, rest)) = self.said.split_once(&scheme) {
                let end = rest.find(['/', ',', '\n']).unwrap_or(rest.len());
                return rest[..end].parse().unwrap_or_else(|error| panic!("{rest}: {error}"));
            }
            let line = self.says.next().unwrap_or_else(|| panic!("it ended; it said {:?}", self.said));
            self.said += &(line.expect("what it says is text") + "\n");
        }
    }

    /// Waits for its end, which must be a good one, and returns all it said.
    pub fn finish(mut self) -> String {
        for line in self.says.by_ref() {
            self.said += &(line.expect("what it says is text") + "\n");
        }
        let status = self.process.wait().expect("it was not waited for before");
        assert!(status.success(), "{status}; it said {:?}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = killed {
            eprintln!("the example may still be running: {error}");
        }
    }
}

/// Asks for `path` until the answer is as wanted; returns it.
pub fn wait_for(http: SocketAddr, path: &str, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(http, path);
        match answer {
            Ok(text) if is_wanted(&text) => return text,
            answer => assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}: {answer:?}"),
        }
        park_timeout(PAUSE);
    }
}

fn get(http: SocketAddr, path: &str) -> Result<String, ureq::Error> {
    ureq::get(format!("http://{http}{path}")).call()?.body_mut().read_to_string()
}

/// The value of a series as scraped, named with all its labels.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(value)
}

/// The packages a manifest links, in order of name.
pub fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    assert!(!manifest.contains_key("target"), "dependencies of one target would be overlooked here");
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let mut names: Vec<_> = dependencies.into_iter().flat_map(toml::Table::keys).cloned().collect();
    names.sort();
    names
}
