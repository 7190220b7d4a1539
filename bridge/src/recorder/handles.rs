//! What the facade's users hold: each handle looks on which thread it is.

use std::sync::Arc;

use metrics::{CounterFn, GaugeFn, HistogramFn};

use super::{Elsewhere, OWNER, SEAT, observation};
use crate::cell::CellWords;
use crate::sample::MetricId;
use crate::sync::{AtomicU64, Ordering};

/// The cell of the shard and that of all other threads.
pub(crate) struct SharedCounterCells {
    pub(crate) cells: CellWords,
    pub(crate) own: u32,
    pub(crate) shared: u32,
}

pub(super) struct CounterHandle {
    pub(super) owner: u64,
    pub(super) cells: SharedCounterCells,
}

impl CounterHandle {
    fn own(&self) -> &AtomicU64 {
        self.cells.cells.word(self.cells.own)
    }

    fn shared(&self) -> &AtomicU64 {
        self.cells.cells.word(self.cells.shared)
    }
}

impl CounterFn for CounterHandle {
    #[inline]
    fn increment(&self, value: u64) {
        if OWNER.get() == self.owner {
            // One writer, as in `CounterCell::add`.
            let own = self.own();
            own.store(own.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        } else {
            self.shared().fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Raises the sum to `value`, from whichever thread, through the cell that all may change.
    fn absolute(&self, value: u64) {
        let raise = |shared| {
            let own = self.own().load(Ordering::Relaxed);
            (own.wrapping_add(shared) < value).then(|| value - own)
        };
        // Refused by `raise` when it is as high already.
        self.shared().fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).unwrap_or_default();
    }
}

pub(super) struct GaugeHandle {
    pub(super) cells: CellWords,
    pub(super) index: u32,
}

impl GaugeHandle {
    /// Adds as an atomic: any thread may set it meanwhile.
    fn add(&self, delta: f64) {
        let word = self.cells.word(self.index);
        let sum = |bits| {
            let before = f64::from_bits(bits);
            // Absent counts as nothing yet.
            Some((if before.is_nan() { 0.0 } else { before } + delta).to_bits())
        };
        // Never refused: `sum` always gives one.
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).unwrap_or_default();
    }
}

impl GaugeFn for GaugeHandle {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    #[inline]
    fn set(&self, value: f64) {
        self.cells.set_gauge(self.index, value);
    }
}

pub(super) struct HistogramHandle {
    pub(super) id: MetricId,
    pub(super) elsewhere: Arc<Elsewhere>,
}

impl HistogramFn for HistogramHandle {
    #[inline]
    fn record(&self, value: f64) {
        if OWNER.get() != self.elsewhere.owner {
            return self.elsewhere.wait(self.id, value);
        }
        let recorded = SEAT.try_with(|seat| match seat.0.try_borrow_mut().as_deref_mut() {
            Ok(Some(writer)) => {
                writer.publisher.record(observation(self.id, writer.now_ns, value));
                true
            }
            _ => false,
        });
        // Within `ShardRecorder::publisher` it waits for the next beat. At the thread's end it is refused.
        if !recorded.unwrap_or(false) {
            self.elsewhere.wait(self.id, value);
        }
    }
}
