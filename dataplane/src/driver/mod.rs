//! The only room with sockets and clocks.
//!
//! [`udp`] is a socket that stamps; [`shard`] turns a sans-IO [`Shard`](crate::shard::Shard) once per
//! wake; [`glommio`] and [`poll`] decide when to wake, and [`control`] starts either; [`oneshot`] probes
//! one target from an ordinary thread.

pub mod clock;
pub mod control;
pub mod glommio;
pub mod listen;
mod mmsg;
pub mod oneshot;
pub mod poll;
pub mod shard;
mod tcp;
pub mod udp;
