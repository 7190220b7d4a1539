//! What the service manager is told, by whoever listens at `NOTIFY_SOCKET`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::hang::HungThread;
use crate::relay::{Process, Relay, loopback, relayscope, start_data_plane};

/// How long anything may take that has no time of its own to keep.
const PATIENCE: Duration = Duration::from_secs(30);
/// `WatchdogSec=` of the tests: a pulse is due every half of it.
const WATCHDOG: Duration = Duration::from_millis(500);
/// Longer than a clock may stand still, and than it takes to see that it does.
const STALE: Duration = Duration::from_secs(7);

/// Plays the service manager.
struct Manager {
    directory: TempDir,
    socket: UnixDatagram,
    /// Told, and not looked at yet.
    lines: RefCell<VecDeque<String>>,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { directory, socket, lines: RefCell::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    fn start(&self, verb: &str, arguments: &[&str]) -> Process {
        let mut command = relayscope();
        self.watch(&mut command);
        Process::start(command.arg(verb).args(arguments))
    }

    fn watch(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", self.path()).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command.env_remove("WATCHDOG_PID");
    }

    /// The next line; None when none comes within `patience`.
    fn next(&self, patience: Duration) -> Option<String> {
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            self.socket.set_read_timeout(Some(patience)).unwrap();
            let mut octets = [0; 4096];
            let length = self.socket.recv(&mut octets).ok()?;
            let message = String::from_utf8(octets[..length].to_vec()).unwrap();
            lines.extend(message.lines().map(str::to_owned));
        }
        lines.pop_front()
    }

    /// The next line that starts so; those before it are passed over.
    fn line(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        while let Some(line) = left(deadline).and_then(|left| self.next(left)) {
            if line.starts_with(start) {
                return line;
            }
            passed.push(line);
        }
        panic!("nothing like {start} in {passed:?}");
    }

    /// Pulses told within `period`, and whatever else was.
    fn pulses(&self, period: Duration) -> (usize, Vec<String>) {
        let (end, mut lines) = (Instant::now() + period, Vec::new());
        while let Some(line) = left(end).and_then(|left| self.next(left)) {
            lines.push(line);
        }
        let (pulses, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line == "WATCHDOG=1");
        (pulses.len(), others)
    }

    /// Pulses come, hang `thread` and they cease, let it go and they come again. `named` is what the status says of it.
    fn expect_silence_while_hung(&self, process: &Process, thread: &str, named: &str) {
        self.line("WATCHDOG=1");
        let hung = HungThread::of(process, thread);
        let (_, others) = self.pulses(STALE);
        assert!(others.iter().any(|line| line.starts_with(&format!("STATUS={named}"))), "{others:?}");
        // By now the clock stands still for too long: not one more.
        assert_eq!(self.pulses(4 * WATCHDOG).0, 0);
        drop(hung);
        self.line("WATCHDOG=1");
        let (pulses, _) = self.pulses(8 * WATCHDOG);
        assert!(pulses >= 8, "every half of {WATCHDOG:?}, within {:?}: {pulses}", 8 * WATCHDOG);
    }
}

fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

fn relay_arguments(ip: IpAddr) -> Vec<String> {
    let reflect = format!("{ip}:8620");
    let all =
        ["--listen", &format!("{ip}:9862"), "--reflect", &reflect, "--probe", &format!("self={reflect}")];
    all.map(str::to_owned).to_vec()
}

fn start_relay(manager: &Manager, ip: IpAddr, more: &[&str]) -> Relay {
    let arguments = relay_arguments(ip);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Relay { process: manager.start("run", &arguments), http: (ip, 9862).into() }
}

fn monotonic_usec() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros()
}

fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

