//! What is installed to test against.

use std::path::{Path, PathBuf};

/// A program that is not ours.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Prometheus,
    Promtool,
    Scapy,
    StampSuite,
    Tmux,
}

impl Peer {
    /// Why the peer cannot be used; `None` if it can.
    pub(crate) fn missing(self) -> Option<String> {
        let program = self.program();
        let found = match program.components().count() {
            1 => on_path(&program),
            _ => program.is_file(),
        };
        (!found).then(|| format!("{} is not installed", program.display()))
    }

    /// How to start it.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Prometheus => "prometheus".into(),
            Self::Promtool => "promtool".into(),
            Self::Scapy => peers_dir().join("venv/bin/python"),
            Self::StampSuite => peers_dir().join("bin/stamp-suite"),
            Self::Tmux => "tmux".into(),
        }
    }
}

/// Where `scripts/test` puts peers that are not Debian packages.
fn peers_dir() -> PathBuf {
    match std::env::var_os("RELAYSCOPE_PEERS") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
    }
}

fn on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
