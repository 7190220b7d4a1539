//! How it is measured: pinned, timed, interleaved.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use crate::contender::{Broadcast, Contender, Reader, Writer};

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
    /// Records that reached the reader per second, while the writer ran; of several readers, the sum.
    pub delivered_per_s: f64,
    /// Share of all records that reached the reader, or are in what it aggregates; of several readers,
    /// the mean.
    pub through: f64,
}

/// The core of the writer and those of the readers.
#[derive(Clone, Debug)]
pub struct Cores {
    /// Runs the timed side: this thread, from [`Cores::pin`] on.
    pub writer: CoreId,
    /// Run the readers, in turn: all other cores, at least one.
    pub readers: Vec<CoreId>,
}

impl Cores {
    /// Takes all cores and pins this thread to the first. `None` where there are no two: a
    /// concurrent measurement on one core would measure its scheduler.
    pub fn pin() -> Option<Self> {
        let cores = core_affinity::get_core_ids()?;
        let (writer, readers @ [_, ..]) = cores.split_first()? else { return None };
        core_affinity::set_for_current(*writer).then(|| Self { writer: *writer, readers: readers.to_vec() })
    }
}

/// Time for a cache line to go to the other core and back: what two threads that share one cannot
/// beat. On a virtual machine it can change tenfold from minute to minute with where the host puts the
/// cores, and every figure beside a reader with it.
pub fn line_round_trip(cores: &Cores) -> Duration {
    const TRIPS: u32 = 20_000;
    let ball = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(core_affinity::set_for_current(cores.readers[0]), "the reader could not be pinned");
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

/// One round next to a reader on another core that drains, then waits for `pause`; without a pause
/// it drains flat out. The writer records for about `time`.
pub fn beside_reader<C: Contender>(cores: &Cores, pause: Option<Duration>, time: Duration) -> Measured {
    let (writer, reader) = C::pair();
    let mut beside = Beside::record(writer, vec![reader], cores, pause, time);
    let Some((reader, delivered)) = beside.readers.pop() else { panic!("readers are handed back") };
    let through = C::check(beside.recorded, delivered, beside.writer, reader);
    Measured { through: through as f64 / beside.recorded as f64, ..beside.measured }
}

/// One round next to `readers` readers that drain flat out, each of them everything, spread over the
/// cores that are not the writer's; they share them where there are too few.
pub fn beside_readers<C: Broadcast>(cores: &Cores, readers: usize, time: Duration) -> Measured {
    let (writer, fanned_out) = C::fan_out(readers);
    let beside = Beside::record(writer, fanned_out, cores, None, time);
    for (reader, delivered) in beside.readers {
        C::check_reader(beside.recorded, delivered, reader);
    }
    beside.measured
}

/// What a writer and its readers did side by side, and themselves, to be checked.
struct Beside<W, R> {
    recorded: u64,
    writer: W,
    /// With what each delivered in all, drained to the end.
    readers: Vec<(R, u64)>,
    measured: Measured,
}

impl<W: Writer, R: Reader> Beside<W, R> {
    fn record(
        mut writer: W,
        readers: Vec<R>,
        cores: &Cores,
        pause: Option<Duration>,
        time: Duration,
    ) -> Self {
        let mut readers: Vec<_> = readers.into_iter().map(|reader| (reader, 0)).collect();
        for lap in 0..WARM_LAPS {
            writer.record_all(lap * LAP, (lap + 1) * LAP);
            for (reader, delivered) in &mut readers {
                *delivered += reader.drain();
            }
        }
        let (ready, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (laps, elapsed, outcomes) = std::thread::scope(|scope| {
            let pinned = readers.into_iter().zip(cores.readers.iter().cycle());
            // Moved to its thread's own stack: beside the writer it would share a line with it.
            let reading: Vec<_> = pinned
                .map(|((reader, delivered), core)| {
                    let (ready, stop) = (&ready, &stop);
                    scope.spawn(move || {
                        assert!(core_affinity::set_for_current(*core), "the reader could not be pinned");
                        ready.fetch_add(1, Ordering::Release);
                        let (reader, drained, draining) = drain_until(stop, reader, pause);
                        (reader, delivered, drained, draining)
                    })
                })
                .collect();
            while ready.load(Ordering::Acquire) < reading.len() {
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
            let outcomes = reading.into_iter().map(|reading| match reading.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            (lap, elapsed, outcomes.collect::<Vec<_>>())
        });
        let recorded = laps * LAP;
        let (mut readers, mut delivered_per_s) = (Vec::new(), 0.0);
        for (mut reader, delivered, drained, draining) in outcomes {
            delivered_per_s += drained as f64 / draining.as_secs_f64();
            let delivered = delivered + drained + reader.drain();
            readers.push((reader, delivered));
        }
        let all_delivered: u64 = readers.iter().map(|(_, delivered)| delivered).sum();
        let measured = Measured {
            ns_per_record: elapsed.as_nanos() as f64 / ((laps - WARM_LAPS) * LAP) as f64,
            delivered_per_s,
            through: all_delivered as f64 / (recorded * readers.len() as u64) as f64,
        };
        Self { recorded, writer, readers, measured }
    }
}

/// Drains until told to stop. How many records, and in which time.
fn drain_until<R: Reader>(stop: &AtomicBool, mut reader: R, pause: Option<Duration>) -> (R, u64, Duration) {
    let mut drained = 0;
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        drained += reader.drain();
        match pause {
            Some(pause) => std::thread::sleep(pause),
            None => std::hint::spin_loop(),
        }
    }
    (reader, drained, began.elapsed())
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
