//! Families exported from what the control plane knows, not from a cell or the ring.

use std::ptr;

use relayscope_bridge::ShardId;
use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::segment::SegmentInfo;

use super::number::Number;
use crate::aggregate::Refused;
use crate::clock::Now;
use crate::drain::ShardReport;
use crate::process::ProcessStats;
use crate::roster::Roster;

/// All that these families are written from, read at one moment.
pub(crate) struct State<'a> {
    pub(crate) now: Now,
    pub(crate) shards: Vec<ShardReport>,
    /// Whether a shard is silent: its gauges are not shown as live.
    pub(crate) is_silent: &'a dyn Fn(ShardId) -> bool,
    pub(crate) roster: &'a Roster,
    pub(crate) peers_up: usize,
    pub(crate) running: bool,
    pub(crate) refused: Refused,
    pub(crate) left_out: usize,
    /// Series there was no room for, over all expositions until now.
    pub(crate) refused_series: u64,
    pub(crate) process: ProcessStats,
    /// None while there is no data plane to read from.
    pub(crate) segment: Option<SegmentInfo>,
    pub(crate) dataplane_up: bool,
    /// None where there is nothing to keep.
    pub(crate) account_kept: Option<bool>,
    /// None before the data plane read a configuration again.
    pub(crate) reload: Option<bool>,
}

/// Takes samples: a value for each of the family's labels, and the number.
pub(crate) type Out<'o> = dyn FnMut(&[&str], Number) + 'o;
pub(crate) type Write = fn(&mut Out<'_>, &State<'_>);

/// The families rendered here, each with what writes its samples.
pub(crate) static FAMILIES: &[(&Family, Write)] = &[
    (&catalogue::TARGET_INFO, target_info),
    (&catalogue::MESH_PEERS, |out, state| out(&[], Number::from(state.peers_up as u64))),
    (&catalogue::MESH_TARGETS, |out, state| out(&[], Number::from(state.roster.names() as u64))),
    (&catalogue::MESH_RUNNING, |out, state| out(&[], Number::from(state.running))),
    (&catalogue::RING_RECORDED, |out, state| {
        per_shard(out, state, |shard| Some(shard.account.recorded));
    }),
    (&catalogue::RING_OVERWRITTEN, |out, state| per_shard(out, state, |shard| Some(shard.account.lost))),
    (&catalogue::RING_DRAINED, |out, state| per_shard(out, state, |shard| Some(shard.account.delivered))),
    (&catalogue::RING_CAPACITY, |out, state| per_shard(out, state, |shard| Some(shard.capacity))),
    (&catalogue::RING_OCCUPANCY, |out, state| {
        let live = |shard: &ShardReport| !(state.is_silent)(shard.shard);
        per_shard(out, state, |shard| live(shard).then(|| shard.high_water as f64 / shard.capacity as f64));
    }),
    (&catalogue::DRAIN_REFUSED, refused),
    (&catalogue::DATAPLANE_UP, |out, state| out(&[], Number::from(state.dataplane_up))),
    (&catalogue::DATAPLANE_ACCOUNT_KEPT, |out, state| if_known(out, state.account_kept)),
    (&catalogue::DATAPLANE_GENERATION, |out, state| {
        if_known(out, state.segment.map(|segment| segment.generation));
    }),
    (&catalogue::DATAPLANE_START, |out, state| {
        if_known(out, state.segment.map(|segment| (segment.start_unix_ns / 1_000_000) as f64 / 1e3));
    }),
    (&catalogue::CONFIG_LAST_RELOAD_SUCCESSFUL, |out, state| {
        if_known(out, state.reload);
    }),
    (&catalogue::SHARD_HEARTBEAT, |out, state| {
        per_shard(out, state, |shard| Some(state.now.unix_seconds_of(shard.heartbeat_ns?)));
    }),
    (&catalogue::SHARD_LAST_DRAIN, |out, state| {
        per_shard(out, state, |shard| Some(state.now.unix_seconds_of(shard.last_drain_ns?)));
    }),
    (&catalogue::EXPOSITION_LEFT_OUT, |out, state| out(&[], Number::from(state.left_out as u64))),
    (&catalogue::EXPOSITION_REFUSED, |out, state| out(&[], state.refused_series.into())),
    (&catalogue::PROCESS_CPU, |out, state| if_known(out, state.process.cpu_seconds)),
    (&catalogue::PROCESS_RESIDENT, |out, state| if_known(out, state.process.resident_bytes)),
    (&catalogue::PROCESS_VIRTUAL, |out, state| if_known(out, state.process.virtual_bytes)),
    (&catalogue::PROCESS_VIRTUAL_MAX, |out, state| if_known(out, state.process.virtual_bytes_max)),
    (&catalogue::PROCESS_OPEN_FDS, |out, state| if_known(out, state.process.open_fds)),
    (&catalogue::PROCESS_MAX_FDS, |out, state| if_known(out, state.process.fds_max)),
    (&catalogue::PROCESS_THREADS, |out, state| if_known(out, state.process.threads)),
    (&catalogue::PROCESS_START, |out, state| if_known(out, state.process.start_seconds)),
];

/// What writes the samples of `family`, if it is one of these.
pub(crate) fn samples_of(family: &'static Family) -> Option<Write> {
    FAMILIES.iter().find(|(ours, _)| ptr::eq(*ours, family)).map(|(_, samples)| *samples)
}

fn target_info(out: &mut Out<'_>, state: &State<'_>) {
    for target in state.roster.targets() {
        let Some(endpoint) = &target.endpoint else { continue };
        let address = endpoint.address.to_string();
        let values = [&target.name, &*address, endpoint.family(), &endpoint.protocol, &endpoint.group];
        out(&values, true.into());
    }
}

fn refused(out: &mut Out<'_>, state: &State<'_>) {
    let Refused { no_series, wrong_kind, not_finite, negative } = state.refused;
    for (reason, samples) in [
        ("no_series", no_series),
        ("wrong_kind", wrong_kind),
        ("not_finite", not_finite),
        ("negative", negative),
    ] {
        out(&[reason], samples.into());
    }
}

fn per_shard<N: Into<Number>>(
    out: &mut Out<'_>,
    state: &State<'_>,
    value: impl Fn(&ShardReport) -> Option<N>,
) {
    for shard in &state.shards {
        if let Some(value) = value(shard) {
            out(&[&shard.shard.0.to_string()], value.into());
        }
    }
}

fn if_known(out: &mut Out<'_>, value: Option<impl Into<Number>>) {
    if let Some(value) = value {
        out(&[], value.into());
    }
}
