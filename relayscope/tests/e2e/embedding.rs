//! `docs/embedding.md`, executed word for word.
//!
//! Every block of the guide is taken as it stands. A block of Rust is written to the file that the text before it
//! names; a block of shell is run, all of them in one bash, in order; a block of text is what the shell before it
//! printed. A block of shell without one prints nothing. Any other block fails the test: none is exempt.
//!
//! What the guide asks for is there: a clone, in which it begins, and `relayscope` on the path. The clone has the
//! workspace's own manifest and lock file, and links to everything else, so that what is built of it is what was built
//! for these tests already. That takes one more thing. `cargo run` in a package builds the libraries with the features
//! that package asks of them, and a workspace's tests were built with those that all of it asks for; so `cargo run` is
//! a script here that builds with the latter and then becomes the program. `RELAYSCOPE_GUIDE_AS_A_READER=1` does without
//! the script, and takes some minutes.

mod guide;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use guide::{Block, is_as_shown};

/// Programs may be built with libraries that nobody has built yet.
const SESSION_MAX: Duration = Duration::from_secs(420);
const PAUSE: Duration = Duration::from_millis(20);
/// The guide's, and what lies beside it.
const SEGMENT: [&str; 3] = ["/dev/shm/hello", "/dev/shm/hello.account", "/dev/shm/hello.crashed"];
/// What a runner of tests tells them of their package, by how it begins. Build scripts look at it: with it they, and
/// all that depends on them, would run again.
const OWN: [&str; 4] = ["CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"];

/// `cargo run [-q] [--bin NAME]`, with what the whole workspace's tests ask of the libraries: `--test stress` counts what
/// tests ask for in, and is built already.
const CARGO: &str = r#"#!/bin/sh
[ "$1" = run ] || exec "$REAL_CARGO" "$@"
program=$(basename "$PWD") quiet=
while [ $# -gt 1 ]; do
    shift
    case $1 in
    -q) quiet=-q ;;
    --bin) program=$2 && shift ;;
    *) echo "cargo run $1 is not what this script knows" >&2 && exit 1 ;;
    esac
done
"$REAL_CARGO" build $quiet --workspace --bin "$program" --test stress || exit
exec "$CARGO_TARGET_DIR/debug/$program"
"#;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn guide() -> Vec<Block> {
    guide::blocks(&fs::read_to_string(project().join("docs/embedding.md")).unwrap())
}

/// A clone as its reader has it, at a place that is always the same: what was built there is not built again. One at a
/// time on a host, as the guide's ports and its segment are one.
struct Desk {
    directory: PathBuf,
    _lock: fs::File,
}

impl Desk {
    fn clear() -> Self {
        let lock = fs::File::create(std::env::temp_dir().join("guide-for-authors.lock")).unwrap();
        let deadline = Instant::now() + SESSION_MAX;
        while lock.try_lock().is_err() {
            assert!(Instant::now() < deadline, "another one is at it for {SESSION_MAX:?}");
            std::thread::sleep(PAUSE);
        }
        // Of one that did not come to its end.
        SEGMENT.iter().for_each(|left| drop(fs::remove_file(left)));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedding");
        fs::remove_dir_all(&directory).ok();
        let clone = directory.join("relayscope");
        fs::create_dir_all(&clone).unwrap();
        for entry in fs::read_dir(project()).unwrap() {
            let (name, path) = entry.map(|entry| (entry.file_name(), entry.path())).unwrap();
            match name.to_str() {
                Some("Cargo.toml" | "Cargo.lock") => drop(fs::copy(path, clone.join(name)).unwrap()),
                Some("target" | ".git") => {}
                _ => symlink(path, clone.join(name)).unwrap(),
            }
        }
        Self { directory, _lock: lock }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// The whole guide as one script.
    fn script(&self, blocks: &[Block]) -> String {
        let mut script = "set -euo pipefail\ncd relayscope\n".to_owned();
        for (n, block) in blocks.iter().enumerate() {
            let here = self.at(&n.to_string()).display().to_string();
            fs::write(&here, block.text()).unwrap();
            script += &format!("echo {} >'{}'\n", block.line(), self.at("line").display());
            script += &match block {
                Block::File { path, .. } => format!("mkdir -p $(dirname {path}); cp '{here}' {path}\n"),
                Block::Shell { .. } => format!(". '{here}' >'{here}.out'\n"),
            };
        }
        script
    }

    /// Starts a bash that executes it.
    fn start(&self, script: &str) -> Session {
        let errors = fs::File::create(self.at("errors")).unwrap();
        let mut path = vec![Path::new(env!("CARGO_BIN_EXE_relayscope")).parent().unwrap().to_owned()];
        if std::env::var_os("RELAYSCOPE_GUIDE_AS_A_READER").is_none() {
            let cargo = self.at("bin/cargo");
            fs::create_dir(self.at("bin")).unwrap();
            fs::write(&cargo, CARGO).unwrap();
            fs::set_permissions(cargo, fs::Permissions::from_mode(0o755)).unwrap();
            path.push(self.at("bin"));
        }
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut bash = Command::new("bash");
        // What describes this test's own package is not the guide's. How to build, and how not to, is.
        for (name, _) in std::env::vars() {
            if OWN.iter().any(|own| name.starts_with(own)) {
                bash.env_remove(name);
            }
        }
        bash.args(["--norc", "-c", script])
            .current_dir(&self.directory)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("REAL_CARGO", std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never")
            .env("XDG_STATE_HOME", self.at("state"))
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0);
        Session(bash.spawn().unwrap())
    }
}

/// A bash and all that it started, which ends with it.
struct Session(Child);

impl Session {
    /// Whether it came to a good end.
    fn ended_well(&mut self) -> bool {
        let deadline = Instant::now() + SESSION_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(PAUSE);
        }
        false
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody may be left of it.
        killpg(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGKILL).ok();
        self.0.wait().ok();
    }
}

