//! Connections that read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::error::{FileIdentity, OpenError, StoreError, StoreErrorKind};
use super::event::{Event, EventKind};
use super::interval::{Interval, TargetKey};
use super::key::{self, UNIX_SECONDS_MAX};
use super::query::{Grid, HistoryQuery, INTERVALS_MAX, Points, QueryError};
use super::record::Record;
use super::statistics::{self, Statistics};
use super::tier::{CHUNK_SECONDS, Tier};
use super::{chunk, fold, head, schema};
use crate::clock::Now;

/// Events of an answer at most.
pub const EVENTS_ANSWERED_MAX: usize = 10_000;

/// A connection of its own to a history, that reads.
///
/// It sees what was acknowledged when it was asked, whether a [`Store`](super::Store) writes meanwhile or not, and holds up
/// none. An answer is one moment's. [`Store`](super::Store) has an example.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: Option<FileIdentity>,
}

/// Some of what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// The newest last.
    pub events: Vec<Event>,
    /// Older ones in the range that did not fit.
    pub left_off: u64,
}

impl Reader {
    /// Opens the history at `path`.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. It makes no file and changes none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = schema::open_to_read(path)?;
        Ok(Self { connection, path: path.to_owned(), identity: FileIdentity::of(path) })
    }

    #[cfg(test)]
    pub(super) fn over(connection: Connection, path: &Path) -> Self {
        Self { connection, path: path.to_owned(), identity: FileIdentity::of(path) }
    }

    /// Whether the path still leads to the file that this reads. After damage, [another](super::Store::open) is there: this one
    /// reads on in what was set aside, and is to be opened anew.
    pub fn is_in_place(&self) -> bool {
        FileIdentity::of(&self.path) == self.identity
    }

    /// All targets of which something is kept, in order.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn targets(&self) -> Result<Vec<TargetKey>, StoreError> {
        self.read_targets().map_err(|error| self.failed("reading its targets", error))
    }

    /// A target's history in equal steps. Each is made of the coarsest intervals that fill it; where these are not written yet or
    /// were dropped, of finer ones. O(intervals read).
    ///
    /// # Errors
    ///
    /// See [`QueryError`].
    pub fn history(&self, query: &HistoryQuery) -> Result<Points, QueryError> {
        let deadline = Deadline::new(query.time_max);
        let doing = "reading a target's history";
        let fail = |error| self.failed(doing, error);
        // One transaction: head and chunks of one moment, whatever is folded meanwhile.
        let _moment = self.connection.unchecked_transaction().map_err(fail)?;
        let Some(target) = self.target_id(&query.key).map_err(fail)? else {
            return Err(QueryError::UnknownTarget { key: query.key.clone() });
        };
        let mut reaches = [None; Tier::ALL.len()];
        for tier in Tier::ALL {
            reaches[usize::from(tier.code())] = self.reach(target, tier).map_err(fail)?;
        }
        let grid = Grid::of(query, reaches)?;
        let mut gathering = Gathering::new(grid);
        for tier in grid.tiers() {
            for gap in gathering.gaps() {
                let mut scan = Scan { target, tier, deadline, damaged: 0, left: gathering.room() };
                let found = self.scan(&mut scan, gap);
                gathering.damaged += scan.damaged;
                gathering.take(tier, found.map_err(|stop| self.stopped(stop, doing))?);
            }
        }
        Ok(gathering.points())
    }

    /// A target's intervals in one tier as they are kept, oldest first: `from` before `to`, unix seconds, at most
    /// [`INTERVALS_MAX`].
    ///
    /// # Errors
    ///
    /// See [`QueryError`].
    pub fn intervals(
        &self,
        key: &TargetKey,
        tier: Tier,
        seconds: Range<u64>,
        time_max: Duration,
    ) -> Result<Vec<(u64, Interval)>, QueryError> {
        let doing = "reading a target's intervals";
        let fail = |error| self.failed(doing, error);
        let deadline = Deadline::new(time_max);
        let _moment = self.connection.unchecked_transaction().map_err(fail)?;
        let Some(target) = self.target_id(key).map_err(fail)? else {
            return Err(QueryError::UnknownTarget { key: key.clone() });
        };
        let mut scan = Scan { target, tier, deadline, damaged: 0, left: INTERVALS_MAX };
        let seconds = seconds.start.min(UNIX_SECONDS_MAX)..seconds.end.min(UNIX_SECONDS_MAX);
        self.scan(&mut scan, seconds).map_err(|stop| self.stopped(stop, doing))
    }

    /// What happened, `from` before `to` in unix milliseconds, of one target or of all: the newest `limit`, at most
    /// [`EVENTS_ANSWERED_MAX`].
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn events(
        &self,
        unix_ms: Range<u64>,
        target: Option<&str>,
        limit: usize,
    ) -> Result<Happened, StoreError> {
        self.read_events(unix_ms, target, limit).map_err(|error| self.failed("reading events", error))
    }

    /// What the file is made of, and what this connection's cache found.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn statistics(&self) -> Result<Statistics, StoreError> {
        statistics::read(&self.connection, &self.path)
            .map_err(|error| self.failed("counting what it has", error))
    }

    fn failed(&self, doing: &'static str, error: rusqlite::Error) -> StoreError {
        StoreError::sqlite(&self.path, doing, error)
    }

    fn stopped(&self, stop: Stop, doing: &'static str) -> QueryError {
        match stop {
            Stop::Failed(error) => self.failed(doing, error).into(),
            Stop::TooMany => QueryError::TooManyIntervals,
            Stop::TooLong(time_max) => {
                let what = format!("it took longer than {time_max:?}");
                StoreError::said(StoreErrorKind::TooLong, &self.path, doing, what).into()
            }
        }
    }

    fn read_targets(&self) -> rusqlite::Result<Vec<TargetKey>> {
        let mut select =
            self.connection.prepare_cached("SELECT name, family FROM target ORDER BY name, family")?;
        select.query_map([], |row| Ok(TargetKey { name: row.get(0)?, family: row.get(1)? }))?.collect()
    }

    fn target_id(&self, key: &TargetKey) -> rusqlite::Result<Option<u32>> {
        self.connection
            .prepare_cached("SELECT id FROM target WHERE name = ?1 AND family = ?2")?
            .query_row(params![key.name, key.family], |row| row.get(0))
            .optional()
    }

    /// From when on a tier has something of a target; of what is in the head alone, from when on it has something at all.
    fn reach(&self, target: u32, tier: Tier) -> rusqlite::Result<Option<u64>> {
        let oldest = self
            .connection
            .prepare_cached("SELECT key FROM chunk WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT 1")?
            .query_row([key::chunk(target, tier, 0), key::chunk(target, tier, key::HOURS_MAX)], |row| {
                row.get(0)
            })
            .optional()?;
        match oldest {
            Some(key) => Ok(Some(key::hour_of_chunk(key) * CHUNK_SECONDS)),
            None => fold::oldest_start(&self.connection, tier),
        }
    }

    /// The intervals that begin in a range, ascending. What the head has goes before what a chunk has.
    fn scan(&self, scan: &mut Scan, seconds: Range<u64>) -> Result<Vec<(u64, Interval)>, Stop> {
        let mut found = BTreeMap::new();
        self.scan_chunks(scan, &seconds, &mut found)?;
        self.scan_head(scan, &seconds, &mut found)?;
        let intervals = found.into_iter().map(|(start, record)| (start, record.interval()));
        // What was decoded has an interval.
        Ok(intervals.filter_map(|(start, interval)| Some((start, interval.ok()?))).collect())
    }

    fn scan_chunks(&self, scan: &mut Scan, seconds: &Range<u64>, found: &mut Found) -> Result<(), Stop> {
        let mut select = self
            .connection
            .prepare_cached("SELECT key, intervals FROM chunk WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let hours = key::hour_of(seconds.start)..seconds.end.div_ceil(CHUNK_SECONDS);
        let mut rows = select.query([
            key::chunk(scan.target, scan.tier, hours.start),
            key::chunk(scan.target, scan.tier, hours.end),
        ])?;
        while let Some(row) = rows.next()? {
            scan.expect_time()?;
            let hour_starts = key::hour_of_chunk(row.get(0)?) * CHUNK_SECONDS;
            let Ok(slots) =
                chunk::decode(scan.tier, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)
            else {
                scan.damaged += 1;
                continue;
            };
            let starts = slots
                .into_iter()
                .map(|(slot, record)| (hour_starts + u64::from(slot) * scan.tier.seconds(), record));
            found.extend(starts.filter(|(start, _)| seconds.contains(start)));
            scan.expect_room(found)?;
        }
        Ok(())
    }

    /// Goes from one row of the target's block to the next, over those of other blocks.
    fn scan_head(&self, scan: &mut Scan, seconds: &Range<u64>, found: &mut Found) -> Result<(), Stop> {
        let (block, place) = key::block_of(scan.target);
        let end = key::head(scan.tier, seconds.end, 0);
        let mut select = self.connection.prepare_cached(
            "SELECT key, records FROM head WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT 1",
        )?;
        let mut next = seconds.start;
        while next < seconds.end {
            scan.expect_time()?;
            let mut rows = select.query([key::head(scan.tier, next, block), end])?;
            let Some(row) = rows.next()? else { break };
            let (start, found_block) = key::of_head(row.get(0)?);
            if found_block != block {
                next = if found_block < block { start } else { start + scan.tier.seconds() };
                continue;
            }
            match head::find(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?, place) {
                Ok(Some(record)) => {
                    found.insert(start, record);
                    scan.expect_room(found)?;
                }
                Ok(None) => {}
                Err(head::Malformed) => scan.damaged += 1,
            }
            next = start + scan.tier.seconds();
        }
        Ok(())
    }

    fn read_events(
        &self,
        unix_ms: Range<u64>,
        target: Option<&str>,
        limit: usize,
    ) -> rusqlite::Result<Happened> {
        let _moment = self.connection.unchecked_transaction()?;
        let limit = limit.min(EVENTS_ANSWERED_MAX);
        let bound = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
        let (from, to) = (bound(unix_ms.start), bound(unix_ms.end));
        let range = match target {
            None => "FROM event WHERE at_unix_ms >= ?1 AND at_unix_ms < ?2 AND ?3 IS NULL",
            Some(_) => "FROM event WHERE at_unix_ms >= ?1 AND at_unix_ms < ?2 AND target = ?3",
        };
        let count: u64 = self
            .connection
            .prepare_cached(&format!("SELECT count(*) {range}"))?
            .query_row(params![from, to, target], |row| row.get(0))?;
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT at_unix_ms, kind, target, alertname, severity, summary {range} ORDER BY at_unix_ms DESC, id DESC LIMIT ?4"
        ))?;
        let mut events = Vec::new();
        let mut rows = select.query(params![from, to, target, limit as i64])?;
        while let Some(row) = rows.next()? {
            // Of a kind that a later version added and this one does not know: counted with what is left off.
            let Some(kind) = EventKind::from_code(row.get(1)?) else { continue };
            events.push(Event {
                at_unix_ms: row.get(0)?,
                kind,
                target: row.get(2)?,
                alertname: row.get(3)?,
                severity: row.get(4)?,
                summary: row.get(5)?,
            });
        }
        events.reverse();
        let left_off = count.saturating_sub(events.len() as u64);
        Ok(Happened { events, left_off })
    }
}

