//! The seccomp profile around the real binary, loaded by a real container runtime, and what the Containerfile
//! starts.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::project;
use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, relayscope, run, wait_for};

const PROFILE: &str = "packaging/container/seccomp.json";
const CONTAINERFILE: &str = "packaging/container/Containerfile";
/// As the Containerfile has it.
const USER: u32 = 65532;
const IO_URING: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

fn profile() -> Value {
    serde_json::from_str(&fs::read_to_string(project(PROFILE)).unwrap()).unwrap()
}

/// Without the system calls of this name.
fn without(mut profile: Value, names: &[&str]) -> Value {
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        rule["names"].as_array_mut().unwrap().retain(|name| !names.contains(&name.as_str().unwrap()));
    }
    profile["syscalls"].as_array_mut().unwrap().retain(|rule| !rule["names"].as_array().unwrap().is_empty());
    profile
}

/// A root with the binary and the libraries it needs, and nothing else.
fn fill_root(root: &Path) {
    let binary = Path::new(env!("CARGO_BIN_EXE_relayscope"));
    let (status, libraries, _) = run(Command::new("ldd").arg(binary));
    assert!(status.success());
    let words = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for file in words.map(Path::new) {
        let place = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(file, place).unwrap();
    }
    for directory in ["usr/bin", "proc", "run/relayscope", "dev", "etc/relayscope", "var/lib/relayscope"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(binary, root.join("usr/bin/relayscope")).unwrap();
}

/// A container in the host's network, otherwise on its own.
struct Container {
    directory: TempDir,
    relay: Relay,
}

impl Container {
    fn crun(&self, arguments: &[&str]) -> Command {
        crun(self.directory.path(), arguments)
    }

    fn exec(&self, arguments: &[&str]) -> String {
        let (status, said, stderr) =
            run(self.crun(&["exec", "relay", "/usr/bin/relayscope"]).args(arguments));
        assert!(status.success(), "{arguments:?}: {stderr}");
        said
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Whether it is there still or not.
        self.crun(&["delete", "--force", "relay"]).stderr(Stdio::null()).status().ok();
    }
}

/// Where it sees one hierarchy of control groups, as on any host of today: it takes no mixture of both versions.
fn crun(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let alone = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    command.args(["--mount", "--", "sh", "-c", alone, "sh"]).arg(Peer::Crun.program());
    command.arg("--root").arg(directory.join("state")).args(["--cgroup-manager", "disabled"]).args(arguments);
    command
}

fn start(profile: &Value, ip: IpAddr, configuration: &str) -> Container {
    let directory = tempfile::tempdir().unwrap();
    // Whoever it runs as must find the way to its root.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = directory.path().join("rootfs");
    fill_root(&root);
    fs::write(root.join("etc/relayscope/relayscope.toml"), configuration).unwrap();
    let bundle = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": USER, "gid": USER },
            "cwd": "/",
            "args": ["/usr/bin/relayscope", "run", "--config", "/etc/relayscope/relayscope.toml"],
            "env": ["PATH=/usr/bin", "STATE_DIRECTORY=/var/lib/relayscope"],
            "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "permitted": [] },
            "rlimits": [{ "type": "RLIMIT_MEMLOCK", "soft": 8 << 20, "hard": 8 << 20 }],
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            // Where glommio finds the cores, as container engines mount it.
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            {
                "destination": "/run/relayscope", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "mode=1777"],
            },
            {
                "destination": "/var/lib/relayscope", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "mode=1777"],
            },
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            "seccomp": profile,
        },
    });
    fs::write(directory.path().join("config.json"), bundle.to_string()).unwrap();
    let mut command = crun(directory.path(), &["run", "--bundle"]);
    let process = Process::start(command.arg(directory.path()).arg("relay").stderr(Stdio::inherit()));
    let relay = Relay { process, http: SocketAddr::new(ip, 9862) };
    let container = Container { directory, relay };
    container.relay.wait_ready();
    container
}

/// Every protocol that needs nobody else, and a segment.
fn configuration(ip: IpAddr, runtime: &str) -> String {
    format!(
        "listen = \"{ip}:9862\"\nruntime = \"{runtime}\"\nwatch_interval = \"1h\"\nsegment = \"relay\"\n\
         [probe]\ninterval = \"100ms\"\ntimeout = \"500ms\"\n\
         [reflector]\nlisten = [\"{ip}:8620\"]\nquic_listen = [\"{ip}:8443\"]\n\
         [[target]]\nname = \"stamp\"\naddress = \"{ip}\"\n\
         [[target]]\nname = \"named\"\naddress = \"localhost:9\"\n\
         [[target]]\nname = \"quic\"\naddress = \"quic://{ip}:8443\"\ninsecure = true\n\
         [[target]]\nname = \"tcp\"\naddress = \"tcp://{ip}:9862\"\n"
    )
}

fn backend(relay: &Relay) -> String {
    let scrape = relay.get("/metrics");
    let line = scrape.lines().find(|line| line.starts_with("relay_runtime_info")).unwrap();
    line.to_owned()
}

