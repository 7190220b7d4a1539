//! A chunk: one target's intervals of one hour in one tier, as few bytes as they have news.
//!
//! ```text
//! version 1 B | CRC-32 of what follows, little-endian 4 B | runs | columns | bits
//! runs       from the hour's begin on: a byte of what these intervals have in the low five bits (the four flags of a
//!            record, or 16: they are absent) and in the high three how many they are, 1 to 7; 0: a varint of it follows.
//!            Ended by a byte 0xFF. What is not in a run is absent.
//! a column   0: all zero | 1: all alike, the figure follows | 0x40 + k: Rice codes with parameter k of what differs
//!            from a figure that follows | 0x80 + k: of what differs from the figure before, the first one follows
//! bits       the Rice codes, column after column
//! ```
//!
//! Figures that follow are zigzag varints. A column of which no interval has a figure is left out. Each takes the cheaper
//! of the two predictions and the best k, found by counting. Deflating it saves next to nothing, and varints deflated are
//! larger wherever there is noise: see `benches/README.md`.
//!
//! What is read is hostile: it decodes to intervals that could be, or is refused, within the memory of one hour.

use thiserror::Error;

use super::bits::{
    BitReader, BitWriter, RICE_MAX, Truncated, put_varint, rice_cost, take_byte, take_varint, unzigzag,
    zigzag,
};
use super::record::{COLUMNS, FLAGS, OutOfRange, Record, present};
use super::tier::Tier;

/// The version written.
const VERSION: u8 = 1;
/// Before the body: version and checksum.
const HEADER_BYTES: usize = 5;

/// Bits of a run's byte that say what it has.
const RUN_BITS: u32 = 5;
/// A run of intervals that are absent.
const ABSENT: i64 = 16;
/// The longest run whose length is in its byte.
const RUN_MAX: usize = 7;
/// No run: they end.
const RUNS_END: u8 = 0xFF;

const ZERO: u8 = 0;
const CONSTANT: u8 = 1;
const FROM_BASE: u8 = 0x40;
const FROM_PREVIOUS: u8 = 0x80;

/// Intervals by their place in the hour, ascending, none twice.
pub(super) type Slots = Vec<(u16, Record)>;

/// Why bytes are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ChunkError {
    /// Of another version than this program knows.
    #[error("chunk version {0} is unknown; expected 1")]
    Version(u8),
    /// Bytes changed since they were written.
    #[error("the checksum does not match")]
    Checksum,
    /// The bytes end before the intervals do.
    #[error("the chunk ends early")]
    Truncated,
    /// Bytes that say nothing, or what no interval says.
    #[error("the chunk says what no chunk says")]
    Malformed,
}

impl From<Truncated> for ChunkError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl From<OutOfRange> for ChunkError {
    fn from(_: OutOfRange) -> Self {
        Self::Malformed
    }
}

/// The bytes of intervals. Slots ascend and are less than the tier has.
pub(super) fn encode(slots: &[(u16, Record)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_runs(&mut bytes, slots);
    let mut bits = BitWriter::default();
    let mut figures = Vec::with_capacity(slots.len());
    for column in FLAGS + 1..COLUMNS {
        figures.clear();
        let rows = slots.iter().map(|(_, record)| record.columns());
        figures.extend(rows.filter(|row| present(row[FLAGS], column)).map(|row| row[column]));
        put_column(&mut bytes, &mut bits, &figures);
    }
    bytes.extend(bits.finish());
    sealed(&bytes)
}

/// The intervals of a chunk. Allocates no more than the tier's hour takes.
pub(super) fn decode(tier: Tier, bytes: &[u8]) -> Result<Slots, ChunkError> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(ChunkError::Truncated)?;
    if header[0] != VERSION {
        return Err(ChunkError::Version(header[0]));
    }
    if header[1..] != checksum(body) {
        return Err(ChunkError::Checksum);
    }
    decode_body(tier, body)
}

/// A chunk of this body.
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    [&[VERSION], checksum(body).as_slice(), body].concat()
}