pub(crate) fn is_executed() {
    let (desk, blocks) = (Desk::clear(), guide());
    let went_well = desk.start(&desk.script(&blocks)).ended_well();
    let errors = desk.read("errors");
    assert!(went_well, "docs/embedding.md, line {}: {errors}", desk.read("line").trim());
    assert!(!errors.contains("warning"), "{errors}");
    for (n, block) in blocks.iter().enumerate() {
        if let Block::Shell { line, shown, .. } = block {
            let printed = desk.read(&format!("{n}.out"));
            assert!(
                is_as_shown(shown, &printed),
                "docs/embedding.md, line {line} shows\n{shown}and it printed\n{printed}"
            );
        }
    }
}

pub(crate) fn programs_are_run_and_formatted() {
    let blocks = guide();
    let mut files = 0;
    for (n, block) in blocks.iter().enumerate() {
        let Block::File { line, path, text } = block else { continue };
        let program = path.strip_prefix("src/bin/").and_then(|name| name.strip_suffix(".rs"));
        let command = program.map_or("cargo run -q".to_owned(), |name| format!("cargo run -q --bin {name}"));
        let runs = |block: &Block| block.runs(&command);
        assert!(blocks[n..].iter().any(runs), "docs/embedding.md, line {line}: {path} is never run");
        assert_eq!(formatted(text), *text, "docs/embedding.md, line {line}: {path} as rustfmt has it");
        files += 1;
    }
    assert!(files >= 12, "{files} were found");
}

/// As the clone's rustfmt.toml has it.
fn formatted(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("main.rs");
    fs::write(&path, text).unwrap();
    fs::copy(project().join("rustfmt.toml"), directory.path().join("rustfmt.toml")).unwrap();
    assert!(Command::new("rustfmt").arg("--edition=2024").arg(&path).status().unwrap().success());
    fs::read_to_string(path).unwrap()
}

pub(crate) fn the_first_has_twenty_lines() {
    let blocks = guide();
    let is_main = |block: &&Block| matches!(block, Block::File { path, .. } if path == "src/main.rs");
    let programs: Vec<_> = blocks.iter().filter(is_main).map(|block| lines_of_code(block.text())).collect();
    assert_eq!(programs, [11, 20], "an empty one, and a scraped one");
}

/// Neither blank nor comment.
fn lines_of_code(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

pub(crate) fn figures_are_quoted() {
    let [guide, benches] = ["docs/embedding.md", "benches/README.md"]
        .map(|path| fs::read_to_string(project().join(path)).unwrap());
    let (_, chapter) = guide.split_once("## What a record costs").unwrap();
    let rows: Vec<_> = chapter.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() >= 12, "{} were found", rows.len());
    for row in rows {
        assert!(benches.lines().any(|line| line == row), "benches/README.md does not have {row}");
    }
}

pub(crate) fn comparison() {
    guide::check();
}
