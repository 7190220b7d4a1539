//! Which series came and went since they were last looked at.

use relayscope_bridge::{MetricId, SeriesView};

/// No series had the id.
const NONE: u32 = 0;

/// The series there were: four octets for each.
#[derive(Default)]
pub(crate) struct Known {
    /// By id: the incarnation, of which the low half is enough. Two series of one id are told apart unless 2^31
    /// others had it in between.
    by_id: Vec<u32>,
}

/// What changed since.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) gone: Gone,
    /// In order of id. One that took over the id of one that is gone is here, too.
    pub(crate) came: Vec<MetricId>,
}

/// Ids of series that are gone.
#[derive(Default)]
pub(crate) struct Gone {
    /// A bit for each.
    bits: Vec<u64>,
}

impl Gone {
    pub(crate) fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    pub(crate) fn contains(&self, id: MetricId) -> bool {
        self.bits.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    fn insert(&mut self, index: usize) {
        if index / 64 >= self.bits.len() {
            self.bits.resize(index / 64 + 1, 0);
        }
        self.bits[index / 64] |= 1 << (index % 64);
    }
}

impl Known {
    /// Takes in the series there are now. O(series), a number compared for each that stands.
    pub(crate) fn follow(&mut self, series: &SeriesView<'_>) -> Changes {
        let mut changes = Changes::default();
        let mut next = 0;
        for live in series.series() {
            let index = live.id.index();
            if index >= self.by_id.len() {
                self.by_id.resize(index + 1, NONE);
            }
            for passed in next..index {
                self.forget(passed, &mut changes.gone);
            }
            next = index + 1;
            let incarnation = short(live.incarnation);
            if self.by_id[index] == incarnation {
                continue;
            }
            self.forget(index, &mut changes.gone);
            self.by_id[index] = incarnation;
            changes.came.push(live.id);
        }
        for passed in next..self.by_id.len() {
            self.forget(passed, &mut changes.gone);
        }
        changes
    }

    fn forget(&mut self, index: usize, gone: &mut Gone) {
        if std::mem::replace(&mut self.by_id[index], NONE) != NONE {
            gone.insert(index);
        }
    }
}

fn short(incarnation: u64) -> u32 {
    // The mask keeps what fits, so the cast drops nothing.
    ((incarnation & u64::from(u32::MAX)) as u32).max(NONE + 1)
}
