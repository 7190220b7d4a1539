//! QUIC probes (RFC 9000), sans-IO: one connection per target, kept for hours.
//!
//! A server that speaks [`ALPN`], as our own [`responder`](crate::responder) does, is probed with Ping and
//! Pong in DATAGRAM frames (RFC 9221, [`wire::ping`](crate::wire::ping)). Any other server is probed with
//! PING frames, which it must acknowledge (RFC 9000 section 13.2).
//!
//! RTT is T4 - T1 - turnaround, as with STAMP. T1 is when the datagram with the probe was sent, T4 when the kernel stamped its answer. Turnaround is T3 - T2 of the Pong, or, with PING frames,
//! the delay the ACK frame says its largest packet was held for. (RFC 9002 section 5.3 takes that out, too,
//! but leaves it in where the RTT would fall below the least one seen, which is that of a handshake. That
//! guards congestion control against a lying peer; a probe would just be wrong by up to 25 ms.) A PING that
//! is acknowledged together with a later packet takes the RTT of that. ACK delays come in units of 8 us,
//! rounded down, so such an RTT may be up to 8 us too long.
//!
//! Handshake time is from the first Initial sent to the arrival of the datagram that completed the
//! handshake, so it contains retransmissions and the server's cryptography.
//!
//! A lost connection is made anew after [`RETRY_FIRST`], twice that the next time and so on to
//! [`RETRY_MAX`], each a fifth more or less, and from the beginning once a connection lasted for
//! [`STEADY`].

mod client;
mod connection;
mod failure;
mod frames;
mod prober;
mod tap;
pub(crate) mod transport;

use std::net::SocketAddr;
use std::time::Duration;

pub use client::{Client, ClientError, ClientOptions, IDLE_DEFAULT, Verification, native_roots};
pub use failure::{Failure, FailureKind};
pub use prober::{QuicProber, RETRY_FIRST, RETRY_MAX, STEADY};
pub use transport::CONNECTION_BUFFERS_MAX;

use crate::clock::Arrival;

/// The application protocol of our own responder.
pub const ALPN: &[u8] = b"relayscope/1";

/// How a connection is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Ping and Pong in DATAGRAM frames.
    Datagram,
    /// PING frames.
    Ping,
}

/// Something happened to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A probe was answered, perhaps long ago, perhaps once more: the account of probes knows.
    Answered {
        /// Its sequence number.
        sequence: u32,
        /// T4.
        arrival: Arrival,
        /// How long the peer says it held the probe, where that makes sense.
        turnaround_ns: Option<u64>,
    },
    /// A probe that was queued never left, for the connection was lost before.
    Unsent {
        /// Its sequence number.
        sequence: u32,
    },
    /// The handshake is complete.
    Connected {
        /// How long it took; `None` when the kernel did not stamp the arrival that completed it.
        handshake: Option<Duration>,
        /// How the connection is probed.
        mode: Mode,
    },
    /// No connection came about.
    ConnectFailed {
        /// Why.
        failure: Failure,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// The connection was lost.
    Closed {
        /// Why.
        failure: Failure,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// A datagram to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose it is; `None` for the farewell to a target that was removed.
    pub key: Option<u32>,
    /// Where to.
    pub destination: SocketAddr,
    /// Its octets in the buffer, from the start.
    pub len: usize,
    /// The probe it carries, if it does. T1 is the clock read once more, just before the send: to encrypt
    /// the datagram took some microseconds.
    pub probe: Option<u32>,
}

/// Why a slot passed without a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unprobed {
    /// There is no connection, yet or any more.
    #[error("not connected")]
    NotConnected,
    /// The probe before is still waiting to be sent.
    #[error("the probe before has not been sent yet")]
    Blocked,
}

/// Why a datagram from a probing socket, or what it carried, was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Of no connection of ours, or no QUIC at all.
    #[error("of no connection of ours")]
    UnknownConnection,
    /// Carried a datagram that is no Pong.
    #[error("not a pong")]
    NotPong,
    /// Carried a Pong without the token that was sent.
    #[error("without the token that was sent")]
    TokenMismatch,
    /// Events are not being polled.
    #[error("more events than are polled")]
    Full,
}

impl Refused {
    /// All of them, in order of their series.
    pub const ALL: [Self; 4] = [Self::UnknownConnection, Self::NotPong, Self::TokenMismatch, Self::Full];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownConnection => "unknown_session",
            Self::NotPong => "not_pong",
            Self::TokenMismatch => "token_mismatch",
            Self::Full => "full",
        }
    }
}

/// What the transport knows of a target's path (RFC 9002).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Smoothed RTT, ACK delays mostly taken out.
    pub rtt: Duration,
    /// Packets declared lost, of this connection.
    pub lost_packets: u64,
    /// Packets sent, of this connection.
    pub sent_packets: u64,
    /// Times loss or ECN would have called for less.
    pub congestion_events: u64,
    /// Largest UDP payload the path is known to carry.
    pub mtu: u16,
}
