//! Which series exist, which cell or ring id each has, and when an id may be used again.
//!
//! The registry belongs to the process that made the segment: it locks. A shard never sees it; it is
//! handed cells and ids together with the target they belong to.
//!
//! A retired id is free once its shard acknowledged that it dropped its handles, saying at which ring
//! position. Samples that carry it may still be in the ring: whoever reads them tells by their position
//! whose they were (see [`SeriesRef::since`](crate::SeriesRef::since)). An id stays with its shard, whose
//! ring gives those positions their meaning.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::SeriesError;
use super::index::Index;
use super::pages::Pages;
use super::strings::{List, Lists};
use super::texts::{Growing, Texts};
use super::{NO_CELL, SeriesRow, Table};
use crate::catalogue::Family;
use crate::cell::{CellWords, CounterCell, GaugeCell};
#[cfg(all(feature = "metrics", not(loom)))]
use crate::recorder::SharedCounterCells;
use crate::sample::{MetricId, MetricKind, ShardId};
use crate::segment::layout::{LABELS_MAX, ROW_WORDS, STRING_MAX, header, shard};
use crate::segment::{SegmentInfo, SegmentOwner};
use crate::sync::{Ordering, Site, ordering};

/// What can still be interned on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Cells of the shard in nobody's hands.
    pub cells: usize,
    /// Rows of the table in nobody's hands: those never used, which all shards share, and those this
    /// shard has used before.
    pub series: usize,
}

/// Orders the retirements of one shard. Hand it to the shard together with the command to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetireTicket {
    pub(crate) shard: ShardId,
    /// From 1.
    pub(crate) number: u64,
}

impl RetireTicket {
    /// Its number among those of its shard, from 1: what a writer in another process is told, which has no
    /// [`Publisher`](crate::Publisher) to acknowledge through.
    pub fn number(self) -> u64 {
        self.number
    }
}

/// The table of series, for who gives shards what they write. Clones share it. Locks: not for a shard.
#[derive(Clone)]
pub struct SeriesRegistry(Arc<Mutex<Registry>>);

struct Registry {
    table: Table,
    families: HashMap<&'static Family, u16>,
    /// The same by address: a family's texts are hashed once, not for every series.
    families_by_place: HashMap<usize, u16>,
    entries: Pages<Entry>,
    /// The live ones by family and values.
    index: Index,
    hasher: RandomState,
    texts: Texts,
    labels: Lists,
    shards: Vec<ShardSide>,
    owner: Arc<SegmentOwner>,
    /// Who holds changes together now.
    together: usize,
}

/// While it lives, readers are told of no change; then of all at once. See [`SeriesRegistry::together`].
pub struct Together(SeriesRegistry);

impl Drop for Together {
    fn drop(&mut self) {
        let mut registry = self.0.lock();
        registry.together -= 1;
        registry.changed();
    }
}

/// What is known of a row; not of the row itself, which lies where others may write.
#[derive(Clone, Copy)]
struct Entry {
    cell: u32,
    shared_cell: u32,
    /// Numbers of the values' texts.
    labels: List,
    family: u16,
    shard: ShardId,
    live: bool,
}

const _: () = assert!(size_of::<Entry>() <= 24, "a target has thirty");

impl Entry {
    fn unused(shard: ShardId) -> Self {
        let (cell, shared_cell) = (NO_CELL, NO_CELL);
        Self { cell, shared_cell, labels: List::default(), family: 0, shard, live: false }
    }
}

#[derive(Default)]
struct ShardSide {
    /// From the first on.
    cells_used: u32,
    /// Those other threads write too, from the last down: as far from the shard's own as can be.
    cells_shared: u32,
    cells_free: Vec<u32>,
    cells_shared_free: Vec<u32>,
    /// And since which position each can be a new series'.
    rows_free: Vec<(MetricId, u64)>,
    tickets: u64,
    /// In order of ticket.
    retiring: VecDeque<(u64, Vec<MetricId>)>,
}

/// What a series is written through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Ring,
    Cell,
    /// A cell for the shard and one for every other thread.
    #[cfg(all(feature = "metrics", not(loom)))]
    CellAndShared,
}

