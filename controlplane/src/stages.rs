//! How long our own stages wait for the lock they work under, and how long they hold it.
//!
//! All since the process began, in buckets at most 9 % wide: memory is bounded, and a quantile is within 9 %.

use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Duration;

use serde::Serialize;

use crate::clock::Now;
use crate::histogram::ExponentialHistogram;

/// What is measured. Each has a lock it works under, but for the refreshers, and history, whose writes wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Draining the rings and folding what came.
    Drain,
    /// Writing an exposition, while no drain may change what it reads.
    Render,
    /// Running one scrape refresher, which waits for nobody.
    Refresh,
    /// Writing the history of one resolution to disk, after what came before it.
    History,
}

impl Stage {
    pub(crate) const ALL: [Self; 4] = [Self::Drain, Self::Render, Self::Refresh, Self::History];

    fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Render => "render",
            Self::Refresh => "refresh",
            Self::History => "history",
        }
    }
}

/// The latency of our own stages since the process began. As JSON:
///
/// ```json
/// {"drain_interval_seconds":0.1,
///  "drain_lateness":{"p50_seconds":0.00012,"p95_seconds":0.0004,"p99_seconds":0.0011,"max_seconds":0.0021},
///  "stages":[{"stage":"drain","count":600,"contended":2,
///             "wait":{"p50_seconds":1e-7,"p95_seconds":2e-7,"p99_seconds":0.0004,"max_seconds":0.0031},
///             "hold":{"p50_seconds":8e-6,"p95_seconds":1.1e-5,"p99_seconds":2.4e-5,"max_seconds":0.0002}}]}
/// ```
///
/// What has no value yet is `null`: a stage that never ran has neither `wait` nor `hold`, and refreshers, which wait
/// for no lock, have no `wait`. What `history` waits for is the disk: from when it was recorded to when it began to be
/// written, `contended` where something else was being written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageLatencies {
    /// How often a drain is due.
    pub drain_interval_seconds: f64,
    /// How late drains began; `null` before the drain thread ran.
    pub drain_lateness: Option<Quantiles>,
    /// Every stage, also those that never ran.
    pub stages: Vec<StageLatency>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageLatency {
    /// `drain`, `render`, `refresh` or `history`.
    pub stage: &'static str,
    /// Times it ran.
    pub count: u64,
    /// Times somebody else had the lock.
    pub contended: u64,
    /// How long it waited for the lock.
    pub wait: Option<Quantiles>,
    /// How long it held it: how long it took.
    pub hold: Option<Quantiles>,
}

/// A distribution of times, each within 9 % but for the maximum, which is exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50_seconds: f64,
    /// What 95 % do not exceed.
    pub p95_seconds: f64,
    /// What 99 % do not exceed.
    pub p99_seconds: f64,
    /// The longest ever.
    pub max_seconds: f64,
}

/// What was measured so far. Each distribution has a lock of its own that is held for a moment.
#[derive(Default)]
pub(crate) struct Stages {
    records: [Mutex<Record>; Stage::ALL.len()],
    drain_lateness: Mutex<Spread>,
}

#[derive(Default)]
struct Record {
    contended: u64,
    wait: Spread,
    hold: Spread,
}

#[derive(Default)]
struct Spread {
    histogram: ExponentialHistogram,
    max_seconds: f64,
}

impl Stages {
    /// Does `work` with what `mutex` guards, and notes how long it waited and took.
    pub(crate) fn with<T, R>(&self, stage: Stage, mutex: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> R {
        let asked = Now::sample();
        let mut guarded = match mutex.try_lock() {
            Ok(guarded) => guarded,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Before it waits: who holds the lock for ever is seen all the same.
                self.record(stage).contended += 1;
                lock(mutex)
            }
        };
        let had = Now::sample();
        let done = work(&mut guarded);
        drop(guarded);
        let held = Now::sample().since(had.monotonic_ns);
        self.note_passage(stage, had.since(asked.monotonic_ns), held);
        done
    }

    /// Of a stage without a lock.
    pub(crate) fn note_hold(&self, stage: Stage, hold: Duration) {
        self.record(stage).hold.note(hold);
    }

    /// Of a stage that waits in a queue, behind others if `was_held_up`.
    pub(crate) fn note_turn(&self, stage: Stage, was_held_up: bool, wait: Duration, hold: Duration) {
        self.record(stage).contended += u64::from(was_held_up);
        self.note_passage(stage, wait, hold);
    }

