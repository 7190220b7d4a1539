//! The table of series in a segment: families, series and their texts, as rows of words.
//!
//! One writer, the [`registry`]; any number of readers, each with a [`directory`]. A row's first word is
//! its sequence: odd while the row is being written, and never the same twice. Who reads a row, its
//! texts or its cell looks at the sequence before and after; if it stayed, what lay between was the row's.

pub(crate) mod directory;
pub(crate) mod error;
mod index;
mod pages;
pub(crate) mod registry;
mod strings;
mod texts;

use crate::catalogue::{Family, FamilyText, Unit};
use crate::cell::CellWords;
use crate::hub::{Pulse, pulse};
use crate::sample::{MetricId, MetricKind, ShardId};
use crate::segment::layout::{LABELS_MAX, Layout, ROW_WORDS, STRING_MAX, header, shard};
use crate::sync::{AtomicU64, Ordering, Site, fence, ordering};
use crate::words::{One, Run};

type Row = [AtomicU64; ROW_WORDS];

/// Words of a row, by name. What follows is each label's text, 32 bits each.
pub(crate) const SEQUENCE: usize = 0;
/// Series: family | shard << 16 | state << 32 | labels << 40. Family: kind | unit << 8 | prefixed << 16 |
/// labels << 24.
pub(crate) const WHAT: usize = 1;
/// Series: cell | shared cell << 32. Family: name | help << 32.
pub(crate) const WHERE: usize = 2;
/// Series: the first ring position that can be this series'.
pub(crate) const SINCE: usize = 3;
pub(crate) const LABELS: usize = 4;

/// No cell: the series travels in the ring, or is written by its owner alone.
pub(crate) const NO_CELL: u32 = u32::MAX;

pub(crate) const STATE_LIVE: u64 = 1;
const STATE_RETIRED: u64 = 2;

/// Where a text lies: the number of its first word among the string words.
type Text = u32;

/// The words of the table, of the pulses and of the cells.
pub(crate) struct Table {
    header: One<[AtomicU64; header::RELOAD + 1]>,
    families: Run<Row>,
    series: Run<Row>,
    strings: Run<AtomicU64>,
    shards: Vec<TableShard>,
    /// Where the series and the strings begin, in words of the segment.
    series_at: usize,
    strings_at: usize,
}

struct TableShard {
    cells: CellWords,
    cells_len: u32,
    pulse: Pulse,
}

/// A series as its row tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SeriesRow {
    family: u16,
    shard: ShardId,
    live: bool,
    cell: Option<u32>,
    shared_cell: Option<u32>,
    since: u64,
    labels: Vec<Text>,
}

impl SeriesRow {
    fn what(&self) -> u64 {
        let state = if self.live { STATE_LIVE } else { STATE_RETIRED };
        let labels = self.labels.len() as u64;
        u64::from(self.family) | u64::from(self.shard.0) << 16 | state << 32 | labels << 40
    }
}

impl Table {
    pub(crate) fn new(words: &Run<AtomicU64>, layout: &Layout) -> Self {
        let sizes = layout.sizes;
        let shards = (0..sizes.shards).map(|number| TableShard {
            cells: CellWords::new(part(words, layout.shard(number) + shard::CELLS, sizes.cells_per_shard)),
            cells_len: u32::try_from(sizes.cells_per_shard).unwrap_or(u32::MAX),
            pulse: pulse(words, layout, ShardId(u16::try_from(number).unwrap_or(u16::MAX))),
        });
        Self {
            header: One::at(words, 0).unwrap_or_else(|| unreachable!("a segment has a header")),
            families: part(words, layout.families, sizes.family_rows),
            series: part(words, layout.series, sizes.series_rows),
            strings: part(words, layout.strings, sizes.string_words),
            shards: shards.collect(),
            series_at: layout.series,
            strings_at: layout.strings,
        }
    }

    fn generation(&self) -> u64 {
        // Acquire: with the release store in `changed`. Rows written before it, and how many there are, are
        // seen: a reader that knows this generation need not look again.
        self.header[header::TABLE_GENERATION].load(ordering(Site::TableLoad, Ordering::Acquire))
    }

