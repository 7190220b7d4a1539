//! The loop that is timed: fixed work per packet, then what a relay would record of it.

use std::hint::black_box;
use std::time::Duration;

use core_affinity::CoreId;
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Peers of the relay. Packets come from each in turn, and each has series of its own.
pub const PEERS: usize = 64;
/// Hashed byte by byte, that is about half a microsecond: so short that a 4 ms tick of the kernel
/// falls on one iteration in some thousands, and p99.9 is the loop's and not the tick's.
pub const PACKET_BYTES: usize = 512;
/// A packet of these takes about a microsecond: a million a second.
pub const LARGE_PACKET_BYTES: usize = 1024;

/// A slice begins with this much of the same, not timed: one interval of draining and scraping, after
/// which the control plane has its steady load.
const WARM: Duration = Duration::from_millis(100);
/// A slice's timed part.
pub const TIMED: Duration = Duration::from_millis(200);

const LATENCY_NS_MAX: u64 = 10_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// What a recorder is told of one packet.
pub struct Packet {
    /// Below [`PEERS`].
    pub peer: usize,
    /// Its length.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC`, read once per iteration whoever records.
    pub arrived_ns: u64,
    /// What the packet before it took.
    pub forwarding_seconds: f64,
    /// Some number that changes.
    pub queued: f64,
}

/// The relay's side of a telemetry: two counters, one observation, one gauge per packet.
pub trait Recorder: Send {
    /// Records one packet.
    fn record(&mut self, packet: &Packet);

    /// Runs `run` on the loop's thread with all that belongs to that thread.
    fn on_loop_thread(&mut self, run: impl FnOnce(&mut Self)) {
        run(self);
    }
}

/// No telemetry.
pub struct Nothing;

impl Recorder for Nothing {
    #[inline]
    fn record(&mut self, _packet: &Packet) {}
}

/// One turn of one form on the loop's core.
pub struct Slice<'a> {
    core: CoreId,
    packet_bytes: usize,
    timed: Duration,
    latencies_ns: &'a mut Histogram<u64>,
    packets: u64,
    preemptions: u64,
}

impl<'a> Slice<'a> {
    /// Packets of [`PACKET_BYTES`] for [`TIMED`]. Leaves what it measures in `latencies_ns`, made by
    /// [`latencies_ns`].
    pub fn new(core: CoreId, latencies_ns: &'a mut Histogram<u64>) -> Self {
        Self::of(PACKET_BYTES, TIMED, core, latencies_ns)
    }

    /// As [`new`](Self::new), with packets of `packet_bytes` and for another time.
    pub fn of(
        packet_bytes: usize,
        timed: Duration,
        core: CoreId,
        latencies_ns: &'a mut Histogram<u64>,
    ) -> Self {
        assert!(packet_bytes <= LARGE_PACKET_BYTES);
        Self { core, packet_bytes, timed, latencies_ns, packets: 0, preemptions: 0 }
    }

    /// Packets forwarded, those that were not timed among them.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How often the kernel gave the core to something else while it was timed. Nothing of this process
    /// runs there: it is the machine's doing.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Runs the loop on its core, on a thread of its own, and waits for it.
    pub fn run(&mut self, recorder: &mut impl Recorder) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(core_affinity::set_for_current(self.core), "the loop could not be pinned");
                recorder.on_loop_thread(|recorder| {
                    self.packets += forward_for(WARM, self.packet_bytes, recorder, self.latencies_ns);
                    self.latencies_ns.reset();
                    let before = preemptions();
                    self.packets += forward_for(self.timed, self.packet_bytes, recorder, self.latencies_ns);
                    self.preemptions += preemptions() - before;
                });
            });
        });
    }
}

/// Keeps this thread, and with it all that it starts, off the last core and returns that and the others.
/// `None` where there are no two.
pub fn leave_last_core() -> Option<(CoreId, Vec<CoreId>)> {
    let mut others = core_affinity::get_core_ids()?;
    let last = others.pop()?;
    let mut set = CpuSet::new();
    others.iter().try_for_each(|other| set.set(other.id)).ok()?;
    // Of no core at all it fails, which is as it should be.
    sched_setaffinity(Pid::from_raw(0), &set).ok()?;
    Some((last, others))
}

/// An empty histogram, allocated whole: recording never allocates.
pub fn latencies_ns() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).expect("the bounds are in order")
}

/// Forwards packets for `time`, returns how many. An iteration ends with the stamp that begins the
/// next, so that one look at the clock serves both and nothing falls between them.
#[inline(never)]
fn forward_for(
    time: Duration,
    packet_bytes: usize,
    recorder: &mut impl Recorder,
    latencies_ns: &mut Histogram<u64>,
) -> u64 {
    let payload = [0x5a; LARGE_PACKET_BYTES];
    let payload = &payload[..packet_bytes];
    let began_ns = monotonic_ns();
    let end_ns = began_ns + time.as_nanos() as u64;
    let (mut arrived_ns, mut took_ns, mut packets) = (began_ns, 0, 0);
    while arrived_ns < end_ns {
        // Done whether the recorder wants it or not.
        let hash = black_box(forward(black_box(payload)));
        recorder.record(&Packet {
            peer: packets as usize % PEERS,
            bytes: packet_bytes as u64,
            arrived_ns,
            forwarding_seconds: took_ns as f64 * 1e-9,
            queued: (hash % 16) as f64,
        });
        let now_ns = monotonic_ns();
        took_ns = now_ns - arrived_ns;
        latencies_ns.saturating_record(took_ns);
        arrived_ns = now_ns;
        packets += 1;
    }
    packets
}

/// The fixed work: FNV-1a. Not inlined, so that every form runs the same instructions at the same
/// address.
#[inline(never)]
fn forward(payload: &[u8]) -> u64 {
    payload.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Of this thread.
fn preemptions() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread can always ask for its own");
    usage.involuntary_context_switches() as u64
}

#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has it");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
