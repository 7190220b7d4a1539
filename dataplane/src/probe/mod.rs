//! One probing session with one target, by protocol.

pub mod stamp;
