//! Two clocks per shard, and what they say together.
//!
//! *Last recorded* is the shard's own heartbeat, *last drained* is ours. If the first stands still the
//! data plane is silent; if the second does, the control plane is stuck. The clocks are atomics beside
//! the drain's lock, so health answers even while a drain hangs with the lock held.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relayscope_bridge::ShardId;
use serde::Serialize;

use crate::clock::Now;

/// The health of all shards. As JSON:
///
/// ```json
/// {"status":"failing","reason":null,
///  "shards":[{"shard":0,"verdict":"data plane silent",
///             "reason":"shard 0: data plane silent for 7.2 s",
///             "last_recorded_unix_seconds":1796000000.125,"last_recorded_age_seconds":7.2,
///             "last_drained_unix_seconds":1796000007.285,"last_drained_age_seconds":0.04,
///             "newest_sample_age_seconds":7.3}]}
/// ```
///
/// Moments and ages are `null` while the clock has never been set; a shard's `reason` is `null` while all is well.
/// Ages are of the monotonic clock; a moment is told by the wall clock as it is now, to the millisecond.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// Whether there is a data plane and every shard's verdict is [`Verdict::Ok`].
    pub status: Status,
    /// Why there is no data plane to read from; `null` while there is one.
    pub reason: Option<String>,
    /// In order of shard.
    pub shards: Vec<ShardHealth>,
}

/// The sum of all verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every shard is well.
    Ok,
    /// At least one is not.
    Failing,
}

/// Which side is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both clocks run, or have not had time to stop.
    Ok,
    /// The shard has signed no life for longer than the staleness.
    DataPlaneSilent,
    /// The shard's process has ended.
    DataPlaneEnded,
    /// The shard's ring has not been drained for longer than the staleness. Of the shard itself
    /// nothing newer is known.
    ControlPlaneStuck,
}

impl Serialize for Verdict {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Verdict {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::DataPlaneSilent => "data plane silent",
            Self::DataPlaneEnded => "data plane ended",
            Self::ControlPlaneStuck => "control plane stuck",
        }
    }
}

/// The health of one shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardHealth {
    /// The shard.
    pub shard: u16,
    /// Which side is at fault.
    pub verdict: Verdict,
    /// The verdict in words, with the shard and for how long.
    pub reason: Option<String>,
    /// The last write: when the shard last signed life, as unix time.
    pub last_recorded_unix_seconds: Option<f64>,
    /// Age of the shard's last sign of life.
    pub last_recorded_age_seconds: Option<f64>,
    /// The last receipt: when its ring was last drained, as unix time.
    pub last_drained_unix_seconds: Option<f64>,
    /// Age of the last drain of its ring.
    pub last_drained_age_seconds: Option<f64>,
    /// Age of the newest sample drained, by the time it carries.
    pub newest_sample_age_seconds: Option<f64>,
}

/// Whether to send traffic here. As JSON: `{"ready":false,"reason":"shard 1 has signed no life yet"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the first drain is done and every shard has beaten.
    pub ready: bool,
    /// What is missing; `null` when ready.
    pub reason: Option<String>,
}

/// Nanoseconds of `CLOCK_MONOTONIC`; 0 is never. Relaxed throughout: each word stands alone, and a
/// reader that sees one a moment old is a moment late.
#[derive(Default)]
struct ShardClocks {
    recorded_ns: AtomicU64,
    drained_ns: AtomicU64,
    newest_sample_ns: AtomicU64,
}

/// The clocks of all shards.
pub(crate) struct Clocks {
    /// What a clock never set counts from: a shard has the whole staleness to begin.
    started_ns: u64,
    stale_after: Duration,
    shards: Box<[ShardClocks]>,
    /// How the data plane's process ended, once it has. It does not come back: its successor has clocks
    /// of its own.
    ended: OnceLock<String>,
}

impl Clocks {
    pub(crate) fn new(shards: usize, stale_after: Duration, now: Now) -> Self {
        let shards = std::iter::repeat_with(ShardClocks::default).take(shards).collect();
        Self { started_ns: now.monotonic_ns, stale_after, shards, ended: OnceLock::new() }
    }

    /// Notes that no shard runs any more, and why. What is noted first stands.
    pub(crate) fn end(&self, how: String) {
        self.ended.get_or_init(|| how);
    }

    /// Notes a shard's heartbeat, if it has one.
    pub(crate) fn recorded(&self, shard: ShardId, heartbeat_ns: Option<u64>) {
        if let (Some(clocks), Some(at)) = (self.of(shard), heartbeat_ns) {
            clocks.recorded_ns.store(at, Ordering::Relaxed);
        }
    }

