//! That `include/relayscope.h` has the numbers this crate has. Needs no C compiler; what the header does with
//! them is held by `tests/c_header.rs`.

use std::collections::BTreeMap;

use super::layout::{
    FAMILIES_MAX, HEADER_WORDS, LABELS_MAX, MAGIC, RING_CAPACITY_MAX, RING_CAPACITY_MIN, ROW_WORDS,
    SERIES_MAX, SHARD_ALIGN, SHARDS_MAX, STRING_MAX, STRING_WORDS_MAX, VERSION, header, shard,
};
use super::{CLOSED, RUNNING};
use crate::catalogue::Unit;
use crate::cell::ABSENT;
use crate::ring::{BATCH_MAX, CHUNK, CLAIMED, HEAD, SLACK_DIVISOR};
use crate::sample::{MetricKind, SAMPLE_WORDS};
use crate::series::{LABELS, NO_CELL, SEQUENCE, SINCE, STATE_LIVE, WHAT, WHERE};
use crate::words::LINE_WORDS;

const TEXT: &str = include_str!("../../include/relayscope.h");
/// Looks at a busy row: C alone has such a bound, for Rust's readers come back.
const C_ALONE: &str = "LOOKS_MAX";

/// What the header defines as a number, by its name without prefix.
fn defined() -> BTreeMap<&'static str, u64> {
    let defines = TEXT.lines().filter_map(|line| line.strip_prefix("#define RELAYSCOPE_")?.split_once(' '));
    defines.map(|(name, value)| (name, number(name, value))).filter(|(name, _)| *name != C_ALONE).collect()
}

fn number(name: &str, value: &str) -> u64 {
    let digits = value.trim_start_matches("UINT64_C(").trim_start_matches("UINT32_C(").trim_end_matches(')');
    let parsed = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("RELAYSCOPE_{name} is {value}; expected a number"))
}

#[test]
fn every_number_of_the_c_header_is_ours() {
    let last_unit = (0..).take_while(|code| Unit::from_code(*code).is_some()).last();
    let ours = [
        ("MAGIC", MAGIC),
        ("VERSION", VERSION),
        ("LINE_WORDS", LINE_WORDS as u64),
        ("HEADER_WORDS", HEADER_WORDS as u64),
        ("SHARD_ALIGN", SHARD_ALIGN as u64),
        ("HEADER_MAGIC", header::MAGIC as u64),
        ("HEADER_VERSION", header::VERSION as u64),
        ("HEADER_LENGTH", header::LENGTH as u64),
        ("HEADER_GENERATION", header::GENERATION as u64),
        ("HEADER_PID", header::PID as u64),
        ("HEADER_START_UNIX_NS", header::START_UNIX_NS as u64),
        ("HEADER_START_MONOTONIC_NS", header::START_MONOTONIC_NS as u64),
        ("HEADER_BOOT_ID", header::BOOT_ID as u64),
        ("HEADER_SHARDS", header::SHARDS as u64),
        ("HEADER_RING_SLOTS", header::RING_SLOTS as u64),
        ("HEADER_CELLS_PER_SHARD", header::CELLS_PER_SHARD as u64),
        ("HEADER_SERIES_ROWS", header::SERIES_ROWS as u64),
        ("HEADER_FAMILY_ROWS", header::FAMILY_ROWS as u64),
        ("HEADER_STRING_WORDS", header::STRING_WORDS as u64),
        ("HEADER_STATE", header::STATE as u64),
        ("HEADER_TABLE_GENERATION", header::TABLE_GENERATION as u64),
        ("HEADER_SERIES_USED", header::SERIES_USED as u64),
        ("HEADER_FAMILIES_USED", header::FAMILIES_USED as u64),
        ("HEADER_RELOAD", header::RELOAD as u64),
        ("STATE_RUNNING", RUNNING),
        ("STATE_CLOSED", CLOSED),
        ("ROW_WORDS", ROW_WORDS as u64),
        ("ROW_SEQUENCE", SEQUENCE as u64),
        ("ROW_WHAT", WHAT as u64),
        ("ROW_WHERE", WHERE as u64),
        ("ROW_SINCE", SINCE as u64),
        ("ROW_LABELS", LABELS as u64),
        ("ROW_LIVE", STATE_LIVE),
        ("NO_CELL", u64::from(NO_CELL)),
        ("LABELS_MAX", LABELS_MAX as u64),
        ("STRING_MAX", STRING_MAX as u64),
        ("UNIT_MAX", last_unit.expect("there are units")),
        ("SHARD_WRITER", shard::WRITER as u64),
        ("SHARD_HEARTBEAT_NS", shard::HEARTBEAT_NS as u64),
        ("SHARD_ACKNOWLEDGED", shard::ACKNOWLEDGED as u64),
        ("SHARD_RELEASED_AT", shard::RELEASED_AT as u64),
        ("SHARD_RING", shard::RING as u64),
        ("SHARD_CELLS", shard::CELLS as u64),
        ("RING_HEAD", HEAD as u64),
        ("RING_CLAIMED", CLAIMED as u64),
        ("SAMPLE_WORDS", SAMPLE_WORDS as u64),
        ("BATCH_MAX", BATCH_MAX),
        ("CHUNK", CHUNK as u64),
        ("SLACK_DIVISOR", SLACK_DIVISOR),
        ("ABSENT", ABSENT),
        ("SHARDS_MAX", SHARDS_MAX as u64),
        ("RING_CAPACITY_MIN", RING_CAPACITY_MIN as u64),
        ("RING_CAPACITY_MAX", RING_CAPACITY_MAX as u64),
        ("SERIES_MAX", SERIES_MAX as u64),
        ("FAMILIES_MAX", FAMILIES_MAX as u64),
        ("STRING_WORDS_MAX", STRING_WORDS_MAX as u64),
    ];
    assert_eq!(defined(), BTreeMap::from(ours));
}

#[test]
fn the_kinds_of_the_c_header_are_ours() {
    for (name, kind) in
        [("COUNTER", MetricKind::Counter), ("GAUGE", MetricKind::Gauge), ("HISTOGRAM", MetricKind::Histogram)]
    {
        let line = format!("    RELAYSCOPE_{name} = {}", kind.code());
        assert!(TEXT.lines().any(|text| text.trim_end_matches(',') == line), "no line {line:?}");
    }
}