fn checksum(body: &[u8]) -> [u8; 4] {
    crc32fast::hash(body).to_le_bytes()
}

fn decode_body(tier: Tier, mut body: &[u8]) -> Result<Slots, ChunkError> {
    let mut rows = take_runs(&mut body, tier)?;
    let mut coders = [None; COLUMNS];
    for (column, coder) in coders.iter_mut().enumerate().skip(FLAGS + 1) {
        if rows.iter().any(|(_, row)| present(row[FLAGS], column)) {
            *coder = Some(Coder::take(&mut body)?);
        }
    }
    let mut bits = BitReader::new(body);
    for (column, coder) in coders.into_iter().enumerate() {
        let Some(mut coder) = coder else { continue };
        for (_, row) in rows.iter_mut().filter(|(_, row)| present(row[FLAGS], column)) {
            row[column] = coder.next(&mut bits)?;
        }
    }
    if !bits.is_spent() {
        return Err(ChunkError::Malformed);
    }
    rows.into_iter().map(|(slot, row)| Ok((slot, Record::from_columns(row)?))).collect()
}

fn put_runs(bytes: &mut Vec<u8>, slots: &[(u16, Record)]) {
    let mut put = |kind: i64, length: usize| match length {
        0 => {}
        1..=RUN_MAX => bytes.push(kind as u8 | (length as u8) << RUN_BITS),
        _ => {
            bytes.push(kind as u8);
            put_varint(bytes, length as u64);
        }
    };
    let mut expected = 0;
    let mut run = (0, 0);
    for (slot, record) in slots {
        let (slot, flags) = (usize::from(*slot), record.columns()[FLAGS]);
        if slot == expected && flags == run.0 {
            run.1 += 1;
        } else {
            put(run.0, run.1);
            put(ABSENT, slot - expected);
            run = (flags, 1);
        }
        expected = slot + 1;
    }
    put(run.0, run.1);
    bytes.push(RUNS_END);
}

fn take_runs(body: &mut &[u8], tier: Tier) -> Result<Vec<(u16, [i64; COLUMNS])>, ChunkError> {
    let slots_max = tier.intervals_per_chunk();
    let mut rows = Vec::new();
    let mut slot = 0;
    loop {
        let byte = take_byte(body)?;
        if byte == RUNS_END {
            return Ok(rows);
        }
        let kind = i64::from(byte & ((1 << RUN_BITS) - 1));
        let length = match u64::from(byte >> RUN_BITS) {
            0 => take_varint(body)?,
            length => length,
        };
        // A run has something and ends within the hour: there are no more runs than it has intervals.
        if length == 0 || length > slots_max - slot || kind > ABSENT {
            return Err(ChunkError::Malformed);
        }
        if kind < ABSENT {
            let mut row = [0; COLUMNS];
            row[FLAGS] = kind;
            rows.extend((slot..slot + length).map(|slot| (slot as u16, row)));
        }
        slot += length;
    }
}

fn put_column(bytes: &mut Vec<u8>, bits: &mut BitWriter, figures: &[i64]) {
    let Some((first, rest)) = figures.split_first() else { return };
    if rest.iter().all(|figure| figure == first) {
        return match first {
            0 => bytes.push(ZERO),
            _ => put_header(bytes, CONSTANT, *first),
        };
    }
    let base = middle(figures);
    let from_base: Vec<u64> = figures.iter().map(|figure| zigzag(figure.wrapping_sub(base))).collect();
    let from_previous: Vec<u64> =
        figures.windows(2).map(|pair| zigzag(pair[1].wrapping_sub(pair[0]))).collect();
    let (base_k, base_cost) = best_parameter(&from_base);
    let (previous_k, previous_cost) = best_parameter(&from_previous);
    let (kind, figure, k, codes) = if base_cost <= previous_cost {
        (FROM_BASE, base, base_k, from_base)
    } else {
        (FROM_PREVIOUS, *first, previous_k, from_previous)
    };
    put_header(bytes, kind + k as u8, figure);
    for code in codes {
        bits.put_rice(code, k);
    }
}