/// All that runs in a container is under the profile: the relay, whatever drives its shards, and the commands
/// that look at it.
pub(crate) fn profile_is_enough() {
    for (runtime, reason) in
        [("auto", "glommio\",reason=\"available"), ("poll", "poll\",reason=\"configured")]
    {
        let ip = loopback();
        let mut container = start(&profile(), ip, &configuration(ip, runtime));
        let relay = &container.relay;
        for target in ["stamp", "quic", "tcp"] {
            relay.wait_state(target, "up");
            relay.wait_sample(
                &format!("relay_probe_received_total{{target=\"{target}\",family=\"ipv4\"}}"),
                5.0,
            );
        }
        assert_eq!(backend(relay), format!("relay_runtime_info{{backend=\"{reason}\"}} 1"));
        let url = format!("http://{}", relay.http);
        assert!(container.exec(&["mesh-status", "--url", &url]).contains("of 4 targets up"));
        assert_eq!(container.exec(&["tap", "--segment", "relay", "-n", "3"]).lines().count(), 3);
        assert!(container.exec(&["autopsy", "relay", "-n", "1"]).contains("running"));
        // On a busy host one of them may be discarded.
        let tcp = format!("tcp://{}", relay.http);
        let said = container.exec(&["probe", &tcp, "-c", "5", "-i", "100ms"]);
        assert!(said.contains("5 sent"), "{said}");
        check_restrictions(&container);
        relay.wait_sample("relay_history_written_events_total{kind=\"started\"}", 1.0);
        assert_eq!(relay.sample("relay_history_up"), Some(1.0));

        reloads_when_told(&container, &configuration(ip, runtime));
        run(&mut container.crun(&["kill", "relay", "TERM"]));
        assert_eq!(container.relay.process.wait().code(), Some(0), "drained");
    }
}

/// A signal from outside has it read its file, which nothing else does for an hour.
fn reloads_when_told(container: &Container, configuration: &str) {
    let file = container.directory.path().join("rootfs/etc/relayscope/relayscope.toml");
    for (text, expected) in [("[probe]\ninterval = \"never\"\n", 0.0), (configuration, 1.0)] {
        fs::write(&file, text).unwrap();
        run(&mut container.crun(&["kill", "relay", "HUP"]));
        wait_for(format_args!("the reload to be told as {expected}"), || {
            (container.relay.sample("relay_config_last_reload_successful") == Some(expected)).then_some(())
        });
    }
}

/// What the kernel says of the process, which is nobody and may do nothing.
fn check_restrictions(container: &Container) {
    let (status, state, stderr) = run(&mut container.crun(&["state", "relay"]));
    assert!(status.success(), "{stderr}");
    let state: Value = serde_json::from_str(&state).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap();
    let uid = format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}");
    for expected in [uid.as_str(), "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|line| line == expected), "{expected}: {status}");
    }
}

/// The other way round: it is this profile that lets io_uring through.
pub(crate) fn profile_is_what_allows_io_uring() {
    let ip = loopback();
    let container = start(&without(profile(), &IO_URING), ip, &configuration(ip, "auto"));
    container.relay.wait_state("stamp", "up");
    assert_eq!(
        backend(&container.relay),
        "relay_runtime_info{backend=\"poll\",reason=\"io_uring_enosys\"} 1"
    );
}

fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(project(CONTAINERFILE)).unwrap().replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no instruction: {line}"));
            (word.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

/// What the image starts is a command line that the binary takes, and what is copied is there to be copied.
pub(crate) fn containerfile_starts_what_there_is() {
    const WORDS: [&str; 13] = [
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
        "ENV",
        "VOLUME",
    ];
    let instructions = instructions();
    for (word, rest) in &instructions {
        assert!(WORDS.contains(&word.as_str()), "{word} {rest}");
    }
    let of = |wanted: &str| -> Vec<String> {
        let found = instructions.iter().filter(|(word, _)| word == wanted);
        found.map(|(_, rest)| rest.clone()).collect()
    };
    assert_eq!(of("USER"), [format!("{USER}:{USER}")]);
    let version = fs::read_to_string(project("Cargo.toml")).unwrap();
    let needed =
        version.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(of("ARG")[0].starts_with(&format!("RUST=rust:{needed}-")), "the compiler that is needed");
    let copied: Vec<PathBuf> = of("COPY")
        .iter()
        .flat_map(|rest| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|word| word.strip_prefix("/src/").map(project))
        .filter(|path| !path.ends_with("target/release/relayscope"))
        .collect();
    assert_eq!(copied.len(), 2);
    assert!(copied.iter().all(|path| path.is_file()), "{copied:?}");

    let entry: Vec<String> = serde_json::from_str(&of("ENTRYPOINT")[0]).unwrap();
    assert_eq!(entry, ["/usr/bin/relayscope"]);
    let command: Vec<String> = serde_json::from_str(&of("CMD")[0]).unwrap();
    assert_eq!(command[0], "run");
    // The same arguments, and nothing is started.
    let (status, printed, stderr) = run(relayscope().arg("print-config").args(&command[1..]));
    assert!(status.success(), "{stderr}");
    assert!(printed.contains("listen = \"0.0.0.0:9862\"\n"), "{printed}");
}
