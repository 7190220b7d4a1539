//! `relayscope top` in a real terminal: that of tmux.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::Pid;

use crate::peers::Peer;
use crate::relay::{loopback, relayscope, run, wait_for};
use crate::segment::{DataPlane, segment};

/// A tmux server of its own, with a shell in a terminal of 100 by 30. It ends with the test.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn open(directory: &Path) -> Self {
        let terminal = Self { socket: directory.join("tmux") };
        let shell = ["env", "PS1=ready$ ", "sh"];
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"], &shell);
        terminal.wait("the shell", |screen| screen.starts_with("ready$"));
        terminal
    }

    fn tmux(&self, arguments: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(Peer::Tmux.program());
        command.arg("-S").arg(&self.socket).args(arguments).args(more).env_remove("TMUX");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"], &[]).stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&["send-keys"], keys);
    }

    /// Waits for a screen that is as it should be, and gives it.
    fn wait(&self, what: &str, is_right: impl Fn(&str) -> bool) -> String {
        wait_for(what, || Some(self.screen()).filter(|screen| is_right(screen)))
    }

    /// The one process that the shell runs.
    fn child(&self) -> Pid {
        let pid = self.tmux(&["display-message", "-p", "#{pane_pid}"], &[]);
        let shell = String::from_utf8(pid.stdout).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim())).unwrap();
        Pid::from_raw(children.trim().parse().unwrap())
    }

    /// Waits until top has ended, and asserts that the terminal is the shell's again.
    fn wait_restored(&self) {
        let screen = self.wait("shell again", |screen| screen.trim_end().ends_with("ready$"));
        assert!(!screen.contains("samples/s"), "the shell's screen is back:\n{screen}");
        self.keys(&["stty -a | tr ' ' '\\n' | grep -xE -e '-?(icanon|echo)'; echo code $?", "Enter"]);
        let screen = self.wait("terminal modes", |screen| screen.contains("code 0"));
        assert!(screen.contains("\nicanon\n") && screen.contains("\necho\n"), "{screen}");
        let cursor = self.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"], &[]);
        assert_eq!(
            String::from_utf8(cursor.stdout).unwrap(),
            "1 0\n",
            "the cursor shows, on the first screen"
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let tmux = |arguments: &[&str]| {
            Command::new(Peer::Tmux.program()).arg("-S").arg(&self.socket).args(arguments).output()
        };
        if std::thread::panicking()
            && let Ok(screen) = tmux(&["capture-pane", "-p"])
        {
            eprintln!("the terminal as it was:\n{}", String::from_utf8_lossy(&screen.stdout));
        }
        tmux(&["kill-server"]).ok();
    }
}

fn start(terminal: &Terminal, directory: &Path) {
    let (program, segment) = (env!("CARGO_BIN_EXE_relayscope"), segment(directory));
    terminal.keys(&[&format!("clear; {program} top --segment {}", segment.display()), "Enter"]);
}

/// The row of `screen` that begins with `name`, in words.
fn row<'a>(screen: &'a str, name: &str) -> Vec<&'a str> {
    let is_row = |line: &&str| line.split_whitespace().next() == Some(name);
    screen.lines().find(is_row).map_or(Vec::new(), |line| line.split_whitespace().collect())
}

