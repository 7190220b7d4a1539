//! Everything that is held, written in one of three formats.
//!
//! Three rooms say what there is and never share a family: [`state`] what the control plane knows itself, [`series`]
//! what the registry holds, [`own`](crate::own) what the `metrics` facade recorded. Each lists its families; a test
//! holds the three lists to be a partition of the catalogue. Families come in the order of the catalogue, then an
//! application's own by name, then the facade's by name. An [`Encoder`] writes them: [`text`] or [`protobuf`].
//!
//! What is absent is left out: a gauge without a value, a gauge of a silent shard, a family without
//! samples together with its header. Counters of a silent shard stay: they are still true.

mod buckets;
mod changes;
mod encoder;
mod facade;
mod filter;
mod format;
mod labels;
mod names;
mod number;
mod plan;
mod protobuf;
mod series;
mod state;
mod text;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{SeriesView, ShardId};

use crate::clock::Now;
use crate::drain::Drain;
use crate::own::{self, Own};
use crate::process::ProcessStats;
use crate::roster::Roster;
use crate::source::Attached;
use encoder::{Encoder, Head, Labels};
use facade::Facade;
use names::TakenNames;
use plan::Plan;
use protobuf::ProtobufEncoder;
use series::{SeriesWriter, Values};
use state::State;
use text::TextEncoder;

pub(crate) use filter::FILTER_MAX;
pub use filter::Filter;
pub use format::{Detail, Format};
pub(crate) use names::is_metric_name;

/// What one exposition is rendered from.
pub(crate) struct Sources<'a> {
    pub(crate) now: Now,
    pub(crate) drain: &'a Drain,
    pub(crate) attached: &'a Attached,
    pub(crate) own: &'a Own,
    pub(crate) process: ProcessStats,
}

/// What is rendered.
pub(crate) type What<'a> = (Format, Detail, &'a Filter);

/// The renderer, with the layout it keeps from one scrape to the next.
pub(crate) struct Exposition {
    prefix: String,
    series_max: usize,
    plan: Option<Plan>,
    /// The last group whose buckets were said to make no sense.
    malformed_buckets: Option<String>,
    /// Length of the last body in each format, to allocate the next one at once.
    last_len: [usize; Format::ALL.len()],
    /// Series left out for want of room, over all expositions.
    refused_series: u64,
}

impl Exposition {
    pub(crate) fn new(prefix: &str, series_max: usize) -> Self {
        let (plan, malformed_buckets) = (None, None);
        Self {
            prefix: prefix.to_owned(),
            series_max,
            plan,
            malformed_buckets,
            last_len: [0; Format::ALL.len()],
            refused_series: 0,
        }
    }

    /// Renders one body into the room of `out`, which is empty. O(series).
    pub(crate) fn render(&mut self, sources: &Sources<'_>, what: What<'_>, mut out: Vec<u8>) -> Vec<u8> {
        let (format, detail, filter) = what;
        let text_len = sources.attached.directory.read(|series| self.plan(series).text_len());
        if filter.wants_everything() {
            // At once: what grows by doubling leaves holes behind.
            let last_len = self.last_len[format as usize];
            out.reserve_exact(if last_len > 0 { last_len + last_len / 8 } else { text_len });
        }
        let out = match format.dialect() {
            Some(dialect) => self.write(TextEncoder::new(dialect, detail, out), sources, filter),
            None => self.write(ProtobufEncoder::new(detail, out), sources, filter),
        };
        if filter.wants_everything() {
            self.last_len[format as usize] = out.len();
        }
        out
    }

    fn write<E: Encoder>(&mut self, mut out: E, sources: &Sources<'_>, filter: &Filter) -> Vec<u8> {
        let own = sources.own.render();
        let facade = sources.attached.directory.read(|series| {
            let (mut taken, room) = (self.taken_names(series), self.plan(series).room());
            let facade = Facade::read(&own, &mut taken, |name, kind| sources.own.is_own(name, kind), room);
            self.refused_series += (self.plan(series).refused_series() + facade.refused_series) as u64;
            self.write_ours(&mut out, series, sources, filter, facade.left_out);
            facade
        });
        facade.write(&mut out, filter);
        out.finish()
    }

    /// The names that the facade's families may not have.
    fn taken_names(&mut self, series: &SeriesView<'_>) -> TakenNames {
        let prefix = self.prefix.clone();
        let of_others = catalogue::ALL.iter().copied().filter(|family| !own::FAMILIES.contains(family));
        let mut taken = TakenNames::of(of_others, &prefix);
        for planned in self.plan(series).families() {
            taken.take(planned.head().name, planned.family.kind);
        }
        taken
    }

    fn write_ours<E: Encoder>(
        &mut self,
        out: &mut E,
        series: &SeriesView<'_>,
        sources: &Sources<'_>,
        filter: &Filter,
        facade_left_out: usize,
    ) {
        let prefix = self.prefix.clone();
        let refused_series = self.refused_series;
        let plan = self.plan(series);
        let is_silent = |shard| sources.attached.clocks.is_silent(shard, sources.now);
        let roster = sources.attached.roster(series);
        let peers_up = roster.count_up(series, &sources.attached.clocks, sources.now);
        let left_out = facade_left_out + plan.left_out();
        let state = State { refused_series, ..state_of(sources, &roster, peers_up, &is_silent, left_out) };
        let aggregate = sources.drain.aggregate();
        let values = Values::read(series, aggregate, is_silent);
        let writer = SeriesWriter { plan, series, values: &values, aggregate, filter };
        for family in catalogue::ALL {
            match state::samples_of(family) {
                Some(samples) => write_state(out, family, &prefix, samples, &state, filter),
                None => writer.write(out, family),
            }
        }
        writer.write_others(out);
    }

    fn plan(&mut self, series: &SeriesView<'_>) -> &Plan {
        let current = self.plan.take().and_then(|plan| plan.followed(series));
        let anew = || Plan::new(series, &self.prefix, self.series_max);
        let plan = self.plan.insert(current.unwrap_or_else(anew));
        if let Some(group) = plan.malformed_buckets()
            && self.malformed_buckets.as_deref() != Some(group)
        {
            tracing::warn!(group, "the group's buckets make no sense; its targets have the default ones");
            self.malformed_buckets = Some(group.to_owned());
        }
        plan
    }
}

fn write_state<E: Encoder>(
    out: &mut E,
    family: &'static Family,
    prefix: &str,
    samples: state::Write,
    state: &State<'_>,
    filter: &Filter,
) {
    let name = family.full_name(prefix);
    let head = Head { name: &name, kind: family.kind, unit: family.unit, help: family.help };
    if !filter.wants_family(&head) {
        return;
    }
    out.begin(head);
    let names = family.labels;
    let mut sample = |values: &[&str], number| {
        if filter.wants_labels(names.iter().copied().zip(values.iter().copied())) {
            out.number(Labels::Texts { names, values }, number);
        }
    };
    samples(&mut sample, state);
    out.end();
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
        refused_series: 0,
        process: sources.process,
        segment: sources.attached.attachment().map(|attachment| attachment.info()),
        dataplane_up: sources.attached.is_running(),
        account_kept: sources.drain.is_account_kept(),
        reload: sources.attached.is_reload_in_force(sources.own.last_reload_successful()),
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
