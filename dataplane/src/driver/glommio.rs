//! Runs shards on glommio: in an executor of their own, pinned to a core, or with [`MountedShard::run`]
//! in one that the application has already.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use glommio::net::UdpSocket;
use glommio::timer::sleep;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use super::clock;
use super::control::{ERROR_PAUSE, Ends, Executor, NotStarted, START_MAX, START_POLL, TURN_MAX};
pub use super::control::{MountedShard, mount};
use super::shard::ShardDriver;
use super::udp::UdpPort;

/// Enough for the one-octet peeks that wait for readiness; glommio's default pins 30 MiB.
const IO_MEMORY_LEN: usize = 64 << 10;
/// Waits in flight per shard: one per reflector and a timer.
const RING_DEPTH: usize = 128;
/// How a flooded reflector gives way after [`TURN_MAX`]. To yield is not enough: glommio looks at timers and sockets only once no task can
/// run, or after its own preemption interval, which is the application's.
const GIVE_WAY: Duration = Duration::from_micros(50);
/// Starts an executor on its core and, once that runs, hands it the shard. An executor that cannot be
/// made, whether glommio says so or panics, leaves the shard with the caller.
pub(super) fn start(executor: Executor, mounted: MountedShard) -> Result<ExecutorJoinHandle<()>, NotStarted> {
    let (mut hand_over, taken) = rtrb::RingBuffer::new(1);
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let refused = |reason: String, mounted| {
        let shard = Some(Box::new(mounted));
        Err(NotStarted { error: executor.error(reason), shard })
    };
    let spawned = LocalExecutorBuilder::new(Placement::Fixed(executor.core))
        .name(&format!("shard-{}", executor.shard.0))
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .spin_before_park(executor.spin_before_park)
        .spawn(move || async move {
            // A flag alone; what is handed over goes through the queue.
            is_up.store(true, Ordering::Relaxed);
            if let Some(mounted) = take(taken).await {
                // Nobody else lives here: what is due is done without a wait in between, which costs as much
                // as fifty probes.
                mounted.run_for(TURN_MAX).await;
            }
        });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return refused(error.to_string(), mounted),
    };
    let deadline = clock::monotonic() + START_MAX;
    while !up.load(Ordering::Relaxed) {
        if hand_over.is_abandoned() {
            // Dead, or it would hold its end: joining does not wait.
            let said = thread.join().err().map(|error| error.to_string());
            return refused(said.unwrap_or_else(|| "it ended before it began".to_owned()), mounted);
        }
        if clock::monotonic() > deadline {
            return refused(format!("its executor did not begin within {START_MAX:?}"), mounted);
        }
        std::thread::park_timeout(START_POLL);
    }
    match hand_over.push(mounted) {
        Ok(()) => Ok(thread),
        Err(rtrb::PushError::Full(mounted)) => refused("it was given a shard already".to_owned(), mounted),
    }
}

/// What is handed over; `None` if whoever was to has given up.
async fn take(mut taken: rtrb::Consumer<MountedShard>) -> Option<MountedShard> {
    loop {
        // In this order: what is handed over just before the other end is dropped counts.
        let abandoned = taken.is_abandoned();
        match taken.pop() {
            Ok(mounted) => return Some(mounted),
            Err(_) if abandoned => return None,
            Err(_) => sleep(START_POLL).await,
        }
    }
}

impl MountedShard {
    /// Runs the shard until [`ShardControl::request_stop`](super::control::ShardControl::request_stop), in the glommio executor that polls it and in
    /// the task queue of the task that does.
    ///
    /// **It shares.** After each turn it waits, so that tasks, timers and sockets of the application have
    /// theirs: a turn is at most 64 commands, 128 probes and about a thousand datagrams of each socket;
    /// that is some milliseconds under a flood, and else some tens of microseconds. It takes one wait in
    /// the ring per reflector, and a timer; idle, it wakes 5 times a second.
    ///
    /// **It must be let.** While other tasks keep the executor from it, it neither sends nor reads. The
    /// kernel's stamps keep that out of the RTT; 100 ms and more are a stall, and what was in flight
    /// is discarded and counted.
    ///
    /// **It can be dropped.** That stops it as well: no probe is sent any more, and the tasks that wait
    /// at its reflectors end when the executor runs them next. What is left in an executor that itself
    /// ends, glommio leaks, open sockets included: stop first, and await this.
    ///
    /// # Panics
    /// When polled outside of a glommio executor.
    pub async fn run(self) {
        self.run_for(Duration::ZERO).await;
    }

