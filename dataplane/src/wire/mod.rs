//! Packet formats, as bytes and nothing more.

pub mod ping;
pub mod replay;
pub mod stamp;
pub mod stamp_auth;
pub mod stun;
pub mod timestamp;
pub mod tlv;
