//! What a reader knows of the table: which series there are, whose, and where their cells lie.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::Index;
use super::pages::Pages;
use super::strings::{List, Lists, Strings};
use super::{NO_CELL, SeriesRow, Table};
use crate::catalogue::{self, Family};
use crate::cell::{read_counter, read_gauge};
use crate::sample::{MetricId, MetricKind, MetricValue, ShardId};
use crate::segment::layout::{Layout, Sizes, header};
use crate::sync::AtomicU64;
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
    entries: Pages<Entry>,
    /// The live ones by name and values.
    index: Index,
    hasher: RandomState,
    strings: Strings,
    labels: Lists,
    malformed: usize,
}

/// What is known of one row.
#[derive(Clone, Copy)]
struct Entry {
    /// The row's sequence when it was read; 0 before.
    sequence: u64,
    since: u64,
    cell: u32,
    shared_cell: u32,
    /// Numbers of the values' texts.
    labels: List,
    /// A place in [`Directory::families`].
    family: u16,
    shard: ShardId,
    state: State,
}

const _: () = assert!(size_of::<Entry>() <= 40, "a target has thirty");

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No series lives here.
    Vacant,
    Live,
    Malformed,
}

impl Entry {
    fn vacant(sequence: u64, state: State) -> Self {
        let (cell, shared_cell, labels) = (NO_CELL, NO_CELL, List::default());
        Self { sequence, since: 0, cell, shared_cell, labels, family: 0, shard: ShardId(0), state }
    }
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
            entries: Pages::default(),
            index: Index::default(),
            hasher: RandomState::new(),
            strings: Strings::default(),
            labels: Lists::default(),
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
                self.entries.push(Entry::vacant(0, State::Vacant));
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
        self.forget(index);
        let read = Table::read_series(&self.table.series[index]);
        // Of a family that came after the families were looked at: this row will not be read again, so now.
        if read.as_ref().is_some_and(|read| usize::from(read.family) >= self.families.len()) {
            self.follow_families();
        }
        let live = read.as_ref().is_none_or(|read| read.live);
        let row = read.filter(|read| read.live).and_then(|read| Some((self.decode(&read)?, read)));
        if !Table::unchanged(&self.table.series[index], sequence) {
            return false;
        }
        let state = if live { State::Malformed } else { State::Vacant };
        self.malformed += usize::from(live && row.is_none());
        self.entries[index] = Entry::vacant(sequence, state);
        if let Some(((family, values), row)) = row {
            self.enter(index, sequence, family, &values, &row);
        }
        true
    }

    fn enter(&mut self, index: usize, sequence: u64, family: &Family, values: &[String], row: &SeriesRow) {
        let numbers: Vec<u32> = values.iter().map(|value| self.strings.take(value).0).collect();
        let hash = self.hash(family.name, &numbers);
        self.entries[index] = Entry {
            sequence,
            since: row.since,
            cell: row.cell.unwrap_or(NO_CELL),
            shared_cell: row.shared_cell.unwrap_or(NO_CELL),
            labels: self.labels.put(&numbers),
            family: row.family,
            shard: row.shard,
            state: State::Live,
        };
        self.index.insert(u32::try_from(index).unwrap_or(u32::MAX), hash);
    }

    fn forget(&mut self, index: usize) {
        let before = std::mem::replace(&mut self.entries[index], Entry::vacant(0, State::Vacant));
        self.malformed -= usize::from(before.state == State::Malformed);
        if before.state != State::Live {
            return;
        }
        self.index.remove(u32::try_from(index).unwrap_or(u32::MAX));
        for number in self.labels.get(before.labels) {
            self.strings.give_back(*number);
        }
        self.labels.give_back(before.labels);
    }

    fn hash(&self, name: &str, numbers: &[u32]) -> u64 {
        self.hasher.hash_one((name, numbers))
    }

    /// A series' family and values, if the row makes sense: of a family there is, with that family's labels,
    /// on a shard there is, in a cell there is.
    fn decode(&self, row: &SeriesRow) -> Option<(&'static Family, Vec<String>)> {
        let family = self.family(row.family)?;
        let values: Vec<String> =
            row.labels.iter().map(|at| self.table.read_text(*at)).collect::<Option<_>>()?;
        let has_cell = row.cell.is_some();
        let placed = |cell: Option<u32>| cell.is_none() || self.table.cell(row.shard, cell).is_some();
        let sound = values.len() == family.labels.len()
            && usize::from(row.shard.0) < self.table.shards.len()
            && has_cell == (family.kind != MetricKind::Histogram)
            && placed(row.cell)
            && placed(row.shared_cell);
        sound.then_some((family, values))
    }

    fn family(&self, number: u16) -> Option<&'static Family> {
        *self.families.get(usize::from(number))?
    }

    fn values(&self, entry: &Entry) -> Values<'_> {
        Values { strings: &self.strings, numbers: self.labels.get(entry.labels) }
    }
}

