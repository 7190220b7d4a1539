//! Where history is kept, and how much of it.

use std::path::PathBuf;

use super::retention::Retention;

/// Where history is kept, and how much of it.
///
/// ```
/// use relayscope_controlplane::history::{HistoryConfig, Retention};
///
/// let retention = Retention { bytes_max: 64 << 20, ..Retention::default() };
/// let config = HistoryConfig { path: "/var/lib/relayscope/history.db".into(), retention };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// The database. It and its directory are made where they are missing.
    pub path: PathBuf,
    /// How much is kept.
    pub retention: Retention,
}
