//! What a user would pick instead: one table, a row for each interval, an index.

use std::path::Path;

use relayscope_controlplane::history::Tier;
use rusqlite::{Connection, params};

use super::fleet::Fleet;
use super::{BEGIN, END, HOUR, begin, happenings};

const TABLE: &str = "CREATE TABLE interval (
    target INTEGER NOT NULL, tier INTEGER NOT NULL, start INTEGER NOT NULL,
    answered INTEGER NOT NULL, lost INTEGER NOT NULL, lost_forward INTEGER, lost_reverse INTEGER,
    rtt_count INTEGER, rtt_sum_ns INTEGER, rtt_min_ns INTEGER, rtt_max_ns INTEGER,
    p05_ns INTEGER, p25_ns INTEGER, p50_ns INTEGER, p75_ns INTEGER, p95_ns INTEGER, p99_ns INTEGER, jitter_ns INTEGER
);
CREATE UNIQUE INDEX by_target ON interval (target, tier, start);";

pub(crate) fn open(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// Writes what is kept of a fleet, in the order in which it would have come. How many rows that is.
pub(crate) fn write(path: &Path, fleet: &Fleet) -> u64 {
    let mut connection = open(path);
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;").unwrap();
    connection.execute_batch(TABLE).unwrap();
    let mut rows = 0;
    let is_kept =
        |(tier, start): &(Tier, u64)| *start >= begin(*tier) + super::MORE[usize::from(tier.code())];
    for (tier, start) in happenings().filter(is_kept) {
        let transaction = connection.transaction().unwrap();
        let mut insert = transaction
            .prepare_cached("INSERT INTO interval VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18)")
            .unwrap();
        for target in 0..fleet.keys().len() {
            let of = fleet.interval(target, tier, start);
            let rtt = of.rtt.unwrap();
            let [p05, p25, p50, p75, p95, p99] = rtt.quantiles_ns;
            insert
                .execute(params![
                    target,
                    tier.code(),
                    start,
                    of.answered,
                    of.lost,
                    of.lost_forward,
                    of.lost_reverse,
                    rtt.count,
                    rtt.sum_ns,
                    rtt.min_ns,
                    rtt.max_ns,
                    p05,
                    p25,
                    p50,
                    p75,
                    p95,
                    p99,
                    of.jitter_ns
                ])
                .unwrap();
            rows += 1;
        }
        drop(insert);
        transaction.commit().unwrap();
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    rows
}

/// A month of one target by the hour, of the coarsest tier, with means for quantiles. How many probes were answered.
pub(crate) fn month(connection: &Connection, target: usize) -> u64 {
    let mut select = connection
        .prepare(
            "SELECT start / ?4 * ?4, sum(answered), sum(lost), sum(lost_forward), sum(lost_reverse), sum(rtt_sum_ns), min(rtt_min_ns), \
             max(rtt_max_ns), avg(p05_ns), avg(p25_ns), avg(p50_ns), avg(p75_ns), avg(p95_ns), avg(p99_ns), \
             sum(jitter_ns * answered) / sum(answered) \
             FROM interval WHERE target = ?1 AND tier = ?5 AND start >= ?2 AND start < ?3 GROUP BY start / ?4",
        )
        .unwrap();
    let mut rows = select.query(params![target, BEGIN, END, HOUR, Tier::TenMinutes.code()]).unwrap();
    let (mut answered, mut points) = (0, 0);
    while let Some(row) = rows.next().unwrap() {
        answered += row.get::<_, u64>(1).unwrap();
        std::hint::black_box(row.get::<_, f64>(10).unwrap());
        points += 1;
    }
    assert_eq!(points, 720);
    answered
}
