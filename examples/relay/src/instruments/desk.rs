//! Gives the shards series for their sessions, and takes them back: the registry locks, so no shard asks it.
//!
//! A session that opens is a wish, and a session that ends gives its cells back. The desk retires their series, which
//! vanish from the next scrape, and the shard acknowledges: it writes them no more, so their ids and cells may be
//! given out again. How many there are at once is bounded by the shards, each for itself; so a room of a million
//! visitors has as many series as one of a hundred.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, park_timeout};
use std::time::Duration;

use relayscope_bridge::catalogue as family;
use relayscope_bridge::{
    CounterCell, GaugeCell, MetricId, RetireTicket, SeriesError, SeriesRegistry, ShardId,
};

use crate::session::Slot;

/// Wishes and grants on their way, in each direction.
const QUEUE_LEN: usize = 1024;
/// What one wish may bring.
const GRANTS_PER_WISH_MAX: usize = 2;
/// How often the desk looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What one session writes.
pub struct SessionSeries {
    pub(super) buffer: GaugeCell,
    pub(super) loss: GaugeCell,
    pub(super) rtt: GaugeCell,
    pub(super) underruns: CounterCell,
}

impl SessionSeries {
    /// Interns all of them, or says which were before one could not be.
    fn intern(
        registry: &SeriesRegistry,
        shard: ShardId,
        name: &str,
        room: &str,
    ) -> Result<Self, Vec<MetricId>> {
        let labels = [name, room];
        let mut done = Vec::new();
        let mut intern = || {
            let mut gauge = |family| {
                let gauge = registry.gauge(shard, family, &labels)?;
                done.push(gauge.id());
                Ok::<_, SeriesError>(gauge)
            };
            Ok::<_, SeriesError>(Self {
                buffer: gauge(&family::SESSION_BUFFER)?,
                loss: gauge(&family::SESSION_LOSS)?,
                rtt: gauge(&family::SESSION_RTT)?,
                underruns: registry.counter(shard, &family::SESSION_UNDERRUNS, &labels)?,
            })
        };
        intern().map_err(|_| done)
    }

    fn ids(&self) -> [MetricId; 4] {
        [self.buffer.id(), self.loss.id(), self.rtt.id(), self.underruns.id()]
    }
}

/// What a shard asks of the desk.
pub(super) enum Wish {
    /// Series for a session.
    Open { slot: Slot, wish: u64, name: Box<str>, room: Box<str> },
    /// They are not written any more.
    Close(Box<SessionSeries>),
}

/// What the desk answers.
pub(super) enum Grant {
    /// Here they are, or there are none: another session of that name is in that room, or a table is full.
    Open { slot: Slot, wish: u64, series: Option<Box<SessionSeries>> },
    /// To be acknowledged.
    Retired(RetireTicket),
}

/// A shard's end of the queues.
pub struct ShardEnd {
    pub(super) wishes: rtrb::Producer<Wish>,
    pub(super) grants: rtrb::Consumer<Grant>,
}

/// The desk's end.
struct DeskEnd {
    shard: ShardId,
    wishes: rtrb::Consumer<Wish>,
    grants: rtrb::Producer<Grant>,
}

/// See the module's head.
pub struct Desk {
    registry: SeriesRegistry,
    ends: Vec<DeskEnd>,
}

/// A desk on a thread of its own. Dropped, it stops.
pub struct DeskThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Desk {
    /// A desk nobody asks yet.
    pub fn new(registry: SeriesRegistry) -> Self {
        Self { registry, ends: Vec::new() }
    }

    /// One more shard may ask.
    pub fn end_for(&mut self, shard: ShardId) -> ShardEnd {
        let (wishes, asked) = rtrb::RingBuffer::new(QUEUE_LEN);
        let (grants, granted) = rtrb::RingBuffer::new(QUEUE_LEN);
        self.ends.push(DeskEnd { shard, wishes: asked, grants });
        ShardEnd { wishes, grants: granted }
    }

    /// Does what is asked, as far as there is room for the answers.
    pub fn poll(&mut self) {
        for end in &mut self.ends {
            // Readers see what changes here all at once.
            let together = self.registry.together();
            while end.grants.slots() >= GRANTS_PER_WISH_MAX {
                let Ok(wish) = end.wishes.pop() else { break };
                for grant in answer(&self.registry, end.shard, wish).into_iter().flatten() {
                    // There is room: this end alone pushes.
                    end.grants.push(grant).ok();
                }
            }
            drop(together);
        }
    }

    /// Lets it work on a thread of its own, which inherits this one's cores.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn spawn(mut self) -> io::Result<DeskThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            // Relaxed: a flag alone.
            while !stopped.load(Ordering::Relaxed) {
                self.poll();
                park_timeout(LOOK_INTERVAL);
            }
        };
        let thread = std::thread::Builder::new().name("series-desk".to_owned()).spawn(work)?;
        Ok(DeskThread { stop, thread: Some(thread) })
    }
}

impl Drop for DeskThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                eprintln!("the series desk panicked; sessions opened since have no series");
            }
        }
    }
}

fn answer(registry: &SeriesRegistry, shard: ShardId, wish: Wish) -> [Option<Grant>; GRANTS_PER_WISH_MAX] {
    let retire = |ids: &[MetricId]| match registry.retire(shard, ids) {
        Ok(ticket) => Some(Grant::Retired(ticket)),
        // They were interned here and retired nowhere else; if it ever is, they stay until the relay ends.
        Err(error) => {
            eprintln!("series of a session on shard {} stay: {error}", shard.0);
            None
        }
    };
    match wish {
        Wish::Open { slot, wish, name, room } => {
            let grant = |series| Some(Grant::Open { slot, wish, series });
            match SessionSeries::intern(registry, shard, &name, &room) {
                Ok(series) => [grant(Some(Box::new(series))), None],
                Err(done) if done.is_empty() => [grant(None), None],
                Err(done) => [grant(None), retire(&done)],
            }
        }
        Wish::Close(series) => {
            let ids = series.ids();
            // Before they are retired: from here on nobody can write them.
            drop(series);
            [retire(&ids), None]
        }
    }
}
