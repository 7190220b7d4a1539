//! A row of the head: one interval of a block of targets, as it was appended.
//!
//! ```text
//! version 1 B | for each target: place in the block 1 B, length 1 B, flags 1 B, its other figures as zigzag varints
//! ```
//!
//! Small to write every ten seconds, and one target's record is found without reading those of the others. When the hour is over,
//! its rows become [chunks](super::chunk).

use thiserror::Error;

use super::bits::{Truncated, put_varint, take_byte, take_varint, unzigzag, zigzag};
use super::key::BLOCK_TARGETS;
use super::record::{COLUMNS, FLAGS, OutOfRange, Record, present};

const VERSION: u8 = 1;

const _: () = assert!((COLUMNS - 1) * 10 < u8::MAX as usize, "a record's length has a byte");

/// Why bytes are no row of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the row of the head says what no row says")]
pub(super) struct Malformed;

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self
    }
}

impl From<OutOfRange> for Malformed {
    fn from(_: OutOfRange) -> Self {
        Self
    }
}

/// The bytes of records by their place in the block.
pub(super) fn encode(records: impl IntoIterator<Item = (u8, Record)>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for (place, record) in records {
        let columns = record.columns();
        let flags = columns[FLAGS];
        bytes.extend([place, 0, flags as u8]);
        let begin = bytes.len() - 1;
        for column in (FLAGS + 1..COLUMNS).filter(|column| present(flags, *column)) {
            put_varint(&mut bytes, zigzag(columns[column]));
        }
        // No longer than asserted above.
        bytes[begin - 1] = (bytes.len() - begin) as u8;
    }
    bytes
}

/// All records, in the order they were written.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(u8, Record)>, Malformed> {
    let mut records = Vec::new();
    for entry in entries(bytes)? {
        let (place, mut body) = entry?;
        records.push((place, take_record(&mut body)?));
    }
    Ok(records)
}

/// The record at one place; `None` where it has none.
pub(super) fn find(bytes: &[u8], place: u8) -> Result<Option<Record>, Malformed> {
    for entry in entries(bytes)? {
        let (at, mut body) = entry?;
        if at == place {
            return Ok(Some(take_record(&mut body)?));
        }
    }
    Ok(None)
}

/// The places that have a record, as far as the row can be read.
pub(super) fn places(bytes: &[u8]) -> impl Iterator<Item = u8> {
    entries(bytes).into_iter().flatten().map_while(|entry| Some(entry.ok()?.0))
}

type Entry<'a> = (u8, &'a [u8]);

/// The bytes of each record, no more than a block has.
fn entries(mut bytes: &[u8]) -> Result<impl Iterator<Item = Result<Entry<'_>, Malformed>>, Malformed> {
    if take_byte(&mut bytes)? != VERSION {
        return Err(Malformed);
    }
    Ok((0..=BLOCK_TARGETS).map_while(move |count| {
        if bytes.is_empty() {
            return None;
        }
        let entry = if count < BLOCK_TARGETS { take_entry(&mut bytes) } else { Err(Malformed) };
        if entry.is_err() {
            bytes = &[];
        }
        Some(entry)
    }))
}

fn take_entry<'a>(bytes: &mut &'a [u8]) -> Result<Entry<'a>, Malformed> {
    let place = take_byte(bytes)?;
    let length = take_byte(bytes)?;
    if u32::from(place) >= BLOCK_TARGETS {
        return Err(Malformed);
    }
    let (body, rest) = bytes.split_at_checked(usize::from(length)).ok_or(Malformed)?;
    *bytes = rest;
    Ok((place, body))
}

fn take_record(body: &mut &[u8]) -> Result<Record, Malformed> {
    let mut columns = [0; COLUMNS];
    columns[FLAGS] = i64::from(take_byte(body)?);
    for column in FLAGS + 1..COLUMNS {
        if present(columns[FLAGS], column) {
            columns[column] = unzigzag(take_varint(body)?);
        }
    }
    if !body.is_empty() {
        return Err(Malformed);
    }
    Ok(Record::from_columns(columns)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::interval::Interval;
    use super::super::record::tests::{an_interval, any_interval};
    use super::*;

    #[test]
    fn a_row_has_the_bytes_written_here() {
        let silent = Record::of(&Interval { lost: 10, ..Interval::default() });
        assert_eq!(encode([(3, silent)]), [1, 3, 3, 0, 0, 20]);
        assert!(encode([(0, Record::of(&an_interval()))]).len() < 28);
    }

    #[test]
    fn one_place_is_found_and_another_is_not() {
        let (a, b) = (Record::of(&an_interval()), Record::of(&Interval::default()));
        let bytes = encode([(0, a), (63, b)]);
        assert_eq!(
            (find(&bytes, 0), find(&bytes, 63), find(&bytes, 1)),
            (Ok(Some(a)), Ok(Some(b)), Ok(None))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in
            [&[][..], &[2], &[1, 64, 1, 0], &[1, 0, 9, 0], &[1, 0, 4, 0, 0, 0, 0], &[1, 0, 3, 16, 0, 0]]
        {
            assert_eq!(decode(bytes), Err(Malformed), "{bytes:?}");
        }
        let crowd = encode((0..65).map(|_| (0, Record::of(&Interval::default()))));
        assert_eq!(decode(&crowd), Err(Malformed));
    }

    proptest! {
        #[test]
        fn records_come_back(intervals in proptest::collection::btree_map(0_u8..64, any_interval(), 0..64)) {
            let records: Vec<_> = intervals.iter().map(|(place, i)| (*place, Record::of(i))).collect();
            prop_assert_eq!(decode(&encode(records.iter().copied())), Ok(records));
        }

        #[test]
        fn garbage_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(records) = decode(&[&[VERSION], bytes.as_slice()].concat()) {
                prop_assert!(records.len() <= 64);
            }
        }
    }
}
