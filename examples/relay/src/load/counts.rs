//! What the clients counted, and what is known of the time packets took.

use std::time::Duration;

use hdrhistogram::Histogram;
use relayscope_dataplane::clock::{Arrival, Monotonic};
use serde::Serialize;

use super::ledger::Fault;

/// Latencies are told up to here; longer ones count as this.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant digits of them.
const DIGITS: u8 = 3;
/// The percentiles that are reported.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// Packets, as the clients saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets of data the kernel took.
    pub data: u64,
    /// Octets of them.
    pub data_octets: u64,
    /// Packets of any kind it did not take.
    pub refused: u64,
    /// Turns that were missed: their packets were never made.
    pub missed: u64,
    /// Copies that came, right or wrong.
    pub copies: u64,
    /// Octets of them.
    pub copies_octets: u64,
    /// What was wrong with some, by [`Fault`].
    pub faults: [u64; Fault::ALL.len()],
    /// Packets the kernel dropped because a client's socket was full.
    pub kernel_dropped: u64,
    /// Copies the kernel put no time on: they are in no percentile.
    pub unstamped: u64,
    /// Reports the kernel took.
    pub reports: u64,
    /// Their answers.
    pub acks: u64,
    /// Playout buffers that ran empty.
    pub underruns: u64,
    /// Windows that were given up, as nothing came back for a while.
    pub stalls: u64,
    /// What the path to the relay did.
    pub there: Imposed,
    /// And the path back.
    pub back: Imposed,
}

/// What was done to packets on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imposed {
    /// Taken away.
    pub lost: u64,
    /// Sent a second time.
    pub duplicated: u64,
    /// Held back.
    pub held: u64,
    /// Taken away because too many were on their way: not imposed.
    pub overflowed: u64,
}

impl Counts {
    /// Packets that were wrong.
    pub fn faulty(&self) -> u64 {
        self.faults.iter().sum()
    }
}

/// How long copies took, from just before the send to the kernel's stamp of the arrival.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS).map(Self)
    }

    pub(super) fn record(&mut self, sent_at: Monotonic, arrival: Arrival) {
        let took = arrival.at.since(sent_at).as_nanos() as u64;
        self.0.saturating_record(took.max(1));
    }

    /// Those of a slice more, for several together.
    ///
    /// # Errors
    /// Never, as all are of one kind.
    pub fn add(&mut self, other: &Self) -> Result<(), hdrhistogram::AdditionError> {
        self.0.add(&other.0)
    }

    pub(super) fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time within which so many of a hundred came, to three digits; `None` where there are none.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        (!self.is_empty()).then(|| Duration::from_nanos(self.0.value_at_percentile(percent)))
    }

    /// The longest; `None` where there are none.
    pub fn max(&self) -> Option<Duration> {
        self.percentile(100.0)
    }
}
