//! How it is measured: pinned, timed, interleaved.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use crate::contender::{Contender, Reader, Writer};

/// Records between two looks at the clock: half the rings measured, so that a writer without a reader
/// never finds its ring full.
pub const LAP: u64 = 32 * 1024;
/// Untimed laps of a fresh pair: two whole rings, so that every page is touched and every slot old.
const WARM_LAPS: u64 = 4;

/// What one round of one contender measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Time per record, as the writer sees it.
    pub ns_per_record: f64,
    /// Records that reached the reader per second, while the writer ran.
    pub delivered_per_s: f64,
    /// Share of all records that reached the reader, or are in what it aggregates.
    pub through: f64,
}

/// The core of the writer and the core of the reader.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Runs the timed side: this thread, from [`Cores::pin`] on.
    pub writer: CoreId,
    /// Runs the reader.
    pub reader: CoreId,
}

impl Cores {
    /// Takes two cores and pins this thread to the first. `None` where there are no two: a
    /// concurrent measurement on one core would measure its scheduler.
    pub fn pin() -> Option<Self> {
        let [writer, reader] = core_affinity::get_core_ids()?.get(..2)?.try_into().ok()?;
        core_affinity::set_for_current(writer).then_some(Self { writer, reader })
    }
}

/// Time for a cache line to go to the other core and back: what two threads that share one cannot
/// beat. On a virtual machine it can change tenfold from minute to minute with where the host puts the
/// cores, and every figure beside a reader with it.
pub fn line_round_trip(cores: Cores) -> Duration {
    const TRIPS: u32 = 20_000;
    let ball = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(core_affinity::set_for_current(cores.reader), "the reader could not be pinned");
            for trip in 0..TRIPS {
                wait_for(&ball, 2 * trip + 1);
                ball.store(2 * trip + 2, Ordering::Release);
            }
        });
        ball.store(1, Ordering::Release);
        wait_for(&ball, 2);
        let began = Instant::now();
        for trip in 1..TRIPS {
            ball.store(2 * trip + 1, Ordering::Release);
            wait_for(&ball, 2 * trip + 2);
        }
        began.elapsed() / (TRIPS - 1)
    })
}

fn wait_for(ball: &AtomicU32, value: u32) {
    while ball.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}

/// One round without a reader: `laps` timed laps.
pub fn alone<C: Contender>(laps: u64) -> Measured {
    let (mut writer, mut reader) = C::pair();
    let (mut elapsed, mut delivered) = (Duration::ZERO, 0);
    for lap in 0..WARM_LAPS + laps {
        let began = Instant::now();
        writer.record_all(lap * LAP, (lap + 1) * LAP);
        if lap >= WARM_LAPS {
            elapsed += began.elapsed();
        }
        if C::NEEDS_DRAINING {
            delivered += reader.drain();
        }
    }
    delivered += reader.drain();
    let recorded = (WARM_LAPS + laps) * LAP;
    let through = C::check(recorded, delivered, writer, reader) as f64 / recorded as f64;
    Measured { ns_per_record: elapsed.as_nanos() as f64 / (laps * LAP) as f64, delivered_per_s: 0.0, through }
}

/// One round next to a reader on the other core that drains, then waits for `pause`; without a pause
/// it drains flat out. The writer records for about `time`.
pub fn beside_reader<C: Contender>(cores: Cores, pause: Option<Duration>, time: Duration) -> Measured {
    let (mut writer, mut reader) = C::pair();
    let mut delivered = 0;
    for lap in 0..WARM_LAPS {
        writer.record_all(lap * LAP, (lap + 1) * LAP);
        delivered += reader.drain();
    }
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (laps, elapsed, drained, draining, reader) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            assert!(core_affinity::set_for_current(cores.reader), "the reader could not be pinned");
            let mut drained = 0;
            ready.store(true, Ordering::Release);
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                drained += reader.drain();
                match pause {
                    Some(pause) => std::thread::sleep(pause),
                    None => std::hint::spin_loop(),
                }
            }
            (drained, began.elapsed(), reader)
        });
        while !ready.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let began = Instant::now();
        let mut lap = WARM_LAPS;
        while began.elapsed() < time {
            writer.record_all(lap * LAP, (lap + 1) * LAP);
            lap += 1;
        }
        let elapsed = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        let (drained, draining, reader) = match reading.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (lap, elapsed, drained, draining, reader)
    });
    let mut reader = reader;
    delivered += drained + reader.drain();
    let through = C::check(laps * LAP, delivered, writer, reader) as f64 / (laps * LAP) as f64;
    let timed = (laps - WARM_LAPS) * LAP;
    Measured {
        ns_per_record: elapsed.as_nanos() as f64 / timed as f64,
        delivered_per_s: drained as f64 / draining.as_secs_f64(),
        through,
    }
}

/// One way to measure one contender, to be interleaved with others.
pub type Measurement<'a> = (&'static str, Box<dyn FnMut() -> Measured + 'a>);

/// Runs every measurement once per round, each round beginning with another one.
pub fn interleave(rounds: usize, measurements: &mut [Measurement<'_>]) -> Vec<(&'static str, Vec<Measured>)> {
    let mut results: Vec<_> = measurements.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..rounds {
        for turn in 0..measurements.len() {
            let which = (round + turn) % measurements.len();
            let measured = (measurements[which].1)();
            results[which].1.push(measured);
        }
    }
    results
}
