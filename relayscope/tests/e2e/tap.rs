//! `relayscope tap` beside a data plane of another process.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use relayscope_bridge::catalogue::{Family, Unit};
use relayscope_bridge::{Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue, ShardId, create};
use serde_json::{Value, json};

use crate::relay::{Process, loopback, relayscope, run, wait_for};
use crate::segment::{DataPlane, collect_stderr, segment};

fn tap(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = relayscope();
    command.arg("tap").arg("--segment").arg(segment(directory)).args(arguments);
    command
}

/// Recorded, delivered, lost, unread and printed, of a line on stderr.
fn account(line: &str) -> Option<[u64; 5]> {
    let rest = line.strip_prefix("relayscope: shard 0: ")?;
    let numbers: Vec<u64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

pub(crate) fn text_and_json() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let _dataplane = DataPlane::start(ip, directory);
    let (status, stdout, stderr) = run(&mut tap(directory, &["-n", "3"]));
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    for line in stdout.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [time, shard, position, series, value] = words[..] else { panic!("{line}") };
        assert!(time.len() == 30 && time.starts_with("20") && time.ends_with('Z'), "{line}");
        assert_eq!((shard, series), ("0", "relay_probe_rtt_seconds{target=\"self\",family=\"ipv4\"}"));
        position.parse::<u64>().unwrap();
        let seconds: f64 = value.parse().unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{line}");
    }

    let (status, stdout, stderr) = run(&mut tap(directory, &["--json", "-n", "5", "--since", "oldest"]));
    assert_eq!(status.code(), Some(0), "{stderr}");
    let objects: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let positions: Vec<_> = objects.iter().map(|object| object["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [0, 1, 2, 3, 4], "from the oldest on, each once");
    for object in &objects {
        assert_eq!(object["metric"], "relay_probe_rtt_seconds");
        assert_eq!(object["kind"], "histogram");
        assert_eq!(object["labels"], serde_json::json!({"target": "self", "family": "ipv4"}));
        assert_eq!(object["shard"], 0);
        assert!(object["value"].as_f64().unwrap() > 0.0);
    }
}

pub(crate) fn filters() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let (status, _, stderr) = run(&mut tap(directory, &["--shard", "7", "--duration", "300ms"]));
    assert!(status.success() && stderr.contains("waiting: cannot open segment"), "{stderr}");
    let dataplane = DataPlane::start(ip, directory);
    dataplane.wait_samples();
    let all = ["--since", "oldest", "--duration", "300ms"];
    for (filter, is_wanted) in [
        (&["--metric", "probe_rtt_seconds"][..], true),
        (&["--metric", "relay_probe_*"], true),
        (&["--metric", "relay_probe_*", "--metric-prefix", "wzp"], false),
        (&["--metric", "probe_*_total"], false),
        (&["--metric", "probe_*_total", "--metric", "*rtt*"], true),
        (&["--target", "self"], true),
        (&["--target", "nobody"], false),
        (&["--shard", "0"], true),
        (&["--shard", "0", "--shard", "1"], true),
    ] {
        let (status, stdout, stderr) = run(tap(directory, &all).args(filter));
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_eq!(!stdout.is_empty(), is_wanted, "{filter:?}: {stdout}{stderr}");
        let is_unknown = stderr.contains("--shard 1: not in this segment; expected below 1\n");
        assert_eq!(is_unknown, filter.contains(&"1"), "{stderr}");
        // Of nobody there is a series, though no sample.
        let is_vain = !is_wanted && !filter.contains(&"nobody");
        assert_eq!(stderr.matches("no series of histogram kind matches").count(), usize::from(is_vain));
    }
    let (_, _, stderr) = run(tap(directory, &all).args(["--metric", "probe_*_total", "--target", "self"]));
    let expected = "relayscope: no series of histogram kind matches --metric probe_*_total --target self; \
                    counters and gauges are in cells, see top or autopsy\n";
    assert!(stderr.contains(expected), "{stderr}");
    // Of a shard that is not there nothing will come.
    let (status, stdout, stderr) = run(&mut tap(directory, &["--shard", "7"]));
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.ends_with("relayscope: --shard 7: not in this segment; expected below 1\n"), "{stderr}");
    let (_, stdout, _) = run(tap(directory, &["-n", "1"]).args(["--metric-prefix", "wzp"]));
    assert!(stdout.contains("  wzp_probe_rtt_seconds{"), "{stdout}");
}

