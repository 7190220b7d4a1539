//! Single-writer cells: counters and last values that overwriting may not touch.
//!
//! One word per series and core. The owner loads and stores it `Relaxed`: there is no second writer,
//! so no read-modify-write is needed, and a word is never torn. A reader's `Relaxed` load sees the
//! values of one cell in the order they were written (coherence), so a counter never goes backwards.
//! Cells promise nothing about the order *between* cells.

use std::sync::Arc;

use crate::sample::MetricId;
use crate::sync::{AtomicU64, Ordering};
use crate::words::Run;

/// The cells of one core, in cache lines that no other core's cells touch.
///
/// A thin pointer: a shard with thousands of targets holds dozens of handles for each, and what they
/// take in its cache is what a probe costs.
#[derive(Clone)]
pub(crate) struct CellWords(Arc<Run<AtomicU64>>);

impl CellWords {
    pub(crate) fn new(words: Run<AtomicU64>) -> Self {
        Self(Arc::new(words))
    }

    /// The word at `index`. Panics past the end, as a slice does.
    #[inline]
    pub(crate) fn word(&self, index: u32) -> &AtomicU64 {
        &self.0[index as usize]
    }

    /// Makes the word at `index` a counter that has counted nothing.
    pub(crate) fn clear_counter(&self, index: u32) {
        self.word(index).store(0, Ordering::Relaxed);
    }

    /// Sets the gauge at `index`; a NaN makes it absent.
    #[inline]
    pub(crate) fn set_gauge(&self, index: u32, value: f64) {
        let bits = if value.is_nan() { ABSENT } else { value.to_bits() };
        self.word(index).store(bits, Ordering::Relaxed);
    }

    /// Makes the word at `index` a gauge without a value.
    pub(crate) fn clear_gauge(&self, index: u32) {
        self.word(index).store(ABSENT, Ordering::Relaxed);
    }
}

/// The bits of a gauge without a value: a quiet NaN that arithmetic does not produce.
pub(crate) const ABSENT: u64 = 0x7ff8_0000_0000_0a85;

/// A counter of one series on one core. Wait-free; one load and one store.
///
/// Not `Clone`, and every method takes `&mut self`: a second writer does not compile.
///
/// ```compile_fail
/// # use relayscope_bridge::CounterCell;
/// fn second_writer(cell: CounterCell) -> (CounterCell, CounterCell) { (cell.clone(), cell) }
/// ```
pub struct CounterCell {
    words: CellWords,
    index: u32,
    id: MetricId,
}

impl CounterCell {
    /// Takes over `words[index]`.
    pub(crate) fn new(words: CellWords, index: u32, id: MetricId) -> Self {
        Self { words, index, id }
    }

    /// Adds `n`. Wraps at 2^64.
    #[inline]
    pub fn add(&mut self, n: u64) {
        let word = self.words.word(self.index);
        word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn get(&self) -> u64 {
        self.words.word(self.index).load(Ordering::Relaxed)
    }

    /// The series this cell belongs to.
    pub fn id(&self) -> MetricId {
        self.id
    }
}

const _: () = assert!(size_of::<CounterCell>() == 16, "a handle is a pointer, an index and an id");

/// The last value of one series on one core. Wait-free; one store. Absent until set.
pub struct GaugeCell {
    words: CellWords,
    index: u32,
    id: MetricId,
}

impl GaugeCell {
    /// Takes over `words[index]`.
    pub(crate) fn new(words: CellWords, index: u32, id: MetricId) -> Self {
        Self { words, index, id }
    }

    /// Sets the value. A NaN is no measurement and makes the gauge absent.
    #[inline]
    pub fn set(&mut self, value: f64) {
        self.words.set_gauge(self.index, value);
    }

    /// Sets the value, or makes the gauge absent: a failed measurement is never 0 and never the
    /// last value.
    #[inline]
    pub fn set_or_clear(&mut self, value: Option<f64>) {
        self.set(value.unwrap_or(f64::NAN));
    }

    /// The current value; `None` while absent.
    pub fn get(&self) -> Option<f64> {
        read_gauge(self.words.word(self.index))
    }

    /// The series this cell belongs to.
    pub fn id(&self) -> MetricId {
        self.id
    }
}

pub(crate) fn read_counter(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

pub(crate) fn read_gauge(word: &AtomicU64) -> Option<f64> {
    let value = f64::from_bits(word.load(Ordering::Relaxed));
    (!value.is_nan()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_absent_until_set_and_after_a_failed_measurement() {
        let words = CellWords::new(Run::on_heap(1));
        words.clear_gauge(0);
        let mut gauge = GaugeCell::new(words, 0, MetricId(0));
        assert_eq!(gauge.get(), None);
        gauge.set(0.0);
        assert_eq!(gauge.get(), Some(0.0));
        gauge.set_or_clear(None);
        assert_eq!(gauge.get(), None);
        gauge.set(f64::NAN);
        assert_eq!(gauge.get(), None);
    }
}
