//! The data plane: shards pinned to cores that probe peers and reflect their probes.
//!
//! Protocols and schedules are sans-IO: they take `now` and octets and return what to do. Only
//! [`driver`] touches sockets and clocks. A shard owns everything it works with; what it measures
//! leaves through a [`Publisher`](relayscope_bridge::Publisher), and nothing waits for a reader.
//!
//! Data flows: [`schedule`] says who is due, [`probe`] makes the packet, [`driver`] sends it and reads
//! replies, [`probe`] settles them into a [`window`], [`shard`] records what happened.
//!
//! # Memory
//! An endpoint takes at most 2 kB of its shard, with its target and its probes in flight: 1.2 kB, 8 octets for each
//! probe of its window (60), and 16 for each probe it remembers: twice those that can be in flight, rounded up to
//! a power of two, at least 16 (up to seven intervals of timeout) and at most 4096. A QUIC endpoint has its connection
//! besides. Only what comes or goes, and what is due, is touched: a tick never walks all endpoints, to add or to
//! remove one takes the same time however many there are, and the first probes of many that are added at once leave
//! as spread over their interval as the later ones.
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
