//! The binary as users run it.

use std::process::{Command, Stdio};

/// Builds it in release mode, with the cargo that runs this bench, and gives its path.
///
/// # Panics
/// When it does not build.
pub fn build_relayscope() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(cargo)
        .args(["build", "--release", "-p", "relayscope", "--manifest-path", manifest])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo is what runs this");
    assert!(output.status.success(), "relayscope does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .rev()
        .find_map(|line| line.split("\"executable\":\"").nth(1).and_then(|rest| rest.split('"').next()));
    executable.expect("cargo names what it built").to_owned()
}
