//! The protobuf format: `io.prometheus.client.MetricFamily` messages, each after its length.
//!
//! Only here do histograms keep their own buckets ("native histograms"): spans of bucket indexes and the difference
//! of each count from the one before. Layout: <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>;
//! wire format: <https://protobuf.dev/programming-guides/encoding/>.

use relayscope_bridge::MetricKind;

use super::Detail;
use super::buckets::Buckets;
use super::encoder::{ClassicHistogram, Encoder, Head, Labels};
use super::number::Number;
use crate::histogram::ExponentialHistogram;

/// Fields of the messages, by message.
mod field {
    pub(super) const FAMILY_NAME: u32 = 1;
    pub(super) const FAMILY_HELP: u32 = 2;
    pub(super) const FAMILY_TYPE: u32 = 3;
    pub(super) const FAMILY_METRIC: u32 = 4;

    pub(super) const METRIC_LABEL: u32 = 1;
    pub(super) const METRIC_GAUGE: u32 = 2;
    pub(super) const METRIC_COUNTER: u32 = 3;
    pub(super) const METRIC_HISTOGRAM: u32 = 7;

    pub(super) const LABEL_NAME: u32 = 1;
    pub(super) const LABEL_VALUE: u32 = 2;

    /// Of Gauge and of Counter.
    pub(super) const VALUE: u32 = 1;

    pub(super) const HISTOGRAM_COUNT: u32 = 1;
    pub(super) const HISTOGRAM_SUM: u32 = 2;
    pub(super) const HISTOGRAM_BUCKET: u32 = 3;
    pub(super) const HISTOGRAM_SCHEMA: u32 = 5;
    pub(super) const HISTOGRAM_ZERO_THRESHOLD: u32 = 6;
    pub(super) const HISTOGRAM_ZERO_COUNT: u32 = 7;
    pub(super) const HISTOGRAM_POSITIVE_SPAN: u32 = 12;
    pub(super) const HISTOGRAM_POSITIVE_DELTA: u32 = 13;

    pub(super) const BUCKET_COUNT: u32 = 1;
    pub(super) const BUCKET_BOUND: u32 = 2;

    pub(super) const SPAN_OFFSET: u32 = 1;
    pub(super) const SPAN_LENGTH: u32 = 2;
}