/// The values of a series, one for each of its family's labels.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    strings: &'a Strings,
    numbers: &'a [u32],
}

impl<'a> Values<'a> {
    /// In the order of the labels.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a str> + Clone {
        self.numbers.iter().map(move |number| self.strings.get(*number))
    }

    /// All of them, if they are so many.
    pub fn array<const N: usize>(self) -> Option<[&'a str; N]> {
        let numbers: [u32; N] = self.numbers.try_into().ok()?;
        Some(numbers.map(|number| self.strings.get(number)))
    }

    /// Copies.
    pub fn to_vec(self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

impl PartialEq for Values<'_> {
    fn eq(&self, other: &Self) -> bool {
        let is_of_one = std::ptr::eq(self.strings, other.strings);
        if is_of_one { self.numbers == other.numbers } else { self.iter().eq(other.iter()) }
    }
}

impl<const N: usize> PartialEq<[&str; N]> for Values<'_> {
    fn eq(&self, other: &[&str; N]) -> bool {
        self.array() == Some(*other)
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
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
    pub values: Values<'a>,
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

    /// All ids are below this.
    pub fn ids(&self) -> usize {
        self.0.entries.len()
    }

    /// All shards are below this.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.0.table.shards.len()).unwrap_or(u16::MAX)
    }

    /// Every live series, in order of id. O(series).
    pub fn series(&self) -> impl Iterator<Item = SeriesRef<'_>> {
        (0..).map(MetricId).zip(self.0.entries.iter()).filter_map(|(id, entry)| self.series_of(id, entry))
    }

    /// One live series. O(1).
    pub fn get(&self, id: MetricId) -> Option<SeriesRef<'_>> {
        self.series_of(id, self.0.entries.get(id.index())?)
    }

    fn series_of<'s>(&'s self, id: MetricId, entry: &'s Entry) -> Option<SeriesRef<'s>> {
        (entry.state == State::Live).then_some(())?;
        Some(SeriesRef {
            id,
            family: self.0.family(entry.family)?,
            values: self.0.values(entry),
            shard: entry.shard,
            incarnation: entry.sequence,
            since: entry.since,
        })
    }

    /// The live series of that name and those label values, one for each shard that writes it, in order of id.
    /// O(1).
    pub fn find(&self, family: &Family, values: &[&str]) -> Vec<MetricId> {
        let directory = self.0;
        let numbers: Option<Vec<u32>> = values.iter().map(|value| directory.strings.find(value)).collect();
        let Some(numbers) = numbers else { return Vec::new() };
        let is = |row: &u32| {
            let entry = &directory.entries[*row as usize];
            let name = directory.family(entry.family).map(|family| family.name);
            name == Some(family.name) && directory.labels.get(entry.labels) == numbers
        };
        let found = directory.index.find(directory.hash(family.name, &numbers));
        let mut found: Vec<_> = found.filter(is).map(MetricId).collect();
        found.sort_unstable_by_key(|id| id.0);
        found
    }

    /// The sum of a counter over the shards that write it; `None` when none does. O(shards).
    pub fn total(&self, family: &Family, values: &[&str]) -> Option<u64> {
        let counts = self.find(family, values).into_iter().filter_map(|id| self.counter(id));
        counts.reduce(u64::wrapping_add)
    }

    /// One shard's counter; `None` when there is no such live counter. O(1).
    pub fn counter(&self, id: MetricId) -> Option<u64> {
        let (entry, kind) = self.live(id)?;
        (kind == MetricKind::Counter).then(|| self.read_counter(id, entry))?
    }

    /// A gauge's value; `None` when it is absent or there is no such live gauge. O(1).
    pub fn gauge(&self, id: MetricId) -> Option<f64> {
        let (entry, kind) = self.live(id)?;
        (kind == MetricKind::Gauge).then(|| self.read_gauge(id, entry))?
    }

    /// Every live cell that has a value, in order of id, and the shard that writes it: what [`counter`](Self::counter)
    /// and [`gauge`](Self::gauge) say of each. O(series), in the order in which they lie in memory: of a million series
    /// that is a fraction of the time it takes to ask for one after the other.
    pub fn cells(&self) -> impl Iterator<Item = (MetricId, ShardId, MetricValue)> {
        let numbered = (0..).map(MetricId).zip(self.0.entries.iter());
        numbered.filter_map(|(id, entry)| {
            (entry.state == State::Live).then_some(())?;
            let value = match self.0.family(entry.family)?.kind {
                MetricKind::Counter => MetricValue::Counter(self.read_counter(id, entry)?),
                MetricKind::Gauge => MetricValue::Gauge(self.read_gauge(id, entry)?),
                MetricKind::Histogram => return None,
            };
            Some((id, entry.shard, value))
        })
    }

    fn read_counter(&self, id: MetricId, entry: &Entry) -> Option<u64> {
        let own = read_counter(self.cell(entry, entry.cell)?);
        let shared = self.cell(entry, entry.shared_cell).map_or(0, read_counter);
        self.is_still(id, entry).then(|| own.wrapping_add(shared))
    }

    fn read_gauge(&self, id: MetricId, entry: &Entry) -> Option<f64> {
        read_gauge(self.cell(entry, entry.cell)?).filter(|_| self.is_still(id, entry))
    }

    /// The shard that writes a series.
    pub fn writer(&self, id: MetricId) -> Option<ShardId> {
        self.live(id).map(|(entry, _)| entry.shard)
    }

    fn cell(&self, entry: &Entry, cell: u32) -> Option<&AtomicU64> {
        self.0.table.cell(entry.shard, (cell != NO_CELL).then_some(cell))
    }

    /// Whether the row still is what the entry says: then what was read from its cell was its own.
    fn is_still(&self, id: MetricId, entry: &Entry) -> bool {
        self.0.table.series.get(id.index()).is_some_and(|row| Table::unchanged(row, entry.sequence))
    }

    fn live(&self, id: MetricId) -> Option<(&Entry, MetricKind)> {
        let entry = self.0.entries.get(id.index()).filter(|entry| entry.state == State::Live)?;
        Some((entry, self.0.family(entry.family)?.kind))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{PROBE_RTT_SECONDS, PROBE_SENT, PROBE_UP};
    use crate::hub::{Hub, HubConfig, hub};
    use crate::segment::Segment;
    use crate::segment::layout::ROW_WORDS;
    use crate::series::registry::SeriesRegistry;
    use crate::sync::Ordering;

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
        registry.counter(A, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        assert!(is_up_to_date(&directory));
    }

    #[test]
    fn a_row_that_was_never_written_does_not_keep_readers_looking() {
        let (registry, directory, _) = made();
        registry.counter(A, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        // No cell left: the row this would have had is kept for the shard, unwritten.
        assert!(registry.counter(A, &PROBE_SENT, &["c", "ipv4"]).is_err());
        registry.counter(B, &PROBE_SENT, &["c", "ipv4"]).unwrap();
        assert!(is_up_to_date(&directory));
        assert_eq!(directory.read(|series| series.series().count()), 2);
    }

    /// As when both come between a reader's look at the families and its look at the rows.
    #[test]
    fn a_series_whose_family_came_during_the_look_is_read_with_it() {
        let (registry, directory, rows) = made();
        registry.counter(A, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        let mut directory = directory.lock();
        directory.entries.push(Entry::vacant(0, State::Vacant));
        let sequence = rows[0][0].load(Ordering::Relaxed);
        assert!(directory.follow_row(0, sequence));
        assert_eq!(directory.malformed, 0);
        let series = SeriesView(&directory).get(MetricId(0)).map(|series| series.family);
        assert_eq!(series, Some(&PROBE_SENT));
    }

    #[test]
    fn cells_are_those_that_have_a_value_in_order_of_id() {
        let Hub { registry, collector, .. } = hub(HubConfig { shards: 2, ..HubConfig::default() }).unwrap();
        let up = registry.gauge(A, &PROBE_UP, &["b"]).unwrap();
        let mut sent = registry.counter(B, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        registry.stream(A, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        let mut down = registry.gauge(A, &PROBE_UP, &["c"]).unwrap();
        let gone = registry.counter(A, &PROBE_SENT, &["d", "ipv4"]).unwrap().id();
        registry.retire(A, &[gone]).unwrap();
        sent.add(7);
        down.set(0.0);
        let cells: Vec<_> = collector.directory().read(|series| series.cells().collect());
        let counted = (sent.id(), B, MetricValue::Counter(7));
        assert_eq!(cells, [counted, (down.id(), A, MetricValue::Gauge(0.0))], "{} has no value", up.id().0);
    }

    #[test]
    fn a_malformed_row_counts_until_it_is_mended() {
        let (registry, directory, rows) = made();
        registry.counter(A, &PROBE_SENT, &["b", "ipv4"]).unwrap();
        let family = |number: u64| {
            let what = rows[0][1].load(Ordering::Relaxed) & !0xffff | number;
            rows[0][1].store(what, Ordering::Relaxed);
            rows[0][0].store(rows[0][0].load(Ordering::Relaxed) + 2, Ordering::Relaxed);
            registry.retire(A, &[]).unwrap();
        };
        let malformed = || directory.read(|series| series.malformed());
        family(9);
        assert_eq!(malformed(), 1);
        registry.counter(B, &PROBE_SENT, &["c", "ipv4"]).unwrap();
        assert_eq!(malformed(), 1, "another row's change mends nothing");
        family(0);
        assert_eq!(malformed(), 0);
    }
}
