//! Runs shards on plain threads, where io_uring may not be used: epoll and a timerfd, which is exact to
//! the nanosecond where epoll's own timeout is in milliseconds.

use std::io;
use std::num::NonZeroUsize;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use polling::{Event, Events, Poller};
use socket2::Socket;

use super::clock;
use super::control::{ERROR_PAUSE, Ends, Executor, MountedShard, NotStarted, TURN_MAX};
use super::shard::ShardDriver;
use crate::clock::Monotonic;

/// Starts a thread on its core and runs a shard there. The thread tells why it ended.
pub(super) fn start(
    executor: Executor,
    mounted: MountedShard,
) -> Result<JoinHandle<Result<(), String>>, NotStarted> {
    let run = move || {
        pin(executor.core).map_err(|error| format!("cannot pin its thread: {error}"))?;
        mounted.run_on_this_thread(executor.spin_before_park).map_err(|error| error.to_string())
    };
    Builder::new()
        .name(format!("shard-{}", executor.shard.0))
        .spawn(run)
        .map_err(|error| NotStarted { error: executor.error(error), shard: None })
}

fn pin(core: usize) -> nix::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}

impl MountedShard {
    /// Runs the shard on the calling thread until
    /// [`ShardControl::request_stop`](super::control::ShardControl::request_stop); idle, it wakes 5 times
    /// a second. With `spin_before_park` it looks for that long before each sleep.
    ///
    /// # Errors
    /// When the kernel gives no epoll or timer, or takes them away. The shard has ended then.
    pub fn run_on_this_thread(self, spin_before_park: Duration) -> io::Result<()> {
        Running::new(self, spin_before_park)?.run()
    }
}

/// A shard on a thread.
struct Running {
    // Before what it watches: dropped first.
    watch: Watch,
    driver: ShardDriver,
    // Last, as in `MountedShard`.
    ends: Ends,
}

/// Waits for the sockets of a shard. Each is told of once and has to be watched again then, so that one
/// that only reports errors can be left alone for a while.
struct Watch {
    poller: Poller,
    sockets: Vec<Socket>,
    events: Events,
    /// Told of and not yet served.
    ready: Vec<usize>,
    /// Left alone until then, the earliest first. As `ready`, never longer than there are sockets.
    paused: Vec<(Monotonic, usize)>,
    spin: Duration,
}

impl Running {
    fn new(mounted: MountedShard, spin: Duration) -> io::Result<Self> {
        let MountedShard { driver, waits, ends } = mounted;
        let watch = Watch::new(waits, spin)?;
        Ok(Self { watch, driver, ends })
    }

    fn run(mut self) -> io::Result<()> {
        self.ends.note_started();
        while !self.ends.is_asked_to_stop() {
            let pause = self.driver.turn();
            self.serve_until(clock::monotonic() + pause)?;
        }
        Ok(())
    }

    /// Serves the sockets until the schedule is due. Once at least: a schedule that is always behind must
    /// not keep anybody from being answered.
    fn serve_until(&mut self, due: Monotonic) -> io::Result<()> {
        loop {
            self.watch.wait(due)?;
            self.serve_ready()?;
            if clock::monotonic() >= due {
                return Ok(());
            }
        }
    }

    /// Serves those that are ready, once each, for about [`TURN_MAX`]; a flood never ends by itself.
    fn serve_ready(&mut self) -> io::Result<()> {
        let began = clock::monotonic();
        while let Some(socket) = self.watch.ready.pop() {
            match self.driver.handle_readable(socket) {
                Ok(()) => self.watch.again(socket)?,
                // It was about an earlier reply and is consumed by being reported; one that stays must
                // not keep the core from everything else.
                Err(_) => self.watch.paused.push((clock::monotonic() + ERROR_PAUSE, socket)),
            }
            if clock::monotonic().since(began) >= TURN_MAX {
                break;
            }
        }
        Ok(())
    }
}

impl Watch {
    fn new(sockets: Vec<Socket>, spin: Duration) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (key, socket) in sockets.iter().enumerate() {
            // SAFETY: the socket is open, and outlives the poller: both belong to this `Watch`, where
            // the poller is dropped first and nothing removes a socket.
            #[allow(unsafe_code)]
            unsafe {
                poller.add(socket, Event::readable(key))?;
            }
        }
        let events = Events::with_capacity(NonZeroUsize::MIN.saturating_add(sockets.len()));
        Ok(Self { poller, sockets, events, ready: Vec::new(), paused: Vec::new(), spin })
    }

    /// Watches a socket again that was told of.
    fn again(&self, socket: usize) -> io::Result<()> {
        match self.sockets.get(socket) {
            Some(watched) => self.poller.modify(watched, Event::readable(socket)),
            None => Ok(()),
        }
    }

    /// Waits until a socket is ready, at most until `due`. Not at all while some are left unserved.
    fn wait(&mut self, due: Monotonic) -> io::Result<()> {
        if !self.ready.is_empty() {
            return Ok(());
        }
        let now = clock::monotonic();
        let rested = self.paused.partition_point(|(until, _)| *until <= now);
        for (_, socket) in self.paused.drain(..rested) {
            let Some(watched) = self.sockets.get(socket) else { continue };
            self.poller.modify(watched, Event::readable(socket))?;
        }
        let until = self.paused.first().map_or(due, |(until, _)| due.min(*until));
        let spin_end = until.min(now + self.spin);
        while clock::monotonic() < spin_end {
            if self.look(Duration::ZERO)? {
                return Ok(());
            }
        }
        self.look(until.since(clock::monotonic()))?;
        Ok(())
    }

    /// Whether a socket became ready within `timeout`.
    fn look(&mut self, timeout: Duration) -> io::Result<bool> {
        self.events.clear();
        self.poller.wait(&mut self.events, Some(timeout))?;
        self.ready.extend(self.events.iter().map(|event| event.key));
        Ok(!self.ready.is_empty())
    }
}
