//! The bridge's page in Chromium, led through it by `web/tests/bridge.mjs`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use relayscope_example_relay::token::to_text;

use crate::clients::{Heard, Relay, UdpClient};

/// What of a browser is not here.
pub(crate) fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let missing = if !has("node") {
        "node"
    } else if !has("chromium") {
        "chromium"
    } else if !project("web/node_modules/playwright-core").is_dir() {
        "playwright-core in web/node_modules"
    } else {
        return None;
    };
    Some(format!("{missing} is not installed; scripts/test installs it"))
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Dropped, it is killed.
struct Leader(Child);

impl Drop for Leader {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("what leads the browser may still be running: {error}");
        }
    }
}

pub(crate) fn two_tabs() {
    let mut relay = Relay::start(|_| ());
    // Member 0: the first to come.
    let mut udp = UdpClient::join(&relay, "udp");
    let mut heard = Heard::new();
    let mut said = 0;
    let mut command = Command::new("node");
    command.arg(project("web/tests/bridge.mjs")).arg(project("target/screenshots"));
    command.arg(format!("{}/", relay.origin()));
    command.args(["one", "two"].map(|name| to_text(&relay.token(name, 60))));
    let mut leader = Leader(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut summary = None;
    for line in BufReader::new(leader.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        if let Some(text) = line.strip_prefix("> udp says ") {
            udp.send(said, text.as_bytes());
            said += 1;
        } else if let Some(wanted) = line.strip_prefix("> udp hears ") {
            let (member, text) = wanted.split_once(' ').unwrap();
            let wanted = |(sender, _, said): &(u16, u32, Vec<u8>)| {
                sender.to_string() == member && said.as_slice() == text.as_bytes()
            };
            while !heard.iter().any(wanted) {
                heard.extend(udp.hear(1));
            }
        } else if let Some(wanted) = line.strip_prefix("> scrape ") {
            let (series, value) = wanted.rsplit_once(' ').unwrap();
            relay.wait_for(series, value.parse().unwrap());
        }
        summary = Some(line);
    }
    assert_eq!(summary.as_deref(), Some("8 checks, 0 failed"));
    assert!(leader.0.wait().unwrap().success());
    // Both tabs are closed.
    relay.wait_for("web_bridge_connections", 0.0);
    relay.stop().join().unwrap();
}
