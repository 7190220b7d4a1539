//! Two relays in network namespaces of their own, with a virtual cable between them.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::peers::on_path;
use crate::relay::{Process, get, relayscope, sample, wait_for};

/// Before the names of all namespaces these tests make; the process and a count follow.
const PREFIX: &str = "relayscope-e2e-";
/// The cable's end in each namespace.
pub(crate) const DEVICE: &str = "cable";
/// interval + Tmax + 1 s, with the defaults for both.
const DOWN_MAX: Duration = Duration::from_secs(3);

/// A network namespace; removed when the test ends, however that is.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("{PREFIX}{}-{count}", std::process::id()) };
        ip(&["netns", "add", &namespace.name])?;
        Ok(namespace)
    }

    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs what needs to be inside on a thread that is.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                inside()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // One that could not be made cannot be removed.
        ip(&["netns", "del", &self.name]).unwrap_or_default();
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    said_nothing("ip", Command::new("ip").args(arguments))
}

fn said_nothing(program: &str, command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Removes what a test left behind that was killed before it could.
pub(crate) fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        if process.is_some_and(|(process, _)| !std::path::Path::new("/proc").join(process).exists()) {
            drop(Namespace { name });
        }
    }
}

/// Why there can be no cable here; `None` where there can.
pub(crate) fn missing_namespaces() -> Option<String> {
    if !on_path("ip".as_ref()) {
        return Some("iproute2 is not installed; install that package".to_owned());
    }
    Cable::lay().err().map(|error| format!("no network namespaces: {error}; needs root and CONFIG_VETH"))
}

/// Why the kernel cannot delay and lose packets itself; `None` where it can.
pub(crate) fn missing_netem() -> Option<String> {
    let impaired = Cable::lay().and_then(|cable| cable.impair("delay", "1ms"));
    impaired.err().map(|error| format!("no netem: {error}; needs root and CONFIG_NET_SCH_NETEM"))
}

/// Two namespaces and a pair of devices that connects them.
pub(crate) struct Cable {
    pub(crate) ends: [Namespace; 2],
}

pub(crate) const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

impl Cable {
    pub(crate) fn lay() -> Result<Self, String> {
        let cable = Self { ends: [Namespace::new()?, Namespace::new()?] };
        let [a, b] = &cable.ends;
        let peer = ["peer", "name", DEVICE, "netns", &b.name];
        a.ip(&[&["link", "add", DEVICE, "type", "veth"][..], &peer].concat())?;
        for (end, address) in cable.ends.iter().zip(ADDRESSES) {
            end.ip(&["link", "set", "lo", "up"])?;
            end.ip(&["address", "add", &format!("{address}/30"), "dev", DEVICE])?;
            end.ip(&["link", "set", DEVICE, "up"])?;
        }
        Ok(cable)
    }

    /// Lets the kernel do this to all that leaves either end.
    fn impair(&self, what: &str, how_much: &str) -> Result<(), String> {
        for end in &self.ends {
            let mut tc = Command::new("tc");
            tc.args(["-n", &end.name, "qdisc", "replace", "dev", DEVICE, "root", "netem"]);
            said_nothing("tc", tc.args([what, how_much, "limit", "10000"]))?;
        }
        Ok(())
    }
}

/// A relay inside a namespace. It serves HTTP there, where nobody else does.
struct Relay<'a> {
    namespace: &'a Namespace,
    target: &'static str,
    http: SocketAddr,
    _process: Process,
}

