//! What is probed and how, as configured: an endpoint is one address of a target.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::key::HmacKey;
use crate::probe::direction::ReflectorKind;
use crate::probe::quic::Client;

/// Probes a window spans where nothing else is configured.
pub const WINDOW_DEFAULT: usize = 60;
/// Probes a window may span.
pub const WINDOW_MAX: usize = 1024;

/// Whom to probe, and how.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Where.
    pub address: SocketAddr,
    /// Time from probe to probe.
    pub interval: Duration,
    /// Tmax: a reply after this is late. Less than [`IN_FLIGHT_MAX`](crate::probe::account::IN_FLIGHT_MAX)
    /// intervals.
    pub timeout: Duration,
    /// Settled probes the window spans: 2..=[`WINDOW_MAX`].
    pub window: usize,
    /// From where and with what priority.
    pub path: Path,
    /// With what.
    pub protocol: Protocol,
    /// Spreads phases: a hash of the target's name.
    pub phase_hash: u64,
}

impl EndpointConfig {
    /// Probed once a second, each probe lost after a second; the phase is of no name.
    pub fn new(address: SocketAddr, protocol: Protocol) -> Self {
        let second = Duration::from_secs(1);
        Self {
            address,
            interval: second,
            timeout: second,
            window: WINDOW_DEFAULT,
            path: Path::default(),
            protocol,
            phase_hash: 0,
        }
    }
}

/// How probes leave this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// From this address of ours, or from whichever the route says.
    pub source: Option<IpAddr>,
    /// Differentiated services codepoint (RFC 2474): 0..=63.
    pub dscp: u8,
}

/// How a target is probed.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// STAMP (RFC 8762).
    Stamp(Stamp),
    /// STUN Binding (RFC 8489).
    Stun,
    /// TCP connect.
    Tcp,
    /// QUIC (RFC 9000).
    Quic(Arc<Client>),
}

impl Protocol {
    /// The value of the `protocol` label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Stamp(_) => "stamp",
            Self::Stun => "stun",
            Self::Tcp => "tcp",
            Self::Quic(_) => "quic",
        }
    }
}

/// How a STAMP reflector is probed.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// Shared with the reflector: probes are authenticated, and replies that are not are refused.
    pub key: Option<Arc<HmacKey>>,
    /// Whether it counts its replies.
    pub reflector: ReflectorKind,
}
