//! Runs shards on glommio: [`spawn`] gives a shard an executor of its own, pinned to a core; [`mount`]
//! makes one ready for an executor that the application has already.

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
use relayscope_bridge::ShardId;

use super::clock;
use super::shard::ShardDriver;
use super::udp::{BindError, UdpPort};
use crate::preflight::{PreflightError, check};
use crate::shard::{Command, Shard};

/// Enough for the one-octet peeks that wait for readiness; glommio's default pins 30 MiB.
const IO_MEMORY_LEN: usize = 64 << 10;
/// Waits in flight per shard: one per reflector and a timer.
const RING_DEPTH: usize = 128;
/// After this long a flooded reflector lets everything else on the executor have its turn.
const TURN_MAX: Duration = Duration::from_millis(2);
/// How that is done. To yield is not enough: glommio looks at timers and sockets only once no task can
/// run, or after its own preemption interval, which is the application's.
const GIVE_WAY: Duration = Duration::from_micros(50);
/// Between two attempts at a socket that reports errors.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How long an executor may take to begin.
const START_MAX: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(1);
/// Commands on their way to one shard.
pub const COMMANDS_MAX: usize = 4096;

/// A shard could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The kernel refuses io_uring or locked memory.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A probing socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A descriptor could not be duplicated.
    #[error("shard {} cannot duplicate its sockets: {source}; raise the limit of open files", .shard.0)]
    Descriptors {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: io::Error,
    },
    /// glommio could not make its executor.
    #[error("shard {} cannot start on core {core}: {reason}", .shard.0)]
    Executor {
        /// The shard.
        shard: ShardId,
        /// The core it was to be pinned to.
        core: usize,
        /// What glommio said.
        reason: String,
    },
}

/// Where and how a shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executor {
    /// Its number.
    pub shard: ShardId,
    /// The core it is pinned to.
    pub core: usize,
    /// How long it polls before it parks. Zero, the default everywhere, costs nothing while idle.
    pub spin_before_park: Duration,
}

/// Commands a shard from any thread, wherever it runs. Dropping it changes nothing: the shard runs on.
pub struct ShardControl {
    commands: rtrb::Producer<Command>,
    life: Arc<Life>,
}

/// A shard running on an executor of its own. Dropped, it leaves the shard running.
pub struct ShardHandle {
    /// Its commands.
    pub control: ShardControl,
    thread: ExecutorJoinHandle<()>,
}

/// A shard with its sockets open, to be run in an executor of the application's. `Send`: make it where
/// its errors are dealt with, and move it to the executor's thread.
pub struct MountedShard {
    driver: ShardDriver,
    waits: Vec<socket2::Socket>,
    // Last: the shard has ended when the others are dropped.
    ends: Ends,
}

/// What a shard and its control tell each other. All relaxed: flags alone, nothing is published with
/// them.
#[derive(Default)]
struct Life {
    started: AtomicBool,
    stop: AtomicBool,
    ended: AtomicBool,
}

/// Goes where the shard goes: however that ends, even before it began, this is dropped.
struct Ends(Arc<Life>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// The queue to a shard is full; the command is given back.
pub struct CommandsFull(pub Command);

/// Starts a shard on its core. The sockets are opened here, so that their errors come back at once.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(executor: Executor, shard: Shard, reflectors: Vec<UdpPort>) -> Result<ShardHandle, SpawnError> {
    // Whoever runs several has checked for all of them; this keeps glommio from panicking for anybody.
    check(1)?;
    let id = executor.shard;
    let (control, mounted) = mount(shard, reflectors)?;
    let thread = LocalExecutorBuilder::new(Placement::Fixed(executor.core))
        .name(&format!("shard-{}", id.0))
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .spin_before_park(executor.spin_before_park)
        .spawn(move || mounted.run())
        .map_err(|error| SpawnError::Executor {
            shard: id,
            core: executor.core,
            reason: error.to_string(),
        })?;
    let handle = ShardHandle { control, thread };
    if let Err(reason) = handle.wait_started() {
        // Dead already, or it would not have ended: joining does not wait.
        let said = if handle.control.has_ended() { handle.join().err() } else { None };
        let reason = said.unwrap_or(reason);
        return Err(SpawnError::Executor { shard: id, core: executor.core, reason });
    }
    Ok(handle)
}

