//! From what the planes say to what is written: totals read at their times, intervals by difference, and a queue that no disk
//! holds up.

mod peers;
mod queue;
mod recorder;
mod thread;
mod track;
mod writer;

pub use thread::{HistoryError, HistoryThread};

pub(crate) use peers::PeerStates;
pub(crate) use recorder::{Batch, Recorder};
pub(crate) use thread::{History, LOCKED};
pub(crate) use track::Reading;
