//! Random interleavings of recording, draining and tapping, against an oracle that keeps everything.
//!
//! One thread only, so what must come is known to the sample: see `Oracle`. What other threads add is
//! the models' business (`loom-tests`).

use proptest::prelude::*;
use relayscope_bridge::{
    Account, Consumer, Drained, MetricId, MetricSample, MetricValue, Start, TelemetryRing,
};
use std::collections::VecDeque;

/// The sample recorded at `position`: each word tells it, and all kinds take turns.
fn sample_at(position: u64) -> MetricSample {
    let value = match position % 3 {
        0 => MetricValue::Counter(position),
        1 => MetricValue::Gauge(position as f64),
        _ => MetricValue::Histogram(position as f64),
    };
    let metric_id = MetricId(u32::try_from(position).expect("a case records a few thousand samples"));
    MetricSample { metric_id, timestamp_ns: position, value }
}

/// What a reader is owed, by the rule as the documentation states it and not as the ring computes it.
struct Oracle {
    /// Every record this reader has not been told of, oldest first.
    unread: VecDeque<MetricSample>,
    /// Records before this reader's first.
    start: u64,
    recorded: u64,
    delivered: u64,
    lost: u64,
}

impl Oracle {
    /// A reader that attaches after `history` to a ring of `capacity`: it is owed what it asked to begin
    /// with, be it overwritten already or not.
    fn attach(history: &[MetricSample], capacity: usize, start: Start) -> Self {
        let kept = match start {
            Start::First => history.len(),
            Start::Oldest => history.len().min(capacity - 1),
            Start::Now => 0,
        };
        let unread = VecDeque::from(history[history.len() - kept..].to_vec());
        let start = (history.len() - kept) as u64;
        Self { start, recorded: kept as u64, unread, delivered: 0, lost: 0 }
    }

    fn record(&mut self, sample: MetricSample) {
        self.unread.push_back(sample);
        self.recorded += 1;
    }

    /// A reader that kept up gets everything. One that was lapped loses what is overwritten and, to
    /// stay ahead of the producer, an eighth of the ring more; one slot is the producer's at all times.
    fn drain(&mut self, capacity: usize) -> (Vec<MetricSample>, Drained) {
        let readable = capacity - 1;
        let lost = match self.unread.len() {
            waiting if waiting <= readable => 0,
            waiting => waiting - (readable - capacity / 8),
        };
        let delivered: Vec<_> = self.unread.drain(..).skip(lost).collect();
        self.delivered += delivered.len() as u64;
        self.lost += lost as u64;
        let drained = Drained { delivered: delivered.len() as u64, lost: lost as u64, malformed: 0 };
        (delivered, drained)
    }

    /// A drain that ends at a mark set when `end` were recorded. What a reader that was lapped loses by
    /// it depends on chunks and slack, so only what must hold is asked of the rest.
    fn drain_to(
        &mut self,
        end: u64,
        capacity: usize,
        came: &[(u64, MetricSample)],
        drained: Drained,
    ) -> Result<(), TestCaseError> {
        let head = self.position(self.unread.len());
        let first = self.position(0);
        let below = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
        prop_assert_eq!((drained.delivered, drained.malformed), (came.len() as u64, 0));
        for (position, sample) in came {
            prop_assert_eq!(*sample, sample_at(*position));
            prop_assert!((first..end).contains(position), "{} is not in {}..{}", position, first, end);
            prop_assert!(*position + capacity as u64 > head, "{} is overwritten", position);
        }
        prop_assert!(came.windows(2).all(|pair| pair[0].0 < pair[1].0), "out of order or twice");
        let gone = usize::try_from(drained.delivered + drained.lost).unwrap_or(usize::MAX);
        if self.unread.len() < capacity || below == 0 {
            prop_assert_eq!((gone, drained.lost), (below, 0), "nothing was overwritten");
        }
        prop_assert!(gone >= below, "something below the mark was neither brought nor billed");
        self.unread.drain(..gone);
        self.delivered += drained.delivered;
        self.lost += drained.lost;
        Ok(())
    }

