//! What the program says of its own making: the revision of its sources, and the compiler.
//!
//! `RELAYSCOPE_REVISION` outweighs what git says, for who builds from an archive. Of a debug build nobody asks, and
//! it should not be made anew with each commit. What cannot be found out is left out, and fails nothing.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RELAYSCOPE_REVISION");
    let given = env::var("RELAYSCOPE_REVISION").ok().filter(|given| !given.is_empty());
    if let Some(revision) = given.or_else(of_git) {
        println!("cargo::rustc-env=RELAYSCOPE_REVISION={revision}");
    }
    let rustc = env::var_os("RUSTC").and_then(|rustc| said(Command::new(rustc).arg("--version")));
    if let Some(version) = rustc.as_deref().and_then(|said| said.split(' ').nth(1)) {
        println!("cargo::rustc-env=RELAYSCOPE_RUSTC={version}");
    }
}

/// The commit checked out, if this is its checkout: an archive may have been unpacked within another.
fn of_git() -> Option<String> {
    if env::var("PROFILE").as_deref() == Ok("debug") {
        return None;
    }
    let package = env::var_os("CARGO_MANIFEST_DIR")?;
    let git = |arguments: &[&str]| said(Command::new("git").args(arguments).current_dir(&package));
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&package).parent()?.canonicalize().ok()? {
        return None;
    }
    // Written whenever another commit is checked out.
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}
