//! A relayscope process, its peers' processes, and patience.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take that has no time of its own to keep.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// An address of the loopback network that no other test uses at this time: the process and a count.
pub(crate) fn loopback() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(count < 255, "a test process uses at most 254 addresses");
    IpAddr::from([127, 64 | high >> 2, low, count])
}

/// Waits until `probe` gives something, and fails with what was waited for.
pub(crate) fn wait_for<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// A process that is killed when the test ends, however that is.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`; its stdout is read line by line, its stdin stays open.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line on stdout that `select` takes.
    pub(crate) fn line<T>(&self, what: &str, mut select: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {what}"));
            if let Some(found) = select(&line) {
                return found;
            }
        }
    }

    /// Writes a line to its stdin.
    pub(crate) fn write_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// All that is still to come on stdout, once the process has ended.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Starts a data plane on its own that reflects on `ip`:8620, probes itself and writes `segment`.
pub(crate) fn start_data_plane(ip: IpAddr, segment: &Path) -> Process {
    let reflect = SocketAddr::new(ip, 8620).to_string();
    let mut command = relayscope();
    command.arg("dataplane").arg("--segment").arg(segment);
    Process::start(command.args(["--reflect", &reflect, "--probe", &format!("self={reflect}")]))
}

/// A running relayscope.
pub(crate) struct Relay {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
}

pub(crate) fn relayscope() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relayscope"));
    command.env_remove("RUST_LOG");
    with_own_state(&mut command);
    command
}

/// Lets what `command` starts keep its state in a place of its own, and not in that of whoever runs the tests. It is
/// removed at the end by [`forget_state`].
pub(crate) fn with_own_state(command: &mut Command) -> &mut Command {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let home = state_homes().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    command.env_remove("STATE_DIRECTORY").env("XDG_STATE_HOME", home)
}

fn state_homes() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}", std::process::id()))
}

/// Nobody runs any more that this started.
pub(crate) fn forget_state() {
    // It may not be there.
    std::fs::remove_dir_all(state_homes()).ok();
}

impl Relay {
    /// Starts a relay that serves HTTP on `ip`:9862, and waits until it is ready.
    pub(crate) fn start(ip: IpAddr, arguments: &[&str]) -> Self {
        let http = SocketAddr::new(ip, 9862);
        let mut command = relayscope();
        command.arg("run").arg("--listen").arg(http.to_string()).args(arguments);
        let relay = Self { process: Process::start(&mut command), http };
        relay.wait_ready();
        relay
    }

    /// Starts a control plane on its own that reads `segment`, whether that is there or not.
    pub(crate) fn start_control_plane(ip: IpAddr, segment: &Path) -> Self {
        Self::start_control_plane_with(ip, segment, &[])
    }

    /// As [`start_control_plane`](Self::start_control_plane), with more arguments.
    pub(crate) fn start_control_plane_with(ip: IpAddr, segment: &Path, arguments: &[&str]) -> Self {
        let http = SocketAddr::new(ip, 9862);
        let mut command = relayscope();
        command.arg("controlplane").arg("--listen").arg(http.to_string()).arg("--segment").arg(segment);
        command.args(arguments);
        let relay = Self { process: Process::start(&mut command), http };
        wait_for("the control plane to serve", || relay.try_get("/").ok());
        relay
    }

    pub(crate) fn wait_ready(&self) {
        wait_for("the relay to be ready", || {
            let ready = get(&format!("http://{}/readyz", self.http));
            ready.is_ok().then_some(())
        });
    }

    /// The answer whatever its status, as JSON.
    pub(crate) fn status(&self, path: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://{}{path}", self.http)).call().unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&body).unwrap())
    }

    pub(crate) fn try_get(&self, path: &str) -> Result<String, String> {
        get(&format!("http://{}{path}", self.http))
    }

    pub(crate) fn get(&self, path: &str) -> String {
        get(&format!("http://{}{path}", self.http)).unwrap()
    }

    /// The mesh row of a target.
    pub(crate) fn row(&self, target: &str) -> Value {
        self.find_row(target).unwrap_or_else(|| panic!("no target {target} in the mesh"))
    }

    fn find_row(&self, target: &str) -> Option<Value> {
        let mesh: Value = serde_json::from_str(&self.get("/mesh?format=json")).unwrap();
        mesh["rows"].as_array().unwrap().iter().find(|row| row["name"] == target).cloned()
    }

    pub(crate) fn wait_state(&self, target: &str, state: &str) {
        wait_for(format_args!("{target} to be {state} at {}", self.http), || {
            (self.find_row(target)?["state"] == state).then_some(())
        });
    }

    /// The value of a sample line of the scrape; `None` when the series is absent.
    pub(crate) fn sample(&self, series: &str) -> Option<f64> {
        sample(&self.get("/metrics"), series)
    }

    /// Waits until a sample is at least `least`; gives it.
    pub(crate) fn wait_sample(&self, series: &str, least: f64) -> f64 {
        wait_for(format_args!("{series} >= {least}"), || self.sample(series).filter(|value| *value >= least))
    }
}

pub(crate) fn sample(scrape: &str, series: &str) -> Option<f64> {
    let rest = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(rest.parse().unwrap_or_else(|_| panic!("{series} has no number: {rest}")))
}

/// The body of a GET, or what went wrong, an error status included.
pub(crate) fn get(url: &str) -> Result<String, String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    response.body_mut().read_to_string().map_err(|error| error.to_string())
}

/// Runs a command to its end: its status, stdout and stderr.
pub(crate) fn run(command: &mut Command) -> (ExitStatus, String, String) {
    let mut process = Process::start(command.stderr(Stdio::piped()));
    let mut stderr = String::new();
    process.stderr().unwrap().read_to_string(&mut stderr).unwrap();
    let status = process.wait();
    (status, process.rest().join("\n"), stderr)
}
