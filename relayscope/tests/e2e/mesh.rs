//! Two relays on loopback, and what each sees of the other.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::relay::{Process, Relay, loopback, relayscope, run, sample, wait_for};

/// What the relays are started with, and what a DOWN may take: interval + Tmax + 1 s.
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const DOWN_MAX: Duration = Duration::from_secs(1).saturating_add(INTERVAL).saturating_add(TIMEOUT);

pub(crate) fn up_down_and_up_again() {
    let (a_ip, b_ip) = (loopback(), loopback());
    let (a_addr, b_addr) = (format!("{a_ip}:8620"), format!("{b_ip}:8621"));
    let (to_a, to_b) = (format!("a={a_addr}"), format!("b={b_addr}"));
    let b_arguments = ["--reflect", &b_addr, "--probe", &to_a];
    let a = Relay::start(a_ip, &["--reflect", &a_addr, "--probe", &to_b]);
    let mut b = Relay::start(b_ip, &b_arguments);
    a.wait_state("b", "up");
    b.wait_state("a", "up");
    for (relay, target) in [(&a, "b"), (&b, "a")] {
        let (status, table, _) =
            run(relayscope().args(["mesh-status", "--url", &format!("http://{}", relay.http)]));
        assert!(status.success());
        assert!(table.contains("1 of 1 targets up"), "{table}");
        assert!(table.lines().any(|line| line.starts_with(target) && line.contains("UP")), "{table}");
    }
    let rtt = a.sample("relay_probe_rtt_ms{target=\"b\"}").unwrap();
    assert!(rtt > 0.0 && rtt < 1000.0, "{rtt} ms");
    assert_eq!(a.sample("relay_mesh_peers"), Some(1.0));

    b.process.kill();
    let killed = Instant::now();
    a.wait_state("b", "down");
    assert!(killed.elapsed() <= DOWN_MAX, "DOWN took {:?}", killed.elapsed());
    let row = a.row("b");
    assert_eq!(row["rtt_ms"], Value::Null, "{row}");
    let scrape = a.get("/metrics");
    assert_eq!(sample(&scrape, "relay_probe_up{target=\"b\"}"), Some(0.0));
    assert_eq!(sample(&scrape, "relay_probe_rtt_ms{target=\"b\"}"), None);
    assert_eq!(sample(&scrape, "relay_mesh_peers"), Some(0.0));
    let loss = sample(&scrape, "relay_probe_window_loss_ratio{target=\"b\",family=\"ipv4\"}").unwrap();
    assert!(loss > 0.0);
    a.wait_sample("relay_probe_window_loss_ratio{target=\"b\",family=\"ipv4\"}", loss + f64::EPSILON);

    let b = Relay::start(b_ip, &b_arguments);
    a.wait_state("b", "up");
    b.wait_state("a", "up");
    assert!(a.sample("relay_probe_rtt_ms{target=\"b\"}").is_some());
}

pub(crate) fn no_targets() {
    let ip = loopback();
    let relay = Relay::start(ip, &["--reflect", &format!("{ip}:8620")]);
    assert!(relay.get("/mesh").starts_with("no targets are configured\n"));
    assert_eq!(relay.sample("relay_mesh_targets"), Some(0.0));
    assert_eq!(relay.sample("relay_mesh_running"), Some(1.0));
}

/// A reflector bound to any address answers from the one that was probed, or the sender would not
/// know the reply; over both families.
pub(crate) fn any_address() {
    let (ip, elsewhere) = (loopback(), loopback());
    // Ports of their own: the wildcard takes them on every loopback address.
    let v4 = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap();
    let v6 = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap();
    let relay = Relay::start(
        ip,
        &[
            "--reflect",
            &v4.to_string(),
            "--reflect",
            &v6.to_string(),
            "--probe",
            &format!("elsewhere={elsewhere}:{}", v4.port()),
            "--probe",
            &format!("six=[::1]:{}", v6.port()),
        ],
    );
    relay.wait_state("elsewhere", "up");
    relay.wait_state("six", "up");
    let scrape = relay.get("/metrics");
    let info = scrape.lines().find(|line| line.starts_with("relay_target_info{target=\"six\"")).unwrap();
    assert!(info.contains("family=\"ipv6\"") && info.contains("protocol=\"stamp\""), "{info}");
}

pub(crate) fn signals_drain() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let ip = loopback();
        let mut relay =
            Relay::start(ip, &["--reflect", &format!("{ip}:8620"), "--probe", &format!("self={ip}:8620")]);
        relay.wait_state("self", "up");
        relay.process.signal(signal);
        let status = relay.process.wait();
        assert_eq!(status.code(), Some(0), "{signal}");
        wait_for("the port to be free", || std::net::TcpListener::bind(relay.http).ok());
    }
}

/// As with `2>&1 | tee log` when tee is gone.
pub(crate) fn log_is_gone() {
    let ip = loopback();
    let mut command = relayscope();
    let (listen, reflect) = (format!("{ip}:9862"), format!("{ip}:8620"));
    command.args(["run", "--listen", &listen, "--reflect", &reflect]).stderr(Stdio::piped());
    let mut process = Process::start(&mut command);
    drop(process.stderr());
    let mut relay = Relay { process, http: listen.parse().unwrap() };
    relay.wait_ready();
    // Each of these is logged.
    relay.process.signal(Signal::SIGHUP);
    wait_for("the relay to go on", || relay.sample("relay_mesh_running"));
    relay.process.signal(Signal::SIGTERM);
    assert_eq!(relay.process.wait().code(), Some(0));
}
