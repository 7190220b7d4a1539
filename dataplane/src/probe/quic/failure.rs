//! Why there is no connection, in words that say what to do.

use std::fmt;

use quinn_proto::ConnectionError;

use super::client::Client;

/// TLS alerts are QUIC errors from here on (RFC 9001 section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
const NO_APPLICATION_PROTOCOL: u64 = CRYPTO_ERROR + 120;
const INTERNAL_ERROR: u64 = CRYPTO_ERROR + 80;
const UNRECOGNIZED_NAME: u64 = CRYPTO_ERROR + 112;
const CONNECTION_REFUSED: u64 = 0x02;
/// How rustls begins what it says of certificates.
const BAD_CERTIFICATE: &str = "invalid peer certificate: ";
/// Characters kept of what a peer says.
const DETAIL_MAX: usize = 200;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The server's certificate is not trusted.
    Certificate,
    /// No protocol or version in common.
    Protocol,
    /// The server refused.
    Refused,
    /// Nothing was heard for the idle timeout.
    Timeout,
    /// The server has forgotten the connection: it restarted.
    Reset,
    /// The server closed the connection.
    Closed,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// All of them, in order of their series.
    pub const ALL: [Self; 7] = [
        Self::Certificate,
        Self::Protocol,
        Self::Refused,
        Self::Timeout,
        Self::Reset,
        Self::Closed,
        Self::Other,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

/// Why a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// For people, with a remedy where there is one.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        Self { kind, detail: detail.chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect() }
    }

    pub(super) fn of(error: &ConnectionError, client: &Client) -> Self {
        match error {
            ConnectionError::TransportError(error) => Self::of_transport(&error.reason, &error.to_string()),
            ConnectionError::ConnectionClosed(close) => {
                Self::of_close(u64::from(close.error_code), &close.to_string(), client)
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::new(FailureKind::Closed, format!("server closed the connection: {close}"))
            }
            ConnectionError::Reset => {
                Self::new(FailureKind::Reset, "server knows nothing of the connection: it restarted")
            }
            ConnectionError::TimedOut => {
                Self::new(FailureKind::Timeout, format!("nothing heard for {:?}", client.idle))
            }
            ConnectionError::VersionMismatch => {
                Self::new(FailureKind::Protocol, "server does not speak QUIC version 1")
            }
            other => Self::new(FailureKind::Other, other.to_string()),
        }
    }

    fn of_transport(reason: &str, whole: &str) -> Self {
        let Some(why) = reason.strip_prefix(BAD_CERTIFICATE) else {
            return Self::new(FailureKind::Other, whole);
        };
        let remedy = if why.contains("not valid for name") {
            "set server_name to a name it is for"
        } else {
            "give ca_file or --insecure"
        };
        Self::new(FailureKind::Certificate, format!("certificate not trusted: {why}; {remedy}"))
    }

    fn of_close(code: u64, whole: &str, client: &Client) -> Self {
        match code {
            NO_APPLICATION_PROTOCOL => {
                let offered: Vec<_> = client.alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
                let offered = offered.join(", ");
                Self::new(
                    FailureKind::Protocol,
                    format!("server speaks none of {offered}; set alpn to one it does"),
                )
            }
            // Servers with a certificate for each name say either of a name they have none for.
            INTERNAL_ERROR | UNRECOGNIZED_NAME => {
                let name = &client.server_name;
                Self::new(
                    FailureKind::Certificate,
                    format!(
                        "{whole}; server may have no certificate for {name:?}, set server_name to a name it has one for"
                    ),
                )
            }
            CONNECTION_REFUSED => Self::new(FailureKind::Refused, "server refused the connection"),
            _ => Self::new(FailureKind::Closed, format!("server closed the connection: {whole}")),
        }
    }
}