pub(crate) fn shows_a_data_plane() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let terminal = Terminal::open(directory);
    start(&terminal, directory);
    terminal.wait("state without a segment", |screen| {
        screen.starts_with(" WAITING ") && screen.contains("cannot open segment")
    });

    let mut dataplane = DataPlane::start(ip, directory);
    let screen = terminal.wait("peers up and down, and their rates", |screen| {
        let (up, down) = (row(screen, "self"), row(screen, "nobody"));
        let rate = up.get(8).and_then(|rate| rate.parse::<f64>().ok()).unwrap_or(0.0);
        screen.starts_with(" RUNNING ") && up.contains(&"UP") && down.contains(&"DOWN") && rate > 5.0
    });
    assert!(screen.contains("▸2 PEERS  1 of 2 up "), "{screen}");
    let up = row(&screen, "self");
    // TARGET STATE RTT ms LOSS % JITTER ms SENT/S LAST-REPLY s
    assert_eq!((up[1], up[3], up[4], up[5], up[7], up[10]), ("UP", "ms", "0.0", "%", "ms", "s"), "{screen}");
    let rate: f64 = up[8].parse().unwrap();
    assert!(rate > 5.0 && rate < 20.0, "ten probes a second: {screen}");
    // The last of these is LOST, which 100 columns have room for.
    let [.., last_reply, _] = row(&screen, "nobody")[..] else { panic!("{screen}") };
    assert_eq!(last_reply, "-", "of a peer that never replied there is no age: {screen}");
    assert!(screen.contains("probe_sent_total{target=\"self\",family=\"ipv4\"}"), "{screen}");

    dataplane.process.kill();
    let screen = terminal.wait("its death", |screen| screen.starts_with(" DIED "));
    assert!(row(&screen, "self").starts_with(&["self", "STALE", "-", "-", "-", "-", "-"]), "{screen}");
    let _next = DataPlane::start(ip, directory);
    terminal.wait("the next data plane", |screen| {
        screen.contains("generation 2") && row(screen, "self").contains(&"UP")
    });
    terminal.keys(&["q"]);
    terminal.wait_restored();
}

pub(crate) fn keys_work() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let terminal = Terminal::open(directory);
    let _dataplane = DataPlane::start(ip, directory);
    start(&terminal, directory);
    terminal.wait("two peers", |screen| row(screen, "nobody").contains(&"DOWN"));
    let first_peer = |screen: &str| {
        let mut rows = screen.lines().skip_while(|line| !line.starts_with(" TARGET")).skip(1);
        rows.next().and_then(|row| row.split_whitespace().next()).map(str::to_owned)
    };
    assert_eq!(first_peer(&terminal.screen()).as_deref(), Some("nobody"));
    terminal.keys(&["r"]);
    terminal.wait("the peers in reverse", |screen| {
        screen.contains("TARGET▼") && first_peer(screen).as_deref() == Some("self")
    });
    terminal.keys(&["s", "s", "s"]);
    terminal.wait("the peers by loss", |screen| {
        screen.contains("▼LOSS") && first_peer(screen).as_deref() == Some("nobody")
    });
    terminal.keys(&["3", "/", "l", "o", "s", "t"]);
    terminal.wait("the filter as it is typed", |screen| screen.contains("counters with lost█"));
    terminal.keys(&["Enter"]);
    let screen = terminal.wait("the filter in force", |screen| screen.contains("▸3 COUNTERS  /lost: 6 of "));
    assert!(!screen.contains("probe_sent_total"), "{screen}");
    terminal.keys(&["p"]);
    terminal.wait("the pause", |screen| screen.starts_with(" RUNNING   PAUSED at "));
    let frozen = |screen: &str| screen.lines().skip(2).collect::<Vec<_>>().join("\n");
    let before = terminal.screen();
    let after = terminal.wait("the clock to go on", |screen| screen.lines().next() != before.lines().next());
    assert_eq!(frozen(&after), frozen(&before), "while paused nothing else does");

    // One that is resized is drawn anew, and one that is asked to end leaves the terminal as it was.
    terminal.tmux(&["resize-window", "-x", "160", "-y", "50"], &[]);
    terminal.wait("the columns of a wide terminal", |screen| screen.contains("ADDRESS"));
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"], &[]);
    terminal.wait("the columns of a narrow one", |screen| !screen.contains("ADDRESS"));
    nix::sys::signal::kill(terminal.child(), nix::sys::signal::Signal::SIGTERM).unwrap();
    terminal.wait_restored();
}

pub(crate) fn terminal_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(directory.path());
    start(&terminal, directory.path());
    terminal.wait("top", |screen| screen.starts_with(" WAITING"));
    let top = terminal.child();
    terminal.tmux(&["kill-server"], &[]);
    wait_for("top to end with its terminal", || nix::sys::signal::kill(top, None).is_err().then_some(()));
}

pub(crate) fn no_terminal() {
    let (status, stdout, stderr) = run(relayscope().arg("top").stdin(Stdio::null()));
    assert_eq!((status.code(), stdout.as_str()), (Some(2), ""));
    assert_eq!(
        stderr,
        "relayscope: top needs a terminal, and stdin is none; use relayscope tap or relayscope mesh-status there\n"
    );
}
