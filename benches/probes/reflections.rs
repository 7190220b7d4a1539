//! Reflectors under a flood: one sender on core 1, the same for all, keeps so many requests outstanding and
//! never sleeps; the reflector is on core 0.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use relayscope_benches::process::{Service, on_core};

use crate::load::IRTT_PORT;
use crate::{irtt, stamp_suite};

/// Requests outstanding: enough that the reflector need not wait, few enough for a stock receive buffer.
pub(crate) const OUTSTANDING: u32 = 192;
/// More are sent once so many are left, and then all that are missing at once: the reflector works meanwhile.
/// Topped up one by one it would sleep and be woken for each, and waking it is what the sender would do.
const REFILL_AT: u32 = OUTSTANDING / 2;
/// After this long without an answer what is outstanding is lost.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long irtt may take to open a session.
const OPENING_MAX: Duration = Duration::from_secs(2);
const WARM: Duration = Duration::from_millis(500);
const START_MAX: Duration = Duration::from_secs(10);
/// Its client's opening is passed on once.
const IRTT_START: Duration = Duration::from_secs(1);
const STAMP_PORT: u16 = 18_622;
const HTTP: &str = "127.0.0.1:19866";
/// Octets 0..4 of a STAMP request are its sequence number.
const STAMP_LEN: usize = 44;
/// irtt's: three octets of magic, one of flags, eight of a token, then the sequence number.
const IRTT_SEQUENCE_AT: usize = 12;
const DATAGRAM_MAX: usize = 2048;

/// What one reflector did.
pub(crate) struct Reflected {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
    /// Of the reflector's core. Where it is not all, the sender is what limits.
    pub(crate) busy: f64,
    pub(crate) lost: u64,
    pub(crate) note: &'static str,
}

pub(crate) fn ours(relayscope: &str, time: Duration) -> Reflected {
    let mut command = Command::new(relayscope);
    let listen = format!("127.0.0.1:{STAMP_PORT}");
    command.args(["run", "--listen", HTTP, "--reflect", &listen, "--cores", "0"]);
    let service = Service::start_relayscope(&mut command);
    let result = flood_stamp(&service, time, "stateful");
    assert!(service.stop().success(), "relayscope ends with success");
    result
}

/// `None` where it is not installed.
pub(crate) fn stamp_suite(time: Duration) -> Option<Reflected> {
    let service = on_core(0, || stamp_suite::reflect(STAMP_PORT))?;
    Some(flood_stamp(&service, time, "stateless, its default"))
}

/// `None` where it is not installed.
pub(crate) fn irtt(time: Duration) -> Option<Reflected> {
    let service = on_core(0, irtt::serve)?;
    sleep(IRTT_START);
    let (socket, request) = irtt_session()?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, IRTT_PORT));
    let sequence_at = |n: u32, request: &mut [u8]| {
        request[IRTT_SEQUENCE_AT..IRTT_SEQUENCE_AT + 4].copy_from_slice(&n.to_le_bytes());
    };
    let note = "counted per session";
    Some(flood(&service, &socket, server, Flood { request, number: sequence_at, time, note }))
}

fn flood_stamp(service: &Service, time: Duration, note: &'static str) -> Reflected {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let reflector = SocketAddr::from((Ipv4Addr::LOCALHOST, STAMP_PORT));
    let mut request = vec![0; STAMP_LEN];
    // An error estimate must not be 0.
    request[13] = 1;
    let number = |n: u32, request: &mut [u8]| request[..4].copy_from_slice(&n.to_be_bytes());
    flood(service, &socket, reflector, Flood { request, number, time, note })
}

/// A session with irtt's server, and one request of it: its own client opens it through a socket of
/// ours, which then goes on in its place.
fn irtt_session() -> Option<(UdpSocket, Vec<u8>)> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, IRTT_PORT));
    let (inner, outer) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for socket in [&inner, &outer] {
        socket.set_read_timeout(Some(OPENING_MAX)).unwrap();
    }
    let mut client = Command::new("irtt");
    client.args(["client", "-Q", "-i", "100ms", "-d", "1s", "--wait=100ms"]);
    let client = Service::start(client.arg(inner.local_addr().unwrap().to_string()))?;
    let mut octets = [0; DATAGRAM_MAX];
    let (opening, from) = inner.recv_from(&mut octets).unwrap();
    outer.send_to(&octets[..opening], server).unwrap();
    let (opened, _) = outer.recv_from(&mut octets).unwrap();
    inner.send_to(&octets[..opened], from).unwrap();
    let (length, _) = inner.recv_from(&mut octets).unwrap();
    drop(client);
    Some((outer, octets[..length].to_vec()))
}

struct Flood<N> {
    request: Vec<u8>,
    /// Writes the sequence number.
    number: N,
    time: Duration,
    note: &'static str,
}

fn flood<N: Fn(u32, &mut [u8])>(
    service: &Service,
    socket: &UdpSocket,
    reflector: SocketAddr,
    mut flood: Flood<N>,
) -> Reflected {
    wait_until_it_answers(socket, reflector, &flood.request);
    socket.set_nonblocking(true).unwrap();
    on_core(1, || {
        let (mut next, mut lost) = (0, 0);
        answered(socket, reflector, &mut flood, WARM, (&mut next, &mut lost));
        lost = 0;
        let (cpu, began) = (service.cpu(), Instant::now());
        let time = flood.time;
        let answers = answered(socket, reflector, &mut flood, time, (&mut next, &mut lost));
        let elapsed = began.elapsed().as_secs_f64();
        let cpu = (service.cpu() - cpu).as_secs_f64();
        assert!(answers > 0.0, "the reflector answers");
        Reflected {
            per_second: answers / elapsed,
            cpu_us: cpu * 1e6 / answers,
            busy: cpu / elapsed,
            lost,
            note: flood.note,
        }
    })
}

fn wait_until_it_answers(socket: &UdpSocket, reflector: SocketAddr, request: &[u8]) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let deadline = Instant::now() + START_MAX;
    let mut octets = [0; DATAGRAM_MAX];
    while socket.send_to(request, reflector).is_err() || socket.recv_from(&mut octets).is_err() {
        assert!(Instant::now() < deadline, "no answer from {reflector} within {START_MAX:?}");
    }
}

/// Floods for so long; how many answers that brought. What is outstanding at the end is read too.
fn answered<N: Fn(u32, &mut [u8])>(
    socket: &UdpSocket,
    reflector: SocketAddr,
    flood: &mut Flood<N>,
    time: Duration,
    (next, lost): (&mut u32, &mut u64),
) -> f64 {
    let (began, mut answers, mut outstanding) = (Instant::now(), 0.0, 0);
    let (mut answered_at, mut octets) = (began, [0; DATAGRAM_MAX]);
    loop {
        let now = Instant::now();
        if now.duration_since(answered_at) > PATIENCE {
            *lost += u64::from(std::mem::take(&mut outstanding));
            answered_at = now;
        }
        let over = now.duration_since(began) >= time;
        let refill = if over || outstanding > REFILL_AT { 0 } else { OUTSTANDING - outstanding };
        for _ in 0..refill {
            (flood.number)(*next, &mut flood.request);
            socket.send_to(&flood.request, reflector).unwrap();
            *next = next.wrapping_add(1);
            outstanding += 1;
        }
        if outstanding == 0 {
            return answers;
        }
        // One that was given up may still come.
        while socket.recv_from(&mut octets).is_ok() {
            answers += 1.0;
            outstanding = u32::saturating_sub(outstanding, 1);
            answered_at = now;
        }
    }
}
