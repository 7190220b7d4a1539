//! The data plane: shards pinned to cores that probe peers and reflect their probes.
//!
//! Protocols and schedules are sans-IO: they take `now` and octets and return what to do. Only
//! [`driver`] touches sockets and clocks. A shard owns everything it works with; what it measures
//! leaves through a [`Publisher`](relayscope_bridge::Publisher), and nothing waits for a reader.
//!
//! Data flows: [`schedule`] says who is due, [`probe`] makes the packet, [`driver`] sends it and reads
//! replies, [`probe`] settles them into a [`window`], [`shard`] records what happened.
#![deny(unsafe_code)]

mod addresses;
pub mod clock;
pub mod driver;
pub mod endpoint;
pub mod key;
pub mod placement;
pub mod preflight;
pub mod probe;
pub mod prober;
pub mod reflector;
pub mod responder;
pub mod runtime;
pub mod schedule;
pub mod shard;
pub mod stall;
pub mod telemetry;
pub mod window;
pub mod wire;
