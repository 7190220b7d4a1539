//! The page in a browser, led through a live demo by `web/tests/page.mjs`.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::demo::Demo;
use crate::peers::Peer;
use crate::relay::{Process, loopback};

/// Its checks, all of which have to be made.
const SUMMARY: &str = "17 checks, 0 failed";

fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

pub(crate) fn in_a_browser() {
    let mut demo = Demo::start(loopback());
    let mut command = Command::new(Peer::Browser.program());
    command.arg(project("web/tests/page.mjs")).arg(project("target/screenshots"));
    command.args(demo.relays.iter().map(|(name, at)| format!("{name}=http://{at}/")));
    let mut browser = Process::start(&mut command);
    let summary = loop {
        let line = browser.line("what the browser found", |line| Some(line.to_owned()));
        println!("{line}");
        match line.strip_prefix("> ") {
            Some("!STOP") => demo.process.signal(Signal::SIGSTOP),
            Some("!CONT") => demo.process.signal(Signal::SIGCONT),
            Some(command) => demo.process.write_line(command),
            None if line.contains(" checks, ") => break line,
            None => {}
        }
    };
    assert_eq!(summary, SUMMARY);
    assert!(browser.wait().success());
}