type Found = BTreeMap<u64, Record>;

/// Why a scan ended before its range.
enum Stop {
    Failed(rusqlite::Error),
    TooMany,
    TooLong(Duration),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

#[derive(Clone, Copy)]
struct Deadline {
    began: Now,
    time_max: Duration,
}

impl Deadline {
    fn new(time_max: Duration) -> Self {
        Self { began: Now::sample(), time_max }
    }
}

/// One tier's intervals of one target.
struct Scan {
    target: u32,
    tier: Tier,
    deadline: Deadline,
    damaged: u64,
    left: usize,
}

impl Scan {
    fn expect_time(&self) -> Result<(), Stop> {
        if Now::sample().since(self.deadline.began.monotonic_ns) <= self.deadline.time_max {
            return Ok(());
        }
        Err(Stop::TooLong(self.deadline.time_max))
    }

    fn expect_room(&self, found: &Found) -> Result<(), Stop> {
        if found.len() <= self.left { Ok(()) } else { Err(Stop::TooMany) }
    }
}

/// The intervals of an answer, tier after tier: what a coarser one has said is not asked of a finer one.
struct Gathering {
    grid: Grid,
    /// By when they begin: they never overlap.
    intervals: BTreeMap<u64, (Tier, Interval)>,
    damaged: u64,
}

impl Gathering {
    fn new(grid: Grid) -> Self {
        Self { grid, intervals: BTreeMap::new(), damaged: 0 }
    }