    /// As [`run`](Self::run), but waits only once nothing is to be done, or after this time.
    async fn run_for(self, turns_max: Duration) {
        let Self { driver, waits, ends } = self;
        ends.note_started();
        let running = Rc::new(Running { driver: RefCell::new(driver), ends });
        let readers: Vec<_> = waits
            .into_iter()
            .enumerate()
            .map(|(socket, wait)| {
                let running = Rc::clone(&running);
                glommio::spawn_local(async move { running.serve(socket, Readiness(waitable(wait))).await })
            })
            .collect();
        while !running.ends.is_asked_to_stop() {
            let pause = running.driver.borrow_mut().turns(turns_max);
            sleep(pause.max(GIVE_WAY)).await;
        }
        for reader in readers {
            reader.cancel().await;
        }
    }
}

/// What the tasks of one shard share. It has ended when the last of them is gone.
struct Running {
    driver: RefCell<ShardDriver>,
    // Last, as in `MountedShard`.
    ends: Ends,
}

impl Running {
    /// Serves one of the waking sockets for as long as the shard runs.
    async fn serve(&self, socket: usize, readable: Readiness) {
        let mut turn_began = clock::monotonic();
        loop {
            let (woken, waited) = readable.wait().await;
            if waited {
                turn_began = clock::monotonic();
            }
            let served = self.driver.borrow_mut().handle_readable(socket);
            if woken.is_err() || served.is_err() {
                // The error was about an earlier reply and is consumed by being reported; one that stays
                // must not keep the core from everything else.
                sleep(ERROR_PAUSE).await;
            }
            // Under a flood neither the wait nor the read ever waits.
            if clock::monotonic().since(turn_began) >= TURN_MAX {
                sleep(GIVE_WAY).await;
                turn_began = clock::monotonic();
            }
        }
    }
}

/// Tells when a [`UdpPort`] has something to read. glommio cannot read control messages, so it only waits; what is
/// there, [`UdpPort::read`] reads.
///
/// Under a flood neither the wait nor the read ever waits: whoever reads in a loop has to let everything else on
/// its core have its turn, by a [`sleep`] of some microseconds now and then. To yield is not enough for glommio's
/// timers.
///
/// ```
/// use relayscope_dataplane::driver::{glommio::Readiness, udp::UdpPort};
///
/// let executor = glommio::LocalExecutorBuilder::default().io_memory(1 << 16).make()?;
/// let octets = executor.run(async {
///     let mut port = UdpPort::bind("127.0.0.1:0".parse()?)?;
///     let readiness = Readiness::of(&port)?;
///     std::net::UdpSocket::bind("127.0.0.1:0")?.send_to(b"packet", port.local_address())?;
///     readiness.wait().await.0?;
///     let mut octets = Vec::new();
///     port.read(|_, _, datagram, _| octets.extend_from_slice(datagram.octets))?;
///     Ok::<_, Box<dyn std::error::Error>>(octets)
/// })?;
/// assert_eq!(octets, b"packet");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Readiness(UdpSocket);

impl Readiness {
    /// Of a port that is read in this executor.
    ///
    /// # Errors
    /// When this process is out of descriptors.
    ///
    /// # Panics
    /// Outside of a glommio executor.
    pub fn of(port: &UdpPort) -> io::Result<Self> {
        Ok(Self(waitable(port.duplicate()?)))
    }

    /// Waits until there is something, or an error of an earlier send, and says whether it had to wait: if not,
    /// nothing else on this core had its turn.
    pub async fn wait(&self) -> (io::Result<()>, bool) {
        let mut first_octet = [0u8; 1];
        let mut wait = pin!(self.0.peek_from(&mut first_octet));
        let mut waited = false;
        let woken = poll_fn(|context| {
            let woken = wait.as_mut().poll(context);
            waited |= woken.is_pending();
            woken
        });
        let woken = woken.await.map(drop).map_err(|error| io::Error::other(error.to_string()));
        (woken, waited)
    }
}

fn waitable(socket: socket2::Socket) -> UdpSocket {
    // SAFETY: the descriptor is open, a UDP socket, and owned by nobody else: it was just released.
    #[allow(unsafe_code)]
    unsafe {
        UdpSocket::from_raw_fd(socket.into_raw_fd())
    }
}
