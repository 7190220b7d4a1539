//! What the registry refuses, and what would be right.

use crate::sample::{MetricId, MetricKind, ShardId};

/// Why a series cannot be had or given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// The family is of another kind than what was asked for.
    #[error("family {family} is a {}; asked for a {}", .is.as_str(), .asked.as_str())]
    Kind {
        /// The family's name.
        family: &'static str,
        /// What it is.
        is: MetricKind,
        /// What was asked for.
        asked: MetricKind,
    },
    /// Not one value for each of the family's labels.
    #[error("family {family} has {expected} labels; got {got} values")]
    Labels {
        /// The family's name.
        family: &'static str,
        /// Labels it has.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// The series already has a writer: on this shard, or on any for gauges.
    #[error("series {family}{values:?} already has a writer; retire it first")]
    Taken {
        /// The family's name.
        family: &'static str,
        /// The label values.
        values: Vec<String>,
    },
    /// The series table is full.
    #[error("series table is full at {max}; raise max_series or probe fewer targets")]
    TableFull {
        /// Its size.
        max: usize,
    },
    /// The shard has no free cell.
    #[error("shard {} has all its {max} cells in use; raise cells_per_shard", .shard.0)]
    CellsFull {
        /// The shard.
        shard: ShardId,
        /// Cells it has.
        max: usize,
    },
    /// No such shard.
    #[error("shard {} does not exist; there are {shards}", .shard.0)]
    NoShard {
        /// The shard asked for.
        shard: ShardId,
        /// Shards there are.
        shards: usize,
    },
    /// The table of families is full.
    #[error("family table is full at {max}; declare fewer families")]
    FamiliesFull {
        /// Its size.
        max: usize,
    },
    /// The words for texts are all taken.
    #[error("no room for another text in the segment; raise max_series")]
    TextsFull,
    /// The file system of the segment has no room for what its tables would take.
    #[error("the file system of the segment is full; free some of it, or declare fewer series")]
    NoSpace,
    /// More labels, or a longer text, than a row holds.
    #[error("family {family}: {what} is {len} long; at most {max} fit")]
    TooLong {
        /// The family's name.
        family: String,
        /// Which of its parts.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The most it may be.
        max: usize,
    },
    /// The id is not live on that shard, or other shards write the series too: their sum would fall.
    #[error("series {} is not held by shard {} alone; it cannot be retired there", .id.0, .shard.0)]
    NotHeld {
        /// The id.
        id: MetricId,
        /// The shard.
        shard: ShardId,
    },
}
