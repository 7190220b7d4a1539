//! The vocabulary: what one measurement is, and its three words on the wire between cores.

use std::fmt;

/// Words one sample takes in a ring.
pub const SAMPLE_WORDS: usize = 3;
const _: () = assert!(SAMPLE_WORDS * 8 == 24, "a sample is 24 bytes: id and kind, time, value");

/// The series a sample belongs to, as interned by [`SeriesRegistry`](crate::SeriesRegistry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricId(pub u32);

impl MetricId {
    /// The index of this series in a dense column.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A shard's number, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// One value, with what kind of value it is.
// With the ring's numbers as discriminants, and 64 bits wide, encoding is a copy without a branch.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u64)]
pub enum MetricValue {
    /// An increment's new total. What ring overflow costs it shows in the reader's loss, and a reader that
    /// comes later knows it with the next one only: counters that must not lie belong in cells.
    Counter(u64) = KIND_COUNTER,
    /// A reading that replaces the one before it.
    Gauge(f64) = KIND_GAUGE,
    /// One observation of a distribution.
    Histogram(f64) = KIND_HISTOGRAM,
}

/// What a family or a sample measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of observations.
    Histogram,
}

impl MetricKind {
    /// The word used after `# TYPE` in the Prometheus text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl MetricKind {
    /// Its number in a segment: the same as a sample of this kind carries.
    pub(crate) fn code(self) -> u64 {
        match self {
            Self::Counter => KIND_COUNTER,
            Self::Gauge => KIND_GAUGE,
            Self::Histogram => KIND_HISTOGRAM,
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.code() == code)
    }
}

/// One measurement of one series at one moment.
///
/// ```
/// use relayscope_bridge::{MetricId, MetricSample, MetricValue};
///
/// let sample = MetricSample {
///     metric_id: MetricId(7),
///     timestamp_ns: 1_000_000,
///     value: MetricValue::Gauge(0.5),
/// };
/// assert_eq!(MetricSample::decode(sample.encode()), Ok(sample));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricSample {
    /// The series.
    pub metric_id: MetricId,
    /// When it was measured: nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// What was measured.
    pub value: MetricValue,
}

const KIND_COUNTER: u64 = 1;
const KIND_GAUGE: u64 = 2;
const KIND_HISTOGRAM: u64 = 3;

impl MetricSample {
    /// The sample as ring words: `id | kind << 32`, timestamp, value bits.
    #[inline]
    pub fn encode(self) -> [u64; SAMPLE_WORDS] {
        let (kind, bits) = match self.value {
            MetricValue::Counter(total) => (KIND_COUNTER, total),
            MetricValue::Gauge(value) => (KIND_GAUGE, value.to_bits()),
            MetricValue::Histogram(value) => (KIND_HISTOGRAM, value.to_bits()),
        };
        [u64::from(self.metric_id.0) | kind << 32, self.timestamp_ns, bits]
    }

    /// Reads ring words back. Call it only on words that passed the ring's validation: a torn
    /// record is not a malformed one.
    ///
    /// # Errors
    /// [`DecodeError`] when the kind is none that [`encode`](Self::encode) writes, as a damaged or
    /// hostile segment may hold. Kind 0 is unused, so that never-written words do not decode.
    #[inline]
    pub fn decode(words: [u64; SAMPLE_WORDS]) -> Result<Self, DecodeError> {
        let kind = words[0] >> 32;
        let value = match kind {
            KIND_COUNTER => MetricValue::Counter(words[2]),
            KIND_GAUGE => MetricValue::Gauge(f64::from_bits(words[2])),
            KIND_HISTOGRAM => MetricValue::Histogram(f64::from_bits(words[2])),
            _ => return Err(DecodeError { kind }),
        };
        // The mask keeps the low half, so the cast drops nothing.
        let metric_id = MetricId((words[0] & u64::from(u32::MAX)) as u32);
        Ok(Self { metric_id, timestamp_ns: words[1], value })
    }
}

/// Ring words that are no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    kind: u64,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample kind {} is invalid; expected 1 (counter), 2 (gauge) or 3 (histogram)", self.kind)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_id_and_kind_then_time_then_value_bits() {
        let sample = MetricSample {
            metric_id: MetricId(0xdead_beef),
            timestamp_ns: 42,
            value: MetricValue::Histogram(1.0),
        };
        assert_eq!(sample.encode(), [0x0000_0003_dead_beef, 42, 0x3ff0_0000_0000_0000]);
    }

    #[test]
    fn every_kind_survives_the_round_trip() {
        for value in [MetricValue::Counter(u64::MAX), MetricValue::Gauge(-0.5), MetricValue::Histogram(1e-9)]
        {
            let sample = MetricSample { metric_id: MetricId(u32::MAX), timestamp_ns: u64::MAX, value };
            assert_eq!(MetricSample::decode(sample.encode()), Ok(sample));
        }
    }

    #[test]
    fn never_written_words_do_not_decode() {
        let error = MetricSample::decode([0; SAMPLE_WORDS]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sample kind 0 is invalid; expected 1 (counter), 2 (gauge) or 3 (histogram)"
        );
    }
}
