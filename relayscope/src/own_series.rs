//! Series of the configuration itself: what of it could not be found out, and what its groups are.

use std::collections::{BTreeMap, BTreeSet};

use relayscope_bridge::catalogue::{DISCOVERY_FAILURES, DISCOVERY_LEFT_OUT, GROUP_INFO};
use relayscope_bridge::{CounterCell, GaugeCell, MetricId, SeriesRegistry, ShardId};
use relayscope_controlplane::discovery::SourceKind;

/// Whose cells they have; nobody but their owner here writes them.
pub(crate) const SHARD: ShardId = ShardId(0);
/// The source of a change that was found out and could not be made.
pub(crate) const APPLY: &str = "apply";
/// Groups there may be, that of `[probe]` included.
pub(crate) const GROUPS_MAX: usize = 1024;
/// Cells, and series, of the first shard: of groups twice, as the old ones are held while the new ones come.
pub(crate) const OWN_SERIES: usize = SourceKind::ALL.len() + 2 + 2 * GROUPS_MAX;

/// The values of `group_info`'s labels.
pub(crate) type GroupLabels = [String; 7];

/// See the module's head.
pub(crate) struct OwnSeries {
    registry: SeriesRegistry,
    failures: BTreeMap<&'static str, CounterCell>,
    left_out: Option<GaugeCell>,
    groups: BTreeMap<GroupLabels, GaugeCell>,
}

impl OwnSeries {
    /// A table that is full leaves out what does not fit, and says so in the log.
    pub(crate) fn new(registry: SeriesRegistry) -> Self {
        let mut failures = BTreeMap::new();
        for source in SourceKind::ALL.map(SourceKind::label).into_iter().chain([APPLY]) {
            match registry.counter(SHARD, &DISCOVERY_FAILURES, &[source]) {
                Ok(cell) => {
                    failures.insert(source, cell);
                }
                Err(error) => tracing::error!("failures of {source} are not counted: {error}"),
            }
        }
        let left_out = registry.gauge(SHARD, &DISCOVERY_LEFT_OUT, &[]);
        let left_out =
            left_out.inspect_err(|error| tracing::error!("targets left out are not counted: {error}"));
        Self { registry, failures, left_out: left_out.ok(), groups: BTreeMap::new() }
    }

    /// What failed so far.
    pub(crate) fn note_failures(&mut self, source: &str, total: u64) {
        if let Some(cell) = self.failures.get_mut(source) {
            cell.add(total.saturating_sub(cell.get()));
        }
    }

    /// Once more a change could not be made.
    pub(crate) fn note_not_applied(&mut self) {
        if let Some(cell) = self.failures.get_mut(APPLY) {
            cell.add(1);
        }
    }

    pub(crate) fn note_left_out(&mut self, targets: usize) {
        if let Some(cell) = &mut self.left_out {
            cell.set(targets as f64);
        }
    }

    /// Has a series for each of these groups, and returns those of groups that are gone, to be retired.
    pub(crate) fn note_groups(&mut self, groups: &[GroupLabels]) -> Vec<MetricId> {
        let wanted: BTreeSet<&GroupLabels> = groups.iter().collect();
        let gone: Vec<_> = self.groups.extract_if(.., |labels, _| !wanted.contains(labels)).collect();
        for labels in wanted {
            if self.groups.contains_key(labels) {
                continue;
            }
            match self.registry.gauge(SHARD, &GROUP_INFO, &labels.each_ref().map(String::as_str)) {
                Ok(mut cell) => {
                    cell.set(1.0);
                    self.groups.insert(labels.clone(), cell);
                }
                Err(error) => tracing::error!("group {} has no series: {error}", labels[0]),
            }
        }
        gone.into_iter().map(|(_, cell)| cell.id()).collect()
    }
}