    fn note_passage(&self, stage: Stage, wait: Duration, hold: Duration) {
        let mut record = self.record(stage);
        record.wait.note(wait);
        record.hold.note(hold);
    }

    pub(crate) fn note_drain_lateness(&self, late: Duration) {
        lock(&self.drain_lateness).note(late);
    }

    pub(crate) fn read(&self, drain_interval: Duration) -> StageLatencies {
        StageLatencies {
            drain_interval_seconds: drain_interval.as_secs_f64(),
            drain_lateness: lock(&self.drain_lateness).quantiles(),
            stages: Stage::ALL.map(|stage| self.record(stage).read(stage)).to_vec(),
        }
    }

    fn record(&self, stage: Stage) -> std::sync::MutexGuard<'_, Record> {
        lock(&self.records[stage as usize])
    }
}

impl Record {
    fn read(&self, stage: Stage) -> StageLatency {
        StageLatency {
            stage: stage.as_str(),
            count: self.hold.histogram.count(),
            contended: self.contended,
            wait: self.wait.quantiles(),
            hold: self.hold.quantiles(),
        }
    }
}

impl Spread {
    fn note(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        // A duration is finite and not negative: it is never refused.
        if self.histogram.record(seconds).is_ok() {
            self.max_seconds = self.max_seconds.max(seconds);
        }
    }

    fn quantiles(&self) -> Option<Quantiles> {
        // Interpolated within a bucket, a quantile may lie above all that fell into it.
        let quantile = |q| self.histogram.quantile(q).map(|seconds| seconds.min(self.max_seconds));
        Some(Quantiles {
            p50_seconds: quantile(0.5)?,
            p95_seconds: quantile(0.95)?,
            p99_seconds: quantile(0.99)?,
            max_seconds: self.max_seconds,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn stage(stages: &Stages, stage: Stage) -> StageLatency {
        stages.read(ms(100)).stages.swap_remove(stage as usize)
    }

    #[test]
    fn a_stage_that_never_ran_has_no_times_rather_than_zeros() {
        let read = Stages::default().read(ms(100));
        assert_eq!((read.drain_interval_seconds, read.drain_lateness), (0.1, None));
        let names: Vec<_> = read.stages.iter().map(|stage| (stage.stage, stage.count)).collect();
        assert_eq!(names, [("drain", 0), ("render", 0), ("refresh", 0), ("history", 0)]);
        assert!(read.stages.iter().all(|stage| stage.wait.is_none() && stage.hold.is_none()));
    }

    #[test]
    fn quantiles_are_within_a_bucket_and_the_maximum_is_exact() {
        let stages = Stages::default();
        (1..=1000).for_each(|time| stages.note_passage(Stage::Drain, ms(time), ms(2 * time)));
        let drain = stage(&stages, Stage::Drain);
        assert_eq!((drain.count, drain.contended), (1000, 0));
        let (wait, hold) = (drain.wait.unwrap(), drain.hold.unwrap());
        for (is, exact) in [
            (wait.p50_seconds, 0.5),
            (wait.p95_seconds, 0.95),
            (wait.p99_seconds, 0.99),
            (hold.p50_seconds, 1.0),
        ] {
            assert!((is / exact - 1.0).abs() < 0.09, "{is} for {exact}");
        }
        assert_eq!((wait.max_seconds, hold.max_seconds), (1.0, 2.0));
    }

    #[test]
    fn no_quantile_exceeds_the_maximum() {
        let stages = Stages::default();
        stages.note_drain_lateness(Duration::from_micros(1));
        let lateness = stages.read(ms(100)).drain_lateness.unwrap();
        assert_eq!((lateness.p50_seconds, lateness.p99_seconds), (1e-6, 1e-6));
    }

    #[test]
    fn a_lock_somebody_has_is_waited_for_and_counted_as_contended() {
        let (stages, guarded) = (Stages::default(), Mutex::new(0));
        stages.with(Stage::Render, &guarded, |value| *value += 1);
        assert_eq!(stage(&stages, Stage::Render).contended, 0);
        std::thread::scope(|scope| {
            let held = guarded.lock().unwrap();
            scope.spawn(|| stages.with(Stage::Render, &guarded, |value| *value += 1));
            while stage(&stages, Stage::Render).contended == 0 {
                std::thread::yield_now();
            }
            assert_eq!(stage(&stages, Stage::Render).count, 1, "it waits");
            drop(held);
        });
        let render = stage(&stages, Stage::Render);
        assert_eq!((render.count, render.contended, *guarded.lock().unwrap()), (2, 1, 2));
    }
}
