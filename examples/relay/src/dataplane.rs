//! A shard on its core: one glommio executor with the relay's socket, the relay, and relayscope's probes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use glommio::timer::sleep;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, spawn_local};
use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::driver::clock;
use relayscope_dataplane::driver::glommio::{MountedShard, Readiness};
use relayscope_dataplane::driver::udp::{Replies, UdpPort};

use crate::frames::{End, Frame};
use crate::instruments::{Dropped, Instruments};
use crate::relay::{Outlet, Relay};
use crate::session::Peer;

/// What the executor pins; glommio's default is 30 MiB.
const IO_MEMORY_LEN: usize = 64 << 10;
const RING_DEPTH: usize = 128;
/// How often a shard looks for what time and the control plane bring.
const TICK: Duration = Duration::from_millis(50);
/// The same while there are members behind the web bridge: their packets wait for it.
const TICK_WITH_WEB: Duration = Duration::from_millis(1);
/// Packets of the web bridge taken in one tick.
const FRAMES_PER_TICK_MAX: usize = 256;
/// After reading for so long without a wait, the shard lets probes and timers have their turn, for so long.
const TURN_MAX: Duration = Duration::from_millis(2);
const GIVE_WAY: Duration = Duration::from_micros(50);
/// Between two attempts at a socket that reports errors.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A shard cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Its executor does not come up.
    #[error("shard {shard} cannot start on core {core}: {reason}")]
    Start {
        /// Which.
        shard: usize,
        /// Where.
        core: usize,
        /// What glommio says.
        reason: String,
    },
    /// It was lost while it ran.
    #[error("shard {shard} ended early: {reason}")]
    EndedEarly {
        /// Which.
        shard: usize,
        /// What is known of it.
        reason: String,
    },
}

/// What a shard is made of.
pub struct ShardParts {
    /// Its number.
    pub shard: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Its socket.
    pub port: UdpPort,
    /// Its end of the queues to the web bridge.
    pub web: Option<End>,
    /// relayscope's probes and reflector, to run beside the relay.
    pub probes: Option<MountedShard>,
}

/// A shard that runs. Dropped, it is asked to stop.
pub struct ShardThread {
    shard: usize,
    stop: Arc<AtomicBool>,
    thread: Option<ExecutorJoinHandle<Result<(), String>>>,
}

impl Drop for ShardThread {
    fn drop(&mut self) {
        self.request_stop();
    }
}

/// Runs a relay on its core. `relay` makes it there: what it records through need not be `Send`.
///
/// # Errors
/// [`ShardError::Start`].
pub fn spawn<I: Instruments + 'static>(
    parts: ShardParts,
    relay: impl FnOnce() -> Relay<I> + Send + 'static,
) -> Result<ShardThread, ShardError> {
    let (shard, core) = (parts.shard, parts.core);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("relay-{shard}"))
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .spawn(move || async move { run(relay(), parts, &stopped).await })
        .map_err(|error| ShardError::Start { shard, core, reason: error.to_string() })?;
    Ok(ShardThread { shard, stop, thread: Some(thread) })
}

impl ShardThread {
    /// Asks it to stop at its next tick. Its probes are stopped by who controls them.
    pub fn request_stop(&self) {
        // Relaxed: a flag alone.
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`ShardError::EndedEarly`] if it had to end, or panicked.
    pub fn join(mut self) -> Result<(), ShardError> {
        self.request_stop();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let ended = thread.join().map_err(|error| error.to_string()).flatten();
        ended.map_err(|reason| ShardError::EndedEarly { shard: self.shard, reason })
    }
}

/// What the tasks of one shard share.
struct Runner<I> {
    relay: Relay<I>,
    port: UdpPort,
    web: Option<End>,
    /// When time is to bring something next.
    timeout_at: Monotonic,
}

