//! What is read of the control plane for who listens. It may block: it is for a thread of its own.

use std::time::Duration;

use serde::Serialize;

use super::super::api::Alerts;
use super::happened::{AlertsSeen, Seen};
use crate::ControlPlane;
use crate::clock::Now;
use crate::drain::ShardReport;
use crate::health::{ShardHealth, Verdict};
use crate::relays::RelaysView;

/// How often the rings are asked for while a drain or a scrape has them, and how long is waited between: less in all
/// than what others who want something of this thread would notice.
const RING_TRIES: usize = 10;
const RING_PAUSE: Duration = Duration::from_millis(5);

/// How everything is at one moment.
pub(super) struct Look {
    pub(super) now: Now,
    pub(super) relays: RelaysView,
    pub(super) shards: Shards,
    /// Those that changed since `seen`, and how.
    pub(super) alerts: AlertsLook,
}

/// What is to be told of alerts.
pub(super) enum AlertsLook {
    Off,
    /// As they were seen.
    Same,
    Changed {
        alerts: Alerts,
        seen: AlertsSeen,
    },
}

/// What is sent of shards. As JSON:
///
/// ```json
/// {"shards":[{"shard":0,"verdict":"ok","reason":null,"heartbeat_age_seconds":0.02,"drained_age_seconds":0.03,
///             "recorded":1200,"drained":1200,"lost":0,"unread":0,"capacity":65536,"occupancy_ratio":0.001}]}
/// ```
///
/// The ring's numbers are `null` while a drain hangs; the rest never waits for one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Shards {
    shards: Vec<Shard>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Shard {
    shard: u16,
    verdict: Verdict,
    reason: Option<String>,
    heartbeat_age_seconds: Option<f64>,
    drained_age_seconds: Option<f64>,
    recorded: Option<u64>,
    drained: Option<u64>,
    lost: Option<u64>,
    unread: Option<u64>,
    capacity: Option<u64>,
    occupancy_ratio: Option<f64>,
}

impl Shards {
    /// Without what lies behind the drain's lock. Never waits.
    pub(super) fn without_rings(plane: &ControlPlane) -> Self {
        Self::of(plane, Now::sample(), &[])
    }

    fn read(plane: &ControlPlane, now: Now) -> Self {
        let tried = (0..RING_TRIES).find_map(|tried| {
            if tried > 0 {
                std::thread::sleep(RING_PAUSE);
            }
            plane.try_shards()
        });
        Self::of(plane, now, &tried.unwrap_or_default())
    }

    fn of(plane: &ControlPlane, now: Now, rings: &[ShardReport]) -> Self {
        let shard = |health: ShardHealth| {
            let ring = rings.iter().find(|ring| ring.shard.0 == health.shard);
            // Of a shard that is silent it is not how things are.
            let live = ring.filter(|_| health.verdict == Verdict::Ok);
            Shard {
                shard: health.shard,
                verdict: health.verdict,
                reason: health.reason,
                heartbeat_age_seconds: health.last_recorded_age_seconds,
                drained_age_seconds: health.last_drained_age_seconds,
                recorded: ring.map(|ring| ring.account.recorded),
                drained: ring.map(|ring| ring.account.delivered),
                lost: ring.map(|ring| ring.account.lost),
                unread: ring.map(|ring| ring.account.unread),
                capacity: ring.map(|ring| ring.capacity),
                occupancy_ratio: live.map(|ring| ring.high_water as f64 / ring.capacity as f64),
            }
        };
        Self { shards: plane.health_at(now).shards.into_iter().map(shard).collect() }
    }
}

impl Look {
    /// O(targets). `seen` is of the look before.
    pub(super) fn at(plane: &ControlPlane, seen: &Seen) -> Self {
        let now = Now::sample();
        let relays = plane.relays_at(now);
        let shards = Shards::read(plane, now);
        let alerts = match plane.alert_watch() {
            None => AlertsLook::Off,
            Some(watch) => match seen.alerts_since(watch.book()) {
                None => AlertsLook::Same,
                Some(seen) => AlertsLook::Changed { alerts: Alerts::new(&watch, true, true), seen },
            },
        };
        Self { now, relays, shards, alerts }
    }
}
