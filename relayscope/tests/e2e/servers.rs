//! Servers of other makes, as they come: TURN and STUN, HTTP/3, a plain QUIC one, and a reflector that knows
//! 44 octets and nothing else.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::peers::Peer;
use crate::relay::{Process, Relay, loopback, relayscope, run, wait_for};

/// Probes a target ten times a second until ten replies came, none lost; and once from the command line.
fn is_probed(ip: IpAddr, url: &str, settings: &str) -> Relay {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relayscope.toml");
    let target = format!("[[target]]\nname = \"t\"\naddress = \"{url}\"\ninterval = \"100ms\"\n{settings}");
    fs::write(&file, target).unwrap();
    let relay = Relay::start(ip, &["--config", file.to_str().unwrap()]);
    let series = |family: &str| format!("relay_probe_{family}{{target=\"t\",family=\"ipv4\"}}");
    relay.wait_sample(&series("received_total"), 10.0);
    relay.wait_state("t", "up");
    assert_eq!(relay.sample(&series("lost_total")), Some(0.0), "{}", relay.get("/metrics"));
    let rtt = relay.sample("relay_probe_rtt_ms{target=\"t\"}").unwrap();
    assert!(rtt > 0.0 && rtt < 1000.0, "{url}: {rtt} ms");
    relay
}

fn one_shot(arguments: &[&str]) -> String {
    let (status, stdout, stderr) =
        run(relayscope().arg("probe").args(["-c", "4", "-i", "50ms"]).args(arguments));
    assert!(status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("4 sent, 4 received, 0 lost"), "{stdout}");
    stdout
}

/// Starts a STUN server and waits until it answers.
fn stun_server(command: &mut Command, at: SocketAddr) -> Process {
    let process = Process::start(command.stderr(Stdio::null()));
    let url = format!("stun://{at}");
    wait_for(format_args!("{url} to answer"), || {
        let (status, ..) = run(relayscope().args(["probe", "-c", "1", "-W", "200ms", &url]));
        status.success().then_some(())
    });
    process
}

pub(crate) fn coturn() {
    let ip = loopback();
    let at = SocketAddr::new(ip, 3478);
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(Peer::Coturn.program());
    command.args(["-n", "--log-file", "stdout", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]);
    command.args(["--listening-ip", &ip.to_string(), "--relay-ip", &ip.to_string()]);
    command.arg("--userdb").arg(directory.path().join("turndb")).arg("--pidfile");
    command.arg(directory.path().join("pid"));
    let mut server = stun_server(&mut command, at);
    let relay = is_probed(ip, &format!("stun://{ip}"), "");
    let rebinds = "relay_probe_nat_rebinds_total{target=\"t\",family=\"ipv4\"}";
    assert_eq!(relay.sample(rebinds), Some(0.0));
    assert!(one_shot(&[&format!("stun://{at}")]).contains("seen at 127."), "where we are seen");
    server.kill();
    relay.wait_state("t", "down");
    relay.wait_sample("relay_probe_send_errors_total{target=\"t\",family=\"ipv4\",reason=\"refused\"}", 1.0);
}

/// Of 2003: it knows RFC 3489, in which the cookie is a part of the transaction id and addresses are plain.
pub(crate) fn stund() {
    let ip = loopback();
    let alternate = loopback();
    let mut command = Command::new(Peer::Stund.program());
    command.args(["-h", &ip.to_string(), "-a", &alternate.to_string(), "-p", "3478", "-o", "3479"]);
    let _server = stun_server(&mut command, SocketAddr::new(ip, 3478));
    is_probed(ip, &format!("stun://{ip}"), "");
}

/// caddy with a certificate of its own authority, HTTP/3 on the same port.
fn caddy(directory: &TempDir, at: SocketAddr) -> (Process, String) {
    let caddyfile = directory.path().join("Caddyfile");
    let site = format!(
        "{{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}}\n\
         https://caddy.test:{port} {{\n bind {ip}\n tls internal\n respond \"ok\"\n}}\n",
        port = at.port(),
        ip = at.ip()
    );
    fs::write(&caddyfile, site).unwrap();
    let mut command = Command::new(Peer::Caddy.program());
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(caddyfile);
    command.env("XDG_DATA_HOME", directory.path()).env("XDG_CONFIG_HOME", directory.path());
    command.env("HOME", directory.path());
    let server = Process::start(command.stderr(Stdio::null()));
    let root = directory.path().join("caddy/pki/authorities/local/root.crt");
    wait_for("caddy's own authority", || root.is_file().then_some(()));
    (server, root.to_str().unwrap().to_owned())
}

