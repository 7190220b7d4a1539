//! The one connection that writes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::error::{FileIdentity, OpenError, StoreError, StoreErrorKind};
use super::event::Event;
use super::file::{self, Lock};
use super::fold::Fold;
use super::interval::{Interval, TargetKey};
use super::key::{self, Hour};
use super::record::Record;
use super::retention::Retention;
use super::schema::{self, Condition};
use super::statistics::{self, Statistics};
use super::tidy::Drops;
use super::tier::Tier;
use super::{head, reader::Reader};
use crate::clock::Now;

/// Targets that a database has room for, whether they are still measured or not.
pub const TARGETS_MAX: usize = 1 << 18;
/// Bytes of an event's words; what is longer is cut.
pub const EVENT_TEXT_BYTES_MAX: usize = 1024;

/// A history on disk, open to write.
///
/// One process writes it, and one thread of that: see [`OpenError::Locked`]. [Readers](Reader) see what was acknowledged,
/// while it is written, and hold up nobody.
///
/// What fails leaves no trace and can be tried again. What [`append`](Self::append) acknowledged is on the device:
/// neither a kill nor a power cut takes it.
///
/// ```
/// use relayscope_controlplane::Now;
/// use relayscope_controlplane::history::{HistoryQuery, Interval, Retention, Store, TargetKey, Tier};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("history.db");
/// let mut store = Store::open(&path, Retention::default(), Now::sample())?;
///
/// let key = TargetKey { name: "relay-b".into(), family: "ipv4".into() };
/// let interval = Interval { answered: 9, lost: 1, ..Interval::default() };
/// let appended = store.append(Tier::TenSeconds, 1_796_000_000, &[(&key, interval)])?;
/// assert_eq!((appended.written, appended.refused), (1, 0));
/// while store.tidy(Now::sample())?.is_more {}
///
/// let reader = Store::reader(&path)?;
/// let points = reader.history(&HistoryQuery::new(key, 1_796_000_000, 1_796_000_020))?;
/// assert_eq!(points.intervals.len(), 2);
/// assert_eq!(points.intervals[0].map(|interval| interval.lost), Some(1));
/// assert_eq!(points.intervals[1], None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) retention: Retention,
    pub(super) targets: HashMap<TargetKey, Known>,
    pub(super) fold: Option<Fold>,
    pub(super) drops: Drops,
    /// How many there are.
    pub(super) events: u64,
    identity: Option<FileIdentity>,
    set_aside: Option<PathBuf>,
    _lock: Lock,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) id: u32,
    /// The latest hour that something in the head may be of.
    pub(super) newest: Hour,
}

/// What became of an append.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Intervals written.
    pub written: usize,
    /// Intervals of new targets for which there was no room: [`TARGETS_MAX`].
    pub refused: usize,
}