/// Runs until asked to stop.
async fn run<I: Instruments + 'static>(
    relay: Relay<I>,
    parts: ShardParts,
    stop: &AtomicBool,
) -> Result<(), String> {
    let ShardParts { port, web, probes, .. } = parts;
    let readiness =
        Readiness::of(&port).map_err(|error| format!("it cannot wait for its socket: {error}"))?;
    let runner = Rc::new(RefCell::new(Runner { relay, port, web, timeout_at: Monotonic(0) }));
    let probing = probes.map(|probes| spawn_local(probes.run()));
    let reading = spawn_local(read(Rc::clone(&runner), readiness));
    while !stop.load(Ordering::Relaxed) {
        let pause = runner.borrow_mut().tick();
        sleep(pause).await;
    }
    reading.cancel().await;
    if let Some(probing) = probing {
        probing.await;
    }
    // What came before the end is still forwarded.
    runner.borrow_mut().read().ok();
    runner.borrow_mut().tick();
    Ok(())
}

/// Reads whenever there is something.
async fn read<I: Instruments>(runner: Rc<RefCell<Runner<I>>>, readiness: Readiness) {
    let mut turn_began = clock::monotonic();
    loop {
        let (woken, waited) = readiness.wait().await;
        if waited {
            turn_began = clock::monotonic();
        }
        let read = runner.borrow_mut().read();
        if woken.is_err() || read.is_err() {
            // About an earlier copy, and gone by being reported; one that stays must not keep the core.
            sleep(ERROR_PAUSE).await;
        }
        if clock::monotonic().since(turn_began) >= TURN_MAX {
            sleep(GIVE_WAY).await;
            turn_began = clock::monotonic();
        }
    }
}

impl<I: Instruments> Runner<I> {
    /// Takes in what lies in the socket, about a thousand packets at most.
    fn read(&mut self) -> std::io::Result<()> {
        let Self { relay, port, web, .. } = self;
        let readout = port.read(|now, arrivals, datagram, replies| {
            let arrived = arrivals.arrival(datagram.ancillary.received_at).at;
            let mut outlet = Ways { replies, web: web.as_mut() };
            relay.handle_packet(now, Peer::Udp(datagram.source), arrived, datagram.octets, &mut outlet);
        })?;
        if readout.dropped > 0 {
            relay.instruments_mut().dropped(Dropped::ReceiveBuffer, readout.dropped.into());
        }
        Ok(())
    }

    /// Does what time and the web bridge bring; returns how long to sleep.
    fn tick(&mut self) -> Duration {
        let Self { relay, port, web, timeout_at } = self;
        let now = clock::now();
        if now.monotonic >= *timeout_at {
            relay.handle_timeout(now);
            *timeout_at = now.monotonic + TICK;
        }
        let replies = port.replies();
        for _ in 0..FRAMES_PER_TICK_MAX {
            let Some(mut frame) = web.as_mut().and_then(|web| web.from.pop().ok()) else { break };
            let (peer, at) = (Peer::Web(frame.connection), frame.at);
            let mut outlet = Ways { replies: &replies, web: web.as_mut() };
            relay.handle_packet(now, peer, at, frame.octets_mut(), &mut outlet);
        }
        if relay.web_members() > 0 { TICK_WITH_WEB } else { TICK }
    }
}

/// Where a shard's packets go.
struct Ways<'a> {
    replies: &'a Replies<'a>,
    web: Option<&'a mut End>,
}

impl Outlet for Ways<'_> {
    #[inline]
    fn send(&mut self, to: Peer, octets: &[u8]) -> Result<(), Dropped> {
        match to {
            Peer::Udp(address) => self.replies.send(octets, address, None).map_err(|_| Dropped::SendRefused),
            Peer::Web(connection) => {
                let frame = Frame::new(connection, self.now(), octets).ok_or(Dropped::Malformed)?;
                let web = self.web.as_mut().ok_or(Dropped::BridgeFull)?;
                web.to.push(frame).map_err(|_| Dropped::BridgeFull)
            }
        }
    }

    fn now(&self) -> Monotonic {
        clock::monotonic()
    }
}
