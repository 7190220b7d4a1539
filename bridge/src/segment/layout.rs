//! Where everything lies in a segment. Frozen: `docs/segment.md` describes it, the assertions below
//! hold it, and a change of anything here is a new [`VERSION`].
//!
//! A segment is one run of 64-bit words in the byte order of the machine that made it, each of them
//! atomic. Offsets follow from the sizes in the header; a reader computes them and believes none.

use crate::sample::SAMPLE_WORDS;
use crate::words::LINE_WORDS;

/// The first word: "RELAYSCP" as a number.
pub(crate) const MAGIC: u64 = 0x5245_4c41_5953_4350;
/// The version of this layout.
pub(crate) const VERSION: u64 = 1;

/// Words of the header: a page, of which what follows is used. Small under loom, where words are dear.
pub(crate) const HEADER_WORDS: usize = if cfg!(loom) { 2 * LINE_WORDS } else { 512 };

/// Words of the header, by name. Those of the first line are written once, `VERSION` the last of all.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 1;
    /// Bytes of the whole segment.
    pub(crate) const LENGTH: usize = 2;
    /// One more than that of the segment which this one replaced under its name; from 1.
    pub(crate) const GENERATION: usize = 3;
    pub(crate) const PID: usize = 4;
    /// When the segment was made, nanoseconds of `CLOCK_REALTIME`.
    pub(crate) const START_UNIX_NS: usize = 5;
    /// The same moment, nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) const START_MONOTONIC_NS: usize = 6;
    /// Two words: the kernel's boot id. Monotonic times of another boot mean nothing.
    pub(crate) const BOOT_ID: usize = 7;
    pub(crate) const SHARDS: usize = 9;
    pub(crate) const RING_SLOTS: usize = 10;
    pub(crate) const CELLS_PER_SHARD: usize = 11;
    pub(crate) const SERIES_ROWS: usize = 12;
    pub(crate) const FAMILY_ROWS: usize = 13;
    pub(crate) const STRING_WORDS: usize = 14;

    /// The owner's, from here on: written while the segment lives. 1 running, 2 closed.
    pub(crate) const STATE: usize = 16;
    /// Grows with every change of the families or series.
    pub(crate) const TABLE_GENERATION: usize = 17;
    pub(crate) const SERIES_USED: usize = 18;
    pub(crate) const FAMILIES_USED: usize = 19;
    /// 0 nothing was reloaded yet, 1 the configuration last read is in force, 2 it was refused.
    pub(crate) const RELOAD: usize = 20;
}

/// Words of a row of the table of families or of series.
pub(crate) const ROW_WORDS: usize = 8;
/// Labels of a family at most: their strings fill the second half of a row.
pub(crate) const LABELS_MAX: usize = 8;
/// Octets of one string at most.
pub(crate) const STRING_MAX: usize = 1024;

/// Words of a shard, before its cells and its ring.
pub(crate) mod shard {
    use super::LINE_WORDS;

    /// Who writes this shard: a process id; 0 nobody.
    pub(crate) const WRITER: usize = 0;
    /// The last sign of life, nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    pub(crate) const HEARTBEAT_NS: usize = 1;
    /// The newest retirement let go of. Stored after `RELEASED_AT`.
    pub(crate) const ACKNOWLEDGED: usize = 2;
    /// The ring position at that moment.
    pub(crate) const RELEASED_AT: usize = 3;
    /// Two words: head and claimed, on a line of their own.
    pub(crate) const RING: usize = LINE_WORDS;
    pub(crate) const CELLS: usize = 2 * LINE_WORDS;
}

/// Most shards: more cores than any host has.
pub(crate) const SHARDS_MAX: usize = 1024;
/// The smallest ring: one record in flight and one that can be read.
pub const RING_CAPACITY_MIN: usize = 2;
/// The largest ring: 16 Mi samples, 384 MiB.
pub const RING_CAPACITY_MAX: usize = 1 << 24;
/// Most series, or cells of a shard: their numbers are 32 bits wide.
pub(crate) const SERIES_MAX: usize = 1 << 28;
/// Most families: their numbers are 16 bits wide.
pub(crate) const FAMILIES_MAX: usize = 1 << 12;
/// Most words for strings: 2 GiB.
pub(crate) const STRING_WORDS_MAX: usize = 1 << 28;

/// The sizes a segment is laid out from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) shards: usize,
    /// A power of two.
    pub(crate) ring_slots: usize,
    pub(crate) cells_per_shard: usize,
    pub(crate) series_rows: usize,
    pub(crate) family_rows: usize,
    pub(crate) string_words: usize,
}