pub(crate) fn account_is_exact() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let _dataplane = DataPlane::start(ip, directory);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut process = Process::start(tap(directory, &[]).stderr(Stdio::piped()));
        let said = collect_stderr(&mut process);
        for _ in 0..5 {
            process.line("a sample", |_| Some(()));
        }
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0), "{signal}");
        let [recorded, delivered, lost, unread, printed] =
            wait_for("the account", || said.lock().unwrap().last().and_then(|line| account(line)));
        let lines = 5 + process.rest().len() as u64;
        assert_eq!((printed, delivered, lost), (lines, lines, 0));
        assert_eq!(recorded, delivered + lost + unread);
    }
}

pub(crate) fn stalled_reader() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let dataplane = DataPlane::start(ip, directory);
    dataplane.wait_samples();
    // Nobody reads the pipe: it is full before the tap begins.
    let (reader, writer) = std::io::pipe().unwrap();
    fill(&writer);
    let mut command = tap(directory, &["--since", "oldest"]);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut stderr = child.stderr.take().unwrap();
    let mut head = [0; 64];
    std::io::Read::read_exact(&mut stderr, &mut head).unwrap();
    assert!(head.starts_with(b"relayscope: reading "));
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let status = wait_for("the tap to end though nobody reads", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let rest = std::io::read_to_string(stderr).unwrap();
    assert!(rest.contains("stdout takes nothing: the last "), "{rest}");
    drop(reader);
}

fn fill(writer: &std::io::PipeWriter) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let set = |flags| fcntl(writer, FcntlArg::F_SETFL(flags)).unwrap();
    set(OFlag::O_NONBLOCK);
    while nix::unistd::write(writer, &[b'x'; 4096]).is_ok() {}
    set(OFlag::empty());
}

