//! Proof that a client is reachable where it says it is, without keeping anything of it (RFC 9000, 8.1.2).

use std::net::IpAddr;
use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::key::{HmacKey, TAG_LEN};

/// Octets of a cookie: when it was given, and a tag.
pub const COOKIE_LEN: usize = 8 + TAG_LEN;
/// How long it is good for: some retransmissions of a join.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(10);

/// Given to a client in a retry, and shown when it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub [u8; COOKIE_LEN]);

impl Cookie {
    /// For who asked from `address`. Not for its port: a NAT may have another one to the room's shard.
    pub fn new(secret: &HmacKey, now: Monotonic, address: IpAddr) -> Self {
        let issued_at = now.0.to_be_bytes();
        let mut octets = [0; COOKIE_LEN];
        let (time, tag) = octets.split_at_mut(issued_at.len());
        time.copy_from_slice(&issued_at);
        tag.copy_from_slice(&secret.tag(&[&issued_at, &address_octets(address)]));
        Self(octets)
    }

    /// When it was given; `None` if it was not by who has `secret`, to another address, or too long ago.
    pub fn issued_at(&self, secret: &HmacKey, now: Monotonic, address: IpAddr) -> Option<Monotonic> {
        let (time, tag) = self.0.split_first_chunk::<8>()?;
        let issued_at = Monotonic(u64::from_be_bytes(*time));
        let is_ours = secret.verify(&[time, &address_octets(address)], tag.try_into().ok()?);
        (is_ours && now.since(issued_at) <= COOKIE_LIFETIME).then_some(issued_at)
    }
}

fn address_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_holds_for_its_address_and_ten_seconds_and_under_its_secret() {
        let (secret, other) = (HmacKey::new(&[1; 32]).unwrap(), HmacKey::new(&[2; 32]).unwrap());
        let (here, elsewhere) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (at, second) = (Monotonic(5_000_000_000), Duration::from_secs(1));
        let cookie = Cookie::new(&secret, at, here);
        assert_eq!(cookie.issued_at(&secret, at + 10 * second, here), Some(at));
        assert_eq!(cookie.issued_at(&secret, at + 11 * second, here), None);
        assert_eq!(cookie.issued_at(&secret, at, elsewhere), None);
        assert_eq!(cookie.issued_at(&other, at, here), None);
        let mut later = cookie;
        later.0[7] ^= 1;
        assert_eq!(later.issued_at(&secret, at, here), None, "its time is signed, too");
    }
}
