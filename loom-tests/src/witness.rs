//! Samples that betray tearing, and a reader that checks everything it is told.

use relayscope_bridge::{Account, Consumer, MetricId, MetricSample, MetricValue};

/// What every failed check of a model begins with. A weakened site must fail on one of these: a panic
/// of loom's own (too many branches, say) proves nothing about the ring.
pub(crate) const VIOLATED: &str = "violated: ";

/// Fails the model unless `holds`.
macro_rules! require {
    ($holds:expr, $($claim:tt)+) => {
        assert!($holds, "{}{}", $crate::witness::VIOLATED, format_args!($($claim)+))
    };
}
pub(crate) use require;

/// The sample recorded at `position`. Each of its three words alone tells the position.
pub(crate) fn sample_at(position: u64) -> MetricSample {
    let id = u32::try_from(position).expect("models record a handful of samples");
    MetricSample {
        metric_id: MetricId(id),
        timestamp_ns: 1_000 + position,
        value: MetricValue::Histogram(position as f64 + 0.5),
    }
}

pub(crate) fn samples_at(positions: std::ops::Range<u64>) -> Vec<MetricSample> {
    positions.map(sample_at).collect()
}

/// A consumer whose every delivery and every bill is checked.
pub(crate) struct Witness {
    consumer: Consumer,
    first: Option<u64>,
    /// No smaller position may come any more.
    next: u64,
    delivered: u64,
    lost: u64,
}

impl Witness {
    pub(crate) fn new(consumer: Consumer) -> Self {
        Self { consumer, first: None, next: 0, delivered: 0, lost: 0 }
    }

    /// Drains once, next to a running producer.
    pub(crate) fn drain(&mut self) {
        let (mut first, mut next, mut seen) = (self.first, self.next, 0);
        let drained = self.consumer.drain(|sample| {
            let position = u64::from(sample.metric_id.0);
            require!(sample == sample_at(position), "torn or invented sample {sample:?}");
            require!(position >= next, "position {position} came after {next} was due");
            first.get_or_insert(position);
            next = position + 1;
            seen += 1;
        });
        (self.first, self.next) = (first, next);
        self.delivered += seen;
        self.lost += drained.lost;
        require!(drained.delivered == seen, "{seen} samples came; billed {}", drained.delivered);
        // Words never written decode as malformed: that is tearing too, of the first lap.
        require!(drained.malformed == 0, "{} records were unwritten words", drained.malformed);
        self.check(self.consumer.account());
    }

    /// Drains what is left once the producer, which this thread joined, has recorded `recorded`
    /// samples in all, and checks the whole account. Returns the samples delivered.
    pub(crate) fn finish(mut self, recorded: u64) -> u64 {
        self.drain();
        let account = self.consumer.account();
        let start = recorded.saturating_sub(account.recorded);
        require!(account.unread == 0, "a drain at rest left samples: {account:?}");
        require!(start + account.recorded == recorded, "more than {recorded} recorded: {account:?}");
        // A ring at rest holds its newest record, unless the reader was to begin after it.
        require!(self.next == recorded || start == recorded, "the newest record was not delivered");
        require!(self.first.is_none_or(|first| first >= start), "a record from before the start came");
        self.delivered
    }

    fn check(&self, account: Account) {
        let Account { recorded, delivered, lost, unread } = account;
        require!(delivered + lost + unread == recorded, "the account does not add up: {account:?}");
        require!(delivered == self.delivered, "{} were delivered: {account:?}", self.delivered);
        require!(lost == self.lost, "{} were billed as lost: {account:?}", self.lost);
    }
}
