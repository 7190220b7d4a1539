//! What `/api/perf/...` says of processes that run, stop and die.

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::relay::{Process, Relay, loopback, sample, start_data_plane, wait_for, with_own_state};

const RATES: [&str; 5] = [
    "read_bytes_per_second",
    "write_bytes_per_second",
    "cancelled_write_bytes_per_second",
    "read_syscalls_per_second",
    "write_syscalls_per_second",
];
/// Whom no process of the tests belongs to.
const NOBODY: u32 = 65_534;

fn io(relay: &Relay) -> Value {
    relay.status("/api/perf/io").1
}

/// What is said of one process once it has rates.
fn rates(relay: &Relay, whose: &str) -> Value {
    wait_for(format_args!("rates of {whose}"), || {
        let said = io(relay)[whose].take();
        let all = RATES.iter().all(|rate| said[rate].is_f64());
        // All or none, and where none is there is a reason.
        assert_eq!(said["reason"].is_null(), all, "{said}");
        assert!(all || RATES.iter().all(|rate| said[rate].is_null()), "{said}");
        all.then_some(said)
    })
}

pub(crate) fn io_of_one_process() {
    let ip = loopback();
    let reflect = format!("{ip}:8620");
    let relay = Relay::start(ip, &["--reflect", &reflect, "--probe", &format!("self={reflect}")]);
    let own = rates(&relay, "own");
    assert_eq!(own["pid"], relay.process.id());
    assert!(own["interval_seconds"].as_f64().unwrap() >= 1.0, "{own}");
    // It answers HTTP and reads the clockwork of /proc for it.
    assert!(own["read_syscalls_per_second"].as_f64().unwrap() > 0.0, "{own}");
    let both = io(&relay);
    assert_eq!(both["own"], both["data_plane"], "one process");
}

pub(crate) fn io_of_two_processes() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (segment, ip) = (directory.path().join("segment"), loopback());
    let control = Relay::start_control_plane(ip, &segment);
    let none = io(&control)["data_plane"].take();
    assert!(none["pid"].is_null() && none["reason"].as_str().unwrap().starts_with("cannot open"), "{none}");
    let mut data = start_data_plane(ip, &segment);
    let of_data = rates(&control, "data_plane");
    let of_own = rates(&control, "own");
    assert_eq!((&of_data["pid"], &of_own["pid"]), (&data.id().into(), &control.process.id().into()));

    data.kill();
    let dead = io(&control)["data_plane"].take();
    let expected = format!("data plane process {}: its segment is dead", data.id());
    assert_eq!(dead["reason"].as_str(), Some(expected.as_str()), "{dead}");
    assert!(RATES.iter().all(|rate| dead[rate].is_null()), "{dead}");
    let next = start_data_plane(ip, &segment);
    // A reading stands for a second, also of who was there then.
    wait_for("rates of the next one", || (rates(&control, "data_plane")["pid"] == next.id()).then_some(()));
}

pub(crate) fn io_of_another_users_process() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (segment, ip) = (directory.path().join("segment"), loopback());
    let data = start_data_plane(ip, &segment);
    // A copy that anybody may run, whoever owns the directories above the other.
    let binary = directory.path().join("relayscope");
    std::fs::copy(env!("CARGO_BIN_EXE_relayscope"), &binary).unwrap();
    for path in [directory.path(), binary.as_path()] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    wait_for("the segment", || segment.exists().then_some(()));
    let mut command = std::process::Command::new(&binary);
    command.arg("controlplane").arg("--listen").arg(format!("{ip}:9862")).arg("--segment").arg(&segment);
    with_own_state(&mut command).uid(NOBODY).gid(NOBODY).stderr(Stdio::null());
    let control = Relay { process: Process::start(&mut command), http: (ip, 9862).into() };
    wait_for("the control plane to serve", || control.try_get("/").ok());
    control.wait_state("self", "up");
    let refused = wait_for("what is said of the data plane", || {
        let said = io(&control)["data_plane"].take();
        said["pid"].is_u64().then_some(said)
    });
    let reason = refused["reason"].as_str().unwrap();
    assert!(
        reason.starts_with(&format!("cannot read /proc/{}/maps: Permission denied", data.id())),
        "{reason}"
    );
    assert!(reason.ends_with("; run as its user"), "{reason}");
    assert!(RATES.iter().all(|rate| refused[rate].is_null()), "{refused}");
    assert_eq!(rates(&control, "own")["pid"], control.process.id());
}

