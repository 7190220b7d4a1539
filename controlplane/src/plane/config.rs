//! How the control plane works, and what it cannot work with.

use std::time::Duration;

use crate::build::Build;
use crate::exposition::{Detail, is_metric_name};

const DRAIN_INTERVAL_MIN: Duration = Duration::from_millis(1);
const DRAIN_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// How the control plane works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneConfig {
    /// Before each family's name, with an underscore: `relay` by default. May be empty.
    pub metric_prefix: String,
    /// Pause between drains: 1 ms..=10 s, 100 ms by default.
    pub drain_interval: Duration,
    /// After how long without a sign of life a shard counts as silent, and without a drain the
    /// control plane as stuck: at least two drain intervals, 5 s by default.
    pub stale_after: Duration,
    /// The core the drain thread runs on; any by default.
    pub drain_core: Option<usize>,
    /// How much of histograms a scrape shows that does not say: classic buckets by default.
    pub detail: Detail,
    /// The most series exposed, those of the `metrics` facade among them, a histogram being one: 1,000,000 by default,
    /// from 1 on. What comes beyond is left out and counted.
    pub series_max: usize,
    /// What `build_info` says: by default this library's version.
    pub build: Build,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        Self {
            metric_prefix: "relay".to_owned(),
            drain_interval: Duration::from_millis(100),
            stale_after: Duration::from_secs(5),
            drain_core: None,
            detail: Detail::default(),
            series_max: 1_000_000,
            build: Build::default(),
        }
    }
}

/// A configuration the control plane cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`ControlPlaneConfig::metric_prefix`].
    #[error("metric prefix {0:?} is invalid; expected letters, digits, _ and :, no digit first")]
    Prefix(String),
    /// See [`ControlPlaneConfig::drain_interval`].
    #[error("drain interval {0:?} is invalid; expected {DRAIN_INTERVAL_MIN:?}..={DRAIN_INTERVAL_MAX:?}")]
    DrainInterval(Duration),
    /// See [`ControlPlaneConfig::series_max`].
    #[error("series maximum 0 is invalid; expected at least 1")]
    SeriesMax,
    /// See [`ControlPlaneConfig::stale_after`].
    #[error("staleness {stale_after:?} is invalid; expected at least two drain intervals of {interval:?}")]
    StaleAfter {
        /// What was given.
        stale_after: Duration,
        /// The drain interval given with it.
        interval: Duration,
    },
}

impl ControlPlaneConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (prefix, interval, stale_after) = (&self.metric_prefix, self.drain_interval, self.stale_after);
        if !prefix.is_empty() && !is_metric_name(prefix) {
            return Err(ConfigError::Prefix(prefix.clone()));
        }
        if !(DRAIN_INTERVAL_MIN..=DRAIN_INTERVAL_MAX).contains(&interval) {
            return Err(ConfigError::DrainInterval(interval));
        }
        if self.series_max == 0 {
            return Err(ConfigError::SeriesMax);
        }
        if stale_after < 2 * interval {
            return Err(ConfigError::StaleAfter { stale_after, interval });
        }
        Ok(())
    }
}
