//! History on disk: what every target said, for whoever looks later.
//!
//! One thread writes it to an embedded SQLite database, and no drain ever waits for that thread. What is kept is one
//! [`Interval`] for each target, address family and [`Tier`], and the [`Event`]s beside them.

mod event;
mod interval;
mod tier;

pub use event::{Event, EventKind};
pub use interval::{Interval, QUANTILES, RttSummary, TargetKey};
pub use tier::Tier;