fn put_header(bytes: &mut Vec<u8>, kind: u8, figure: i64) {
    bytes.push(kind);
    put_varint(bytes, zigzag(figure));
}

/// The median of at least one figure: what they differ from least.
fn middle(figures: &[i64]) -> i64 {
    let mut sorted = figures.to_vec();
    let middle = sorted.len() / 2;
    *sorted.select_nth_unstable(middle).1
}

/// The Rice parameter with which codes take the least bits, and how many they take: near that of the median, tried
/// around it.
fn best_parameter(codes: &[u64]) -> (u32, u64) {
    let mut sorted = codes.to_vec();
    let middle = sorted.len() / 2;
    let usual = sorted.select_nth_unstable(middle).1.saturating_add(1).ilog2();
    let tried = usual.saturating_sub(1).min(RICE_MAX)..=(usual + 2).min(RICE_MAX);
    let costs = tried.map(|k| (k, codes.iter().map(|code| rice_cost(*code, k)).sum::<u64>()));
    costs.min_by_key(|(_, cost)| *cost).unwrap_or((0, u64::MAX))
}

/// How a column's figures come out of its bits.
#[derive(Clone, Copy, Debug)]
enum Coder {
    Constant(i64),
    FromBase { base: i64, k: u32 },
    FromPrevious { previous: i64, k: u32, is_first: bool },
}

impl Coder {
    fn take(body: &mut &[u8]) -> Result<Self, ChunkError> {
        let kind = take_byte(body)?;
        if kind == ZERO {
            return Ok(Self::Constant(0));
        }
        let figure = unzigzag(take_varint(body)?);
        let k = u32::from(kind & 0x3F);
        match kind & !0x3F {
            0 if kind == CONSTANT => Ok(Self::Constant(figure)),
            FROM_BASE if k <= RICE_MAX => Ok(Self::FromBase { base: figure, k }),
            FROM_PREVIOUS if k <= RICE_MAX => Ok(Self::FromPrevious { previous: figure, k, is_first: true }),
            _ => Err(ChunkError::Malformed),
        }
    }

