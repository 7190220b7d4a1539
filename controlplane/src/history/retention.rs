//! How long history is kept, and how much of it.

use std::time::Duration;

use super::tier::Tier;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is kept: the oldest goes first, by time and, where that is not enough, by size.
///
/// ```
/// use relayscope_controlplane::history::{Retention, Tier};
///
/// let retention = Retention { bytes_max: 64 << 20, ..Retention::default() };
/// assert_eq!(retention.of(Tier::TenSeconds).as_secs(), 48 * 3600);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// By [`Tier`], in the order of [`Tier::ALL`]: 48 hours, 14 days and 400 days by default. Whole hours are dropped once all of
    /// them is older.
    pub tiers: [Duration; Tier::ALL.len()],
    /// Of events: 400 days by default.
    pub events: Duration,
    /// The database and its log on disk: 2 GiB by default. Where there is more, the oldest hours of the finest tier that has any
    /// go first.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { tiers: [48 * HOUR, 14 * DAY, 400 * DAY], events: 400 * DAY, bytes_max: 2 << 30 }
    }
}

impl Retention {
    /// Of a tier.
    pub const fn of(&self, tier: Tier) -> Duration {
        self.tiers[tier.code() as usize]
    }
}
