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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::SeriesError;
use super::texts::{Growing, Texts};
use super::{SeriesRow, Table, Text};
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
    entries: Vec<Entry>,
    by_key: HashMap<Key, Vec<MetricId>>,
    texts: Texts,
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

/// A family and the values of its labels.
type Key = (u16, Vec<String>);

struct Entry {
    row: SeriesRow,
    values: Vec<String>,
}

#[derive(Default)]
struct ShardSide {
    /// From the first on.
    cells_used: u32,
    /// Those other threads write too, from the last down: as far from the shard's own as can be.
    cells_shared: u32,
    cells_free: Vec<u32>,
    cells_shared_free: Vec<u32>,
    rows_free: Vec<MetricId>,
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
            entries: Vec::new(),
            by_key: HashMap::new(),
            texts: Texts::default(),
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
        let shared = registry.entries[id.index()].row.shared_cell;
        let shared = shared.unwrap_or_else(|| unreachable!("{id:?} was interned with a shared cell"));
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
            let held = registry.entries.get(id.index()).is_some_and(|e| e.row.live && e.row.shard == shard);
            if !held || registry.is_shared(id) {
                return Err(SeriesError::NotHeld { id, shard });
            }
        }
        let mut retired = Vec::with_capacity(ids.len());
        for &id in ids {
            // An id named twice is retired once.
            if registry.entries[id.index()].row.live {
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
        let entry = &self.entries[id.index()];
        let key = (entry.row.family, entry.values.clone());
        self.by_key.get(&key).is_some_and(|ids| ids.len() > 1)
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
        let row = &self.entries[id.index()].row;
        let cell = row.cell.unwrap_or_else(|| unreachable!("{id:?} was interned with a cell"));
        (self.table.shards[usize::from(row.shard.0)].cells.clone(), cell)
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

    /// Whether the series of `key` can have no writer on `shard` besides those it has.
    fn is_taken(&self, shard: ShardId, key: &Key, kind: MetricKind) -> bool {
        self.by_key.get(key).is_some_and(|ids| {
            kind == MetricKind::Gauge || ids.iter().any(|id| self.entries[id.index()].row.shard == shard)
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
        let key = (family, values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        if self.is_taken(shard, &key, asked) {
            return Err(SeriesError::Taken { family: name, values: key.1 });
        }
        let id = self.take_row(shard)?;
        let row = self.take_cells(shard, writing).and_then(|(cell, shared_cell)| {
            let since = self.entries[id.index()].row.since;
            let mut row =
                SeriesRow { family, shard, live: true, cell, shared_cell, since, labels: Vec::new() };
            self.take_texts(values, &mut row.labels)
                .map(|()| row.clone())
                .inspect_err(|_| self.give_back(&row))
        });
        let row = row.inspect_err(|_| self.give_back_row(shard, id))?;
        self.clear_cells(&row, asked);
        self.table.write_series(id, &row);
        self.table.set_used(header::SERIES_USED, self.entries.len());
        self.changed();
        self.entries[id.index()] = Entry { row, values: key.1.clone() };
        self.by_key.entry(key).or_default().push(id);
        Ok(id)
    }

    /// A row for `shard`; its entry says since which position it can be a new series'.
    fn take_row(&mut self, shard: ShardId) -> Result<MetricId, SeriesError> {
        if let Some(id) = self.shards[usize::from(shard.0)].rows_free.pop() {
            return Ok(id);
        }
        let max = self.table.series.len();
        if self.entries.len() >= max {
            return Err(SeriesError::TableFull { max });
        }
        let rows = |rows: usize| rows * ROW_WORDS;
        let table = Growing { at: self.table.series_at, words: rows(max) };
        let (before, after) = (rows(self.entries.len()), rows(self.entries.len() + 1));
        table.reserve(&self.owner, before, after)?;
        let unused = SeriesRow {
            family: 0,
            shard,
            live: false,
            cell: None,
            shared_cell: None,
            since: 0,
            labels: Vec::new(),
        };
        self.entries.push(Entry { row: unused, values: Vec::new() });
        // The table has at most 2^28 rows.
        Ok(MetricId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)))
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
        let mut texts = Vec::new();
        let all: Vec<&str> =
            [family.name, family.help].into_iter().chain(family.labels.iter().copied()).collect();
        self.take_texts(&all, &mut texts)?;
        self.table.write_family(index, family, texts[0], texts[1], &texts[2..]);
        self.families.insert(family, index);
        self.table.set_used(header::FAMILIES_USED, self.families.len());
        Ok(index)
    }

    /// All texts, or none.
    fn take_texts(&mut self, texts: &[&str], taken: &mut Vec<Text>) -> Result<(), SeriesError> {
        for text in texts {
            match self.texts.take(&self.table, &self.owner, text) {
                Ok(at) => taken.push(at),
                Err(error) => {
                    let done = &texts[..taken.len()];
                    done.iter().for_each(|text| self.texts.give_back(text));
                    taken.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// One that was never written is not kept: readers take it for the table's end.
    fn give_back_row(&mut self, shard: ShardId, id: MetricId) {
        if id.index() + 1 == self.entries.len() && self.table.is_unused(id) {
            self.entries.pop();
            return;
        }
        self.shards[usize::from(shard.0)].rows_free.push(id);
    }

    fn give_back(&mut self, row: &SeriesRow) {
        let side = &mut self.shards[usize::from(row.shard.0)];
        side.cells_free.extend(row.cell);
        side.cells_shared_free.extend(row.shared_cell);
    }

    /// Out of the table. Cells and texts are still the row's.
    fn retire(&mut self, id: MetricId) {
        let entry = &mut self.entries[id.index()];
        entry.row.live = false;
        self.table.write_series(id, &entry.row);
        let key = (entry.row.family, entry.values.clone());
        if let Some(ids) = self.by_key.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_key.remove(&key);
            }
        }
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
        let entry = &mut self.entries[id.index()];
        let values = std::mem::take(&mut entry.values);
        entry.row.since = released_at;
        let row = entry.row.clone();
        self.give_back(&row);
        values.iter().for_each(|text| self.texts.give_back(text));
        self.shards[usize::from(row.shard.0)].rows_free.push(id);
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
