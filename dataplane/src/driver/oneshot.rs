//! Probes one target from an ordinary thread, like ping. No shard, no io_uring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock;
use super::udp::{BindError, UdpPort};
use crate::clock::{Monotonic, nanos};
use crate::probe::stamp::{ProbeEvent, Session, SessionConfig};
use crate::stall::Stalls;

/// How long a request to stop may go unnoticed.
const STOP_LATENCY_MS: u16 = 100;

/// What to probe, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oneshot {
    /// The reflector.
    pub target: SocketAddr,
    /// Probes to send.
    pub count: u32,
    /// Time from probe to probe.
    pub interval: Duration,
    /// Tmax.
    pub timeout: Duration,
}

/// A one-shot probe that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OneshotError {
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Waiting failed.
    #[error("cannot wait for replies: {0}")]
    Wait(#[source] io::Error),
}

/// Sends all probes on time and hands each event to `report`, until the last has settled or `stop` says
/// so. Returns how many were sent: those without an event are still in flight.
///
/// # Errors
/// [`OneshotError`]; replies that are none are not errors.
pub fn run(
    oneshot: Oneshot,
    stop: impl Fn() -> bool,
    mut report: impl FnMut(ProbeEvent),
) -> Result<u32, OneshotError> {
    let Oneshot { target, count, interval, timeout } = oneshot;
    let mut port = UdpPort::ephemeral(target.is_ipv6())?;
    let mut session = Session::new(SessionConfig { interval, timeout, ssid: 1 });
    let mut stalls = Stalls::default();
    let mut started = clock::monotonic();
    let mut deadlines = std::collections::VecDeque::new();
    let began = started;
    let mut planned = started;
    let mut sent = 0;
    while (sent < count || !deadlines.is_empty()) && !stop() {
        let now = clock::now();
        // A wake that replies brought early is no stall; a late one is.
        stalls.handle_wake(planned.max(began), now.monotonic);
        read(&mut port, &mut session, &mut report);
        while let Some(&(sequence, at)) = deadlines.front() {
            if session.is_in_flight(sequence) && at > now.monotonic {
                break;
            }
            session.handle_deadline(sequence, &stalls, &mut report);
            deadlines.pop_front();
        }
        let next_send = started + interval.saturating_mul(sent);
        if sent < count && next_send <= now.monotonic {
            // Slots that passed unserved are not made up for: a burst measures nothing.
            let late = now.monotonic.since(next_send);
            let missed = nanos(late) / nanos(interval).max(1);
            started = started + Duration::from_nanos(missed.saturating_mul(nanos(interval)));
            let stamped = clock::now();
            let probe = session.transmit(stamped, &mut report);
            let result = port.send(&probe.packet, target);
            let took = clock::monotonic().since(stamped.monotonic);
            session.handle_sent(probe.sequence, took, result, &mut report);
            deadlines.push_back((probe.sequence, probe.deadline));
            sent += 1;
        }
        let next_send = (sent < count).then(|| started + interval.saturating_mul(sent));
        let next_deadline = deadlines.front().map(|deadline| deadline.1);
        let Some(next) = next_send.into_iter().chain(next_deadline).min() else { continue };
        planned = next;
        wait(&port, next)?;
    }
    Ok(sent)
}

fn read(port: &mut UdpPort, session: &mut Session, report: &mut impl FnMut(ProbeEvent)) {
    let result = port.read(|_, arrivals, datagram, _| {
        let arrival = arrivals.arrival(datagram.ancillary.received_at);
        if !datagram.truncated {
            // What is no reply is not for the person who asked.
            session.handle_reply(arrival, datagram.octets, report).ok();
        }
    });
    // An error read from the socket is about an earlier send, which times out by itself.
    result.ok();
}

fn wait(port: &UdpPort, until: Monotonic) -> Result<(), OneshotError> {
    let left = until.since(clock::monotonic());
    // Rounded up to whole milliseconds, so that a short rest does not spin.
    let millis = left.as_nanos().div_ceil(1_000_000).min(STOP_LATENCY_MS.into());
    let timeout = PollTimeout::from(u16::try_from(millis).unwrap_or(STOP_LATENCY_MS));
    match poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(OneshotError::Wait(error.into())),
    }
}
