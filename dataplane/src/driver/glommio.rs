//! Runs shards on glommio: one executor per shard, pinned to a core.

use std::cell::RefCell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
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
/// After this long a flooded reflector lets the schedule have its turn.
const PREEMPT_INTERVAL: Duration = Duration::from_millis(5);
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

/// A running shard.
pub struct ShardHandle {
    commands: rtrb::Producer<Command>,
    life: Arc<Life>,
    thread: ExecutorJoinHandle<()>,
}

/// What a shard's thread and its handle tell each other. All relaxed: flags alone, nothing is published
/// with them.
#[derive(Default)]
struct Life {
    started: AtomicBool,
    stop: AtomicBool,
    ended: AtomicBool,
}

/// Moved into the shard's thread: however that ends, even before it began, this is dropped.
struct EndsWithThread(Arc<Life>);

impl Drop for EndsWithThread {
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
    let (commands, queue) = rtrb::RingBuffer::new(COMMANDS_MAX);
    let driver = ShardDriver::new(shard, reflectors, queue)?;
    let mut waits = Vec::new();
    for port in driver.reflectors() {
        waits.push(port.duplicate().map_err(|source| SpawnError::Descriptors { shard: id, source })?);
    }
    let life = Arc::new(Life::default());
    let ends = EndsWithThread(Arc::clone(&life));
    let thread = LocalExecutorBuilder::new(Placement::Fixed(executor.core))
        .name(&format!("shard-{}", id.0))
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_INTERVAL)
        .spin_before_park(executor.spin_before_park)
        .spawn(move || run(driver, waits, ends))
        .map_err(|error| SpawnError::Executor {
            shard: id,
            core: executor.core,
            reason: error.to_string(),
        })?;
    let handle = ShardHandle { commands, life, thread };
    if let Err(reason) = handle.wait_started() {
        // Dead already, or it would not have ended: joining does not wait.
        let said = if handle.has_ended() { handle.join().err() } else { None };
        let reason = said.unwrap_or(reason);
        return Err(SpawnError::Executor { shard: id, core: executor.core, reason });
    }
    Ok(handle)
}

impl ShardHandle {
    /// Queues a command; the shard takes it on its next tick, at most 200 ms later. Never waits.
    ///
    /// # Errors
    /// [`CommandsFull`] gives the command back when 4096 are waiting: the shard is stalled or gone.
    pub fn send(&mut self, command: Command) -> Result<(), CommandsFull> {
        self.commands.push(command).map_err(|rtrb::PushError::Full(command)| CommandsFull(command))
    }

    /// Asks the shard to stop on its next tick.
    pub fn request_stop(&self) {
        self.life.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the shard's thread is over, asked to or not.
    pub fn has_ended(&self) -> bool {
        self.life.ended.load(Ordering::Relaxed)
    }

    fn wait_started(&self) -> Result<(), String> {
        let deadline = clock::monotonic() + START_MAX;
        while !self.life.started.load(Ordering::Relaxed) {
            if self.has_ended() {
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
        self.request_stop();
        self.thread.join().map_err(|error| error.to_string())
    }
}

async fn run(driver: ShardDriver, waits: Vec<socket2::Socket>, ends: EndsWithThread) {
    let EndsWithThread(life) = &ends;
    life.started.store(true, Ordering::Relaxed);
    let driver = Rc::new(RefCell::new(driver));
    let readers: Vec<_> = waits
        .into_iter()
        .enumerate()
        .map(|(reflector, socket)| {
            let driver = Rc::clone(&driver);
            glommio::spawn_local(async move { reflect(driver, reflector, waitable(socket)).await })
        })
        .collect();
    while !life.stop.load(Ordering::Relaxed) {
        let pause = driver.borrow_mut().turn();
        if pause.is_zero() {
            glommio::executor().yield_task_queue_now().await;
        } else {
            sleep(pause).await;
        }
    }
    for reader in readers {
        reader.cancel().await;
    }
}

/// Serves one reflector for as long as the shard runs. glommio cannot read control messages, so it only
/// tells that something is there.
async fn reflect(driver: Rc<RefCell<ShardDriver>>, reflector: usize, socket: UdpSocket) {
    loop {
        let mut first_octet = [0u8; 1];
        let waited = socket.peek_from(&mut first_octet).await;
        let reflected = driver.borrow_mut().reflect(reflector);
        if waited.is_err() || reflected.is_err() {
            // The error was about an earlier reply and is consumed by being reported; one that stays must
            // not keep the core from everything else.
            sleep(ERROR_PAUSE).await;
        }
        // Under a flood neither the wait nor the read ever waits.
        glommio::yield_if_needed().await;
    }
}

fn waitable(socket: socket2::Socket) -> UdpSocket {
    // SAFETY: the descriptor is open, a UDP socket, and owned by nobody else: it was just released.
    #[allow(unsafe_code)]
    unsafe {
        UdpSocket::from_raw_fd(socket.into_raw_fd())
    }
}