    fn next(&mut self, bits: &mut BitReader<'_>) -> Result<i64, Truncated> {
        match self {
            Self::Constant(figure) => Ok(*figure),
            Self::FromBase { base, k } => Ok(base.wrapping_add(unzigzag(bits.take_rice(*k)?))),
            Self::FromPrevious { previous, is_first: is_first @ true, .. } => {
                *is_first = false;
                Ok(*previous)
            }
            Self::FromPrevious { previous, k, .. } => {
                *previous = previous.wrapping_add(unzigzag(bits.take_rice(*k)?));
                Ok(*previous)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::interval::{Interval, RttSummary};
    use super::super::record::tests::{an_interval, any_interval};
    use super::*;

    fn slots_of(intervals: impl IntoIterator<Item = (u16, Interval)>) -> Slots {
        intervals.into_iter().map(|(slot, interval)| (slot, Record::of(&interval))).collect()
    }

    #[test]
    fn an_hour_that_never_changes_is_a_few_bytes() {
        let slots = slots_of((0..360).map(|slot| (slot, an_interval())));
        let bytes = encode(&slots);
        assert_eq!(decode(Tier::TenSeconds, &bytes), Ok(slots));
        assert!(bytes.len() < 50, "{} bytes", bytes.len());
    }

    #[test]
    fn a_chunk_has_the_bytes_written_here() {
        let silent = Interval { lost: 10, ..Interval::default() };
        let bytes = encode(&slots_of([(1, silent), (2, Interval { lost: 12, ..silent }), (5, silent)]));
        // Absent 1, two without flags, absent 2, one without flags; answered nothing; lost 10 + Rice codes of 0, 4, 0: 0, 01111, 0.
        let body = [0x30, 0x40, 0x50, 0x20, 0xFF, 0x00, 0x40, 20, 0b0001_1110];
        assert_eq!(bytes[0], 1);
        assert_eq!(bytes[5..], body);
    }

    #[test]
    fn no_intervals_are_a_chunk_too() {
        assert_eq!(decode(Tier::Minute, &encode(&[])), Ok(Vec::new()));
    }

    fn any_slots(tier: Tier) -> impl Strategy<Value = Slots> {
        let slots = 0..tier.intervals_per_chunk() as u16;
        let wild = proptest::collection::btree_map(slots.clone(), any_interval(), 0..40);
        let calm = proptest::collection::btree_map(slots, Just(an_interval()), 0..40);
        prop_oneof![wild, calm].prop_map(slots_of)
    }

    fn any_tier() -> impl Strategy<Value = Tier> {
        proptest::sample::select(Tier::ALL.as_slice())
    }

    proptest! {
        #[test]
        fn intervals_come_back((tier, slots) in any_tier().prop_flat_map(|tier| (Just(tier), any_slots(tier)))) {
            prop_assert_eq!(decode(tier, &encode(&slots)), Ok(slots));
        }

        #[test]
        fn garbage_is_refused_or_is_an_hour(tier in any_tier(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(slots) = decode(tier, &sealed(&body)) {
                prop_assert!(slots.len() as u64 <= tier.intervals_per_chunk());
                prop_assert_eq!(decode(tier, &encode(&slots)), Ok(slots));
            }
        }

        #[test]
        fn a_chunk_cut_short_or_changed_is_refused(
            slots in any_slots(Tier::Minute), at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let bytes = encode(&slots);
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert!(decode(Tier::Minute, cut).is_err());
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= flip;
            prop_assert!(decode(Tier::Minute, &changed).is_err());
        }
    }

    #[test]
    fn each_kind_of_nonsense_is_told_apart() {
        let good = encode(&slots_of([(0, an_interval())]));
        let mut newer = good.clone();
        newer[0] = 2;
        assert_eq!(decode(Tier::Minute, &newer), Err(ChunkError::Version(2)));
        assert_eq!(decode(Tier::Minute, &good[..4]), Err(ChunkError::Truncated));
        assert_eq!(decode(Tier::Minute, &good[..9]), Err(ChunkError::Checksum));
        // 61 intervals in an hour of minutes; a run of none; bytes after the last column.
        assert_eq!(decode(Tier::Minute, &sealed(&[0x00, 61, 0xFF, 0, 0])), Err(ChunkError::Malformed));
        assert_eq!(decode(Tier::Minute, &sealed(&[0x00, 0, 0xFF])), Err(ChunkError::Malformed));
        assert_eq!(decode(Tier::Minute, &sealed(&[0x20, 0xFF, 0, 0, 9])), Err(ChunkError::Malformed));
        assert_eq!(decode(Tier::Minute, &sealed(&[0x20, 0xFF, 0])), Err(ChunkError::Truncated));
    }

    #[test]
    fn an_hour_of_a_noisy_network_takes_less_than_fourteen_bytes_an_interval() {
        let mut state = 1_u64;
        let mut noise = move |range: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % range
        };
        let slots = slots_of((0..360).map(|slot| {
            let mut rtts: Vec<u64> = (0..10).map(|_| 20_000_000 + noise(400_000) + noise(400_000)).collect();
            rtts.sort_unstable();
            let rtt = RttSummary {
                count: 10,
                sum_ns: rtts.iter().sum(),
                min_ns: rtts[0],
                max_ns: rtts[9],
                quantiles_ns: [rtts[0], rtts[2], rtts[4], rtts[7], rtts[9], rtts[9]],
            };
            let answered = Interval {
                answered: 10,
                lost_forward: Some(0),
                lost_reverse: Some(0),
                ..Interval::default()
            };
            (slot, Interval { rtt: Some(rtt), jitter_ns: Some(150_000 + noise(50_000)), ..answered })
        }));
        let bytes = encode(&slots);
        assert_eq!(decode(Tier::TenSeconds, &bytes), Ok(slots));
        assert!(bytes.len() < 14 * 360, "{} bytes", bytes.len());
    }
}
