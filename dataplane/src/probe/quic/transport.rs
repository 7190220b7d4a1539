//! What both ends of a QUIC probe share: quinn-proto's clock, bounds, and congestion window.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use quinn_proto::congestion::{Controller, ControllerFactory};
use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls_pki_types::UnixTime;

use crate::clock::{Monotonic, Realtime};

/// Octets of streams a peer may make us hold, by stream and by connection: HTTP/3 servers open three
/// control streams as soon as they may, and we read none.
const STREAM_WINDOW: u32 = 1024;
/// Octets of DATAGRAM frames held in either direction, with quinn's own 32 for each.
const DATAGRAM_BUFFER: usize = 4096;
/// Octets of handshake messages held until those before them came. A server's chain must fit.
const CRYPTO_BUFFER: usize = 32 << 10;
/// Octets in flight before probes wait. A probe is some 70 octets and they leave at a fixed rate, which
/// congestion control has nothing to add to: halving it on loss would blind the probe to just that loss.
const WINDOW: u64 = 64 << 10;

/// Largest octets of peers' data one connection can make this process hold. Beside it stand the state of
/// quinn-proto and rustls; the test `a_thousand_connections_*` prints what one takes.
pub const CONNECTION_BUFFERS_MAX: usize = STREAM_WINDOW as usize + 2 * DATAGRAM_BUFFER + 3 * CRYPTO_BUFFER;

/// Places our moments on the `Instant`s of quinn-proto, which are of `CLOCK_MONOTONIC`, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchor {
    pub(crate) instant: Instant,
    pub(crate) monotonic: Monotonic,
}

impl Anchor {
    /// The anchor itself for what was before it.
    pub(crate) fn instant(&self, at: Monotonic) -> Instant {
        self.instant.checked_add(at.since(self.monotonic)).unwrap_or(self.instant)
    }

    pub(crate) fn monotonic(&self, at: Instant) -> Monotonic {
        self.monotonic + at.saturating_duration_since(self.instant)
    }
}

/// The wall clock as TLS and retry tokens see it: what the driver said last.
#[derive(Debug, Default)]
pub(crate) struct WallClock(AtomicU64);

impl WallClock {
    // Relaxed, here and below: a moment and nothing else; no other memory goes with it.
    pub(crate) fn set(&self, now: Realtime) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl rustls::time_provider::TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.since_epoch()))
    }
}

impl quinn_proto::TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.since_epoch()
    }
}

/// The bounds of one connection of either side. `streams` is how many unidirectional ones a peer may open.
pub(crate) fn transport(idle: Duration, keep_alive: Option<Duration>, streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(streams))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(u64::from(STREAM_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .keep_alive_interval(keep_alive)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .enable_segmentation_offload(false)
        .congestion_controller_factory(Arc::new(FixedWindow));
    config
}

/// A window that stays as it is.
#[derive(Clone, Copy, Debug)]
struct FixedWindow;

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// When what is due, one moment for each key. O(log keys).
#[derive(Debug)]
pub(crate) struct Deadlines<K>(BTreeSet<(Monotonic, K)>);

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Moves a key from the moment it holds to another.
    pub(crate) fn set(&mut self, key: K, held: &mut Option<Monotonic>, due: Option<Monotonic>) {
        if *held == due {
            return;
        }
        if let Some(held) = *held {
            self.0.remove(&(held, key));
        }
        if let Some(due) = due {
            self.0.insert((due, key));
        }
        *held = due;
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn next(&self) -> Option<Monotonic> {
        self.0.first().map(|(due, _)| *due)
    }

    pub(crate) fn first_due(&self, now: Monotonic) -> Option<K> {
        self.0.first().filter(|(due, _)| *due <= now).map(|(_, key)| *key)
    }
}