    /// Tells readers that rows changed.
    fn changed(&self) {
        let generation = &self.header[header::TABLE_GENERATION];
        let next = generation.load(Ordering::Relaxed).wrapping_add(1);
        // Release: with the acquire load in `generation`.
        generation.store(next, ordering(Site::TableChangedStore, Ordering::Release));
    }

    fn used(&self, word: usize, rows: usize) -> usize {
        let order = match word {
            // Acquire: with the release store in `set_used`. A family is read once, when it is first counted:
            // it must be whole then.
            header::FAMILIES_USED => ordering(Site::UsedLoad, Ordering::Acquire),
            // A row of series counted and not yet seen has the sequence 0, or an odd one, and is looked at
            // again; `generation` has seen the number that goes with it.
            _ => Ordering::Relaxed,
        };
        usize::try_from(self.header[word].load(order)).unwrap_or(rows).min(rows)
    }

    fn set_used(&self, word: usize, used: usize) {
        let order = match word {
            // Release: with the acquire load in `used`. Who sees the number sees each family it counts.
            header::FAMILIES_USED => ordering(Site::UsedStore, Ordering::Release),
            // Of series: as in `used`.
            _ => Ordering::Relaxed,
        };
        self.header[word].store(used as u64, order);
    }

    /// Changes a row; readers that look meanwhile, or looked before, find out.
    fn write_row(&self, row: &Row, write: impl FnOnce()) {
        let sequence = row[SEQUENCE].load(Ordering::Relaxed);
        row[SEQUENCE].store(sequence | 1, Ordering::Relaxed);
        // Release: with the reader's fence in `SeriesView::unchanged`. Who sees a word stored after it
        // (of this row, of a text or cell given away since) sees the odd sequence too.
        fence(Site::RetireFence, Ordering::Release);
        write();
        // Release: with the acquire load in `sequence`. Who sees the even sequence sees the row.
        let order = ordering(Site::RowEndStore, Ordering::Release);
        row[SEQUENCE].store((sequence | 1).wrapping_add(1), order);
    }

    /// A row's sequence, 0 if it was never written; `None` while it is being written.
    fn sequence(row: &Row) -> Option<u64> {
        // Acquire: with the release store in `write_row`. What is read after is of this sequence or later.
        let sequence = row[SEQUENCE].load(ordering(Site::RowLoad, Ordering::Acquire));
        sequence.is_multiple_of(2).then_some(sequence)
    }

    /// Whether what was read since the row had `sequence` was all the row's.
    fn unchanged(row: &Row, sequence: u64) -> bool {
        // Acquire: with the registry's fence in `write_row`.
        fence(Site::CellFence, Ordering::Acquire);
        row[SEQUENCE].load(Ordering::Relaxed) == sequence
    }

    /// Whether the row of `id` was never written.
    fn is_unused(&self, id: MetricId) -> bool {
        self.series.get(id.index()).is_none_or(|row| row[SEQUENCE].load(Ordering::Relaxed) == 0)
    }

    fn write_series(&self, id: MetricId, series: &SeriesRow) {
        let row = &self.series[id.index()];
        self.write_row(row, || {
            let place = |cell: Option<u32>| u64::from(cell.unwrap_or(NO_CELL));
            row[WHAT].store(series.what(), Ordering::Relaxed);
            row[WHERE].store(place(series.cell) | place(series.shared_cell) << 32, Ordering::Relaxed);
            row[SINCE].store(series.since, Ordering::Relaxed);
            write_labels(row, &series.labels);
        });
    }

    /// Out of the table: the rest of the row stays what it was.
    fn write_retired(&self, id: MetricId) {
        let row = &self.series[id.index()];
        self.write_row(row, || {
            let what = row[WHAT].load(Ordering::Relaxed);
            row[WHAT].store(what & !(0xff << 32) | STATE_RETIRED << 32, Ordering::Relaxed);
        });
    }

    /// What the row says, unchecked: it may be torn until its sequence is looked at again.
    fn read_series(row: &Row) -> Option<SeriesRow> {
        let [what, place] = [WHAT, WHERE].map(|word| row[word].load(Ordering::Relaxed));
        let cell = |cell: u32| (cell != NO_CELL).then_some(cell);
        let state = what >> 32 & 0xff;
        Some(SeriesRow {
            family: low16(what),
            shard: ShardId(low16(what >> 16)),
            live: state == STATE_LIVE,
            cell: cell(low32(place)),
            shared_cell: cell(low32(place >> 32)),
            since: row[SINCE].load(Ordering::Relaxed),
            labels: read_labels(row, usize::from(low16(what >> 40 & 0xff)))?,
        })
    }

