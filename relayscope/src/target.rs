//! How targets and addresses are written.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The unprivileged STAMP port; RFC 8762's own is 862.
pub(crate) const REFLECTOR_PORT: u16 = 8620;
/// Where HTTP is served.
pub(crate) const HTTP_PORT: u16 = 9862;
/// Most octets of a name: it stands in every series of the target.
pub(crate) const NAME_LEN_MAX: usize = 128;

/// `[NAME=]ADDR`, where ADDR is a host or an address, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetArg {
    pub(crate) name: String,
    pub(crate) address: HostPort,
}

/// A host, by name or address, and a port. Not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    host: String,
    port: u16,
}

impl FromStr for TargetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').unwrap_or((text, text));
        Ok(Self { name: parse_name(name)?, address: address.parse()? })
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("'{text}' is no address; expected HOST, HOST:PORT or [IPV6]:PORT");
        let bare = match text.split_once("://") {
            None => text,
            Some(("stamp", bare)) => bare,
            Some((scheme, _)) => return Err(format!("protocol '{scheme}' is not supported; expected stamp")),
        };
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: REFLECTOR_PORT });
        }
        if let Ok(address) = bare.parse::<SocketAddr>() {
            let host = match address {
                // A link-local address means nothing without its scope.
                SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
                other => other.ip().to_string(),
            };
            return Self::new(host, address.port()).ok_or_else(expected);
        }
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| expected())?),
            None => (bare, REFLECTOR_PORT),
        };
        let is_host = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !is_host {
            return Err(expected());
        }
        Self::new(host.to_owned(), port).ok_or_else(expected)
    }
}

impl HostPort {
    fn new(host: String, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { host, port })
    }

    /// Looks the host up, once. Of several addresses the first counts.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, String> {
        let found = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| format!("cannot resolve '{}': {error}", self.host))?
            .next();
        found.ok_or_else(|| format!("'{}' has no address", self.host))
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
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

/// Checks a target's name: it becomes a label value and a row of a table.
pub(crate) fn parse_name(name: &str) -> Result<String, String> {
    let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if !fits {
        return Err(format!(
            "target name {name:?} is invalid; expected 1..={NAME_LEN_MAX} octets without control characters"
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_with_and_without_name_and_port() {
        for (text, name, address) in [
            ("b=127.0.0.1:8621", "b", "127.0.0.1:8621"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1:8620"),
            ("fra1=relay.example.net", "fra1", "relay.example.net:8620"),
            ("v6=[::1]:99", "v6", "[::1]:99"),
            ("v6=::1", "v6", "[::1]:8620"),
            ("l=[fe80::1%3]:99", "l", "[fe80::1%3]:99"),
            ("s=stamp://127.0.0.1:862", "s", "127.0.0.1:862"),
        ] {
            let target: TargetArg = text.parse().unwrap();
            assert_eq!((target.name.as_str(), target.address.to_string().as_str()), (name, address));
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
            ("q=quic://host", "protocol 'quic' is not supported; expected stamp"),
        ] {
            assert_eq!(text.parse::<TargetArg>().unwrap_err(), message);
        }
    }
}