pub(crate) fn closed_pipe() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let mut dataplane = DataPlane::start(ip, directory);
    for is_silent in [false, true] {
        if is_silent {
            dataplane.process.kill();
        }
        let mut command = tap(directory, &["--since", "oldest"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let status = wait_for("the tap to end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(!stderr.contains("recorded") && !stderr.contains("stdout"), "{stderr}");
    }
}

pub(crate) fn follows_a_restart() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    // Before there is any segment.
    let mut process = Process::start(tap(directory, &["--json"]).stderr(Stdio::piped()));
    let said = collect_stderr(&mut process);
    let mut in_vain = Process::start(tap(directory, &["--metric", "nothing"]).stderr(Stdio::piped()));
    let said_in_vain = collect_stderr(&mut in_vain);
    let wait_said = |what: &str| wait_said(&said, what);
    wait_said("waiting: cannot open segment");
    let mut positions = Vec::new();
    for (generation, ends) in [(1, "died"), (2, "has ended")] {
        let mut dataplane = match generation {
            1 => found_with_samples(ip, directory),
            _ => DataPlane::start(ip, directory),
        };
        wait_said(&format!(": generation {generation}, process "));
        // Some of the one before may still be to come.
        for last in [0, 4] {
            process.line("the sample at that position", |line| {
                positions.extend(position(line));
                (positions.last() == Some(&last)).then_some(())
            });
        }
        match ends {
            "died" => dataplane.process.kill(),
            _ => {
                dataplane.process.signal(Signal::SIGTERM);
                dataplane.process.wait();
            }
        }
        wait_said(&format!(" {ends}; waiting for the next one"));
    }
    for process in [&mut process, &mut in_vain] {
        process.signal(Signal::SIGINT);
        assert_eq!(process.wait().code(), Some(0));
    }
    positions.extend(process.rest().iter().filter_map(|line| position(line)));
    let accounts = wait_for("both accounts", || {
        let accounts: Vec<_> = said.lock().unwrap().iter().filter_map(|line| account(line)).collect();
        (accounts.len() == 2).then_some(accounts)
    });
    let count = |said: &Mutex<Vec<String>>, what: &str| {
        said.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    };
    assert_eq!(count(&said, " died; waiting for the next one"), 1);
    assert_eq!(count(&said, "no series of histogram kind matches"), 0);
    let each = wait_for("both accounts", || {
        (count(&said_in_vain, " recorded = ") == 2)
            .then(|| count(&said_in_vain, "matches --metric nothing; "))
    });
    assert_eq!(each, 2, "of each segment once: {:?}", said_in_vain.lock());
    for [recorded, delivered, lost, unread, printed] in &accounts {
        assert_eq!((recorded, lost, unread), (delivered, &0, &0), "an ended data plane is read to the last");
        assert_eq!(delivered, printed);
    }
    let every: Vec<u64> = accounts.iter().flat_map(|account| 0..account[0]).collect();
    assert_eq!(positions, every, "every sample of both, once and in order");
}

fn position(line: &str) -> Option<u64> {
    let object: Value = serde_json::from_str(line).ok()?;
    assert_eq!(object["labels"]["target"], "self");
    object["position"].as_u64()
}

/// A data plane whose segment has samples in it by the time it takes its name.
fn found_with_samples(ip: IpAddr, directory: &Path) -> DataPlane {
    let elsewhere = directory.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let dataplane = DataPlane::start(ip, &elsewhere);
    dataplane.wait_samples();
    std::fs::rename(segment(&elsewhere), segment(directory)).unwrap();
    dataplane
}

/// An application's own segment, of a ring too small for what was recorded.
pub(crate) fn of_an_application() {
    static QUEUE: Family = Family::new("queue_depth", MetricKind::Gauge, Unit::None, &["room"], "Depth.");
    static DELAY: Family =
        Family::new("delay_seconds", MetricKind::Histogram, Unit::Seconds, &["room", "side"], "Delay.");
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let config = HubConfig { shards: 2, ring_capacity: 64, cells_per_shard: 8, max_series: 8 };
    let Hub { mut publishers, registry, .. } = create(&segment(directory), config).unwrap();
    let delay = registry.stream(ShardId(1), &DELAY, &["a \"room\"", "in"]).unwrap();
    let queue = registry.gauge(ShardId(1), &QUEUE, &["b"]).unwrap();
    let mut record = |metric_id, value| {
        publishers[1].record(MetricSample { metric_id, timestamp_ns: 1, value });
    };
    for _ in 0..1000 {
        record(delay, MetricValue::Histogram(0.5));
    }
    record(queue.id(), MetricValue::Gauge(f64::NAN));
    record(MetricId(7), MetricValue::Counter(u64::MAX));
    record(delay, MetricValue::Histogram(f64::INFINITY));

    let arguments = ["--json", "--since", "oldest", "--duration", "300ms"];
    let (status, stdout, stderr) = run(&mut tap(directory, &arguments));
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("shard 0: 0 recorded = 0 delivered + 0 lost + 0 unread; 0 printed\n"),
        "{stderr}"
    );
    let expected =
        "shard 1: 63 recorded = 63 delivered + 0 lost + 0 unread; 63 printed, 1 of no known series\n";
    assert!(stderr.contains(expected), "{stderr}");
    let objects: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let object = |index: usize| {
        let object = &objects[index];
        (&object["metric"], &object["kind"], &object["labels"], &object["value"])
    };
    let labels = json!({"room": "a \"room\"", "side": "in"});
    let (null, histogram) = (Value::Null, json!("histogram"));
    assert_eq!(object(59), (&json!("relay_delay_seconds"), &histogram, &labels, &json!(0.5)));
    assert_eq!(object(60), (&json!("relay_queue_depth"), &json!("gauge"), &json!({"room": "b"}), &null));
    assert_eq!(object(61), (&null, &json!("counter"), &null, &json!(u64::MAX)));
    assert_eq!(object(62), (&json!("relay_delay_seconds"), &histogram, &labels, &null));
    assert_eq!((&objects[62]["shard"], &objects[62]["position"]), (&json!(1), &json!(1002)));

    // A reader from the first sample on has lost those that were overwritten, and says how many.
    let elsewhere = directory.join("elsewhere");
    std::fs::rename(segment(directory), &elsewhere).unwrap();
    let mut process = Process::start(tap(directory, &[]).stderr(Stdio::piped()));
    let said = collect_stderr(&mut process);
    wait_said(&said, "waiting: cannot open segment");
    std::fs::rename(&elsewhere, segment(directory)).unwrap();
    process.line("the last sample", |line| line.ends_with("  inf").then_some(()));
    process.signal(Signal::SIGTERM);
    process.wait();
    wait_said(&said, "shard 1: 1003 recorded = ");
    let accounts = said.lock().unwrap();
    let said = accounts.iter().find(|line| line.contains("shard 1: ")).unwrap();
    let numbers: Vec<u64> = said.split([' ', ':']).filter_map(|word| word.parse().ok()).collect();
    let [1, 1003, delivered, lost, unread, printed, 1] = numbers[..] else { panic!("{said}") };
    assert_eq!((delivered + lost + unread, printed), (1003, delivered), "{said}");
    assert!(lost >= 1003 - 63 && delivered > 0, "{said}");
}

fn wait_said(said: &Mutex<Vec<String>>, what: &str) {
    wait_for(format_args!("'{what}' on stderr"), || {
        said.lock().unwrap().iter().any(|line| line.contains(what)).then_some(())
    });
}
