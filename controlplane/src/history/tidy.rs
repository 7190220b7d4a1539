//! What a store does when nothing is to be written: folds, drops what is too old or too much, gives back room.

use rusqlite::{Connection, OptionalExtension, params};

use super::error::StoreError;
use super::file;
use super::key::{self, Hour};
use super::store::{Known, Store, begin};
use super::tier::{CHUNK_SECONDS, Tier};
use super::{fold, interval::TargetKey};
use crate::clock::Now;

/// Events at most: the oldest are dropped before there are more.
pub const EVENTS_MAX: u64 = 100_000;

/// Targets whose chunk of an hour is dropped in one transaction.
const DROPPED_TARGETS_MAX: usize = 256;
/// Rows dropped, and targets looked at, in one.
const ROWS_MAX: usize = 1024;
/// Pages given back to the file system in one.
const VACUUM_PAGES_MAX: u32 = 512;
/// Free pages below which it is not worth it.
const FREE_PAGES_MIN: i64 = 64;
/// What is newer than this is not dropped from the head for want of room.
const NEWEST_SECONDS: u64 = 600;

/// What one call of [`Store::tidy`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Whether there is more to do at once.
    pub is_more: bool,
    /// Chunks written from hours that are over.
    pub chunks_folded: u64,
    /// Chunks, or rows not yet folded, dropped for their age.
    pub dropped_by_time: u64,
    /// Those dropped for want of room.
    pub dropped_by_size: u64,
    /// Events dropped, for their age or their number.
    pub events_dropped: u64,
    /// Targets forgotten of which nothing is left.
    pub targets_forgotten: u64,
    /// Pages given back to the file system.
    pub pages_freed: u64,
    /// Rows and chunks that could not be read while they were folded: what was in them is gone.
    pub damaged: u64,
}

/// An hour on its way out, and targets on theirs.
#[derive(Debug)]
pub(super) struct Drops {
    /// What is dropped of it next: targets after this one.
    hour: Option<(Tier, Hour, u32)>,
    /// Targets to look at, the next one last. `None` where nothing was dropped since.
    targets: Option<Vec<(u32, TargetKey)>>,
}

impl Default for Drops {
    /// As after a crash: something may have been dropped.
    fn default() -> Self {
        Self { hour: None, targets: Some(Vec::new()) }
    }
}

impl Store {
    /// Does a bounded portion of what is to be done, in one transaction: folds an hour that is over into chunks, drops what is
    /// older than the [retention](super::Retention) or more than it has room for, gives pages back to the file system.
    /// To be called again at once while [`is_more`](Tidied::is_more), after other work where there is some.
    ///
    /// # Errors
    ///
    /// The portion was not done; the store can be used on.
    pub fn tidy(&mut self, now: Now) -> Result<Tidied, StoreError> {
        let unix_seconds = now.unix_ns / 1_000_000_000;
        self.expect_in_place("tidying")?;
        if let Some(folded) = self.fold_portion(unix_seconds)? {
            let done = Tidied { chunks_folded: folded.chunks, damaged: folded.damaged, ..Tidied::default() };
            return Ok(Tidied { is_more: true, ..done });
        }
        self.enforce(unix_seconds).map_err(|error| self.failed("tidying", error))
    }

    fn enforce(&mut self, unix_seconds: u64) -> rusqlite::Result<Tidied> {
        if let Some(dropped_by_time) = self.drop_old(unix_seconds)? {
            return Ok(Tidied { is_more: true, dropped_by_time, ..Tidied::default() });
        }
        let events_dropped = self.drop_events(unix_seconds)?;
        if events_dropped > 0 {
            return Ok(Tidied { is_more: true, events_dropped, ..Tidied::default() });
        }
        if let Some(done) = self.make_room(unix_seconds)? {
            return Ok(Tidied { is_more: true, ..done });
        }
        if let Some(targets_forgotten) = self.forget_targets()? {
            return Ok(Tidied { is_more: true, targets_forgotten, ..Tidied::default() });
        }
        Ok(Tidied::default())
    }