/// Prometheus' own default, 2^-128: nothing we count as zero is further from it.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;
/// Between two spans there is at least this many empty buckets: fewer are cheaper written as zeros.
const GAP_MIN: i32 = 3;

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits and a mark that more follow.
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    fn unsigned(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    fn signed(&mut self, field: u32, value: i64) {
        self.unsigned(field, zigzag(value));
    }

    fn double(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn clear(&mut self) -> &mut Self {
        self.0.clear();
        self
    }
}

/// Small for what is near 0, on either side.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Writes the protobuf format.
pub(crate) struct ProtobufEncoder {
    out: Vec<u8>,
    detail: Detail,
    kind: MetricKind,
    has_samples: bool,
    family: Message,
    metric: Message,
    inner: Message,
    innermost: Message,
}

impl ProtobufEncoder {
    /// Behind what `out` holds, which is as a rule nothing.
    pub(crate) fn new(detail: Detail, out: Vec<u8>) -> Self {
        Self {
            out,
            detail,
            kind: MetricKind::Gauge,
            has_samples: false,
            family: Message::default(),
            metric: Message::default(),
            inner: Message::default(),
            innermost: Message::default(),
        }
    }

    fn labels(&mut self, labels: Labels<'_>) {
        self.metric.clear();
        let (metric, pair) = (&mut self.metric, &mut self.inner);
        labels.for_each(|name, value| {
            pair.clear().bytes(field::LABEL_NAME, name.as_bytes());
            pair.bytes(field::LABEL_VALUE, value.as_bytes());
            metric.bytes(field::METRIC_LABEL, &pair.0);
        });
    }

    /// Ends the metric whose value is the inner message.
    fn metric(&mut self, value: u32) {
        self.metric.bytes(value, &self.inner.0);
        self.family.bytes(field::FAMILY_METRIC, &self.metric.0);
        self.has_samples = true;
    }

    fn begin_histogram(&mut self, labels: Labels<'_>, count: u64, sum: f64) {
        self.labels(labels);
        self.inner.clear().unsigned(field::HISTOGRAM_COUNT, count);
        self.inner.double(field::HISTOGRAM_SUM, sum);
    }

    fn bucket(&mut self, bound: f64, below: u64) {
        self.innermost.clear().unsigned(field::BUCKET_COUNT, below);
        self.innermost.double(field::BUCKET_BOUND, bound);
        self.inner.bytes(field::HISTOGRAM_BUCKET, &self.innermost.0);
    }

    fn native_buckets(&mut self, histogram: &ExponentialHistogram) {
        self.inner.signed(field::HISTOGRAM_SCHEMA, histogram.schema().into());
        self.inner.double(field::HISTOGRAM_ZERO_THRESHOLD, ZERO_THRESHOLD);
        self.inner.unsigned(field::HISTOGRAM_ZERO_COUNT, histogram.zero_count());
        let native = NativeBuckets::of(histogram.buckets());
        for (offset, length) in &native.spans {
            self.innermost.clear().signed(field::SPAN_OFFSET, (*offset).into());
            self.innermost.unsigned(field::SPAN_LENGTH, u64::from(*length));
            self.inner.bytes(field::HISTOGRAM_POSITIVE_SPAN, &self.innermost.0);
        }
        self.innermost.clear();
        native.deltas.iter().for_each(|delta| self.innermost.varint(zigzag(*delta)));
        self.inner.bytes(field::HISTOGRAM_POSITIVE_DELTA, &self.innermost.0);
    }
}

impl Encoder for ProtobufEncoder {
    fn begin(&mut self, head: Head<'_>) {
        self.kind = head.kind;
        self.has_samples = false;
        self.family.clear().bytes(field::FAMILY_NAME, head.name.as_bytes());
        self.family.bytes(field::FAMILY_HELP, head.help.as_bytes());
        let kind = match head.kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
            MetricKind::Histogram => 4,
        };
        self.family.unsigned(field::FAMILY_TYPE, kind);
    }

    fn number(&mut self, labels: Labels<'_>, value: Number) {
        self.labels(labels);
        self.inner.clear().double(field::VALUE, value.as_float());
        self.metric(match self.kind {
            MetricKind::Counter => field::METRIC_COUNTER,
            MetricKind::Gauge | MetricKind::Histogram => field::METRIC_GAUGE,
        });
    }

    fn exponential(&mut self, labels: Labels<'_>, histogram: &ExponentialHistogram, buckets: &Buckets) {
        self.begin_histogram(labels, histogram.count(), histogram.sum());
        if self.detail == Detail::Classic {
            let below = histogram.cumulative(buckets.iter().map(|bucket| bucket.cut));
            buckets.iter().zip(below).for_each(|(bucket, below)| self.bucket(bucket.bound, below));
        }
        if self.detail != Detail::Compact {
            self.native_buckets(histogram);
        }
        self.metric(field::METRIC_HISTOGRAM);
    }

    fn classic(&mut self, labels: Labels<'_>, histogram: &ClassicHistogram) {
        self.begin_histogram(labels, histogram.count, histogram.sum);
        if self.detail != Detail::Compact {
            histogram.buckets.iter().for_each(|(bound, below)| self.bucket(*bound, *below));
        }
        self.metric(field::METRIC_HISTOGRAM);
    }

    fn end(&mut self) {
        if self.has_samples {
            let mut length = Message::default();
            length.varint(self.family.0.len() as u64);
            self.out.extend_from_slice(&length.0);
            self.out.extend_from_slice(&self.family.0);
        }
    }

    fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Buckets as the format has them.
#[derive(Debug, Default, PartialEq, Eq)]
struct NativeBuckets {
    /// How far each begins behind the end of the one before, the first behind index 0; and how many buckets it has.
    spans: Vec<(i32, u32)>,
    /// Each bucket's count less that of the one before.
    deltas: Vec<i64>,
}

impl NativeBuckets {
    /// Of buckets in ascending order of index. Without any there is one empty span, by which Prometheus knows the
    /// histogram to be a native one.
    fn of(buckets: impl Iterator<Item = (i32, u64)>) -> Self {
        let mut native = Self::default();
        let (mut next, mut before) = (0, 0);
        for (index, count) in buckets {
            let gap = index - next;
            match native.spans.last_mut().filter(|_| gap < GAP_MIN) {
                Some((_, length)) => {
                    for _ in 0..gap {
                        native.deltas.push(-before);
                        before = 0;
                    }
                    *length += gap.unsigned_abs() + 1;
                }
                None => native.spans.push((gap, 1)),
            }
            let count = count.cast_signed();
            native.deltas.push(count - before);
            (next, before) = (index + 1, count);
        }
        if native.spans.is_empty() {
            native.spans.push((0, 0));
        }
        native
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_near_each_other_share_a_span_and_far_ones_begin_another() {
        let native = |buckets: &[(i32, u64)]| NativeBuckets::of(buckets.iter().copied());
        assert_eq!(native(&[]), NativeBuckets { spans: vec![(0, 0)], deltas: vec![] });
        let near = NativeBuckets { spans: vec![(-5, 4)], deltas: vec![3, -3, 0, 7] };
        assert_eq!(native(&[(-5, 3), (-2, 7)]), near);
        let far = NativeBuckets { spans: vec![(2, 1), (3, 2)], deltas: vec![3, 4, -6] };
        assert_eq!(native(&[(2, 3), (6, 7), (7, 1)]), far);
    }

    #[test]
    fn numbers_near_zero_are_short() {
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
        let mut message = Message::default();
        message.unsigned(1, 300);
        assert_eq!(message.0, [0x08, 0xac, 0x02]);
    }
}
