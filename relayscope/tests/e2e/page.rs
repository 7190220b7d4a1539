//! The page in a browser, led through it by the programs of `web/tests`. Each counts its checks in its last line.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::demo::Demo;
use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback};

/// More than any window shows.
const TARGETS: usize = 1000;

fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn browser(program: &str) -> Command {
    let mut command = Command::new(Peer::Browser.program());
    command.arg(project("web/tests").join(program));
    command
}

/// Runs a program to its end, and asserts that it made all its checks and found nothing. `ask` is told what it wants.
fn assert_found(command: &mut Command, summary: &str, mut ask: impl FnMut(&str)) {
    let mut browser = Process::start(command);
    loop {
        let line = browser.line("what the browser found", |line| Some(line.to_owned()));
        println!("{line}");
        if let Some(wanted) = line.strip_prefix("> ") {
            ask(wanted);
        } else if line.contains(" checks, ") {
            assert_eq!(line, summary);
            break;
        }
    }
    assert!(browser.wait().success());
}

pub(crate) fn of_a_demo() {
    let mut demo = Demo::start(loopback());
    let mut command = browser("page.mjs");
    command.arg(project("target/screenshots"));
    command.args(demo.relays.iter().map(|(name, at)| format!("{name}=http://{at}/")));
    assert_found(&mut command, "17 checks, 0 failed", |wanted| match wanted {
        "!STOP" => demo.process.signal(Signal::SIGSTOP),
        "!CONT" => demo.process.signal(Signal::SIGCONT),
        line => demo.process.write_line(line),
    });
}

pub(crate) fn of_a_thousand_targets() {
    let (directory, ip) = (tempfile::tempdir().unwrap(), loopback());
    let history = directory.path().join("history.db");
    let mut config = format!(
        "targets_max = {}\n[history]\npath = {:?}\n[reflector]\nlisten = [\"{ip}:8620\"]\n",
        TARGETS + 1,
        history.display()
    );
    let longest = format!("t0500{}", "x".repeat(123));
    for name in (0..TARGETS).map(|target| format!("t{target:04}")).chain([longest]) {
        // Writing to a string does not fail.
        write!(config, "[[target]]\nname = \"{name}\"\naddress = \"{ip}:8620\"\n").unwrap();
    }
    let file = directory.path().join("relayscope.toml");
    std::fs::write(&file, config).unwrap();
    let relay = Relay::start(ip, &["--config", &file.display().to_string()]);
    let mut command = browser("wall.mjs");
    command.args([&format!("http://{}/", relay.http), &TARGETS.to_string()]);
    assert_found(&mut command, "8 checks, 0 failed", |wanted| panic!("nobody can {wanted}"));
}
