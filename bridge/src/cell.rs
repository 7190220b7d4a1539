//! Single-writer cells: counters and last values that overwriting may not touch.
//!
//! One word per series and core. The owner loads and stores it `Relaxed`: there is no second writer,
//! so no read-modify-write is needed, and a word is never torn. A reader's `Relaxed` load sees the
//! values of one cell in the order they were written (coherence), so a counter never goes backwards.
//! Cells promise nothing about the order *between* cells.

use crate::sample::MetricId;
use crate::sync::{AtomicU64, Ordering};
use crate::words::CellWords;

/// The bits of a gauge without a value: a quiet NaN that arithmetic does not produce.
const ABSENT: u64 = 0x7ff8_0000_0000_0a85;

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
    /// Takes over `words[index]` and starts it at zero.
    pub(crate) fn new(words: CellWords, index: u32, id: MetricId) -> Self {
        words.word(index).store(0, Ordering::Relaxed);
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
    /// Takes over `words[index]` and starts it absent.
    pub(crate) fn new(words: CellWords, index: u32, id: MetricId) -> Self {
        words.word(index).store(ABSENT, Ordering::Relaxed);
        Self { words, index, id }
    }

    /// Sets the value. A NaN is no measurement and makes the gauge absent.
    #[inline]
    pub fn set(&mut self, value: f64) {
        let bits = if value.is_nan() { ABSENT } else { value.to_bits() };
        self.words.word(self.index).store(bits, Ordering::Relaxed);
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
        let mut gauge = GaugeCell::new(CellWords::on_heap(1), 0, MetricId(0));
        assert_eq!(gauge.get(), None);
        gauge.set(0.0);
        assert_eq!(gauge.get(), Some(0.0));
        gauge.set_or_clear(None);
        assert_eq!(gauge.get(), None);
        gauge.set(f64::NAN);
        assert_eq!(gauge.get(), None);
    }

    #[test]
    fn taking_over_a_used_word_starts_the_counter_at_zero() {
        let words = CellWords::on_heap(1);
        CounterCell::new(words.clone(), 0, MetricId(0)).add(9);
        assert_eq!(CounterCell::new(words, 0, MetricId(1)).get(), 0);
    }
}
