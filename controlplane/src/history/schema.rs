//! The tables, their versions, and how a file becomes a database that can be used.
//!
//! `PRAGMA user_version` is the number of [migrations](MIGRATIONS) that were run on the file. Each runs in a transaction with the
//! number: a file is of one version or of the next, whenever the power fails.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::{OpenError, StoreError, StoreErrorKind};
use super::file;
use crate::clock::Now;

/// What `PRAGMA application_id` says of a history: `rlsh`.
pub(super) const APPLICATION_ID: i64 = 0x726C_7368;

/// From one version of the tables to the next. What was released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// Bytes in a page of a new file. Measured, see `benches/README.md`.
const PAGE_BYTES: u32 = 4096;
/// Memory that a connection keeps pages in.
pub(super) const CACHE_BYTES: u32 = 8 << 20;
/// Pages in the log before what is in it is written to where it belongs: some 4 MiB.
const CHECKPOINT_PAGES: u32 = (4 << 20) / PAGE_BYTES;
/// The log is cut to this when it was longer.
const LOG_BYTES_MAX: u32 = 16 << 20;
/// How long a connection waits for another's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the check at the begin may take. What it has not seen by then is found by whoever reads it.
const CHECK_TIME_MAX: Duration = Duration::from_millis(500);
/// Steps of SQLite's machine between two looks at the clock.
const CHECK_STEPS: i32 = 1_000;

/// Whether a file can be used as it is.
pub(super) enum Condition {
    /// As good as the check could see.
    Sound(Connection),
    /// No database, or a broken one: why.
    Damaged(String),
}

/// Opens a file to write to it. An empty one becomes a history, an older one is brought up to `migrations`.
pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Condition, OpenError> {
    match try_open(path, migrations) {
        Ok(connection) => Ok(Condition::Sound(connection)),
        Err(OpenError::Store(error)) if error.kind() == StoreErrorKind::Damaged => {
            Ok(Condition::Damaged(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

fn try_open(path: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fail = |error| StoreError::sqlite(path, "opening it", error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    // Closing would empty and remove the log of what turns out damaged: it goes along.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
    let is_new = identify(&connection, path, migrations)?;
    if connection.is_readonly("main").map_err(fail)? {
        let what = "it cannot be written to; expected a writable file in a writable directory".to_owned();
        return Err(StoreError::said(StoreErrorKind::ReadOnly, path, "opening it", what).into());
    }
    configure(&connection, is_new).map_err(|unsound| unsound.error(path, "setting it up"))?;
    check(&mut connection).map_err(|unsound| unsound.error(path, "checking it"))?;
    migrate(&mut connection, migrations)
        .map_err(|error| StoreError::sqlite(path, "bringing its tables up to date", error))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(fail)?;
    Ok(connection)
}

/// Opens a file to read it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing { path: path.to_owned() });
    }
    let connection = connect_to_read(path)?;
    let fail = |error| StoreError::sqlite(path, "opening it to read", error);
    let is_new = identify(&connection, path, MIGRATIONS)?;
    let version = version(&connection).map_err(fail)?;
    if is_new || version < MIGRATIONS.len() as i64 {
        let what = format!(
            "its schema version is {version}; expected {}, which its writer makes it",
            MIGRATIONS.len()
        );
        return Err(StoreError::said(StoreErrorKind::Other, path, "opening it to read", what).into());
    }
    harden(&connection).map_err(fail)?;
    Ok(connection)
}

/// Readers and the writer meet in a file beside the database. Where that cannot be made, as on a copy that is mounted read-only, and
/// there is no log either, nobody writes: it is read as what never changes.
fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fail = |error| StoreError::sqlite(path, "opening it to read", error);
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    match version(&connection) {
        Err(error)
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
                && !file::beside(path, "-wal").exists() =>
        {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(file::uri_of_what_never_changes(path), flags).map_err(fail)
        }
        // What else is wrong is told by whoever asks next.
        _ => Ok(connection),
    }
}

/// Whether there is nothing in the file yet. Refuses what is not ours or is newer than we are.
fn identify(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<bool, OpenError> {
    let fail = |error| StoreError::sqlite(path, "reading what it is", error);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(fail);
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && tables == 0 {
        return Ok(true);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned(), found: application });
    }
    let (found, known) = (number("PRAGMA user_version")?, migrations.len() as i64);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    Ok(tables == 0)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// What a connection that writes is told, and what a new file is made of.
fn configure(connection: &Connection, is_new: bool) -> Result<(), Unsound> {
    harden(connection)?;
    if is_new {
        // Before there is a page: neither can be changed later without writing the file anew.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        // A file system without shared memory between processes, as of a network: readers would hold up the writer.
        let what = format!("its journal mode is {mode}; expected wal, which needs a local file system");
        return Err(Unsound::Found(StoreErrorKind::Other, what));
    }
    // FULL: the log reaches the device before `append` returns, so that a power cut takes no more than a kill: what was not
    // acknowledged. It costs one flush every ten seconds, on a thread that nobody waits for. NORMAL would lose what came
    // after the last checkpoint: minutes.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    Ok(())
}

/// What every connection is told: bounded memory, and no more trust in the file than it needs.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    // Negative: in KiB, whatever the pages' size.
    connection.pragma_update(None, "cache_size", -i64::from(CACHE_BYTES / 1024))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    Ok(())
}

enum Unsound {
    Failed(rusqlite::Error),
    Found(StoreErrorKind, String),
}

impl Unsound {
    fn error(self, path: &Path, doing: &'static str) -> StoreError {
        match self {
            Self::Failed(error) => StoreError::sqlite(path, doing, error),
            Self::Found(kind, what) => StoreError::said(kind, path, doing, what),
        }
    }
}

impl From<rusqlite::Error> for Unsound {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

/// Looks for damage, for as long as it may take.
fn check(connection: &mut Connection) -> Result<(), Unsound> {
    let began = Now::sample().monotonic_ns;
    let is_late = move || Now::sample().since(began) > CHECK_TIME_MAX;
    connection.progress_handler(CHECK_STEPS, Some(is_late))?;
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    connection.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        Ok(said) if said == "ok" => Ok(()),
        Ok(said) => Err(Unsound::Found(StoreErrorKind::Damaged, said)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let done = usize::try_from(version(connection)?).unwrap_or(0);
    for (migration, version) in migrations.iter().zip(1_i64..).skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}