    /// Notes that a shard's ring was drained, and the newest sample it ever brought, if any.
    pub(crate) fn drained(&self, shard: ShardId, now_ns: u64, newest_sample_ns: Option<u64>) {
        if let Some(clocks) = self.of(shard) {
            clocks.drained_ns.store(now_ns, Ordering::Relaxed);
            clocks.newest_sample_ns.store(newest_sample_ns.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Whether the shard has ended, or has signed no life for longer than the staleness. What it wrote
    /// last is then not shown as live. A shard that does not exist is silent.
    pub(crate) fn is_silent(&self, shard: ShardId, now: Now) -> bool {
        if self.ended.get().is_some() {
            return true;
        }
        let last = |clocks: &ShardClocks| get(&clocks.recorded_ns).unwrap_or(self.started_ns);
        self.of(shard).is_none_or(|clocks| now.since(last(clocks)) > self.stale_after)
    }

    /// Whether every shard has beaten and none is silent.
    pub(crate) fn all_running(&self, now: Now) -> bool {
        let beaten = |clocks: &ShardClocks| get(&clocks.recorded_ns).is_some();
        !self.shards.is_empty()
            && self.numbered().all(|(shard, clocks)| beaten(clocks) && !self.is_silent(shard, now))
    }

    pub(crate) fn health(&self, now: Now) -> Health {
        let shards: Vec<_> =
            self.numbered().map(|(shard, clocks)| self.shard_health(shard, clocks, now)).collect();
        let ok = shards.iter().all(|shard| shard.verdict == Verdict::Ok);
        Health { status: if ok { Status::Ok } else { Status::Failing }, reason: None, shards }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let missing = |clocks: &ShardClocks| match (get(&clocks.drained_ns), get(&clocks.recorded_ns)) {
            (None, _) => Some("has not been drained yet"),
            (_, None) => Some("has signed no life yet"),
            _ => None,
        };
        let reason =
            self.numbered().find_map(|(shard, c)| Some(format!("shard {} {}", shard.0, missing(c)?)));
        let reason = reason.or_else(|| self.ended.get().cloned());
        Readiness { ready: reason.is_none(), reason }
    }

    fn shard_health(&self, shard: ShardId, clocks: &ShardClocks, now: Now) -> ShardHealth {
        let (recorded, drained) = (get(&clocks.recorded_ns), get(&clocks.drained_ns));
        let undrained = now.since(drained.unwrap_or(self.started_ns));
        let silent = now.since(recorded.unwrap_or(self.started_ns));
        let (verdict, reason) = if undrained > self.stale_after {
            let reason = format!(
                "shard {}: control plane stuck, ring not drained for {:.1} s",
                shard.0,
                undrained.as_secs_f64()
            );
            (Verdict::ControlPlaneStuck, Some(reason))
        } else if let Some(how) = self.ended.get() {
            let last = recorded.map_or(String::new(), |at| {
                format!(", last sign of life {:.1} s ago", now.since(at).as_secs_f64())
            });
            let reason = format!("shard {}: {how}{last}", shard.0);
            (Verdict::DataPlaneEnded, Some(reason))
        } else if silent > self.stale_after {
            let reason = format!("shard {}: data plane silent for {:.1} s", shard.0, silent.as_secs_f64());
            (Verdict::DataPlaneSilent, Some(reason))
        } else {
            (Verdict::Ok, None)
        };
        let unix = |at: Option<u64>| at.map(|at| now.unix_seconds_of(at));
        let age = |at: Option<u64>| at.map(|at| now.since(at).as_secs_f64());
        ShardHealth {
            shard: shard.0,
            verdict,
            reason,
            last_recorded_unix_seconds: unix(recorded),
            last_recorded_age_seconds: age(recorded),
            last_drained_unix_seconds: unix(drained),
            last_drained_age_seconds: age(drained),
            newest_sample_age_seconds: age(get(&clocks.newest_sample_ns)),
        }
    }

    fn of(&self, shard: ShardId) -> Option<&ShardClocks> {
        self.shards.get(usize::from(shard.0))
    }

    fn numbered(&self) -> impl Iterator<Item = (ShardId, &ShardClocks)> {
        (0..=u16::MAX).map(ShardId).zip(&self.shards)
    }
}

fn get(clock: &AtomicU64) -> Option<u64> {
    let at = clock.load(Ordering::Relaxed);
    (at != 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const SHARD: ShardId = ShardId(0);

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * SECOND, unix_ns: seconds * SECOND }
    }

    fn started_at_100(shards: usize) -> Clocks {
        Clocks::new(shards, Duration::from_secs(5), at(100))
    }

    #[test]
    fn a_silent_data_plane_is_named_while_the_drain_runs() {
        let clocks = started_at_100(2);
        for shard in [0, 1] {
            clocks.recorded(ShardId(shard), Some(101 * SECOND));
            clocks.drained(ShardId(shard), 108 * SECOND, Some(100 * SECOND));
        }
        clocks.recorded(SHARD, Some(108 * SECOND));
        let health = clocks.health(at(108));
        assert_eq!(health.status, Status::Failing);
        assert_eq!(health.shards[0].verdict, Verdict::Ok);
        assert_eq!(health.shards[1].verdict, Verdict::DataPlaneSilent);
        assert_eq!(health.shards[1].reason.as_deref(), Some("shard 1: data plane silent for 7.0 s"));
        assert_eq!(health.shards[1].last_recorded_age_seconds, Some(7.0));
        assert_eq!(health.shards[1].last_drained_age_seconds, Some(0.0));
        assert_eq!(health.shards[1].newest_sample_age_seconds, Some(8.0));
    }

    #[test]
    fn moments_are_unix_seconds_and_null_in_json_before_there_is_one() {
        let clocks = started_at_100(2);
        clocks.recorded(SHARD, Some(101 * SECOND + SECOND / 8));
        clocks.drained(SHARD, 102 * SECOND, None);
        let now = Now { monotonic_ns: 103 * SECOND, unix_ns: 1_796_000_000 * SECOND };
        let expected = concat!(
            r#"{"status":"ok","reason":null,"shards":["#,
            r#"{"shard":0,"verdict":"ok","reason":null,"#,
            r#""last_recorded_unix_seconds":1795999998.125,"last_recorded_age_seconds":1.875,"#,
            r#""last_drained_unix_seconds":1795999999.0,"last_drained_age_seconds":1.0,"#,
            r#""newest_sample_age_seconds":null},"#,
            r#"{"shard":1,"verdict":"ok","reason":null,"#,
            r#""last_recorded_unix_seconds":null,"last_recorded_age_seconds":null,"#,
            r#""last_drained_unix_seconds":null,"last_drained_age_seconds":null,"#,
            r#""newest_sample_age_seconds":null}]}"#
        );
        assert_eq!(serde_json::to_string(&clocks.health(now)).unwrap(), expected);
    }

    #[test]
    fn a_stuck_control_plane_is_named_whatever_the_heartbeat_last_seen() {
        let clocks = started_at_100(1);
        clocks.recorded(SHARD, Some(101 * SECOND));
        clocks.drained(SHARD, 101 * SECOND, None);
        let health = clocks.health(at(109));
        assert_eq!(health.shards[0].verdict, Verdict::ControlPlaneStuck);
        assert_eq!(
            health.shards[0].reason.as_deref(),
            Some("shard 0: control plane stuck, ring not drained for 8.0 s")
        );
    }

    #[test]
    fn shards_of_a_process_that_ended_are_named_at_once_and_never_come_back() {
        let clocks = started_at_100(1);
        clocks.recorded(SHARD, Some(101 * SECOND));
        clocks.drained(SHARD, 102 * SECOND, None);
        clocks.end("data plane process 7 died".to_owned());
        clocks.end("data plane process 7 has ended".to_owned());
        let health = clocks.health(at(102));
        assert_eq!(health.shards[0].verdict, Verdict::DataPlaneEnded);
        assert_eq!(
            health.shards[0].reason.as_deref(),
            Some("shard 0: data plane process 7 died, last sign of life 1.0 s ago")
        );
        assert!(clocks.is_silent(SHARD, at(102)) && !clocks.all_running(at(102)));
        assert_eq!(clocks.readiness().reason.as_deref(), Some("data plane process 7 died"));
    }

    #[test]
    fn five_seconds_are_not_yet_stale() {
        let clocks = started_at_100(1);
        clocks.recorded(SHARD, Some(101 * SECOND));
        assert!(!clocks.is_silent(SHARD, at(106)));
        assert!(clocks.is_silent(SHARD, Now { monotonic_ns: 106 * SECOND + 1, unix_ns: 0 }));
    }

    #[test]
    fn a_shard_that_never_beat_has_the_staleness_to_begin() {
        let clocks = started_at_100(1);
        clocks.drained(SHARD, 105 * SECOND, None);
        assert_eq!(clocks.health(at(105)).status, Status::Ok);
        assert!(!clocks.all_running(at(105)));
        clocks.drained(SHARD, 106 * SECOND, None);
        assert_eq!(clocks.health(at(106)).shards[0].verdict, Verdict::DataPlaneSilent);
        assert_eq!(clocks.health(at(106)).shards[0].last_recorded_age_seconds, None);
    }

    #[test]
    fn ready_is_drained_once_and_beaten_by_every_shard() {
        let clocks = started_at_100(2);
        let reason = |clocks: &Clocks| clocks.readiness().reason;
        assert_eq!(reason(&clocks).as_deref(), Some("shard 0 has not been drained yet"));
        clocks.drained(SHARD, SECOND, None);
        clocks.drained(ShardId(1), SECOND, None);
        clocks.recorded(SHARD, Some(SECOND));
        assert_eq!(reason(&clocks).as_deref(), Some("shard 1 has signed no life yet"));
        clocks.recorded(ShardId(1), Some(SECOND));
        assert_eq!(clocks.readiness(), Readiness { ready: true, reason: None });
    }
}