impl<'a> Relay<'a> {
    /// A relay at each end, that probes the other.
    fn start_both(cable: &'a Cable, keys: &str) -> [(Self, tempfile::TempDir); 2] {
        let [a, b] = &cable.ends;
        [(a, ADDRESSES, "b"), (b, [ADDRESSES[1], ADDRESSES[0]], "a")].map(
            |(namespace, [own, other], target)| {
                let directory = tempfile::tempdir().unwrap();
                let file = directory.path().join("relayscope.toml");
                let text = format!(
                    "[reflector]\nlisten = [\"{own}:8620\"]\n[probe]\n{keys}\n\
                 [[target]]\nname = \"{target}\"\naddress = \"{other}:8620\"\n"
                );
                std::fs::write(&file, text).unwrap();
                let http = SocketAddr::from(([127, 0, 0, 1], 9862));
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespace.name]).arg(relayscope().get_program());
                command.args(["run", "--config"]).arg(&file).env_remove("RUST_LOG");
                let relay = Self { namespace, target, http, _process: Process::start(&mut command) };
                wait_for("the relay to be ready", || relay.get("/readyz").ok());
                (relay, directory)
            },
        )
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let url = format!("http://{}{path}", self.http);
        self.namespace.enter(|| get(&url))
    }

    fn counter(&self, scrape: &str, name: &str) -> Option<f64> {
        let of_target = format!("relay_probe_{name}_total{{target=\"{}\"", self.target);
        let series = scrape.lines().find(|line| line.starts_with(&of_target))?;
        sample(scrape, series.rsplit_once(' ')?.0)
    }

    fn wait_up(&self, up: f64) {
        let series = format!("relay_probe_up{{target=\"{}\"}}", self.target);
        wait_for(format_args!("{series} {up}"), || {
            (sample(&self.get("/metrics").ok()?, &series)? == up).then_some(())
        });
    }
}

/// Pulls the cable at one end, and plugs it in again.
pub(crate) fn cable_pulled() {
    remove_leftovers();
    let cable = Cable::lay().unwrap();
    let [(a, _a_file), (b, _b_file)] = Relay::start_both(&cable, "");
    let wait_both = |up| {
        let began = Instant::now();
        a.wait_up(up);
        b.wait_up(up);
        began.elapsed()
    };
    wait_both(1.0);
    for end in &cable.ends {
        end.ip(&["link", "set", DEVICE, "down"]).unwrap();
        let down = wait_both(0.0);
        end.ip(&["link", "set", DEVICE, "up"]).unwrap();
        let up = wait_both(1.0);
        println!("{}: DOWN after {down:?}, healed after {up:?}", end.name);
        assert!(down <= DOWN_MAX, "DOWN took {down:?}");
        assert!(up <= DOWN_MAX, "healing took {up:?}");
    }
}

/// What the kernel imposes comes back: its delay as RTT, its loss as loss.
pub(crate) fn netem() {
    const PROBES: f64 = 1_000.0;
    let cable = Cable::lay().unwrap();
    cable.impair("delay", "20ms").unwrap();
    let keys = "interval = \"20ms\"\ntimeout = \"200ms\"\nslot = \"5ms\"";
    let [(a, _a_file), _b] = Relay::start_both(&cable, keys);
    a.wait_up(1.0);
    let rtts: Vec<f64> = (0..100)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let scrape = a.get("/metrics").unwrap();
            sample(&scrape, "relay_probe_rtt_ms{target=\"b\"}").unwrap()
        })
        .collect();
    let median = crate::truth::median(&rtts);
    println!("RTT median {median:.4} ms, asked for 40 ms");
    assert!((median - 40.0).abs() <= 0.2 + 0.02 * 40.0, "RTT {median} ms");

    cable.impair("loss", "10%").unwrap();
    let counters = || {
        let scrape = a.get("/metrics").ok()?;
        Some((a.counter(&scrape, "received")?, a.counter(&scrape, "lost")?))
    };
    let (received, lost) = counters().unwrap();
    let (received, lost) = wait_for("a thousand probes", || {
        let now = counters()?;
        let since = (now.0 - received, now.1 - lost);
        (since.0 + since.1 >= PROBES).then_some(since)
    });
    // Lost either way; five standard deviations.
    let (of, ratio) = (received + lost, 1.0 - 0.9 * 0.9);
    println!("lost {lost} of {of}, asked for {:.1} %", ratio * 100.0);
    assert!((lost - of * ratio).abs() <= 5.0 * (of * ratio * (1.0 - ratio)).sqrt(), "lost {lost} of {of}");
}
