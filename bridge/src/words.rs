//! The storage seam: where the words of rings and cells live.
//!
//! `ring.rs` and `cell.rs` see slices of atomic words and never ask who owns the memory. Today that
//! is the heap; a mapped segment becomes a second owner here, and nothing else changes.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::sample::SAMPLE_WORDS;
use crate::sync::AtomicU64;

/// The smallest ring: one record in flight and one that can be read.
pub const RING_CAPACITY_MIN: usize = 2;
/// The largest ring: 16 Mi samples, 384 MiB.
pub const RING_CAPACITY_MAX: usize = 1 << 24;

/// A ring capacity outside [`RING_CAPACITY_MIN`]`..=`[`RING_CAPACITY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring capacity {0} is invalid; expected {RING_CAPACITY_MIN}..={RING_CAPACITY_MAX}")]
pub struct CapacityError(pub usize);

/// The words of one sample.
pub(crate) type Slot = [AtomicU64; SAMPLE_WORDS];

/// What the producer tells its readers.
pub(crate) struct RingHeader {
    /// Records published since the ring was made. Positions are never reused: u64 does not wrap.
    pub(crate) head: AtomicU64,
    /// The end of the last batch announced, whether published or in flight.
    pub(crate) claimed: AtomicU64,
}

/// One ring's header and slots. The number of slots is a power of two.
#[derive(Clone)]
pub(crate) struct RingWords(Arc<HeapRing>);

struct HeapRing {
    header: CachePadded<RingHeader>,
    slots: Box<[Slot]>,
}

impl RingWords {
    /// Rounds `capacity` up to a power of two and allocates, once.
    pub(crate) fn on_heap(capacity: usize) -> Result<Self, CapacityError> {
        if !(RING_CAPACITY_MIN..=RING_CAPACITY_MAX).contains(&capacity) {
            return Err(CapacityError(capacity));
        }
        let slot = || std::array::from_fn(|_| AtomicU64::new(0));
        let slots = std::iter::repeat_with(slot).take(capacity.next_power_of_two()).collect();
        let header = CachePadded::new(RingHeader { head: AtomicU64::new(0), claimed: AtomicU64::new(0) });
        Ok(Self(Arc::new(HeapRing { header, slots })))
    }

    #[inline]
    pub(crate) fn header(&self) -> &RingHeader {
        &self.0.header
    }

    #[inline]
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.0.slots
    }

    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.0.slots.len() as u64
    }
}

const CELLS_PER_LINE: usize = 16;
const _: () = assert!(
    std::mem::size_of::<CachePadded<[u64; CELLS_PER_LINE]>>() == CELLS_PER_LINE * 8,
    "cells fill whole padded lines, so that no two cores' cells share one"
);

/// The cells of one core: whole cache lines that no other core's cells touch.
///
/// A thin pointer: a shard with thousands of targets holds dozens of handles for each, and what they
/// take in its cache is what a probe costs.
#[derive(Clone)]
pub(crate) struct CellWords(Arc<HeapCells>);

struct HeapCells {
    lines: Box<[CachePadded<[AtomicU64; CELLS_PER_LINE]>]>,
}

impl CellWords {
    /// Allocates at least `cells` words, all zero.
    pub(crate) fn on_heap(cells: usize) -> Self {
        let line = || CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let lines = std::iter::repeat_with(line).take(cells.div_ceil(CELLS_PER_LINE)).collect();
        Self(Arc::new(HeapCells { lines }))
    }

    /// The word at `index`. Panics past the end, as a slice does.
    #[inline]
    pub(crate) fn word(&self, index: u32) -> &AtomicU64 {
        let index = index as usize;
        &self.0.lines[index / CELLS_PER_LINE][index % CELLS_PER_LINE]
    }
}
