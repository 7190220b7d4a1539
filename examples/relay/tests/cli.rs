//! What `example-relay` says to who runs it: one line for what is wrong, and what would be right.
#![expect(clippy::unwrap_used, reason = "for tests alone")]

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::{NamedTempFile, TempDir};

const KEY: &[u8] = b"thirty-two octets of a test's key";

fn example_relay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_example-relay")).args(arguments).output().unwrap()
}

/// How it ended, and the whole of what it complained of.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = example_relay(arguments);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Where nothing else is, and it ends at once if it starts after all.
const AT: [&str; 8] =
    ["--duration", "0s", "--listen", "127.77.4.1:0", "--http", "127.77.4.1:0", "--reflect", "127.77.4.1:0"];

fn key_file() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEY).unwrap();
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What cannot be done is one line, and ends it with 2.
fn one_line(arguments: &[&str], says: &str) {
    assert_eq!(refused(arguments), (Some(2), format!("example-relay: {says}\n")), "{arguments:?}");
}

/// What clap finds: the first line is the error, the rest is clap's.
fn invalid(arguments: &[&str], says: &str) {
    let (code, said) = refused(arguments);
    assert_eq!((code, said.lines().next()), (Some(2), Some(says)), "{arguments:?}");
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let udp = UdpSocket::bind("127.77.4.2:0").unwrap();
    let (at, port) = (udp.local_addr().unwrap().to_string(), udp.local_addr().unwrap().port());
    let taken = format!(
        "cannot bind UDP {at}: Address already in use (os error 98); port {port} is taken, \
         stop its owner or choose another port"
    );
    let http = ["--duration", "0s", "--http", "127.77.4.2:0"];
    one_line(&[&http[..], &["--listen", &at, "--reflect", "127.77.4.2:0"]].concat(), &taken);
    one_line(&[&http[..], &["--listen", "127.77.4.2:0", "--reflect", &at]].concat(), &taken);

    let tcp = TcpListener::bind("127.77.4.2:0").unwrap();
    let at = tcp.local_addr().unwrap().to_string();
    let taken = format!(
        "cannot serve HTTP at {at}: Address already in use (os error 98); choose another \
         address, or port 0 for a free one"
    );
    let udp = ["--duration", "0s", "--listen", "127.77.4.2:0", "--reflect", "127.77.4.2:0"];
    one_line(&[&udp[..], &["--http", &at]].concat(), &taken);
    one_line(&[&udp[..], &["--http", "127.77.4.2:0", "--web", &at]].concat(), &taken);
}

#[test]
fn cores_that_are_no_list_or_not_there_are_named() {
    let with = |list, says: &str| one_line(&[&AT[..], &["--cores", list]].concat(), says);
    let syntax = "core list 'all' is invalid; expected numbers below 1024 and ranges such as 0,2-3";
    with("all", syntax);
    with("0,0", "core 0 is listed twice; each shard needs a core of its own");
    with("0-256", "257 cores are invalid; expected 1 to 256");
    let (code, said) = refused(&[&AT[..], &["--cores", "1023"]].concat());
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    // Then come the cores of this host.
    assert!(said.starts_with("example-relay: core 1023 is not available; this process may use "), "{said}");
}

#[test]
fn a_key_file_that_is_no_key_is_named() {
    let folder = TempDir::new().unwrap();
    let (missing, short) = (folder.path().join("missing"), folder.path().join("short"));
    std::fs::write(&short, b"fifteen octets.").unwrap();
    let (missing, short) = (text(&missing), text(&short));
    let no_file = format!("key file {missing}: No such file or directory (os error 2)");
    let no_key = format!(
        "key file {short}: key of 15 octets is invalid; expected 16 to 64, or twice as many hex digits"
    );
    for (file, says) in [(missing, no_file), (short, no_key)] {
        one_line(&[&AT[..], &["--key-file", file]].concat(), &says);
        one_line(&["token", "--name", "ada", "--key-file", file], &says);
    }
}

