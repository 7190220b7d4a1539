//! The time that samples and heartbeats carry.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: what [`MetricSample::timestamp_ns`](crate::MetricSample::timestamp_ns)
/// and [`Publisher::beat`](crate::Publisher::beat) want. For the loop that drives a shard; what that calls takes
/// the time as an argument. Through the vDSO: tens of nanoseconds, no system call.
///
/// ```
/// use relayscope_bridge::{Hub, HubConfig, ShardId, hub, now_ns};
///
/// let Hub { mut publishers, collector, .. } = hub(HubConfig::default())?;
/// let before_ns = now_ns();
/// publishers[0].beat(now_ns());
/// let heartbeat = collector.shard(ShardId(0)).map(|shard| shard.heartbeat());
/// assert!(heartbeat.and_then(|heartbeat| heartbeat.last_ns()) >= Some(before_ns));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn now_ns() -> u64 {
    // Linux has had this clock since before vDSO: the call fails only for a clock that it lacks.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or_else(|_| unreachable!("Linux has it"));
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}
