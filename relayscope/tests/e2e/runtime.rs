//! Relays where io_uring may not be used, and on each backend what must not depend on it.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use tempfile::TempDir;

use crate::relay::{Process, Relay, loopback, relayscope, run, wait_for, with_own_state};

/// What keeps a relay from io_uring.
enum Obstacle {
    None,
    /// A seccomp profile that does this at these system calls, where their first argument is so.
    Seccomp(&'static [i64], (SeccompCmpOp, u64), fn() -> SeccompAction),
    /// 64 KiB of locked memory.
    Memlock,
}

const SETUP: [i64; 1] = [libc::SYS_io_uring_setup];
const USE: [i64; 2] = [libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
const IO_URING: [i64; 3] = [SETUP[0], USE[0], USE[1]];
const ANY: (SeccompCmpOp, u64) = (SeccompCmpOp::Ge, 0);
const EPERM: Obstacle = Obstacle::Seccomp(&IO_URING, ANY, || errno(libc::EPERM));
const ENOSYS: Obstacle = Obstacle::Seccomp(&IO_URING, ANY, || errno(libc::ENOSYS));
const DEADLY: Obstacle = Obstacle::Seccomp(&IO_URING, ANY, || SeccompAction::KillProcess);
/// A ring can be made, and not be used.
const USELESS: Obstacle = Obstacle::Seccomp(&USE, ANY, || errno(libc::EPERM));
/// Small rings can be made, and those that glommio needs cannot: it reports an error.
const SHALLOW: Obstacle = Obstacle::Seccomp(&SETUP, (SeccompCmpOp::Ge, 64), || errno(libc::ENOMEM));
/// Rings can be made, but none as small as that by which glommio finds out what it can use: it panics.
const DEEP: Obstacle = Obstacle::Seccomp(&SETUP, (SeccompCmpOp::Lt, 8), || errno(libc::ENOMEM));

/// Each with the reason that is exported for it, and what is said of it, remedy included.
const REFUSALS: [(Obstacle, &str, [&str; 2]); 4] = [
    (
        EPERM,
        "io_uring_eperm",
        ["io_uring is blocked: Operation not permitted", "set sysctl kernel.io_uring_disabled=0"],
    ),
    (
        ENOSYS,
        "io_uring_enosys",
        ["io_uring is blocked: Function not implemented", "a profile that allows io_uring_setup"],
    ),
    (
        USELESS,
        "io_uring_eperm",
        ["io_uring is blocked: Operation not permitted", "io_uring_enter and io_uring_register"],
    ),
    (Obstacle::Memlock, "memlock", ["RLIMIT_MEMLOCK is 65536 bytes", "ulimit -l 512"]),
];

impl Obstacle {
    /// `relayscope`, with the obstacle in its way if it is one that a shell can put there.
    fn relayscope(&self) -> Command {
        if !matches!(self, Self::Memlock) {
            return relayscope();
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -l 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_relayscope")]);
        shell.env_remove("RUST_LOG");
        with_own_state(&mut shell);
        shell
    }

    /// Does `start` where what is started inherits the obstacle. A seccomp filter is of one thread and of
    /// what that starts, so it goes with the thread.
    fn around<T: Send>(&self, start: impl FnOnce() -> T + Send) -> T {
        let Self::Seccomp(calls, when, action) = self else { return start() };
        let filter = refusal(calls, when, action());
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                apply_filter(&filter).unwrap();
                start()
            });
            filtered.join().unwrap()
        })
    }
}

fn errno(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno.cast_unsigned())
}

fn refusal(calls: &[i64], when: &(SeccompCmpOp, u64), action: SeccompAction) -> BpfProgram {
    let (operator, argument) = when;
    let first = SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator.clone(), *argument).unwrap();
    let rule = SeccompRule::new(vec![first]).unwrap();
    let rules = calls.iter().map(|call| (*call, vec![rule.clone()]));
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules.collect(), SeccompAction::Allow, action, arch).unwrap().try_into().unwrap()
}

/// A file that asks for this runtime, and for probes in quick succession.
fn file(runtime: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("relayscope.toml");
    let text = format!("runtime = \"{runtime}\"\n[probe]\ninterval = \"100ms\"\ntimeout = \"500ms\"\n");
    fs::write(&path, text).unwrap();
    (directory, path)
}

