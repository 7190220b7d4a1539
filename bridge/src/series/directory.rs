//! What a reader knows of the table: which series there are, whose, and where their cells lie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Table;
use crate::catalogue::{self, Family};
use crate::cell::{read_counter, read_gauge};
use crate::sample::{MetricId, MetricKind, ShardId};
use crate::segment::layout::{Layout, Sizes, header};
use crate::words::Run;

/// The series of a segment, as one of its readers knows them. Clones share it. Locks: not for a shard.
///
/// It follows the table whenever it is read: rows that did not change cost one look each, and nothing
/// while the table stands still.
#[derive(Clone)]
pub struct SeriesDirectory(Arc<Mutex<Directory>>);

struct Directory {
    table: Table,
    /// The table's generation all of which is known.
    seen: Option<u64>,
    /// Another with every change of what is known.
    generation: u64,
    families: Vec<Option<&'static Family>>,
    entries: Vec<Entry>,
    by_key: HashMap<Key, Vec<MetricId>>,
    malformed: usize,
}

type Key = (&'static str, Vec<String>);

/// What is known of one row.
#[derive(Default)]
struct Entry {
    /// The row's sequence when it was read; 0 before.
    sequence: u64,
    series: Option<Series>,
    malformed: bool,
}

struct Series {
    family: &'static Family,
    values: Vec<String>,
    shard: ShardId,
    cell: Option<u32>,
    shared_cell: Option<u32>,
    since: u64,
}

fn next_generation() -> u64 {
    // Not of the model: a number is all that is wanted of it.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

impl SeriesDirectory {
    pub(crate) fn new(table: Table) -> Self {
        Self(Arc::new(Mutex::new(Directory {
            table,
            seen: None,
            generation: next_generation(),
            families: Vec::new(),
            entries: Vec::new(),
            by_key: HashMap::new(),
            malformed: 0,
        })))
    }

    /// A directory of no segment at all.
    pub fn empty() -> Self {
        let none = Sizes {
            shards: 1,
            ring_slots: 2,
            cells_per_shard: 1,
            series_rows: 1,
            family_rows: 1,
            string_words: 1,
        };
        let layout = Layout::new(none);
        Self::new(Table::new(&Run::on_heap(layout.words), &layout))
    }

    /// Reads series and cells under one lock, after following the table.
    pub fn read<T>(&self, reader: impl FnOnce(&SeriesView<'_>) -> T) -> T {
        let mut directory = self.lock();
        directory.follow();
        reader(&SeriesView(&directory))
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        // A panic in a reader changed nothing; one in `follow` left entries that are read again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// O(1) while the table stands still, O(rows) after it changed.
    fn follow(&mut self) {
        let generation = self.table.generation();
        if self.seen == Some(generation) {
            return;
        }
        let mut whole = self.follow_families();
        let used = self.table.used(header::SERIES_USED, self.table.series.len());
        let mut changed = false;
        for index in 0..used {
            // Rows are used in order. Whatever the header says, no memory is spent on what was never written,
            // nor is a hole of the file touched further than its first page.
            if self.table.is_unused(MetricId(u32::try_from(index).unwrap_or(u32::MAX))) {
                break;
            }
            if index == self.entries.len() {
                self.entries.push(Entry::default());
            }
            let row = &self.table.series[index];
            match Table::sequence(row) {
                Some(sequence) if sequence == self.entries[index].sequence => {}
                Some(sequence) => {
                    whole &= self.follow_row(index, sequence);
                    changed = true;
                }
                // Being written: the generation grows when it is done.
                None => whole = false,
            }
        }
        if changed {
            self.generation = next_generation();
        }
        self.seen = whole.then_some(generation);
    }

    fn follow_families(&mut self) -> bool {
        let used = self.table.used(header::FAMILIES_USED, self.table.families.len());
        for index in self.families.len()..used {
            let family = self.table.read_family(index).and_then(catalogue::intern);
            self.families.push(family);
        }
        true
    }

    /// Reads a row anew; `false` if it changed meanwhile.
    fn follow_row(&mut self, index: usize, sequence: u64) -> bool {
        let id = MetricId(u32::try_from(index).unwrap_or(u32::MAX));
        self.forget(index, id);
        let read = Table::read_series(&self.table.series[index]);
        // Of a family that came after the families were looked at: this row will not be read again, so now.
        if read.as_ref().is_some_and(|read| usize::from(read.family) >= self.families.len()) {
            self.follow_families();
        }
        let live = read.as_ref().is_none_or(|read| read.live);
        let series = read.filter(|read| read.live).and_then(|read| self.decode(read));
        let malformed = live && series.is_none();
        if !Table::unchanged(&self.table.series[index], sequence) {
            self.entries[index].sequence = 0;
            return false;
        }
        self.malformed += usize::from(malformed);
        if let Some(series) = &series {
            self.by_key.entry((series.family.name, series.values.clone())).or_default().push(id);
        }
        self.entries[index] = Entry { sequence, series, malformed };
        true
    }

    fn forget(&mut self, index: usize, id: MetricId) {
        self.malformed -= usize::from(std::mem::take(&mut self.entries[index].malformed));
        let Some(series) = self.entries[index].series.take() else { return };
        let key = (series.family.name, series.values);
        if let Some(ids) = self.by_key.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    /// A series, if the row makes sense: of a family there is, with that family's labels, on a shard
    /// there is, in a cell there is.
    fn decode(&self, row: super::SeriesRow) -> Option<Series> {
        let family = (*self.families.get(usize::from(row.family))?)?;
        let values: Vec<String> =
            row.labels.iter().map(|at| self.table.read_text(*at)).collect::<Option<_>>()?;
        let has_cell = row.cell.is_some();
        let placed = |cell: Option<u32>| cell.is_none() || self.table.cell(row.shard, cell).is_some();
        let sound = values.len() == family.labels.len()
            && usize::from(row.shard.0) < self.table.shards.len()
            && has_cell == (family.kind != MetricKind::Histogram)
            && placed(row.cell)
            && placed(row.shared_cell);
        sound.then_some(Series {
            family,
            values,
            shard: row.shard,
            cell: row.cell,
            shared_cell: row.shared_cell,
            since: row.since,
        })
    }
}

/// One live series.
#[derive(Clone, Copy, Debug)]
pub struct SeriesRef<'a> {
    /// Its number.
    pub id: MetricId,
    /// What it measures.
    pub family: &'static Family,
    /// One value for each of the family's labels.
    pub values: &'a [String],
    /// The shard that writes it.
    pub shard: ShardId,
    /// Which of those that had this id it is: never the same for two of them.
    pub incarnation: u64,
    /// The first ring position that can be its own: below it, the id was another's.
    pub since: u64,
}

/// What the directory says while it is locked.
pub struct SeriesView<'a>(&'a Directory);

impl SeriesView<'_> {
    /// Changes whenever a series came or went, and is never the same for two directories: what is cached
    /// per series holds while it stands.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Rows that make no sense, as in a damaged segment.
    pub fn malformed(&self) -> usize {
        self.0.malformed
    }

    /// Every live series, in order of id. O(series).
    pub fn series(&self) -> impl Iterator<Item = SeriesRef<'_>> {
        self.0.entries.iter().enumerate().filter_map(|(index, entry)| {
            let series = entry.series.as_ref()?;
            Some(SeriesRef {
                id: MetricId(u32::try_from(index).ok()?),
                family: series.family,
                values: &series.values,
                shard: series.shard,
                incarnation: entry.sequence,
                since: series.since,
            })
        })
    }

    /// The live series of that name and those label values, one for each shard that writes it. O(1).
    pub fn find(&self, family: &Family, values: &[&str]) -> &[MetricId] {
        let key = (family.name, values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        // The borrow of a static name lives as long as any; a caller's family may not be static.
        self.0.by_key.get(&key as &Key).map_or(&[], Vec::as_slice)
    }

    /// The sum of a counter over the shards that write it; `None` when none does. O(shards).
    pub fn total(&self, family: &Family, values: &[&str]) -> Option<u64> {
        let counts = self.find(family, values).iter().filter_map(|id| self.counter(*id));
        counts.reduce(u64::wrapping_add)
    }

    /// One shard's counter; `None` when there is no such live counter. O(1).
    pub fn counter(&self, id: MetricId) -> Option<u64> {
        let (entry, series) = self.live(id)?;
        let cell = self.0.table.cell(series.shard, series.cell)?;
        let own = read_counter(cell);
        let shared = self.0.table.cell(series.shard, series.shared_cell).map_or(0, read_counter);
        let is_counter = series.family.kind == MetricKind::Counter;
        (is_counter && self.is_still(id, entry)).then(|| own.wrapping_add(shared))
    }

    /// A gauge's value; `None` when it is absent or there is no such live gauge. O(1).
    pub fn gauge(&self, id: MetricId) -> Option<f64> {
        let (entry, series) = self.live(id)?;
        let value = read_gauge(self.0.table.cell(series.shard, series.cell)?);
        let is_gauge = series.family.kind == MetricKind::Gauge;
        value.filter(|_| is_gauge && self.is_still(id, entry))
    }

    /// The shard that writes a series.
    pub fn writer(&self, id: MetricId) -> Option<ShardId> {
        self.live(id).map(|(_, series)| series.shard)
    }

    /// Whether the row still is what the entry says: then what was read from its cell was its own.
    fn is_still(&self, id: MetricId, entry: &Entry) -> bool {
        self.0.table.series.get(id.index()).is_some_and(|row| Table::unchanged(row, entry.sequence))
    }

    fn live(&self, id: MetricId) -> Option<(&Entry, &Series)> {
        let entry = self.0.entries.get(id.index())?;
        Some((entry, entry.series.as_ref()?))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::PROBE_SENT;
    use crate::segment::Segment;
    use crate::segment::layout::ROW_WORDS;
    use crate::series::registry::SeriesRegistry;
    use crate::sync::{AtomicU64, Ordering};

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn made() -> (SeriesRegistry, SeriesDirectory, Run<[AtomicU64; ROW_WORDS]>) {
        let sizes = Sizes {
            shards: 2,
            ring_slots: 2,
            cells_per_shard: 1,
            series_rows: 4,
            family_rows: 1,
            string_words: 64,
        };
        let Segment { words, layout, owner, .. } = Segment::in_memory(sizes).unwrap();
        let [one, other] = [(); 2].map(|()| Table::new(&words, &layout));
        let rows = words.part(layout.series, sizes.series_rows).unwrap();
        (SeriesRegistry::new(one, Arc::new(owner)), SeriesDirectory::new(other), rows)
    }

    /// Whether the next read looks at nothing but the table's generation.
    fn is_up_to_date(directory: &SeriesDirectory) -> bool {
        directory.read(|_| {});
        let directory = directory.lock();
        directory.seen == Some(directory.table.generation())
    }

    #[test]
    fn a_table_that_stands_still_is_not_read_again() {
        let (registry, directory, _) = made();
        assert!(is_up_to_date(&directory));
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        assert!(is_up_to_date(&directory));
    }

    #[test]
    fn a_row_that_was_never_written_does_not_keep_readers_looking() {
        let (registry, directory, _) = made();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        // No cell left: the row this would have had is kept for the shard, unwritten.
        assert!(registry.counter(A, &PROBE_SENT, &["c"]).is_err());
        registry.counter(B, &PROBE_SENT, &["c"]).unwrap();
        assert!(is_up_to_date(&directory));
        assert_eq!(directory.read(|series| series.series().count()), 2);
    }

    /// As when both come between a reader's look at the families and its look at the rows.
    #[test]
    fn a_series_whose_family_came_during_the_look_is_read_with_it() {
        let (registry, directory, rows) = made();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let mut directory = directory.lock();
        directory.entries.resize_with(1, Entry::default);
        let sequence = rows[0][0].load(Ordering::Relaxed);
        assert!(directory.follow_row(0, sequence));
        assert_eq!(directory.malformed, 0);
        assert_eq!(directory.entries[0].series.as_ref().map(|series| series.family), Some(&PROBE_SENT));
    }

    #[test]
    fn a_malformed_row_counts_until_it_is_mended() {
        let (registry, directory, rows) = made();
        registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
        let family = |number: u64| {
            let what = rows[0][1].load(Ordering::Relaxed) & !0xffff | number;
            rows[0][1].store(what, Ordering::Relaxed);
            rows[0][0].store(rows[0][0].load(Ordering::Relaxed) + 2, Ordering::Relaxed);
            registry.retire(A, &[]).unwrap();
        };
        let malformed = || directory.read(|series| series.malformed());
        family(9);
        assert_eq!(malformed(), 1);
        registry.counter(B, &PROBE_SENT, &["c"]).unwrap();
        assert_eq!(malformed(), 1, "another row's change mends nothing");
        family(0);
        assert_eq!(malformed(), 0);
    }
}
