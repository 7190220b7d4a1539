//! What SQLite counts of a connection's page cache.
//!
//! `rusqlite` has no safe name for `sqlite3_db_status64`, and the control plane forbids `unsafe`: so the one call stands here.
//!
//! ```
//! let connection = rusqlite::Connection::open_in_memory()?;
//! connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1); SELECT x FROM t")?;
//! let cache = relayscope_sqlite_status::cache_use(&connection).ok_or("not counted")?;
//! assert!(cache.hits > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

use rusqlite::{Connection, ffi};

/// How often a connection found a page in its cache, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Pages found there.
    pub hits: u64,
    /// Pages that had to be read from the file or its log.
    pub misses: u64,
}

impl CacheUse {
    /// Hits of all; `None` before the first page.
    pub fn hit_ratio(self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// Of one connection; `None` where SQLite does not count it. Takes no lock that a query could hold.
pub fn cache_use(connection: &Connection) -> Option<CacheUse> {
    Some(CacheUse {
        hits: counter(connection, ffi::SQLITE_DBSTATUS_CACHE_HIT)?,
        misses: counter(connection, ffi::SQLITE_DBSTATUS_CACHE_MISS)?,
    })
}

fn counter(connection: &Connection, which: i32) -> Option<u64> {
    let (mut value, mut most) = (0, 0);
    // SAFETY: the handle is open for as long as the connection is borrowed, and no other thread has it, since a `Connection`
    // is not `Sync`. It is neither closed nor kept. The two numbers outlive the call, which writes nothing else, and a
    // last argument of 0 leaves the counters as they are.
    #[allow(unsafe_code)]
    let code =
        unsafe { ffi::sqlite3_db_status64(connection.handle(), which, &raw mut value, &raw mut most, 0) };
    (code == ffi::SQLITE_OK).then(|| u64::try_from(value).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_read_again_are_hits_and_pages_of_a_cache_too_small_are_misses() -> rusqlite::Result<()> {
        let directory = std::env::temp_dir().join(format!("relayscope-sqlite-status-{}", std::process::id()));
        let connection = Connection::open(&directory)?;
        connection.execute_batch(
            "CREATE TABLE t (x BLOB); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
             INSERT INTO t SELECT zeroblob(4000) FROM n",
        )?;
        drop(connection);
        let connection = Connection::open(&directory)?;
        let read = || connection.query_row("SELECT sum(length(x)) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(cache_use(&connection), Some(CacheUse::default()));
        assert_eq!(CacheUse::default().hit_ratio(), None);
        read()?;
        let cold = cache_use(&connection).expect("counted");
        assert!(cold.misses >= 100, "{cold:?}");
        read()?;
        let warm = cache_use(&connection).expect("counted");
        assert_eq!(warm.misses, cold.misses);
        assert!(warm.hits >= cold.hits + 100, "{cold:?}, then {warm:?}");
        assert!(warm.hit_ratio().is_some_and(|ratio| 0.4 < ratio && ratio < 0.8), "{warm:?}");
        drop(connection);
        std::fs::remove_file(&directory).expect("it was written");
        Ok(())
    }
}