    fn room(&self) -> usize {
        INTERVALS_MAX.saturating_sub(self.intervals.len())
    }

    /// What is not covered yet. What lies less than a chunk apart is one gap: that is read in one piece.
    fn gaps(&self) -> Vec<Range<u64>> {
        let whole = self.grid.seconds();
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut add = |gap: Range<u64>| match gaps.last_mut() {
            _ if gap.is_empty() => {}
            Some(last) if gap.start - last.end < CHUNK_SECONDS => last.end = gap.end,
            _ => gaps.push(gap),
        };
        let mut covered = whole.start;
        for (start, (tier, _)) in &self.intervals {
            add(covered..*start);
            covered = start + tier.seconds();
        }
        add(covered..whole.end);
        gaps
    }

    /// Takes what a finer tier has where nothing coarser was.
    fn take(&mut self, tier: Tier, found: Vec<(u64, Interval)>) {
        for (start, interval) in found {
            let before = self.intervals.range(..=start).next_back();
            let is_covered = before.is_some_and(|(at, (tier, _))| start < at + tier.seconds());
            if !is_covered {
                self.intervals.insert(start, (tier, interval));
            }
        }
    }

    fn points(self) -> Points {
        let mut intervals = vec![None; self.grid.points as usize];
        let mut tiers = BTreeSet::new();
        let mut step = (0, Vec::new());
        let mut close = |(point, of): (usize, Vec<Interval>)| intervals[point] = Interval::merged(&of);
        for (start, (tier, interval)) in self.intervals {
            tiers.insert(tier);
            let point = self.grid.point_of(start);
            if point != step.0 {
                close(std::mem::replace(&mut step, (point, Vec::new())));
            }
            step.1.push(interval);
        }
        close(step);
        Points {
            from: self.grid.from,
            step_seconds: self.grid.step,
            intervals,
            tiers: tiers.into_iter().collect(),
            damaged: self.damaged,
        }
    }
}
