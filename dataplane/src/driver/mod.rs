//! The only room with sockets and clocks.
//!
//! [`udp`] is a socket that stamps; [`shard`] turns a sans-IO [`Shard`](crate::shard::Shard) once per
//! wake; [`glommio`] decides when to wake; [`oneshot`] probes one target from an ordinary thread.

pub mod clock;
pub mod glommio;
mod mmsg;
pub mod oneshot;
pub mod shard;
mod tcp;
pub mod udp;