impl SeriesRegistry {
    pub(crate) fn new(table: Table, owner: Arc<SegmentOwner>) -> Self {
        let shards = table.shards.iter().map(|_| ShardSide::default()).collect();
        Self(Arc::new(Mutex::new(Registry {
            table,
            families: HashMap::new(),
            families_by_place: HashMap::new(),
            entries: Pages::default(),
            index: Index::default(),
            hasher: RandomState::new(),
            texts: Texts::default(),
            labels: Lists::default(),
            shards,
            owner,
            together: 0,
        })))
    }

    /// Lets readers see what is interned and retired from now on all at once, when the guard is dropped: those
    /// that have read the table since the last change before it. What is retired meanwhile has no value any
    /// more to those who know it.
    pub fn together(&self) -> Together {
        self.lock().together += 1;
        Together(self.clone())
    }

    /// The segment whose table this is.
    pub fn segment(&self) -> SegmentInfo {
        self.lock().owner.info()
    }

    /// Whether the segment's file still has every byte that was made. Where it has not, shards go on
    /// recording and nobody can read it; only a new segment helps.
    #[cfg(not(loom))]
    pub fn is_segment_whole(&self) -> bool {
        self.lock().owner.is_whole()
    }

    /// Notes for all readers whether the configuration read last is in force.
    pub fn note_reload(&self, successful: bool) {
        self.lock().owner.note_reload(successful);
    }