pub(crate) fn caddy_http3() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let at = SocketAddr::new(ip, 8443);
    let (_server, root) = caddy(&directory, at);
    let settings = format!("server_name = \"caddy.test\"\nca_file = \"{root}\"\nalpn = [\"h3\"]\n");
    check_quic(ip, &format!("quic://{at}"), &settings);

    // Not trusted by anybody but who pins its authority.
    let (status, _, stderr) = run(relayscope().args(["probe", "-c", "1", &format!("quic://{at}")]));
    assert_eq!(status.code(), Some(2), "{stderr}");
}

pub(crate) fn aioquic() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let at = SocketAddr::new(ip, 8443);
    let certificate = directory.path().join("certificate.pem");
    let mut command = Command::new(Peer::Aioquic.program());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/aioquic_server.py"));
    command.args(["--listen", &at.to_string(), "--certificate"]).arg(&certificate);
    let mut server = Process::start(&mut command);
    server.line("ready", |line| line.starts_with("ready").then_some(()));
    let ca_file = certificate.to_str().unwrap();
    let settings = format!("server_name = \"aioquic.test\"\nca_file = \"{ca_file}\"\nalpn = [\"h3\"]\n");
    let relay = check_quic(ip, &format!("quic://{at}"), &settings);
    one_shot(&["--insecure", &format!("quic://{at}")]);

    let (status, _, stderr) = run(relayscope().args(["probe", "-c", "1", &format!("quic://{at}")]));
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("certificate not trusted") && stderr.lines().count() == 1, "{stderr}");

    server.kill();
    relay.wait_state("t", "down");
}

fn check_quic(ip: IpAddr, url: &str, settings: &str) -> Relay {
    let relay = is_probed(ip, url, settings);
    let endpoint = "{target=\"t\",family=\"ipv4\"}";
    assert_eq!(relay.sample(&format!("relay_probe_connected{endpoint}")), Some(1.0));
    assert_eq!(relay.sample(&format!("relay_probe_handshake_seconds_count{endpoint}")), Some(1.0));
    let took = relay.sample(&format!("relay_probe_handshake_seconds_sum{endpoint}")).unwrap();
    assert!(took > 0.0 && took < 5.0, "{took} s");
    let path_rtt = relay.sample(&format!("relay_probe_path_rtt_seconds{endpoint}")).unwrap();
    assert!(path_rtt > 0.0 && path_rtt < 1.0, "{path_rtt} s");
    assert!(relay.sample(&format!("relay_probe_path_mtu_bytes{endpoint}")).unwrap() >= 1200.0);
    relay
}

/// A TWAMP-light style peer: 44 octets in, 44 octets out, no SSID, and nothing for anything else.
struct Plain {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Plain {
    fn start(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let count = AtomicU32::new(0);
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut octets = [0; 45];
                let Ok((44, client)) = socket.recv_from(&mut octets) else { continue };
                let mut reply = [0; 44];
                reply[..4].copy_from_slice(&count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
                // T3 and T2 are 2^-12 s apart.
                reply[4..12].copy_from_slice(&(7u64 << 32 | 1 << 20).to_be_bytes());
                reply[13] = 1;
                reply[16..24].copy_from_slice(&(7u64 << 32).to_be_bytes());
                reply[24..28].copy_from_slice(&octets[..4]);
                reply[28..36].copy_from_slice(&octets[4..12]);
                reply[36..38].copy_from_slice(&octets[12..14]);
                reply[40] = 255;
                socket.send_to(&reply, client).unwrap();
            }
        };
        Self { stop, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

pub(crate) fn plain_44_octets() {
    let ip = loopback();
    let at = SocketAddr::new(ip, 862);
    let plain = Plain::start(at);
    let relay = is_probed(ip, &at.to_string(), "");
    one_shot(&[&at.to_string()]);
    drop(plain);
    relay.wait_state("t", "down");
}

pub(crate) fn tcp_listener() {
    let ip = loopback();
    let at = SocketAddr::new(ip, 8080);
    let listener = std::net::TcpListener::bind(at).unwrap();
    std::thread::spawn(
        move || {
            while listener.accept().is_ok_and(|(stream, _)| stream.peer_addr().is_ok()) {}
        },
    );
    is_probed(ip, &format!("tcp://{at}"), "");
    one_shot(&[&format!("tcp://{at}")]);
}
