//! Which series exist, which cell or ring id each has, and when an id may be used again.
//!
//! The registry belongs to the control plane: it locks. A shard never sees it; it is handed cells and
//! ids together with the target they belong to.
//!
//! A retired id goes through three gates before it is reused, because samples that carry it may
//! still be on their way: the shard acknowledges that it dropped its handles, saying at which ring
//! position; the ring is drained past that position; then it is free.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalogue::Family;
use crate::cell::{CounterCell, GaugeCell, read_counter, read_gauge};
use crate::sample::{MetricId, MetricKind, ShardId};
use crate::words::CellWords;

/// Why a series cannot be had or given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// The family is of another kind than what was asked for.
    #[error("family {family} is a {}; asked for a {}", .is.as_str(), .asked.as_str())]
    Kind {
        /// The family's name.
        family: &'static str,
        /// What it is.
        is: MetricKind,
        /// What was asked for.
        asked: MetricKind,
    },
    /// Not one value for each of the family's labels.
    #[error("family {family} has {expected} labels; got {got} values")]
    Labels {
        /// The family's name.
        family: &'static str,
        /// Labels it has.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// The series already has a writer: on this shard, or on any for gauges and streams.
    #[error("series {family}{values:?} already has a writer; retire it first")]
    Taken {
        /// The family's name.
        family: &'static str,
        /// The label values.
        values: Vec<String>,
    },
    /// The series table is full.
    #[error("series table is full at {max}; raise max_series or probe fewer targets")]
    TableFull {
        /// Its size.
        max: usize,
    },
    /// The shard has no free cell.
    #[error("shard {} has all its {max} cells in use; raise cells_per_shard", .shard.0)]
    CellsFull {
        /// The shard.
        shard: ShardId,
        /// Cells it has.
        max: usize,
    },
    /// No such shard.
    #[error("shard {} does not exist; there are {shards}", .shard.0)]
    NoShard {
        /// The shard asked for.
        shard: ShardId,
        /// Shards there are.
        shards: usize,
    },
    /// The id is not live on that shard alone.
    #[error("series {} is not held by shard {} alone; it cannot be retired there", .id.0, .shard.0)]
    NotHeld {
        /// The id.
        id: MetricId,
        /// The shard.
        shard: ShardId,
    },
}

/// What can still be interned on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Cells of the shard in nobody's hands.
    pub cells: usize,
    /// Places in the table, which all shards share.
    pub series: usize,
}

/// Orders the retirements of one shard. Hand it to the shard together with the command to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetireTicket(pub(crate) u64);

/// The table of series. Clones share it. Locks: for the control plane only.
#[derive(Clone)]
pub struct SeriesRegistry(Arc<Mutex<Table>>);

struct Table {
    entries: Vec<Option<Entry>>,
    free_ids: Vec<MetricId>,
    by_key: HashMap<(&'static str, Vec<String>), MetricId>,
    shards: Vec<ShardSide>,
    max_series: usize,
    generation: u64,
}

struct Entry {
    family: &'static Family,
    values: Vec<String>,
    /// One share per writing shard; the cell index, or `None` for what travels in the ring.
    shares: Vec<(ShardId, Option<u32>)>,
    live: bool,
}

struct ShardSide {
    cells: CellWords,
    cells_max: usize,
    cells_used: u32,
    cells_free: Vec<u32>,
    next_ticket: u64,
    /// In order of ticket: what waits for the shard, then for the ring.
    retiring: VecDeque<Retiring>,
}

struct Retiring {
    ticket: RetireTicket,
    ids: Vec<MetricId>,
    /// The ring position at which the shard let go, once it said so.
    released_at: Option<u64>,
}

impl SeriesRegistry {
    pub(crate) fn new(cells: Vec<CellWords>, cells_max: usize, max_series: usize) -> Self {
        let shard = |cells| ShardSide {
            cells,
            cells_max,
            cells_used: 0,
            cells_free: Vec::new(),
            next_ticket: 1,
            retiring: VecDeque::new(),
        };
        Self(Arc::new(Mutex::new(Table {
            entries: Vec::new(),
            free_ids: Vec::new(),
            by_key: HashMap::new(),
            shards: cells.into_iter().map(shard).collect(),
            max_series,
            generation: 0,
        })))
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
        let mut table = self.lock();
        let (id, index) = table.intern_cell(shard, family, values, MetricKind::Counter)?;
        Ok(CounterCell::new(table.shards[usize::from(shard.0)].cells.clone(), index, id))
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
        let mut table = self.lock();
        let (id, index) = table.intern_cell(shard, family, values, MetricKind::Gauge)?;
        Ok(GaugeCell::new(table.shards[usize::from(shard.0)].cells.clone(), index, id))
    }