    /// A counter cell for `shard`. Several shards may each hold one of the same series; readers see
    /// their sum. O(1).
    ///
    /// # Errors
    /// [`SeriesError`] when the family is no counter, the values do not fit its labels, this shard
    /// already has the series, or a table is full.
    pub fn counter(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<CounterCell, SeriesError> {
        let mut registry = self.lock();
        let id = registry.intern(shard, family, values, MetricKind::Counter, Writing::Cell)?;
        let (cells, cell) = registry.place(id);
        Ok(CounterCell::new(cells, cell, id))
    }

    /// A gauge cell for `shard`, which becomes the series' only writer. O(1).
    ///
    /// # Errors
    /// As [`counter`](Self::counter); [`SeriesError::Taken`] if any shard already writes it.
    pub fn gauge(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<GaugeCell, SeriesError> {
        let mut registry = self.lock();
        let id = registry.intern(shard, family, values, MetricKind::Gauge, Writing::Cell)?;
        let (cells, cell) = registry.place(id);
        Ok(GaugeCell::new(cells, cell, id))
    }

    /// The cells of a counter that `shard` and any other thread may count in.
    #[cfg(all(feature = "metrics", not(loom)))]
    pub(crate) fn shared_counter(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<SharedCounterCells, SeriesError> {
        let mut registry = self.lock();
        let id = registry.intern(shard, family, values, MetricKind::Counter, Writing::CellAndShared)?;
        let (cells, own) = registry.place(id);
        let shared = registry.entries[id.index()].shared_cell;
        Ok(SharedCounterCells { cells, own, shared })
    }

    /// The cell of a gauge that any thread may set.
    #[cfg(all(feature = "metrics", not(loom)))]
    pub(crate) fn gauge_word(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<(CellWords, u32), SeriesError> {
        let mut registry = self.lock();
        let id = registry.intern(shard, family, values, MetricKind::Gauge, Writing::Cell)?;
        Ok(registry.place(id))
    }

    /// An id for a histogram series whose observations travel in `shard`'s ring. Several shards may each
    /// hold one of the same series; readers merge them. O(1).
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn stream(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<MetricId, SeriesError> {
        self.lock().intern(shard, family, values, MetricKind::Histogram, Writing::Ring)
    }

    /// Takes series out of the table: they vanish from exposition now, their ids and cells return when
    /// the shard has acknowledged the ticket. All or none.
    ///
    /// # Errors
    /// [`SeriesError::NotHeld`] if an id is unknown, already retired or held by another shard (too).
    pub fn retire(&self, shard: ShardId, ids: &[MetricId]) -> Result<RetireTicket, SeriesError> {
        let mut registry = self.lock();
        registry.check_shard(shard)?;
        for &id in ids {
            let held = registry.entries.get(id.index()).is_some_and(|e| e.live && e.shard == shard);
            if !held || registry.is_shared(id) {
                return Err(SeriesError::NotHeld { id, shard });
            }
        }
        let mut retired = Vec::with_capacity(ids.len());
        for &id in ids {
            // An id named twice is retired once.
            if registry.entries[id.index()].live {
                registry.retire(id);
                retired.push(id);
            }
        }
        registry.changed();
        let side = &mut registry.shards[usize::from(shard.0)];
        side.tickets += 1;
        let number = side.tickets;
        side.retiring.push_back((number, retired));
        Ok(RetireTicket { shard, number })
    }

    /// What can still be interned on `shard`: lets a caller see beforehand that many series will fit.
    ///
    /// # Errors
    /// [`SeriesError::NoShard`].
    pub fn room(&self, shard: ShardId) -> Result<Room, SeriesError> {
        let mut registry = self.lock();
        registry.check_shard(shard)?;
        registry.reclaim();
        let side = &registry.shards[usize::from(shard.0)];
        let cells_used = (side.cells_used + side.cells_shared) as usize;
        Ok(Room {
            cells: registry.cells_max(shard) as usize - cells_used
                + side.cells_free.len()
                + side.cells_shared_free.len(),
            series: registry.table.series.len() - registry.entries.len() + side.rows_free.len(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A panic while the lock was held left whole entries: nothing here panics half-way through.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn changed(&self) {
        if self.together == 0 {
            self.table.changed();
        }
    }

    /// Whether several shards write the series of `id`.
    fn is_shared(&self, id: MetricId) -> bool {
        let Entry { family, labels, .. } = self.entries[id.index()];
        self.find(family, self.labels.get(labels)).nth(1).is_some()
    }

    /// The live series of these texts.
    fn find<'a>(&'a self, family: u16, numbers: &'a [u32]) -> impl Iterator<Item = MetricId> {
        let is = move |row: &u32| {
            let entry = &self.entries[*row as usize];
            entry.family == family && self.labels.get(entry.labels) == numbers
        };
        self.index.find(self.hash(family, numbers)).filter(is).map(MetricId)
    }

    fn hash(&self, family: u16, numbers: &[u32]) -> u64 {
        self.hasher.hash_one((family, numbers))
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), SeriesError> {
        let shards = self.shards.len();
        if usize::from(shard.0) >= shards {
            return Err(SeriesError::NoShard { shard, shards });
        }
        Ok(())
    }

    fn cells_max(&self, shard: ShardId) -> u32 {
        self.table.shards[usize::from(shard.0)].cells_len
    }

    /// Where the cell of a series written through one lies.
    fn place(&self, id: MetricId) -> (CellWords, u32) {
        let Entry { shard, cell, .. } = self.entries[id.index()];
        (self.table.shards[usize::from(shard.0)].cells.clone(), cell)
    }

    fn check(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
        asked: MetricKind,
    ) -> Result<(), SeriesError> {
        self.check_shard(shard)?;
        if family.kind != asked {
            return Err(SeriesError::Kind { family: family.name, is: family.kind, asked });
        }
        let (expected, got) = (family.labels.len(), values.len());
        if expected != got {
            return Err(SeriesError::Labels { family: family.name, expected, got });
        }
        check_lengths(family, values)
    }

    /// Whether the series can have no writer on `shard` besides those it has.
    fn is_taken(&self, shard: ShardId, family: u16, values: &[&str], kind: MetricKind) -> bool {
        // Of a text that no row names, there is no series.
        let numbers: Option<Vec<u32>> = values.iter().map(|value| self.texts.find(value)).collect();
        numbers.is_some_and(|numbers| {
            self.find(family, &numbers)
                .any(|id| kind == MetricKind::Gauge || self.entries[id.index()].shard == shard)
        })
    }

    fn intern(
        &mut self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
        asked: MetricKind,
        writing: Writing,
    ) -> Result<MetricId, SeriesError> {
        self.check(shard, family, values, asked)?;
        self.reclaim();
        let name = family.name;
        let family = self.intern_family(family)?;
        if self.is_taken(shard, family, values, asked) {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            return Err(SeriesError::Taken { family: name, values });
        }
        let (id, since) = self.take_row(shard)?;
        let taken = self.take_cells(shard, writing).and_then(|(cell, shared_cell)| {
            let numbers =
                self.take_texts(values).inspect_err(|_| self.give_back(shard, cell, shared_cell))?;
            Ok((cell, shared_cell, numbers))
        });
        let (cell, shared_cell, numbers) = taken.inspect_err(|_| self.give_back_row(shard, id, since))?;
        let labels = numbers.iter().map(|number| self.texts.place(*number)).collect();
        let row = SeriesRow { family, shard, live: true, cell, shared_cell, since, labels };
        self.clear_cells(&row, asked);
        self.table.write_series(id, &row);
        self.table.set_used(header::SERIES_USED, self.entries.len());
        self.changed();
        let [cell, shared_cell] = [cell, shared_cell].map(|cell| cell.unwrap_or(NO_CELL));
        let labels = self.labels.put(&numbers);
        self.entries[id.index()] = Entry { cell, shared_cell, labels, family, shard, live: true };
        self.index.insert(id.0, self.hash(family, &numbers));
        Ok(id)
    }

    /// A row for `shard`, and since which position it can be a new series'.
    fn take_row(&mut self, shard: ShardId) -> Result<(MetricId, u64), SeriesError> {
        if let Some(free) = self.shards[usize::from(shard.0)].rows_free.pop() {
            return Ok(free);
        }
        let max = self.table.series.len();
        if self.entries.len() >= max {
            return Err(SeriesError::TableFull { max });
        }
        let rows = |rows: usize| rows * ROW_WORDS;
        let table = Growing { at: self.table.series_at, words: rows(max) };
        let (before, after) = (rows(self.entries.len()), rows(self.entries.len() + 1));
        table.reserve(&self.owner, before, after)?;
        self.entries.push(Entry::unused(shard));
        // The table has at most 2^28 rows.
        Ok((MetricId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)), 0))
    }

    fn take_cells(
        &mut self,
        shard: ShardId,
        writing: Writing,
    ) -> Result<(Option<u32>, Option<u32>), SeriesError> {
        let max = self.cells_max(shard);
        let side = &mut self.shards[usize::from(shard.0)];
        let full = SeriesError::CellsFull { shard, max: max as usize };
        let room = |side: &ShardSide| side.cells_used + side.cells_shared < max;
        let cell = match (writing, side.cells_free.pop()) {
            (Writing::Ring, unneeded) => {
                side.cells_free.extend(unneeded);
                return Ok((None, None));
            }
            (_, Some(cell)) => cell,
            (_, None) if room(side) => {
                side.cells_used += 1;
                side.cells_used - 1
            }
            (_, None) => return Err(full),
        };
        if writing == Writing::Cell {
            return Ok((Some(cell), None));
        }
        let shared = match side.cells_shared_free.pop() {
            Some(shared) => shared,
            None if room(side) => {
                side.cells_shared += 1;
                max - side.cells_shared
            }
            None => {
                side.cells_free.push(cell);
                return Err(full);
            }
        };
        Ok((Some(cell), Some(shared)))
    }

    /// Before the row is in the table: whoever sees the series sees it begin at nothing.
    fn clear_cells(&self, row: &SeriesRow, kind: MetricKind) {
        let cells = &self.table.shards[usize::from(row.shard.0)].cells;
        for cell in [row.cell, row.shared_cell].into_iter().flatten() {
            match kind {
                MetricKind::Gauge => cells.clear_gauge(cell),
                MetricKind::Counter | MetricKind::Histogram => cells.clear_counter(cell),
            }
        }
    }

    fn intern_family(&mut self, family: &'static Family) -> Result<u16, SeriesError> {
        let place = std::ptr::from_ref(family) as usize;
        if let Some(index) = self.families_by_place.get(&place) {
            return Ok(*index);
        }
        if let Some(index) = self.families.get(family) {
            self.families_by_place.insert(place, *index);
            return Ok(*index);
        }
        let full = SeriesError::FamiliesFull { max: self.table.families.len() };
        let index = self.families.len();
        if index >= self.table.families.len() {
            return Err(full);
        }
        let index = u16::try_from(index).map_err(|_| full)?;
        let all: Vec<&str> =
            [family.name, family.help].into_iter().chain(family.labels.iter().copied()).collect();
        let texts: Vec<_> = self.take_texts(&all)?.iter().map(|number| self.texts.place(*number)).collect();
        self.table.write_family(index, family, texts[0], texts[1], &texts[2..]);
        self.families.insert(family, index);
        self.table.set_used(header::FAMILIES_USED, self.families.len());
        Ok(index)
    }

    /// The numbers of all texts, or none is taken.
    fn take_texts(&mut self, texts: &[&str]) -> Result<Vec<u32>, SeriesError> {
        let mut taken = Vec::with_capacity(texts.len());
        for text in texts {
            match self.texts.take(&self.table, &self.owner, text) {
                Ok(number) => taken.push(number),
                Err(error) => {
                    taken.into_iter().for_each(|number| self.texts.give_back(number));
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// One that was never written is not kept: readers take it for the table's end.
    fn give_back_row(&mut self, shard: ShardId, id: MetricId, since: u64) {
        if id.index() + 1 == self.entries.len() && self.table.is_unused(id) {
            self.entries.pop();
            return;
        }
        self.shards[usize::from(shard.0)].rows_free.push((id, since));
    }

    fn give_back(&mut self, shard: ShardId, cell: Option<u32>, shared_cell: Option<u32>) {
        let side = &mut self.shards[usize::from(shard.0)];
        side.cells_free.extend(cell);
        side.cells_shared_free.extend(shared_cell);
    }

    /// Out of the table. Cells and texts are still the row's.
    fn retire(&mut self, id: MetricId) {
        self.entries[id.index()].live = false;
        self.table.write_retired(id);
        self.index.remove(id.0);
    }

    /// Takes back what shards have let go of since the last time.
    fn reclaim(&mut self) {
        for number in 0..self.shards.len() {
            let pulse = &self.table.shards[number].pulse;
            // Acquire: with the release store in `Publisher::acknowledge`.
            let order = ordering(Site::AcknowledgeLoad, Ordering::Acquire);
            let acknowledged = pulse[shard::ACKNOWLEDGED].load(order);
            let released_at = pulse[shard::RELEASED_AT].load(Ordering::Relaxed);
            while let Some((_, ids)) =
                self.shards[number].retiring.pop_front_if(|(ticket, _)| *ticket <= acknowledged)
            {
                ids.into_iter().for_each(|id| self.free(id, released_at));
            }
        }
    }

    fn free(&mut self, id: MetricId, released_at: u64) {
        let Entry { shard, cell, shared_cell, labels, .. } = self.entries[id.index()];
        self.entries[id.index()] = Entry::unused(shard);
        let [cell, shared_cell] = [cell, shared_cell].map(|cell| (cell != NO_CELL).then_some(cell));
        self.give_back(shard, cell, shared_cell);
        for number in self.labels.get(labels) {
            self.texts.give_back(*number);
        }
        self.labels.give_back(labels);
        self.shards[usize::from(shard.0)].rows_free.push((id, released_at));
    }
}

fn check_lengths(family: &Family, values: &[&str]) -> Result<(), SeriesError> {
    let too_long = |what, len, max| SeriesError::TooLong { family: family.name.to_owned(), what, len, max };
    if family.labels.len() > LABELS_MAX {
        return Err(too_long("the list of labels", family.labels.len(), LABELS_MAX));
    }
    let own = [("the name", family.name), ("the help", family.help)].into_iter();
    let labels = family.labels.iter().map(|label| ("a label's name", *label));
    let values = values.iter().map(|value| ("a label's value", *value));
    match own.chain(labels).chain(values).find(|(_, text)| text.len() > STRING_MAX) {
        Some((what, text)) => Err(too_long(what, text.len(), STRING_MAX)),
        None => Ok(()),
    }
}
