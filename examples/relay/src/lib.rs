//! A thread-per-core UDP relay: small enough to read in an evening, real enough to be measured.
//!
//! Clients join rooms; what a member sends reaches the room's other members. A room lives on one shard, chosen by
//! its name's hash, so that a packet takes no lock and crosses no core. Every bound is stated, whatever is not
//! forwarded is counted by reason, and the packet path does nothing for telemetry but write a few words.
//!
//! In the order in which a packet passes:
//!
//! - [`wire`]: what the packets look like. [`token`] and [`cookie`]: who may join, and from where.
//! - [`admission`]: what is checked before there is a session. [`session`], [`room`]: who is there.
//! - [`relay`]: decides what becomes of a packet. Sans-IO: it takes `now` and octets, and hands octets on.
//! - [`instruments`]: what is recorded of it, and [`recorded`](instruments::recorded): how that goes through
//!   relayscope's bridge; [`desk`](instruments::desk) gives out the series of sessions and takes them back.
//! - [`dataplane`]: shards on glommio, each with its socket, its relay, and relayscope's probes.
//! - [`web`]: browsers as members, over WebSockets; [`frames`] is what shards and bridge pass each other.
//! - [`server`]: both planes together.
//!
//! And from outside: [`load`] puts clients into rooms and knows where each packet is in the end.
#![forbid(unsafe_code)]

pub mod admission;
pub mod cookie;
pub mod dataplane;
pub mod frames;
pub mod instruments;
pub mod load;
pub mod relay;
pub mod room;
pub mod server;
pub mod session;
pub mod token;
pub mod web;
pub mod wire;
