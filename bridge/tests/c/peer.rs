//! The C side: which compilers there are, programs compiled with them, and `conformance.c` as a process.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

const STRICT: [&str; 9] = [
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
    "-Wconversion",
    "-Wshadow",
    "-Wcast-qual",
    "-pthread",
];
/// Built once by each process of tests, whichever of its threads asks first.
static BUILDING: Mutex<()> = Mutex::new(());

/// A C compiler that is there, by the name it is called by.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    program: OsString,
}

impl Compiler {
    /// `CC`, else `cc`; and clang, where it is another. None where there is no such program.
    pub(crate) fn all() -> Vec<Self> {
        let first = std::env::var_os("CC").filter(|cc| !cc.is_empty()).unwrap_or_else(|| "cc".into());
        let mut programs = vec![first];
        if !programs[0].to_string_lossy().contains("clang") {
            programs.push("clang".into());
        }
        programs.retain(|program| {
            let asked =
                Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            asked.is_ok_and(|status| status.success())
        });
        programs.into_iter().map(|program| Self { program }).collect()
    }

    pub(crate) fn name(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        name.to_string_lossy().into_owned()
    }

    /// Compiles `source` with further flags into `to`, every warning an error. `RELAYSCOPE_CFLAGS` goes last:
    /// it may ask for sanitizers.
    pub(crate) fn compile(&self, source: &Path, flags: &[&str], to: &Path) {
        let more = std::env::var("RELAYSCOPE_CFLAGS").unwrap_or_default();
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        let output = Command::new(&self.program)
            .args(STRICT)
            .args(flags)
            .arg("-I")
            .arg(include)
            .arg(source)
            .arg("-o")
            .arg(to)
            .args(more.split_whitespace())
            .output()
            .expect("the compiler was there a moment ago");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{} says of {}:\n{said}",
            self.name(),
            source.display()
        );
    }

    /// The program of `conformance.c`.
    fn conformance(&self) -> PathBuf {
        let _building = BUILDING.lock().expect("a compiler's failure is not met twice");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = directory.join(format!("conformance-{}-{}", self.name(), std::process::id()));
        if !program.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/conformance.c");
            self.compile(&source, &["-O2"], &program);
        }
        program
    }

    /// Removes what this process compiled.
    pub(crate) fn clean(&self) {
        let name = format!("conformance-{}-{}", self.name(), std::process::id());
        std::fs::remove_file(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).ok();
    }

    /// Starts it.
    pub(crate) fn start(&self) -> Peer {
        let mut child = Command::new(self.conformance())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was just compiled");
        let to = child.stdin.take().expect("it is piped");
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        Peer { child, to, from }
    }

    /// Starts it with the segment at `path` open for writing.
    pub(crate) fn writing(&self, path: &Path) -> Peer {
        let mut peer = self.start();
        assert_eq!(peer.open("write", path), "OK");
        peer
    }

    /// Starts it with the segment at `path` open for reading.
    pub(crate) fn reading(&self, path: &Path) -> Peer {
        let mut peer = self.start();
        assert_eq!(peer.open("read", path), "OK");
        peer
    }
}

/// A C process that does what it is told.
pub(crate) struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it the words of one command and returns its answer. A peer that ended has found something wrong
    /// and said so on stderr.
    pub(crate) fn ask(&mut self, words: &[&dyn Display]) -> String {
        self.tell(words);
        self.answer()
    }

    /// One word and no more.
    pub(crate) fn say(&mut self, word: &str) -> String {
        self.ask(&[&word])
    }

    pub(crate) fn tell(&mut self, words: &[&dyn Display]) {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        writeln!(self.to, "{}", words.join("\t")).expect("the C side lives");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.from.read_line(&mut line).expect("what the C side says is text");
        assert!(read > 0, "the C side ended: {:?}", self.child.wait());
        line.trim_end_matches('\n').to_owned()
    }

    pub(crate) fn open(&mut self, access: &str, path: &Path) -> String {
        self.ask(&[&"open", &access, &path.display()])
    }

    /// Finds a series, for what is asked next.
    pub(crate) fn find(&mut self, shard: u16, family: &str, values: &[&str]) -> String {
        let mut words: Vec<&dyn Display> = vec![&"find", &shard, &family];
        words.extend(values.iter().map(|value| value as &dyn Display));
        self.ask(&words)
    }

    /// SIGKILL. Until it is waited for, its process id is not free.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
    }

    pub(crate) fn wait(&mut self) {
        self.child.wait().expect("it is ours");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
