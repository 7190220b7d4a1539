//! How much one source may ask of a reflector.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::table::Table;
use crate::clock::Monotonic;

/// Most sources at once. Beyond it a source is not limited: who forges that many sources is not held by a
/// limit per source, and must not make others look dead.
const SOURCES_MAX: usize = 16_384;
/// What a source that was silent may ask at once: as much as it may in this time.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket per source: an IPv4 address or an IPv6 /64, which one host commands alone. What is
/// authenticated has a bucket apart, so that a forged source cannot use up what is due to the true one.
///
/// It is the generic cell rate algorithm (ITU-T I.371): all a bucket keeps is when it will be full again,
/// and a bucket that is full is none.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// What one packet takes of its source's time; zero where there is no limit.
    cost: Duration,
    full_at: Table<Source, Monotonic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    prefix: u64,
    is_ipv4: bool,
    authenticated: bool,
}

impl Source {
    fn new(address: SocketAddr, authenticated: bool) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self { prefix: ip.to_bits().into(), is_ipv4: true, authenticated },
            IpAddr::V6(ip) => Self { prefix: (ip.to_bits() >> 64) as u64, is_ipv4: false, authenticated },
        }
    }
}

impl RateLimit {
    /// So many packets per second and source; 0 is no limit.
    pub(super) fn new(per_second: u32) -> Self {
        let cost = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::ZERO);
        let sources_max = if cost.is_zero() { 0 } else { SOURCES_MAX };
        Self { cost, full_at: Table::new(sources_max) }
    }

    /// Whether the source may have one more answer now. O(1). Sources on this host are not limited: they
    /// cannot be forged from elsewhere, and a relay measures its own noise floor there.
    pub(super) fn admit(&mut self, now: Monotonic, source: SocketAddr, authenticated: bool) -> bool {
        if self.cost.is_zero() || source.ip().to_canonical().is_loopback() {
            return true;
        }
        let source = Source::new(source, authenticated);
        if let Some(full_at) = self.full_at.get_mut(&source) {
            let next = (*full_at).max(now) + self.cost;
            let admitted = next.since(now) <= BURST;
            if admitted {
                *full_at = next;
            }
            return admitted;
        }
        self.full_at.insert(source, now + self.cost, |full_at| *full_at <= now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn admitted(limit: &mut RateLimit, now_ms: u64, source: &str, packets: usize) -> usize {
        let source = source.parse().unwrap();
        (0..packets).filter(|_| limit.admit(Monotonic(now_ms * MS), source, false)).count()
    }

    #[test]
    fn a_source_has_one_seconds_worth_at_once_and_its_rate_ever_after() {
        let mut limit = RateLimit::new(100);
        assert_eq!(admitted(&mut limit, 0, "192.0.2.1:1", 1000), 100);
        assert_eq!(admitted(&mut limit, 10, "192.0.2.1:1", 1000), 1);
        assert_eq!(admitted(&mut limit, 510, "192.0.2.1:1", 1000), 50);
        assert_eq!(admitted(&mut limit, 9_000, "192.0.2.1:1", 1000), 100);
    }

    #[test]
    fn a_steady_source_at_its_rate_is_never_refused() {
        let mut limit = RateLimit::new(100);
        for i in 0..10_000 {
            assert_eq!(admitted(&mut limit, i * 10, "192.0.2.1:1", 1), 1, "packet {i}");
        }
    }

    #[test]
    fn an_ipv4_address_or_an_ipv6_64_is_one_source_whatever_its_port() {
        let mut limit = RateLimit::new(10);
        let mut spent = |source| admitted(&mut limit, 0, source, 100);
        assert_eq!((spent("192.0.2.1:1"), spent("192.0.2.1:2"), spent("192.0.2.2:1")), (10, 0, 10));
        assert_eq!((spent("[2001:db8::1]:1"), spent("[2001:db8::ffff:1]:9")), (10, 0));
        assert_eq!(spent("[2001:db8:0:1::1]:1"), 10);
        assert_eq!(spent("[::ffff:192.0.2.1]:1"), 0, "the IPv4 address in another dress");
    }

    #[test]
    fn what_is_authenticated_does_not_pay_for_what_is_not() {
        let mut limit = RateLimit::new(10);
        let source = "192.0.2.1:1".parse().unwrap();
        assert_eq!(admitted(&mut limit, 0, "192.0.2.1:1", 100), 10);
        let authenticated = (0..100).filter(|_| limit.admit(Monotonic(0), source, true)).count();
        assert_eq!(authenticated, 10);
    }

    #[test]
    fn this_host_is_not_limited_and_zero_is_no_limit() {
        let mut limit = RateLimit::new(10);
        for source in ["127.0.0.1:1", "127.64.3.2:1", "[::1]:1"] {
            assert_eq!(admitted(&mut limit, 0, source, 100), 100, "{source}");
        }
        assert_eq!(admitted(&mut RateLimit::new(0), 0, "192.0.2.1:1", 100_000), 100_000);
    }

    #[test]
    fn sources_beyond_the_table_are_answered_and_the_table_is_bounded() {
        let mut limit = RateLimit::new(1);
        for i in 0..2 * SOURCES_MAX as u64 {
            let source = SocketAddr::new(IpAddr::V4(u32::try_from(i).unwrap().into()), 9);
            assert!(limit.admit(Monotonic(0), source, false));
        }
        assert_eq!(limit.full_at.len(), SOURCES_MAX);
        assert_eq!(admitted(&mut limit, 0, "0.0.0.1:1", 1), 0, "who has a bucket keeps it");
        assert_eq!(admitted(&mut limit, 1_001, "192.0.2.1:1", 2), 1, "full buckets make room");
    }
}
