//! What of an exposition a scrape wants.

use std::collections::BTreeSet;

use relayscope_bridge::{MetricId, MetricKind, SeriesView};

use super::encoder::Head;
use super::names::sample_names;

/// The label that [`Filter::targets`] looks at.
const TARGET: &str = "target";
/// The most names, and the most targets, of one scrape.
pub(crate) const FILTER_MAX: usize = 256;

/// Of an exposition only some families, or only some targets, or both. The default wants everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Families by their name or by that of one of their samples; all of them where it is empty.
    pub names: BTreeSet<String>,
    /// Series that have one of these in their label `target`, and no others; all of them where it is empty.
    pub targets: BTreeSet<String>,
}

impl Filter {
    pub(crate) fn wants_everything(&self) -> bool {
        self.names.is_empty() && self.targets.is_empty()
    }

    pub(crate) fn wants_family(&self, head: &Head<'_>) -> bool {
        let is_named =
            |name: &str, kind: MetricKind| sample_names(name, kind).iter().any(|n| self.names.contains(n));
        self.names.is_empty() || is_named(head.name, head.kind)
    }

    /// Of a series with these labels.
    pub(crate) fn wants_labels<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let is_wanted = |(name, value): (&str, &str)| name == TARGET && self.targets.contains(value);
        self.targets.is_empty() || labels.into_iter().any(is_wanted)
    }

    pub(crate) fn wants_series(&self, view: &SeriesView<'_>, id: MetricId) -> bool {
        self.targets.is_empty()
            || view.get(id).is_some_and(|series| {
                self.wants_labels(series.family.labels.iter().copied().zip(series.values.iter()))
            })
    }
}