    /// That of the `ahead`th unread record.
    fn position(&self, ahead: usize) -> u64 {
        self.start + self.delivered + self.lost + ahead as u64
    }

    fn account(&self) -> Account {
        let Self { recorded, delivered, lost, .. } = *self;
        Account { recorded, delivered, lost, unread: self.unread.len() as u64 }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Record(usize),
    RecordBatch(usize),
    Drain(prop::sample::Index),
    /// Looks how far the ring is written.
    Mark,
    /// Drains to where the last look was.
    DrainToMark(prop::sample::Index),
    Tap(prop::sample::Index, Start),
}

/// Sizes around the ring's own (a power of two up to 128) and around the batch and chunk size, 64.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let start = prop_oneof![Just(Start::First), Just(Start::Oldest), Just(Start::Now)];
    let step = prop_oneof![
        4 => (0..=40usize).prop_map(Step::Record),
        3 => (0..=200usize).prop_map(Step::RecordBatch),
        4 => any::<prop::sample::Index>().prop_map(Step::Drain),
        1 => Just(Step::Mark),
        2 => any::<prop::sample::Index>().prop_map(Step::DrainToMark),
        2 => (any::<prop::sample::Index>(), start).prop_map(|(of, start)| Step::Tap(of, start)),
    ];
    prop::collection::vec(step, 1..60)
}

fn drain(consumer: &mut Consumer) -> (Vec<MetricSample>, Drained) {
    let mut seen = Vec::new();
    let drained = consumer.drain(|sample| seen.push(sample));
    (seen, drained)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_gets_what_it_is_owed_and_is_billed_the_rest(
        asked in 2..=128usize,
        steps in steps(),
    ) {
        let (mut producer, consumer) = TelemetryRing::with_capacity(asked);
        let capacity = asked.next_power_of_two();
        prop_assert_eq!(consumer.capacity(), capacity as u64);
        let mut history = Vec::new();
        let mut mark = (consumer.mark(), 0);
        let mut readers = vec![(consumer, Oracle::attach(&[], capacity, Start::Oldest))];
        for step in steps {
            let recorded = history.len() as u64;
            match step {
                Step::Record(n) => {
                    for sample in (recorded..recorded + n as u64).map(sample_at) {
                        producer.record(sample);
                        history.push(sample);
                    }
                }
                Step::RecordBatch(n) => {
                    history.extend((recorded..recorded + n as u64).map(sample_at));
                    producer.record_batch(&history[recorded as usize..]);
                }
                Step::Drain(of) => {
                    let count = readers.len();
                    let (consumer, oracle) = &mut readers[of.index(count)];
                    prop_assert_eq!(drain(consumer), oracle.drain(capacity));
                }
                Step::Mark => mark = (readers[0].0.mark(), recorded),
                Step::DrainToMark(of) => {
                    let count = readers.len();
                    let (consumer, oracle) = &mut readers[of.index(count)];
                    let mut came = Vec::new();
                    let drained = consumer.drain_to(mark.0, |position, sample| came.push((position, sample)));
                    oracle.drain_to(mark.1, capacity, &came, drained)?;
                }
                Step::Tap(of, start) => {
                    let tap = readers[of.index(readers.len())].0.tap(start);
                    readers.push((tap, Oracle::attach(&history, capacity, start)));
                }
            }
            for (consumer, oracle) in &mut readers {
                for &sample in &history[recorded as usize..] {
                    oracle.record(sample);
                }
                prop_assert_eq!(consumer.account(), oracle.account());
            }
            prop_assert_eq!(producer.recorded(), history.len() as u64);
        }
        for (mut consumer, mut oracle) in readers {
            prop_assert_eq!(drain(&mut consumer), oracle.drain(capacity));
            prop_assert_eq!(drain(&mut consumer), (Vec::new(), Drained::default()), "nothing comes twice");
            prop_assert_eq!(consumer.account(), oracle.account());
            prop_assert_eq!(consumer.account().unread, 0);
        }
    }
}