/// A size out of range: which, what it is, and what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeError {
    pub(crate) what: &'static str,
    pub(crate) value: usize,
    pub(crate) min: usize,
    pub(crate) max: usize,
}

impl Sizes {
    /// That every size is in its range. Products of such sizes do not overflow 64 bits.
    pub(crate) fn check(&self) -> Result<(), SizeError> {
        for (what, value, min, max) in [
            ("shards", self.shards, 1, SHARDS_MAX),
            ("ring_capacity", self.ring_slots, RING_CAPACITY_MIN, RING_CAPACITY_MAX),
            ("cells_per_shard", self.cells_per_shard, 1, SERIES_MAX),
            ("max_series", self.series_rows, 1, SERIES_MAX),
            ("max_families", self.family_rows, 1, FAMILIES_MAX),
            ("string_words", self.string_words, 1, STRING_WORDS_MAX),
        ] {
            if !(min..=max).contains(&value) {
                return Err(SizeError { what, value, min, max });
            }
        }
        Ok(())
    }
}

/// Offsets, in words from the start of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) sizes: Sizes,
    pub(crate) families: usize,
    pub(crate) series: usize,
    pub(crate) strings: usize,
    pub(crate) shards: usize,
    /// From one shard to the next.
    pub(crate) shard_stride: usize,
    /// From the start of a shard to its ring's slots.
    pub(crate) slots: usize,
    /// Words of the whole segment.
    pub(crate) words: usize,
}

/// Shards begin on a page, so that each can be placed by itself; under loom on a line.
pub(super) const SHARD_ALIGN: usize = if cfg!(loom) { LINE_WORDS } else { 512 };

impl Layout {
    /// Lays out `sizes`, which are in range.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let families = HEADER_WORDS;
        let series = families + sizes.family_rows * ROW_WORDS;
        let strings = series + sizes.series_rows * ROW_WORDS;
        let shards = (strings + sizes.string_words).next_multiple_of(SHARD_ALIGN);
        let slots = shard::CELLS + sizes.cells_per_shard.next_multiple_of(LINE_WORDS);
        let shard_stride = (slots + sizes.ring_slots * SAMPLE_WORDS).next_multiple_of(SHARD_ALIGN);
        // A page more, for the mark at its end.
        let words = shards + sizes.shards * shard_stride + SHARD_ALIGN;
        Self { sizes, families, series, strings, shards, shard_stride, slots, words }
    }

    pub(crate) fn shard(&self, shard: usize) -> usize {
        self.shards + shard * self.shard_stride
    }

    /// The last word, which holds [`MAGIC`] as the first does: a file that was cut off has lost it, even if
    /// it grew again.
    pub(crate) fn end_mark(&self) -> usize {
        self.words - 1
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.words as u64 * 8
    }
}

const _: () = {
    assert!(size_of::<usize>() == 8, "offsets are 64 bits wide");
    assert!(header::STATE == LINE_WORDS, "what is written often shares no line with what never is");
    assert!(header::STRING_WORDS < header::STATE && header::RELOAD < HEADER_WORDS);
    assert!(shard::RELEASED_AT < shard::RING && shard::RING + LINE_WORDS == shard::CELLS);
    assert!(LABELS_MAX * 4 == ROW_WORDS / 2 * 8, "a row's second half holds its labels, 32 bits each");
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The example of `docs/segment.md`, by hand.
    #[test]
    fn the_layout_is_the_one_described() {
        let sizes = Sizes {
            shards: 2,
            ring_slots: 1024,
            cells_per_shard: 100,
            series_rows: 300,
            family_rows: 64,
            string_words: 1000,
        };
        let layout = Layout::new(sizes);
        assert_eq!(layout.families * 8, 4096);
        assert_eq!(layout.series * 8, 8192);
        assert_eq!(layout.strings * 8, 27_392);
        assert_eq!(layout.shards * 8, 36_864);
        assert_eq!((shard::RING * 8, shard::CELLS * 8, layout.slots * 8), (128, 256, 1152));
        assert_eq!(layout.shard_stride * 8, 28_672);
        assert_eq!((layout.bytes(), layout.end_mark() * 8), (98_304, 98_296));
    }

    #[test]
    fn the_largest_sizes_do_not_overflow() {
        let sizes = Sizes {
            shards: SHARDS_MAX,
            ring_slots: RING_CAPACITY_MAX,
            cells_per_shard: SERIES_MAX,
            series_rows: SERIES_MAX,
            family_rows: FAMILIES_MAX,
            string_words: STRING_WORDS_MAX,
        };
        assert_eq!(sizes.check(), Ok(()));
        assert!(Layout::new(sizes).bytes() < 1 << 43);
    }
}