    fn write_family(&self, index: u16, family: &Family, name: Text, help: Text, labels: &[Text]) {
        let row = &self.families[usize::from(index)];
        self.write_row(row, || {
            let what = family.kind.code()
                | family.unit.code() << 8
                | u64::from(family.prefixed) << 16
                | (labels.len() as u64) << 24;
            row[WHAT].store(what, Ordering::Relaxed);
            row[WHERE].store(u64::from(name) | u64::from(help) << 32, Ordering::Relaxed);
            write_labels(row, labels);
        });
    }

    /// The family of a row; `None` where the row is not whole or makes no sense.
    fn read_family(&self, index: usize) -> Option<FamilyText> {
        let row = &self.families[index];
        let sequence = Self::sequence(row)?;
        let [what, texts] = [WHAT, WHERE].map(|word| row[word].load(Ordering::Relaxed));
        let labels = read_labels(row, usize::from(low16(what >> 24 & 0xff)))?;
        let family = FamilyText {
            name: self.read_text(low32(texts))?,
            kind: MetricKind::from_code(what & 0xff)?,
            unit: Unit::from_code(what >> 8 & 0xff)?,
            help: self.read_text(low32(texts >> 32))?,
            labels: labels.into_iter().map(|at| self.read_text(at)).collect::<Option<_>>()?,
            prefixed: what >> 16 & 1 == 1,
        };
        Self::unchanged(row, sequence).then_some(family)
    }

    /// Words a text takes: its length, then its octets in the order of memory.
    fn text_words(text: &str) -> usize {
        1 + text.len().div_ceil(8)
    }

    fn write_text(&self, at: Text, text: &str) {
        let words = &self.strings[at as usize..];
        words[0].store(text.len() as u64, Ordering::Relaxed);
        for (word, octets) in words[1..].iter().zip(text.as_bytes().chunks(8)) {
            let mut whole = [0; 8];
            whole[..octets.len()].copy_from_slice(octets);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    }

    fn read_text(&self, at: Text) -> Option<String> {
        let words = self.strings.get(at as usize..)?;
        let len = usize::try_from(words.first()?.load(Ordering::Relaxed)).ok()?;
        if len > STRING_MAX {
            return None;
        }
        let words = words.get(1..1 + len.div_ceil(8))?;
        let mut octets: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        octets.truncate(len);
        String::from_utf8(octets).ok()
    }

    fn cell(&self, shard: ShardId, cell: Option<u32>) -> Option<&AtomicU64> {
        let side = self.shards.get(usize::from(shard.0))?;
        let cell = cell.filter(|cell| *cell < side.cells_len)?;
        Some(side.cells.word(cell))
    }
}

fn part<T: crate::words::OfWords>(words: &Run<AtomicU64>, at: usize, len: usize) -> Run<T> {
    words.part(at, len).unwrap_or_else(|| unreachable!("the layout lies within its segment"))
}

fn write_labels(row: &Row, labels: &[Text]) {
    for (word, pair) in row[LABELS..].iter().zip(labels.chunks(2)) {
        let second = pair.get(1).copied().unwrap_or(0);
        word.store(u64::from(pair[0]) | u64::from(second) << 32, Ordering::Relaxed);
    }
}

fn read_labels(row: &Row, len: usize) -> Option<Vec<Text>> {
    if len > LABELS_MAX {
        return None;
    }
    let pairs = row[LABELS..].iter().flat_map(|word| {
        let pair = word.load(Ordering::Relaxed);
        [low32(pair), low32(pair >> 32)]
    });
    Some(pairs.take(len).collect())
}

/// The low half: the mask keeps what fits, so the cast drops nothing.
fn low32(word: u64) -> u32 {
    (word & u64::from(u32::MAX)) as u32
}

fn low16(word: u64) -> u16 {
    (word & u64::from(u16::MAX)) as u16
}
