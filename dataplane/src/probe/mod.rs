//! Probing sessions: one with each endpoint. Sans-IO.
//!
//! [`Session`] makes probes and settles them; its [`account`] knows which are in flight and how each ended,
//! whatever the protocol; `stamp` and `stun` know what stands in a packet, [`quic`] keeps connections;
//! [`direction`] tells where probes vanish.

pub mod account;
pub mod direction;
pub mod event;
mod history;
pub mod quic;
mod session;
mod stamp;
mod stun;

pub use account::IN_FLIGHT_MAX;
pub use event::{ProbeEvent, Refusal, SendError};
pub use session::{Outgoing, Packet, Payload, Session};
