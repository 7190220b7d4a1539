//! What is installed to test against.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::packaging::machine;
use crate::{hang, history, namespaces};

/// A program that is not ours, or an ability of the host.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Bash,
    /// Node with what leads a browser, and the browser.
    Browser,
    CargoDeb,
    Cc,
    /// Runs a container, as root.
    Crun,
    Curl,
    Faketime,
    Fish,
    Lintian,
    Man,
    Mandoc,
    /// A disk of a test's own.
    Mounts,
    Openssl,
    Prometheus,
    Promtool,
    /// Grafana's model of a dashboard, as it publishes it.
    GrafanaModel,
    Alertmanager,
    Scapy,
    StampSuite,
    Tmux,
    Coturn,
    Stund,
    Caddy,
    Aioquic,
    /// Stopping one thread of another process.
    Ptrace,
    /// Being root, to start a process as somebody else.
    Root,
    Zsh,
    /// A machine of its own, with a package to install there.
    Machine,
    /// The parser of Prometheus's Python library.
    OpenMetricsParser,
    /// Network namespaces and cables between them.
    Namespaces,
    /// A kernel that delays and loses packets.
    Netem,
}

impl Peer {
    /// Why the peer cannot be used, and what would mend it; `None` if it can.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Ptrace => hang::missing_ptrace(),
            Self::Root => {
                let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
                (!is_root).then(|| "not root; run as root".to_owned())
            }
            Self::Browser => missing_browser(),
            Self::Machine => machine::missing().or_else(|| Self::CargoDeb.missing()),
            Self::Crun => self.missing_program().or_else(machine::missing),
            Self::Lintian => Self::CargoDeb.missing().or_else(|| self.missing_program()),
            Self::Mounts => history::missing_mounts(),
            Self::Namespaces => namespaces::missing_namespaces(),
            Self::Netem => namespaces::missing_netem(),
            program => program.missing_program(),
        }
    }

    fn missing_program(self) -> Option<String> {
        let program = self.program();
        let found = match program.components().count() {
            1 => on_path(&program),
            _ => program.is_file(),
        };
        (!found).then(|| format!("{} is not installed; scripts/test installs it", program.display()))
    }

    /// How to start it.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Bash => "bash".into(),
            Self::Browser => "node".into(),
            Self::CargoDeb => peers_dir().join("bin/cargo-deb"),
            Self::Cc => "cc".into(),
            Self::Crun => "crun".into(),
            Self::Curl => "curl".into(),
            Self::Fish => "fish".into(),
            Self::Lintian => "lintian".into(),
            Self::Machine | Self::Mounts => "unshare".into(),
            Self::Man => "man".into(),
            Self::Mandoc => "mandoc".into(),
            Self::Openssl => "openssl".into(),
            Self::Zsh => "zsh".into(),
            Self::Faketime => faketime(),
            Self::Prometheus => "prometheus".into(),
            Self::Promtool => "promtool".into(),
            Self::Alertmanager => "prometheus-alertmanager".into(),
            Self::Coturn => "turnserver".into(),
            Self::Stund => "stund".into(),
            Self::Caddy => "caddy".into(),
            Self::Scapy | Self::Aioquic | Self::GrafanaModel | Self::OpenMetricsParser => {
                peers_dir().join("venv/bin/python")
            }
            Self::StampSuite => peers_dir().join("bin/stamp-suite"),
            Self::Tmux => "tmux".into(),
            Self::Ptrace | Self::Root => "sleep".into(),
            Self::Namespaces => "ip".into(),
            Self::Netem => "tc".into(),
        }
    }
}

fn missing_browser() -> Option<String> {
    let leader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/node_modules/playwright-core");
    let missing = if !on_path(Path::new("node")) {
        "node"
    } else if !on_path(Path::new("chromium")) {
        "chromium"
    } else if !leader.is_dir() {
        "playwright-core in web/node_modules"
    } else {
        return None;
    };
    Some(format!("{missing} is not installed; scripts/test installs it"))
}

/// Where `scripts/test` puts peers that are not Debian packages.
fn peers_dir() -> PathBuf {
    match std::env::var_os("RELAYSCOPE_PEERS") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
    }
}

/// The library, in the directory of whichever architecture this is.
fn faketime() -> PathBuf {
    let library = |directory: PathBuf| directory.join("faketime/libfaketime.so.1");
    let of_architectures = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = of_architectures.map(|entry| library(entry.path())).find(|library| library.is_file());
    found.unwrap_or_else(|| library("/usr/lib".into()))
}

pub(crate) fn on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
