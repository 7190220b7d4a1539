//! The loop that is timed: fixed work per packet, then what a relay would record of it.

use std::hint::black_box;
use std::time::Duration;

use core_affinity::CoreId;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

/// Peers of the relay. Packets come from each in turn, and each has series of its own.
pub(crate) const PEERS: usize = 64;
/// Hashed byte by byte, that is about half a microsecond: so short that a 4 ms tick of the kernel
/// falls on one iteration in some thousands, and p99.9 is the loop's and not the tick's.
pub(crate) const PACKET_BYTES: usize = 512;

/// A slice begins with this much of the same, not timed: one interval of draining and scraping, after
/// which the control plane has its steady load.
const WARM: Duration = Duration::from_millis(100);
/// A slice's timed part.
const TIMED: Duration = Duration::from_millis(200);

const LATENCY_NS_MAX: u64 = 10_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// What a recorder is told of one packet.
pub(crate) struct Packet {
    /// Below [`PEERS`].
    pub(crate) peer: usize,
    pub(crate) bytes: u64,
    /// `CLOCK_MONOTONIC`, read once per iteration whoever records.
    pub(crate) arrived_ns: u64,
    /// What the packet before it took.
    pub(crate) forwarding_seconds: f64,
    pub(crate) queued: f64,
}

/// The relay's side of a telemetry: two counters, one observation, one gauge per packet.
pub(crate) trait Recorder: Send {
    fn record(&mut self, packet: &Packet);

    /// Runs `run` on the loop's thread with all that belongs to that thread.
    fn on_loop_thread(&mut self, run: impl FnOnce(&mut Self)) {
        run(self);
    }
}

/// No telemetry.
pub(crate) struct Nothing;

impl Recorder for Nothing {
    #[inline]
    fn record(&mut self, _packet: &Packet) {}
}

/// One turn of one form on the loop's core.
pub(crate) struct Slice<'a> {
    core: CoreId,
    latencies_ns: &'a mut Histogram<u64>,
    packets: u64,
    preemptions: u64,
}

impl<'a> Slice<'a> {
    /// Leaves what it measures in `latencies_ns`, made by [`latencies_ns`].
    pub(crate) fn new(core: CoreId, latencies_ns: &'a mut Histogram<u64>) -> Self {
        Self { core, latencies_ns, packets: 0, preemptions: 0 }
    }

    /// Packets forwarded, those that were not timed among them.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    /// How often the kernel gave the core to something else while it was timed. Nothing of this process
    /// runs there: it is the machine's doing.
    pub(crate) fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Runs the loop on its core, on a thread of its own, and waits for it.
    pub(crate) fn run(&mut self, recorder: &mut impl Recorder) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(core_affinity::set_for_current(self.core), "the loop could not be pinned");
                recorder.on_loop_thread(|recorder| {
                    self.packets += forward_for(WARM, recorder, self.latencies_ns);
                    self.latencies_ns.reset();
                    let before = preemptions();
                    self.packets += forward_for(TIMED, recorder, self.latencies_ns);
                    self.preemptions += preemptions() - before;
                });
            });
        });
    }
}

/// An empty histogram, allocated whole: recording never allocates.
pub(crate) fn latencies_ns() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).unwrap()
}

/// Forwards packets for `time`, returns how many. An iteration ends with the stamp that begins the
/// next, so that one look at the clock serves both and nothing falls between them.
#[inline(never)]
fn forward_for(time: Duration, recorder: &mut impl Recorder, latencies_ns: &mut Histogram<u64>) -> u64 {
    let payload = [0x5a; PACKET_BYTES];
    let began_ns = monotonic_ns();
    let end_ns = began_ns + time.as_nanos() as u64;
    let (mut arrived_ns, mut took_ns, mut packets) = (began_ns, 0, 0);
    while arrived_ns < end_ns {
        let hash = forward(black_box(&payload));
        recorder.record(&Packet {
            peer: packets as usize % PEERS,
            bytes: PACKET_BYTES as u64,
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
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    usage.involuntary_context_switches() as u64
}

#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
