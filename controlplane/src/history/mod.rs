//! History on disk: what every target said, for whoever looks later.
//!
//! One thread writes it to an embedded SQLite database, and no drain ever waits for that thread. What is kept is one
//! [`Interval`] for each target, address family and [`Tier`], and the [`Event`]s beside them.
//!
//! What is appended goes to the end of a table of small rows, the head. When an hour is over, [`Store::tidy`] folds it into
//! compressed chunks, one for each target and tier, that lie by target: a plot reads neighbours. [`Reader`]s take both.
//! Times are kept [within a thousandth](RttSummary).
//!
//! `recording/` is what leads there from the planes; the rest is the database: what one interval is in octets (`bits`, `scale`,
//! `record`, `chunk`, `head`, `key`), the file (`schema`, `file`, `store`, `fold`, `tidy`, `retention`, `statistics`), and
//! reading it (`reader`, `query`, `downsample`, `interrupt`, `moment`).

mod bits;
mod chunk;
mod config;
mod downsample;
mod error;
mod event;
mod file;
mod fold;
mod head;
mod interrupt;
mod interval;
mod key;
mod moment;
mod query;
mod reader;
mod record;
mod recording;
mod retention;
mod scale;
mod schema;
mod statistics;
mod store;
#[cfg(test)]
mod tests;
mod tidy;
mod tier;

pub use config::HistoryConfig;
pub use error::{OpenError, StoreError, StoreErrorKind};
pub use event::{Event, EventKind};
pub use interval::{Interval, QUANTILES, RttSummary, TargetKey};
pub use moment::{MomentError, StepError, parse_moment, parse_step};
pub use query::{HistoryQuery, INTERVALS_MAX, POINTS_DEFAULT_MAX, POINTS_MAX, Points, QueryError};
pub use reader::{EVENTS_ANSWERED_MAX, Happened, Reader};
pub use recording::{HistoryError, HistoryThread};
pub use retention::Retention;
pub use statistics::{Statistics, TierStatistics};
pub use store::{Appended, EVENT_TEXT_BYTES_MAX, Store, TARGETS_MAX};
pub use tidy::{EVENTS_MAX, Tidied};
pub use tier::Tier;

pub use relayscope_sqlite_status::CacheUse;

pub(crate) use interrupt::Interrupt;
pub(crate) use recording::{Batch, History, LOCKED, PeerStates, Reading, Recorder};
