//! What the kernel takes for a probe, whoever sends it: `sendto` and `recvfrom` on one socket, nothing
//! recorded, against an echo in another thread whose CPU is not counted.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use relayscope_benches::process::{cpu_of_this_thread, on_core};

/// As long as a STAMP packet.
const PACKET_LEN: usize = 44;
/// Sent before the echoes are read: enough that the sender seldom sleeps, which would be counted.
const BURST: u32 = 64;
const SENDER_CORE: usize = 1;
const ECHO_CORE: usize = 0;
const ECHO_POLL: Duration = Duration::from_millis(50);
/// As long as the shard's slots.
const SLOT: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(2);

/// Microseconds of CPU per round trip, flat out. The echo is on the same core: nothing wakes another core
/// and nobody contends for the socket, so this is the least there is.
pub(crate) fn flat_out(round_trips: u32) -> f64 {
    against_echo(SENDER_CORE, |socket, echo| {
        let mut packet = [0; PACKET_LEN];
        for _ in 0..round_trips / BURST {
            for _ in 0..BURST {
                socket.send_to(&packet, echo).unwrap();
            }
            for _ in 0..BURST {
                // The socket's patience is the check that none is lost.
                socket.recv_from(&mut packet).unwrap();
            }
        }
        round_trips / BURST * BURST
    })
}

/// The same, at a pace: one wake every 20 ms, which reads what came since the last and sends its share.
/// The echo is on the other core, as our reflector is.
pub(crate) fn paced(per_second: u32, time: Duration) -> f64 {
    let wakes = u32::try_from(time.as_nanos() / SLOT.as_nanos()).unwrap();
    let per_wake = per_second / 50;
    against_echo(ECHO_CORE, |socket, echo| {
        socket.set_nonblocking(true).unwrap();
        let (began, mut received, mut packet) = (Instant::now(), 0, [0; PACKET_LEN]);
        for wake in 0..=wakes {
            sleep((began + SLOT * wake).saturating_duration_since(Instant::now()));
            loop {
                match socket.recv_from(&mut packet) {
                    Ok(_) => received += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            if wake < wakes {
                (0..per_wake).for_each(|_| assert!(socket.send_to(&packet, echo).is_ok()));
            }
        }
        let sent = wakes * per_wake;
        assert!(received > sent / 10 * 9, "{received} echoes of {sent}: the machine is too busy to measure");
        received
    })
}

/// CPU per round trip of what `send` does on its core, and says how many there were.
fn against_echo(echo_core: usize, send: impl FnOnce(&UdpSocket, SocketAddr) -> u32) -> f64 {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    echo.set_read_timeout(Some(ECHO_POLL)).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = echo.local_addr().unwrap();
    let stop = AtomicBool::new(false);
    scope(|scope| {
        on_core(echo_core, || {
            scope.spawn(|| {
                let mut packet = [0; PACKET_LEN];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, source)) = echo.recv_from(&mut packet) {
                        echo.send_to(&packet[..length], source).unwrap();
                    }
                }
            })
        });
        // Told to end even by a panic, or the scope would wait for it for good.
        let _stops = Stops(&stop);
        on_core(SENDER_CORE, || {
            let before = cpu_of_this_thread();
            let round_trips = send(&socket, address);
            let cpu = cpu_of_this_thread() - before;
            cpu.as_secs_f64() * 1e6 / f64::from(round_trips)
        })
    })
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