fn stages(relay: &Relay) -> Value {
    relay.status("/api/perf/stages").1
}

pub(crate) fn sources_add_up() {
    let ip = loopback();
    let reflect = format!("{ip}:8620");
    let mut arguments = vec!["--reflect".to_owned(), reflect.clone()];
    for target in ["a", "b", "c"] {
        arguments.extend(["--probe".to_owned(), format!("{target}={reflect}")]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let relay = Relay::start(ip, &arguments);
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap_or_else(|| panic!("no {key} in {of}"));
    wait_for("a dozen round trips", || {
        let said = relay.status("/api/perf/sources").1;
        let shard = &said["shards"][0];
        let sources = shard["sources"].as_array().unwrap();
        // At any moment, whatever the shard records meanwhile.
        assert_eq!(
            count(shard, "recorded"),
            count(shard, "drained") + count(shard, "lost") + count(shard, "unread")
        );
        assert_eq!(
            sources.iter().map(|source| count(source, "drained")).sum::<u64>(),
            count(shard, "drained")
        );
        let rtt = sources.iter().find(|source| source["source"] == "relay_probe_rtt_seconds")?;
        assert_eq!(rtt["kind"], "histogram");
        (count(rtt, "drained") >= 12).then_some(())
    });
}

pub(crate) fn lateness_of_a_relay_that_was_stopped() {
    let ip = loopback();
    let relay = Relay::start(ip, &["--reflect", &format!("{ip}:8620")]);
    let count = |stages: &Value| stages["stages"][0]["count"].as_u64().unwrap();
    let before = wait_for("some drains", || Some(stages(&relay)).filter(|stages| count(stages) >= 10));
    assert_eq!(before["drain_interval_seconds"], 0.1);
    relay.process.signal(Signal::SIGSTOP);
    // Twenty intervals and more.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    relay.process.signal(Signal::SIGCONT);
    let late = wait_for("the drain after it", || {
        let late = stages(&relay)["drain_lateness"]["max_seconds"].as_f64().unwrap();
        (late >= 2.0).then_some(late)
    });
    assert!(late < 30.0, "{late}");
    let counted = relay.get("/metrics");
    let of =
        |le: &str| sample(&counted, &format!("relay_drain_lateness_seconds_bucket{{le=\"{le}\"}}")).unwrap();
    assert!(of("+Inf") > of("1.0"), "{} of {} within a second", of("1.0"), of("+Inf"));
}

pub(crate) fn build_and_process() {
    let ip = loopback();
    let relay = Relay::start(ip, &["--reflect", &format!("{ip}:8620")]);
    let scrape = relay.get("/metrics");
    let info = scrape.lines().find(|line| line.starts_with("relay_build_info{")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(info.starts_with(&format!("relay_build_info{{version=\"{version}\"")), "{info}");
    assert!(info.contains(",rustc=\"1."), "{info}");
    for metric in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ] {
        let value = sample(&scrape, metric);
        assert!(value.is_some_and(|value| value >= 0.0), "{metric}: {value:?}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.process.id())).unwrap();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:\t")).unwrap();
    // Those that answer come and go.
    let counted = relay.sample("process_threads").unwrap();
    assert!((threads.parse::<f64>().unwrap() - counted).abs() <= 2.0, "{threads} and {counted}");
}