    /// An id for a histogram series whose observations travel in `shard`'s ring. O(1).
    ///
    /// # Errors
    /// As [`gauge`](Self::gauge).
    pub fn stream(
        &self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
    ) -> Result<MetricId, SeriesError> {
        let mut table = self.lock();
        table.check(shard, family, values, MetricKind::Histogram)?;
        table.intern(shard, family, values, None)
    }

    /// Takes series out of the table: they vanish from exposition now, their ids return when the
    /// shard has acknowledged the ticket and its ring is drained. All or none.
    ///
    /// # Errors
    /// [`SeriesError::NotHeld`] if an id is unknown, already retired or held by another shard too.
    pub fn retire(&self, shard: ShardId, ids: &[MetricId]) -> Result<RetireTicket, SeriesError> {
        let mut table = self.lock();
        table.check_shard(shard)?;
        for &id in ids {
            let held = table.entry(id).is_some_and(|e| e.live && e.shares.iter().all(|s| s.0 == shard));
            if !held {
                return Err(SeriesError::NotHeld { id, shard });
            }
        }
        for &id in ids {
            table.forget_key(id);
        }
        table.generation += 1;
        let side = &mut table.shards[usize::from(shard.0)];
        let ticket = RetireTicket(side.next_ticket);
        side.next_ticket += 1;
        side.retiring.push_back(Retiring { ticket, ids: ids.to_vec(), released_at: None });
        Ok(ticket)
    }

    /// What can still be interned on `shard`: lets a caller see beforehand that many series will fit.
    ///
    /// # Errors
    /// [`SeriesError::NoShard`].
    pub fn room(&self, shard: ShardId) -> Result<Room, SeriesError> {
        let table = self.lock();
        table.check_shard(shard)?;
        let side = &table.shards[usize::from(shard.0)];
        Ok(Room {
            cells: side.cells_max - side.cells_used as usize + side.cells_free.len(),
            series: table.max_series - table.entries.len() + table.free_ids.len(),
        })
    }

    /// Ids freed because `shard` acknowledged up to `ticket` at ring position `released_at` and its
    /// ring is drained to `drained_to`. Called by the collector after each drain.
    pub(crate) fn reclaim(
        &self,
        shard: ShardId,
        acknowledged: RetireTicket,
        released_at: u64,
        drained_to: u64,
    ) -> Vec<MetricId> {
        let mut table = self.lock();
        let mut freed = Vec::new();
        let side = &mut table.shards[usize::from(shard.0)];
        for retiring in side.retiring.iter_mut().filter(|r| r.ticket <= acknowledged) {
            retiring.released_at.get_or_insert(released_at);
        }
        while let Some(front) = side.retiring.front() {
            if front.released_at.is_none_or(|position| position > drained_to) {
                break;
            }
            freed.extend(side.retiring.pop_front().map(|r| r.ids).unwrap_or_default());
        }
        // An id named twice in one retirement is freed, and told, once.
        freed.retain(|&id| table.free(id));
        freed
    }