impl Store {
    /// Opens the database at `path`, or begins one; its directory is made where there is none. An older one is brought up to date.
    ///
    /// A damaged database is moved to `NAME.damaged-<unix seconds>`, never deleted, and a new one is begun:
    /// [`set_aside`](Self::set_aside) tells. A file of any other kind is refused and left as it is.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(path: &Path, retention: Retention, now: Now) -> Result<Self, OpenError> {
        Self::open_with(path, retention, now, schema::MIGRATIONS)
    }

    pub(super) fn open_with(
        path: &Path,
        retention: Retention,
        now: Now,
        migrations: &[&str],
    ) -> Result<Self, OpenError> {
        if !file::may_be_database(path)? {
            return Err(OpenError::NoDatabase { path: path.to_owned() });
        }
        let lock = Lock::take(path)?;
        file::make(path)?;
        let mut set_aside = None;
        let connection = loop {
            match schema::open(path, migrations)? {
                Condition::Sound(connection) => break connection,
                Condition::Damaged(why) if set_aside.is_some() => {
                    let what = format!("a new file is damaged at once: {why}");
                    return Err(StoreError::said(StoreErrorKind::Io, path, "opening it", what).into());
                }
                Condition::Damaged(_) => {
                    set_aside = Some(file::set_aside(path, now)?);
                    file::make(path)?;
                }
            }
        };
        let identity = FileIdentity::of(path);
        let mut store = Self {
            connection,
            path: path.to_owned(),
            retention,
            targets: HashMap::new(),
            fold: None,
            drops: Drops::default(),
            events: 0,
            identity,
            set_aside,
            _lock: lock,
        };
        store.load().map_err(|error| StoreError::sqlite(path, "reading what it has", error))?;
        Ok(store)
    }

    /// Moves a database out of the way that [turned out damaged](StoreErrorKind::Damaged) while it was in use, as
    /// [`open`](Self::open) would have. No store may have it open.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] while one has.
    pub fn move_damaged(path: &Path, now: Now) -> Result<PathBuf, OpenError> {
        let _lock = Lock::take(path)?;
        Ok(file::set_aside(path, now)?)
    }

    /// A connection of its own that reads what this one writes.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn reader(path: &Path) -> Result<Reader, OpenError> {
        Reader::open(path)
    }

    /// Where a damaged file went that was found at [`path`](Self::path).
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one interval of many targets in one transaction: durable, all of it, when it returns. An interval that is there
    /// already is replaced. A later one of the same target in `intervals` wins.
    ///
    /// # Errors
    ///
    /// Nothing was written; the store can be used on. Refuses a start that is no multiple of the tier's length.
    pub fn append(
        &mut self,
        tier: Tier,
        start_unix_seconds: u64,
        intervals: &[(&TargetKey, Interval)],
    ) -> Result<Appended, StoreError> {
        if tier.floor(start_unix_seconds) != start_unix_seconds || start_unix_seconds >= key::UNIX_SECONDS_MAX
        {
            let what = format!(
                "an interval begins at {start_unix_seconds}; expected a multiple of {} below {}",
                tier.seconds(),
                key::UNIX_SECONDS_MAX
            );
            return Err(StoreError::said(StoreErrorKind::Other, &self.path, "appending", what));
        }
        self.expect_in_place("appending")?;
        let hour = key::hour_of(start_unix_seconds);
        let (new, refused) = self
            .write_intervals(tier, start_unix_seconds, intervals)
            .map_err(|error| self.failed("appending", error))?;
        for (target, id) in new {
            self.targets.insert(target, Known { id, newest: hour });
        }
        for (target, _) in intervals {
            if let Some(known) = self.targets.get_mut(target) {
                known.newest = known.newest.max(hour);
            }
        }
        if self.fold.as_ref().is_some_and(|fold| fold.is_of(tier, hour)) {
            // Begun anew, with what has come late.
            self.fold = None;
        }
        let written = intervals.len() - refused;
        Ok(Appended { written, refused })
    }

    /// Writes events in one transaction: durable, all of them, when it returns.
    ///
    /// # Errors
    ///
    /// Nothing was written; the store can be used on.
    pub fn append_events(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.expect_in_place("appending events")?;
        self.write_events(events).map_err(|error| self.failed("appending events", error))?;
        self.events += events.len() as u64;
        Ok(())
    }

    pub(super) fn failed(&self, doing: &'static str, error: rusqlite::Error) -> StoreError {
        StoreError::sqlite(&self.path, doing, error)
    }

    /// That the path still leads to the file that is open.
    pub(super) fn expect_in_place(&self, doing: &'static str) -> Result<(), StoreError> {
        if FileIdentity::of(&self.path) == self.identity {
            return Ok(());
        }
        let what =
            "the file is gone or another one is in its place; expected it to be opened anew".to_owned();
        Err(StoreError::said(StoreErrorKind::Moved, &self.path, doing, what))
    }

    /// The ids of the new targets and what was refused.
    fn write_intervals(
        &mut self,
        tier: Tier,
        start: u64,
        intervals: &[(&TargetKey, Interval)],
    ) -> rusqlite::Result<(Vec<(TargetKey, u32)>, usize)> {
        let targets = &self.targets;
        let transaction = begin(&mut self.connection)?;
        let mut new = HashMap::new();
        let mut refused = 0;
        let mut records = BTreeMap::new();
        for (target, interval) in intervals {
            let known = targets.get(target).map(|known| known.id).or_else(|| new.get(target).copied());
            let id = match known {
                Some(id) => id,
                None if targets.len() + new.len() >= TARGETS_MAX => {
                    refused += 1;
                    continue;
                }
                None => {
                    let id = insert_target(&transaction, target)?;
                    new.insert(*target, id);
                    id
                }
            };
            records.insert(id, Record::of(interval));
        }
        let mut blocks: BTreeMap<u32, BTreeMap<u8, Record>> = BTreeMap::new();
        for (id, record) in records {
            let (block, place) = key::block_of(id);
            blocks.entry(block).or_default().insert(place, record);
        }
        for (block, records) in blocks {
            write_block(&transaction, key::head(tier, start, block), records)?;
        }
        transaction.commit()?;
        Ok((new.into_iter().map(|(target, id)| (target.clone(), id)).collect(), refused))
    }

    fn write_events(&mut self, events: &[Event]) -> rusqlite::Result<()> {
        let transaction = begin(&mut self.connection)?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO event (at_unix_ms, kind, target, alertname, severity, summary) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for event in events {
                insert.execute(params![
                    i64::try_from(event.at_unix_ms).unwrap_or(i64::MAX),
                    event.kind.code(),
                    event.target.as_deref().map(bounded),
                    event.alertname.as_deref().map(bounded),
                    event.severity.as_deref().map(bounded),
                    bounded(&event.summary),
                ])?;
            }
        }
        transaction.commit()
    }

    fn load(&mut self) -> rusqlite::Result<()> {
        self.events = self.connection.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
        let mut newest: HashMap<u32, Hour> = HashMap::new();
        let mut rows = self.connection.prepare("SELECT key, records FROM head")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (start, block) = key::of_head(row.get(0)?);
            for place in head::places(row.get_ref(1)?.as_blob()?) {
                let hour = newest.entry(block * key::BLOCK_TARGETS + u32::from(place)).or_default();
                *hour = (*hour).max(key::hour_of(start));
            }
        }
        let mut rows = self.connection.prepare("SELECT id, name, family FROM target")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let known = Known { id, newest: newest.get(&id).copied().unwrap_or(0) };
            self.targets.insert(TargetKey { name: row.get(1)?, family: row.get(2)? }, known);
        }
        Ok(())
    }
}

