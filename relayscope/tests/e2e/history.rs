//! History on disk: what a relay kept of real peers, over restarts, and where the disk does not take it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::alerts::peer::Reflector;
use crate::relay::{Process, Relay, loopback, relayscope, run, wait_for, with_own_state};

/// What the tmpfs of a test holds.
const DISK_BYTES: usize = 2 << 20;

/// A relay with a configuration and a database of its own.
struct Bed {
    directory: TempDir,
    http: SocketAddr,
}

impl Bed {
    fn new(targets: &[(&str, SocketAddr)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut text = "[probe]\ninterval = \"100ms\"\ntimeout = \"300ms\"\n\
                        [alerting]\nresolve_after = 2\nhold = \"0s\"\n[history]\npath = \"history.db\"\n"
            .to_owned();
        for (name, address) in targets {
            text += &format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        std::fs::write(directory.path().join("relayscope.toml"), text).unwrap();
        Self { directory, http: SocketAddr::new(loopback(), 9862) }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("relayscope.toml")
    }

    fn start(&self) -> Relay {
        Relay::start(self.http.ip(), &["--config", self.config().to_str().unwrap()])
    }

    /// What `history export` writes.
    fn export(&self, arguments: &[&str]) -> String {
        let config = self.config();
        let (status, said, stderr) =
            run(relayscope().args(["history", "export", "--config"]).arg(config).args(arguments));
        assert!(status.success() && stderr.is_empty(), "{arguments:?}: {stderr}");
        said.replace('\r', "")
    }
}

fn json(relay: &Relay, path: &str) -> Value {
    let (status, answer) = relay.status(path);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// The first step of the last minutes of which `is_it` is true, as column -> value.
fn find_step(
    relay: &Relay,
    target: &str,
    is_it: impl Fn(&dyn Fn(&str) -> Value) -> bool,
) -> Option<Vec<(String, Value)>> {
    let answer = relay.try_get(&format!("/api/v1/history?target={target}&from=-5m&step=10s")).ok()?;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let points = answer["points"].as_object().unwrap();
    let steps = points["time"].as_array().unwrap().len();
    let step = (0..steps).find(|at| is_it(&|column: &str| points[column][at].clone()))?;
    Some(points.iter().map(|(column, values)| (column.clone(), values[step].clone())).collect())
}

/// `kind target alertname` of each.
fn events(relay: &Relay) -> Vec<String> {
    let answer = json(relay, "/api/v1/events?from=-1h");
    let text = |value: &Value| value.as_str().map_or(String::new(), |text| format!(" {text}"));
    let event = |event: &Value| {
        format!("{}{}{}", event["kind"].as_str().unwrap(), text(&event["target"]), text(&event["alertname"]))
    };
    answer["events"].as_array().unwrap().iter().map(event).collect()
}

fn wait_event(relay: &Relay, event: &str) {
    wait_for(format_args!("the event {event}"), || events(relay).iter().any(|of| of == event).then_some(()));
}

/// A peer that answers, dies and comes again, and a relay that is stopped, killed, and goes on.
pub(crate) fn kept_and_answered() {
    let mut peer = Reflector::start();
    let bed = Bed::new(&[("peer", peer.address())]);
    let mut relay = bed.start();
    let answered = wait_for("ten seconds of answers", || {
        find_step(&relay, "peer", |of| of("answered").as_u64().is_some_and(|answered| answered > 0))
    });
    let of = |column: &str| {
        let found = answered.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_f64());
        found.flatten().unwrap_or_else(|| panic!("{column} is not known: {answered:?}"))
    };
    // A hundred probes of a whole interval, fewer of one that began before the relay did.
    assert!(of("answered") <= 110.0 && of("lost") == 0.0, "{answered:?}");
    let ascending =
        ["rtt_min", "rtt_p05", "rtt_p25", "rtt_p50", "rtt_p75", "rtt_p95", "rtt_p99", "rtt_max"].map(of);
    assert!(ascending[0] > 0.0 && ascending[7] < 1.0 && ascending.is_sorted(), "{answered:?}");
    assert!((ascending[0]..=ascending[7]).contains(&of("rtt_mean")) && of("jitter") >= 0.0, "{answered:?}");
    wait_event(&relay, "peer_up peer");

    peer.kill();
    wait_event(&relay, "peer_down peer");
    wait_event(&relay, "alert_firing peer RelayPeerDown");
    let lost = wait_for("ten seconds of loss", || {
        find_step(&relay, "peer", |of| {
            of("answered") == 0 && of("lost").as_u64().is_some_and(|lost| lost > 0)
        })
    });
    assert!(
        lost.iter().filter(|(name, _)| name.starts_with("rtt_")).all(|(_, value)| value.is_null()),
        "{lost:?}"
    );
    peer.revive();
    wait_event(&relay, "alert_resolved peer RelayPeerDown");

    let sqlite = json(&relay, "/api/perf/sqlite");
    let writer = &sqlite["writer"];
    assert_eq!(
        (&writer["open"], &writer["failure"], &writer["errors"]),
        (&true.into(), &Value::Null, &0.into())
    );
    assert!(writer["intervals_written"].as_u64().unwrap() >= 2, "{sqlite}");
    assert!(
        writer["last_write_unix_seconds"].is_f64() && sqlite["database"]["pages"].as_u64() > Some(0),
        "{sqlite}"
    );
    let stages = json(&relay, "/api/perf/stages");
    let stage =
        stages["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "history").unwrap();
    assert!(stage["count"].as_u64().unwrap() >= 2 && stage["hold"]["p50_seconds"].is_f64(), "{stage}");
    let (status, _) = plain(&relay, "/api/v1/history?target=nobody");
    assert_eq!(status, 404);
    let (status, said) = plain(&relay, "/api/v1/history?target=peer&from=yesterday");
    assert!(status == 400 && said.starts_with("from: \"yesterday\" is no time; expected "), "{said}");

    // Stopped, and then killed: it goes on where it was.
    relay.process.signal(Signal::SIGTERM);
    assert!(relay.process.wait().success());
    let before = bed.export(&["--format", "jsonl"]);
    assert!(before.lines().count() >= 2, "{before}");
    relay = bed.start();
    wait_for("the database to be open", || (events(&relay).last()? == "started").then_some(()));
    assert!(
        find_step(&relay, "peer", |of| of("time") == lost[time(&lost)].1).is_some(),
        "what was kept is there"
    );
    relay.process.kill();
    relay = bed.start();
    wait_for("both starts, of which one had no stop before it", || {
        let happened = events(&relay);
        let of_relay: Vec<_> = happened.iter().filter(|event| !event.contains(' ')).collect();
        (of_relay == ["started", "stopped", "started", "started"]).then_some(())
    });
    // From the file, while the relay writes it: the same, and CSV says it, too.
    let now = bed.export(&["--format", "jsonl"]);
    assert!(now.starts_with(&before), "{before}\n{now}");
    let csv = bed.export(&["--target", "peer", "--from", "-10m"]);
    assert!(csv.starts_with("start_unix_seconds,length_seconds,target,family,answered,lost,"), "{csv}");
    assert!(csv.lines().skip(1).all(|row| row.contains(",10,peer,ipv4,")), "{csv}");
    assert!(bed.export(&["--events"]).contains(",peer_down,peer,,,peer does not answer\n"));
    // Nobody reads any more: no word of it.
    let mut export = relayscope();
    export.args(["history", "export", "--config"]).arg(bed.config());
    let mut unread = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let output = unread.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

fn time(step: &[(String, Value)]) -> usize {
    step.iter().position(|(name, _)| name == "time").unwrap()
}

fn plain(relay: &Relay, path: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("http://{}{path}", relay.http)).call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

/// Why a disk cannot be mounted for a test alone.
pub(crate) fn missing_mounts() -> Option<String> {
    let mounts = ["--mount", "--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    let mounted = Command::new("unshare").args(mounts).stderr(Stdio::null()).status();
    (!mounted.is_ok_and(|status| status.success()))
        .then(|| "a tmpfs cannot be mounted; run as root".to_owned())
}

/// Every line of a process's stderr.
fn follow_log(process: &mut Process) -> Arc<Mutex<Vec<String>>> {
    let (lines, log) = (Arc::default(), BufReader::new(process.stderr().unwrap()));
    let written: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
    std::thread::spawn(move || {
        log.lines().map_while(Result::ok).for_each(|line| written.lock().unwrap().push(line))
    });
    lines
}

fn said(log: &Mutex<Vec<String>>, what: &str) -> usize {
    log.lock().unwrap().iter().filter(|line| line.contains(what)).count()
}

/// A disk that fills, and has room again: nothing else is disturbed, and what waited is written.
pub(crate) fn full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, ip) = (directory.path(), loopback());
    let http = SocketAddr::new(ip, 9862);
    let config = "[probe]\ninterval = \"100ms\"\n[history]\npath = \"history.db\"\n\
                  [reflector]\nlisten = [\"IP:8620\"]\n[[target]]\nname = \"self\"\naddress = \"IP:8620\"\n"
        .replace("IP", &ip.to_string());
    let mount = format!(
        "mount -t tmpfs -o size={DISK_BYTES} tmpfs {disk} && cat > {disk}/relayscope.toml <<'END'\n{config}END\n\
         exec \"$@\"",
        disk = disk.display()
    );
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--",
        "sh",
        "-ec",
        &mount,
        "sh",
        env!("CARGO_BIN_EXE_relayscope"),
        "run",
        "--listen",
    ]);
    command.arg(http.to_string()).arg("--config").arg(disk.join("relayscope.toml"));
    let process = Process::start(with_own_state(&mut command).env_remove("RUST_LOG").stderr(Stdio::piped()));
    let mut relay = Relay { process, http };
    let log = follow_log(&mut relay.process);
    relay.wait_ready();
    let within =
        PathBuf::from(format!("/proc/{}/root", relay.process.id())).join(disk.strip_prefix("/").unwrap());
    relay.wait_sample("relay_history_written_intervals_total{tier=\"10s\"}", 1.0);

    let filler = within.join("filler");
    fill(&filler);
    relay.wait_sample("relay_history_errors_total{reason=\"disk_full\"}", 1.0);
    let drains = relay.wait_sample("relay_drain_duration_seconds_count", 1.0);
    let written = relay.sample("relay_history_written_intervals_total{tier=\"10s\"}").unwrap();
    relay.wait_sample("relay_history_pending_intervals", 2.0);
    // Ten seconds and more: at ten drains a second.
    relay.wait_sample("relay_drain_duration_seconds_count", drains + 50.0);
    assert_eq!(relay.row("self")["state"], "up");
    assert!(find_step(&relay, "self", |of| of("answered").is_u64()).is_some(), "what was kept is answered");
    assert_eq!(said(&log, "history is not written"), 1, "{log:?}");

    std::fs::remove_file(filler).unwrap();
    wait_for("what waited to be written", || {
        let now = relay.sample("relay_history_written_intervals_total{tier=\"10s\"}")?;
        (now >= written + 2.0 && relay.sample("relay_history_pending_intervals") == Some(0.0)).then_some(())
    });
    assert_eq!(
        (said(&log, "history is written again"), said(&log, "history is not written")),
        (1, 1),
        "{log:?}"
    );
    let dropped = "relay_history_dropped_intervals_total{reason=\"disk_full\"}";
    assert_eq!(relay.sample(dropped), Some(0.0), "none was lost");
}

/// To the last octet.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [64 << 10, 4 << 10] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
}

