//! A host and a port as people write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// A host, by name or address, and a port. Not resolved.
///
/// ```
/// use relayscope_controlplane::discovery::HostPort;
///
/// let named = HostPort::parse("relay.example.net", Some(8620))?;
/// assert_eq!((named.to_string().as_str(), named.literal()), ("relay.example.net:8620", None));
/// let literal = HostPort::parse("[::1]:862", Some(8620))?;
/// assert_eq!(literal.literal(), Some("[::1]:862".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Reads `HOST`, `HOST:PORT`, `IP` or `[IPV6]:PORT`; without a port `default_port` counts.
    ///
    /// # Errors
    /// A sentence that names the text and what would be right.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        let expected = || match default_port {
            Some(_) => format!("'{text}' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            None => format!("'{text}' is no address with a port; expected HOST:PORT or [IPV6]:PORT"),
        };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Self::new(ip.to_string(), default_port.unwrap_or(0)).ok_or_else(expected);
        }
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(Ok(v6)) = bracketed.map(str::parse::<Ipv6Addr>) {
            return Self::new(v6.to_string(), default_port.unwrap_or(0)).ok_or_else(expected);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = match address {
                // A link-local address means nothing without its scope.
                SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
                other => other.ip().to_string(),
            };
            return Self::new(host, address.port()).ok_or_else(expected);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| expected())?),
            None => (text, default_port.unwrap_or(0)),
        };
        let is_host = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !is_host {
            return Err(expected());
        }
        Self::new(host.to_owned(), port).ok_or_else(expected)
    }

    /// `None` for port 0, which nobody listens on.
    pub(super) fn new(host: String, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { host, port })
    }

    /// The name or address alone.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if it is one and no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, self.port));
        }
        self.host.contains('%').then(|| self.to_string().parse().ok()).flatten()
    }

    /// Looks the host up, once, as this host's own programs do. Of several addresses the first counts.
    /// Blocks.
    ///
    /// # Errors
    /// A sentence that names the host.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        if let Some(literal) = self.literal() {
            return Ok(literal);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let address = HostPort::parse("[fe80::1%3]:99", None).unwrap();
        assert_eq!(address.to_string(), "[fe80::1%3]:99");
        assert_eq!(address.literal(), Some("[fe80::1%3]:99".parse().unwrap()));
    }

    #[test]
    fn where_there_is_no_default_a_port_is_asked_for() {
        let expected =
            |text| format!("'{text}' is no address with a port; expected HOST:PORT or [IPV6]:PORT");
        for text in ["host", "127.0.0.1", "::1", "host:0"] {
            assert_eq!(HostPort::parse(text, None).unwrap_err(), expected(text));
        }
    }
}