    /// Changes whenever a series is added or retired: what is cached per series holds while it stands.
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Reads series and cell values under one lock.
    pub fn read<T>(&self, reader: impl FnOnce(&SeriesView<'_>) -> T) -> T {
        reader(&SeriesView(&self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic while the lock was held left whole entries: nothing here panics half-way through.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the table says while it is locked.
pub struct SeriesView<'a>(&'a Table);

impl SeriesView<'_> {
    /// See [`SeriesRegistry::generation`].
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Every live series with its family and label values, in order of id. O(series).
    pub fn series(&self) -> impl Iterator<Item = (MetricId, &'static Family, &[String])> {
        let live = |(index, entry): (usize, &'_ Option<Entry>)| {
            let entry = entry.as_ref().filter(|e| e.live)?;
            Some((id_at(index), entry.family))
        };
        self.0.entries.iter().enumerate().filter_map(live).map(|(id, family)| (id, family, self.values(id)))
    }

    /// The sum of a counter's cells; `None` when there is no such live counter. O(shards).
    pub fn counter(&self, id: MetricId) -> Option<u64> {
        let entry = self.live(id)?;
        let mut total = None;
        for (shard, cell) in &entry.shares {
            let word = self.0.shards[usize::from(shard.0)].cells.word((*cell)?);
            total = Some(total.unwrap_or(0u64).wrapping_add(read_counter(word)));
        }
        total.filter(|_| entry.family.kind == MetricKind::Counter)
    }

    /// A gauge's value; `None` when it is absent or there is no such live gauge. O(1).
    pub fn gauge(&self, id: MetricId) -> Option<f64> {
        let entry = self.live(id).filter(|e| e.family.kind == MetricKind::Gauge)?;
        let (shard, cell) = entry.shares.first()?;
        read_gauge(self.0.shards[usize::from(shard.0)].cells.word((*cell)?))
    }

    /// The id of a live series. O(1).
    pub fn find(&self, family: &Family, values: &[&str]) -> Option<MetricId> {
        self.0.by_key.get(&key(family.name, values)).copied()
    }

    /// The first shard that writes a series: the one whose silence makes a gauge stale.
    pub fn writer(&self, id: MetricId) -> Option<ShardId> {
        self.live(id)?.shares.first().map(|share| share.0)
    }

    fn live(&self, id: MetricId) -> Option<&Entry> {
        self.0.entry(id).filter(|e| e.live)
    }

    fn values(&self, id: MetricId) -> &[String] {
        self.live(id).map_or(&[], |e| e.values.as_slice())
    }
}

impl Table {
    fn entry(&self, id: MetricId) -> Option<&Entry> {
        self.entries.get(id.index())?.as_ref()
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), SeriesError> {
        let shards = self.shards.len();
        if usize::from(shard.0) >= shards {
            return Err(SeriesError::NoShard { shard, shards });
        }
        Ok(())
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
        let Some(entry) = self.by_key.get(&key(family.name, values)).and_then(|id| self.entry(*id)) else {
            return Ok(());
        };
        let shared = asked == MetricKind::Counter && entry.shares.iter().all(|s| s.0 != shard);
        if shared {
            return Ok(());
        }
        Err(SeriesError::Taken { family: family.name, values: entry.values.clone() })
    }

    fn intern_cell(
        &mut self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
        asked: MetricKind,
    ) -> Result<(MetricId, u32), SeriesError> {
        self.check(shard, family, values, asked)?;
        let side = &mut self.shards[usize::from(shard.0)];
        let index = match side.cells_free.pop() {
            Some(index) => index,
            None if (side.cells_used as usize) < side.cells_max => {
                side.cells_used += 1;
                side.cells_used - 1
            }
            None => return Err(SeriesError::CellsFull { shard, max: side.cells_max }),
        };
        let interned = self.intern(shard, family, values, Some(index));
        if interned.is_err() {
            self.shards[usize::from(shard.0)].cells_free.push(index);
        }
        Ok((interned?, index))
    }

    fn intern(
        &mut self,
        shard: ShardId,
        family: &'static Family,
        values: &[&str],
        cell: Option<u32>,
    ) -> Result<MetricId, SeriesError> {
        let key = key(family.name, values);
        if let Some(&id) = self.by_key.get(&key) {
            if let Some(entry) = &mut self.entries[id.index()] {
                entry.shares.push((shard, cell));
            }
            return Ok(id);
        }
        let id = match self.free_ids.pop() {
            Some(id) => id,
            None if self.entries.len() < self.max_series => {
                self.entries.push(None);
                id_at(self.entries.len() - 1)
            }
            None => return Err(SeriesError::TableFull { max: self.max_series }),
        };
        let entry = Entry { family, values: key.1.clone(), shares: vec![(shard, cell)], live: true };
        self.entries[id.index()] = Some(entry);
        self.by_key.insert(key, id);
        self.generation += 1;
        Ok(id)
    }

    fn forget_key(&mut self, id: MetricId) {
        if let Some(entry) = &mut self.entries[id.index()] {
            entry.live = false;
            self.by_key.remove(&(entry.family.name, entry.values.clone()));
        }
    }

    fn free(&mut self, id: MetricId) -> bool {
        let Some(entry) = self.entries[id.index()].take() else { return false };
        for (shard, cell) in entry.shares {
            self.shards[usize::from(shard.0)].cells_free.extend(cell);
        }
        self.free_ids.push(id);
        true
    }
}

fn key(family: &'static str, values: &[&str]) -> (&'static str, Vec<String>) {
    (family, values.iter().map(|v| (*v).to_owned()).collect())
}

fn id_at(index: usize) -> MetricId {
    // The table is bounded by `max_series`, which HubConfig limits to what 32 bits hold.
    MetricId(u32::try_from(index).unwrap_or(u32::MAX))
}
