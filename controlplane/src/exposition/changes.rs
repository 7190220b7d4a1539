//! Which series came and went since they were last looked at.

use std::collections::HashSet;

use relayscope_bridge::catalogue::Family;
use relayscope_bridge::{MetricId, SeriesRef, SeriesView};

/// The series there were.
#[derive(Default)]
pub(crate) struct Known {
    /// By id: incarnation and family; none where there was no series.
    by_id: Vec<Option<(u64, &'static Family)>>,
}

/// What changed since.
pub(crate) struct Changes<'a> {
    pub(crate) gone: HashSet<MetricId>,
    /// Of what is gone.
    pub(crate) families: HashSet<&'static str>,
    /// In order of id. One that took over the id of one that is gone is here, too.
    pub(crate) came: Vec<SeriesRef<'a>>,
}

impl Known {
    /// Takes in the series there are now. O(series), a number compared for each that stands.
    pub(crate) fn follow<'a>(&mut self, series: &'a SeriesView<'a>) -> Changes<'a> {
        let mut changes = Changes { gone: HashSet::new(), families: HashSet::new(), came: Vec::new() };
        let mut next = 0;
        for live in series.series() {
            let index = live.id.index();
            if index >= self.by_id.len() {
                self.by_id.resize(index + 1, None);
            }
            for passed in next..index {
                self.forget(passed, &mut changes);
            }
            next = index + 1;
            if self.by_id[index].is_some_and(|(incarnation, _)| incarnation == live.incarnation) {
                continue;
            }
            self.forget(index, &mut changes);
            self.by_id[index] = Some((live.incarnation, live.family));
            changes.came.push(live);
        }
        for passed in next..self.by_id.len() {
            self.forget(passed, &mut changes);
        }
        changes
    }

    fn forget(&mut self, index: usize, changes: &mut Changes<'_>) {
        if let Some((_, family)) = self.by_id[index].take() {
            changes.gone.extend(u32::try_from(index).map(MetricId));
            changes.families.insert(family.name);
        }
    }
}