/// A relay on `ip` that probes itself, its stderr piped.
fn start(obstacle: &Obstacle, runtime: &str, ip: IpAddr) -> (TempDir, Relay) {
    let (directory, path) = file(runtime);
    let (http, reflect) = (SocketAddr::new(ip, 9862), format!("{ip}:8620"));
    let mut command = obstacle.relayscope();
    command.arg("run").arg("--config").arg(path).arg("--listen").arg(http.to_string());
    command.args(["--reflect", &reflect, "--probe", &format!("self={reflect}")]).stderr(Stdio::piped());
    let process = obstacle.around(|| Process::start(&mut command));
    let relay = Relay { process, http };
    relay.wait_ready();
    (directory, relay)
}

fn runtime_info(relay: &Relay) -> Vec<String> {
    let scrape = relay.get("/metrics");
    scrape.lines().filter(|line| line.starts_with("relay_runtime_info")).map(str::to_owned).collect()
}

fn info(backend: &str, reason: &str) -> String {
    format!("relay_runtime_info{{backend=\"{backend}\",reason=\"{reason}\"}} 1")
}

/// The relay measures itself, and loses nothing.
fn check_measures(relay: &Relay) {
    relay.wait_state("self", "up");
    relay.wait_sample("relay_probe_received_total{target=\"self\",family=\"ipv4\"}", 20.0);
    assert_eq!(relay.sample("relay_probe_lost_total{target=\"self\",family=\"ipv4\"}"), Some(0.0));
    assert_eq!(relay.sample("relay_probe_loss_pct{target=\"self\"}"), Some(0.0));
    let rtt_ms = relay.sample("relay_probe_rtt_ms{target=\"self\"}").unwrap();
    assert!(rtt_ms > 0.0 && rtt_ms < 100.0, "{rtt_ms} ms");
    assert!(relay.sample("relay_reflector_packets_total{result=\"reflected\"}").unwrap() >= 20.0);
}

/// Stops the relay, which must drain; gives what it wrote to its log.
fn drain(relay: &mut Relay) -> String {
    let asked = Instant::now();
    relay.process.signal(Signal::SIGTERM);
    assert_eq!(relay.process.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    let mut log = String::new();
    relay.process.stderr().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("SIGTERM: draining") && log.contains(" lost=0"), "{log}");
    log
}

pub(crate) fn auto_runs_on_poll() {
    for (obstacle, reason, said) in &REFUSALS {
        let (_file, mut relay) = start(obstacle, "auto", loopback());
        relay.process.line("what shards run on", |line| {
            (line == format!("shards run on poll ({reason})")).then_some(())
        });
        check_measures(&relay);
        assert_eq!(runtime_info(&relay), [info("poll", reason)]);
        let log = drain(&mut relay);
        let told: Vec<_> = log.lines().filter(|line| line.contains("shards run on poll: ")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains("WARN") && said.iter().all(|said| told[0].contains(said)), "{}", told[0]);
    }
}

pub(crate) fn auto_survives_glommio() {
    for obstacle in [SHALLOW, DEEP] {
        let (_file, mut relay) = start(&obstacle, "auto", loopback());
        check_measures(&relay);
        assert_eq!(runtime_info(&relay), [info("poll", "executor")]);
        let log = drain(&mut relay);
        let told = log.lines().find(|line| line.contains("shards run on poll: ")).unwrap();
        let said = ["shard 0 cannot start on core ", "raise RLIMIT_MEMLOCK"];
        assert!(said.iter().all(|said| told.contains(said)), "{told}");

        let (_file, path) = file("glommio");
        let ip = loopback();
        let mut command = relayscope();
        command.arg("run").arg("--config").arg(path).args(["--listen", &format!("{ip}:9862")]);
        let (status, _, stderr) = obstacle.around(|| run(&mut command));
        assert_eq!(status.code(), Some(1), "{stderr}");
        // After what the panic printed, if it was one.
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("relayscope: shard 0 cannot start on core "), "{stderr}");
    }
}

pub(crate) fn auto_runs_on_glommio() {
    let (_file, mut relay) = start(&Obstacle::None, "auto", loopback());
    check_measures(&relay);
    assert_eq!(runtime_info(&relay), [info("glommio", "available")]);
    let log = drain(&mut relay);
    assert!(!log.contains("shards run on"), "nothing to warn of: {log}");
}

pub(crate) fn glommio_is_strict() {
    for (obstacle, _, said) in &REFUSALS {
        let (_file, path) = file("glommio");
        let ip = loopback();
        let mut command = obstacle.relayscope();
        command.arg("run").arg("--config").arg(path).args(["--listen", &format!("{ip}:9862")]);
        let (status, stdout, stderr) = obstacle.around(|| run(&mut command));
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(said.iter().all(|said| stderr.contains(said)), "{stderr}");
    }
    let (_file, relay) = start(&Obstacle::None, "glommio", loopback());
    assert_eq!(runtime_info(&relay), [info("glommio", "configured")]);
}