    fn drop_old(&mut self, unix_seconds: u64) -> rusqlite::Result<Option<u64>> {
        for tier in Tier::ALL {
            let Some(hour) = oldest_hour(&self.connection, tier)? else { continue };
            let end = (hour + 1) * CHUNK_SECONDS;
            if end.saturating_add(self.retention.of(tier).as_secs()) <= unix_seconds {
                return self.drop_some(tier, hour).map(Some);
            }
        }
        Ok(None)
    }

    /// Drops the chunks of some targets of an hour; with the last of them the hour.
    fn drop_some(&mut self, tier: Tier, hour: Hour) -> rusqlite::Result<u64> {
        let after = match self.drops.hour {
            Some((of, at, after)) if (of, at) == (tier, hour) => after,
            _ => 0,
        };
        let transaction = begin(&mut self.connection)?;
        let ids: Vec<u32> = transaction
            .prepare_cached("SELECT id FROM target WHERE id > ?1 ORDER BY id LIMIT ?2")?
            .query_map(params![after, DROPPED_TARGETS_MAX as i64], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut dropped = 0;
        {
            let mut delete = transaction.prepare_cached("DELETE FROM chunk WHERE key = ?1")?;
            for id in &ids {
                dropped += delete.execute([key::chunk(*id, tier, hour)])? as u64;
            }
        }
        if ids.len() < DROPPED_TARGETS_MAX {
            transaction
                .prepare_cached("DELETE FROM hour WHERE key = ?1")?
                .execute([key::hour(tier, hour)])?;
        }
        transaction.commit()?;
        self.drops.hour = match ids.last() {
            Some(last) if ids.len() == DROPPED_TARGETS_MAX => Some((tier, hour, *last)),
            _ => None,
        };
        self.drops.targets = Some(Vec::new());
        Ok(dropped)
    }

    fn drop_events(&mut self, unix_seconds: u64) -> rusqlite::Result<u64> {
        let oldest_ms = unix_seconds.saturating_sub(self.retention.events.as_secs()).saturating_mul(1000);
        let surplus = self.events.saturating_sub(EVENTS_MAX).min(ROWS_MAX as u64);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE at_unix_ms < ?1 ORDER BY at_unix_ms LIMIT ?2)",
        )?;
        let oldest_ms = i64::try_from(oldest_ms).unwrap_or(i64::MAX);
        let mut dropped = delete.execute(params![oldest_ms, ROWS_MAX as i64])? as u64;
        if dropped == 0 && surplus > 0 {
            dropped = delete.execute(params![i64::MAX, surplus as i64])? as u64;
        }
        self.events = self.events.saturating_sub(dropped);
        Ok(dropped)
    }

    /// Gives back free pages where there are many, and drops the oldest where there is too much.
    fn make_room(&mut self, unix_seconds: u64) -> rusqlite::Result<Option<Tidied>> {
        let pages = Pages::of(&self.connection)?;
        let log_bytes = file::log_bytes(&self.path);
        let is_too_much = pages.bytes().saturating_add(log_bytes) > self.retention.bytes_max;
        let is_loose = pages.free > FREE_PAGES_MIN && pages.free > pages.all / 4;
        if pages.free > 0 && (is_too_much || is_loose) {
            let pages_freed = pages.all - self.vacuum()?;
            return Ok(Some(Tidied { pages_freed: pages_freed.max(0) as u64, ..Tidied::default() }));
        }
        if !is_too_much {
            return Ok(None);
        }
        if pages.bytes() <= self.retention.bytes_max && self.cut_log()? {
            return Ok(Some(Tidied::default()));
        }
        for tier in Tier::ALL {
            if let Some(hour) = oldest_hour(&self.connection, tier)? {
                let dropped_by_size = self.drop_some(tier, hour)?;
                return Ok(Some(Tidied { dropped_by_size, ..Tidied::default() }));
            }
        }
        let dropped_by_size = self.drop_head(unix_seconds)?;
        Ok((dropped_by_size > 0).then_some(Tidied { dropped_by_size, ..Tidied::default() }))
    }

    /// How many pages there are after some were given back.
    fn vacuum(&mut self) -> rusqlite::Result<i64> {
        let mut vacuum =
            self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES_MAX})"))?;
        // A row for each page.
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        drop(vacuum);
        Ok(Pages::of(&self.connection)?.all)
    }

    /// Writes what is in the log to where it belongs and cuts it. Whether nobody was in the way.
    fn cut_log(&self) -> rusqlite::Result<bool> {
        let before = file::log_bytes(&self.path);
        let is_busy: bool =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(!is_busy && before > 0)
    }

    /// Drops from the head where there are no chunks: the last that can be.
    fn drop_head(&mut self, unix_seconds: u64) -> rusqlite::Result<u64> {
        for tier in Tier::ALL {
            let rows = key::heads(tier, 0..unix_seconds.saturating_sub(NEWEST_SECONDS));
            let dropped = self
                .connection
                .prepare_cached(
                    "DELETE FROM head WHERE key IN (SELECT key FROM head WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3)",
                )?
                .execute(params![rows.start, rows.end, ROWS_MAX as i64])?;
            if dropped > 0 {
                self.drops.targets = Some(Vec::new());
                return Ok(dropped as u64);
            }
        }
        Ok(0)
    }

    /// Looks at some targets, and forgets those of which nothing is left. `None` where there are none to be looked at.
    fn forget_targets(&mut self) -> rusqlite::Result<Option<u64>> {
        let Some(targets) = &mut self.drops.targets else { return Ok(None) };
        let mut oldest_head = Hour::MAX;
        for tier in Tier::ALL {
            if let Some(start) = fold::oldest_start(&self.connection, tier)? {
                oldest_head = oldest_head.min(key::hour_of(start));
            }
        }
        let is_gone = |known: &Known| known.newest < oldest_head;
        if targets.is_empty() {
            let gone = self.targets.iter().filter(|(_, known)| is_gone(known));
            targets.extend(gone.map(|(target, known)| (known.id, target.clone())));
        }
        let looked_at = targets.split_off(targets.len().saturating_sub(ROWS_MAX));
        let transaction = begin(&mut self.connection)?;
        let mut forgotten = Vec::new();
        for (id, target) in looked_at {
            let chunks = key::chunks_of(id);
            let has_chunks = transaction
                .prepare_cached("SELECT 1 FROM chunk WHERE key >= ?1 AND key < ?2 LIMIT 1")?
                .exists([chunks.start, chunks.end])?;
            if !has_chunks && self.targets.get(&target).is_some_and(is_gone) {
                transaction.prepare_cached("DELETE FROM target WHERE id = ?1")?.execute([id])?;
                forgotten.push(target);
            }
        }
        transaction.commit()?;
        for target in &forgotten {
            self.targets.remove(target);
        }
        if targets.is_empty() {
            self.drops.targets = None;
        }
        Ok(Some(forgotten.len() as u64))
    }
}

/// What the file is made of.
pub(super) struct Pages {
    pub(super) all: i64,
    pub(super) free: i64,
    pub(super) size: i64,
}

impl Pages {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get(0));
        Ok(Self {
            all: number("PRAGMA page_count")?,
            free: number("PRAGMA freelist_count")?,
            size: number("PRAGMA page_size")?,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.all.saturating_mul(self.size)).unwrap_or(0)
    }
}

/// The oldest hour of a tier that has chunks.
fn oldest_hour(connection: &Connection, tier: Tier) -> rusqlite::Result<Option<Hour>> {
    let hours = key::hours(tier);
    let oldest = connection
        .prepare_cached("SELECT key FROM hour WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT 1")?
        .query_row([hours.start, hours.end], |row| row.get(0))
        .optional()?;
    Ok(oldest.map(key::hour_of_chunk))
}
