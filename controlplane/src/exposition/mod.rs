//! Everything that is held, as one Prometheus text.
//!
//! Three rooms write it and never share a family: [`state`] what the control plane knows itself,
//! [`series`] what the registry holds, [`own`](crate::own) what the `metrics` facade recorded. Each
//! lists its families; a test holds the three lists to be a partition of the catalogue. Families come
//! in the order of the catalogue, then an application's own by name, then the facade's by name.
//!
//! What is absent is left out: a gauge without a value, a gauge of a silent shard, a family without
//! samples together with its header. Counters of a silent shard stay: they are still true.

mod buckets;
mod changes;
mod lines;
mod series;
mod state;
mod text;

use std::collections::HashSet;

use relayscope_bridge::segment::Attachment;
use relayscope_bridge::{SeriesView, ShardId, catalogue};

use crate::clock::Now;
use crate::drain::Drain;
use crate::own::Own;
use crate::process::ProcessStats;
use crate::roster::Roster;
use crate::source::Attached;
use series::{Plan, Values};
use state::State;

pub(crate) use text::{CONTENT_TYPE, is_metric_name};

/// What one exposition is rendered from.
pub(crate) struct Sources<'a> {
    pub(crate) now: Now,
    pub(crate) drain: &'a Drain,
    pub(crate) attached: &'a Attached,
    pub(crate) own: &'a Own,
    pub(crate) process: ProcessStats,
}

/// The renderer, with the layout it keeps from one scrape to the next.
pub(crate) struct Exposition {
    prefix: String,
    plan: Option<Plan>,
    /// The last group whose buckets were said to make no sense.
    malformed_buckets: Option<String>,
    /// Length of the last body, to allocate the next one at once.
    last_len: usize,
}

impl Exposition {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), plan: None, malformed_buckets: None, last_len: 0 }
    }

    /// Renders one body. O(series).
    pub(crate) fn render(&mut self, sources: &Sources<'_>) -> Vec<u8> {
        let (names, len) = (sources.attached.directory)
            .read(|series| (self.taken_names(series), self.plan(series).text_len()));
        let taken = names.iter().map(String::as_str).collect();
        let own = sources.own.render(&taken);
        // At once: what grows by doubling leaves holes behind.
        let mut out = Vec::with_capacity(len.max(self.last_len) + self.last_len / 8);
        sources.attached.directory.read(|series| self.write_ours(&mut out, series, sources, own.left_out));
        out.extend_from_slice(own.text.as_bytes());
        self.last_len = out.len();
        out
    }

    /// The names that the facade's families may not have.
    fn taken_names(&mut self, series: &SeriesView<'_>) -> HashSet<String> {
        let prefix = self.prefix.clone();
        let rendered_here = state::FAMILIES.iter().map(|(family, _)| *family);
        rendered_here
            .chain(series::FAMILIES.iter().copied())
            .map(|family| family.full_name(&prefix))
            .chain(self.plan(series).names().map(str::to_owned))
            .collect()
    }

    fn write_ours(
        &mut self,
        out: &mut Vec<u8>,
        series: &SeriesView<'_>,
        sources: &Sources<'_>,
        own_left_out: usize,
    ) {
        let prefix = self.prefix.clone();
        let plan = self.plan(series);
        let is_silent = |shard| sources.attached.clocks.is_silent(shard, sources.now);
        let roster = sources.attached.roster(series);
        let peers_up = roster.count_up(series, &sources.attached.clocks, sources.now);
        let left_out = own_left_out + plan.left_out();
        let state = state_of(sources, &roster, peers_up, &is_silent, left_out);
        let values = Values { series, aggregate: sources.drain.aggregate(), is_silent: &is_silent };
        for family in catalogue::ALL {
            if !state::write(out, family, &prefix, &state) {
                plan.write(out, family, &values);
            }
        }
        plan.write_others(out, &values);
    }

    fn plan(&mut self, series: &SeriesView<'_>) -> &Plan {
        let current = self.plan.take().and_then(|plan| plan.followed(series));
        let plan = self.plan.insert(current.unwrap_or_else(|| Plan::new(series, &self.prefix)));
        if let Some(group) = plan.malformed_buckets()
            && self.malformed_buckets.as_deref() != Some(group)
        {
            tracing::warn!(group, "the group's buckets make no sense; its targets have the default ones");
            self.malformed_buckets = Some(group.to_owned());
        }
        plan
    }
}

fn state_of<'a>(
    sources: &Sources<'a>,
    roster: &'a Roster,
    peers_up: usize,
    is_silent: &'a dyn Fn(ShardId) -> bool,
    left_out: usize,
) -> State<'a> {
    let now = sources.now;
    State {
        now,
        shards: sources.drain.shards().collect(),
        is_silent,
        roster,
        peers_up,
        running: sources.attached.clocks.all_running(now),
        refused: sources.drain.aggregate().refused(),
        left_out,
        process: sources.process,
        segment: sources.attached.attachment().map(|attachment| attachment.info()),
        dataplane_up: sources.attached.is_running(),
        account_kept: sources.drain.is_account_kept(),
        reload: sources.attached.attachment().and_then(Attachment::last_reload_successful),
    }
}

#[cfg(test)]
mod tests;