/// Whoever calls io_uring here is killed.
pub(crate) fn poll_never_asks_for_io_uring() {
    let (_file, path) = file("auto");
    let ip = loopback();
    let mut asks = relayscope();
    asks.arg("run").arg("--config").arg(path).args(["--listen", &format!("{ip}:9862")]);
    let (status, ..) = DEADLY.around(|| run(&mut asks));
    assert_eq!(status.signal(), Some(Signal::SIGSYS as i32), "who asks is killed: {status}");

    let (_file, mut relay) = start(&DEADLY, "poll", loopback());
    check_measures(&relay);
    assert_eq!(runtime_info(&relay), [info("poll", "configured")]);
    let log = drain(&mut relay);
    assert!(!log.contains("shards run on"), "as asked for: {log}");
}

/// What drives the shards is told by the data plane, and shown by whoever reads its segment.
pub(crate) fn another_process_tells_the_runtime() {
    let ip = loopback();
    let (directory, path) = file("auto");
    let segment = directory.path().join("segment");
    let mut command = relayscope();
    command.arg("dataplane").arg("--config").arg(path).arg("--segment").arg(&segment);
    command.args(["--reflect", &format!("{ip}:8620"), "--probe", &format!("self={ip}:8620")]);
    let mut data = EPERM.around(|| Process::start(&mut command));
    let control = Relay::start_control_plane(ip, &segment);
    check_measures(&control);
    assert_eq!(runtime_info(&control), [info("poll", "io_uring_eperm")]);
    data.kill();
    wait_for("what a dead data plane said to go", || runtime_info(&control).is_empty().then_some(()));
}

/// Our own stall is not the network's, whatever drives the shards.
pub(crate) fn stopped_for_3_s() {
    const STOPPED: Duration = Duration::from_secs(3);
    for runtime in ["glommio", "poll"] {
        let (ip, peer_ip) = (loopback(), loopback());
        let peer_at = format!("{peer_ip}:8620");
        let peer = Relay::start(peer_ip, &["--reflect", &peer_at]);
        let (_file, path) = file(runtime);
        let (reflect, path) = (format!("{ip}:8620"), path.to_str().unwrap());
        let (to_self, to_peer) = (format!("self={reflect}"), format!("peer={peer_at}"));
        let relay = Relay::start(
            ip,
            &["--config", path, "--reflect", &reflect, "--probe", &to_self, "--probe", &to_peer],
        );
        let of = |family: &str, target: &str| {
            relay
                .sample(&format!("relay_probe_{family}_total{{target=\"{target}\",family=\"ipv4\"}}"))
                .unwrap()
        };
        for target in ["self", "peer"] {
            relay.wait_sample(
                &format!("relay_probe_received_total{{target=\"{target}\",family=\"ipv4\"}}"),
                10.0,
            );
        }
        let stalls = relay.sample("relay_shard_stalls_total{shard=\"0\"}").unwrap();
        let before = ["self", "peer"].map(|target| (target, of("lost", target), of("received", target)));

        relay.process.signal(Signal::SIGSTOP);
        std::thread::sleep(STOPPED);
        relay.process.signal(Signal::SIGCONT);
        let continued = Instant::now();
        // Longer than a probe of before the stop could take to be called lost.
        while continued.elapsed() < STOPPED {
            for target in ["self", "peer"] {
                assert_ne!(relay.row(target)["state"], "down", "{runtime}: {target}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for (target, lost, received) in before {
            assert_eq!(of("lost", target), lost, "{runtime}: {target}");
            assert!(of("received", target) >= received + 10.0, "{runtime}: {target}");
            assert_eq!(relay.row(target)["state"], "up", "{runtime}: {target}");
            let rtt_ms = relay.sample(&format!("relay_probe_rtt_ms{{target=\"{target}\"}}")).unwrap();
            assert!(rtt_ms < 100.0, "{runtime}: {target}: {rtt_ms} ms");
            let stop_is_no_rtt =
                format!("relay_probe_rtt_seconds_sum{{target=\"{target}\",family=\"ipv4\"}}");
            let total = relay.sample(&stop_is_no_rtt).unwrap();
            assert!(total < 1.0, "{runtime}: {target}: {total} s of RTT in all");
        }
        assert!(relay.sample("relay_shard_stalls_total{shard=\"0\"}").unwrap() > stalls, "{runtime}");
        drop(peer);
    }
}
