//! TCP connections on their way: made to be timed, closed as soon as they are there.
//!
//! The round trip is the kernel's own (`tcpi_rtt`, of the SYN and its answer), so that it is the same whenever
//! we come to look.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::mmsg;
use super::udp::send_error;
use crate::clock::{Monotonic, Now};
use crate::endpoint::Path;
use crate::preflight;
use crate::probe::SendError;

/// What has waited this long makes room where there is none: a host that is there would have answered, from
/// wherever on Earth.
const EVICTED_AFTER: Duration = Duration::from_millis(250);

struct Attempt<P> {
    probe: P,
    socket: Socket,
    began: Monotonic,
    /// When nobody waits for it any more.
    deadline: Monotonic,
}

/// The attempts of one shard, each for a probe that is known by a `P`. As many as there may be files, or
/// [`preflight::CONNECTS_MAX`].
///
/// Whoever does not answer must not keep those from being asked who do: where there is no room, or no file,
/// the attempt that has waited longest makes room. Its probe is lost at its own deadline.
pub(crate) struct Connects<P> {
    /// In the order they began.
    attempts: VecDeque<Attempt<P>>,
    max: usize,
    /// Of those that made room though they had come to an end; no more than there were sends since.
    ended: Vec<(P, Result<Duration, SendError>)>,
}

impl<P: Copy> Connects<P> {
    pub(crate) fn new() -> Self {
        Self::bounded(preflight::connects_max())
    }

    fn bounded(max: usize) -> Self {
        Self { attempts: VecDeque::new(), max, ended: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.ended.is_empty()
    }

    /// Sends the first packet of a connection.
    pub(crate) fn begin(
        &mut self,
        now: Now,
        probe: P,
        destination: SocketAddr,
        path: Path,
        deadline: Monotonic,
    ) -> Result<(), SendError> {
        if self.attempts.len() >= self.max && !self.make_room(now) {
            return Err(SendError::Exhausted);
        }
        let socket = match open(destination, path) {
            Err(error) if is_out_of_files(&error) && self.make_room(now) => open(destination, path),
            opened => opened,
        };
        let socket = socket.map_err(|error| open_error(&error))?;
        match socket.connect(&destination.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // A port nobody listens on answers at once over loopback: that is for the next look to tell.
            Err(error) if send_error(&error) == SendError::Refused => {}
            Err(error) => return Err(connect_error(&error, destination)),
        }
        self.attempts.push_back(Attempt { probe, socket, began: now.monotonic, deadline });
        Ok(())
    }

    /// Ends the attempt that has waited longest, if that was long enough. Whether it did.
    fn make_room(&mut self, now: Now) -> bool {
        let oldest = self.attempts.pop_front_if(|oldest| now.monotonic.since(oldest.began) >= EVICTED_AFTER);
        let Some(oldest) = oldest else { return false };
        if oldest.is_ready() {
            self.ended.push((oldest.probe, oldest.outcome(now)));
        }
        true
    }

    /// Hands over how those that came to an end did, and drops those nobody waits for any more. Does not
    /// wait. O(attempts).
    pub(crate) fn read(&mut self, now: Now, mut handle: impl FnMut(P, Result<Duration, SendError>)) {
        for (probe, result) in self.ended.drain(..) {
            handle(probe, result);
        }
        if self.attempts.is_empty() {
            return;
        }
        let mut waits: Vec<_> = self.attempts.iter().map(Attempt::wait).collect();
        // EINTR, the only error there can be, is nothing ready: there is a next time.
        if poll(&mut waits, PollTimeout::ZERO).is_err() {
            return;
        }
        let ready: Vec<bool> = waits.iter().map(is_ready).collect();
        let mut ready = ready.into_iter();
        self.attempts.retain(|attempt| {
            if ready.next() == Some(true) {
                handle(attempt.probe, attempt.outcome(now));
                return false;
            }
            attempt.deadline > now.monotonic
        });
    }
}

impl<P> Attempt<P> {
    fn wait(&self) -> PollFd<'_> {
        PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)
    }

    fn is_ready(&self) -> bool {
        let mut wait = [self.wait()];
        poll(&mut wait, PollTimeout::ZERO).is_ok() && is_ready(&wait[0])
    }

    fn outcome(&self, now: Now) -> Result<Duration, SendError> {
        match self.socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(send_error(&error)),
        }
        match mmsg::tcp_round_trip(self.socket.as_fd()) {
            // Of a repeated SYN the kernel does not tell which one was answered (Karn's algorithm): the time
            // the user would have waited, as well as our slots show it.
            Ok((_, true)) => Ok(now.monotonic.since(self.began)),
            Ok((rtt, false)) if !rtt.is_zero() => Ok(rtt),
            Ok(_) => Err(SendError::Refused),
            Err(error) => Err(send_error(&error)),
        }
    }
}

