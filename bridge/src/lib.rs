//! What a relay's pinned cores and its control plane share, and nothing else.
//!
//! A data-plane core holds one [`Publisher`]. Recording through it is wait-free, never allocates,
//! never makes a system call and reads nothing that a reader writes: a slow, stopped or absent
//! control plane costs the core nothing. The control plane holds the [`Collector`] and polls.
//!
//! Two shapes of data cross:
//!
//! - **Cells** ([`CounterCell`], [`GaugeCell`]) hold counters and last values. They lose nothing:
//!   one word each, written only by its owner.
//! - **The ring** ([`TelemetryRing`]) carries streams: histogram observations, timestamped gauge
//!   readings, state changes. It overwrites the oldest when full, and every reader knows to the
//!   unit what it missed.
//!
//! ```
//! use relayscope_bridge::{catalogue, hub, Hub, HubConfig, MetricSample, MetricValue, ShardId};
//!
//! let Hub { mut publishers, registry, mut collector, .. } = hub(HubConfig::default())?;
//! let shard = ShardId(0);
//!
//! // Control plane: give the shard the series it will write.
//! let mut sent = registry.counter(shard, &catalogue::PROBE_SENT, &["relay-b", "ipv4"])?;
//! let rtt = registry.stream(shard, &catalogue::PROBE_RTT_SECONDS, &["relay-b", "ipv4"])?;
//!
//! // Data plane: record.
//! sent.add(1);
//! publishers[0].record(MetricSample {
//!     metric_id: rtt,
//!     timestamp_ns: 1_000,
//!     value: MetricValue::Histogram(0.000_25),
//! });
//!
//! // Control plane: drain.
//! let mut seen = Vec::new();
//! let drained = collector.drain(shard, |sample| seen.push(sample));
//! assert_eq!((drained.delivered, drained.lost), (1, 0));
//! assert_eq!(seen[0].value, MetricValue::Histogram(0.000_25));
//! assert_eq!(collector.counter(sent.id()), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod catalogue;
mod cell;
#[cfg(not(loom))]
mod clock;
mod hub;
#[cfg(all(feature = "metrics", not(loom)))]
mod recorder;
mod ring;
mod sample;
pub mod segment;
mod series;
#[doc(hidden)]
pub mod sync;
mod words;

pub use cell::{CounterCell, GaugeCell};
#[cfg(not(loom))]
pub use clock::now_ns;
pub use hub::{Collector, Heartbeat, Hub, HubConfig, HubError, Publisher, ShardReader, hub};
#[cfg(not(loom))]
pub use hub::{attach, create};
#[cfg(all(feature = "metrics", not(loom)))]
pub use recorder::{ParkedRecorder, RecorderError, ShardRecorder};
pub use ring::{Account, CapacityError, Consumer, Drained, Mark, Producer, Start, TelemetryRing};
pub use sample::{DecodeError, MetricId, MetricKind, MetricSample, MetricValue, SAMPLE_WORDS, ShardId};
pub use segment::layout::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
pub use series::directory::{SeriesDirectory, SeriesRef, SeriesView, Values};
pub use series::error::SeriesError;
pub use series::registry::{RetireTicket, Room, SeriesRegistry, Together};
