//! TCP connections on their way: made to be timed, closed as soon as they are there.
//!
//! The round trip is the kernel's own (`tcpi_rtt`, of the SYN and its answer), so that it is the same whenever
//! we come to look.

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
use crate::probe::SendError;

/// Most connections on their way at once, each with a descriptor.
pub(crate) const CONNECTS_MAX: usize = 1024;

struct Attempt<P> {
    probe: P,
    socket: Socket,
    began: Monotonic,
    /// When nobody waits for it any more.
    deadline: Monotonic,
}

/// The attempts of one shard, each for a probe that is known by a `P`.
pub(crate) struct Connects<P> {
    attempts: Vec<Attempt<P>>,
}

impl<P: Copy> Connects<P> {
    pub(crate) fn new() -> Self {
        Self { attempts: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
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
        if self.attempts.len() >= CONNECTS_MAX {
            return Err(SendError::Exhausted);
        }
        let socket = open(destination, path).map_err(|error| send_error(&error))?;
        match socket.connect(&destination.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // A port nobody listens on answers at once over loopback: that is for the next look to tell.
            Err(error) if send_error(&error) == SendError::Refused => {}
            Err(error) => return Err(send_error(&error)),
        }
        self.attempts.push(Attempt { probe, socket, began: now.monotonic, deadline });
        Ok(())
    }

    /// Hands over how those that came to an end did, and drops those nobody waits for any more. Does not
    /// wait. O(attempts).
    pub(crate) fn read(&mut self, now: Now, mut handle: impl FnMut(P, Result<Duration, SendError>)) {
        if self.attempts.is_empty() {
            return;
        }
        let wanted = PollFlags::POLLOUT;
        let mut waits: Vec<_> =
            self.attempts.iter().map(|attempt| PollFd::new(attempt.socket.as_fd(), wanted)).collect();
        // EINTR, the only error there can be, is nothing ready: there is a next time.
        if poll(&mut waits, PollTimeout::ZERO).is_err() {
            return;
        }
        let is_ready = |wait: &PollFd<'_>| wait.revents().is_some_and(|events| !events.is_empty());
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

fn open(destination: SocketAddr, path: Path) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
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
