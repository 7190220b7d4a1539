//! Starts shards on either backend, and commands them from any thread.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ::glommio::ExecutorJoinHandle;
use relayscope_bridge::ShardId;

use super::listen::Listeners;
use super::shard::ShardDriver;
use super::udp::BindError;
use super::{clock, glommio, poll};
use crate::preflight::{PreflightError, check_io_uring};
use crate::runtime::{Backend, Choice};
use crate::shard::{Command, Shard};

/// How long a shard may take to begin.
pub(super) const START_MAX: Duration = Duration::from_secs(10);
pub(super) const START_POLL: Duration = Duration::from_millis(1);
/// Between two attempts at a socket that reports errors.
pub(super) const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// After this long a flooded reflector lets everything else on its thread have its turn.
pub(super) const TURN_MAX: Duration = Duration::from_millis(2);
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
    /// The executor or the thread did not come up.
    #[error("shard {} cannot start on core {core}: {reason}", .shard.0)]
    Executor {
        /// The shard.
        shard: ShardId,
        /// The core it was to be pinned to.
        core: usize,
        /// What glommio or the kernel said.
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

impl Executor {
    pub(super) fn error(&self, reason: impl Display) -> SpawnError {
        SpawnError::Executor { shard: self.shard, core: self.core, reason: reason.to_string() }
    }
}

/// Commands a shard from any thread, wherever it runs. Dropping it changes nothing: the shard runs on.
pub struct ShardControl {
    commands: rtrb::Producer<Command>,
    life: Arc<Life>,
}

/// A shard running on a thread of its own. Dropped, it leaves the shard running.
pub struct ShardHandle {
    /// Its commands.
    pub control: ShardControl,
    thread: Thread,
}

enum Thread {
    Glommio(ExecutorJoinHandle<()>),
    Poll(JoinHandle<Result<(), String>>),
}

/// A shard with its sockets open, to be run in an executor or on a thread of the application's. `Send`:
/// make it where its errors are dealt with, and move it to the thread that runs it.
pub struct MountedShard {
    pub(super) driver: ShardDriver,
    pub(super) waits: Vec<socket2::Socket>,
    // Last: the shard has ended when the others are dropped.
    pub(super) ends: Ends,
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
pub(super) struct Ends(Arc<Life>);

impl Ends {
    pub(super) fn note_started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_asked_to_stop(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// The queue to a shard is full; the command is given back.
pub struct CommandsFull(pub Command);

/// A shard that did not start. It is given back where its sockets are still in one piece.
pub(super) struct NotStarted {
    pub(super) error: SpawnError,
    pub(super) shard: Option<Box<MountedShard>>,
}

/// Starts a shard on its core, on this backend. The sockets are opened here, so that their errors come
/// back at once.
///
/// # Errors
/// [`SpawnError`]; of [`SpawnError::Preflight`] only for [`Backend::Glommio`].
pub fn spawn(
    executor: Executor,
    shard: Shard,
    listeners: impl Into<Listeners>,
    backend: Backend,
) -> Result<ShardHandle, SpawnError> {
    if backend == Backend::Glommio {
        // Whoever runs several has checked for all of them; this keeps glommio from panicking for anybody.
        check_io_uring(1)?;
    }
    let (control, mounted) = mount(shard, listeners)?;
    let thread = start(executor, mounted, backend).map_err(|not| not.error)?;
    ShardHandle { control, thread }.once_started(&executor)
}

/// Starts a shard on its core, on the backend chosen. Where that was left to us and glommio cannot make
/// an executor, the shard goes to poll and so does every one after it: `choice` says so from then on.
///
/// # Errors
/// As [`spawn`], less what another backend helps against.
pub fn spawn_chosen(
    executor: Executor,
    shard: Shard,
    listeners: impl Into<Listeners>,
    choice: &mut Choice,
) -> Result<ShardHandle, SpawnError> {
    let (control, mounted) = mount(shard, listeners)?;
    let thread = start(executor, mounted, choice.backend()).or_else(|not| match not.shard {
        Some(mounted) if choice.fall_back(&not.error) => {
            start(executor, *mounted, choice.backend()).map_err(|not| not.error)
        }
        _ => Err(not.error),
    })?;
    ShardHandle { control, thread }.once_started(&executor)
}

fn start(executor: Executor, mounted: MountedShard, backend: Backend) -> Result<Thread, NotStarted> {
    match backend {
        Backend::Glommio => glommio::start(executor, mounted).map(Thread::Glommio),
        Backend::Poll => poll::start(executor, mounted).map(Thread::Poll),
    }
}

/// Makes a shard ready for an executor or a thread that the application has already: opens its sockets,
/// starts nothing. What comes of it is up to [`MountedShard::run`] or
/// [`MountedShard::run_on_this_thread`].
///
/// # Errors
/// [`SpawnError::Bind`] and [`SpawnError::Descriptors`]; never the others, which are about executors.
pub fn mount(
    shard: Shard,
    listeners: impl Into<Listeners>,
) -> Result<(ShardControl, MountedShard), SpawnError> {
    let id = shard.id();
    let (commands, queue) = rtrb::RingBuffer::new(COMMANDS_MAX);
    let driver = ShardDriver::new(shard, listeners.into(), queue)?;
    let mut waits = Vec::new();
    for port in driver.waits() {
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
    /// What drives it.
    pub fn backend(&self) -> Backend {
        match self.thread {
            Thread::Glommio(_) => Backend::Glommio,
            Thread::Poll(_) => Backend::Poll,
        }
    }

    /// Itself, once the shard runs.
    fn once_started(self, executor: &Executor) -> Result<Self, SpawnError> {
        let deadline = clock::monotonic() + START_MAX;
        while !self.control.life.started.load(Ordering::Relaxed) {
            if self.control.has_ended() {
                // Joining does not wait: it has ended.
                let reason = self.join().err().unwrap_or_else(|| "it ended before it began".to_owned());
                return Err(executor.error(reason));
            }
            if clock::monotonic() > deadline {
                return Err(executor.error(format_args!("it did not begin within {START_MAX:?}")));
            }
            std::thread::park_timeout(START_POLL);
        }
        Ok(self)
    }

    /// Waits until the shard has stopped.
    ///
    /// # Errors
    /// When the shard panicked or could not go on, with what is known of it.
    pub fn join(self) -> Result<(), String> {
        self.control.request_stop();
        match self.thread {
            Thread::Glommio(thread) => thread.join().map_err(|error| error.to_string()),
            Thread::Poll(thread) => thread.join().unwrap_or_else(|panic| Err(panic_text(&*panic))),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("without a message"))
}
