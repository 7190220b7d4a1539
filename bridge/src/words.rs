//! The storage seam: runs of atomic words, and what keeps their memory alive.
//!
//! Everything above sees slices of atomic words and never asks whether they lie on the heap or in a
//! mapped segment. This file and `segment/map.rs` hold all the `unsafe` of the bridge.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(not(loom))]
use crossbeam_utils::CachePadded;

use crate::sample::SAMPLE_WORDS;
#[cfg(not(loom))]
use crate::segment::map::Mapping;
use crate::sync::AtomicU64;

/// Words that no two cores may share: two cache lines, as the adjacent-line prefetcher takes them.
pub(crate) const LINE_WORDS: usize = 16;
#[cfg(not(loom))]
const _: () = assert!(
    size_of::<CachePadded<[u64; LINE_WORDS]>>() == LINE_WORDS * 8,
    "a padded line is full, so that lines laid side by side are one run of words"
);

/// The words of one sample.
pub(crate) type Slot = [AtomicU64; SAMPLE_WORDS];

/// What is made of atomic words alone and may therefore be seen in any run of them.
///
/// # Safety
/// The type is one or more `AtomicU64`, without padding, and valid whatever their bits.
#[allow(unsafe_code)]
pub(crate) unsafe trait OfWords {
    /// Words it takes.
    const WORDS: usize;
}

// SAFETY: it is one.
#[allow(unsafe_code)]
unsafe impl OfWords for AtomicU64 {
    const WORDS: usize = 1;
}

// SAFETY: an array has no padding.
#[allow(unsafe_code)]
unsafe impl<const N: usize> OfWords for [AtomicU64; N] {
    const WORDS: usize = N;
}

/// Owns the memory that runs point into.
enum Memory {
    #[cfg(not(loom))]
    Heap(Box<[CachePadded<[AtomicU64; LINE_WORDS]>]>),
    #[cfg(not(loom))]
    Mapped(Mapping),
    /// Loom's atomics are larger than the words they stand for, and are not to be mapped.
    #[cfg(loom)]
    Heap(Box<[AtomicU64]>),
}

/// A run of `T`s in memory that lives at least as long. Clones share it.
pub(crate) struct Run<T> {
    first: NonNull<T>,
    len: usize,
    memory: Arc<Memory>,
}

// SAFETY: a run gives out shared references to atomics only (`OfWords`), which any thread may use, and
// keeps their memory alive by a reference count that is atomic itself.
#[allow(unsafe_code)]
unsafe impl<T: OfWords> Send for Run<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: OfWords> Sync for Run<T> {}

impl<T> Clone for Run<T> {
    fn clone(&self) -> Self {
        Self { first: self.first, len: self.len, memory: Arc::clone(&self.memory) }
    }
}

impl<T: OfWords> Deref for Run<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `first` and `len` were checked against the memory by `on_heap`, `mapped` or `part`;
        // `memory` keeps it; nothing ever makes a unique reference to it.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.first.as_ptr(), self.len)
        }
    }
}

impl Run<AtomicU64> {
    /// Allocates at least `words` words on a cache line of their own, all zero.
    pub(crate) fn on_heap(words: usize) -> Self {
        #[cfg(not(loom))]
        let memory = {
            let line = || CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
            Memory::Heap(std::iter::repeat_with(line).take(words.div_ceil(LINE_WORDS)).collect())
        };
        #[cfg(loom)]
        let memory = Memory::Heap(std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect());
        Self::of(memory)
    }

    /// All words of a mapping.
    #[cfg(not(loom))]
    pub(crate) fn mapped(mapping: Mapping) -> Self {
        Self::of(Memory::Mapped(mapping))
    }

    fn of(memory: Memory) -> Self {
        // Into its place first: what is pointed into does not move any more, not even as a value.
        let memory = Arc::new(memory);
        let (first, len) = match &*memory {
            #[cfg(not(loom))]
            Memory::Heap(lines) => (NonNull::from(&**lines).cast(), lines.len() * LINE_WORDS),
            #[cfg(not(loom))]
            Memory::Mapped(mapping) => (mapping.start().cast(), mapping.len() / size_of::<AtomicU64>()),
            #[cfg(loom)]
            Memory::Heap(words) => (NonNull::from(&**words).cast(), words.len()),
        };
        Self { first, len, memory }
    }

    /// `len` `U`s from word `at` on; `None` where that reaches past the end.
    pub(crate) fn part<U: OfWords>(&self, at: usize, len: usize) -> Option<Run<U>> {
        let end = len.checked_mul(U::WORDS)?.checked_add(at)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `at <= end <= len`, so the pointer stays in (or one past) the same allocation; a `U`
        // is made of words and aligned as they are.
        #[allow(unsafe_code)]
        let first = unsafe { self.first.add(at) }.cast();
        Some(Run { first, len, memory: Arc::clone(&self.memory) })
    }

    /// The mapping these words lie in, where they do.
    #[cfg(not(loom))]
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        match &*self.memory {
            Memory::Mapped(mapping) => Some(mapping),
            Memory::Heap(_) => None,
        }
    }
}

/// One `T` in memory that lives at least as long.
pub(crate) struct One<T>(Run<T>);

impl<T> Clone for One<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: OfWords> One<T> {
    /// The `T` at word `at` of `words`, if it is there.
    pub(crate) fn at(words: &Run<AtomicU64>, at: usize) -> Option<Self> {
        words.part(at, 1).map(Self)
    }
}

impl<T: OfWords> Deref for One<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as for `Run`, whose length `at` has made 1.
        #[allow(unsafe_code)]
        unsafe {
            self.0.first.as_ref()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn a_part_that_reaches_past_the_end_is_none() {
        let words = Run::on_heap(LINE_WORDS);
        assert!(words.part::<Slot>(0, 5).is_some());
        assert!(words.part::<Slot>(0, 6).is_none());
        assert!(words.part::<AtomicU64>(LINE_WORDS, 0).is_some());
        assert!(words.part::<AtomicU64>(LINE_WORDS + 1, 0).is_none());
        assert!(words.part::<Slot>(usize::MAX, 1).is_none());
        assert!(words.part::<Slot>(0, usize::MAX).is_none());
    }

    #[test]
    fn parts_keep_the_memory_alive_and_share_it() {
        let words = Run::on_heap(LINE_WORDS);
        let (one, other): (Run<Slot>, Run<AtomicU64>) =
            (words.part(1, 2).unwrap(), words.part(3, 1).unwrap());
        drop(words);
        one[0][2].store(7, Ordering::Relaxed);
        assert_eq!(other[0].load(Ordering::Relaxed), 7);
    }
}
