//! What a database is made of: for those who ask why it is so large, or so slow.

use std::fs;
use std::path::Path;

use relayscope_sqlite_status::{CacheUse, cache_use};
use rusqlite::{Connection, OptionalExtension};

use super::key;
use super::tidy::Pages;
use super::tier::{CHUNK_SECONDS, Tier};
use super::{file, fold, schema};

/// What a database is made of, and how a connection reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages of the database, those in the log with them.
    pub pages: u64,
    /// Of these, pages that nothing is in.
    pub pages_free: u64,
    /// Bytes of the file on disk; absent where it cannot be seen.
    pub file_bytes: Option<u64>,
    /// Bytes of the log beside it: 0 where there is none.
    pub log_bytes: u64,
    /// Bytes of pages that a connection keeps at most.
    pub cache_bytes_max: u64,
    /// What this connection found in its cache, and what not; absent where it is not counted.
    pub cache: Option<CacheUse>,
    /// Targets of which something is kept.
    pub targets: u64,
    /// Events that are kept.
    pub events: u64,
    /// In the order of [`Tier::ALL`].
    pub tiers: [TierStatistics; Tier::ALL.len()],
}

/// What a tier holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStatistics {
    /// Chunks: one for each target and hour.
    pub chunks: u64,
    /// Intervals in them.
    pub intervals: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows yet to be folded: one for each interval and 64 targets.
    pub rows: u64,
    /// When the oldest interval begins, or for chunks its hour: unix seconds. Absent where there is none.
    pub oldest: Option<u64>,
}

pub(super) fn read(connection: &Connection, path: &Path) -> rusqlite::Result<Statistics> {
    let _moment = connection.unchecked_transaction()?;
    let pages = Pages::of(connection)?;
    let count = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get(0));
    let mut tiers = [TierStatistics::default(); Tier::ALL.len()];
    for (statistics, tier) in tiers.iter_mut().zip(Tier::ALL) {
        *statistics = of_tier(connection, tier)?;
    }
    let positive = |number| u64::try_from(number).unwrap_or(0);
    Ok(Statistics {
        page_bytes: positive(pages.size),
        pages: positive(pages.all),
        pages_free: positive(pages.free),
        file_bytes: fs::metadata(path).ok().map(|file| file.len()),
        log_bytes: file::log_bytes(path),
        cache_bytes_max: u64::from(schema::CACHE_BYTES),
        cache: cache_use(connection),
        targets: count("SELECT count(*) FROM target")?,
        events: count("SELECT count(*) FROM event")?,
        tiers,
    })
}

fn of_tier(connection: &Connection, tier: Tier) -> rusqlite::Result<TierStatistics> {
    let (hours, rows) = (key::hours(tier), key::heads(tier, 0..u64::MAX));
    let mut statistics = connection
        .prepare_cached(
            "SELECT coalesce(sum(chunks), 0), coalesce(sum(intervals), 0), coalesce(sum(bytes), 0), min(key) \
             FROM hour WHERE key >= ?1 AND key < ?2",
        )?
        .query_row([hours.start, hours.end], |row| {
            let oldest = row.get::<_, Option<i64>>(3)?.map(|key| key::hour_of_chunk(key) * CHUNK_SECONDS);
            Ok(TierStatistics {
                chunks: row.get(0)?,
                intervals: row.get(1)?,
                bytes: row.get(2)?,
                rows: 0,
                oldest,
            })
        })?;
    statistics.rows = connection
        .prepare_cached("SELECT count(*) FROM head WHERE key >= ?1 AND key < ?2")?
        .query_row([rows.start, rows.end], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    if let Some(start) = fold::oldest_start(connection, tier)? {
        statistics.oldest = Some(statistics.oldest.map_or(start, |oldest| oldest.min(start)));
    }
    Ok(statistics)
}
