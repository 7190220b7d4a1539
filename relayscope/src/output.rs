//! What is said on stdout and stderr.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::Failure;
use crate::stop::Stop;

/// Writes `text`. A reader that is gone, as in `relayscope print-config | head -1`, has seen enough: that
/// is no failure.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(cannot_write(error)),
        _ => Ok(()),
    }
}

/// One line for people on stderr. That it cannot be said is no reason to stop.
pub(crate) fn note(text: &str) {
    writeln!(std::io::stderr(), "relayscope: {text}").unwrap_or_default();
}

fn cannot_write(error: impl std::fmt::Display) -> Failure {
    Failure::Host(format!("cannot write to stdout: {error}"))
}

/// Bytes that a pipe with room takes at once: the smallest PIPE_BUF of Linux.
const CHUNK: usize = 4096;
/// How long a stalled reader keeps a signal waiting.
const STALL_POLL_MS: u8 = 20;

/// Lines on stdout, for a command that runs until it is told to end: a reader that takes nothing does not
/// keep it from ending, and one that is gone is noticed though nothing is written.
#[derive(Default)]
pub(crate) struct Lines {
    waiting: Vec<u8>,
    gone: bool,
}

impl Lines {
    /// Octets not written yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Lines not written yet.
    pub(crate) fn waiting_lines(&self) -> usize {
        self.waiting.iter().filter(|octet| **octet == b'\n').count()
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Adds a line; it is written at the next [`flush`](Self::flush).
    pub(crate) fn push(&mut self, line: &str) {
        if !self.gone {
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        }
    }

    /// Writes what waits, until that is done, nobody reads any more, or `stop` is asked for.
    pub(crate) fn flush(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        let mut written = 0;
        while !self.gone {
            let chunk = &self.waiting[written..self.waiting.len().min(written + CHUNK)];
            match writable(!chunk.is_empty())? {
                Writable::Gone => self.gone = true,
                _ if chunk.is_empty() => break,
                // Not through std's buffer, which may write less than it took.
                Writable::Yes => match nix::unistd::write(std::io::stdout(), chunk) {
                    Ok(count) => written += count,
                    Err(Errno::EPIPE) => self.gone = true,
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(cannot_write(errno)),
                },
                // Not zero: a signal is seen only by who waits for it.
                Writable::NotYet if stop.within(Duration::from_millis(1)) => break,
                Writable::NotYet => {}
            }
        }
        self.waiting.drain(..written);
        if self.gone {
            self.waiting.clear();
        }
        Ok(())
    }
}

enum Writable {
    Yes,
    NotYet,
    Gone,
}

/// Whether stdout takes a chunk without blocking; waits a moment for it if `wanted`.
fn writable(wanted: bool) -> Result<Writable, Failure> {
    let stdout = std::io::stdout();
    let (events, wait_ms) =
        if wanted { (PollFlags::POLLOUT, STALL_POLL_MS) } else { (PollFlags::empty(), 0) };
    let mut fds = [PollFd::new(stdout.as_fd(), events)];
    match poll(&mut fds, PollTimeout::from(wait_ms)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(cannot_write(errno)),
    }
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(if found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
        Writable::Gone
    } else if found.contains(PollFlags::POLLOUT) {
        Writable::Yes
    } else {
        Writable::NotYet
    })
}