pub(crate) fn start_reload_stop() {
    let (manager, ip) = (Manager::new(), loopback());
    let file = manager.directory.path().join("relayscope.toml");
    // It is looked at once an hour: what is reloaded here is by the signal.
    let good = "watch_interval = \"1h\"\n";
    write(&file, good);
    let mut relay = start_relay(&manager, ip, &["--config", file.to_str().unwrap()]);
    manager.line("READY=1");
    assert!(relay.try_get("/readyz").is_ok(), "READY=1 is said of a relay that is drained");
    manager.line("STATUS=1 of 1 targets up");

    let before = monotonic_usec();
    relay.process.signal(Signal::SIGHUP);
    let told: u128 = manager.line("MONOTONIC_USEC=").split_once('=').unwrap().1.parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&told), "{told}");
    assert_eq!(manager.line("READY=1"), "READY=1");
    manager.line("STATUS=1 of 1 targets up");

    write(&file, "no_such_key = 1\n");
    relay.process.signal(Signal::SIGHUP);
    manager.line("RELOADING=1");
    manager.line("READY=1");
    let status = manager.line("STATUS=1 of 1 targets up");
    assert!(status.contains("; not reloaded: ") && status.contains("no_such_key"), "{status}");
    write(&file, good);
    relay.process.signal(Signal::SIGHUP);
    manager.line("READY=1");
    assert_eq!(manager.line("STATUS=1"), "STATUS=1 of 1 targets up");

    relay.process.signal(Signal::SIGTERM);
    manager.line("STOPPING=1");
    assert!(relay.process.wait().success());
}

pub(crate) fn shard_hangs() {
    let manager = Manager::new();
    let relay = start_relay(&manager, loopback(), &[]);
    manager.expect_silence_while_hung(&relay.process, "shard-0", "shard 0: data plane silent");
}

pub(crate) fn drain_hangs() {
    let manager = Manager::new();
    let relay = start_relay(&manager, loopback(), &[]);
    manager.expect_silence_while_hung(&relay.process, "relayscope-drain", "shard 0: control plane stuck");
}

pub(crate) fn data_plane_alone() {
    let (manager, ip) = (Manager::new(), loopback());
    let segment = manager.directory.path().join("segment");
    let reflect = format!("{ip}:8620");
    let mut data =
        manager.start("dataplane", &["--segment", segment.to_str().unwrap(), "--reflect", &reflect]);
    manager.line("READY=1");
    manager.expect_silence_while_hung(&data, "shard-0", "shard 0: silent for more than");
    data.signal(Signal::SIGTERM);
    manager.line("STOPPING=1");
    assert!(data.wait().success());
}

pub(crate) fn control_plane_alone() {
    let (manager, ip) = (Manager::new(), loopback());
    let segment = manager.directory.path().join("segment");
    let control = start_control_plane(&manager, ip, &segment);
    manager.line("READY=1");
    manager.line("STATUS=no data plane: ");
    assert!(manager.pulses(4 * WATCHDOG).0 >= 4);

    let mut data = start_data_plane(ip, &segment);
    manager.line("STATUS=1 of 1 targets up");
    data.signal(Signal::SIGSTOP);
    manager.line("STATUS=shard 0: data plane silent");
    assert!(manager.pulses(4 * WATCHDOG).0 >= 4, "a data plane that hangs is not this one's to mend");
    data.signal(Signal::SIGCONT);
    manager.line("STATUS=1 of 1 targets up");
    data.kill();
    manager.line("STATUS=shard 0: data plane ended");
    assert!(manager.pulses(4 * WATCHDOG).0 >= 4, "nor is one that died");

    control.process.signal(Signal::SIGHUP);
    manager.line("RELOADING=1");
    manager.line("READY=1");
}

pub(crate) fn control_planes_drain_hangs() {
    let (manager, ip) = (Manager::new(), loopback());
    let segment = manager.directory.path().join("segment");
    let control = start_control_plane(&manager, ip, &segment);
    manager.line("READY=1");
    manager.expect_silence_while_hung(&control.process, "relayscope-drain", "stuck: no drain");
}

fn start_control_plane(manager: &Manager, ip: IpAddr, segment: &Path) -> Relay {
    let listen = format!("{ip}:9862");
    let arguments = ["--segment", segment.to_str().unwrap(), "--listen", &listen];
    Relay { process: manager.start("controlplane", &arguments), http: (ip, 9862).into() }
}