fn is_ready(wait: &PollFd<'_>) -> bool {
    wait.revents().is_some_and(|events| !events.is_empty())
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// As [`send_error`], of a socket: without a port left to bind, it is not the network's doing.
fn open_error(error: &io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => SendError::Exhausted,
        _ => send_error(error),
    }
}

/// As [`open_error`], of a connection that did not begin. The kernel has one error for no port left to begin it
/// from, and for no address of that family.
fn connect_error(error: &io::Error, destination: SocketAddr) -> SendError {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) if has_address_for(destination) => SendError::Exhausted,
        _ => open_error(error),
    }
}

/// Whether there is an address to send from: over UDP, which has ports of its own. Sends nothing.
fn has_address_for(destination: SocketAddr) -> bool {
    Socket::new(Domain::for_address(destination), Type::DGRAM, Some(Protocol::UDP))
        .and_then(|socket| socket.connect(&destination.into()))
        .is_ok()
}

fn open(destination: SocketAddr, path: Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Closed with a reset: nothing is left to be sent, and a TIME_WAIT for each probe would use up our ports.
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(source) = path.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if path.dscp != 0 {
        let octet = u32::from(path.dscp) << 2;
        match destination {
            SocketAddr::V4(_) => socket.set_tos_v4(octet)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(path.dscp << 2))?,
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::clock::Realtime;

    const DEADLINE: Monotonic = Monotonic(60_000_000_000);

    fn at(ms: u64) -> Now {
        Now { monotonic: Monotonic(ms * 1_000_000), realtime: Realtime(ms * 1_000_000) }
    }

    fn begin(connects: &mut Connects<u32>, ms: u64, probe: u32, to: SocketAddr) -> Result<(), SendError> {
        connects.begin(at(ms), probe, to, Path::default(), DEADLINE)
    }

    /// A listener whose backlog is full, and what fills it: it answers nobody else.
    fn silent() -> (Socket, SocketAddr, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = |_| {
            let socket = open(address, Path::default()).unwrap();
            socket.connect(&address.into()).ok();
            socket
        };
        let fill = (0..4).map(fill).collect();
        (listener, address, fill)
    }

    #[expect(clippy::disallowed_methods, reason = "a test may wait, for the kernel")]
    fn pause(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// The probes that came to an end, looked for over some 100 ms of true time.
    fn answered(connects: &mut Connects<u32>, ms: u64) -> Vec<u32> {
        let mut answered = Vec::new();
        for _ in 0..20 {
            connects.read(at(ms), |probe, result| {
                assert!(result.is_ok(), "{result:?}");
                answered.push(probe);
            });
            pause(5);
        }
        answered
    }

    #[test]
    fn those_that_do_not_answer_do_not_keep_others_from_being_asked() {
        let (_listener, silent, _fill) = silent();
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = live.local_addr().map(|address| (live, address)).unwrap();
        let mut connects = Connects::bounded(8);
        for probe in 0..8 {
            assert_eq!(begin(&mut connects, 0, probe, silent), Ok(()));
        }
        assert_eq!(answered(&mut connects, 1), []);
        assert_eq!(begin(&mut connects, 1, 100, live.1), Err(SendError::Exhausted), "none has waited long");
        for round in 1..20 {
            let ms = u64::from(round) * 300;
            for probe in 0..7 {
                assert_eq!(begin(&mut connects, ms, probe, silent), Ok(()));
            }
            assert_eq!(begin(&mut connects, ms, 100 + round, live.1), Ok(()), "{round}");
            assert_eq!(answered(&mut connects, ms + 1), [100 + round]);
            assert!(connects.attempts.len() <= 8);
        }
    }

    #[test]
    fn what_makes_room_and_was_answered_is_not_lost() {
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = live.local_addr().unwrap();
        let mut connects = Connects::bounded(1);
        assert_eq!(begin(&mut connects, 0, 1, address), Ok(()));
        pause(20);
        assert_eq!(begin(&mut connects, 300, 2, address), Ok(()));
        let mut both = answered(&mut connects, 301);
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
    }

    #[test]
    fn a_connection_that_was_timed_leaves_no_time_wait_behind() {
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connects = Connects::bounded(8);
        assert_eq!(begin(&mut connects, 0, 1, live.local_addr().unwrap()), Ok(()));
        assert_eq!(answered(&mut connects, 1), [1]);
        let (mut stream, _) = live.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let error = io::Read::read(&mut stream, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_port_that_cannot_be_had_is_not_the_networks_doing() {
        let error = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        assert_eq!(connect_error(&error, ([127, 0, 0, 1], 9).into()), SendError::Exhausted);
        // Nothing can be connected there, so there is no address for it.
        assert_eq!(connect_error(&error, ([255; 4], 9).into()), SendError::Unreachable);
        assert_eq!(open_error(&error), SendError::Unreachable, "a source that is no address of ours");
    }
}
