//! Packet formats, as bytes and nothing more.

pub mod ping;
pub mod stamp;
pub mod stun;
pub mod timestamp;
