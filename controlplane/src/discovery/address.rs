//! A host and a port as people write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Most octets of a label of a name, and of the whole name as it is written (RFC 1035, section 2.3.4, and
/// RFC 1123, section 2.1).
const LABEL_LEN_MAX: usize = 63;
const HOST_LEN_MAX: usize = 253;

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
    /// Reads `HOST`, `HOST:PORT`, `IP` or `[IPV6]:PORT`; without a port `default_port` counts. A name has
    /// labels of 1 to 63 octets and at most 253 in all; an address is one that a single host can have.
    ///
    /// # Errors
    /// A sentence that names the text and what would be right.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        let expected = || match default_port {
            Some(_) => format!("'{text}' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            None => format!("'{text}' is no address with a port; expected HOST:PORT or [IPV6]:PORT"),
        };
        if let Ok(ip) = text.parse::<IpAddr>() {
            check_ip(ip)?;
            return Self::new(ip.to_string(), default_port.unwrap_or(0)).ok_or_else(expected);
        }
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(Ok(v6)) = bracketed.map(str::parse::<Ipv6Addr>) {
            check_ip(IpAddr::V6(v6))?;
            return Self::new(v6.to_string(), default_port.unwrap_or(0)).ok_or_else(expected);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            check_ip(address.ip())?;
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
        check_labels(host)?;
        Self::new(host.to_owned(), port).ok_or_else(expected)
    }

    /// `None` for port 0, which nobody listens on.
    fn new(host: String, port: u16) -> Option<Self> {
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

fn check_labels(host: &str) -> Result<(), String> {
    // The dot at the end of a name stands for the root, whose label is empty.
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |label: &str| (1..=LABEL_LEN_MAX).contains(&label.len());
    if name.len() <= HOST_LEN_MAX && name.split('.').all(fits) {
        return Ok(());
    }
    let shown: String = host.chars().take(HOST_LEN_MAX).collect();
    Err(format!(
        "'{shown}' is no host name; expected labels of 1..={LABEL_LEN_MAX} octets between single dots, at most {HOST_LEN_MAX} octets in all"
    ))
}

/// Checks that one host alone can be at an address.
///
/// # Errors
/// A sentence that names it and what would be right.
pub(super) fn check_ip(ip: IpAddr) -> Result<(), String> {
    let canonical = ip.to_canonical();
    let broadcast = canonical == IpAddr::V4(Ipv4Addr::BROADCAST);
    if !canonical.is_unspecified() && !canonical.is_multicast() && !broadcast {
        return Ok(());
    }
    Err(format!(
        "{ip} is no address of one host; expected one that is not unspecified, multicast or broadcast"
    ))
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
    fn a_name_has_labels_of_the_dns() {
        let label = "a".repeat(63);
        let most = [label.as_str(); 4].join(".")[..253].to_owned();
        for right in ["a", "a.b", "a.b.", "_stamp._udp.a-b", &label, &most] {
            assert_eq!(HostPort::parse(right, Some(1)).unwrap().host(), right);
        }
        let long = format!("{label}a.b");
        for wrong in ["a..b", ".", ".a", "a..", &long, &format!("{most}a")] {
            let error = HostPort::parse(&format!("{wrong}:4433"), None).unwrap_err();
            assert!(error.contains("is no host name; expected labels of 1..=63 octets"), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_address_nobody_has_alone_is_refused() {
        for text in [
            "0.0.0.0",
            "0.0.0.0:99",
            "255.255.255.255",
            "224.0.0.1:99",
            "239.1.2.3",
            "::",
            "[::]",
            "[::]:99",
            "ff02::1",
            "[ff0e::1]:99",
            "::ffff:0.0.0.0",
            "[::ffff:224.0.0.1]:9",
        ] {
            let error = HostPort::parse(text, Some(8620)).unwrap_err();
            assert!(error.contains("is no address of one host; expected one that"), "{text}: {error}");
        }
        for text in ["127.0.0.1", "::1", "192.0.2.255:99", "[fe80::1%3]:99"] {
            assert!(HostPort::parse(text, Some(8620)).is_ok(), "{text}");
        }
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
