//! The keys of rows: what a row is about, packed into the integer that SQLite clusters a table by.
//!
//! Chunks lie by target, then tier, then hour: a plot of one target reads neighbours. Rows of the head lie by tier, then time,
//! then block of targets: what is appended goes to the end, and a closed hour lies in one piece.

use std::ops::Range;

use super::tier::{CHUNK_SECONDS, Tier};

/// Targets in a block: one row of the head for each block with news.
pub(super) const BLOCK_TARGETS: u32 = 64;
/// The greatest number of a target.
pub(super) const TARGET_ID_MAX: u32 = (1 << (BLOCK_BITS + BLOCK_TARGETS.ilog2())) - 1;
/// Times are before it: the year 4147.
pub(super) const UNIX_SECONDS_MAX: u64 = 1 << 36;

const TIER_BITS: u32 = 2;
const HOUR_BITS: u32 = 25;
const BLOCK_BITS: u32 = 24;
const SECONDS_BITS: u32 = 36;

const _: () = {
    assert!(Tier::ALL.len() <= 1 << TIER_BITS, "each tier has a number in a key");
    assert!(UNIX_SECONDS_MAX / CHUNK_SECONDS < 1 << HOUR_BITS, "each hour has");
    assert!(TARGET_ID_MAX.ilog2() + 1 + TIER_BITS + HOUR_BITS < 63, "each target has");
    assert!(TIER_BITS + SECONDS_BITS + BLOCK_BITS < 63, "each block has");
};

/// Hours are less.
pub(super) const HOURS_MAX: Hour = (1 << HOUR_BITS) - 1;

/// Hours since 1970.
pub(super) type Hour = u64;

/// The hour that `unix_seconds` falls into.
pub(super) const fn hour_of(unix_seconds: u64) -> Hour {
    unix_seconds / CHUNK_SECONDS
}

/// The block of a target, and its place there.
pub(super) const fn block_of(target: u32) -> (u32, u8) {
    (target / BLOCK_TARGETS, (target % BLOCK_TARGETS) as u8)
}

/// Of a chunk.
pub(super) fn chunk(target: u32, tier: Tier, hour: Hour) -> i64 {
    (i64::from(target) << TIER_BITS | i64::from(tier.code())) << HOUR_BITS | hour as i64
}

/// The hour of a chunk's key.
pub(super) fn hour_of_chunk(key: i64) -> Hour {
    (key & ((1 << HOUR_BITS) - 1)) as Hour
}

/// Of all chunks of a target.
pub(super) fn chunks_of(target: u32) -> Range<i64> {
    i64::from(target) << (TIER_BITS + HOUR_BITS)..i64::from(target + 1) << (TIER_BITS + HOUR_BITS)
}

/// Of a row of the head.
pub(super) fn head(tier: Tier, start_unix_seconds: u64, block: u32) -> i64 {
    // Added: the end of a tier's range is the begin of the next one's.
    ((i64::from(tier.code()) << SECONDS_BITS) + start_unix_seconds as i64) << BLOCK_BITS | i64::from(block)
}

/// When the interval of a row of the head begins, and its block.
pub(super) fn of_head(key: i64) -> (u64, u32) {
    let start = key >> BLOCK_BITS & ((1 << SECONDS_BITS) - 1);
    (start as u64, (key & ((1 << BLOCK_BITS) - 1)) as u32)
}

/// Of all rows of the head in a tier from a time up to another.
pub(super) fn heads(tier: Tier, unix_seconds: Range<u64>) -> Range<i64> {
    head(tier, unix_seconds.start, 0)..head(tier, unix_seconds.end.min(UNIX_SECONDS_MAX), 0)
}

/// Of an hour in the account of chunks.
pub(super) fn hour(tier: Tier, hour: Hour) -> i64 {
    i64::from(tier.code()) << HOUR_BITS | hour as i64
}

/// Of a tier's hours in the account of chunks.
pub(super) fn hours(tier: Tier) -> Range<i64> {
    hour(tier, 0)..(i64::from(tier.code()) + 1) << HOUR_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_by_target_then_tier_then_hour() {
        assert_eq!(chunk(1, Tier::Minute, 3), ((1 << 2 | 1) << 25) + 3);
        assert!(chunk(1, Tier::TenMinutes, 498_000) < chunk(2, Tier::TenSeconds, 0));
        assert_eq!(hour_of_chunk(chunk(TARGET_ID_MAX, Tier::TenMinutes, 498_888)), 498_888);
        assert!(chunks_of(7).contains(&chunk(7, Tier::TenMinutes, hour_of(UNIX_SECONDS_MAX - 1))));
        assert!(!chunks_of(7).contains(&chunk(8, Tier::TenSeconds, 0)));
    }

    #[test]
    fn rows_of_the_head_lie_by_tier_then_time_then_block() {
        let key = head(Tier::TenMinutes, UNIX_SECONDS_MAX - 600, 9);
        assert_eq!(of_head(key), (UNIX_SECONDS_MAX - 600, 9));
        assert!(heads(Tier::Minute, 60..120).contains(&head(
            Tier::Minute,
            60,
            TARGET_ID_MAX / BLOCK_TARGETS
        )));
        assert!(!heads(Tier::Minute, 60..120).contains(&head(Tier::Minute, 120, 0)));
        assert_eq!(heads(Tier::Minute, 0..u64::MAX).end, head(Tier::TenMinutes, 0, 0));
    }
}
