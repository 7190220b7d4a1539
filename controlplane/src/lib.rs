//! The control plane of a relay: drains the rings, aggregates, and answers over HTTP.
//!
//! It polls and never wakes a shard: a scrape executes no instruction on a data-plane core. It opens
//! no sockets to peers; what it knows of them it reads from the series their probes write.
//!
//! - [`ControlPlane`] holds the [`Collector`] and everything derived from it, or
//!   [watches](ControlPlane::watch) for the segment of a data plane in another process. Memory is bounded by the
//!   hub's sizes, whoever scrapes or does not.
//! - [`ControlPlane::spawn_drain`] drains every 100 ms on a thread of its own and, when stopped, a last
//!   time: each sample recorded is delivered or counted as lost, to the unit.
//! - [`serve`] answers `/metrics`, `/mesh`, `/healthz` and `/readyz`, every wait and size bounded, over TLS and
//!   to known users alone where a [`WebConfig`] says so; [`ServerThread`] does so for an application without tokio.
//!
//! Prometheus text is written by two encoders that share no family: ours for everything per target
//! and per shard, `metrics-exporter-prometheus` for the process's own and whatever an application
//! records through the `metrics` facade. The library installs no global recorder; see
//! [`ControlPlane::recorder`].
//!
//! ```
//! use relayscope_bridge::{Hub, HubConfig, MetricSample, MetricValue, ShardId, catalogue, hub};
//! use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
//!
//! let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default())?;
//! let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
//! let rtt = registry.stream(ShardId(0), &catalogue::PROBE_RTT_SECONDS, &["relay-b", "ipv4"])?;
//!
//! let drain = plane.spawn_drain()?;
//! publishers[0].record(MetricSample {
//!     metric_id: rtt,
//!     timestamp_ns: 1_000,
//!     value: MetricValue::Histogram(0.000_25),
//! });
//! let accounts = drain.stop()?;
//! assert_eq!((accounts[0].1.delivered, accounts[0].1.lost), (1, 0));
//!
//! let text = String::from_utf8(plane.exposition().to_vec())?;
//! assert!(text.contains("relay_probe_rtt_seconds_count{target=\"relay-b\",family=\"ipv4\"} 1\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Collector`]: relayscope_bridge::Collector
#![forbid(unsafe_code)]

mod account;
mod aggregate;
mod alerts;
mod build;
mod clock;
pub mod discovery;
mod drain;
mod exposition;
mod health;
mod histogram;
pub mod history;
mod http;
mod ledger;
mod mesh;
mod own;
mod pace;
mod peers;
mod plane;
mod process;
mod process_io;
mod refresh;
mod relays;
mod roster;
mod scrape;
mod source;
mod sources;
mod stages;
mod trust;
mod url;
mod worker;

pub use alerts::{
    Alert, AlertEvent, AlertEvents, AlertName, AlertRules, AlertThread, AlertingConfig, AlertingError,
    AlertingOff, AlertmanagerConfig, AlertmanagerThread, EVENTS_MAX, Levels, RulesError, SUBSCRIBERS_MAX,
    SendError, Severity, Subject, SubscribeError, TooManySubscribers, check_alertmanager_url,
};
pub use build::Build;
pub use clock::Now;
pub use drain::{DrainPanicked, DrainThread};
pub use exposition::{Detail, Filter, Format};
pub use health::{Health, Readiness, ShardHealth, Status, Verdict};
pub use histogram::{Cut, ExponentialHistogram, Refusal};
pub use http::{
    HttpConfig, Limits, ReloadRequest, ServerPanicked, ServerThread, WebConfig, WebConfigError, router, serve,
};
pub use mesh::{Mesh, MeshCounts, MeshRow, MeshState};
pub use peers::PeerMetric;
pub use plane::{ConfigError, ControlPlane, ControlPlaneConfig};
pub use process_io::{IoRates, ProcessIo};
pub use refresh::TooManyRefreshers;
pub use relays::{
    RELAYS_MAX, RelayConfig, RelayUser, RelaysError, RelaysThread, check_relay_url, check_relays,
};
pub use roster::{Endpoint, Roster, Target, TargetReading};
pub use scrape::{Scrape, TooManyBodies};
pub use sources::{ShardSources, SourceAccount, SourceAccounts};
pub use stages::{Quantiles, StageLatencies, StageLatency};
pub use worker::{EndedEarly, Worker};