#[test]
fn a_token_is_one_line_and_for_plain_names_and_an_hour_at_most() {
    let key = key_file();
    let token = ["token", "--key-file", text(key.path())];
    let with = |more: &[&'static str]| [&token[..], more].concat();
    for more in [&["--name", "ada"][..], &["--name", "ada", "--ttl", "1h"], &["--name", "ada", "--ttl", "1s"]]
    {
        let output = example_relay(&with(more));
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{more:?}");
        // 1 + 8 + 16 + (1 + 5) + (1 + 3) + 16 octets as base64, and the end of the line.
        assert_eq!(output.stdout.len(), 68 + 1, "{more:?}");
    }
    let name = r#"name "a b" is invalid; expected 1 to 64 of the letters a-z, A-Z, 0-9, and . _ -"#;
    one_line(&with(&["--name", "a b"]), name);
    one_line(&with(&["--name", "ada", "--room", "a b"]), name);
    for ttl in ["0s", "999ms", "3601s"] {
        let says = format!("error: invalid value '{ttl}' for '--ttl <TTL>': expected 1s to 1h");
        invalid(&[&with(&["--name", "ada", "--ttl"])[..], &[ttl]].concat(), &says);
    }
}

#[test]
fn a_limit_with_which_nothing_would_work_is_refused_with_what_would_be_right() {
    for (flag, value, says) in [
        ("--idle", "0s", "for '--idle <IDLE>': expected 1s or more"),
        ("--idle", "999ms", "for '--idle <IDLE>': expected 1s or more"),
        ("--sessions", "0", "for '--sessions <SESSIONS>': 0 is not in 1..=16777216"),
        ("--sessions", "16777217", "for '--sessions <SESSIONS>': 16777217 is not in 1..=16777216"),
        (
            "--packets-per-second",
            "0",
            "for '--packets-per-second <PACKETS_PER_SECOND>': 0 is not in 1..=4294967295",
        ),
        (
            "--handshakes-per-second",
            "0",
            "for '--handshakes-per-second <HANDSHAKES_PER_SECOND>': 0 is not in 1..=4294967295",
        ),
        (
            "--probe",
            "=127.77.4.1:8625",
            "for '--probe <NAME=ADDRESS>': name \"\" is invalid; expected 1 to 64 of the letters a-z, A-Z, 0-9, \
             and . _ -",
        ),
        ("--probe", "127.77.4.1:8625", "for '--probe <NAME=ADDRESS>': expected NAME=ADDRESS"),
        (
            "--probe",
            "b=there",
            "for '--probe <NAME=ADDRESS>': invalid socket address syntax; expected NAME=IP:PORT",
        ),
    ] {
        invalid(&[&AT[..], &[flag, value]].concat(), &format!("error: invalid value '{value}' {says}"));
    }
    one_line(
        &[&AT[..], &["--shown-sessions", "8001", "--cores", "0"]].concat(),
        "8001 sessions with series of their own in each of 1 shards are too many; expected at most 8000, \
         as all shards together have room for 8000",
    );
    one_line(
        &[&AT[..], &["--shown-sessions", "4001", "--cores", "0-1"]].concat(),
        "4001 sessions with series of their own in each of 2 shards are too many; expected at most 4000, \
         as all shards together have room for 8000",
    );
    one_line(
        &["--listen", "127.77.4.1:65535", "--cores", "0-1", "--duration", "0s"],
        "2 shards at port 65535 and those that follow would go past port 65535; expected \
         a first port of at most 65534, or 0 for free ones",
    );
}

#[test]
fn at_its_end_it_says_what_became_of_each_shards_samples() {
    let output = example_relay(&AT);
    let (said, wrong) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), &wrong[..]), (Some(0), ""), "{said}");
    let accounts: Vec<_> = said.lines().filter(|line| line.contains(" recorded = ")).collect();
    assert_eq!(accounts.len(), 2, "the relay's and its probes': {said}");
    for (shard, line) in accounts.into_iter().enumerate() {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [recorded, delivered, lost, unread] = numbers[..] else { panic!("{line}") };
        let expected = format!(
            "shard {shard}: {recorded} recorded = {delivered} delivered + {lost} lost + {unread} unread"
        );
        assert_eq!(line, expected);
        assert_eq!((delivered, lost, unread), (recorded, 0, 0), "{line}");
    }
}

#[test]
fn a_wildcard_is_refused_as_answers_would_leave_from_elsewhere() {
    let says = "listening at 0.0.0.0 is refused: answers would leave from another address than clients asked; \
                name one of this host's";
    let elsewhere = ["--http", "127.77.4.1:0", "--reflect", "127.77.4.1:0", "--duration", "0s"];
    one_line(&[&elsewhere[..], &["--listen", "0.0.0.0:0"]].concat(), says);
}