/// A transaction; one that a failure left behind is ended first.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn insert_target(connection: &Connection, target: &TargetKey) -> rusqlite::Result<u32> {
    let mut insert =
        connection.prepare_cached("INSERT INTO target (name, family) VALUES (?1, ?2) RETURNING id")?;
    let id: u32 = insert.query_row(params![target.name, target.family], |row| row.get(0))?;
    if id > key::TARGET_ID_MAX {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, i64::from(id)));
    }
    Ok(id)
}

/// Writes a row of the head, over those of its records that are there.
fn write_block(connection: &Connection, key: i64, records: BTreeMap<u8, Record>) -> rusqlite::Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT OR IGNORE INTO head (key, records) VALUES (?1, ?2)")?;
    if insert.execute(params![key, head::encode(records.iter().map(|(place, record)| (*place, *record)))])?
        > 0
    {
        return Ok(());
    }
    let mut select = connection.prepare_cached("SELECT records FROM head WHERE key = ?1")?;
    let written: Vec<u8> = select.query_row([key], |row| row.get(0))?;
    // What cannot be read cannot be kept.
    let mut merged: BTreeMap<u8, Record> = head::decode(&written).unwrap_or_default().into_iter().collect();
    merged.extend(records);
    let mut update = connection.prepare_cached("UPDATE head SET records = ?2 WHERE key = ?1")?;
    update.execute(params![key, head::encode(merged)])?;
    Ok(())
}

/// As much of a text as there is room for.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(EVENT_TEXT_BYTES_MAX)]
}
