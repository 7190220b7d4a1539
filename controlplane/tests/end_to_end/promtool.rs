//! Prometheus's own opinion of a scrape, where its `promtool` is installed.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::http::plane_with_b_up;

/// The names that keep an existing fleet's dashboards working, and break the naming rules for it.
const COMPATIBLE: [&str; 2] = ["relay_probe_rtt_ms", "relay_probe_jitter_ms"];

#[test]
fn promtool_complains_of_nothing_but_the_millisecond_names() {
    let plane = plane_with_b_up();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: promtool is not on PATH; install the package prometheus");
            return;
        }
        spawned => spawned.unwrap(),
    };
    promtool.stdin.take().unwrap().write_all(&plane.exposition()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let unexpected: Vec<_> =
        said.lines().filter(|line| !COMPATIBLE.iter().any(|name| line.starts_with(name))).collect();
    assert_eq!(unexpected, Vec::<&str>::new());
    // 3: parsed, with complaints of style.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}: {said}", output.status);
}
