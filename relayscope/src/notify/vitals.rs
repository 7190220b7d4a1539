//! What a process of each role looks at to know whether it is up and alive.

use std::time::Duration;

use relayscope_bridge::{Collector, Heartbeat, ShardId};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Now, Status};

use super::Condition;

/// By role.
pub(crate) enum Vitals {
    /// Both planes: heartbeats and drains.
    Both(ControlPlane),
    /// The control plane alone: its own drain, whatever there is to drain.
    ControlPlane(ControlPlane),
    /// The data plane alone: heartbeats.
    DataPlane(Heartbeats),
}

/// The signs of life of all shards.
pub(crate) struct Heartbeats {
    shards: Vec<(ShardId, Heartbeat)>,
    stale_after: Duration,
}

impl Heartbeats {
    pub(crate) fn of(collector: &Collector) -> Self {
        let shards = collector.shards().map(|(shard, reader)| (shard, reader.heartbeat())).collect();
        Self { shards, stale_after: ControlPlaneConfig::default().stale_after }
    }

    fn condition(&self, now: Now) -> Condition {
        let beats: Vec<_> = self.shards.iter().map(|(shard, beat)| (*shard, beat.last_ns())).collect();
        condition_of(&beats, self.stale_after, now)
    }
}

/// `beats` are when each shard last signed life.
fn condition_of(beats: &[(ShardId, Option<u64>)], stale_after: Duration, now: Now) -> Condition {
    let age = |last: &Option<u64>| last.map(|last| now.since(last));
    let unborn = beats.iter().find(|(_, last)| last.is_none());
    let silent =
        beats.iter().find_map(|(shard, last)| Some((shard, age(last)?)).filter(|s| s.1 > stale_after));
    let status = match (unborn, silent) {
        (Some((shard, _)), _) => format!("shard {} has signed no life yet", shard.0),
        (None, Some((shard, age))) => format!("shard {}: silent for more than {} s", shard.0, age.as_secs()),
        (None, None) => format!("{} shards run", beats.len()),
    };
    Condition { ready: unborn.is_none(), alive: unborn.is_none() && silent.is_none(), status }
}

impl Vitals {
    pub(super) fn condition(&self, now: Now) -> Condition {
        match self {
            Self::Both(plane) => of_both(plane),
            Self::ControlPlane(plane) => of_control_plane(plane),
            Self::DataPlane(heartbeats) => heartbeats.condition(now),
        }
    }
}

fn of_both(plane: &ControlPlane) -> Condition {
    let (readiness, health) = (plane.readiness(), plane.health());
    let alive = health.status == Status::Ok;
    let status = readiness.reason.unwrap_or_else(|| status_of(plane));
    Condition { ready: readiness.ready, alive, status }
}

fn of_control_plane(plane: &ControlPlane) -> Condition {
    let (drained, stale_after) = (plane.drain_age(), plane.stale_after());
    let status = match drained {
        None => "no drain yet".to_owned(),
        Some(age) if age > stale_after => format!("stuck: no drain for more than {} s", age.as_secs()),
        Some(_) => status_of(plane),
    };
    Condition { ready: drained.is_some(), alive: drained.is_some_and(|age| age <= stale_after), status }
}

/// Whose fault it is where something is wrong, without figures that change at each look; else the mesh.
fn status_of(plane: &ControlPlane) -> String {
    let health = plane.health();
    if let Some(reason) = health.reason {
        return format!("no data plane: {reason}");
    }
    let failing = |verdict| (verdict != relayscope_controlplane::Verdict::Ok).then_some(verdict);
    match health.shards.iter().find_map(|shard| Some((shard.shard, failing(shard.verdict)?))) {
        Some((shard, verdict)) => format!("shard {shard}: {}", verdict.as_str()),
        None => {
            let mesh = plane.mesh_counts();
            format!("{} of {} targets up", mesh.up, mesh.targets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn condition(beats: &[Option<u64>]) -> Condition {
        let beats: Vec<_> = (0..).map(ShardId).zip(beats.iter().copied()).collect();
        condition_of(&beats, Duration::from_secs(5), Now { monotonic_ns: 100 * SECOND, unix_ns: 0 })
    }

    #[test]
    fn a_data_plane_is_up_once_every_shard_beat_and_alive_while_all_do() {
        let of = |ready, alive, status: &str| Condition { ready, alive, status: status.to_owned() };
        assert_eq!(
            condition(&[Some(100 * SECOND), None]),
            of(false, false, "shard 1 has signed no life yet")
        );
        assert_eq!(condition(&[Some(100 * SECOND), Some(95 * SECOND)]), of(true, true, "2 shards run"));
        let silent = condition(&[Some(100 * SECOND), Some(95 * SECOND - 1)]);
        assert_eq!(silent, of(true, false, "shard 1: silent for more than 5 s"));
    }
}
