//! What the command line says when something is wrong, and the small verbs.

use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use crate::relay::{Relay, loopback, relayscope, run};

/// The exit code and the only line on stderr.
fn failure(command: &mut Command) -> (Option<i32>, String) {
    let (status, stdout, stderr) = run(command);
    assert_eq!(stdout, "", "nothing but the error");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    (status.code(), stderr.trim_end().to_owned())
}

pub(crate) fn bad_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[probe]\ntimeout = \"-1s\"\n").unwrap();
    let file = file.to_str().unwrap();
    let relays = directory.path().join("relays.toml");
    let relay = "[[relay]]\nname = \"b\"\nurl = \"http://b\"\nuser = \"alice\"\npassword_file = \"none\"\n";
    std::fs::write(&relays, relay).unwrap();
    let relays = relays.to_str().unwrap();
    for (arguments, expected) in [
        (&["--frobnicate"][..], "unexpected argument '--frobnicate' found; see --help"),
        (&["run", "--listen", "nowhere"], "'nowhere' is no address; expected IP:PORT such as 127.0.0.1:9862"),
        (&["--reflect", "1.2.3.4:x"], "'1.2.3.4:x' is no address; expected IP:PORT such as 127.0.0.1:8620"),
        (&["--probe", "b=a b"], "'a b' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
        (&["--probe", "b=ftp://h"], "protocol 'ftp' is not known; expected stamp, stun, quic or tcp"),
        (&["probe", "tcp://h"], "'h' is no address with a port; expected HOST:PORT or [IPV6]:PORT"),
        (&["--probe", "b=1.1.1.1", "--probe", "b=1.1.1.2"], "--probe b: named twice"),
        (&["--cores", "99"], "core 99 is not available; this process may use 0"),
        (&["--cores", "zero"], "--cores: core list 'zero' is invalid; expected numbers below 1024"),
        (&["--config", "/nonexistent.toml"], "cannot read /nonexistent.toml: No such file or directory"),
        (
            &["check-config", file],
            "bad.toml: probe.timeout: \"-1s\" is invalid; expected a time from 1ms to 1m",
        ),
        (&["check-config", relays], "relay 'b': password_file: cannot read "),
        (&["run", "--config", relays], "relay 'b': password_file: cannot read "),
        (&["controlplane", "--config", relays], "relay 'b': password_file: cannot read "),
        (&["probe", "127.0.0.1", "-c", "0"], "invalid value '0' for '-c <N>'"),
        (&["probe", "127.0.0.1", "-i", "soon"], "expected a time from 1ms to 1h, such as 200ms"),
        (&["tap", "-n", "0"], "invalid value '0' for '-n <COUNT>'"),
        (
            &["tap", "--since", "then"],
            "invalid value 'then' for '--since <SINCE>' [possible values: now, oldest]",
        ),
        (&["tap", "--duration", "0s"], "expected a time from 1ms to 366days, such as 10s"),
        (&["tap", "--segment", ".."], "expected a path, or a name for a file in /run/relayscope"),
        (&["top", "--interval", "1ms"], "expected a time from 50ms to 1m, such as 500ms"),
        (&["autopsy"], "the following required arguments were not provided: <FILE>"),
        (&["mesh-status", "--url", "ftp://x"], "--url 'ftp://x' is invalid; expected http://HOST:PORT"),
        (
            &["--alertmanager", "http://u:s3cret/w@h:9093"],
            "--alertmanager: 'http://h:9093' with an '@' after the host is invalid",
        ),
        (&["controlplane", "--alertmanager", "u:s3cret@h"], "'h' is invalid; expected http[s]://HOST[:PORT]"),
    ] {
        let (code, line) = failure(relayscope().args(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {line}");
        assert!(line.starts_with("relayscope: ") && line.contains(expected), "{arguments:?}: {line}");
        assert!(!line.contains("s3cret"), "a password is nobody's business: {line}");
    }
}

pub(crate) fn busy_port() {
    let ip = loopback();
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let http = listener.local_addr().unwrap();
    let (code, line) = failure(relayscope().args(["--listen", &http.to_string()]));
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(&format!("port {} is taken", http.port())), "{line}");

    let holder = UdpSocket::bind((ip, 0)).unwrap();
    let udp = holder.local_addr().unwrap();
    let listen = format!("{ip}:9862");
    let (code, line) = failure(relayscope().args(["--listen", &listen, "--reflect", &udp.to_string()]));
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(&format!("port {} is taken", udp.port())), "{line}");
}

pub(crate) fn check_and_print() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relayscope.toml");
    let (status, printed, _) = run(relayscope().args(["print-config", "--probe", "b=192.0.2.1"]));
    assert!(status.success());
    std::fs::write(&file, &printed).unwrap();
    let (status, said, _) = run(relayscope().arg("check-config").arg(&file));
    assert!(status.success());
    assert!(said.ends_with(": valid, 1 targets, 0 reflectors"), "{said}");
    assert!(
        printed.contains("protocol = \"stamp\"\n") && printed.contains("group = \"default\"\n"),
        "{printed}"
    );
    let (_, again, _) = run(relayscope().arg("print-config").arg("--config").arg(&file));
    assert_eq!(again, printed);
}

pub(crate) fn one_shot_probe() {
    let ip = loopback();
    let reflector = format!("{ip}:8620");
    let relay = Relay::start(ip, &["--reflect", &reflector]);
    let (status, stdout, _) = run(relayscope().args(["probe", &reflector, "-c", "3", "-i", "50ms"]));
    assert_eq!(status.code(), Some(0), "{stdout}");
    for sequence in 0..3 {
        assert!(stdout.contains(&format!("seq={sequence} rtt=")), "{stdout}");
    }
    assert!(stdout.contains("3 received, 0 lost (0.0 % loss)"), "{stdout}");
    drop(relay);

    let silent = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().to_string();
    let (status, stdout, _) =
        run(relayscope().args(["probe", &silent, "-c", "2", "-i", "50ms", "-W", "200ms"]));
    assert_eq!(status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("0 received, 2 lost (100.0 % loss)"), "{stdout}");
}
