//! What can happen to a probe, and why a datagram is no reply to one.

use std::net::SocketAddr;
use std::time::Duration;

use super::quic::FailureKind;

/// Something happened to a probe, or to what carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeEvent {
    /// Answered in time.
    Answered {
        /// Its sequence number.
        sequence: u32,
        /// Its round-trip time.
        rtt: Duration,
        /// Whether a probe sent after it had been answered before (RFC 4737).
        reordered: bool,
    },
    /// Not answered in time.
    Lost {
        /// Its sequence number.
        sequence: u32,
    },
    /// An error came back in its place, from the target or from a router: lost, and known at once.
    Bounced {
        /// Its sequence number.
        sequence: u32,
        /// What the error says.
        reason: SendError,
    },
    /// Disturbed by this host, which stalled or whose clock stepped: it says nothing.
    Discarded {
        /// Its sequence number.
        sequence: u32,
    },
    /// Answered after the timeout. Its probe was lost or discarded.
    Late {
        /// Its sequence number.
        sequence: u32,
    },
    /// Answered once more.
    Duplicate {
        /// Its sequence number.
        sequence: u32,
    },
    /// Dropped on its way out by a queue or device of this host: waited for all the same, as nobody can tell
    /// that from a loss further on.
    Dropped {
        /// Its sequence number.
        sequence: u32,
    },
    /// Never left this host.
    Unsent {
        /// Its sequence number.
        sequence: u32,
        /// Why.
        reason: SendError,
    },
    /// So many of the probes lost before are now known to have vanished on the way there, and so many on the
    /// way back.
    Directed {
        /// Lost before the reflector saw them.
        forward: u32,
        /// Answered, but the answer was lost.
        reverse: u32,
    },
    /// The address others see this host at is another one than before: a NAT lost its binding.
    Rebound {
        /// The new one.
        mapped: SocketAddr,
    },
    /// A connection for probes is there.
    Connected {
        /// From its first packet to the end of the handshake, where the kernel stamped that.
        handshake: Option<Duration>,
    },
    /// The connection for probes, or the attempt at one, came to an end.
    Disconnected {
        /// Why.
        kind: FailureKind,
    },
}

impl ProbeEvent {
    /// Whether a probe is no longer in flight by this: each probe settles once.
    pub fn settles(self) -> bool {
        match self {
            Self::Answered { .. }
            | Self::Lost { .. }
            | Self::Bounced { .. }
            | Self::Discarded { .. }
            | Self::Unsent { .. } => true,
            Self::Late { .. }
            | Self::Duplicate { .. }
            | Self::Dropped { .. }
            | Self::Directed { .. }
            | Self::Rebound { .. }
            | Self::Connected { .. }
            | Self::Disconnected { .. } => false,
        }
    }
}

/// Why a probe did not get through, as far as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Socket buffer full (EAGAIN): our own doing, says nothing about the target unless it lasts.
    WouldBlock,
    /// This process has no more descriptors, memory or ports, or no room for another connection: our own doing,
    /// says nothing however long it lasts.
    Exhausted,
    /// Taken, and dropped by a queue or device of this host (ENOBUFS).
    Dropped,
    /// No route, here or further on (ENETUNREACH, EHOSTUNREACH).
    Unreachable,
    /// Refused by the far end (ECONNREFUSED): nobody listens on that port.
    Refused,
    /// Forbidden here (EPERM, EACCES): a firewall on this host.
    Denied,
    /// The connection to send it over is being made: says nothing yet.
    Connecting,
    /// No connection to send it over: it could not be made, or waits for its next attempt.
    NotConnected,
    /// Anything else.
    Other,
}

impl SendError {
    /// All of them, in order of their series.
    pub const ALL: [Self; 9] = [
        Self::WouldBlock,
        Self::Exhausted,
        Self::Dropped,
        Self::Unreachable,
        Self::Refused,
        Self::Denied,
        Self::Connecting,
        Self::NotConnected,
        Self::Other,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::WouldBlock => "would_block",
            Self::Exhausted => "exhausted",
            Self::Dropped => "dropped",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Connecting => "connecting",
            Self::NotConnected => "not_connected",
            Self::Other => "other",
        }
    }
}

/// Why a datagram is no reply of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Shorter than a reply.
    #[error("shorter than a reply")]
    Short,
    /// Longer than the receive buffer, which holds any packet a path carries unfragmented.
    #[error("longer than any packet a path carries unfragmented")]
    Oversized,
    /// From an address that is no target's.
    #[error("from an address that is no target's")]
    UnknownSource,
    /// Of another session: the SSID, or the connection, is none of ours.
    #[error("of another session")]
    UnknownSession,
    /// Of a sequence number that was never sent or is long forgotten.
    #[error("of a sequence number never sent or long forgotten")]
    UnknownSequence,
    /// Does not carry what we sent, a timestamp or a random number: forged, or mangled on the way.
    #[error("without the timestamp or token that was sent")]
    TimestampMismatch,
    /// Its authentication code is wrong: another key, forged, or mangled on the way.
    #[error("with a wrong authentication code")]
    Unauthentic,
    /// Not of the protocol the target is probed with.
    #[error("malformed")]
    Malformed,
    /// More came at once than is kept.
    #[error("more came at once than is kept")]
    Backlog,
}

impl Refusal {
    /// All of them, in order of their series.
    pub const ALL: [Self; 9] = [
        Self::Short,
        Self::Oversized,
        Self::UnknownSource,
        Self::UnknownSession,
        Self::UnknownSequence,
        Self::TimestampMismatch,
        Self::Unauthentic,
        Self::Malformed,
        Self::Backlog,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::UnknownSource => "unknown_source",
            Self::UnknownSession => "unknown_session",
            Self::UnknownSequence => "unknown_sequence",
            Self::TimestampMismatch => "timestamp_mismatch",
            Self::Unauthentic => "unauthentic",
            Self::Malformed => "malformed",
            Self::Backlog => "backlog",
        }
    }
}