/// Makes a shard ready for an executor that the application has already: opens its sockets, starts
/// nothing. What comes of it is up to [`MountedShard::run`].
///
/// # Errors
/// [`SpawnError::Bind`] and [`SpawnError::Descriptors`]; never the others, which are about executors.
pub fn mount(shard: Shard, reflectors: Vec<UdpPort>) -> Result<(ShardControl, MountedShard), SpawnError> {
    let id = shard.id();
    let (commands, queue) = rtrb::RingBuffer::new(COMMANDS_MAX);
    let driver = ShardDriver::new(shard, reflectors, queue)?;
    let mut waits = Vec::new();
    for port in driver.reflectors() {
        waits.push(port.duplicate().map_err(|source| SpawnError::Descriptors { shard: id, source })?);
    }
    let life = Arc::new(Life::default());
    let ends = Ends(Arc::clone(&life));
    Ok((ShardControl { commands, life }, MountedShard { driver, waits, ends }))
}

impl ShardControl {
    /// Queues a command; the shard takes it on its next tick, at most 200 ms later. Never waits.
    ///
    /// # Errors
    /// [`CommandsFull`] gives the command back when 4096 are waiting: the shard is stalled, gone, or not
    /// run yet.
    pub fn send(&mut self, command: Command) -> Result<(), CommandsFull> {
        self.commands.push(command).map_err(|rtrb::PushError::Full(command)| CommandsFull(command))
    }

    /// Asks the shard to stop on its next tick, at most 200 ms later.
    pub fn request_stop(&self) {
        self.life.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the shard is over, asked to or not: it records no more, and its sockets are closed. The
    /// kernel may keep their ports for some milliseconds yet.
    pub fn has_ended(&self) -> bool {
        self.life.ended.load(Ordering::Relaxed)
    }
}

impl ShardHandle {
    fn wait_started(&self) -> Result<(), String> {
        let deadline = clock::monotonic() + START_MAX;
        while !self.control.life.started.load(Ordering::Relaxed) {
            if self.control.has_ended() {
                return Err("it ended before it began".to_owned());
            }
            if clock::monotonic() > deadline {
                return Err(format!("it did not begin within {START_MAX:?}"));
            }
            std::thread::park_timeout(START_POLL);
        }
        Ok(())
    }

    /// Waits until the shard has stopped.
    ///
    /// # Errors
    /// When the shard panicked, with what glommio says of it.
    pub fn join(self) -> Result<(), String> {
        self.control.request_stop();
        self.thread.join().map_err(|error| error.to_string())
    }
}

impl MountedShard {
    /// Runs the shard until [`ShardControl::request_stop`], in the glommio executor that polls it and in
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
        let Self { driver, waits, ends } = self;
        ends.0.started.store(true, Ordering::Relaxed);
        let running = Rc::new(Running { driver: RefCell::new(driver), ends });
        let readers: Vec<_> = waits
            .into_iter()
            .enumerate()
            .map(|(reflector, socket)| {
                let running = Rc::clone(&running);
                glommio::spawn_local(async move { running.reflect(reflector, waitable(socket)).await })
            })
            .collect();
        while !running.ends.0.stop.load(Ordering::Relaxed) {
            let pause = running.driver.borrow_mut().turn();
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
    /// Serves one reflector for as long as the shard runs. glommio cannot read control messages, so it
    /// only tells that something is there.
    async fn reflect(&self, reflector: usize, socket: UdpSocket) {
        let mut turn_began = clock::monotonic();
        loop {
            let mut first_octet = [0u8; 1];
            let mut wait = pin!(socket.peek_from(&mut first_octet));
            let mut waited = false;
            let readable = poll_fn(|context| {
                let readable = wait.as_mut().poll(context);
                waited |= readable.is_pending();
                readable
            });
            let readable = readable.await;
            if waited {
                turn_began = clock::monotonic();
            }
            let reflected = self.driver.borrow_mut().reflect(reflector);
            if readable.is_err() || reflected.is_err() {
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

fn waitable(socket: socket2::Socket) -> UdpSocket {
    // SAFETY: the descriptor is open, a UDP socket, and owned by nobody else: it was just released.
    #[allow(unsafe_code)]
    unsafe {
        UdpSocket::from_raw_fd(socket.into_raw_fd())
    }
}
