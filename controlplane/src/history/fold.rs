//! From the head to chunks, hour by hour: what is small to append becomes what is small to keep.
//!
//! A closed hour is folded block by block, a transaction each: what the head has goes over what a chunk has already.
//! Only then is the head cleared of it, portion by portion. Readers take the head before chunks, so that whatever is in both is
//! read once; and whatever a crash interrupts is done again with the same end.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::key::{self, BLOCK_TARGETS, Hour};
use super::record::Record;
use super::store::{Store, begin};
use super::tier::{CHUNK_SECONDS, Tier};
use super::{chunk, error::StoreError, head};

/// How long after its end an hour is folded: what comes later than that is folded again.
pub(super) const GRACE_SECONDS: u64 = 120;
/// Rows of the head removed in one transaction.
const CLEARED_ROWS_MAX: i64 = 1024;

/// An hour of a tier that is on its way.
#[derive(Debug)]
pub(super) struct Fold {
    tier: Tier,
    hour: Hour,
    /// Those yet to be folded, the next one last.
    blocks: Vec<u32>,
}

impl Fold {
    pub(super) fn is_of(&self, tier: Tier, hour: Hour) -> bool {
        self.tier == tier && self.hour == hour
    }

    fn seconds(&self) -> std::ops::Range<u64> {
        self.hour * CHUNK_SECONDS..(self.hour + 1) * CHUNK_SECONDS
    }
}

/// What a portion of folding did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Folded {
    /// Chunks written.
    pub(super) chunks: u64,
    /// Rows and chunks that could not be read: what was in them is gone.
    pub(super) damaged: u64,
}

impl Store {
    /// Folds one block of a closed hour, or clears the head of a portion of one that is folded. `None` where no hour is closed.
    pub(super) fn fold_portion(&mut self, unix_seconds: u64) -> Result<Option<Folded>, StoreError> {
        self.fold_some(unix_seconds).map_err(|error| self.failed("folding an hour", error))
    }

    fn fold_some(&mut self, unix_seconds: u64) -> rusqlite::Result<Option<Folded>> {
        if self.fold.is_none() {
            self.fold = closed_hour(&self.connection, unix_seconds)?;
        }
        let Some(fold) = &mut self.fold else { return Ok(None) };
        if let Some(block) = fold.blocks.last() {
            let transaction = begin(&mut self.connection)?;
            let folded = fold_block(&transaction, fold.tier, fold.hour, *block)?;
            transaction.commit()?;
            fold.blocks.pop();
            return Ok(Some(folded));
        }
        let rows = key::heads(fold.tier, fold.seconds());
        let transaction = begin(&mut self.connection)?;
        let end = transaction
            .prepare_cached(
                "SELECT key FROM head WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT 1 OFFSET ?3",
            )?
            .query_row(params![rows.start, rows.end, CLEARED_ROWS_MAX], |row| row.get::<_, i64>(0))
            .optional()?;
        transaction
            .prepare_cached("DELETE FROM head WHERE key >= ?1 AND key < ?2")?
            .execute(params![rows.start, end.unwrap_or(rows.end)])?;
        transaction.commit()?;
        if end.is_none() {
            self.fold = None;
        }
        Ok(Some(Folded::default()))
    }
}

/// The oldest hour of the head that is over.
fn closed_hour(connection: &Connection, unix_seconds: u64) -> rusqlite::Result<Option<Fold>> {
    for tier in Tier::ALL {
        let Some(start) = oldest_start(connection, tier)? else { continue };
        let hour = key::hour_of(start);
        if (hour + 1) * CHUNK_SECONDS + tier.seconds() + GRACE_SECONDS > unix_seconds {
            continue;
        }
        let mut fold = Fold { tier, hour, blocks: Vec::new() };
        let rows = key::heads(tier, fold.seconds());
        let mut blocks = connection.prepare_cached("SELECT key FROM head WHERE key >= ?1 AND key < ?2")?;
        let blocks = blocks.query_map([rows.start, rows.end], |row| Ok(key::of_head(row.get(0)?).1))?;
        let mut seen = std::collections::BTreeSet::new();
        for block in blocks {
            seen.insert(block?);
        }
        fold.blocks.extend(seen.into_iter().rev());
        return Ok(Some(fold));
    }
    Ok(None)
}

