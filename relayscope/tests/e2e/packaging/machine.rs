//! A machine of its own for what is installed system-wide: the host's system under a root whose changes lie in
//! memory, in namespaces, with the real systemd as its first process, or with none.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::peers::on_path;
use crate::relay::{Process, wait_for};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/packaging/machine.sh");
const UNSHARE: [&str; 8] =
    ["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--net", "--uts", "--ipc"];
const SYSTEMD: &str = "/lib/systemd/systemd";

/// What a machine starts with.
#[derive(Clone, Copy)]
pub(crate) enum Init {
    Systemd,
    Nothing,
}

/// Ends, with all that runs in it, when it is dropped.
pub(crate) struct Machine {
    // unshare(1), whose child is the machine's first process and dies with it.
    _unshare: Process,
    first: String,
}

/// Why no machine can be made here, and what would mend it.
pub(crate) fn missing() -> Option<String> {
    for program in ["unshare", "nsenter", "dpkg", "adduser", "systemctl", "python3"] {
        if !on_path(Path::new(program)) {
            return Some(format!("{program} is not installed; scripts/test installs it"));
        }
    }
    if !Path::new(SYSTEMD).exists() {
        return Some(format!("{SYSTEMD} is not installed; scripts/test installs it"));
    }
    let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\toverlay\n"));
    let namespaces = Command::new("unshare").args(UNSHARE).arg("true").stderr(Stdio::null()).status();
    match (namespaces, overlay) {
        (Ok(status), true) if status.success() => None,
        (_, false) => Some("the kernel has no overlayfs; modprobe overlay".to_owned()),
        _ => Some("namespaces cannot be made; run as root".to_owned()),
    }
}

impl Machine {
    pub(crate) fn boot(init: Init) -> Self {
        let mut command = Command::new("unshare");
        let kind = match init {
            Init::Systemd => "systemd",
            Init::Nothing => "none",
        };
        let unshare = Process::start(command.args(UNSHARE).args(["sh", SCRIPT, kind]).stderr(Stdio::null()));
        let id = unshare.id();
        let first = wait_for("the machine's first process", || {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            children.split_whitespace().next().map(str::to_owned)
        });
        let machine = Self { _unshare: unshare, first };
        let (program, is_up): (&[&str], _) = match init {
            Init::Systemd => (&["systemctl", "is-system-running"], "running\n"),
            Init::Nothing => (&["cat", "/proc/1/comm"], "sleep\n"),
        };
        wait_for("the machine to be up", || (machine.try_run(program).1 == is_up).then_some(()));
        machine
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]);
        command.arg("--").args(program).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/");
        command
    }

    /// Whether it went well, and what it wrote on stdout and on stderr.
    pub(crate) fn try_run(&self, program: &[&str]) -> (bool, String, String) {
        let Output { status, stdout, stderr } = self.command(program).stdin(Stdio::null()).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (status.success(), stdout, stderr)
    }

    /// What it wrote on stdout; it must go well.
    pub(crate) fn run(&self, program: &[&str]) -> String {
        let (went_well, stdout, stderr) = self.try_run(program);
        assert!(went_well, "{program:?}: {stdout}{stderr}");
        stdout
    }

    /// Starts what ends with what is given back.
    pub(crate) fn start(&self, program: &[&str]) -> Process {
        Process::start(&mut self.command(program))
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, octets: &[u8]) {
        let mut command = self.command(&["tee", path]);
        let mut tee = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        tee.stdin.take().unwrap().write_all(octets).unwrap();
        assert!(tee.wait().unwrap().success(), "{path}");
    }

    /// The body of a GET from within.
    pub(crate) fn get(&self, url: &str) -> Option<String> {
        let read =
            format!("import urllib.request as r; print(r.urlopen('{url}', timeout=5).read().decode())");
        let (went_well, body, _) = self.try_run(&["python3", "-c", &read]);
        went_well.then_some(body)
    }

    /// Waits until a scrape from within has this line.
    pub(crate) fn wait_line(&self, url: &str, line: &str) -> String {
        wait_for(format_args!("{line} at {url}"), || {
            self.get(url).filter(|scrape| scrape.lines().any(|found| found == line))
        })
    }
}