/// No place, a place that another writes, a later version's database: the relay runs, says so once, and counts it.
pub(crate) fn what_cannot_be_kept() {
    let (first, directory) = (loopback(), tempfile::tempdir().unwrap());
    let path = directory.path().join("history.db");
    let write = |name: &str, ip: &str, history: &str| {
        let file = directory.path().join(name);
        let text = format!(
            "[reflector]\nlisten = [\"{ip}:8620\"]\n[[target]]\nname = \"self\"\naddress = \"{ip}:8620\"\n[history]\n{history}\n"
        );
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let of_first = write("first.toml", &first.to_string(), "path = \"history.db\"");
    let holder = Relay::start(first, &["--config", &of_first]);
    wait_for("the database to be open", || holder.sample("relay_history_up").filter(|up| *up > 0.0));

    for (history, reason, why) in [
        ("path = \"history.db\"".to_owned(), "locked", "is written by another process"),
        ("path = \"/proc/no/history.db\"".to_owned(), "io", "history is not kept"),
    ] {
        let ip = loopback();
        let file = write("other.toml", &ip.to_string(), &history);
        let mut command = relayscope();
        command.args(["run", "--listen", &format!("{ip}:9862"), "--config", &file]).stderr(Stdio::piped());
        let mut relay = Relay { process: Process::start(&mut command), http: SocketAddr::new(ip, 9862) };
        let log = follow_log(&mut relay.process);
        relay.wait_ready();
        relay.wait_state("self", "up");
        relay.wait_sample(&format!("relay_history_errors_total{{reason=\"{reason}\"}}"), 1.0);
        assert_eq!(relay.sample("relay_history_up"), Some(0.0));
        wait_for("it to be said", || (said(&log, why) > 0).then_some(()));
        assert_eq!(said(&log, "history is not kept"), 1, "{log:?}");
        let (status, line) = plain(&relay, "/api/v1/events");
        assert_eq!(status, 503, "{line}");
        let expected =
            if reason == "locked" { "no history of this relay: " } else { "history cannot be read: " };
        assert!(line.starts_with(expected), "{line}");
        relay.process.signal(Signal::SIGTERM);
        assert!(relay.process.wait().success());
    }
    assert_eq!(holder.sample("relay_history_up"), Some(1.0), "{}", path.display());

    let ip = loopback();
    let off = Relay::start(ip, &["--config", &write("off.toml", &ip.to_string(), "enabled = false")]);
    for route in ["/api/v1/history?target=self", "/api/v1/events", "/api/perf/sqlite"] {
        let line = "history is off; set enabled = true in [history]\n".to_owned();
        assert_eq!(plain(&off, route), (404, line));
    }
    assert!(!off.get("/metrics").contains("relay_history_up "), "no such series");
}
