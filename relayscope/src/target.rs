//! How targets and addresses are written.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

pub(crate) use relayscope_controlplane::discovery::{HostPort, parse_name};

/// The unprivileged STAMP port; RFC 8762's own is 862.
pub(crate) const REFLECTOR_PORT: u16 = 8620;
/// Where QUIC probes are answered.
pub(crate) const RESPONDER_PORT: u16 = 8621;
/// Where HTTP is served.
pub(crate) const HTTP_PORT: u16 = 9862;

/// With what a target is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Stamp,
    Stun,
    Quic,
    Tcp,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Stamp, Self::Stun, Self::Quic, Self::Tcp];

    /// As in the file, before `://` and in the label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Stamp => "stamp",
            Self::Stun => "stun",
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }

    /// The port where none is given; `None` where one must be.
    pub(crate) fn default_port(self) -> Option<u16> {
        match self {
            Self::Stamp => Some(REFLECTOR_PORT),
            Self::Stun => Some(3478),
            Self::Quic => Some(443),
            Self::Tcp => None,
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.label() == text);
        found.ok_or_else(|| format!("protocol '{text}' is not known; expected stamp, stun, quic or tcp"))
    }
}

/// `[NAME=][PROTOCOL://]ADDR`, where ADDR is a host or an address, with or without a port. Without a
/// protocol it is STAMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetArg {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) address: HostPort,
}

impl FromStr for TargetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = split_name(text);
        let (protocol, address) = parse_url(url, Protocol::Stamp)?;
        Ok(Self { name: parse_name(name)?, protocol, address })
    }
}

/// `[NAME=]ADDR`: without a name the address as written is the name.
pub(crate) fn split_name(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, text))
}

/// Reads `[PROTOCOL://]ADDR`; `protocol` counts where none is given.
pub(crate) fn parse_url(text: &str, protocol: Protocol) -> Result<(Protocol, HostPort), String> {
    let (protocol, bare) = match text.split_once("://") {
        None => (protocol, text),
        Some((scheme, bare)) => (scheme.parse()?, bare),
    };
    Ok((protocol, HostPort::parse(bare, protocol.default_port())?))
}

/// Reads an address of this host, with `default_port` where none is given.
pub(crate) fn parse_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    text.parse().map_err(|_| {
        format!("'{text}' is no address; expected IP:PORT such as 127.0.0.1:{default_port}, or an IP alone")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_with_and_without_name_protocol_and_port() {
        for (text, name, protocol, address) in [
            ("b=127.0.0.1:8621", "b", "stamp", "127.0.0.1:8621"),
            ("127.0.0.1", "127.0.0.1", "stamp", "127.0.0.1:8620"),
            ("fra1=relay.example.net", "fra1", "stamp", "relay.example.net:8620"),
            ("v6=[::1]:99", "v6", "stamp", "[::1]:99"),
            ("v6=::1", "v6", "stamp", "[::1]:8620"),
            ("l=[fe80::1%3]:99", "l", "stamp", "[fe80::1%3]:99"),
            ("s=stamp://127.0.0.1:862", "s", "stamp", "127.0.0.1:862"),
            ("t=stun://turn.example.net", "t", "stun", "turn.example.net:3478"),
            ("quic://[::1]", "quic://[::1]", "quic", "[::1]:443"),
            ("w=tcp://192.0.2.1:80", "w", "tcp", "192.0.2.1:80"),
        ] {
            let target: TargetArg = text.parse().unwrap();
            assert_eq!(
                (target.name.as_str(), target.protocol.label(), target.address.to_string().as_str()),
                (name, protocol, address)
            );
        }
    }

    #[test]
    fn a_bad_target_says_what_is_right() {
        for (text, message) in [
            ("b=", "'' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            ("b=host:port", "'host:port' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            ("b=host:0", "'host:0' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            ("b=a b", "'a b' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            ("=host", "target name \"\" is invalid; expected 1..=128 octets without control characters"),
            ("q=ftp://host", "protocol 'ftp' is not known; expected stamp, stun, quic or tcp"),
            ("t=tcp://h", "'h' is no address with a port; expected HOST:PORT or [IPV6]:PORT"),
        ] {
            assert_eq!(text.parse::<TargetArg>().unwrap_err(), message);
        }
    }
}
