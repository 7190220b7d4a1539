//! What one interval of one target says.

/// The quantiles of RTT that are kept, ascending: what a smoke plot draws, and the tail.
pub const QUANTILES: [f64; 6] = [0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// One target by one of its address families, over one interval of a tier. What was not measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Probes answered in time.
    pub answered: u64,
    /// Probes lost. Loss is `lost / (answered + lost)`; an interval in which no probe settled has none.
    pub lost: u64,
    /// Of the lost those that vanished on the way there, where the reflector's count tells. It does some probes later: they
    /// may be of the interval before, and so be more than `lost`.
    pub lost_forward: Option<u64>,
    /// Of the lost those that vanished on the way back, told alike.
    pub lost_reverse: Option<u64>,
    /// Absent where no probe was answered, or the samples of all that were are overwritten.
    pub rtt: Option<RttSummary>,
    /// Jitter (IPDV) over the window of probes that ended with the interval: nanoseconds.
    pub jitter_ns: Option<u64>,
}

/// The RTT of the answered probes of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttSummary {
    /// Observations: as a rule `answered`, fewer where samples were overwritten before they were drained.
    pub count: u64,
    /// Of all of them: nanoseconds.
    pub sum_ns: u64,
    /// The least, exactly.
    pub min_ns: u64,
    /// The greatest, exactly.
    pub max_ns: u64,
    /// By [`QUANTILES`], of a histogram of all of them: within 1.1 % as a rule.
    pub quantiles_ns: [u64; QUANTILES.len()],
}

/// Whose intervals: a target by one of its address families.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// The configured name.
    pub name: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
}