/// Where the head of a tier begins.
pub(super) fn oldest_start(connection: &Connection, tier: Tier) -> rusqlite::Result<Option<u64>> {
    let rows = key::heads(tier, 0..u64::MAX);
    let oldest = connection
        .prepare_cached("SELECT key FROM head WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT 1")?
        .query_row([rows.start, rows.end], |row| row.get(0))
        .optional()?;
    Ok(oldest.map(|key| key::of_head(key).0))
}

fn fold_block(connection: &Connection, tier: Tier, hour: Hour, block: u32) -> rusqlite::Result<Folded> {
    let mut folded = Folded::default();
    let mut targets: [BTreeMap<u16, Record>; BLOCK_TARGETS as usize] =
        std::array::from_fn(|_| BTreeMap::new());
    let mut select = connection.prepare_cached("SELECT records FROM head WHERE key = ?1")?;
    for slot in 0..tier.intervals_per_chunk() {
        let start = hour * CHUNK_SECONDS + slot * tier.seconds();
        let mut rows = select.query([key::head(tier, start, block)])?;
        let Some(row) = rows.next()? else { continue };
        match head::decode(row.get_ref(0)?.as_blob()?) {
            Ok(records) => {
                for (place, record) in records {
                    targets[usize::from(place)].insert(slot as u16, record);
                }
            }
            Err(head::Malformed) => folded.damaged += 1,
        }
    }
    let mut account = Account::default();
    for (place, records) in (0..).zip(targets) {
        if !records.is_empty() {
            let key = key::chunk(block * BLOCK_TARGETS + place, tier, hour);
            folded.damaged += u64::from(!account.write(connection, key, tier, records)?);
            folded.chunks += 1;
        }
    }
    account.enter(connection, key::hour(tier, hour))?;
    Ok(folded)
}

/// What an hour has more than before.
#[derive(Default)]
struct Account {
    chunks: i64,
    intervals: i64,
    bytes: i64,
}

impl Account {
    /// Writes a chunk, over the intervals that are there. Whether what was there could be read.
    fn write(
        &mut self,
        connection: &Connection,
        key: i64,
        tier: Tier,
        records: BTreeMap<u16, Record>,
    ) -> rusqlite::Result<bool> {
        let before: Option<Vec<u8>> = connection
            .prepare_cached("SELECT intervals FROM chunk WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        let mut is_sound = true;
        let mut merged = BTreeMap::new();
        if let Some(bytes) = &before {
            let slots = chunk::decode(tier, bytes).unwrap_or_else(|_| {
                is_sound = false;
                Vec::new()
            });
            merged.extend(slots);
            self.intervals -= merged.len() as i64;
            self.bytes -= bytes.len() as i64;
        } else {
            self.chunks += 1;
        }
        merged.extend(records);
        let slots: Vec<_> = merged.into_iter().collect();
        let bytes = chunk::encode(&slots);
        self.intervals += slots.len() as i64;
        self.bytes += bytes.len() as i64;
        connection
            .prepare_cached("INSERT OR REPLACE INTO chunk (key, intervals) VALUES (?1, ?2)")?
            .execute(params![key, bytes])?;
        Ok(is_sound)
    }

    fn enter(&self, connection: &Connection, hour: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO hour (key, chunks, intervals, bytes) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET \
                 chunks = chunks + excluded.chunks, intervals = intervals + excluded.intervals, bytes = bytes + excluded.bytes",
            )?
            .execute(params![hour, self.chunks, self.intervals, self.bytes])?;
        Ok(())
    }
}
