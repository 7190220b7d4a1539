//! What is no fault of the relay's is not told as one, and what cannot be done says what can.
#![expect(clippy::unwrap_used, reason = "for tests alone")]

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Relay, another_key, command, complaint, load};

const SHAPE: [&str; 8] = ["--sessions", "20", "--rooms", "4", "--duration", "500ms", "--rate", "20"];
const PAUSE: Duration = Duration::from_millis(50);

/// Runs a load until it is in its rooms, and ends it by a signal.
fn interrupted(relay: &Relay, signal: Signal) -> (Option<i32>, String) {
    let mut process =
        command(relay, &["--sessions", "20", "--rooms", "4", "--duration", "60s"]).spawn().unwrap();
    relay.wait_for_sessions(20.0);
    kill(Pid::from_raw(process.id() as i32), signal).unwrap();
    let code = process.wait().unwrap().code();
    (code, std::io::read_to_string(process.stderr.take().unwrap()).unwrap())
}

#[test]
fn a_run_that_was_killed_is_no_trouble_for_the_next_one_and_an_interrupted_one_leaves() {
    let relay = Relay::start("127.77.1.7", &[]);
    let stopped = "relay-load: stopped before the end; its sessions have left\n";
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        assert_eq!(interrupted(&relay, signal), (Some(2), stopped.to_owned()));
        relay.wait_for_sessions(0.0);
    }
    assert_eq!(interrupted(&relay, Signal::SIGKILL).0, None);
    let done = load(&relay, &SHAPE, PAUSE, || ());
    assert!(done.agreed, "{}", done.said);
    relay.wait_for_sessions(20.0);
}

#[test]
fn whoever_joined_leaves_when_another_is_not_let_in() {
    let relay = Relay::start("127.77.1.8", &[]);
    let (code, said) = complaint(command(&relay, &["--sessions", "100", "--rooms", "1"]));
    let wanted = " is refused: room_full; how many members a room may have is the relay's bound, 64 by default: expected more --rooms\n";
    assert!(code == Some(2) && said.ends_with(wanted), "{code:?}: {said}");
    relay.wait_for_sessions(0.0);
    let done = load(&relay, &SHAPE, PAUSE, || ());
    assert!(done.agreed, "{}", done.said);
}

#[test]
fn joining_may_take_longer_than_the_relay_bears_silence() {
    let relay = Relay::start("127.77.1.9", &["--idle", "2s", "--sessions", "100"]);
    // 120 packets of handshakes.
    let slow = ["--sessions", "60", "--rooms", "12", "--handshakes-per-second", "18", "--duration", "500ms"];
    let done = load(&relay, &slow, PAUSE, || ());
    assert!(done.agreed, "{}", done.said);
}

#[test]
fn a_session_lost_before_anything_is_sent_is_one_error_and_no_account() {
    let relay = Relay::start("127.77.1.10", &["--idle", "1s", "--sessions", "100"]);
    let slow = ["--sessions", "20", "--rooms", "4", "--handshakes-per-second", "20", "--duration", "500ms"];
    let mut process = command(&relay, &slow).spawn().unwrap();
    let signal = |signal| kill(Pid::from_raw(process.id() as i32), signal).unwrap();
    relay.wait_for_a_session();
    signal(Signal::SIGSTOP);
    relay.wait_for_sessions(0.0);
    signal(Signal::SIGCONT);
    let code = process.wait().unwrap().code();
    let said = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
    let wanted = " has joined, and the relay does not answer it any more; expected a relay whose sessions may be silent for more than a second (--idle)\n";
    assert!(code == Some(2) && said.starts_with("relay-load: session ") && said.ends_with(wanted), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_cannot_be_done_is_told_in_one_line_with_what_would_be_right() {
    let relay = Relay::start("127.77.1.5", &[]);
    let key = another_key();
    let mut forged = Command::new(env!("CARGO_BIN_EXE_relay-load"));
    forged.arg(relay.udp.to_string()).arg("--key-file").arg(key.path());
    let wanted = "relay-load: session 0 is refused: forged; the relay has another key: expected the relay's own in --key-file\n";
    assert_eq!(complaint(forged), (Some(2), wanted.to_owned()));

    for url in [format!("http://{}/nothing", relay.http), format!("{}/metrics", relay.http)] {
        let (code, said) = complaint(command(&relay, &["--sessions", "20", "--metrics", &url]));
        let begins = said.starts_with(&format!("relay-load: cannot read the relay's counts at {url}: "));
        let ends = said.ends_with("; expected http://ADDRESS/metrics of the relay\n");
        assert!(code == Some(2) && begins && ends, "{code:?}: {said}");
    }

    let load = command(&relay, &["--sessions", "100"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 50; exec \"$0\" \"$@\""]).arg(load.get_program()).args(load.get_args());
    let (code, said) = complaint(limited);
    let wanted = " of 100: too many open files; expected a limit of open files above 50 (ulimit -n), or more --sessions-per-socket\n";
    assert!(code == Some(2) && said.ends_with(wanted), "{code:?}: {said}");
}
